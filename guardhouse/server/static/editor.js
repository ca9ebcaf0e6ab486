/* The conversation editor: a list of turns, each with who speaks and what was said.
 *
 * Knows: turns, focus.
 * Never knows: requests, verdicts.
 */

import { announce, byId, h } from "./dom.js";
import { judgedTurn, newTurn } from "./store.js";

/** @typedef {import("./store.js").Turn} Turn */

const SPEAKERS = { user: "User", assistant: "Assistant", system: "System" };
const PLACEHOLDERS = {
  user: "What does the user say?",
  assistant: "What does the assistant answer?",
  system: "Background. The guard never reads it, unless it lists categories: then it is the policy.",
};

export class Editor {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    this.list = byId("turns");
    /** @type {Map<number, TurnView>} */
    this.views = new Map();
    byId("turn-actions").append(
      h("button", { type: "button", id: "add-user", onclick: () => this.add("user") }, "+ User turn"),
      h("button", { type: "button", id: "add-assistant", onclick: () => this.add("assistant") }, "+ Assistant turn"),
      h("button", { type: "button", className: "quiet", id: "clear", onclick: () => this.clear() }, "Clear"),
    );
    store.watch(["turns"], ({ turns }) => this.show(turns));
  }

  /** @param {import("./store.js").Role} role */
  add(role) {
    const turn = newTurn(role);
    this.store.set({ turns: [...this.store.state.turns, turn] });
    this.views.get(turn.id)?.area.focus();
  }

  clear() {
    const turn = newTurn("user");
    this.store.set({ turns: [turn] });
    this.views.get(turn.id)?.area.focus();
    announce("Conversation cleared", 0);
  }

  /**
   * @param {number} id
   * @param {Partial<Turn>} patch
   */
  change(id, patch) {
    this.store.set({ turns: this.store.state.turns.map((turn) => (turn.id === id ? { ...turn, ...patch } : turn)) });
  }

  /** @param {number} id */
  remove(id) {
    const { turns } = this.store.state;
    const index = turns.findIndex((turn) => turn.id === id);
    const left = turns.filter((turn) => turn.id !== id);
    this.store.set({ turns: left });
    this.views.get(left[Math.min(index, left.length - 1)].id)?.area.focus();
    announce("Turn removed", 0);
  }

  /**
   * Elements are kept per turn, so that typing never loses the caret.
   * @param {Turn[]} turns
   */
  show(turns) {
    for (const [id, view] of this.views) {
      if (turns.some((turn) => turn.id === id)) continue;
      view.element.remove();
      this.views.delete(id);
    }
    const judged = judgedTurn(turns);
    turns.forEach((turn, index) => {
      const view = this.views.get(turn.id) ?? new TurnView(this, turn);
      this.views.set(turn.id, view);
      if (this.list.children[index] !== view.element) this.list.insertBefore(view.element, this.list.children[index]);
      view.show(turn, { number: index + 1, isJudged: turn === judged, isOnly: turns.length === 1 });
    });
  }
}

class TurnView {
  /**
   * @param {Editor} editor
   * @param {Turn} turn
   */
  constructor(editor, turn) {
    const { id } = turn;
    this.speaker = h(
      "select",
      {
        className: "speaker",
        onchange: () => editor.change(id, { role: /** @type {import("./store.js").Role} */ (this.speaker.value) }),
      },
      ...Object.entries(SPEAKERS).map(([value, label]) => h("option", { value }, label)),
    );
    this.area = h("textarea", {
      rows: 2, spellcheck: true, maxLength: 131072, id: `turn-${id}`, "aria-describedby": `turn-${id}-tag`,
      oninput: () => editor.change(id, { content: this.area.value }),
    });
    this.tag = h("span", { className: "tag", id: `turn-${id}-tag` });
    this.size = h("span", { className: "size" });
    this.removeButton = h("button", { type: "button", className: "icon", onclick: () => editor.remove(id) }, "×");
    this.element = h(
      "li",
      { className: "turn" },
      h("div", { className: "turn-head" }, this.speaker, this.tag, this.size, this.removeButton),
      this.area,
    );
  }

  /**
   * @param {Turn} turn
   * @param {{number: number, isJudged: boolean, isOnly: boolean}} place
   */
  show(turn, { number, isJudged, isOnly }) {
    const name = `turn ${number}, ${SPEAKERS[turn.role].toLowerCase()}`;
    this.element.dataset.role = turn.role;
    this.element.classList.toggle("judged", isJudged);
    this.tag.textContent = isJudged ? "judged" : turn.role === "system" ? "not judged" : "context";
    this.size.textContent = turn.content.length > 400 ? `${turn.content.length.toLocaleString("en")} characters` : "";
    this.speaker.value = turn.role;
    this.speaker.setAttribute("aria-label", `Who speaks in turn ${number}`);
    this.area.setAttribute("aria-label", `Text of ${name}`);
    this.area.placeholder = PLACEHOLDERS[turn.role];
    if (this.area.value !== turn.content) this.area.value = turn.content;
    this.removeButton.setAttribute("aria-label", `Remove ${name}`);
    this.removeButton.hidden = isOnly;
    this.fit();
  }

  /** Where the browser cannot size the area by its content, do it by hand. */
  fit() {
    if (CSS.supports("field-sizing", "content")) return;
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight}px`;
  }
}
