/* The playground's modules that need no browser: links, code to copy, events. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

const STATIC = new URL("../../../guardhouse/server/static/", import.meta.url);
const { fromFragment, toFragment } = await import(new URL("share.js", STATIC));
const { SNIPPETS } = await import(new URL("snippets.js", STATIC));
const { readEvents } = await import(new URL("events.js", STATIC));
const { probability } = await import(new URL("numbers.js", STATIC));

const NASTY = "It's \"quoted\" \\ $HOME `whoami` ${x} %s\n\n\u2028 日本 🙂 </script> \u007f";
const contents = (turns) => turns.map(({ role, content }) => [role, content]);

test("a link gives back what went in", async () => {
  const shared = { turns: [{ id: 1, role: "user", content: NASTY }, { id: 2, role: "system", content: "" }], policy: "O1: é.", threshold: 0.25 };
  const found = await fromFragment(await toFragment(shared));
  assert.deepEqual(contents(found.turns), contents(shared.turns));
  assert.deepEqual([found.policy, found.threshold], ["O1: é.", 0.25]);
});

test("links that are broken, foreign or bombs are refused", async () => {
  const pack = async (value) => {
    const stream = new Blob([JSON.stringify(value)]).stream().pipeThrough(new CompressionStream("deflate-raw"));
    return `1.${Buffer.from(await new Response(stream).arrayBuffer()).toString("base64url")}`;
  };
  const bad = [{}, { t: [] }, { t: "x" }, { t: [["x", "hi"]] }, { t: [["u", 1]] }, { t: [["u", "hi"]], p: 1 }, { t: [["u", "hi"]], h: 2 },
    { t: [["toString", "hi"]] }, null, { t: [["u", "a".repeat(2_000_000)]] }];
  for (const value of bad) assert.equal(await fromFragment(await pack(value)), null, JSON.stringify(value)?.slice(0, 60));
  for (const fragment of ["", "1.", "1.!!", "2.abc", "verdict"]) assert.equal(await fromFragment(fragment), null);
  assert.notEqual(await fromFragment(await pack({ t: [["u", "hi"]] })), null);
});

test("events survive any cut, even inside a character", async () => {
  const bytes = new TextEncoder().encode('data: {"response":"é🙂"}\n\ndata: a\r\ndata: b\r\n\r\n: comment\n\ndata: [DONE]\n\n');
  for (let size = 1; size < 9; size += 1) {
    const chunks = [];
    for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.slice(at, at + size));
    const found = [];
    for await (const data of readEvents(ReadableStream.from(chunks))) found.push(data);
    assert.deepEqual(found, ['{"response":"é🙂"}', "a\nb", "[DONE]"]);
  }
});

test("only exact zeros and ones are called so", () => {
  assert.deepEqual([0, 0.0001, 0.5, 0.9999, 1].map(probability), ["0.000", "<0.001", "0.500", ">0.999", "1.000"]);
});

const messages = [{ role: "user", content: NASTY }];
const call = (needsKey, base) => ({
  base, needsKey, messages, model: "@hf/thebloke/llamaguard-7b-awq", path: "v1/check",
  body: { messages, ...(needsKey ? { policy: "O1: Quotes.\nShould not\n- Say 'x' or \"y\".", threshold: 0.25 } : {}) },
});
const written = (id, needsKey, base) => SNIPPETS.find((snippet) => snippet.id === id).write(call(needsKey, base));

for (const needsKey of [false, true]) {
  const base = `${needsKey ? process.env.GUARDHOUSE_KEYED_URL : process.env.GUARDHOUSE_URL}/`;
  const options = { env: { ...process.env, GUARDHOUSE_KEY: "sesame" }, encoding: "utf8" };
  const label = needsKey ? "with a key" : "without a key";

  test(`the curl line runs as it stands, ${label}`, () => {
    const verdict = JSON.parse(execFileSync("sh", ["-c", `${written("curl", needsKey, base)} -s`], options));
    assert.equal(verdict.threshold, needsKey ? 0.25 : 0.5);
    assert.deepEqual(Object.values(verdict.category_names).includes("Quotes"), needsKey);
  });
  test(`the Python runs as it stands, ${label}`, () => {
    assert.match(execFileSync(process.env.PYTHON, ["-c", written("python", needsKey, base)], options), /^(True|False) \d/);
  });
  test(`the OpenAI SDK's Python runs as it stands, ${label}`, () => {
    assert.match(execFileSync(process.env.PYTHON, ["-c", written("openai", needsKey, base)], options), /^(True|False) /);
    const chat = SNIPPETS.find(({ id }) => id === "openai").write({ ...call(needsKey, base), messages: [...messages, ...messages] });
    assert.match(execFileSync(process.env.PYTHON, ["-c", chat], options), /^(safe|unsafe)\s/);
  });
  test(`the JavaScript runs as it stands, ${label}`, () => {
    const source = written("javascript", needsKey, base);
    assert.match(execFileSync(process.execPath, ["--input-type=module", "-e", source], options), /^(true|false) \d/);
  });
}

test("the Worker passes the conversation to its binding", async () => {
  const source = written("worker", false, "");
  const { default: worker } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
  const calls = [];
  const env = { AI: { run: async (...given) => { calls.push(given); return { response: "safe", verdict: { score: 0 } }; } } };
  assert.deepEqual(await (await worker.fetch(null, env)).json(), { response: "safe", verdict: { score: 0 } });
  assert.deepEqual(calls, [["@hf/thebloke/llamaguard-7b-awq", { messages: [{ role: "user", content: NASTY }] }]]);
});
