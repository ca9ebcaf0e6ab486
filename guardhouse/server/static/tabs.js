/* Tabs, as the ARIA practices have them: one stop for Tab, arrows between tabs, Home and End.
 *
 * Knows: names and panels.
 * Never knows: what the panels show.
 */

import { h } from "./dom.js";

/** @typedef {{id: string, title: string, panel: HTMLElement, onshow?: () => void}} Tab */

/**
 * @param {string} label
 * @param {Tab[]} tabs
 * @returns {HTMLElement}
 */
export function tabbed(label, tabs) {
  const buttons = tabs.map(({ id, title }, index) =>
    h("button", {
      type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}`,
      onclick: () => select(index), onkeydown: (/** @type {KeyboardEvent} */ event) => move(event, index),
    }, title));
  const panels = tabs.map(({ id, panel }) =>
    h("div", { role: "tabpanel", id: `panel-${id}`, "aria-labelledby": `tab-${id}`, className: "panel" }, panel));

  /** @param {number} chosen */
  function select(chosen) {
    buttons.forEach((button, index) => {
      button.setAttribute("aria-selected", String(index === chosen));
      button.tabIndex = index === chosen ? 0 : -1;
      panels[index].hidden = index !== chosen;
    });
    tabs[chosen].onshow?.();
  }

  /**
   * @param {KeyboardEvent} event
   * @param {number} index
   */
  function move(event, index) {
    const last = buttons.length - 1;
    const goals = new Map([
      ["ArrowRight", index === last ? 0 : index + 1], ["ArrowLeft", index === 0 ? last : index - 1],
      ["Home", 0], ["End", last],
    ]);
    const goal = goals.get(event.key);
    if (goal === undefined) return;
    event.preventDefault();
    select(goal);
    buttons[goal].focus();
  }

  select(0);
  return h("div", { className: "tabbed" }, h("div", { role: "tablist", "aria-label": label, className: "tablist" }, ...buttons), ...panels);
}
