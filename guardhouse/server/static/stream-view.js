/* The model's own words as they arrive, token by token, with what else it might have said.
 *
 * Knows: chunks of a chat completion with log probabilities.
 * Never knows: what the words mean.
 */

import * as api from "./api.js";
import { announce, h } from "./dom.js";
import { duration, percent } from "./numbers.js";
import { isJudgeable } from "./store.js";

/** @typedef {{token: string, logprob: number, top_logprobs: {token: string, logprob: number}[]}} Token */

const START = "Stream the answer";

export class StreamView {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    /** @type {AbortController | undefined} */
    this.controller = undefined;
    this.button = h("button", { type: "button", id: "stream", className: "primary", onclick: () => this.toggle() }, START);
    this.timing = h("p", { className: "hint", id: "stream-timing" });
    this.tokens = h("ol", { className: "tokens", id: "stream-tokens", "aria-label": "Tokens of the answer" });
    this.events = h("pre", { className: "code events", tabIndex: 0, role: "region", "aria-label": "Events as they came" });
    this.wire = h("details", {}, h("summary", {}, "Events as they came"), this.events);
    this.element = h(
      "div",
      {},
      h("p", { className: "hint" }, "A verdict needs no decoding: one pass reads the score. Here the model really writes, and shows the likeliest tokens at every step."),
      h("div", { className: "row" }, this.button, this.timing),
      this.tokens,
      this.wire,
    );
    this.empty();
    store.watch(["turns", "policy"], () => this.stop());
  }

  toggle() {
    if (this.controller) this.stop();
    else this.run();
  }

  stop() {
    this.controller?.abort();
    this.controller = undefined;
    this.button.textContent = START;
  }

  empty() {
    this.tokens.replaceChildren();
    this.events.replaceChildren();
    this.tokens.hidden = this.wire.hidden = true;
  }

  async run() {
    const { turns, policy } = this.store.state;
    this.empty();
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
    for await (const data of events) {
      this.wire.hidden = false;
      this.events.append(`data: ${data}\n\n`);
      const { text, tokens } = parse(data);
      if (!tokens.length) continue;
      firstAfterMs ||= performance.now() - startedAt;
      words += text;
      this.tokens.hidden = false;
      this.tokens.append(...tokens.map(card));
      this.timing.textContent = `First token after ${duration(firstAfterMs)}.`;
    }
    this.timing.textContent = `First token after ${duration(firstAfterMs)}, all after ${duration(performance.now() - startedAt)}.`;
    announce(`The model wrote: ${words.replace("\n", ", ")}`, 0);
  }
}

/**
 * @param {string} data
 * @returns {{text: string, tokens: Token[]}}
 */
function parse(data) {
  if (data === "[DONE]") return { text: "", tokens: [] };
  const { error, choices = [] } = JSON.parse(data);
  if (error) throw new api.ApiError("server", error.message, { code: error.code });
  return { text: choices[0]?.delta?.content ?? "", tokens: choices[0]?.logprobs?.content ?? [] };
}

/** @param {Token} token */
function card({ token, logprob, top_logprobs: likeliest }) {
  const others = likeliest.filter((one) => one.token !== token);
  const chance = h("span", { className: "chance" }, percent(Math.exp(logprob)));
  chance.style.setProperty("--share", String(Math.exp(logprob)));
  return h(
    "li",
    { className: "token" },
    h("span", { className: "token-text" }, visible(token)),
    chance,
    h("ul", { "aria-label": "Likeliest others" }, ...others.map((one) =>
      h("li", {}, h("span", {}, visible(one.token)), " ", percent(Math.exp(one.logprob))))),
  );
}

/**
 * A token with its white space made visible.
 * @param {string} token
 */
function visible(token) {
  const shown = token.replaceAll("\n", "↵").replaceAll("\t", "⇥");
  return shown.trim() ? shown.trim() : shown.replaceAll(" ", "␣") || "∅";
}
