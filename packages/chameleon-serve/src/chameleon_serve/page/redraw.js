// The tab of codes: a picture, what of it is drawn anew, and its variations.

import { stream } from "./api.js";
import { select, selection, setUpBoard, showBoard } from "./board.js";
import { byId, say } from "./dom.js";
import { requested } from "./options.js";
import { openPanel } from "./panel.js";
import { follow } from "./picture.js";

const VARIATIONS = 4;
let picture = null;
let canDraw = false;
let isRunning = false;
let run = async () => {};

/** Connect the tab. `runJob` runs what can be stopped: it gives a signal to a function, and shows its errors. */
export function setUpRedraw(runJob) {
  run = runJob;
  setUpBoard(showButtons);
  byId("redraw").addEventListener("click", redraw);
  byId("vary").addEventListener("click", vary);
  byId("strength").addEventListener("input", () => {
    byId("strength-shown").textContent = `${byId("strength").value} %`;
  });
}

export function setDrawing({ draws, running }) {
  canDraw = draws ?? canDraw;
  isRunning = running ?? isRunning;
  showButtons();
}

/** Show a picture's codes, with the focus on the grid or on the variations. */
export function showTokens(next, { variations = false } = {}) {
  if (picture !== next) {
    picture?.removeEventListener("change", show);
    picture = next;
    picture.addEventListener("change", show);
    byId("redraw-prompt").value = picture.prompt;
    select([]);
  }
  byId("tokens-empty").hidden = true;
  byId("tokens-picture").hidden = false;
  openPanel("tokens");
  show();
  if (variations) byId("vary").focus();
}

/** Show no picture. */
export function hideTokens() {
  picture?.removeEventListener("change", show);
  picture = null;
  byId("tokens-empty").hidden = false;
  byId("tokens-picture").hidden = true;
}

function show() {
  const { version } = picture;
  if (!version) return;
  showBoard(version, picture.alt);
  if (version.state !== "drawing") {
    byId("code-list").value = JSON.stringify({ grid: version.grid, codes: version.codes, ids: version.ids });
  }
  showButtons();
}

function showButtons() {
  const isReady = canDraw && !isRunning && picture?.version?.state === "done";
  const count = selection().length;
  byId("redraw").disabled = !isReady || !count;
  byId("redraw").textContent = count ? `Draw the selection anew (${count})` : "Draw the selection anew";
  byId("vary").disabled = !isReady;
}

function redraw() {
  const cells = selection();
  const note = `${cells.length} code${cells.length > 1 ? "s" : ""} drawn anew`;
  return edit({ cells }, 1, () => note);
}

function vary() {
  const strength = Number(byId("strength").value) / 100;
  return edit({ strength }, VARIATIONS, (row) => `variation ${row + 1}, ${Math.round(100 * strength)} %`);
}

/** Draw versions of the picture: `how` says which codes are drawn, `n` how many rows. */
async function edit(how, n, noteOf) {
  const edited = picture;
  const base = edited.version;
  const prompt = byId("redraw-prompt").value.trim();
  const start = { under: base.drawn ?? base.src, grid: base.grid, total: base.codes.length };
  let versions = [];
  await run(async (signal) => {
    const { options, ...rest } = requested({ forPicture: true });
    const body = { picture: { type: "image", codes: base.codes, grid: base.grid }, prompt, ...how, n, options, ...rest };
    versions = Array.from({ length: n }, (_, row) => edited.add({ ...start, note: noteOf(row) }, { choose: row === 0 }));
    for await (const event of stream("/v1/pictures/edits", body, signal)) {
      const version = versions[event.row];
      if (version && follow(version, event)) edited.changed();
      if (event.event === "ImageFinished") say(`${version.note}: done.`);
    }
  });
  for (const version of versions) {
    if (version.state === "drawing") edited.drop(version);
  }
  if (edited.versions.length && edited.version !== base && !versions.includes(edited.version)) {
    edited.choose(edited.versions.indexOf(base));
  }
}
