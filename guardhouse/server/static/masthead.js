/* The line at the top: what runs, the theme, the key, the link to share.
 *
 * Knows: the server's status, the colour theme.
 * Never knows: verdicts.
 */

import * as api from "./api.js";
import { byId, copy, h, toast } from "./dom.js";
import { toFragment } from "./share.js";

const THEMES = ["auto", "light", "dark"];
const WORDS = {
  connecting: "Connecting…",
  loading: "Model is loading",
  failed: "Model could not be loaded",
  unreachable: "Server does not answer",
  ready: "",
};

/**
 * @param {import("./store.js").Store} store
 * @param {import("./conductor.js").Conductor} conductor
 */
export function showMasthead(store, conductor) {
  store.watch(["server"], ({ server }) => showStatus(server));
  store.watch(["needsKey", "check"], () => { byId("key-button").hidden = api.key.get() === ""; });
  byId("key-button").textContent = "Forget key";
  byId("key-button").addEventListener("click", () => {
    conductor.useKey("");
    toast("Key forgotten");
  });
  byId("share").addEventListener("click", () => share(store));
  byId("theme").addEventListener("click", nextTheme);
  showTheme();
}

/** @param {import("./store.js").Store} store */
async function share({ state }) {
  history.replaceState(null, "", `#${await toFragment(state)}`);
  await copy(location.href, "Link copied. It holds the text itself; nothing was sent anywhere.");
}

/** @param {import("./store.js").Server} server */
function showStatus({ status, health }) {
  const line = byId("status");
  line.dataset.status = status;
  const model = health?.embedded ? "embedded guard" : health?.model;
  const words = health ? [model, health.device, `window ${health.window.toLocaleString("en")}`].join(" · ") : WORDS[status];
  line.replaceChildren(h("span", { className: "dot", "aria-hidden": "true" }), words);
  byId("colophon-model").textContent = health
    ? `Guardhouse ${health.version}${health.embedded ? ", running the small embedded guard: for trying out, not for deciding what real people may say." : "."}`
    : "";
}

function currentTheme() {
  return document.documentElement.dataset.theme ?? "auto";
}

function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(currentTheme()) + 1) % THEMES.length];
  if (theme === "auto") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("guardhouse-theme");
  } else {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("guardhouse-theme", theme);
  }
  showTheme();
}

function showTheme() {
  byId("theme").textContent = `Theme: ${currentTheme()}`;
}
