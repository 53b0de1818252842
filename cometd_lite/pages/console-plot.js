/**
 * A plot of what was measured lately: samples arrive, lines leave. Hand-written SVG.
 *
 * The drawing is stretched to its figure, so all words stand beside it as text, where they keep their
 * shape and can be read aloud. While a pointer or the arrow keys are on a plot, all plots show the moment
 * that they point at.
 *
 * @module
 */

import { element } from "./console-dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 100;

/** A plot shows at least this long a time, in milliseconds. */
const SHORTEST = 60_000;

/**
 * @typedef {object} Line
 * @property {string} label
 * @property {string} ink one of the stylesheet's: `ink-1`. Each has its own dashes, so that lines that
 *   coincide are distinguished
 */

/**
 * @typedef {object} Sample
 * @property {number} at in milliseconds
 * @property {boolean} isKnown false where the server did not answer
 * @property {(number | null)[]} values one for each line; null: no value
 */

export class Plot {
  /** @type {Sample[]} */
  #samples = [];
  /** @type {number | null} */
  #moment = null;
  #now = 0;
  /** Milliseconds from the left edge to the right one. */
  #shown = SHORTEST;
  #since = element("span");
  #half = element("span");
  #lines;
  #format;
  #least;
  #window;
  #floor;
  #base;
  #drawing;
  #values;
  #levels = element("div", { class: "levels", "aria-hidden": "true" });
  #empty = element("p", { class: "nothing" });
  #nothing;

