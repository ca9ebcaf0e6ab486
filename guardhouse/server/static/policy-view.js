/* The policy picker and editor, with what the policy costs.
 *
 * Knows: the guard's own policy, the ones to start from, the one in use.
 * Never knows: requests, verdicts.
 */

import { byId, h } from "./dom.js";
import { count } from "./numbers.js";
import { POLICIES } from "./policies.js";

/** @typedef {import("./store.js").State} State */

const BY_SYSTEM_TURN = "A system turn of the conversation lists categories, so that list is the policy.";
const EMBEDDED = "The embedded guard has learned its own policy best. For policies of your own, load Llama Guard itself.";

export class PolicyView {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    this.picker = h(
      "select",
      { id: "policy-picker", onchange: () => this.pick(this.picker.value) },
      h("option", { value: "own" }, "The guard's own"),
      ...POLICIES.map(({ id, name }) => h("option", { value: id }, name)),
      h("option", { value: "edited" }, "Edited"),
    );
    this.area = h("textarea", {
      id: "policy-text", rows: 6, spellcheck: true, "aria-describedby": "policy-cost policy-problem",
      oninput: () => store.set({ policy: this.area.value }),
    });
    this.cost = h("p", { className: "hint", id: "policy-cost" });
    this.problem = h("p", { className: "problem", id: "policy-problem" });
    this.note = h("p", { className: "hint" });
    byId("policy").append(
      h("div", { className: "row" }, h("label", { htmlFor: "policy-picker" }, "Start from"), this.picker),
      h("label", { className: "visually-hidden", htmlFor: "policy-text" }, "Policy text"),
      this.area,
      this.problem,
      this.cost,
      this.note,
    );
    store.watch(["policy", "rendering", "renderingError", "defaultPolicy", "server"], (state) => this.show(state));
  }

  /** @param {string} id */
  pick(id) {
    const own = this.store.state.defaultPolicy?.text ?? "";
    if (id === "own") this.store.set({ policy: null });
    else if (id === "edited") this.store.set({ policy: this.store.state.policy ?? own });
    else this.store.set({ policy: POLICIES.find((policy) => policy.id === id)?.text ?? null });
    if (id === "edited") this.area.focus();
  }

  /** @param {State} state */
  show({ policy, rendering, renderingError, defaultPolicy, server }) {
    const text = policy ?? defaultPolicy?.text ?? "";
    if (this.area.value !== text) this.area.value = text;
    this.area.placeholder = "O1: Name of the category.\nShould not\n- What must not be said.\nCan\n- What may.";
    const known = POLICIES.find((one) => one.text === policy);
    this.picker.value = policy === null ? "own" : known?.id ?? "edited";
    const hasProblem = policy !== null && renderingError !== null;
    this.problem.textContent = hasProblem ? renderingError : "";
    this.area.setAttribute("aria-invalid", String(hasProblem));
    this.cost.textContent = rendering ? costOf(rendering.policy, defaultPolicy) : "";
    const isOwn = rendering?.policy.is_default ?? policy === null;
    this.note.textContent = policy === null && !isOwn ? BY_SYSTEM_TURN : !isOwn && server.health?.embedded ? EMBEDDED : "";
  }
}

/**
 * @param {import("./store.js").Rendering["policy"]} policy
 * @param {import("./store.js").Rendering["policy"] | null} own
 */
export function costOf(policy, own) {
  const categories = policy.categories.length === 1 ? "1 category" : `${policy.categories.length} categories`;
  const cost = `${categories}, ${count(policy.num_tokens)} tokens`;
  if (policy.is_default || !own) return `${cost}, computed once and kept.`;
  const difference = policy.num_tokens - own.num_tokens;
  const compared = difference === 0 ? "as many as" : `${count(Math.abs(difference))} ${difference > 0 ? "more" : "fewer"} than`;
  return `${cost}, ${compared} the guard's own. The first verdict pays for them, later ones find them in the cache.`;
}
