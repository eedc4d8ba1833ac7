// The turns of a conversation: what the server is sent of them, and what is written into them.

import { Picture, follow } from "./picture.js";

const REASONS = {
  length: "It ended at the most ids.",
  timeout: "Its time was over.",
  cancelled: "Stopped.",
};

/**
 * One utterance: its segments are {type: "text", text} or {type: "image", picture}. `who` is what the reader is told of
 * who made it. It sends "change".
 */
export class Turn extends EventTarget {
  constructor(role, who, segments = []) {
    super();
    this.role = role;
    this.who = who;
    this.segments = segments;
    this.isWriting = false;
    this.note = "";
    this.trouble = "";
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  get text() {
    return this.segments.filter(({ type }) => type === "text").map(({ text }) => text).join(" ");
  }

  /** Return the parts of a document, without pictures that aren't complete unless they are asked for. */
  asParts(which) {
    return this.segments
      .map((segment) => (segment.type === "text" ? { type: "text", text: segment.text } : segment.picture.asPart(which)))
      .filter(Boolean);
  }

  /** Write an event of the server into the turn; `prompt` is what it answers. */
  write(event, prompt) {
    const last = this.segments.at(-1);
    if (event.event === "Started") {
      this.seed = event.seed;
    } else if (event.event === "TextDelta") {
      if (last?.type === "text") last.text += event.text;
      else this.segments.push({ type: "text", text: event.text });
    } else if (event.event === "ImageStarted") {
      const alt = prompt ? `Picture drawn for “${prompt}”` : "Picture drawn by the model";
      const picture = new Picture({ prompt, alt, isDrawn: true });
      const note = this.seed == null ? "" : `seed ${this.seed}`;
      follow(picture.add({ note }), event);
      this.segments.push({ type: "image", picture });
    } else if (event.event === "SegmentFinished") {
      this.segments.push({ type: "text", text: JSON.stringify(event.segment) });
    } else if (event.event === "Finished") {
      this.end(REASONS[event.reason] ?? "");
      return;
    } else if (last?.type === "image" && follow(last.picture.version, event)) {
      last.picture.changed();
      return;
    }
    this.changed();
  }

  /** Mark the turn as ended, and a picture that isn't complete as stopped. */
  end(note = "") {
    this.isWriting = false;
    this.note = note;
    for (const { picture } of this.segments) {
      if (picture?.version?.state === "drawing") {
        picture.version.state = "stopped";
        picture.changed();
      }
    }
    this.changed();
  }
}

/** Return what a request has of the turns: the last one, all of them, or all as one message or unfinished document. */
export function asRequest(turns, context) {
  if (context === "document") return { prompt: asDocument(turns) };
  if (context === "completion") return { prompt: asDocument(turns), template: "completion" };
  const seen = context === "conversation" ? turns : turns.slice(-1);
  const messages = seen.map((turn) => ({ role: turn.role, content: turn.asParts() }));
  return { messages: messages.filter(({ content }) => content.length) };
}

/** Return the turns as one document; document.json also has the pictures that were cut off. */
export function asDocument(turns, which) {
  return turns.flatMap((turn) => turn.asParts(which));
}

/** Return the turns as Markdown, with the pictures in it. */
export function asMarkdown(turns) {
  let number = 0;
  const shown = (segment) => {
    if (segment.type === "text") return segment.text;
    const { src } = segment.picture.version ?? {};
    number += 1;
    return src ? `![${segment.picture.alt.replace(/[[\]\n]/g, " ")}](${src})` : `[picture ${number}, not drawn]`;
  };
  const blocks = turns.map((turn) => [`**${turn.who}**`, ...turn.segments.map(shown)].join("\n\n"));
  return `${blocks.join("\n\n")}\n`;
}
