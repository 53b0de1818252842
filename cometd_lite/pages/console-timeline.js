/**
 * The timeline of held requests: the requests of the inspector arrive, bars leave, one for each request.
 *
 * A bar grows while the server holds its request, and ends when the request is answered: a long-poll is a
 * stair of bars, and a stream is one bar with a mark for each message.
 *
 * @module
 */

import { byId, element, seconds } from "./console-dom.js";
import { parse, wokenBetween } from "./console-figures.js";

/** Times from the left edge to the right one, in seconds: the first is taken that has room for all bars. */
const WINDOWS = [10, 20, 60, 180];

/** As many requests as are shown; the oldest go first. */
const ROWS_MOST = 5;

/** As many messages of one request as are marked. */
const MARKS_MOST = 200;

const REDRAWN_EVERY = 250;

/** A request that the page itself ended. */
const GIVEN_UP = "given up";

/** The server's figures are read at most this often, in milliseconds, and so long after a message came. */
const MEASURED_EVERY = 1000;
const MEASURED_AFTER = 100;

/**
 * @typedef {object} Held
 * @property {"poll" | "stream"} kind
 * @property {number} began
 * @property {number | null} ended null while it is held
 * @property {number[]} marks when messages came
 * @property {number} messages
 * @property {string} [woken] how long it took from the push to the wake
 * @property {string} [failed] what came in the place of an answer
 */

export class Timeline {
  /** @type {Held[]} the newest first */
  #held = [];
  #session;
  #comet;
  /** @type {import("./console-figures.js").Reading | undefined} */
  #before;
  /** Whether the server shows its figures. */
  #shows = true;
  #measured = 0;
  #measuring = 0;
  #redraw = 0;
  #rows = byId("held-rows");

  /** @param {import("./console.js").Session} session */
  constructor(session) {
    this.#session = session;
    this.#comet = session.comet();
    this.#draw();
  }

  /**
   * A client whose held requests are shown here.
   *
   * @param {"auto" | "poll"} transport
   */
  comet(transport) {
    void this.#measure();
    return this.#session.comet({ transport, fetch: this.#fetch });
  }

  /** @param {boolean} shown whether someone can see it */
  show(shown) {
    clearInterval(this.#redraw);
    if (!shown) return;
    this.#draw();
    this.#redraw = setInterval(() => this.#draw(), REDRAWN_EVERY);
  }

  /** A message has come by the newest request. */
  message() {
    const [newest] = this.#held;
    if (!newest) return;
    newest.messages += 1;
    // A poll ends with its messages: only a stream has messages in its middle.
    if (newest.kind === "stream" && newest.marks.length < MARKS_MOST) newest.marks.push(Date.now());
    const wait = Math.max(MEASURED_AFTER, this.#measured + MEASURED_EVERY - Date.now());
    this.#measuring ||= setTimeout(() => this.#measure(), wait);
  }

  /** No request is held any more. */
  end() {
    for (const request of this.#held) request.ended ??= Date.now();
  }

  clear() {
    this.#held = this.#held.filter(({ ended }) => ended === null);
    this.#draw();
  }

  /** @type {typeof fetch} */
  #fetch = async (resource, init) => {
    const url = new URL(String(resource));
    const kind = url.pathname.endsWith("/stream") ? "stream" : "poll";
    const isHeld = kind === "stream" || url.searchParams.get("wait") !== "0";
    if (!isHeld) return fetch(resource, init);
    this.end();
    /** @type {Held} */
    const request = { kind, began: Date.now(), ended: null, marks: [], messages: 0 };
    this.#held = [request, ...this.#held].slice(0, ROWS_MOST);
    const end = () => (request.ended ??= Date.now());
    init?.signal?.addEventListener("abort", end, { once: true });
    try {
      const response = await fetch(resource, init);
      if (!response.ok) request.failed = String(response.status);
      if (kind === "poll" || !response.ok) end();
      return response;
    } catch (error) {
      end();
      request.failed = init?.signal?.aborted ? GIVEN_UP : "no answer";
      throw error;
    }
  };

  /** Ask the server how long its wakes took since it was asked last. Where it does not say, none is shown. */
  async #measure() {
    this.#measuring = 0;
    this.#measured = Date.now();
    const answered = this.#held.filter(({ kind, messages, woken }) => kind === "poll" && messages && !woken);
    if (!this.#shows) return;
    const text = await this.#comet.request("metrics", []).then(
      (response) => response.text(),
      (refusal) => {
        this.#shows = Boolean(refusal.passing);
        return "";
      },
    );
    if (!text) return;
    const now = parse(text, Date.now());
    const woken = this.#before && wokenBetween(this.#before, now);
    this.#before = now;
    if (!woken) return;
    for (const request of answered) {
      request.woken = `woken in ${woken.pushes > 1 ? "about " : ""}${seconds(woken.seconds)}`;
    }
  }

  #draw() {
    const now = Date.now();
    const longest = (now - Math.min(now, ...this.#held.map(({ began }) => began))) / 1000;
    const span = WINDOWS.find((seconds) => seconds >= longest) ?? WINDOWS[WINDOWS.length - 1];
    const from = now - span * 1000;
    const place = (/** @type {number} */ at) => `${Math.max(0, (at - from) / span / 10).toFixed(2)}%`;
    byId("held-from").textContent = `${span} s ago`;
    byId("held-half").textContent = `${span / 2} s ago`;
    const rows = this.#held
      .filter(({ ended }) => ended === null || ended > from)
      .map((request) => {
        const bar = element("span", { class: "bar" });
        bar.style.insetInlineStart = place(request.began);
        bar.style.insetInlineEnd = `${((now - (request.ended ?? now)) / span / 10).toFixed(2)}%`;
        const marks = request.marks
          .filter((at) => at > from)
          .map((at) => {
            const mark = element("span", { class: "mark" });
            mark.style.insetInlineStart = place(at);
            return mark;
          });
        const track = element("span", { class: "track", "aria-hidden": "true" }, bar, ...marks);
        return element(
          "li",
          { "data-held": outcome(request) },
          track,
          element("span", {}, story(request, now)),
        );
      });
    this.#rows.replaceChildren(...rows);
    byId("held-none").hidden = rows.length > 0;
  }
}

/** @param {Held} request */
function outcome({ ended, failed }) {
  if (ended === null) return "now";
  return failed === undefined || failed === GIVEN_UP ? "answered" : "failed";
}

/**
 * What became of a request: `held 3.2 s, woken in 26 µs`.
 *
 * @param {Held} request
 * @param {number} now
 */
function story({ kind, began, ended, messages, woken, failed }, now) {
  const length = `${((ended ?? now) / 1000 - began / 1000).toFixed(1)} s`;
  const came = messages === 1 ? "1 message" : `${messages} messages`;
  if (ended === null) return kind === "poll" ? `held for ${length} …` : `open for ${length}, ${came} …`;
  if (failed !== undefined) return `held ${length}, ${failed}`;
  if (kind === "stream") return `open ${length}, ${came}`;
  if (!messages) return `held ${length}, nothing came`;
  return ended - began < 50 ? `answered at once, ${came}` : `held ${length}, ${woken ?? came}`;
}
