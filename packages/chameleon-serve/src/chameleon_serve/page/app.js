// The page: it connects the message, the conversation, the options and the codes of pictures with the server.

import { onKeyNeeded, readModel, stream } from "./api.js";
import { attach, setLimits, setUpComposer, takeMessage, writePrompt } from "./composer.js";
import { Turn, asDocument, asMarkdown, asRequest } from "./conversation.js";
import { readDocument } from "./documents.js";
import { byId, make, saveAs, say } from "./dom.js";
import { keep, kept } from "./keeping.js";
import { askForKey } from "./key.js";
import { showTurn, showTurns } from "./log.js";
import { requested, setUpOptions } from "./options.js";
import { setUpPanel } from "./panel.js";
import { hideTokens, setDrawing, setUpRedraw, showTokens } from "./redraw.js";
import { setUpTheme } from "./theme.js";

const EXAMPLES = {
  emoji: ["a red apple", "a twemoji drawing of a whale", "draw a fox in noto style", "a rainbow"],
  others: ["Draw a lighthouse at night.", "Draw a bowl of fruit on a table."],
};
const LONG_CONTEXT = 2048; // ids; in less, a conversation with pictures is soon too long
const RETRY = 3000; // milliseconds until a server that is gone is asked again

let model = null;
let turns = [];
let running = null; // what aborts the job that runs
let usual = null; // what is answered with, where a message has no picture
let earlier = null; // the turns that were put away, until the next message

const actions = {
  codes: (picture) => showTokens(picture),
  variations: (picture) => showTokens(picture, { variations: true }),
  ask: (picture) => {
    attach(picture);
    writePrompt("what is this?");
  },
  again: (turn) => answerAgain(turn),
  canDraw: () => Boolean(model?.draws_pictures),
};

setUpTheme();
setUpPanel();
setUpRedraw(run);
onKeyNeeded(askForKey);
setUpComposer({
  onSend: send,
  onStop: () => running?.abort(),
  onAttach: askForText,
  onDocument: openDocument,
  onTrouble: showTrouble,
});
byId("new-chat").addEventListener("click", startAnew);
byId("bring-back").addEventListener("click", () => {
  replaceTurns(earlier);
  byId("prompt").focus();
});
byId("import").addEventListener("click", () => byId("document-file").click());
byId("document-file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) openDocument(file);
  event.target.value = "";
});
addEventListener("pagehide", keepTurns);
document.addEventListener("visibilitychange", () => document.hidden && keepTurns());
byId("export-json").addEventListener("click", () => {
  saveAs("document.json", `${JSON.stringify(asDocument(turns, { cutOff: true }))}\n`, "application/json");
});
byId("export-markdown").addEventListener("click", () => {
  saveAs("document.md", asMarkdown(turns), "text/markdown");
});
connect();

/** Ask the server for its model, until it answers. */
async function connect() {
  try {
    const { id, chameleon } = await readModel();
    model = { id, ...chameleon };
  } catch (error) {
    showTrouble(error);
    if (error.status === 0) setTimeout(connect, RETRY);
    return;
  }
  showTrouble(null);
  showModel();
}

function showModel() {
  const [size] = model.sizes ?? [];
  const more = model.sizes?.length > 1 ? ", and other sizes" : "";
  const pixels = size ? `${size.pixels[1]}×${size.pixels[0]} pixels, ${size.grid[1]}×${size.grid[0]} codes` : "";
  byId("model-name").textContent = model.id;
  byId("model-facts").textContent = size ? pixels + more : "text alone";
  document.title = `${model.id} · Chameleon`;
  for (const option of byId("modality").options) option.disabled = !model.modalities.includes(option.value);
  byId("modality").value = model.draws_pictures ? "image" : "text";
  byId("context").querySelector("[value=completion]").disabled = !model.templates.includes("completion");
  byId("context").value = model.context_length >= LONG_CONTEXT ? "conversation" : "message";
  byId("add-picture").disabled = !model.reads_pictures;
  setLimits(model.limits);
  setUpOptions(model);
  setDrawing({ draws: model.draws_pictures });
  showExamples();
  bringBackKept();
}

/** Show the conversation that this tab had with this model before it was loaded anew. */
function bringBackKept() {
  const found = kept(model.id);
  if (!found || turns.length) return;
  ({ turns } = found);
  const option = [...byId("context").options].find(({ value }) => value === found.context);
  if (option && !option.disabled) byId("context").value = option.value;
  showTurns(turns, actions);
  showExports();
}

