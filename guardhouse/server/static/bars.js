/* One bar per category.
 *
 * Knows: codes, names, shares of the score.
 * Never knows: thresholds.
 */

import { h } from "./dom.js";
import { probability } from "./numbers.js";

/** @typedef {import("./store.js").Category} Category */

export class Bars {
  constructor() {
    this.list = h("ul", { className: "bars" });
    this.element = h("div", { className: "categories" }, h("h3", { id: "bars-title" }, "Categories"), this.list);
    this.list.setAttribute("aria-labelledby", "bars-title");
    /** @type {Map<string, {row: HTMLElement, bar: HTMLElement, value: HTMLElement}>} */
    this.rows = new Map();
    this.signature = "";
  }

  /**
   * Rows are kept while the policy stays the same, so that the bars can glide.
   * @param {Category[]} categories
   * @param {Record<string, number>} shares
   * @param {string[]} named
   * @param {Record<string, string>} names of the verdict's own policy
   */
  show(categories, shares, named, names) {
    const listed = shownCategories(categories, shares, names);
    this.element.hidden = listed.length === 0;
    const signature = JSON.stringify(listed);
    if (signature !== this.signature) this.build(listed);
    this.signature = signature;
    for (const [code, { row, bar, value }] of this.rows) {
      const share = shares[code];
      bar.style.setProperty("--share", String(share ?? 0));
      value.textContent = share === undefined ? "–" : probability(share);
      row.classList.toggle("named", named.includes(code));
    }
  }

  /** @param {Category[]} categories */
  build(categories) {
    this.rows.clear();
    for (const { code, name, description } of categories) {
      const bar = h("span", { className: "bar" });
      const value = h("span", { className: "value" });
      const label = h("span", { className: "name" }, name || "Unnamed");
      const row = h(
        "li",
        { title: description || undefined },
        h("span", { className: "code" }, code),
        label,
        value,
        h("span", { className: "bar-track", "aria-hidden": "true" }, bar),
      );
      this.rows.set(code, { row, bar, value });
    }
    this.list.replaceChildren(...[...this.rows.values()].map(({ row }) => row));
  }
}

/**
 * With a verdict, its own categories: the policy may have changed since.
 * @param {Category[]} categories
 * @param {Record<string, number>} shares
 * @param {Record<string, string>} names
 */
function shownCategories(categories, shares, names) {
  const codes = Object.keys(shares);
  if (!codes.length) return categories;
  const described = (/** @type {string} */ code) => categories.find((category) => category.code === code && category.name === names[code]);
  return codes.map((code) => described(code) ?? { code, name: names[code] ?? "", description: "" });
}
