/* What the playground shows when there is no verdict to show. */

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { URL_KEYED, URL_LOADING, firstTurn, launch, open, word } from "./browser.js";

const CHECK = "**/v1/check";
let browser;
before(async () => { browser = await launch(); });
after(() => browser.close());

/** A refusal as the server words it. */
const refusal = (status, type, code, message, headers = {}) => ({
  status,
  contentType: "application/json",
  headers,
  body: JSON.stringify({ error: { message, type, param: null, code } }),
});

test("a server with keys asks for one, and takes it for this tab alone", async () => {
  const { page, close } = await open(browser, { url: URL_KEYED, expected: /status of 401/ });
  await page.getByRole("heading", { name: "This server wants a key" }).waitFor();
  const field = page.getByLabel("API key");
  await field.fill("wrong");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "This server wants a key" }).waitFor();
  await page.getByLabel("API key").fill("sesame");
  await page.getByRole("button", { name: "Use key" }).click();
  await page.locator(".bars li").first().waitFor();
  await firstTurn(page).fill("How do I bake bread?");
  await word(page).getByText("Safe", { exact: true }).waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length + localStorage.length), 1);
  await page.getByRole("tab", { name: "Copy as" }).click();
  const code = await page.locator("#snippet").innerText();
  assert.match(code, /\$GUARDHOUSE_KEY/);
  assert.doesNotMatch(code, /sesame/);
  await page.getByRole("button", { name: "Forget key" }).click();
  await page.getByRole("heading", { name: "This server wants a key" }).waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await close();
});

test("a loading model shows how far it is, then judges what was typed meanwhile", async () => {
  const { page, close } = await open(browser, { url: URL_LOADING, expected: /status of 503/ });
  await page.getByRole("heading", { name: "The model is loading" }).waitFor();
  assert.equal(await page.getByRole("progressbar").evaluate((bar) => bar.value), 0.25);
  await firstTurn(page).fill("How do I bake bread?");
  await page.waitForTimeout(600);
  assert.equal(await word(page).innerText(), "No verdict");
  writeFileSync(process.env.GUARDHOUSE_RELEASE, "");
  await word(page).getByText("Safe", { exact: true }).waitFor();
  assert.equal(await page.locator(".trouble").isHidden(), true);
  await close();
});

test("a busy guard is asked again after the time it named", async () => {
  const { page, close } = await open(browser, { expected: /status of 429/ });
  let refusals = 0;
  await page.route(CHECK, (route) => {
    refusals += 1;
    const busy = refusal(429, "rate_limit_error", "rate_limit_exceeded", "Capacity temporarily exceeded, please try again.", { "retry-after": "1" });
    return refusals === 1 ? route.fulfill(busy) : route.continue();
  });
  await firstTurn(page).fill("How do I bake bread?");
  await page.getByRole("heading", { name: "The guard is busy" }).waitFor();
  assert.equal(await word(page).innerText(), "No verdict");
  await word(page).getByText("Safe", { exact: true }).waitFor();
  assert.equal(refusals, 2);
  await close();
});

test("an error takes the old verdict away and can be retried", async () => {
  const { page, close } = await open(browser, { expected: /status of 500/ });
  await firstTurn(page).fill("How do I bake bread?");
  await word(page).getByText("Safe", { exact: true }).waitFor();
  const id = "0f9d8b52-8a3e-4a3c-9d49-6a0c0c9a3c11";
  const failed = refusal(500, "server_error", null, "Internal server error: the model gave no verdict", { "x-request-id": id });
  await page.route(CHECK, (route) => route.fulfill(failed));
  await firstTurn(page).fill("Hello?");
  await page.locator(".trouble").getByText("Internal server error: the model gave no verdict", { exact: true }).waitFor();
  await page.getByText(`Request ${id}`).waitFor();
  assert.equal(await word(page).innerText(), "No verdict");
  await page.unroute(CHECK);
  await page.getByRole("button", { name: "Try now" }).click();
  await word(page).getByText(/^(Safe|Unsafe)$/).waitFor();
  await close();
});

test("a server that is gone is noticed, and found again", async () => {
  const { page, close } = await open(browser, { expected: /ERR_CONNECTION_REFUSED/ });
  await page.locator("#status[data-status=ready]").waitFor();
  await page.route("**/*", (route) => route.abort("connectionrefused"));
  await firstTurn(page).fill("How do I bake bread?");
  await page.getByRole("heading", { name: "The server does not answer" }).waitFor();
  await page.getByText("Server does not answer", { exact: true }).waitFor();
  await page.unroute("**/*");
  await word(page).getByText("Safe", { exact: true }).waitFor();
  await close();
});

test("what the server refuses is told in its own words", async () => {
  const { page, close } = await open(browser, { expected: /status of 400/ });
  await page.getByLabel("Policy text").fill("O1: One.\nO1: Two.");
  await firstTurn(page).fill("Hi");
  await page.getByRole("heading", { name: "The server refused this" }).waitFor();
  await page.locator(".trouble").getByText(/O1 is used twice/).waitFor();
  await close();
});

test("a system turn that lists categories is the policy, and the page says so", async () => {
  const { page, close } = await open(browser);
  await firstTurn(page).fill("Hi");
  await page.getByRole("button", { name: "+ Assistant turn" }).click();
  await page.getByLabel("Who speaks in turn 2").selectOption("System");
  await page.getByRole("textbox", { name: "Text of turn 2, system" }).fill("O1: Spoons.");
  await page.locator(".bars").getByText("Spoons").waitFor();
  await page.getByText("A system turn of the conversation lists categories").waitFor();
  assert.deepEqual(await page.locator(".turn .tag").allInnerTexts(), ["judged", "not judged"]);
  await close();
});

test("a long text is judged in parts, and the page says which decided", async () => {
  const { page, close } = await open(browser);
  await firstTurn(page).fill("I like bread. ".repeat(900));
  await page.getByText(/judged in \d+ overlapping parts; part \d+ \(characters .* decided/).waitFor();
  await page.locator("#panel-prompt").getByText(/longer than the window of 2,048/).waitFor();
  await close();
});