/** Keep the conversation until the tab is closed, as far as there is room. */
function keepTurns() {
  if (model) keep({ model: model.id, context: byId("context").value, turns });
}

/** Open the document of a file as the conversation. */
async function openDocument(file) {
  if (running || !model) {
    showTrouble(new Error(`“${file.name}” can’t be opened while ${running ? "an answer is written" : "there is no model"}.`));
    return;
  }
  let opened = null;
  const error = await run(async (signal) => {
    opened = await readDocument(file, { modelName: model.id, signal, onProgress: showNotice });
  });
  showNotice("");
  if (error) return;
  replaceTurns(opened);
  // The model is to see what was opened, not the next message alone.
  if (byId("context").value === "message") byId("context").value = "document";
  showNotice(`“${file.name}” is open. The model sees ${byId("context").selectedOptions[0].textContent.trim()}.`);
  keepTurns();
  byId("prompt").focus();
}

/** Show other turns in place of those of now, which can be brought back until the next message. */
function replaceTurns(others) {
  [turns, earlier] = [others, turns.length ? turns : null];
  showTurns(turns, actions);
  hideTokens();
  showTrouble(null);
  showNotice("");
  showExports();
  keepTurns();
}

function showExamples() {
  const examples = model.draws_pictures ? (EXAMPLES[model.id] ?? EXAMPLES.others) : [];
  const button = (text) =>
    make("button", {
      type: "button",
      textContent: text,
      onclick: () => {
        byId("modality").value = "image";
        writePrompt(text);
        send();
      },
    });
  byId("examples").replaceChildren(...examples.map((text) => make("li", {}, button(text))));
}

/** Send the message that is written, and write the answer below it. */
async function send() {
  if (running || !model) return;
  const segments = takeMessage();
  if (!segments) return;
  const turn = new Turn("user", "You", segments);
  earlier = null;
  showNotice("");
  turns.push(turn);
  showTurn(turn, actions);
  await answer();
}

/** Have a message with a picture answered in text, unless the reader chooses otherwise. */
function askForText() {
  usual ??= byId("modality").value;
  byId("modality").value = "text";
}

async function answerAgain(turn) {
  if (running) return;
  const index = turns.indexOf(turn);
  if (index !== turns.length - 1) {
    turns.push(turns[index - 1]);
    showTurn(turns.at(-1), actions);
  } else {
    turns.pop();
    turn.element.remove();
  }
  await answer();
}

async function answer() {
  const asked = turns.at(-1);
  const turn = new Turn("assistant", model.id);
  turn.isWriting = true;
  const context = byId("context").value;
  const modality = byId("modality").value;
  const seen = asRequest(turns, context);
  byId("modality").value = usual ?? modality;
  usual = null;
  turns.push(turn);
  showTurn(turn, actions);
  const error = await run(async (signal) => {
    const body = { ...seen, modality, ...requested() };
    for await (const event of stream("/v1/documents", body, signal)) turn.write(event, asked.text);
  }, { isShown: false });
  turn.trouble = error && error.name !== "AbortError" ? error.message : "";
  turn.end(error?.name === "AbortError" ? "Stopped." : turn.note);
  say(turn.trouble || turn.note || "The answer is complete.");
  showExports();
  keepTurns();
}

/** Run a job that can be stopped, one at a time. Return its error, or null; errors are shown unless asked not to. */
async function run(job, { isShown = true } = {}) {
  if (running) return null;
  running = new AbortController();
  showTrouble(null);
  showRunning();
  try {
    await job(running.signal);
    return null;
  } catch (error) {
    if (isShown && error.name !== "AbortError") showTrouble(error);
    return error;
  } finally {
    running = null;
    showRunning();
  }
}

function showRunning() {
  const isRunning = Boolean(running);
  const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  if (hadFocus) byId(isRunning ? "stop" : "send").focus();
  setDrawing({ running: isRunning });
  showExports();
}

function showExports() {
  const isReady = !running && turns.some((turn) => turn.segments.length);
  byId("export-json").disabled = !isReady;
  byId("export-markdown").disabled = !isReady;
}

function showTrouble(error) {
  byId("trouble").textContent = error ? error.message : "";
  byId("trouble").hidden = !error;
}

/** Say something above the message, and offer the earlier conversation where there is one. */
function showNotice(text) {
  byId("notice-text").textContent = text;
  byId("bring-back").hidden = !earlier;
  byId("notice").hidden = !text && !earlier;
}

function startAnew() {
  running?.abort();
  replaceTurns([]);
  showNotice(earlier ? "The earlier conversation is put away until you send a message." : "");
  byId("prompt").focus();
}
