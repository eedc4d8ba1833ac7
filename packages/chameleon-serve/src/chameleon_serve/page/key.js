// The dialog for the API key.

import { byId } from "./dom.js";

/** Ask for the key, once more where it was refused. Return it, or null where the reader cancels. */
export function askForKey(wasRefused) {
  const dialog = byId("key-dialog");
  const field = byId("key");
  field.value = "";
  byId("key-refused").hidden = !wasRefused;
  dialog.returnValue = "";
  byId("key-cancel").onclick = () => dialog.close("");
  byId("key-form").onsubmit = () => {
    dialog.returnValue = "given";
  };
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const key = field.value.trim();
      field.value = "";
      resolve(dialog.returnValue === "given" && key ? key : null);
    };
  });
}
