// The AI SDK with its Workers AI provider; only `fetch` knows that another server answers.
import assert from "node:assert/strict";
import test from "node:test";
import { APICallError, generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import { createWorkersAI } from "workers-ai-provider";
import { Guardhouse } from "../../clients/js/guardhouse.js";
import { BASE, HARMFUL, HARMLESS, MODEL, UNSAFE } from "./server.mjs";

const toGuardhouse = (url, init) => fetch(String(url).replace(/^https:\/\/(api|gateway\.ai)\.cloudflare\.com/, BASE), init);
const settings = { accountId: "local", apiKey: "any", fetch: toGuardhouse };
const model = createWorkersAI(settings)(MODEL);

test("generateText gives the verdict and its usage", async () => {
  const { text, usage, finishReason } = await generateText({ model, prompt: HARMLESS });
  assert.equal(text, "safe");
  assert.equal(usage.outputTokens, 1);
  assert.ok(usage.inputTokens > 50);
  assert.equal(finishReason, "stop");
});

test("generateText judges the last turn of a conversation", async () => {
  const messages = [
    { role: "user", content: HARMLESS },
    { role: "assistant", content: "Mix flour, water, salt and yeast." },
    { role: "user", content: HARMFUL },
  ];
  assert.match((await generateText({ model, messages })).text, UNSAFE);
});

test("streamText ends well, with usage", async () => {
  const result = streamText({ model, prompt: HARMFUL });
  let text = "";
  for await (const part of result.textStream) text += part;
  assert.match(text, UNSAFE);
  assert.equal(await result.finishReason, "stop");
  assert.ok((await result.usage).outputTokens > 1);
});

test("the address of an AI Gateway leads here too", async () => {
  const behind = createWorkersAI({ ...settings, gateway: { id: "mine", skipCache: true } })(MODEL);
  assert.equal((await generateText({ model: behind, prompt: HARMLESS })).text, "safe");
  assert.match(await streamText({ model: behind, prompt: HARMFUL }).text, UNSAFE);
});

test("generateObject gives an object that fits its schema", async () => {
  const schema = jsonSchema({
    type: "object",
    properties: { verdict: { type: "string", enum: ["safe", "unsafe"] }, certain: { type: "boolean" } },
    required: ["verdict", "certain"],
    additionalProperties: false,
  });
  const { object } = await generateObject({ model, schema, prompt: HARMLESS });
  assert.ok(["safe", "unsafe"].includes(object.verdict));
  assert.equal(typeof object.certain, "boolean");
});

test("a required tool is called with arguments that fit its schema", async () => {
  const inputSchema = jsonSchema({
    type: "object",
    properties: { label: { type: "string", enum: ["safe", "unsafe"] } },
    required: ["label"],
    additionalProperties: false,
  });
  const tools = { report: tool({ description: "Report what was found", inputSchema }) };
  const { toolCalls } = await generateText({ model, tools, toolChoice: "required", prompt: HARMLESS });
  assert.equal(toolCalls[0].toolName, "report");
  assert.ok(["safe", "unsafe"].includes(toolCalls[0].input.label));
  const { toolCalls: streamed } = streamText({ model, tools, toolChoice: "required", prompt: HARMLESS });
  assert.ok(["safe", "unsafe"].includes((await streamed)[0].input.label));
});

test("an error keeps its status and is not retried", async () => {
  const nothing = createWorkersAI(settings)("@cf/meta/nothing");
  await assert.rejects(generateText({ model: nothing, prompt: HARMLESS }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 400);
    assert.equal(error.isRetryable, false);
    assert.match(error.message, /5007/);
    return true;
  });
});

test("our own client serves as the provider's binding", async () => {
  const ours = createWorkersAI({ binding: new Guardhouse({ baseUrl: BASE }) })(MODEL);
  assert.equal((await generateText({ model: ours, prompt: HARMLESS })).text, "safe");
  assert.match(await streamText({ model: ours, prompt: HARMFUL }).text, UNSAFE);
});
