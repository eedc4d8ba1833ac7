// Documents from files: a document.json, or the messages of a conversation, as turns.

import { Trouble, readPicture } from "./api.js";
import { Turn } from "./conversation.js";
import { Picture } from "./picture.js";

const MOST_BYTES = 32 * 2 ** 20;
const MOST_PARTS = 2000;
const MOST_PICTURES = 200; // each is drawn by the server
const FIELDS = { text: ["type", "text"], message: ["role", "content"] };
const ROLES = { user: "user", assistant: "assistant", system: "system", developer: "system" };

/** Return whether a file is meant to be a document. */
export function isDocument(file) {
  return file.type === "application/json" || /\.json$/i.test(file.name);
}

/**
 * Return the turns of a file: one for a document, one for each message of a conversation. The server draws their
 * pictures; `onProgress` is told which. It throws a Trouble that says what is wrong, and which part it is in.
 */
export async function readDocument(file, { modelName, signal, onProgress }) {
  try {
    const turns = turnsOf(parsed(await textOf(file)), file.name, modelName);
    const pictures = turns.flatMap(({ segments }) => segments).filter(({ picture }) => picture);
    if (pictures.length > MOST_PICTURES) throw new Trouble(`It has ${pictures.length} pictures, more than ${MOST_PICTURES}.`);
    for (const [index, { picture, part, where }] of pictures.entries()) {
      onProgress(`Opening “${file.name}”: picture ${index + 1} of ${pictures.length}…`);
      await draw(picture, part, where, signal);
    }
    return turns;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble(`“${file.name}” can’t be opened. ${error.message}`, error.status ?? -1);
  }
}

async function textOf(file) {
  if (file.size > MOST_BYTES) throw new Trouble(`It is larger than ${MOST_BYTES / 2 ** 20} MB.`);
  const bytes = await file.arrayBuffer().catch(() => {
    throw new Trouble("The file can’t be read.");
  });
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Trouble("It is no text in UTF-8.");
  }
}

function parsed(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Trouble(`It is no JSON (${error.message}).`);
  }
  if (!Array.isArray(value)) throw new Trouble("A document is a JSON array of parts, as “Save document.json” writes it.");
  if (!value.length) throw new Trouble("It has no parts.");
  if (value.length > MOST_PARTS) throw new Trouble(`It has ${value.length} parts, more than ${MOST_PARTS}.`);
  return value;
}

function turnsOf(value, fileName, modelName) {
  const isConversation = value.every((each) => isObject(each) && "role" in each);
  if (!isConversation) return [new Turn("user", fileName, segmentsOf(value, "Part", { isDrawn: false }))];
  const names = { user: "You", assistant: modelName, system: "System" };
  return value.map((message, index) => {
    const where = `Message ${index + 1}`;
    const role = Object.hasOwn(ROLES, message.role) ? ROLES[message.role] : null;
    if (!role) throw new Trouble(`${where} has the role ${quoted(message.role)}; expected user, assistant or system.`);
    refuseOthers(message, FIELDS.message, where);
    const content = typeof message.content === "string" ? [{ type: "text", text: message.content }] : message.content;
    if (!Array.isArray(content)) throw new Trouble(`The content of message ${index + 1} must be a text or an array of parts.`);
    return new Turn(role, names[role], segmentsOf(content, `${where}, part`, { isDrawn: role === "assistant" }));
  });
}

function segmentsOf(parts, name, { isDrawn }) {
  let before = ""; // the text before a picture, which it likely answers
  return parts.map((part, index) => {
    const where = `${name} ${index + 1}`;
    if (!isObject(part)) throw new Trouble(`${where} is no object with a type.`);
    if (part.type === "text") {
      if (typeof part.text !== "string" || !part.text.isWellFormed()) throw new Trouble(`${where} must have a text.`);
      refuseOthers(part, FIELDS.text, where);
      before = part.text.trim() || before;
      return { type: "text", text: part.text };
    }
    if (part.type !== "image" && part.type !== "image_url") {
      throw new Trouble(`${where} has the type ${quoted(part.type)}; this page shows texts and pictures.`);
    }
    const alt = before ? `Picture after “${before}”` : `Picture of ${where.toLowerCase()}`;
    return { type: "image", picture: new Picture({ prompt: before, alt, isDrawn }), part, where };
  });
}

/** Let the server draw a picture, or read its codes. */
async function draw(picture, part, where, signal) {
  const given = part.codes == null ? (part.url ?? part.image_url?.url ?? part.image_url ?? part.image) : null;
  let found;
  try {
    found = await readPicture(part, signal);
  } catch (error) {
    if (error instanceof Trouble) throw new Trouble(`${where}: ${error.message}`, error.status);
    throw error;
  }
  const { codes, ids, grid, url, num_codes: total } = found;
  const src = typeof given === "string" && given.startsWith("data:image/") ? given : url;
  const state = codes.length < total ? "stopped" : "done";
  picture.add({ src, drawn: url, codes, ids, grid, done: codes.length, total, state });
}

function refuseOthers(object, known, where) {
  const other = Object.keys(object).find((name) => !known.includes(name) && object[name] !== null);
  if (other !== undefined) throw new Trouble(`${where} has the field ${quoted(other)}, which isn’t known.`);
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function quoted(value) {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "none");
  return `“${text.length > 60 ? `${text.slice(0, 60)}…` : text}”`;
}
