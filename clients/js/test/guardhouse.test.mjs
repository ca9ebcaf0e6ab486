// Against a real server, whose address is in BASE_URL, and a local one that fails now and then.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { ApiError, ConnectionFailed, Guardhouse, delayMs } from "../guardhouse.js";

const MODEL = "@hf/thebloke/llamaguard-7b-awq";
const MESSAGES = [
  { role: "user", content: "how to make a bomb" },
  { role: "assistant", content: "a cake" },
];
const guard = new Guardhouse({ baseUrl: process.env.BASE_URL, maxRetries: 0 });

test("check gives the whole verdict of a text and of a conversation", async () => {
  const verdict = await guard.check("how to make a cake");
  assert.equal(verdict.flagged, false);
  assert.equal(verdict.text, "safe");
  assert.deepEqual(Object.keys(verdict.category_names), Object.keys(verdict.categories));
  assert.equal((await guard.check(MESSAGES)).role, "assistant");
});

test("policy and threshold travel", async () => {
  const verdict = await guard.check("a cake", { policy: "O1: Cakes.\nO2: Bombs.", threshold: 0 });
  assert.equal(verdict.flagged, true);
  assert.deepEqual(verdict.category_names, { O1: "Cakes", O2: "Bombs" });
});

test("checkMany keeps the order", async () => {
  const texts = Array.from({ length: 70 }, (_, number) => `a cake ${number}`);
  const ends = [];
  for await (const verdict of guard.checkMany(texts)) ends.push(verdict.windows[0].end);
  assert.deepEqual(ends, texts.map((text) => text.length));
});

test("checkStream tells verdicts and errors by their index", async () => {
  const found = [];
  for await (const one of guard.checkStream(["a cake", "", { text: "a bomb", threshold: 0 }])) found[one.index] = one;
  assert.equal(found[0].verdict.flagged, false);
  assert.equal(found[1].error.message, "the judged turn is empty");
  assert.equal(found[2].verdict.flagged, true);
});

test("moderate and info answer", async () => {
  const { results } = await guard.moderate(["a cake", "a bomb"]);
  assert.equal(results.length, 2);
  assert.equal(results[0].categories["self-harm/intent"], false);
  assert.ok((await guard.info()).max_model_len > 0);
});

test("run stands in for env.AI: bare results", async () => {
  const result = await guard.run(MODEL, { messages: MESSAGES });
  assert.equal(result.response, "safe");
  assert.ok(result.usage.total_tokens > 0);
  assert.match(guard.lastRequestId, /^[0-9a-f-]{36}$/);
  const raw = await guard.run(MODEL, { prompt: "a cake" }, { returnRawResponse: true });
  assert.ok(raw instanceof Response);
});

test("run stands in for env.AI: streams", async () => {
  const stream = await guard.run(MODEL, { prompt: "a cake", stream: true });
  assert.ok(stream instanceof ReadableStream);
  let text = "";
  for await (const piece of stream.pipeThrough(new TextDecoderStream())) text += piece;
  assert.ok(text.startsWith('data: {"response":"safe"'));
  assert.ok(text.endsWith("data: [DONE]\n\n"));
});

test("run stands in for env.AI: errors", async () => {
  await assert.rejects(guard.run(MODEL, {}), (error) => {
    assert.match(error.message, /^5006: /);
    return true;
  });
  await assert.rejects(guard.run("@cf/meta/nothing", { prompt: "a" }), /^\w+: 5007: /);
});

test("models stands in for env.AI", async () => {
  assert.deepEqual((await guard.models({ search: "llamaguard", per_page: 1 })).map((model) => model.name), [MODEL]);
  await assert.rejects(guard.models({ page: 0 }), { name: "InferenceUpstreamError", message: /^5006: / });
});

test("refusals are ApiErrors with status, code and request id", async () => {
  await assert.rejects(guard.check(""), (error) => {
    assert.ok(error instanceof ApiError);
    assert.equal(error.status, 400);
    assert.ok(error.requestId);
    return true;
  });
  await assert.rejects(guard.moderate("a", { model: "gpt-4o" }), { code: "model_not_found", status: 404 });
});

async function failing(answers, use) {
  let tries = 0;
  const server = createServer((_, response) => {
    const [status, headers] = answers[tries] ?? [200, {}];
    tries += 1;
    if (status === 0) return response.destroy();
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(status === 200 ? '{"ok": true}' : '{"error": {"message": "busy", "code": "x"}}');
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await use(`http://127.0.0.1:${server.address().port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
  return tries;
}

test("what may succeed is tried again, after as long as the server says", async () => {
  const answers = [[429, { "retry-after": "0" }], [503, { "retry-after": "0" }]];
  const tries = await failing(answers, async (baseUrl) => {
    assert.deepEqual(await new Guardhouse({ baseUrl }).info(), { ok: true });
  });
  assert.equal(tries, 3);
});

test("a lost connection is tried again", async () => {
  const tries = await failing([[0, {}]], async (baseUrl) => {
    assert.deepEqual(await new Guardhouse({ baseUrl }).info(), { ok: true });
  });
  assert.ok(tries >= 2);
});

test("what cannot succeed is not, and the last failure is told", async () => {
  assert.equal(
    await failing([[400, {}]], (baseUrl) => assert.rejects(new Guardhouse({ baseUrl }).info(), { status: 400 })),
    1,
  );
  const busy = Array(9).fill([429, { "retry-after": "0" }]);
  assert.equal(
    await failing(busy, (baseUrl) => assert.rejects(new Guardhouse({ baseUrl }).info(), /429: busy/)),
    3,
  );
  const nobody = new Guardhouse({ baseUrl: "http://127.0.0.1:1", maxRetries: 0 });
  await assert.rejects(nobody.info(), ConnectionFailed);
});

test("a slow server is a timeout, and an abort is an abort", async () => {
  const slow = createServer(() => {});
  await new Promise((resolve) => slow.listen(0, "127.0.0.1", resolve));
  const baseUrl = `http://127.0.0.1:${slow.address().port}`;
  await assert.rejects(new Guardhouse({ baseUrl, timeoutMs: 20, maxRetries: 0 }).info(), ConnectionFailed);
  const abort = new AbortController();
  const asked = new Guardhouse({ baseUrl }).info({ signal: abort.signal });
  abort.abort();
  await assert.rejects(asked, { name: "AbortError" });
  slow.closeAllConnections();
  slow.close();
});

test("waits double up to a limit unless the server says how long", () => {
  for (let attempt = 0; attempt < 8; attempt += 1) {
    const ceiling = Math.min(8000, 500 * 2 ** attempt);
    const delay = delayMs(attempt);
    assert.ok(delay >= ceiling / 2 && delay <= ceiling);
  }
  assert.equal(delayMs(0, new Response("", { status: 429, headers: { "retry-after": "7" } })), 7000);
  assert.equal(delayMs(0, new Response("", { status: 429, headers: { "retry-after": "900" } })), null);
  assert.equal(delayMs(0, new Response("", { status: 404 })), null);
});
