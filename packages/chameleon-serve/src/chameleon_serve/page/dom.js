// Small helpers for the document.

export const byId = (id) => document.getElementById(id);

/** Return a copy of the element in a template. */
export function copyOf(template) {
  return byId(template).content.firstElementChild.cloneNode(true);
}

/** Return a new element with properties and children. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Say something to readers of the screen, without moving anything on it. */
export function say(text) {
  byId("progress").textContent = text;
}

/** Let the browser save data as a file. */
export function saveAs(name, data, type) {
  const url = URL.createObjectURL(new Blob([data], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
