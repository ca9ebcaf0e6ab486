/* What stands in for a verdict that cannot be had: no key, still loading, too busy, unreachable, refused, failed.
 *
 * Knows: kinds of errors, what a person can do about each.
 * Never knows: routes.
 */

import { announce, h } from "./dom.js";

/** @typedef {import("./store.js").State} State */

export class Trouble {
  /** @param {import("./conductor.js").Conductor} conductor */
  constructor(conductor) {
    this.conductor = conductor;
    this.element = h("div", { className: "trouble", role: "group", "aria-label": "Notice" });
    this.element.hidden = true;
    this.shown = "";
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.ticking = undefined;
    this.progress = h("progress", { max: 1, "aria-label": "Model loading" });
  }

  /** @param {State} state */
  show(state) {
    const kind = kindOf(state);
    this.element.hidden = kind === "";
    this.element.dataset.kind = kind;
    if (kind === "loading") this.progress.value = state.server.progress;
    const signature = `${kind} ${state.check.error?.message ?? ""} ${state.check.error?.requestId ?? ""} ${state.server.error ?? ""}`;
    if (signature === this.shown) return;
    this.shown = signature;
    clearInterval(this.ticking);
    this.element.replaceChildren(...this.contents(kind, state));
    if (kind) announce(this.element.querySelector("h3")?.textContent ?? "", 0);
  }

  /**
   * @param {string} kind
   * @param {State} state
   * @returns {Node[]}
   */
  contents(kind, { check, server }) {
    const error = check.error;
    switch (kind) {
      case "":
        return [];
      case "key":
        return this.keyForm();
      case "loading":
        return [heading("The model is loading"), this.progress, text("What you type is judged as soon as it is there.")];
      case "failed":
        return [heading("The model could not be loaded"), text(server.error ?? ""), text("The server's log says more.")];
      case "unreachable":
        return [heading("The server does not answer"), text("Trying again every two seconds. Nothing you typed is lost.")];
      case "busy":
        return this.countdown(error?.retryAfterS ?? 2);
      case "input":
        return [heading("The server refused this"), text(error?.message ?? ""), ...requestId(error)];
      default:
        return [heading("No verdict"), text(error?.message ?? ""), ...requestId(error), this.retry()];
    }
  }

  keyForm() {
    const field = h("input", {
      type: "password", id: "key", autocomplete: "off", spellcheck: false, required: true, placeholder: "API key",
      pattern: "[!-~]+", title: "A key has no spaces, and no letters beyond ASCII.",
    });
    const form = h(
      "form",
      { className: "key-form" },
      h("label", { htmlFor: "key" }, "API key"),
      h("div", { className: "row" }, field, h("button", { type: "submit", className: "primary" }, "Use key")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.conductor.useKey(field.value.trim());
    });
    return [heading("This server wants a key"), form, text("It is kept in this tab alone, and sent to this server alone.")];
  }

  /** @param {number} seconds */
  countdown(seconds) {
    const left = h("span", {}, String(seconds));
    const endsAt = performance.now() + 1000 * seconds;
    this.ticking = setInterval(() => {
      left.textContent = String(Math.max(0, Math.ceil((endsAt - performance.now()) / 1000)));
    }, 250);
    const line = h("p", {}, "Many are asking at once. Trying again in ", left, " s.");
    return [heading("The guard is busy"), line, this.retry()];
  }

  retry() {
    return h("button", { type: "button", onclick: () => this.conductor.askNow() }, "Try now");
  }
}

/** @param {State} state */
function kindOf({ check, server, needsKey }) {
  if (server.status === "failed" || server.status === "unreachable" || server.status === "loading") return server.status;
  if (needsKey) return "key";
  return check.phase === "error" ? check.error?.kind ?? "server" : "";
}

/** @param {string} words */
function heading(words) {
  return h("h3", {}, words);
}

/** @param {string} words */
function text(words) {
  return h("p", {}, words);
}

/** @param {import("./api.js").ApiError | undefined} error */
function requestId(error) {
  return error?.requestId ? [h("p", { className: "hint" }, `Request ${error.requestId}`)] : [];
}
