/* Keeps verdict, prompt and server status up to date with what is typed.
 *
 * Knows: when to ask which route, when to ask again.
 * Never knows: elements.
 *
 *     typing ─► pause ─► check ─┬─► verdict
 *                        render ┘   429: again after Retry-After · 503, no answer: watch /health · 401: wait for a key
 */

import * as api from "./api.js";
import { Latest } from "./latest.js";
import { isJudgeable, newTurn } from "./store.js";

const MIN_PAUSE_MS = 180;
const MAX_PAUSE_MS = 1200;
const POLL_MS = { connecting: 1000, loading: 700, unreachable: 2000, failed: 5000, ready: 0 };

export class Conductor {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    this.checks = new Latest((signal) => this.check(signal), () => this.pauseMs());
    this.renderings = new Latest((signal) => this.render(signal), () => MIN_PAUSE_MS);
  }

  /** Begin: find out about the server, then follow the store. */
  start() {
    this.pollHealth();
    this.store.watch(["turns", "policy"], () => this.ask());
  }

  /** Something to judge may have changed. */
  ask() {
    if (isJudgeable(this.store.state.turns)) {
      this.checks.soon();
    } else {
      this.checks.cancel();
      this.store.set({ check: { phase: "empty" } });
    }
    this.renderings.soon();
  }

  /** Do not wait for a pause, or ask again after an error. */
  askNow() {
    if (isJudgeable(this.store.state.turns)) this.checks.now();
    this.renderings.now();
  }

  /** @param {string} key */
  useKey(key) {
    api.key.set(key);
    this.store.set({ needsKey: false, renderingError: null });
    this.askNow();
  }

  /** A slow guard is asked less often, or it would only ever hear beginnings of sentences. */
  pauseMs() {
    const last = this.store.state.check.latencyMs ?? 0;
    return Math.min(MAX_PAUSE_MS, Math.max(MIN_PAUSE_MS, last / 2));
  }

  /** @param {AbortSignal} signal */
  async check(signal) {
    const { turns, policy, check } = this.store.state;
    this.store.set({ check: { ...check, phase: "pending", error: undefined } });
    const startedAt = performance.now();
    try {
      const { verdict, request } = await api.check({ turns, policy }, signal);
      if (signal.aborted) return;
      const latencyMs = performance.now() - startedAt;
      this.store.set({ check: { phase: "done", verdict, latencyMs, request }, needsKey: false });
    } catch (error) {
      if (signal.aborted) return;
      this.failed(api.asApiError(error));
    }
  }

  /** @param {api.ApiError} error */
  failed(error) {
    const { latencyMs } = this.store.state.check;
    this.store.set({ check: { phase: "error", error, latencyMs } });
    if (error.kind === "key") this.store.set({ needsKey: true });
    if (error.kind === "busy") this.checks.soon(1000 * error.retryAfterS);
    if (error.kind === "loading" || error.kind === "unreachable") this.pollHealth();
  }

  /** @param {AbortSignal} signal */
  async render(signal) {
    const { turns, policy } = this.store.state;
    const shown = isJudgeable(turns) ? turns : [newTurn("user", "…")];
    try {
      const rendering = await api.render({ turns: shown, policy }, signal);
      if (signal.aborted) return;
      const defaultPolicy = rendering.policy.is_default ? rendering.policy : this.store.state.defaultPolicy;
      this.store.set({ rendering, renderingError: null, defaultPolicy });
    } catch (error) {
      if (signal.aborted) return;
      const found = api.asApiError(error);
      if (found.kind === "key") this.store.set({ needsKey: true });
      this.store.set({ rendering: null, renderingError: found.message });
    }
  }

  async pollHealth() {
    clearTimeout(this.poll);
    const before = this.store.state.server.status;
    const server = await readHealth();
    this.store.set({ server });
    if (server.status === "ready" && before !== "ready") this.askNow();
    const waitMs = POLL_MS[server.status];
    if (waitMs) this.poll = setTimeout(() => this.pollHealth(), waitMs);
  }

  /** @type {ReturnType<typeof setTimeout> | undefined} */
  poll = undefined;
}

/** @returns {Promise<import("./store.js").Server>} */
async function readHealth() {
  try {
    const { ok, body } = await api.health();
    if (ok) return { status: "ready", progress: 1, health: body };
    const status = body.status === "loading" ? "loading" : "failed";
    return { status, progress: body.progress ?? 0, error: body.error };
  } catch {
    return { status: "unreachable", progress: 0 };
  }
}
