/* Copy-as: the snippet of the chosen language, and a button that copies it.
 *
 * Knows: which snippets there are.
 * Never knows: how they are written.
 */

import * as api from "./api.js";
import { copy, h } from "./dom.js";
import { SNIPPETS } from "./snippets.js";

export class SnippetView {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    this.chosen = SNIPPETS[0];
    this.code = h("pre", { className: "code", tabIndex: 0, role: "region", "aria-label": "Code", id: "snippet" });
    const choices = SNIPPETS.map((snippet, index) => {
      const input = h("input", { type: "radio", name: "snippet", value: snippet.id, checked: index === 0, id: `as-${snippet.id}` });
      input.addEventListener("change", () => this.choose(snippet));
      return h("label", { className: "choice" }, input, h("span", {}, snippet.title));
    });
    this.element = h(
      "div",
      {},
      h(
        "div",
        { className: "row spread" },
        h("fieldset", { className: "choices" }, h("legend", { className: "visually-hidden" }, "Language"), ...choices),
        h("button", { type: "button", id: "copy-snippet", onclick: () => copy(this.code.textContent ?? "", "Copied") }, "Copy"),
      ),
      this.code,
    );
    store.watch(["turns", "policy", "threshold", "needsKey", "server"], () => this.show());
  }

  /** @param {typeof SNIPPETS[number]} snippet */
  choose(snippet) {
    this.chosen = snippet;
    this.show();
  }

  show() {
    const { turns, policy, threshold, needsKey, server } = this.store.state;
    this.code.textContent = this.chosen.write({
      base: api.baseUrl(),
      path: api.CHECK_PATH,
      model: server.health?.aliases[0] ?? server.health?.model ?? "",
      body: { ...api.bodyOf({ turns, policy }), ...(threshold === null ? {} : { threshold }) },
      messages: api.messagesOf({ turns, policy }),
      needsKey: needsKey || api.key.get() !== "",
    });
  }
}
