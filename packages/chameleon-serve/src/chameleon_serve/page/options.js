// The form of options, and what it asks of the server.

import { byId, make } from "./dom.js";

// What a picture that is drawn anew hasn't: text, pictures beside it, another size.
const OF_OTHERS = new Set(["max_new_tokens", "max_images", "image_size", "stop_strings", "repetition_penalty"]);
const WITHOUT = { seed: "by chance", max_new_tokens: "as it fits" };
const PREVIEWS = 16; // of a picture, where the reader doesn't say

const form = byId("options");
let previewEvery = 1;

/** Show the model's own values, and close what this server doesn't take. */
export function setUpOptions(model) {
  previewEvery = Math.max(1, Math.round(codesOf(model) / PREVIEWS));
  for (const field of form.elements) {
    if (!field.name) continue;
    const own = field.name === "preview_every" ? previewEvery : model.options?.[field.name];
    if (field.name === "do_sample" && own !== undefined) {
      field.options[0].textContent = `as the model has it: ${own ? "sampled" : "the likeliest"}`;
    } else if (field.type === "number") {
      field.placeholder = own ?? WITHOUT[field.name] ?? (field.name.startsWith("image_") ? "as text" : "none");
    }
    const why = model.refused_options?.[field.name === "negative_prompt" ? "negative_prompt_ids" : field.name];
    field.disabled = Boolean(why);
    field.title = why ?? "";
  }
  offerSizes(model.sizes ?? []);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => complain(""));
}

/** Let the reader choose among the sizes of a model's pictures, where there are several. */
function offerSizes(sizes) {
  const field = form.elements.image_size;
  while (field.options.length > 1) field.remove(1);
  for (const { size, pixels } of sizes) field.append(make("option", { value: JSON.stringify(pixels), textContent: size }));
  byId("image-size").hidden = sizes.length < 2;
}

/** Return the fields of a request: options, preview_every, negative_prompt. It throws where a field is wrong. */
export function requested({ forPicture = false } = {}) {
  const options = others();
  for (const field of form.elements) {
    const value = field.name && field.name in READ ? READ[field.name](field) : numberOf(field);
    if (value !== undefined && !(forPicture && OF_OTHERS.has(field.name))) options[field.name] = value;
  }
  const { negative_prompt, preview_every = previewEvery, seed = anySeed(), ...rest } = options;
  return { options: { ...rest, seed }, preview_every, ...(negative_prompt ? { negative_prompt } : {}) };
}

const READ = {
  do_sample: (field) => (field.value ? field.value === "true" : undefined),
  image_size: (field) => (field.value ? JSON.parse(field.value) : undefined),
  negative_prompt: (field) => field.value.trim() || undefined,
  stop_strings: (field) => {
    const lines = field.value.split("\n").filter(Boolean);
    return lines.length ? lines : undefined;
  },
  others: () => undefined,
};

/** Return a seed by chance; the page shows it, so that the same picture can be drawn again. */
function anySeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

function numberOf(field) {
  if (field.type !== "number" || field.disabled || (field.value === "" && field.validity.valid)) return undefined;
  if (!field.validity.valid) {
    const name = field.labels[0].textContent.trim();
    throw new Error(`Option “${name}”: ${field.validationMessage}`);
  }
  return Number(field.value);
}

function others() {
  const text = form.elements.others.value.trim();
  complain("");
  if (!text) return {};
  try {
    const read = JSON.parse(text);
    if (read === null || typeof read !== "object" || Array.isArray(read)) throw new Error("it isn’t an object");
    return read;
  } catch (error) {
    const said = `The options as JSON can’t be read: ${error.message}. Expected an object, such as {"min_p": 0.05}.`;
    complain(said);
    throw new Error(said);
  }
}

function complain(text) {
  byId("others-trouble").textContent = text;
  byId("others-trouble").hidden = !text;
}

function codesOf(model) {
  const [height, width] = model.sizes?.[0]?.grid ?? [1, 1];
  return height * width;
}
