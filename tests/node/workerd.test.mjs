// examples/worker in a real workerd, by its own configuration; only the addresses are others.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import test, { after, before } from "node:test";
import { createRequire } from "node:module";
import { BASE, HARMFUL, MODEL, UNSAFE, readEvents } from "./server.mjs";

const CONFIG = fileURLToPath(new URL("../../examples/worker/workerd.capnp", import.meta.url));
const { default: workerd } = createRequire(import.meta.url)("workerd");
let child, url;

before(async () => {
  const flags = ["--socket-addr", "http=127.0.0.1:0", "--external-addr", `guardhouse=${new URL(BASE).host}`];
  child = spawn(workerd, ["serve", CONFIG, ...flags, "--control-fd=3"], { stdio: ["ignore", "inherit", "inherit", "pipe"] });
  const port = await new Promise((resolve, reject) => {
    child.on("error", reject).on("exit", (code) => reject(new Error(`workerd ended with ${code}`)));
    child.stdio[3].on("data", (line) => resolve(JSON.parse(line).port));
  });
  url = `http://127.0.0.1:${port}`;
});
after(() => child.kill());

test("run gives the bare result", async () => {
  const response = await fetch(url);
  assert.equal(response.status, 200);
  const result = await response.json();
  assert.equal(result.response, "safe");
  assert.equal(result.verdict.flagged, false);
});

test("a stream arrives as events and ends with usage and [DONE]", async () => {
  const response = await fetch(`${url}/stream?text=${encodeURIComponent(HARMFUL)}`);
  const { text, last, isDone } = await readEvents(response.body);
  assert.match(text, UNSAFE);
  assert.ok(last.usage.total_tokens > 0);
  assert.ok(isDone);
});

test("an error carries its code and the request id", async () => {
  const response = await fetch(`${url}/?text=`);
  assert.equal(response.status, 502);
  const { error, requestId } = await response.json();
  assert.match(error, /^5006: Error: /);
  assert.match(requestId, /^[0-9a-f-]{36}$/);
});

test("models() lists the model", async () => {
  const models = await (await fetch(`${url}/models`)).json();
  assert.deepEqual(models.map((model) => model.name), [MODEL]);
});
