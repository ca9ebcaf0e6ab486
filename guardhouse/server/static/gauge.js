/* The gauge: a half circle from 0 to 1, with the score on it and the threshold across it.
 *
 * Knows: geometry.
 * Never knows: where the numbers come from.
 */

import { h, svg } from "./dom.js";

const ARC = "M 24 132 A 106 106 0 0 1 236 132"; // from 0 on the left to 1 on the right

export class Gauge {
  constructor() {
    this.caption = h("p", { className: "gauge-caption" });
    this.word = h("p", { className: "gauge-word" });
    /** @param {string} name @param {object} [more] */
    const arc = (name, more = {}) => svg("path", { d: ARC, class: name, pathLength: 100, ...more });
    this.drawing = svg(
      "svg",
      { viewBox: "0 0 260 146", class: "gauge-drawing", "aria-hidden": "true", focusable: "false" },
      arc("gauge-zone-safe"),
      arc("gauge-zone-unsafe"),
      svg("circle", { cx: 236, cy: 132, r: 7, class: "gauge-zone-end" }), // rounds the right end; the arc itself is cut at the threshold
      arc("gauge-fill"),
      svg("g", { class: "gauge-threshold" }, svg("line", { x1: 10, x2: 38, y1: 132, y2: 132 })),
    );
    this.element = h(
      "div",
      { className: "gauge" },
      this.drawing,
      h("div", { className: "gauge-text" }, this.word, this.caption),
    );
  }

  /**
   * @param {{score: number | null, threshold: number, word: string, caption: string}} shown
   */
  show({ score, threshold, word, caption }) {
    this.word.textContent = word;
    this.caption.textContent = caption;
    this.element.classList.toggle("at-rest", score === null);
    this.drawing.style.setProperty("--score", String(score ?? 0));
    this.drawing.style.setProperty("--threshold", String(threshold));
  }
}
