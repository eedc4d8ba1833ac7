// The panel at the side and its two tabs; on a narrow screen it opens above the conversation.

import { byId } from "./dom.js";

const panel = byId("panel");
const tabs = [byId("tab-options"), byId("tab-tokens")];
let opener = null;

/** Connect the tabs, and the buttons that open and close the panel. */
export function setUpPanel() {
  for (const tab of tabs) {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs[1 - tabs.indexOf(tab)];
      show(other);
      other.focus();
    });
  }
  byId("open-panel").addEventListener("click", () => {
    if (panel.classList.contains("open")) close();
    else openPanel("options");
  });
  byId("close-panel").addEventListener("click", close);
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && panel.classList.contains("open")) {
      event.stopPropagation();
      close();
    }
  });
}

/** Show a tab, "options" or "tokens"; where the panel covers the page, the focus moves into it. */
export function openPanel(name) {
  const tab = byId(`tab-${name}`);
  show(tab);
  opener = document.activeElement;
  panel.classList.add("open");
  byId("open-panel").setAttribute("aria-expanded", "true");
  tab.focus();
}

function close() {
  panel.classList.remove("open");
  byId("open-panel").setAttribute("aria-expanded", "false");
  opener?.focus();
}

function show(tab) {
  for (const each of tabs) {
    const isShown = each === tab;
    each.setAttribute("aria-selected", String(isShown));
    each.tabIndex = isShown ? 0 : -1;
    byId(each.getAttribute("aria-controls")).hidden = !isShown;
  }
}
