/* Numbers as people read them.
 *
 * Knows: rounding. Never knows: what is counted.
 */

/**
 * A probability. 0 and 1 are only said of what is exactly that.
 * @param {number} value
 */
export function probability(value) {
  if (value > 0 && value < 0.001) return "<0.001";
  if (value < 1 && value > 0.999) return ">0.999";
  return value.toFixed(3);
}

/**
 * A share, in as many digits as fit a small card.
 * @param {number} value
 */
export function percent(value) {
  const hundredths = 100 * value;
  if (hundredths >= 99.95) return "100 %";
  if (hundredths >= 10) return `${Math.round(hundredths)} %`;
  return hundredths >= 0.1 ? `${hundredths.toFixed(1)} %` : "<0.1 %";
}

/** @param {number} ms */
export function duration(ms) {
  if (ms < 1) return "<1 ms";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** @param {number} value */
export function count(value) {
  return value.toLocaleString("en");
}
