// What the page asks the server for, and how it says that something failed.

import { events } from "./sse.js";

const KEY = "chameleon-key";
let askForKey = async () => null;

/** An answer that wasn't a success, in words for the reader. */
export class Trouble extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/**
 * Set what asks the reader for the API key. It gets whether the last key was refused, and resolves to the key, or to
 * null where the reader cancels.
 */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Return what the server says of its model. */
export async function readModel() {
  const list = await (await request("/v1/models")).json();
  return list.data[0];
}

/** Return the codes of a document's part that is a picture, and what the image tokenizer draws of them. */
export async function readPicture(part, signal) {
  return (await request("/v1/pictures/tokens", { body: { picture: part }, signal })).json();
}

/** Yield the events of a document that is being written, or of a picture that is being drawn anew. */
export async function* stream(path, body, signal) {
  const response = await request(path, { body: { ...body, stream: true }, signal });
  let finished = false;
  try {
    for await (const { event, data } of events(response)) {
      if (event === "Error") throw new Trouble((data.error ?? data).message);
      finished ||= event === "Done";
      yield { event, ...data };
    }
  } catch (error) {
    if (error instanceof Trouble || error.name === "AbortError") throw error;
    throw new Trouble(`The connection broke while the answer was written (${error.message}).`);
  }
  if (!finished) throw new Trouble("The server ended the answer before it was complete.");
}

async function request(path, { body, signal } = {}) {
  for (;;) {
    const response = await sent(path, body, signal);
    if (response.ok) return response;
    if (response.status === 401) {
      const key = await askForKey(sessionStorage.getItem(KEY) !== null);
      if (key) {
        sessionStorage.setItem(KEY, key);
        continue;
      }
    }
    throw await troubleOf(response);
  }
}

/** Fetch a path below the page's own, which a proxy may have put below a prefix. */
async function sent(path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  if (body) headers["Content-Type"] = "application/json";
  try {
    return await fetch(`.${path}`, { ...options, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server doesn’t answer. Check that it is running, then try again.");
  }
}

async function troubleOf(response) {
  const error = await response.json().then((body) => body.error, () => null);
  const said = error?.message ?? `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  const wait = response.headers.get("Retry-After");
  if (response.status === 401) return new Trouble(`${said} Reload the page to give a key.`, 401);
  if (response.status === 413) return new Trouble(`That is too large for the server. ${said}`, 413);
  if (response.status === 429 || response.status === 503) {
    const when = wait ? ` Try again in ${wait} s.` : " Try again later.";
    return new Trouble(`The server is busy. ${said}${when}`, response.status);
  }
  return new Trouble(said, response.status);
}
