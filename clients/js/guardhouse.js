// Ask a Guardhouse server from JavaScript: browsers, Node 20+, Deno, Bun, Workers. No dependencies.
//
// Knows: the server's routes, retries, timeouts, NDJSON, and the errors that a Worker's env.AI throws.
// Never knows: how anything is judged.

const RETRIED = new Set([408, 429]); // and every 5xx: the same request may well succeed later
const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 8_000;
const MAX_RETRY_AFTER_MS = 60_000; // a server that asks for more is taken at its word: the error is thrown at once
const CHUNK = 64; // inputs of checkMany in one request

/** The server answered with an error: `status`, `code` (OpenAI's word or Workers AI's number), `requestId`. */
export class ApiError extends Error {
  constructor(status, message, code, requestId) {
    super(`${status}: ${message}`);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.requestId = requestId;
  }
}

/** No answer: the server could not be reached, or took longer than the timeout. */
export class ConnectionFailed extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = "ConnectionFailed";
  }
}

/** What env.AI.run() throws; its message is `code: description`, as Workers match on it. */
export class InferenceUpstreamError extends Error {
  constructor(message, name = "InferenceUpstreamError") {
    super(message);
    this.name = name;
  }
}

export class Guardhouse {
  /** The request id of the last run(), as on env.AI. */
  lastRequestId = null;
  lastRequestHttpStatusCode = null;

  #baseUrl;
  #apiKey;
  #fetch;
  #maxRetries;
  #timeoutMs;

  constructor({
    baseUrl = "http://127.0.0.1:8787",
    apiKey,
    fetch = globalThis.fetch,
    maxRetries = 2,
    timeoutMs = 120_000,
  } = {}) {
    this.#baseUrl = String(baseUrl).replace(/\/+$/, "");
    this.#apiKey = apiKey;
    this.#fetch = fetch;
    this.#maxRetries = maxRetries;
    this.#timeoutMs = timeoutMs;
  }

  /** Judge a text, or the last turn of a conversation. */
  async check(input, { policy, threshold, lora, signal } = {}) {
    return this.#json("/v1/check", { ...asInput(input), policy, threshold, lora }, signal);
  }

  /** Judge many: yields verdicts in order. The first error ends it. */
  async *checkMany(inputs, { policy, threshold, lora, signal } = {}) {
    for await (const chunk of chunks(inputs)) {
      const body = { inputs: chunk.map(asInput), policy, threshold, lora };
      yield* (await this.#json("/v1/check", body, signal)).results;
    }
  }

  /** Judge many as they come: yields {index, verdict} or {index, error}, whichever is found first. */
  async *checkStream(inputs, { policy, threshold, lora, signal } = {}) {
    const body = { inputs: inputs.map(asInput), policy, threshold, lora, stream: true };
    const response = await this.#send("/v1/check", post(body), signal);
    await throwUnlessOk(response);
    for await (const line of lines(response.body)) yield JSON.parse(line);
  }

  /** The reply of /v1/moderations, as OpenAI has it. */
  async moderate(input, { policy, threshold, lora, model, signal } = {}) {
    return this.#json("/v1/moderations", { input, policy, threshold, lora, model }, signal);
  }

  /** What runs there. */
  async info({ signal } = {}) {
    const response = await this.#send("/info", {}, signal);
    await throwUnlessOk(response);
    return response.json();
  }

  /**
   * env.AI.run(): the bare result; a ReadableStream of server-sent events where `inputs.stream` is true; the Response
   * itself with `options.returnRawResponse`. Throws what env.AI throws.
   */
  async run(model, inputs, options = {}) {
    const { prefix, extraHeaders, sessionOptions, signal, returnRawResponse, ...rest } = options;
    const request = post({ inputs, options: rest });
    request.headers = {
      ...sessionOptions?.extraHeaders,
      ...extraHeaders,
      ...request.headers,
      "cf-consn-sdk-version": "2.0.0",
      "cf-consn-model-id": prefix ? `${prefix}:${model}` : model,
    };
    const response = await this.#send("/run?version=3", request, signal);
    this.lastRequestId = response.headers.get("cf-ai-req-id");
    this.lastRequestHttpStatusCode = response.status;
    if (returnRawResponse) return response;
    if (!response.ok) throw await upstreamError(response);
    return response.headers.get("content-type") === "application/json" ? response.json() : response.body;
  }

  /** env.AI.models(): the rows of the catalogue; `params` as there: search, task, author, page, per_page. */
  async models(params = {}, { signal } = {}) {
    const response = await this.#send(`/ai-api/models/search?${new URLSearchParams(params)}`, {}, signal);
    if (!response.ok) throw await upstreamError(response);
    return (await response.json()).result;
  }

  async #json(path, body, signal) {
    const response = await this.#send(path, post(body), signal);
    await throwUnlessOk(response);
    return response.json();
  }

