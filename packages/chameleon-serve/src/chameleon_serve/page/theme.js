// Light or dark: as the system, until the reader chooses.

import { byId } from "./dom.js";

const KEY = "chameleon-theme";
const MEANINGS = { auto: "as the system", light: "always light", dark: "always dark" };

/** Show the chosen colours, and let the button change them. */
export function setUpTheme() {
  const button = byId("theme");
  let chosen = localStorage.getItem(KEY);
  const show = () => {
    document.documentElement.dataset.theme = chosen;
    const label = chosen[0].toUpperCase() + chosen.slice(1);
    button.textContent = `◐ ${label}`;
    button.setAttribute("aria-label", `${label}: colours ${MEANINGS[chosen]}`);
  };
  if (!(chosen in MEANINGS)) chosen = "auto";
  button.addEventListener("click", () => {
    const names = Object.keys(MEANINGS);
    chosen = names[(names.indexOf(chosen) + 1) % names.length];
    localStorage.setItem(KEY, chosen);
    show();
  });
  show();
}
