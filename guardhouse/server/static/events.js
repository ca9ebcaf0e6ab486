/* Server-sent events, read from a body as it arrives.
 *
 * Knows: `data:` lines, blank lines between events, characters cut in half between chunks.
 * Never knows: what is in them.
 */

/**
 * The data of each event.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string>}
 */
export async function* readEvents(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      held += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const events = held.split(/\r?\n\r?\n/);
      held = done ? "" : /** @type {string} */ (events.pop());
      for (const event of events) {
        const data = dataOf(event);
        if (data) yield data;
      }
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => undefined); // a reader that leaves frees the server's work
  }
}

/** @param {string} event */
function dataOf(event) {
  return event
    .split(/\r?\n/)
    .filter((line) => line.startsWith("data:"))
    .map((line) => line.slice(5).replace(/^ /, ""))
    .join("\n");
}
