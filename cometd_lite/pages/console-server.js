/**
 * The server's figures: `GET /metrics` and `GET /healthz` arrive every second, plots and totals leave.
 *
 * Counters become rates, and the histogram becomes quantiles, by what changed between two readings.
 * Nothing is asked while the page is hidden.
 *
 * @module
 */

import { CometError } from "./client.js";
import { byId, bytes, count, element, seconds, span } from "./console-dom.js";
import { isKnown, parse, quantile, unknown, value } from "./console-figures.js";
import { Plot } from "./console-plot.js";

const EVERY = 1000;
const WINDOW = 3 * 60_000;

/** Quantiles are those of this long before: of one second alone they would jump. */
const QUANTILES_OVER = 10_000;

/** The use of the processor is that of this long before. */
const CPU_OVER = 5_000;

/** When the process was started, and the seconds of processor that it has used. */
const STARTED = "process_start_time_seconds";
const CPU = "process_cpu_seconds_total";

/** What was refused is asked for again after this long. */
const AGAIN_AFTER = 10_000;

/** @typedef {import("./console-figures.js").Reading} Reading */

/**
 * @param {import("./console.js").Session} session
 * @returns {(shown: boolean) => void} to be called with whether the part is looked at
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
      const samples = readings.map((reading, index) => ({
        at: reading.at,
        isKnown: isKnown(reading),
        values: sample(readings, index),
      }));
      plot.draw(samples, now);
    }
  };
  /** @param {Reading} reading */
  const add = (reading) => {
    readings = [...readings.filter(({ at }) => reading.at - at < WINDOW), reading];
    draw();
  };

  const ask = async () => {
    clearTimeout(timer);
    asking?.abort();
    if (!looked || document.hidden) return;
    const mine = (asking = new AbortController());
    const options = { signal: mine.signal };
    let pause = EVERY;
    try {
      const health = await (await comet.request("healthz", [], options)).json();
      byId("version").textContent = health.version;
      byId("uptime").textContent = span(health.uptime);
      byId("store").textContent = health.store;
      const response = await comet.request("metrics", [], options);
      const reading = parse(await response.text(), Date.now());
      const last = readings.findLast(isKnown);
      // A server that was started anew counts from nothing.
      if (last && value(reading, STARTED) !== value(last, STARTED)) readings = [];
      add(reading);
      notice(undefined);
      totals(reading);
      byId("resident").textContent = known(reading, "process_resident_memory_bytes", bytes);
      byId("connections").textContent = known(reading, "connections", count);
      byId("cpu").textContent = cpu(readings);
    } catch (error) {
      if (mine.signal.aborted) return;
      const refusal = error instanceof CometError ? error : new CometError("The server does not answer.");
      if (refusal.status === 0) forget();
      if (refusal.passing) add(unknown(Date.now()));
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

/** What was known of a server that does not answer may be wrong by now. */
function forget() {
  for (const figure of document.querySelectorAll("#server [data-figure]")) figure.textContent = "–";
  for (const id of ["mailboxes", "memory"]) fill(id, 0, 0, count);
  for (const id of ["totals", "refusals"]) byId(id).replaceChildren();
  byId("server-empty").hidden = true;
}

/**
 * @param {Reading} reading
 * @param {string} name
 * @param {(value: number) => string} format
 */
function known(reading, name, format) {
  return reading.numbers.has(name) ? format(value(reading, name)) : "–";
}

/**
 * How much of one core the process used lately.
 *
 * @param {Reading[]} readings
 */
function cpu(readings) {
  const now = readings[readings.length - 1];
  const before = readings.find((reading) => isKnown(reading) && now.at - reading.at <= CPU_OVER);
  if (!before || before === now || !now.numbers.has(CPU)) return "–";
  const used = value(now, CPU) - value(before, CPU);
  return `${((100_000 * used) / (now.at - before.at)).toFixed(1)} % of a core`;
}

/** @param {(moment: number | null) => void} onPoint */
function plotsOf(onPoint) {
  const common = { window: WINDOW, onPoint };
  return [
    {
      plot: new Plot(byId("plot-waiting"), {
        ...common,
        title: "Readers that wait",
        unit: "readers",
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
        title: "Traffic",
        unit: "messages a second",
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
        unit: "seconds, logarithmic",
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
        title: "Memory of messages",
        unit: "bytes",
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
    names.map((name) => (isKnown(readings[index]) ? value(readings[index], name) : null));
}

/** @param {...string} names */
function rates(...names) {
  return (/** @type {Reading[]} */ readings, /** @type {number} */ index) => {
    const [now, before] = [readings[index], readings[index - 1]];
    if (!before || !isKnown(now) || !isKnown(before)) return names.map(() => null);
    return names.map((name) => ((value(now, name) - value(before, name)) / (now.at - before.at)) * 1000);
  };
}

/** @param {...number} parts */
function quantiles(...parts) {
  return (/** @type {Reading[]} */ readings, /** @type {number} */ index) => {
    const now = readings[index];
    const before = readings.find((reading) => isKnown(reading) && now.at - reading.at <= QUANTILES_OVER);
    const changed = now.buckets.map(([bound, total], bucket) => {
      const earlier = before && before !== now ? (before.buckets[bucket]?.[1] ?? 0) : total;
      return /** @type {[number, number]} */ ([bound, total - earlier]);
    });
    return parts.map((part) => quantile(changed, part));
  };
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
    `Since the start: pushes ${count(of("pushes_total"))}, deliveries ${count(of("deliveries_total"))}, ` +
    `takes ${count(of("takes_total"))}`;
  const kinds = reading.refusals.filter(([, number]) => number > 0).sort(([, a], [, b]) => b - a);
  byId("refused").textContent = count(kinds.reduce((sum, [, number]) => sum + number, 0));
  const lines = [...kinds, /** @type {[string, number]} */ (["gaps in answers", of("gaps_total")])];
  byId("refusals").replaceChildren(
    ...lines.map(([kind, number]) => {
      const name = element("span", {}, kind.replaceAll("-", " "));
      return element("li", { class: "row hint" }, name, element("span", {}, count(number)));
    }),
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
          "The server does not show its figures",
          "It was started with --no-metrics. Everything else works as usual.",
        ]
      : refusal.status === 0
        ? ["The server does not answer", "What it does is unknown until it answers again."]
        : ["The figures were refused", refusal.message];
  const all = `${title}. ${text}`;
  if (target.dataset.text === all) return; // Not to be read aloud again and again.
  target.dataset.text = all;
  target.replaceChildren(element("div", {}, element("h2", {}, title), element("p", {}, text)));
}
