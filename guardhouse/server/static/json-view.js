/* The last request and its reply, as they went over the wire.
 *
 * Knows: JSON. Never knows: what it says.
 */

import { h } from "./dom.js";

export class JsonView {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.request = h("pre", { className: "code", tabIndex: 0, role: "region", "aria-label": "Request body" });
    this.reply = h("pre", { className: "code", tabIndex: 0, role: "region", "aria-label": "Reply body" });
    this.element = h(
      "div",
      { className: "columns" },
      h("div", {}, h("h3", {}, "Request"), this.request),
      h("div", {}, h("h3", {}, "Reply"), this.reply),
    );
    store.watch(["check"], ({ check }) => {
      if (check.phase === "pending") return;
      this.request.textContent = check.request ? JSON.stringify(check.request, null, 2) : "No request yet.";
      this.reply.textContent = check.verdict ? JSON.stringify(check.verdict, null, 2) : check.error?.message ?? "No reply yet.";
    });
  }
}
