// wrangler's own commands, pointed at Guardhouse by its environment alone.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import test from "node:test";
import { promisify } from "node:util";
import { ADAPTER, BASE, HARMLESS, MODEL } from "./server.mjs";

const bin = createRequire(import.meta.url).resolve("wrangler/bin/wrangler.js");
const env = {
  ...process.env,
  CLOUDFLARE_API_BASE_URL: `${BASE}/client/v4`,
  CLOUDFLARE_API_TOKEN: "any",
  CLOUDFLARE_ACCOUNT_ID: "0123456789abcdef0123456789abcdef",
  WRANGLER_SEND_METRICS: "false",
  CI: "1",
};
const wrangler = (...words) => promisify(execFile)(process.execPath, [bin, ...words], { env });

test("ai models lists what is served", async () => {
  const { stdout } = await wrangler("ai", "models", "--json");
  assert.ok(JSON.parse(stdout).some((model) => model.name === MODEL));
});

test("ai finetune creates, uploads and lists", async () => {
  const { stdout } = await wrangler("ai", "finetune", "create", MODEL, "from-wrangler", ADAPTER);
  assert.match(stdout, /Assets uploaded, finetune "from-wrangler" is ready to use/);
  assert.match((await wrangler("ai", "finetune", "list")).stdout, /from-wrangler/);
  const response = await fetch(`${BASE}/client/v4/accounts/local/ai/run/${MODEL}`, {
    method: "POST",
    body: JSON.stringify({ prompt: HARMLESS, lora: "from-wrangler" }),
  });
  assert.equal(response.status, 200);
});
