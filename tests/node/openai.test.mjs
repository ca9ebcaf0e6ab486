// OpenAI's npm SDK, unchanged but for the base URL.
import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI, { toFile } from "openai";

import { BASE, HARMFUL, HARMLESS, MODEL, UNSAFE } from "./server.mjs";

const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: HARMLESS }];

test("moderations: one result per text, all thirteen categories", async () => {
  const reply = await client.moderations.create({ input: [HARMLESS, HARMFUL], model: "omni-moderation-latest" });
  assert.equal(reply.results.length, 2);
  assert.deepEqual(reply.results.map((result) => result.flagged), [false, true]);
  assert.ok(Object.values(reply.results[1].categories).includes(true));
  assert.equal(reply.results[0].categories["sexual/minors"], false);
  assert.equal(reply.results[0].category_scores["self-harm/intent"], 0);
});

test("chat: whole and streamed answers agree", async () => {
  const whole = await client.chat.completions.create({ model: MODEL, messages });
  assert.equal(whole.choices[0].message.content, "safe");
  const unsafe = await client.chat.completions.create({ model: MODEL, messages: [{ role: "user", content: HARMFUL }] });
  assert.match(unsafe.choices[0].message.content, UNSAFE);
  const stream = await client.chat.completions.create({
    model: MODEL,
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, "safe");
  assert.deepEqual(usage, whole.usage);
});

test("the stream helper assembles the answer", async () => {
  const final = await client.chat.completions.stream({ model: MODEL, messages }).finalChatCompletion();
  assert.equal(final.choices[0].message.content, "safe");
});

test("completions and models answer", async () => {
  const reply = await client.completions.create({ model: MODEL, prompt: "how to", max_tokens: 3 });
  assert.equal(reply.object, "text_completion");
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes(MODEL));
  assert.equal((await client.models.retrieve(names[0])).id, names[0]);
});

test("errors are the SDK's own classes, before a stream begins, too", async () => {
  await assert.rejects(client.moderations.create({ input: "" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.type, "invalid_request_error");
    assert.ok(error.requestID);
    return true;
  });
  const empty = [{ role: "user", content: "" }];
  await assert.rejects(client.chat.completions.create({ model: MODEL, messages: empty, stream: true }), OpenAI.BadRequestError);
  await assert.rejects(client.moderations.create({ input: "a", model: "gpt-4o" }), { code: "model_not_found" });
});

test("a batch: upload, wait, read", async () => {
  const row = (id, input) => JSON.stringify({ custom_id: id, method: "POST", url: "/v1/moderations", body: { input } });
  const file = await toFile(Buffer.from(`${row("good", HARMLESS)}\n${row("bad", HARMFUL)}\n${row("none", "")}\n`), "rows.jsonl");
  const { id } = await client.files.create({ file, purpose: "batch" });
  let batch = await client.batches.create({ input_file_id: id, endpoint: "/v1/moderations", completion_window: "24h" });
  while (batch.status === "in_progress") {
    await new Promise((resolve) => setTimeout(resolve, 50));
    batch = await client.batches.retrieve(batch.id);
  }
  assert.equal(batch.status, "completed");
  assert.deepEqual(batch.request_counts, { total: 3, completed: 2, failed: 1 });
  const lines = async (name) => (await (await client.files.content(name)).text()).trim().split("\n").map((line) => JSON.parse(line));
  const flagged = Object.fromEntries(
    (await lines(batch.output_file_id)).map((line) => [line.custom_id, line.response.body.results[0].flagged]),
  );
  assert.deepEqual(flagged, { good: false, bad: true });
  const [failed] = await lines(batch.error_file_id);
  assert.equal(failed.custom_id, "none");
  assert.equal(failed.response.status_code, 400);
  await client.files.delete(id);
  await assert.rejects(client.files.retrieve(id), OpenAI.NotFoundError);
});
