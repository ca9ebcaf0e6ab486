// miniflare: examples/worker through its remote proxy, and the rest of what the binding's wrapper can do.
import assert from "node:assert/strict";
import test, { after } from "node:test";
import { generateText, streamText } from "ai";
import { Miniflare } from "miniflare";
import { createWorkersAI } from "workers-ai-provider";
import { options } from "../../examples/worker/miniflare.mjs";
import { BASE, HARMFUL, HARMLESS, MODEL, UNSAFE, readEvents } from "./server.mjs";

const miniflare = new Miniflare(options(BASE, 0));
after(() => miniflare.dispose());
const get = (path) => miniflare.dispatchFetch(`http://worker${path}`);

test("the example's Worker runs, plain and streaming", async () => {
  assert.equal((await (await get("/")).json()).response, "safe");
  const { text, isDone } = await readEvents((await get(`/stream?text=${encodeURIComponent(HARMFUL)}`)).body);
  assert.match(text, UNSAFE);
  assert.ok(isDone);
});

test("the example's Worker sees errors and models", async () => {
  assert.match((await (await get("/?text=")).json()).error, /^5006: Error: /);
  assert.deepEqual((await (await get("/models")).json()).map((model) => model.name), [MODEL]);
});

test("gateway, prefix and raw responses work as on the platform", async () => {
  const { AI } = await miniflare.getBindings();
  const inputs = { prompt: HARMLESS };
  const gateway = { id: "mine", skipCache: true, metadata: { from: "test" } };
  assert.equal((await AI.run(MODEL, inputs, { gateway })).response, "safe");
  assert.equal((await AI.run(MODEL, inputs, { prefix: "staging" })).response, "safe");
  const raw = await AI.run(MODEL, inputs, { returnRawResponse: true });
  assert.equal(raw.headers.get("content-type"), "application/json");
  assert.equal((await raw.json()).response, "safe");
});

test("a batch is queued by the third argument, and polled until it is done", async () => {
  const { AI } = await miniflare.getBindings();
  const requests = [HARMLESS, HARMFUL].map((prompt, i) => ({ prompt, external_reference: `number ${i}` }));
  const { status, request_id } = await AI.run(MODEL, { requests }, { queueRequest: true });
  assert.equal(status, "queued");
  let answer;
  do answer = await AI.run(MODEL, { request_id });
  while (!answer.responses);
  const responses = answer.responses.sort((a, b) => a.id - b.id);
  assert.deepEqual(responses.map((one) => one.external_reference), ["number 0", "number 1"]);
  assert.equal(responses[0].result.response, "safe");
  assert.match(responses[1].result.response, UNSAFE);
});

test("an unknown model is an error by name and number", async () => {
  const { AI } = await miniflare.getBindings();
  await assert.rejects(AI.run("@cf/meta/nothing", { prompt: HARMLESS }), { message: /^5007: No such model @cf\/meta\/nothing or task$/ });
});

test("workers-ai-provider takes the binding", async () => {
  const { AI } = await miniflare.getBindings();
  const model = createWorkersAI({ binding: AI })(MODEL);
  assert.equal((await generateText({ model, prompt: HARMLESS })).text, "safe");
  assert.match(await streamText({ model, prompt: HARMFUL }).text, UNSAFE);
});
