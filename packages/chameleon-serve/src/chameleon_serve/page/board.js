// The codes of a picture as a grid above it: each can be read, and selected to be drawn anew.

import { byId, make } from "./dom.js";
import { showIn } from "./picture.js";

const LARGEST_WITH_CODES = 16; // columns in which a number of four digits can be read
const cells = byId("board-cells");
const image = byId("board-picture");

let version = null;
let written = null; // the codes that the cells show
let size = [0, 0];
let selected = new Set();
let current = 0;
let painting = null; // whether a drag selects, or takes away
let reached = 0; // the cell that the drag is at
let onSelect = () => {};

/** Connect the grid; `changed` is called when the selection is another one. */
export function setUpBoard(changed) {
  onSelect = changed;
  cells.addEventListener("pointerdown", startPainting);
  cells.addEventListener("pointermove", paint);
  addEventListener("pointerup", () => (painting = null));
  cells.addEventListener("pointerover", (event) => read(indexOf(event.target)));
  cells.addEventListener("pointerleave", () => read(cells.contains(document.activeElement) ? current : -1));
  cells.addEventListener("focusin", (event) => moveTo(indexOf(event.target)));
  cells.addEventListener("keydown", onKey);
  image.addEventListener("load", () => read(current));
  byId("select-all").addEventListener("click", () => select(all()));
  byId("select-none").addEventListener("click", () => select([]));
  byId("show-codes").addEventListener("change", showCodes);
}

/** Show a version of a picture; what is selected stays selected where the grid is the same. */
export function showBoard(next, alt) {
  version = next;
  showIn(image, version, { reconstructed: true });
  image.alt = alt;
  const [height, width] = version.grid ?? [0, 0];
  if (size[0] !== height || size[1] !== width) build(height, width);
  if (written === version.codes) return;
  written = version.codes;
  for (const cell of cells.querySelectorAll(".cell")) {
    const code = written[indexOf(cell)];
    cell.textContent = code ?? "";
    cell.setAttribute("aria-label", label(indexOf(cell)));
  }
  read(current);
}

export function selection() {
  return [...selected].sort((left, right) => left - right);
}

export function select(indices) {
  selected = new Set(indices);
  showSelection();
}

function build(height, width) {
  size = [height, width];
  written = null;
  selected = new Set();
  current = 0;
  cells.style.gridTemplate = `repeat(${height}, minmax(0, 1fr)) / repeat(${width}, minmax(0, 1fr))`;
  const cell = (index) => {
    const made = make("div", { className: "cell", tabIndex: index ? -1 : 0 });
    made.dataset.index = index;
    made.setAttribute("role", "gridcell");
    return made;
  };
  const row = (start) => {
    const made = make("div", {}, ...Array.from({ length: width }, (_, column) => cell(start + column)));
    made.setAttribute("role", "row");
    return made;
  };
  cells.replaceChildren(...Array.from({ length: height }, (_, number) => row(number * width)));
  byId("show-codes").disabled = width > LARGEST_WITH_CODES;
  cells.classList.toggle("dense", width > LARGEST_WITH_CODES);
  showCodes();
  showSelection();
}

function label(index) {
  const [row, column] = [Math.floor(index / size[1]) + 1, (index % size[1]) + 1];
  const code = version.codes[index];
  if (code === undefined) return `row ${row}, column ${column}, not written yet`;
  const id = version.ids[index] === undefined ? "" : `, id ${version.ids[index]}`;
  return `row ${row}, column ${column}, code ${code}${id}`;
}

/** Tell about a code: its numbers, its piece of the picture, and where else it is. */
function read(index) {
  const code = version?.codes[index];
  for (const cell of cells.querySelectorAll(".same")) cell.classList.remove("same");
  if (index < 0 || index === null || !version || !size[0]) {
    byId("reading").textContent = "Point at a code, or reach it with the arrow keys.";
    return;
  }
  const others = code === undefined ? [] : all().filter((each) => each !== index && version.codes[each] === code);
  for (const each of others) cellAt(each).classList.add("same");
  const elsewhere = others.length ? `\nalso at ${others.length} other place${others.length > 1 ? "s" : ""}` : "";
  byId("reading").textContent = label(index).replace(", code", "\ncode") + elsewhere;
  showPiece(index);
}

function showPiece(index) {
  const canvas = byId("piece");
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!image.complete || !image.naturalWidth) return;
  const [height, width] = [image.naturalHeight / size[0], image.naturalWidth / size[1]];
  const [row, column] = [Math.floor(index / size[1]), index % size[1]];
  context.imageSmoothingEnabled = false;
  context.drawImage(image, column * width, row * height, width, height, 0, 0, canvas.width, canvas.height);
}

function startPainting(event) {
  const index = indexOf(event.target);
  if (index === null || event.button) return;
  painting = !selected.has(index);
  reached = index;
  event.target.releasePointerCapture?.(event.pointerId);
  mark(index, painting);
}

function paint(event) {
  if (painting === null) return;
  const index = indexOf(document.elementFromPoint(event.clientX, event.clientY));
  if (index === null || index === reached) return;
  for (const each of between(reached, index)) mark(each, painting);
  reached = index;
}

/** Return the cells of a straight line: a fast pointer skips some of them. */
function between(start, end) {
  const place = (index) => [Math.floor(index / size[1]), index % size[1]];
  const [[row, column], [lastRow, lastColumn]] = [place(start), place(end)];
  const steps = Math.max(Math.abs(lastRow - row), Math.abs(lastColumn - column));
  const at = (from, to, step) => Math.round(from + ((to - from) * step) / steps);
  const step = (_, number) => at(row, lastRow, number + 1) * size[1] + at(column, lastColumn, number + 1);
  return Array.from({ length: steps }, step);
}

function mark(index, isSelected) {
  if (selected.has(index) === isSelected) return;
  if (isSelected) selected.add(index);
  else selected.delete(index);
  cellAt(index).setAttribute("aria-selected", String(isSelected));
  onSelect(selected.size);
}

function onKey(event) {
  const [height, width] = size;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width };
  if (event.key === " " || event.key === "Enter") {
    event.preventDefault();
    mark(current, !selected.has(current));
    return;
  }
  const start = current - (current % width);
  const jumps = { Home: start, End: start + width - 1 };
  const next = event.key in jumps ? jumps[event.key] : event.key in steps ? current + steps[event.key] : null;
  if (next === null) return;
  event.preventDefault();
  const staysInRow = !event.key.match(/Left|Right/) || Math.floor(next / width) === Math.floor(current / width);
  if (next < 0 || next >= height * width || !staysInRow) return;
  if (event.shiftKey) {
    mark(current, true);
    mark(next, true);
  }
  cellAt(next).focus();
}

function moveTo(index) {
  cellAt(current).tabIndex = -1;
  current = index;
  cellAt(current).tabIndex = 0;
  read(current);
}

function showSelection() {
  for (const cell of cells.querySelectorAll(".cell")) {
    cell.setAttribute("aria-selected", String(selected.has(indexOf(cell))));
  }
  onSelect(selected.size);
}

function showCodes() {
  const box = byId("show-codes");
  cells.classList.toggle("with-codes", box.checked && !box.disabled);
}

const all = () => Array.from({ length: size[0] * size[1] }, (_, index) => index);
const cellAt = (index) => cells.children[Math.floor(index / size[1])].children[index % size[1]];

function indexOf(element) {
  const cell = element?.closest?.(".cell");
  return cell && cells.contains(cell) ? Number(cell.dataset.index) : null;
}
