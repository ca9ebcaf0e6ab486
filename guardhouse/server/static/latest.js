/* Run only the latest of many wishes: wait for a pause, and drop what an older one is still doing.
 *
 * Knows: timers, abort signals.
 * Never knows: what is run.
 */

export class Latest {
  /**
   * `run` gets a signal that aborts as soon as something newer is wished for. Its own errors are its own affair.
   * @param {(signal: AbortSignal) => Promise<void>} run
   * @param {() => number} delayMs
   */
  constructor(run, delayMs) {
    this.run = run;
    this.delayMs = delayMs;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {AbortController | undefined} */
    this.controller = undefined;
  }

  /**
   * After a pause.
   * @param {number} [delayMs]
   */
  soon(delayMs = this.delayMs()) {
    this.cancel();
    this.timer = setTimeout(() => this.start(), delayMs);
  }

  /** At once. */
  now() {
    this.cancel();
    this.start();
  }

  cancel() {
    clearTimeout(this.timer);
    this.controller?.abort();
    this.controller = undefined;
  }

  start() {
    const controller = new AbortController();
    this.controller = controller;
    this.run(controller.signal).catch((error) => {
      if (!controller.signal.aborted) throw error;
    });
  }
}
