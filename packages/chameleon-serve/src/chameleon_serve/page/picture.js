// A picture of the conversation: its versions, of which one is chosen. It sends "change" when something is new.

export class Picture extends EventTarget {
  constructor({ prompt, alt, isDrawn }) {
    super();
    this.prompt = prompt; // the text that it is an answer to, for drawing it anew
    this.alt = alt;
    this.isDrawn = isDrawn; // by the model, not given by the reader
    this.versions = [];
    this.chosen = 0;
  }

  get version() {
    return this.versions[this.chosen];
  }

  /**
   * Add a version {src, under, codes, ids, grid, done, total, state, note}, and choose it unless asked not to.
   * While it is drawn, `src` is the preview of `codes`, and `under` what it is drawn over, or null.
   */
  add(version, { choose = true } = {}) {
    const empty = { src: null, under: null, codes: [], ids: [], grid: null, done: 0, total: 0, state: "drawing", note: "" };
    this.versions.push({ ...empty, ...version });
    if (choose) this.chosen = this.versions.length - 1;
    this.changed();
    return this.versions.at(-1);
  }

  choose(index) {
    this.chosen = index;
    this.changed();
  }

  /** Remove a version of which nothing was drawn. */
  drop(version) {
    this.versions = this.versions.filter((each) => each !== version);
    this.chosen = Math.max(0, Math.min(this.chosen, this.versions.length - 1));
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** Return the part of a document for the chosen version, or null where it isn't whole, unless that is asked for. */
  asPart({ cutOff = false } = {}) {
    const { codes, grid, src, state } = this.version ?? {};
    if (codes?.length && (state === "done" || (cutOff && state === "stopped"))) return { type: "image", codes, grid };
    return !this.isDrawn && src && !codes?.length ? { type: "image", url: src } : null;
  }
}

/** Show a version in an image: of a preview, only what is drawn, over what it is drawn over. */
export function showIn(image, { src, under, state, codes, grid, drawn }, { reconstructed = false } = {}) {
  const shown = reconstructed ? (drawn ?? src) : src;
  if (!shown) image.removeAttribute("src");
  else if (image.getAttribute("src") !== shown) image.src = shown;
  const isPartial = state === "drawing" || state === "stopped";
  image.style.clipPath = isPartial && shown && grid ? `inset(0 0 ${100 - drawnShare(codes, grid)}% 0)` : "";
  if (grid) image.parentElement.style.aspectRatio = `${grid[1]} / ${grid[0]}`;
  image.parentElement.style.backgroundImage = isPartial && under ? `url("${under}")` : "";
}

/** Return how much of the height is drawn, in percent: previews have whole rows of codes. */
function drawnShare(codes, [height, width]) {
  return (100 * Math.floor(codes.length / width)) / height;
}

/** Change a version by an event of the server. Return whether it was one of a picture. */
export function follow(version, event) {
  if (event.event === "ImageStarted") {
    Object.assign(version, { total: event.num_codes, grid: event.grid ?? version.grid });
  } else if (event.event === "ImageProgress") {
    Object.assign(version, { done: event.codes_done, total: event.num_codes });
    if (event.preview) Object.assign(version, { src: event.preview, codes: event.codes ?? version.codes });
  } else if (event.event === "ImageFinished") {
    const { image, codes, grid, ids } = event;
    Object.assign(version, { src: image, codes, grid, ids, done: codes.length, total: codes.length, state: "done" });
  } else {
    return false;
  }
  return true;
}
