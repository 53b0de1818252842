/**
 * The server's own numbers: `GET /metrics` arrives every second, plots and totals leave.
 *
 * Counters become rates, and the histogram becomes quantiles, by what changed between two readings.
 * Nothing is asked while the page is hidden.
 *
 * @module
 */

import { CometError } from "./client.js";
import { byId, bytes, count, element, seconds } from "./console-dom.js";
import { Plot } from "./console-plot.js";

const EVERY = 1000;
const WINDOW = 3 * 60_000;

/** Quantiles are those of this long before: of one second alone they would jump. */
const QUANTILES_OVER = 10_000;

/** What was refused is asked for again after this long. */
const AGAIN_AFTER = 10_000;

/**
 * A reading of the metrics.
 *
 * @typedef {object} Reading
 * @property {number} at in milliseconds
 * @property {Map<string, number>} numbers by name, without the prefix
 * @property {[bound: number, count: number][]} buckets of the latency, cumulative
 * @property {[kind: string, count: number][]} refusals
 */

/**
 * @param {import("./console.js").Session} session
 * @returns {(shown: boolean) => void} to be told whether the part is looked at
 */
export function server(session) {
  const comet = session.comet();
  /** @type {Reading[]} */
  let readings = [];
  let looked = false;
  let timer = 0;
  /** @type {AbortController | undefined} */
  let asking;

  const plots = plotsOf((moment) => plots.forEach(({ plot }) => plot.point(moment)));
  const draw = () => {
    const now = readings[readings.length - 1]?.at ?? Date.now();
    for (const { plot, sample } of plots) {
      plot.draw(
        readings.map((reading, index) => ({ at: reading.at, values: sample(readings, index) })),
        now,
      );
    }
  };

  const ask = async () => {
    clearTimeout(timer);
    asking?.abort();
    if (!looked || document.hidden) return;
    const mine = (asking = new AbortController());
    let pause = EVERY;
    try {
      const response = await comet.request("metrics", [], { signal: mine.signal });
      const reading = parse(await response.text(), Date.now());
      const last = readings[readings.length - 1];
      // A server that was started anew counts from nothing.
      if (last && value(reading, "pushes_total") < value(last, "pushes_total")) readings = [];
      readings = [...readings.filter(({ at }) => reading.at - at < WINDOW), reading];
      notice(undefined);
      draw();
      totals(reading);
    } catch (error) {
      if (mine.signal.aborted) return;
      const refusal = error instanceof CometError ? error : new CometError("The server does not answer.");
      notice(refusal);
      session.refused(refusal, ask);
      pause = refusal.passing ? EVERY * 2 : AGAIN_AFTER;
    }
    timer = setTimeout(ask, pause);
  };

  document.addEventListener("visibilitychange", ask);
  draw();
  return (shown) => {
    looked = shown;
    void ask();
  };
}

/** @param {(moment: number | null) => void} onPoint */
function plotsOf(onPoint) {
  const common = { window: WINDOW, onPoint };
  return [
    {
      plot: new Plot(byId("plot-waiting"), {
        ...common,
        title: "Readers that wait",
        lines: [
          { label: "polls", ink: "ink-1" },
          { label: "streams", ink: "ink-2" },
          { label: "sockets", ink: "ink-3" },
        ],
        format: count,
        least: 4,
        nothing: "No reader waits",
      }),
      sample: gauges("parked_polls", "streams", "sockets"),
    },
    {
      plot: new Plot(byId("plot-rates"), {
        ...common,
        title: "Traffic, each second",
        lines: [
          { label: "deliveries", ink: "ink-1" },
          { label: "pushes", ink: "ink-2" },
        ],
        format: count,
        least: 4,
        nothing: "Nothing is pushed",
      }),
      sample: rates("deliveries_total", "pushes_total"),
    },
    {
      plot: new Plot(byId("plot-latency"), {
        ...common,
        title: "From push to wake",
        lines: [
          { label: "p99", ink: "ink-1" },
          { label: "p50", ink: "ink-2" },
        ],
        format: seconds,
        least: 0.001,
        floor: 0.00001,
        nothing: "No reader was woken",
      }),
      sample: quantiles(0.99, 0.5),
    },
    {
      plot: new Plot(byId("plot-memory"), {
        ...common,
        title: "Memory of messages and mailboxes",
        lines: [{ label: "in use", ink: "ink-1" }],
        format: bytes,
        least: 1024,
        base: 1024,
        nothing: "Nothing is kept",
      }),
      sample: gauges("memory_bytes"),
    },
  ];
}

/** @param {...string} names */
function gauges(...names) {
  return (/** @type {Reading[]} */ readings, /** @type {number} */ index) =>
    names.map((name) => value(readings[index], name));
}

/** @param {...string} names */
function rates(...names) {
  return (/** @type {Reading[]} */ readings, /** @type {number} */ index) => {
    const [now, before] = [readings[index], readings[index - 1]];
    if (!before) return names.map(() => null);
    return names.map((name) => ((value(now, name) - value(before, name)) / (now.at - before.at)) * 1000);
  };
}

