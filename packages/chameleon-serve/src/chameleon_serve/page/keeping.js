// The conversation of a tab, kept in the tab's own storage over a reload, and gone when it is closed.

import { Turn } from "./conversation.js";
import { readPicture } from "./api.js";
import { Picture } from "./picture.js";

const KEY = "chameleon-conversation";
const FORM = 1; // of what is kept: another one isn't read
const MOST_CHARACTERS = 4_000_000; // browsers hold about five million for a page

// What is left out, one after the other, until it fits: pictures that the server can draw again, then all of them.
const LEAVING_OUT = [
  () => false,
  (version, picture) => isWhole(version) && (picture.isDrawn || version.src === version.drawn),
  () => true,
];

/** Keep the turns, with the name of the model and what it sees of them; no turns are kept as nothing. */
export function keep({ model, context, turns }) {
  try {
    const text = fitting({ form: FORM, model, context }, turns);
    if (text) sessionStorage.setItem(KEY, text);
    else sessionStorage.removeItem(KEY);
  } catch {
    forget(); // there is no room: better nothing than an older one
  }
}

/** Return {turns, context} as they were kept for a model, or null. Pictures without pixels are drawn by the server. */
export function kept(model) {
  try {
    const found = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    if (found?.form !== FORM || found.model !== model) return null;
    return { context: found.context, turns: found.turns.map(turnOf) };
  } catch {
    forget();
    return null;
  }
}

function forget() {
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // The browser keeps nothing for this page.
  }
}

function fitting(head, turns) {
  for (const isLeftOut of LEAVING_OUT) {
    const text = JSON.stringify({ ...head, turns: turns.map((turn) => plainTurn(turn, isLeftOut)) });
    if (text.length <= MOST_CHARACTERS) return turns.length ? text : "";
  }
  // The oldest go, with the answers to them.
  const next = turns.findIndex((turn, index) => index > 0 && turn.role !== "assistant");
  return next < 0 ? "" : fitting(head, turns.slice(next));
}

function plainTurn({ role, who, note, trouble, isWriting, segments }, isLeftOut) {
  const plain = ({ type, text, picture }) => (type === "text" ? { type, text } : { type, ...plainPicture(picture, isLeftOut) });
  return { role, who, note: isWriting ? "Stopped." : note, trouble, segments: segments.map(plain) };
}

function plainPicture(picture, isLeftOut) {
  const { prompt, alt, isDrawn, chosen } = picture;
  const versions = picture.versions.map((version) => {
    const { src, drawn, under, ...rest } = version;
    return isLeftOut(version, picture) ? rest : { ...rest, src, ...(drawn === src ? {} : { drawn }) };
  });
  return { prompt, alt, isDrawn, chosen, versions };
}

function turnOf({ role, who, note, trouble, segments }) {
  const shown = segments.map((segment) => (segment.type === "text" ? segment : { type: "image", picture: pictureOf(segment) }));
  return Object.assign(new Turn(role, who, shown), { note, trouble });
}

function pictureOf({ prompt, alt, isDrawn, chosen, versions }) {
  const picture = new Picture({ prompt, alt, isDrawn });
  for (const [index, version] of versions.entries()) {
    if (version.state !== "done") version.state = "stopped";
    if (!version.src && !isWhole(version)) continue; // nothing of it was drawn yet
    const added = picture.add(version, { choose: index === chosen });
    if (!added.src) drawAgain(picture, added);
  }
  return picture;
}

async function drawAgain(picture, version) {
  const { codes, grid } = version;
  version.state = "reading";
  try {
    const { url } = await readPicture({ type: "image", codes, grid });
    Object.assign(version, { src: url, drawn: url });
  } catch {
    version.note = "It can’t be drawn again.";
  }
  version.state = "done";
  picture.changed();
}

const isWhole = ({ state, codes }) => state === "done" && codes.length > 0;
