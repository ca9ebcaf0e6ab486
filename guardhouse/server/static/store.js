/* The page's one state, and who wants to hear of its changes.
 *
 * Knows: names of the parts of the state.
 * Never knows: elements, requests.
 */

/**
 * @typedef {"user" | "assistant" | "system"} Role
 * @typedef {{id: number, role: Role, content: string}} Turn
 * @typedef {{flagged: boolean, score: number, mass: number, categories: Record<string, number>, codes: string[],
 *   policy: string, role: string, threshold: number, num_prompt_tokens: number, num_cached_tokens: number,
 *   category_names: Record<string, string>, windows: {start: number, end: number, score: number}[], text: string}} Verdict
 * @typedef {{phase: "empty" | "pending" | "done" | "error", verdict?: Verdict, latencyMs?: number,
 *   error?: import("./api.js").ApiError, request?: object}} Check
 * @typedef {{kind: string, text: string, num_tokens: number, role: string | null}} Part
 * @typedef {{code: string, name: string, description: string}} Category
 * @typedef {{role: string, num_tokens: number, window: number, parts: Part[], policy: {name: string,
 *   is_default: boolean, text: string, num_tokens: number, categories: Category[]}}} Rendering
 * @typedef {{status: "connecting" | "loading" | "ready" | "failed" | "unreachable", progress: number, error?: string,
 *   health?: Record<string, any>}} Server
 * @typedef {{turns: Turn[], policy: string | null, threshold: number | null, check: Check, rendering: Rendering | null,
 *   renderingError: string | null, defaultPolicy: Rendering["policy"] | null, server: Server, needsKey: boolean}} State
 */

export const DEFAULT_THRESHOLD = 0.5;

/** @returns {State} */
export function initialState() {
  return {
    turns: [newTurn("user")],
    policy: null, // null: the guard's own
    threshold: null, // null: the server's own
    check: { phase: "empty" },
    rendering: null,
    renderingError: null,
    defaultPolicy: null,
    server: { status: "connecting", progress: 0 },
    needsKey: false,
  };
}

let lastId = 0;

/**
 * @param {Role} role
 * @param {string} [content]
 * @returns {Turn}
 */
export function newTurn(role, content = "") {
  lastId += 1;
  return { id: lastId, role, content };
}

export class Store {
  /** @param {State} state */
  constructor(state) {
    this.state = state;
    /** @type {{keys: (keyof State)[], tell: (state: State) => void}[]} */
    this.listeners = [];
  }

  /**
   * Call `tell` now, and again after every change of one of the parts named.
   * @param {(keyof State)[]} keys
   * @param {(state: State) => void} tell
   */
  watch(keys, tell) {
    this.listeners.push({ keys, tell });
    tell(this.state);
  }

  /** @param {Partial<State>} patch */
  set(patch) {
    this.state = { ...this.state, ...patch };
    for (const { keys, tell } of this.listeners) {
      if (keys.some((key) => key in patch)) tell(this.state);
    }
  }
}

/**
 * The turn that is judged: the last one that is no system message.
 * @param {Turn[]} turns
 */
export function judgedTurn(turns) {
  return turns.filter((turn) => turn.role !== "system").at(-1);
}

/**
 * Whether there is something to judge.
 * @param {Turn[]} turns
 */
export function isJudgeable(turns) {
  return Boolean(judgedTurn(turns)?.content.trim());
}

/** @param {State} state */
export function thresholdOf(state) {
  return state.threshold ?? state.check.verdict?.threshold ?? DEFAULT_THRESHOLD;
}
