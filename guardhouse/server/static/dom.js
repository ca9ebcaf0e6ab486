/* Make and change elements; the one place where text meets the document, always as text.
 *
 * Knows: elements, attributes, the announcer and the toast.
 * Never knows: verdicts, requests.
 */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * An element with properties (`onclick`, `className`, …) or attributes (anything with a dash, `role`, `for`).
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [properties]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name in element && !name.includes("-")) /** @type {any} */ (element)[name] = value;
    else element.setAttribute(name, String(value));
  }
  element.append(...kept(children));
  return element;
}

/**
 * The same for SVG, attributes only.
 * @param {string} tag
 * @param {Record<string, string | number>} [attributes]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...kept(children));
  return /** @type {SVGElement} */ (element);
}

/** @param {Child[]} children */
function kept(children) {
  return children
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (typeof child === "number" ? String(child) : /** @type {Node | string} */ (child)));
}

/**
 * The element of the page with this id; the markup promises that it is there.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let announcement;

/**
 * Tell screen readers, once things have been quiet for a moment: nobody wants every keystroke's verdict read out.
 * @param {string} text
 * @param {number} [delayMs]
 */
export function announce(text, delayMs = 700) {
  clearTimeout(announcement);
  announcement = setTimeout(() => {
    const announcer = byId("announcer");
    if (announcer.textContent !== text) announcer.textContent = text;
  }, delayMs);
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let toasting;

/**
 * A short note at the page's edge, for eyes and, through the announcer, for ears.
 * @param {string} text
 */
export function toast(text) {
  const note = byId("toast");
  note.textContent = text;
  note.hidden = false;
  announce(text, 0);
  clearTimeout(toasting);
  toasting = setTimeout(() => { note.hidden = true; }, 4000);
}

/**
 * Copy, and say whether it worked.
 * @param {string} text
 * @param {string} done
 */
export async function copy(text, done) {
  const isCopied = await copiedByClipboard(text) || copiedBySelection(text);
  toast(isCopied ? done : "The browser does not allow copying here; select the text instead.");
}

/** @param {string} text */
async function copiedByClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // no clipboard at all where the page came over plain HTTP from another machine, or not allowed
  }
}

/** @param {string} text */
function copiedBySelection(text) {
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  const area = h("textarea", { value: text, className: "visually-hidden", "aria-hidden": "true" });
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return isCopied;
}
