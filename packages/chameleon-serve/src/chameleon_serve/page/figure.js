// How a picture is shown in the conversation.

import { copyOf, make } from "./dom.js";
import { showIn } from "./picture.js";

/** Return the figure of a picture; `actions` are called with it: codes, variations, ask; canDraw says whether the model draws. */
export function figureOf(picture, actions) {
  const figure = copyOf("picture-template");
  const find = (selector) => figure.querySelector(selector);
  find(".show-codes").addEventListener("click", () => actions.codes(picture));
  find(".variations").addEventListener("click", () => actions.variations(picture));
  find(".ask").addEventListener("click", () => actions.ask(picture));
  const show = () => {
    const version = picture.version;
    if (!version) {
      figure.hidden = true;
      return;
    }
    figure.hidden = false;
    const isDrawing = version.state === "drawing";
    figure.classList.toggle("drawing", isDrawing);
    figure.setAttribute("aria-busy", String(isDrawing));
    showIn(find("img"), version);
    find("img").alt = isDrawing ? `${picture.alt}, still being drawn` : picture.alt;
    find("progress").value = version.total ? version.done / version.total : 0;
    find("figcaption").textContent = caption(version);
    const isReady = version.state === "done" && version.codes.length > 0;
    for (const button of figure.querySelectorAll(".picture-actions button")) button.disabled = !isReady;
    find(".variations").hidden = !actions.canDraw();
    find(".save").hidden = !version.src;
    if (version.src) find(".save").href = version.src;
    showVersions(find(".versions"), picture);
  };
  picture.addEventListener("change", show);
  show();
  return figure;
}

function caption(version) {
  if (version.state === "drawing") return version.total ? `${version.done} of ${version.total} codes` : "Waiting…";
  if (version.state === "reading") return "Reading its codes…";
  if (version.state === "stopped") return `Stopped after ${version.done} of ${version.total} codes`;
  const codes = version.codes.length ? `${version.codes.length} codes` : "";
  return [version.note, codes].filter(Boolean).join(" · ");
}

function showVersions(list, picture) {
  list.hidden = picture.versions.length < 2;
  while (list.children.length > picture.versions.length) list.lastChild.remove();
  picture.versions.forEach((version, index) => {
    list.children[index] ?? list.append(thumbnail(picture, index));
    const button = list.children[index].firstChild;
    button.setAttribute("aria-pressed", String(index === picture.chosen));
    button.setAttribute("aria-label", `Version ${index + 1}: ${version.note || "as first drawn"}`);
    showIn(button.firstChild, version);
  });
}

function thumbnail(picture, index) {
  const button = make("button", { type: "button", onclick: () => picture.choose(index) }, make("img", { alt: "" }));
  return make("li", {}, button);
}
