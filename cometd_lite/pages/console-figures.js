/**
 * The server's figures: the text of `GET /metrics` arrives, readings leave.
 *
 * @module
 */

/**
 * A reading of the metrics.
 *
 * @typedef {object} Reading
 * @property {number} at in milliseconds
 * @property {Map<string, number>} numbers by name, without the prefix `cometd_lite_`; empty where unknown
 * @property {[bound: number, count: number][]} buckets of the time from push to wake, cumulative
 * @property {[kind: string, count: number][]} refusals
 */

const LINE = /^(?:cometd_lite_|(?=process_))(\w+)(?:\{\w+="([^"]*)"\})? (\S+)/gm;

/**
 * Read the Prometheus text format, as far as this server speaks it.
 *
 * @param {string} text
 * @param {number} at
 * @returns {Reading}
 */
export function parse(text, at) {
  const reading = unknown(at);
  for (const [, name, label, number] of text.matchAll(LINE)) {
    if (name === "push_to_wake_seconds_bucket") {
      reading.buckets.push([label === "+Inf" ? Infinity : Number(label), Number(number)]);
    } else if (name === "refusals_total" && label) reading.refusals.push([label, Number(number)]);
    else reading.numbers.set(name, Number(number));
  }
  reading.buckets.sort(([a], [b]) => a - b);
  return reading;
}

/**
 * A moment of which nothing is known: the server did not answer.
 *
 * @param {number} at
 * @returns {Reading}
 */
export function unknown(at) {
  return { at, numbers: new Map(), buckets: [], refusals: [] };
}

/** @param {Reading} reading */
export function isKnown({ numbers }) {
  return numbers.size > 0;
}

/**
 * @param {Reading} reading
 * @param {string} name
 */
export function value({ numbers }, name) {
  return numbers.get(name) ?? 0;
}

/**
 * How long readers took to be woken between two readings, on average, in seconds.
 *
 * @param {Reading} before
 * @param {Reading} now
 * @returns {{pushes: number, seconds: number} | undefined} nothing where nothing was pushed
 */
export function wokenBetween(before, now) {
  const [sum, pushes] = ["sum", "count"].map(
    (part) => value(now, `push_to_wake_seconds_${part}`) - value(before, `push_to_wake_seconds_${part}`),
  );
  return pushes > 0 ? { pushes, seconds: sum / pushes } : undefined;
}

/**
 * The value below which this part of the observations lies, as Prometheus's `histogram_quantile` has it:
 * evenly spread within its bucket.
 *
 * @param {[bound: number, count: number][]} buckets cumulative
 * @param {number} part
 */
export function quantile(buckets, part) {
  const all = buckets[buckets.length - 1]?.[1] ?? 0;
  if (all <= 0) return null;
  const rank = part * all;
  const index = buckets.findIndex(([, total]) => total >= rank);
  const [low, below] = index > 0 ? buckets[index - 1] : [0, 0];
  const [high, upTo] = buckets[index];
  if (high === Infinity) return low;
  return upTo === below ? high : low + ((high - low) * (rank - below)) / (upTo - below);
}