  /** The response, after further tries where trying again can help. */
  async #send(path, request, signal) {
    const headers = { ...request.headers, ...(this.#apiKey && { authorization: `Bearer ${this.#apiKey}` }) };
    for (let attempt = 0; ; attempt += 1) {
      let response;
      let failure;
      try {
        response = await this.#try(`${this.#baseUrl}${path}`, { ...request, headers }, signal);
      } catch (error) {
        if (signal?.aborted) throw error;
        failure = error;
      }
      const delay = attempt < this.#maxRetries ? delayMs(attempt, response) : null;
      if (delay === null && failure) throw new ConnectionFailed(`no answer from ${this.#baseUrl}`, { cause: failure });
      if (delay === null) return response;
      await response?.body?.cancel();
      await sleep(delay, signal);
    }
  }

  /** The timeout is for the answer's head: a stream may go on for longer. */
  async #try(url, request, signal) {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Error("timeout")), this.#timeoutMs);
    try {
      return await this.#fetch.call(globalThis, url, { ...request, signal: either(signal, late.signal) });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Milliseconds until the next try, or null where none can help. */
export function delayMs(attempt, response) {
  if (response && !RETRIED.has(response.status) && response.status < 500) return null;
  const wanted = response ? retryAfterMs(response.headers.get("retry-after")) : null;
  if (wanted !== null) return wanted <= MAX_RETRY_AFTER_MS ? wanted : null;
  const ceiling = Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** attempt);
  return ceiling * (0.5 + Math.random() / 2);
}

function retryAfterMs(header) {
  if (!header) return null;
  if (/^\s*\d+\s*$/.test(header)) return Number(header) * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, at - Date.now());
}

function asInput(input) {
  if (typeof input === "string") return { text: input };
  return Array.isArray(input) ? { messages: input } : input;
}

function post(body) {
  return { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } };
}

async function throwUnlessOk(response) {
  if (response.ok) return;
  const requestId = response.headers.get("x-request-id") ?? response.headers.get("cf-ai-req-id");
  const body = await response.json().catch(() => null);
  const error = body?.error ?? body?.errors?.[0];
  throw new ApiError(response.status, error?.message ?? (response.statusText || "no message"), error?.code, requestId);
}

async function upstreamError(response) {
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    if (body.internalCode) return new InferenceUpstreamError(`${body.internalCode}: ${body.description}`, body.name);
    return new InferenceUpstreamError(`${body.errors[0].code}: ${body.errors[0].message}`);
  } catch {
    return new InferenceUpstreamError(text);
  }
}

async function* chunks(items) {
  let chunk = [];
  for await (const item of items) {
    chunk.push(item);
    if (chunk.length === CHUNK) {
      yield chunk;
      chunk = [];
    }
  }
  if (chunk.length) yield chunk;
}

async function* lines(stream) {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).split("\n");
    rest = parts.pop();
    yield* parts;
  }
  if (rest) throw new ConnectionFailed("the stream ended in the middle of a line");
}

/** A signal that either of two aborts; AbortSignal.any() is missing in older engines. */
function either(first, second) {
  if (!first) return second;
  const both = new AbortController();
  for (const signal of [first, second]) {
    if (signal.aborted) both.abort(signal.reason);
    signal.addEventListener("abort", () => both.abort(signal.reason), { once: true });
  }
  return both.signal;
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