  /**
   * @param {HTMLElement} figure
   * @param {object} options
   * @param {string} options.title
   * @param {string} options.unit what the levels count
   * @param {Line[]} options.lines
   * @param {(value: number) => string} options.format
   * @param {number} options.least the top of the plot is never lower than this
   * @param {number} options.window in milliseconds
   * @param {number} [options.floor] the bottom, where it is not 0: then each step is ten times the last
   * @param {10 | 1024} [options.base] which numbers are round
   * @param {string} options.nothing what stands there while all that is known is 0
   * @param {(moment: number | null) => void} options.onPoint
   */
  constructor(figure, { title, unit, lines, format, least, window, floor = 0, base = 10, nothing, onPoint }) {
    this.#lines = lines;
    this.#format = format;
    this.#least = least;
    this.#window = window;
    this.#floor = floor;
    this.#base = base;
    this.#values = lines.map(() => element("b", {}, "–"));
    this.#nothing = nothing;
    const legend = element("ul", { class: "row hint legend" });
    for (const [index, { label, ink }] of lines.entries()) {
      const swatch = svg("svg", { class: "swatch", viewBox: "0 0 20 4", "aria-hidden": "true" });
      swatch.append(svg("path", { class: `line ${ink}`, d: "M1 2H19" }));
      legend.append(element("li", { class: "row" }, swatch, label, this.#values[index]));
    }
    this.#drawing = svg("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      tabindex: "0",
      "aria-label": title,
    });
    const sheet = element("div", { class: "sheet" });
    sheet.append(this.#levels, this.#drawing, this.#empty);
    const times = element(
      "div",
      { class: "row times", "aria-hidden": "true" },
      this.#since,
      this.#half,
      element("span", {}, "now"),
    );
    const heads = [element("h3", {}, title), element("p", { class: "hint" }, unit)];
    figure.append(
      element("figcaption", { class: "row" }, ...heads, legend),
      sheet,
      times,
    );
    this.#listen(title, onPoint);
  }

  /**
   * @param {Sample[]} samples in order of time
   * @param {number} now
   */
  draw(samples, now) {
    this.#samples = samples;
    this.#now = now;
    // It begins with a short stretch, which grows with what there is to show.
    const from = Math.max(now - this.#window, Math.min(samples[0]?.at ?? now, now - SHORTEST));
    this.#shown = now - from;
    this.#since.textContent = ago(this.#shown);
    this.#half.textContent = ago(this.#shown / 2);
    const values = samples.flatMap((sample) => sample.values).filter((value) => value !== null);
    // A little above the highest, so that no line runs along the edge.
    const highest = Math.max(this.#least, 1.05 * Math.max(0, ...values));
    const most = this.#floor ? 10 ** Math.ceil(Math.log10(highest)) : niceAbove(highest, this.#base);
    const x = (/** @type {number} */ at) => ((at - from) / this.#shown) * WIDTH;
    const y = (/** @type {number} */ value) => {
      if (!this.#floor) return HEIGHT - (value / most) * HEIGHT;
      const above = Math.log(Math.max(value, this.#floor) / this.#floor);
      return HEIGHT - (above / Math.log(most / this.#floor)) * HEIGHT;
    };

    const steps = this.#floor ? Math.round(Math.log10(most / this.#floor)) : 2;
    const children = Array.from({ length: steps + 1 }, (_, step) => {
      const level = String((HEIGHT * step) / steps);
      return svg("line", { class: "rule", x1: "0", x2: String(WIDTH), y1: level, y2: level });
    });
    for (const [index, { ink }] of this.#lines.entries()) {
      for (const piece of piecesOf(samples, index)) {
        const points = piece.map(({ at, value }) => `${x(at).toFixed(1)} ${y(value).toFixed(2)}`);
        const path = `M${points.join("L")}`;
        const [first, last] = [piece[0], piece[piece.length - 1]];
        if (index === 0) {
          const area = `${path}L${x(last.at).toFixed(1)} ${HEIGHT}L${x(first.at).toFixed(1)} ${HEIGHT}Z`;
          children.push(svg("path", { class: `area ${ink}`, d: area }));
        }
        // A single point would be nothing; a round cap makes it a dot.
        children.push(svg("path", { class: `line ${ink}`, d: piece.length > 1 ? path : `${path}h0.01` }));
      }
    }
    const shown = this.#sampleAt(this.#moment);
    if (shown && this.#moment !== null) {
      const place = String(x(shown.at));
      children.push(svg("line", { class: "here", x1: place, x2: place, y1: "0", y2: String(HEIGHT) }));
    }
    this.#drawing.replaceChildren(...children);
    this.#levels.replaceChildren(...this.#levelsOf(most, steps));
    this.#empty.textContent = samples[samples.length - 1]?.isKnown ? this.#nothing : "Not known";
    this.#empty.hidden = values.some((value) => value > 0);
    for (const [index, target] of this.#values.entries()) {
      const value = shown?.values[index];
      target.textContent = value === null || value === undefined ? "–" : this.#format(value);
    }
  }

  /**
   * What the rules stand for, from the highest to the lowest.
   *
   * @param {number} most
   * @param {number} steps
   */
  #levelsOf(most, steps) {
    return Array.from({ length: steps + 1 }, (_, step) => {
      const value = this.#floor ? most / 10 ** step : most * (1 - step / steps);
      return element("span", {}, this.#format(value));
    });
  }

  /** @param {number | null} moment that is pointed at; null: the latest */
  point(moment) {
    this.#moment = moment;
    this.draw(this.#samples, this.#now);
  }

  /** @param {number | null} moment */
  #sampleAt(moment) {
    if (moment === null) return this.#samples[this.#samples.length - 1];
    let nearest = this.#samples[0];
    for (const sample of this.#samples) {
      if (Math.abs(sample.at - moment) < Math.abs(nearest.at - moment)) nearest = sample;
    }
    return nearest;
  }

  /**
   * @param {string} title
   * @param {(moment: number | null) => void} onPoint
   */
  #listen(title, onPoint) {
    this.#drawing.addEventListener("pointermove", (event) => {
      const box = this.#drawing.getBoundingClientRect();
      onPoint(this.#now - this.#shown * (1 - (event.clientX - box.left) / box.width));
    });
    this.#drawing.addEventListener("pointerleave", () => onPoint(null));
    this.#drawing.addEventListener("blur", () => onPoint(null));
    this.#drawing.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (steps === undefined || !this.#samples.length) return;
      event.preventDefault();
      const current = this.#sampleAt(this.#moment);
      const index = this.#samples.indexOf(/** @type {Sample} */ (current)) + steps;
      const sample = this.#samples[Math.max(0, Math.min(this.#samples.length - 1, index))];
      onPoint(sample.at);
      const ago = Math.round((this.#now - sample.at) / 1000);
      const values = this.#lines.map(({ label }, line) => {
        const value = sample.values[line];
        return `${label} ${value === null ? "none" : this.#format(value)}`;
      });
      this.#drawing.setAttribute("aria-label", `${title}, ${ago} seconds ago: ${values.join(", ")}`);
    });
  }
}

/**
 * The stretches of a line that have values.
 *
 * @param {Sample[]} samples
 * @param {number} index
 */
function piecesOf(samples, index) {
  /** @type {{at: number, value: number}[][]} */
  const pieces = [];
  let open = false;
  for (const { at, values } of samples) {
    const value = values[index];
    if (value === null) {
      open = false;
      continue;
    }
    if (!open) pieces.push([]);
    pieces[pieces.length - 1].push({ at, value });
    open = true;
  }
  return pieces;
}

/**
 * The next number of which the half is round, too: 1, 2, 4 … times a power of ten; of bytes, a power of
 * two.
 *
 * @param {number} value
 * @param {10 | 1024} base
 */
function niceAbove(value, base) {
  if (base === 1024) return 2 ** Math.ceil(Math.log2(value));
  const power = 10 ** Math.floor(Math.log10(value));
  const digit = [1, 2, 4, 6, 8, 10].find((step) => step * power >= value * 0.9999) ?? 10;
  return digit * power;
}

/** @param {number} milliseconds */
function ago(milliseconds) {
  return `${Math.round(milliseconds / 1000)} s ago`;
}

/**
 * @param {string} tag
 * @param {Record<string, string>} attributes
 */
function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
