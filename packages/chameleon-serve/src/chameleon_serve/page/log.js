// How turns are shown.

import { byId, copyOf, make } from "./dom.js";
import { figureOf } from "./figure.js";

const log = byId("log");
let follows = true; // whether the end stays in view: until the reader scrolls away from it

let height = log.clientHeight;

log.addEventListener("scroll", () => {
  // Where the log has become smaller, it wasn't the reader who left the end.
  if (log.clientHeight === height) follows = log.scrollHeight - log.scrollTop - height < 80;
});
new ResizeObserver(() => {
  height = log.clientHeight;
  followEnd();
}).observe(log);

/** Show a turn below the others, and keep it up to date. `actions` are those of its pictures, and `again`. */
export function showTurn(turn, actions) {
  byId("welcome").hidden = true;
  const article = copyOf("turn-template");
  article.classList.add(turn.role === "assistant" ? "model" : "user");
  article.querySelector(".who").textContent = turn.who;
  const segments = article.querySelector(".segments");
  const again = article.querySelector(".again");
  again.addEventListener("click", () => actions.again(turn));
  const show = () => {
    article.setAttribute("aria-busy", String(turn.isWriting));
    turn.segments.forEach((segment, index) => {
      segments.children[index] ?? segments.append(shown(segment, actions));
      if (segment.type === "text") segments.children[index].textContent = segment.text.trim();
    });
    const waiting = turn.isWriting && !turn.segments.length;
    article.querySelector(".note").textContent = waiting ? "…" : turn.note;
    showTrouble(article, turn.trouble);
    again.hidden = turn.isWriting || !(turn.trouble || turn.note);
    followEnd();
  };
  turn.addEventListener("change", show);
  turn.element = article;
  log.append(article);
  follows = true;
  show();
}

/** Show other turns than before, with the end in view. */
export function showTurns(turns, actions) {
  for (const article of log.querySelectorAll(".turn")) article.remove();
  for (const turn of turns) showTurn(turn, actions);
  byId("welcome").hidden = turns.length > 0;
}

function followEnd() {
  if (follows) log.scrollTop = log.scrollHeight;
}

function shown(segment, actions) {
  if (segment.type === "text") return make("p");
  const figure = figureOf(segment.picture, actions);
  segment.picture.addEventListener("change", followEnd);
  return figure;
}

function showTrouble(article, text) {
  let place = article.querySelector(".trouble");
  if (!text) {
    place?.remove();
    return;
  }
  if (!place) {
    place = make("p", { className: "trouble" });
    place.setAttribute("role", "alert");
    article.querySelector(".segments").after(place);
  }
  place.textContent = text;
}
