/* The server's public routes, and every way in which a call to them can end.
 *
 * Knows: paths, bodies, both error shapes, event streams.
 * Never knows: elements, the page's state.
 */

import { readEvents } from "./events.js";

const ROOT = new URL("../", import.meta.url);
const KEY = "guardhouse-key";
export const CHECK_PATH = "v1/check";

/** @typedef {"key" | "busy" | "loading" | "input" | "unreachable" | "server"} ErrorKind */

export class ApiError extends Error {
  /**
   * @param {ErrorKind} kind
   * @param {string} message
   * @param {{status?: number, code?: number | string, requestId?: string | null, retryAfterS?: number}} [facts]
   */
  constructor(kind, message, facts = {}) {
    super(message);
    this.kind = kind;
    this.status = facts.status;
    this.code = facts.code;
    this.requestId = facts.requestId ?? null;
    this.retryAfterS = facts.retryAfterS ?? 2;
  }
}

/**
 * Whatever was thrown, as one kind of error.
 * @param {unknown} error
 */
export function asApiError(error) {
  return error instanceof ApiError ? error : new ApiError("server", `The page failed: ${error}`);
}

/** The key lives as long as the tab. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  /** @param {string} value */
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Where the API begins, with a slash at its end. */
export const baseUrl = () => ROOT.href;

/**
 * The body that says it to /v1/check and /v1/render.
 * @param {Question} question
 */
export function bodyOf({ turns, policy }) {
  return { messages: messagesOf({ turns, policy: null }), ...(policy === null ? {} : { policy }) };
}

/**
 * Chat messages for routes that know no policy; it goes first, between the markers that make any text a policy
 * or an error, never background.
 * @typedef {{turns: import("./store.js").Turn[], policy: string | null}} Question
 * @param {Question} question
 */
export function messagesOf({ turns, policy }) {
  const messages = turns.map(({ role, content }) => ({ role, content }));
  if (policy === null) return messages;
  const content = `<BEGIN UNSAFE CONTENT CATEGORIES>\n${policy}\n<END UNSAFE CONTENT CATEGORIES>`;
  return [{ role: "system", content }, ...messages];
}

/** @param {AbortSignal} [signal] */
export async function health(signal) {
  const response = await reach("health", { signal });
  return { ok: response.ok, body: await response.json() };
}

/**
 * Judge the last turn.
 * @param {Question} question
 * @param {AbortSignal} signal
 */
export async function check(question, signal) {
  const request = bodyOf(question);
  const verdict = await (await post(CHECK_PATH, request, signal)).json();
  return { verdict, request };
}

/**
 * The prompt that the guard reads.
 * @param {Question} question
 * @param {AbortSignal} signal
 * @returns {Promise<import("./store.js").Rendering>}
 */
export async function render(question, signal) {
  return (await post("v1/render", bodyOf(question), signal)).json();
}

/**
 * Let the model write its answer, token by token and with log probabilities.
 * @param {Question} question
 * @param {AbortSignal} signal
 */
export async function* stream(question, signal) {
  const body = { messages: messagesOf(question), stream: true, logprobs: true, top_logprobs: 3 };
  const response = await post("v1/chat/completions", body, signal);
  if (!response.body) throw new ApiError("server", "The server sent no stream.");
  yield* readEvents(response.body);
}

/**
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} signal
 */
async function post(path, body, signal) {
  /** @type {Record<string, string>} */
  const headers = { "content-type": "application/json" };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  const response = await reach(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw await failure(response);
  return response;
}

/**
 * @param {string} path
 * @param {RequestInit} options
 */
async function reach(path, options) {
  try {
    return await fetch(new URL(path, ROOT), { cache: "no-store", credentials: "omit", ...options });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("unreachable", "The server does not answer.");
  }
}

const KEY_CODES = /** @type {unknown[]} */ ([6003, "invalid_headers"]); // the key is no key at all: status 400
/** @type {Record<number, ErrorKind>} */
const KINDS = { 401: "key", 403: "key", 429: "busy", 503: "loading", 400: "input", 408: "busy", 413: "input" };

/** @param {Response} response */
async function failure(response) {
  const { status, headers } = response;
  const { message, code } = errorOf(await response.text());
  return new ApiError(KEY_CODES.includes(code) ? "key" : KINDS[status] ?? "server", plain(message), {
    status,
    code,
    requestId: headers.get("x-request-id") ?? headers.get("cf-ai-req-id"),
    retryAfterS: Number(headers.get("retry-after")) || 2,
  });
}

/**
 * Cloudflare's shape or OpenAI's.
 * @param {string} text
 * @returns {{message: string, code?: number | string}}
 */
function errorOf(text) {
  try {
    const body = JSON.parse(text);
    const error = body.errors?.[0] ?? body.error;
    return { message: String(error.message), code: error.code };
  } catch {
    return { message: "The server's answer was not understood." };
  }
}

/**
 * Without the wire's "AiError: Title: " in front and the request id behind.
 * @param {string} message
 */
export function plain(message) {
  return message
    .replace(/^AiError: [^:]+: (Error: )?/, "")
    .replace(/ \([0-9a-f-]{36}\)$/, "");
}
