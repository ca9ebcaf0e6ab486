/* The verdict panel: gauge, threshold, categories, what it cost; or why there is none.
 *
 * Knows: verdicts, how a threshold turns a score into a word.
 * Never knows: requests. Moving the threshold asks nobody.
 */

import { announce, byId, h } from "./dom.js";
import { Bars } from "./bars.js";
import { Gauge } from "./gauge.js";
import { count, duration, probability } from "./numbers.js";
import { thresholdOf } from "./store.js";
import { Trouble } from "./trouble.js";

/** @typedef {import("./store.js").State} State */
/** @typedef {import("./store.js").Verdict} Verdict */

const CLOSE_CALL = 0.08;
const WORDS = { empty: "Nothing to judge yet", pending: "Judging…", done: "No verdict", error: "No verdict" };

export class VerdictPanel {
  /**
   * @param {import("./store.js").Store} store
   * @param {import("./conductor.js").Conductor} conductor
   */
  constructor(store, conductor) {
    this.store = store;
    this.panel = byId("verdict");
    this.mini = byId("mini-verdict");
    this.gauge = new Gauge();
    this.bars = new Bars();
    this.trouble = new Trouble(conductor);
    this.slider = h("input", {
      type: "range", id: "threshold", min: "0.01", max: "0.99", step: "0.01",
      oninput: () => store.set({ threshold: Number(this.slider.value) }),
    });
    this.thresholdText = h("output", { htmlFor: "threshold" });
    this.reset = h("button", { type: "button", className: "quiet", onclick: () => this.resetThreshold() }, "Reset");
    this.facts = h("dl", { className: "facts" });
    this.windows = h("p", { className: "hint" });
    byId("verdict-body").append(
      this.trouble.element,
      this.gauge.element,
      h(
        "div",
        { className: "threshold" },
        h("div", { className: "threshold-head" }, h("label", { htmlFor: "threshold" }, "Flag from "), this.thresholdText, this.reset),
        this.slider,
      ),
      this.bars.element,
      this.windows,
      this.facts,
    );
    store.watch(["check", "threshold", "rendering", "server", "needsKey"], (state) => this.show(state));
    // On a phone a small verdict stays at hand while the panel is out of sight.
    new IntersectionObserver(([{ isIntersecting }]) => { this.mini.classList.toggle("not-needed", isIntersecting); }, { threshold: 0.25 })
      .observe(this.gauge.element);
  }

  resetThreshold() {
    this.store.set({ threshold: null });
    this.slider.focus();
  }

  /** @param {State} state */
  show(state) {
    const threshold = thresholdOf(state);
    const { verdict, phase } = state.check;
    const isFlagged = verdict ? verdict.score >= threshold : null;
    this.panel.dataset.state = isFlagged === null ? "none" : isFlagged ? "unsafe" : "safe";
    this.panel.dataset.phase = phase;
    this.panel.setAttribute("aria-busy", String(phase === "pending"));
    this.trouble.show(state);
    this.showThreshold(threshold, state.threshold !== null);
    this.gauge.show({
      score: verdict?.score ?? null,
      threshold,
      word: isFlagged === null ? WORDS[phase] : isFlagged ? "Unsafe" : "Safe",
      caption: verdict ? caption(verdict, threshold) : phase === "empty" ? "Type, or pick an example." : "",
    });
    const named = verdict && isFlagged ? namedCodes(verdict) : [];
    const categories = state.rendering?.policy.categories ?? state.defaultPolicy?.categories ?? [];
    this.bars.show(categories, verdict?.categories ?? {}, named, verdict?.category_names ?? {});
    this.showFacts(state);
    this.showWindows(verdict);
    if (verdict && phase === "done") this.tell(verdict, Boolean(isFlagged), named);
    if (phase === "empty" || phase === "error") this.mini.hidden = true;
  }

  /**
   * @param {number} threshold
   * @param {boolean} isOwn
   */
  showThreshold(threshold, isOwn) {
    this.slider.value = String(threshold);
    this.slider.style.setProperty("--at", String(threshold));
    this.slider.setAttribute("aria-valuetext", `flag from a score of ${threshold.toFixed(2)}`);
    this.thresholdText.textContent = threshold.toFixed(2);
    this.reset.hidden = !isOwn;
  }

  /** @param {State} state */
  showFacts({ check, rendering }) {
    const { verdict, latencyMs } = check;
    const cached = verdict ? verdict.num_cached_tokens / Math.max(1, verdict.num_prompt_tokens) : 0;
    this.facts.replaceChildren(
      fact("Round trip", latencyMs === undefined || !verdict ? "–" : duration(latencyMs)),
      fact("Prompt tokens", verdict ? count(verdict.num_prompt_tokens) : rendering ? count(rendering.num_tokens) : "–"),
      fact("From cache", verdict ? `${Math.round(100 * cached)} %` : "–"),
      fact("Mass on answers", verdict ? probability(verdict.mass) : "–", "Probability of safe and unsafe together; a low one is an error, never a pass."),
    );
  }

  /** @param {Verdict | undefined} verdict */
  showWindows(verdict) {
    const windows = verdict?.windows ?? [];
    const top = windows.findIndex((window) => window.score === verdict?.score);
    this.windows.hidden = windows.length < 2;
    if (windows.length > 1) {
      const { start, end } = windows[top];
      this.windows.textContent = `Longer than the model's window, so judged in ${windows.length} overlapping parts; part ${top + 1} (characters ${count(start)} to ${count(end)}) decided.`;
    }
  }

  /**
   * @param {Verdict} verdict
   * @param {boolean} isFlagged
   * @param {string[]} named
   */
  tell(verdict, isFlagged, named) {
    const names = named.map((code) => verdict.category_names[code] || code);
    const word = isFlagged ? "Unsafe" : "Safe";
    announce(`${word}, score ${probability(verdict.score)}${names.length ? `: ${names.join(", ")}` : ""}`);
    this.mini.hidden = false;
    this.mini.dataset.state = isFlagged ? "unsafe" : "safe";
    this.mini.replaceChildren(h("strong", {}, word), ` ${probability(verdict.score)} `, h("span", {}, names.join(", ")));
    document.title = `${word} ${probability(verdict.score)} · Guardhouse playground`;
  }
}

/**
 * The codes that go with a flag: the answer's own, or the likeliest where only the page's threshold flags.
 * @param {Verdict} verdict
 */
export function namedCodes(verdict) {
  if (verdict.codes.length) return verdict.codes;
  const [top] = Object.entries(verdict.categories).sort(([, one], [, other]) => other - one);
  return top ? [top[0]] : [];
}

/**
 * @param {Verdict} verdict
 * @param {number} threshold
 */
function caption(verdict, threshold) {
  const score = `P(unsafe) = ${probability(verdict.score)}`;
  return Math.abs(verdict.score - threshold) < CLOSE_CALL ? `${score}, close to your threshold` : score;
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} [title]
 */
function fact(name, value, title) {
  return h("div", { title }, h("dt", {}, name), h("dd", {}, value));
}
