/* A real Chromium for the playground's tests.
 *
 * Knows: how to start it, open a page, and notice what must not happen on one: errors, and requests to elsewhere.
 * Never knows: what is tested.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

export const URL_OPEN = process.env.GUARDHOUSE_URL;
export const URL_KEYED = process.env.GUARDHOUSE_KEYED_URL;
export const URL_LOADING = process.env.GUARDHOUSE_LOADING_URL;

// Quiet and alone: no look-ups of its own on a network that may be closed.
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
}

/**
 * A page that fails its test on any console error, exception or request to another origin, unless `expected` matches.
 * @param {import("playwright-core").Browser} browser
 * @param {{url?: string, expected?: RegExp} & import("playwright-core").BrowserContextOptions} [options]
 */
export async function open(browser, { url = URL_OPEN, expected = /^$/, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const troubles = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !expected.test(message.text())) troubles.push(message.text());
  });
  page.on("pageerror", (error) => troubles.push(String(error)));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) troubles.push(`asked ${request.url()}`);
  });
  await page.goto(url);
  return {
    page,
    async close() {
      await context.close();
      assert.deepEqual(troubles, []);
    },
  };
}

/** What axe-core objects to, in short. */
export async function violations(page) {
  await page.evaluate(AXE);
  const { violations: found } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  return found.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.target} ${node.failureSummary}`).join(" | ")}`);
}

export const word = (page) => page.locator(".gauge-word");
export const firstTurn = (page) => page.getByRole("textbox", { name: /^Text of turn 1/ });
export const example = (page, name) => page.getByRole("button", { name, exact: true });
