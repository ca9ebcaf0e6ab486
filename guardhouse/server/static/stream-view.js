/* The model's own words as they arrive, and the events that carry them.
 *
 * Knows: events of the run route.
 * Never knows: what the words mean.
 */

import * as api from "./api.js";
import { announce, h } from "./dom.js";
import { duration } from "./numbers.js";
import { isJudgeable } from "./store.js";

export class StreamView {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    /** @type {AbortController | undefined} */
    this.controller = undefined;
    this.button = h("button", { type: "button", id: "stream", className: "primary", onclick: () => this.toggle() }, "Stream the answer");
    this.timing = h("p", { className: "hint", id: "stream-timing" });
    this.words = h("p", { className: "stream-words", id: "stream-words", role: "group", "aria-label": "Model text" });
    this.events = h("pre", { className: "code events", tabIndex: 0, role: "region", "aria-label": "Events as they came" });
    this.element = h(
      "div",
      {},
      h("p", { className: "hint" }, "A verdict needs no decoding: one pass reads the score. Here the model really writes, token by token."),
      h("div", { className: "row" }, this.button, this.timing),
      this.words,
      this.events,
    );
    this.events.hidden = true;
    store.watch(["turns", "policy"], () => this.stop());
  }

  toggle() {
    if (this.controller) this.stop();
    else this.run();
  }

  stop() {
    this.controller?.abort();
    this.controller = undefined;
    this.button.textContent = "Stream the answer";
  }

  async run() {
    const { turns, policy } = this.store.state;
    this.words.replaceChildren();
    this.events.replaceChildren();
    this.events.hidden = true;
    if (!isJudgeable(turns)) {
      this.timing.textContent = "Type something first.";
      return;
    }
    const controller = new AbortController();
    this.controller = controller;
    this.button.textContent = "Stop";
    this.timing.textContent = "Waiting for the first token…";
    try {
      await this.read(api.stream({ turns, policy }, controller.signal));
    } catch (error) {
      this.timing.textContent = controller.signal.aborted ? "Stopped." : api.asApiError(error).message;
    }
    if (this.controller === controller) this.stop();
  }

  /** @param {AsyncGenerator<string>} events */
  async read(events) {
    const startedAt = performance.now();
    let firstAfterMs = 0;
    let words = "";
    this.events.hidden = false;
    for await (const data of events) {
      this.events.append(`data: ${data}\n`);
      const { response, error } = parse(data);
      if (error) throw error;
      if (!response) continue;
      firstAfterMs ||= performance.now() - startedAt;
      words += response;
      this.words.append(h("span", { className: "token" }, response.replaceAll("\n", "↵\n")));
      this.timing.textContent = `First token after ${duration(firstAfterMs)}.`;
    }
    this.timing.textContent = `First token after ${duration(firstAfterMs)}, all after ${duration(performance.now() - startedAt)}.`;
    announce(`The model wrote: ${words.replace("\n", ", ")}`, 0);
  }
}

/**
 * @param {string} data
 * @returns {{response?: string, error?: api.ApiError}}
 */
function parse(data) {
  if (data === "[DONE]") return {};
  const event = JSON.parse(data);
  const failed = event.errors?.[0];
  return failed ? { error: new api.ApiError("server", api.plain(failed.message), { code: failed.code }) } : event;
}
