// The official TypeScript SDK, unchanged but for its base URL.
import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import test from "node:test";
import Cloudflare from "cloudflare";
import { ADAPTER, ASSETS, BASE, HARMFUL, HARMLESS, MODEL, UNSAFE } from "./server.mjs";

const client = new Cloudflare({ apiToken: "any", baseURL: `${BASE}/client/v4`, maxRetries: 0 });
const account_id = "local";

test("run gives the result", async () => {
  const safe = await client.ai.run(MODEL, { account_id, messages: [{ role: "user", content: HARMLESS }] });
  assert.equal(safe.response, "safe");
  assert.equal(safe.verdict.flagged, false);
  const unsafe = await client.ai.run(MODEL, { account_id, prompt: HARMFUL });
  assert.match(unsafe.response, UNSAFE);
  assert.ok(unsafe.verdict.score > safe.verdict.score);
});

test("a bad input is the SDK's own bad request, with code and request id", async () => {
  await assert.rejects(client.ai.run(MODEL, { account_id, prompt: HARMLESS, temperature: 6 }), (error) => {
    assert.ok(error instanceof Cloudflare.BadRequestError);
    assert.equal(error.errors[0].code, 5006);
    assert.match(error.errors[0].message, /'\/temperature' must be <= 5/);
    return true;
  });
});

test("an unknown model is code 5007", async () => {
  await assert.rejects(client.ai.run("@cf/meta/nothing", { account_id, prompt: HARMLESS }), (error) => {
    assert.equal(error.status, 400);
    assert.equal(error.errors[0].code, 5007);
    return true;
  });
});

test("listing models comes to an end, page by page", async () => {
  const names = [];
  for await (const model of client.ai.models.list({ account_id, per_page: 1 })) names.push(model.name);
  assert.ok(names.includes(MODEL));
  assert.equal(new Set(names).size, names.length);
});

test("filters, schema, tasks and authors are read", async () => {
  for await (const model of client.ai.models.list({ account_id, search: "no such model" })) assert.fail(model.name);
  const schema = await client.ai.models.schema.get({ account_id, model: MODEL });
  assert.deepEqual(schema.input.oneOf[0].required, ["prompt"]);
  const tasks = await client.ai.tasks.list({ account_id });
  assert.equal(tasks.result[0].name, "Text Generation");
  const authors = await client.ai.authors.list({ account_id });
  assert.ok(authors.result.length > 0);
});

test("a finetune is created, uploaded, listed and used", async () => {
  const name = "from-the-sdk";
  const finetune = await client.ai.finetunes.create({ account_id, model: MODEL, name, description: "a test's" });
  for (const file_name of ASSETS) {
    const file = createReadStream(`${ADAPTER}/${file_name}`);
    const { success } = await client.ai.finetunes.assets.create(finetune.id, { account_id, file_name, file });
    assert.equal(success, true);
  }
  const listed = await client.ai.finetunes.list({ account_id });
  assert.ok(listed.some((row) => row.id === finetune.id && row.name === name));
  const plain = await client.ai.run(MODEL, { account_id, prompt: HARMLESS });
  for (const lora of [finetune.id, name]) {
    const tuned = await client.ai.run(MODEL, { account_id, prompt: HARMLESS, lora });
    assert.notEqual(tuned.verdict.score, plain.verdict.score);
  }
  await assert.rejects(client.ai.run(MODEL, { account_id, prompt: HARMLESS, lora: "none" }), (error) => {
    assert.equal(error.errors[0].code, 3037);
    return true;
  });
});
