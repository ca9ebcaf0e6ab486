/* The exact prompt: head, contents, joiners and tail, each marked, with what each costs.
 *
 * Knows: parts of a rendering.
 * Never knows: where it comes from.
 */

import { h } from "./dom.js";
import { count } from "./numbers.js";

/** @typedef {import("./store.js").Rendering} Rendering */

const LINES_BEFORE = 140; // pixels of the head that stay in sight above the conversation
const LEGEND = [
  ["head", "Head", "task and policy, computed once"],
  ["content", "Content", "what was said"],
  ["joiner", "Joiner", "labels"],
  ["tail", "Tail", "the question"],
];

export class PromptView {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.summary = h("p", { className: "hint" });
    this.meter = h("div", { className: "token-meter", "aria-hidden": "true" });
    this.legend = h("ul", { className: "legend" });
    this.text = h("pre", { className: "code prompt", tabIndex: 0, role: "region", "aria-label": "Rendered prompt" });
    this.element = h("div", {}, this.summary, this.meter, this.legend, this.text);
    store.watch(["rendering", "renderingError"], ({ rendering, renderingError }) => {
      if (rendering) this.show(rendering);
      else this.showNothing(renderingError ?? "The prompt shows here as soon as the server answers.");
    });
  }

  /** @param {string} reason */
  showNothing(reason) {
    this.summary.textContent = reason;
    for (const element of [this.meter, this.legend, this.text]) element.hidden = true;
  }

  /** The head may be long: begin where the conversation does, unless somebody is reading. */
  scroll() {
    const content = /** @type {HTMLElement | null} */ (this.text.querySelector(".content"));
    if (content && document.activeElement !== this.text) this.text.scrollTop = content.offsetTop - LINES_BEFORE;
  }

  /** @param {Rendering} rendering */
  show({ parts, num_tokens: total, window, role }) {
    for (const element of [this.meter, this.legend, this.text]) element.hidden = false;
    const whom = role === "user" ? "the user's last turn" : "the assistant's last turn";
    const room = total > window ? `longer than the window of ${count(window)}, so it is judged in overlapping parts` : `of ${count(window)} that fit`;
    this.summary.textContent = `Asks about ${whom}. ${count(total)} tokens, ${room}.`;
    const costs = LEGEND.map(([kind, name, meaning]) => ({
      kind, name, meaning,
      tokens: parts.filter((part) => part.kind === kind).reduce((sum, part) => sum + part.num_tokens, 0),
    })).filter(({ tokens }) => tokens > 0);
    this.meter.replaceChildren(...costs.map(({ kind, tokens }) => {
      const piece = h("span", { className: `piece ${kind}` });
      piece.style.flexGrow = String(tokens);
      return piece;
    }));
    this.legend.replaceChildren(...costs.map(({ kind, name, meaning, tokens }) =>
      h("li", { className: kind }, h("strong", {}, `${name} ${count(tokens)}`), meaning)));
    const spans = parts.map(({ kind, text }) => h("span", { className: `part ${kind}` }, text));
    this.text.replaceChildren(...spans);
    this.scroll();
  }
}
