/* A link that holds the conversation behind its #, which browsers never send to any server.
 *
 * Knows: how a conversation becomes a short string and back.
 * Never knows: elements, requests.
 *
 *     #1.<base64url of deflated JSON {"t": [["u", "Hi"], …], "p": policy or absent, "h": threshold or absent}>
 */

import { newTurn } from "./store.js";

const VERSION = "1.";
const MAX_CHARACTERS = 1_000_000; // of inflated JSON: a link from a stranger may be a bomb
/** @type {Record<string, import("./store.js").Role>} */
const ROLES = { u: "user", a: "assistant", s: "system" };

/** @typedef {Pick<import("./store.js").State, "turns" | "policy" | "threshold">} Shared */

/**
 * @param {Shared} shared
 * @returns {Promise<string>}
 */
export async function toFragment({ turns, policy, threshold }) {
  const packed = {
    t: turns.map(({ role, content }) => [role[0], content]),
    ...(policy === null ? {} : { p: policy }),
    ...(threshold === null ? {} : { h: threshold }),
  };
  const bytes = await through(new TextEncoder().encode(JSON.stringify(packed)), new CompressionStream("deflate-raw"));
  const letters = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return VERSION + btoa(letters).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/**
 * What the fragment holds, or null where it is none of ours or was broken on its way.
 * @param {string} fragment
 * @returns {Promise<Shared | null>}
 */
export async function fromFragment(fragment) {
  if (!fragment.startsWith(VERSION)) return null;
  try {
    const letters = atob(fragment.slice(VERSION.length).replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
    const plain = await through(bytes, new DecompressionStream("deflate-raw"));
    return checked(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(plain)));
  } catch {
    return null;
  }
}

/**
 * @param {any} packed
 * @returns {Shared | null}
 */
function checked({ t: turns, p: policy = null, h: threshold = null }) {
  const isTurn = (/** @type {any} */ turn) => Array.isArray(turn) && Object.hasOwn(ROLES, turn[0]) && typeof turn[1] === "string";
  if (!Array.isArray(turns) || turns.length === 0 || !turns.every(isTurn)) return null;
  if (policy !== null && typeof policy !== "string") return null;
  if (threshold !== null && !(typeof threshold === "number" && threshold > 0 && threshold < 1)) return null;
  return { turns: turns.map(([role, content]) => newTurn(ROLES[role], content)), policy, threshold };
}

/**
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @param {CompressionStream | DecompressionStream} transform
 */
async function through(bytes, transform) {
  const reader = new Blob([bytes]).stream().pipeThrough(transform).getReader();
  /** @type {Uint8Array[]} */
  const chunks = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > MAX_CHARACTERS) throw new RangeError("the link holds too much");
    chunks.push(value);
  }
  return new Uint8Array(await new Blob(/** @type {BlobPart[]} */ (chunks)).arrayBuffer());
}
