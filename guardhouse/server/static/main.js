/* Puts the page together.
 *
 * Knows: every part by name, and the keys that work everywhere.
 * Never knows: how any part works.
 */

import { Conductor } from "./conductor.js";
import { byId, toast } from "./dom.js";
import { Editor } from "./editor.js";
import { showGallery } from "./examples.js";
import { JsonView } from "./json-view.js";
import { showMasthead } from "./masthead.js";
import { PolicyView } from "./policy-view.js";
import { PromptView } from "./prompt-view.js";
import { fromFragment } from "./share.js";
import { SnippetView } from "./snippet-view.js";
import { Store, initialState } from "./store.js";
import { StreamView } from "./stream-view.js";
import { tabbed } from "./tabs.js";
import { VerdictPanel } from "./verdict.js";

const store = new Store(initialState());
const conductor = new Conductor(store);
const prompt = new PromptView(store);

showMasthead(store, conductor);
new Editor(store);
showGallery(store);
new PolicyView(store);
new VerdictPanel(store, conductor);
byId("inspector").append(
  tabbed("Under the hood", [
    { id: "prompt", title: "Prompt", panel: prompt.element, onshow: () => prompt.scroll() },
    { id: "stream", title: "Stream", panel: new StreamView(store).element },
    { id: "code", title: "Copy as", panel: new SnippetView(store).element },
    { id: "json", title: "JSON", panel: new JsonView(store).element },
  ]),
);

async function openLink() {
  if (!location.hash.slice(1).match(/^\d+\./)) return; // an ordinary anchor
  const shared = await fromFragment(location.hash.slice(1));
  if (shared) store.set(shared);
  else toast("This link is broken or comes from another version.");
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    conductor.askNow();
  }
});
window.addEventListener("hashchange", openLink);
await openLink();
conductor.start();
