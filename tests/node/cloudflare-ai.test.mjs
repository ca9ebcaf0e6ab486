// @cloudflare/ai 1.1.0: the package that Workers used when this model was young. It unpacks gzip and reads errors as text.
import assert from "node:assert/strict";
import test from "node:test";
import { Ai } from "@cloudflare/ai";
import { BASE, HARMFUL, HARMLESS, MODEL, UNSAFE, readEvents } from "./server.mjs";

const ai = new Ai({ fetch: (url, init) => fetch(url.replace("http://workers-binding.ai", BASE), init) });

test("run gives the bare result, or the events", async () => {
  assert.equal((await ai.run(MODEL, { prompt: HARMLESS })).response, "safe");
  assert.match(ai.lastRequestId, /^[0-9a-f-]{36}$/);
  const { text, isDone } = await readEvents(await ai.run(MODEL, { prompt: HARMFUL, stream: true }));
  assert.match(text, UNSAFE);
  assert.ok(isDone);
});

test("an error is its text", async () => {
  const refusal = { name: "InferenceUpstreamError", httpCode: 400, message: /^5006: Error: / };
  await assert.rejects(ai.run(MODEL, { prompt: "" }), refusal);
});
