// The message that is being written: its text, and its pictures from files, the clipboard or a drag.

import { Trouble, readPicture } from "./api.js";
import { isDocument } from "./documents.js";
import { byId, make } from "./dom.js";
import { Picture } from "./picture.js";

const list = byId("attachments");
const prompt = byId("prompt");
let attached = [];
let limits = {};
let onTrouble = () => {};
let onAttach = () => {};
let onDocument = () => {};

/**
 * Connect the fields. `onSend` sends the message, `onAttach` is told of a new picture, `onDocument` of a document's
 * file, `onTrouble` of an error.
 */
export function setUpComposer({ onSend, onStop, onAttach: hear, onDocument: open, onTrouble: tell }) {
  onTrouble = tell;
  onAttach = hear;
  onDocument = open;
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!byId("send").hidden) onSend();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("composer").requestSubmit();
  });
  byId("stop").addEventListener("click", onStop);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("stop").hidden) onStop();
  });
  byId("add-picture").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", (event) => {
    addFiles([...event.target.files]);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) {
      event.preventDefault();
      addFiles(files);
    }
  });
  setUpDrop();
}

export function setLimits(given) {
  limits = given ?? {};
}

/** Take the message out of the fields: segments, or null where it is empty or a picture is still being read. */
export function takeMessage() {
  const text = prompt.value.trim();
  if (!text && !attached.length) return null;
  if (attached.some((picture) => picture.version.state === "reading")) {
    onTrouble(new Trouble("A picture is still being read. Send the message once it is.", -1));
    return null;
  }
  const segments = attached.map((picture) => ({ type: "image", picture }));
  if (text) segments.push({ type: "text", text });
  prompt.value = "";
  attached = [];
  showAttached();
  return segments;
}

/** Put a picture that the conversation has into the message. */
export function attach(picture) {
  attached.push(picture);
  picture.addEventListener("change", showAttached);
  showAttached();
  onAttach();
}

export function writePrompt(text) {
  prompt.value = text;
  prompt.focus();
}

function setUpDrop() {
  const drop = byId("drop");
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    drop.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    drop.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    addFiles([...event.dataTransfer.files]);
  });
}

function addFiles(files) {
  const document = files.find(isDocument);
  if (document && files.length > 1) {
    onTrouble(new Trouble("Open one document at a time, without other files.", -1));
    return;
  }
  if (document) {
    onDocument(document);
    return;
  }
  for (const file of files) {
    const why = refusal(file);
    if (why) onTrouble(new Trouble(why, -1));
    else addFile(file);
  }
  prompt.focus();
}

function refusal(file) {
  const name = file.name || "The picture";
  if (!file.type.startsWith("image/")) return `“${name}” is no picture.`;
  const size = Math.ceil((file.size * 4) / 3) + 1000; // as a data URL, in JSON
  if (size > (limits.body_bytes ?? Infinity)) {
    return `“${name}” is too large: ${megabytes(size)} MB as it is sent; the server takes ${megabytes(limits.body_bytes)} MB.`;
  }
  if (attached.length >= (limits.pictures ?? Infinity)) return `The server takes ${limits.pictures} pictures at once.`;
  return null;
}

async function addFile(file) {
  const name = file.name || "pasted picture";
  const picture = new Picture({ prompt: "", alt: `Picture ${name}`, isDrawn: false });
  const version = picture.add({ state: "reading", note: name });
  attach(picture);
  try {
    version.src = await dataUrl(file);
    picture.changed();
    const { codes, ids, grid, url } = await readPicture({ type: "image", url: version.src });
    Object.assign(version, { codes, ids, grid, drawn: url, done: codes.length, total: codes.length, state: "done" });
    picture.changed();
  } catch (error) {
    attached = attached.filter((each) => each !== picture);
    showAttached();
    onTrouble(new Trouble(`“${name}” can’t be used. ${error.message}`, error.status ?? -1));
  }
}

function showAttached() {
  list.replaceChildren(
    ...attached.map((picture) => {
      const { src, note, state } = picture.version;
      const image = make("img", { alt: picture.alt, ...(src ? { src } : {}) });
      const remove = make("button", { type: "button", textContent: "×" });
      remove.setAttribute("aria-label", `Remove ${note || picture.alt}`);
      remove.addEventListener("click", () => {
        attached = attached.filter((each) => each !== picture);
        showAttached();
        prompt.focus();
      });
      const item = make("li", {}, image, remove);
      item.setAttribute("aria-busy", String(state === "reading"));
      return item;
    }),
  );
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file can’t be read."));
    reader.readAsDataURL(file);
  });
}

const megabytes = (bytes) => (bytes / 2 ** 20).toFixed(1);