/** @param {...number} parts */
function quantiles(...parts) {
  return (/** @type {Reading[]} */ readings, /** @type {number} */ index) => {
    const now = readings[index];
    const before = readings.find(({ at }) => now.at - at <= QUANTILES_OVER);
    const changed = now.buckets.map(([bound, total], bucket) => {
      const earlier = before && before !== now ? (before.buckets[bucket]?.[1] ?? 0) : total;
      return /** @type {[number, number]} */ ([bound, total - earlier]);
    });
    return parts.map((part) => quantile(changed, part));
  };
}

/**
 * The value below which this part of the observations lies, as Prometheus's `histogram_quantile` has it:
 * evenly spread within its bucket.
 *
 * @param {[bound: number, count: number][]} buckets cumulative
 * @param {number} part
 */
function quantile(buckets, part) {
  const all = buckets[buckets.length - 1]?.[1] ?? 0;
  if (all <= 0) return null;
  const rank = part * all;
  const index = buckets.findIndex(([, total]) => total >= rank);
  const [low, below] = index > 0 ? buckets[index - 1] : [0, 0];
  const [high, upTo] = buckets[index];
  if (high === Infinity) return low;
  return upTo === below ? high : low + ((high - low) * (rank - below)) / (upTo - below);
}

/**
 * Read the Prometheus text format, as far as this server speaks it.
 *
 * @param {string} text
 * @param {number} at
 * @returns {Reading}
 */
function parse(text, at) {
  /** @type {Reading} */
  const reading = { at, numbers: new Map(), buckets: [], refusals: [] };
  for (const [, name, label, number] of text.matchAll(/^cometd_lite_(\w+)(?:\{\w+="([^"]*)"\})? (\S+)/gm)) {
    if (name === "push_to_wake_seconds_bucket") {
      reading.buckets.push([label === "+Inf" ? Infinity : Number(label), Number(number)]);
    } else if (name === "refusals_total" && label) reading.refusals.push([label, Number(number)]);
    else reading.numbers.set(name, Number(number));
  }
  reading.buckets.sort(([a], [b]) => a - b);
  return reading;
}

/**
 * @param {Reading} reading
 * @param {string} name
 */
function value({ numbers }, name) {
  return numbers.get(name) ?? 0;
}

/** @param {Reading} reading */
function totals(reading) {
  const of = (/** @type {string} */ name) => value(reading, name);
  byId("mailboxes").textContent = count(of("mailboxes"));
  byId("memory").textContent = bytes(of("memory_bytes"));
  fill("mailboxes", of("mailboxes"), of("mailboxes_max"), count);
  fill("memory", of("memory_bytes"), of("memory_bytes_max"), bytes);
  byId("kept").textContent = count(of("messages"));
  byId("totals").textContent =
    `${count(of("pushes_total"))} pushes, ${count(of("deliveries_total"))} deliveries and ` +
    `${count(of("takes_total"))} takes since the start`;
  const kinds = reading.refusals.filter(([, number]) => number > 0).sort(([, a], [, b]) => b - a);
  byId("refused").textContent = count(kinds.reduce((sum, [, number]) => sum + number, 0));
  const lines = [...kinds, /** @type {[string, number]} */ (["gaps told to readers", of("gaps_total")])];
  byId("refusals").replaceChildren(
    ...lines.map(([kind, number]) =>
      element("li", {}, element("span", {}, kind.replaceAll("-", " ")), element("span", {}, count(number))),
    ),
  );
  const idle = of("pushes_total") === 0 && of("parked_polls") + of("streams") + of("sockets") === 0;
  byId("server-empty").hidden = !idle;
}

/**
 * @param {string} id
 * @param {number} used
 * @param {number} most
 * @param {(value: number) => string} format
 */
function fill(id, used, most, format) {
  const meter = /** @type {HTMLMeterElement} */ (byId(`${id}-meter`));
  meter.hidden = !most;
  if (most) meter.value = used / most;
  byId(`${id}-of`).textContent = most ? `of ${format(most)} at most` : "";
}

/** @param {CometError | undefined} refusal */
function notice(refusal) {
  const target = byId("server-notice");
  target.hidden = refusal === undefined;
  byId("numbers").hidden = refusal !== undefined && !refusal.passing;
  if (!refusal) return;
  const [title, text] =
    refusal.status === 404
      ? [
          "The server keeps its numbers to itself",
          "It was started without /metrics. Everything else works as usual.",
        ]
      : refusal.status === 0
        ? ["The server does not answer", "The plots go on as soon as it does."]
        : ["The numbers were refused", refusal.message];
  const all = `${title}. ${text}`;
  if (target.dataset.text === all) return; // Not to be read aloud again and again.
  target.dataset.text = all;
  target.replaceChildren(element("div", {}, element("h2", {}, title), element("p", {}, text)));
}
