/* Takes the pictures in docs/images, by hand: node playground/screenshots.js http://127.0.0.1:8787/ ../../docs/images
 *
 * Knows: which moments are worth a picture.
 * Never knows: what they should look like; somebody has to look.
 */

import { launch, word } from "./browser.js";

const [url, folder] = process.argv.slice(2);
process.env.CHROMIUM ??= "/usr/bin/chromium";
const DESKTOP = { viewport: { width: 1240, height: 790 } };
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

const browser = await launch();

/** Open the page, do something on it, wait for the verdict to settle, take its picture. */
async function picture(name, options, act) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  await page.goto(url);
  await act(page);
  await word(page).getByText(/^(Safe|Unsafe)$/).waitFor();
  await page.waitForTimeout(1500); // for what glides to arrive
  await page.mouse.move(0, 0);
  await page.evaluate(() => document.activeElement.blur());
  await page.screenshot({ path: `${folder}/${name}.png` });
  await context.close();
}

const example = (name) => (page) => page.getByRole("button", { name, exact: true }).click();

await picture("playground-light", { ...DESKTOP, colorScheme: "light" }, example("Drugs"));
await picture("playground-dark", { ...DESKTOP, colorScheme: "dark" }, async (page) => {
  await example("A theft")(page);
  await page.getByRole("tab", { name: "Stream" }).click();
  await page.getByRole("button", { name: "Stream the answer" }).click();
  await page.getByText(/all after/).waitFor();
  await page.evaluate(() => document.querySelector(".inspector").scrollIntoView({ block: "end" }));
});
await picture("playground-phone", { ...PHONE, colorScheme: "light" }, async (page) => {
  await example("Kill a process")(page);
  await page.evaluate(() => scrollTo(0, 0));
});
await browser.close();
