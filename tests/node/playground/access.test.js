/* Keyboard, screen readers, small screens, and those who want less motion. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { URL_KEYED, example, firstTurn, launch, open, violations, word } from "./browser.js";

const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };
let browser;
before(async () => { browser = await launch(); });
after(() => browser.close());

for (const [name, options] of [
  ["light", { colorScheme: "light" }],
  ["dark", { colorScheme: "dark" }],
  ["a phone", { ...PHONE, colorScheme: "light" }],
  ["a phone in the dark", { ...PHONE, colorScheme: "dark" }],
]) {
  test(`axe finds nothing wrong in ${name}`, async () => {
    const { page, close } = await open(browser, { reducedMotion: "reduce", ...options });
    await word(page).getByText("Nothing to judge yet").waitFor();
    assert.deepEqual(await violations(page), [], "empty");
    await example(page, "A whole chat").click();
    await word(page).getByText("Safe", { exact: true }).waitFor();
    assert.deepEqual(await violations(page), [], "safe");
    await example(page, "Drugs").click();
    await word(page).getByText("Unsafe", { exact: true }).waitFor();
    for (const tab of ["Prompt", "Stream", "Copy as", "JSON"]) {
      await page.getByRole("tab", { name: tab }).click();
      assert.deepEqual(await violations(page), [], `unsafe, ${tab}`);
    }
    await close();
  });
}

test("axe finds nothing wrong where a key is wanted", async () => {
  const { page, close } = await open(browser, { url: URL_KEYED, expected: /status of 401/, colorScheme: "dark" });
  await page.getByRole("heading", { name: "This server wants a key" }).waitFor();
  assert.deepEqual(await violations(page), []);
  await close();
});

test("everything can be done from the keyboard", async () => {
  const { page, close } = await open(browser);
  const press = async (...keys) => { for (const key of keys) await page.keyboard.press(key); };
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent);
  const tabTo = async (goal) => {
    for (let steps = 0; steps < 80; steps += 1) {
      await press("Tab");
      if (await focused() === goal) return;
    }
    assert.fail(`Tab never reached ${goal}`);
  };
  await word(page).getByText("Nothing to judge yet").waitFor();
  await press("Tab");
  assert.equal(await focused(), "Skip to the verdict");
  await tabTo(await firstTurn(page).getAttribute("id"));
  await page.keyboard.type("How do I boil an egg?");
  await tabTo("add-assistant");
  await press("Enter");
  await page.keyboard.type("In water.");
  await press("Control+Enter");
  await word(page).getByText("Safe", { exact: true }).waitFor();
  await tabTo("threshold");
  await press("Home", "ArrowRight");
  assert.equal(await page.locator(".threshold output").innerText(), "0.02");
  await tabTo("tab-prompt");
  await press("ArrowRight");
  assert.equal(await focused(), "tab-stream");
  await tabTo("stream");
  await press("Enter");
  await page.getByText(/all after/).waitFor();
  await close();
});

test("nothing is wider than a phone", async () => {
  const { page, close } = await open(browser, PHONE);
  await firstTurn(page).fill("longword".repeat(40));
  await word(page).getByText(/^(Safe|Unsafe)$/).waitFor();
  for (const tab of ["Prompt", "Stream", "Copy as", "JSON"]) {
    await page.getByRole("tab", { name: tab }).click();
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.equal(width, 360, tab);
  }
  await page.locator("#mini-verdict").waitFor();
  await close();
});

test("who wants less motion gets none", async () => {
  const { page, close } = await open(browser, { reducedMotion: "reduce" });
  await example(page, "Drugs").click();
  await word(page).getByText("Unsafe", { exact: true }).waitFor();
  const durations = await page.evaluate(() =>
    [".gauge-fill", ".gauge-word", ".bar"].map((name) => getComputedStyle(document.querySelector(name)).transitionDuration));
  assert.deepEqual(durations, ["0s", "0s", "0s"]);
  await close();
});
