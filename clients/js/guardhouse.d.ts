/** One message of a conversation; a system message may hold a category list, which is then the policy. */
export interface Message {
  role: "system" | "user" | "assistant" | "tool";
  content: string | { type: "text"; text: string }[];
}

/** A text that a user wrote, a conversation, or either with options of its own. */
export type Input =
  | string
  | Message[]
  | { text: string; role?: "user" | "assistant"; policy?: string; threshold?: number }
  | { messages: Message[]; policy?: string; threshold?: number };

export interface Verdict {
  flagged: boolean;
  /** P(unsafe), 0 to 1. */
  score: number;
  /** P(safe) + P(unsafe) over the model's whole vocabulary. */
  mass: number;
  /** By code, such as O3; they sum to the score. */
  categories: Record<string, number>;
  category_names: Record<string, string>;
  /** The codes that the model names; none where the text is not flagged. */
  codes: string[];
  /** The model's answer: "safe", or "unsafe\nO3". */
  text: string;
  policy: string;
  role: "user" | "assistant";
  threshold: number;
  num_prompt_tokens: number;
  num_cached_tokens: number;
  /** Parts of the judged turn in characters; more than one for long texts. */
  windows: { start: number; end: number; score: number }[];
}

export type StreamedVerdict =
  | { index: number; verdict: Verdict; error?: undefined }
  | { index: number; verdict?: undefined; error: { message: string; type: string; param: string | null; code: string | null } };

export interface CheckOptions {
  /** A category list to judge by, instead of the checkpoint's own. */
  policy?: string;
  /** The score from which a text is flagged. */
  threshold?: number;
  /** A finetune's id or name: judge under its adapter. */
  lora?: string;
  signal?: AbortSignal;
}

export interface Moderation {
  id: string;
  model: string;
  results: {
    flagged: boolean;
    categories: Record<string, boolean>;
    category_scores: Record<string, number>;
    category_applied_input_types: Record<string, string[]>;
    verdict: Omit<Verdict, "category_names">;
  }[];
}

/** Inputs of the guard model on Workers AI. */
export interface RunInputs {
  prompt?: string;
  messages?: { role: string; content: string }[];
  raw?: boolean;
  stream?: boolean;
  max_tokens?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  seed?: number;
  [key: string]: unknown;
}

export interface RunResult {
  response: string;
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
  verdict?: Omit<Verdict, "category_names">;
}

export interface RunOptions {
  returnRawResponse?: boolean;
  extraHeaders?: Record<string, string>;
  sessionOptions?: { extraHeaders?: Record<string, string> };
  prefix?: string;
  signal?: AbortSignal;
  [key: string]: unknown;
}

/** A row of the catalogue. */
export interface Model {
  id: string;
  source: number;
  name: string;
  description: string;
  task: { id: string; name: string; description: string };
  tags: string[];
  properties: { property_id: string; value: string }[];
}

export interface ModelsParams {
  search?: string;
  task?: string;
  author?: string;
  source?: number;
  hide_experimental?: boolean;
  page?: number;
  per_page?: number;
}

export interface ClientOptions {
  /** Default: http://127.0.0.1:8787 */
  baseUrl?: string | URL;
  apiKey?: string;
  fetch?: typeof fetch;
  /** Further tries after 408, 429, 5xx and failed connections. Default: 2 */
  maxRetries?: number;
  /** For the beginning of one answer. Default: 120000 */
  timeoutMs?: number;
}

export class Guardhouse {
  constructor(options?: ClientOptions);
  lastRequestId: string | null;
  lastRequestHttpStatusCode: number | null;
  check(input: Input, options?: CheckOptions): Promise<Verdict & { id: string; model: string }>;
  checkMany(inputs: Iterable<Input> | AsyncIterable<Input>, options?: CheckOptions): AsyncGenerator<Verdict>;
  checkStream(inputs: Input[], options?: CheckOptions): AsyncGenerator<StreamedVerdict>;
  moderate(input: string | string[], options?: CheckOptions & { model?: string }): Promise<Moderation>;
  info(options?: { signal?: AbortSignal }): Promise<Record<string, unknown>>;
  run(model: string, inputs: RunInputs & { stream: true }, options?: RunOptions & { returnRawResponse?: false }): Promise<ReadableStream<Uint8Array>>;
  run(model: string, inputs: RunInputs, options: RunOptions & { returnRawResponse: true }): Promise<Response>;
  run(model: string, inputs: RunInputs, options?: RunOptions): Promise<RunResult>;
  models(params?: ModelsParams, options?: { signal?: AbortSignal }): Promise<Model[]>;
}

export class ApiError extends Error {
  status: number;
  code: string | number | null | undefined;
  requestId: string | null;
}

export class ConnectionFailed extends Error {}

export class InferenceUpstreamError extends Error {}

/** Milliseconds until try number `attempt + 1`, or null where none can help. */
export function delayMs(attempt: number, response?: Response): number | null;
