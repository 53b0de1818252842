/**
 * What the console's parts share: elements and words. Values arrive, what a person sees leaves.
 *
 * Everything that others wrote goes in as text, never as markup.
 *
 * @module
 */

/** Where the server is mounted: the page lies at its root. */
export const BASE = new URL("./", document.baseURI).href;

/**
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return /** @type {T} */ (found);
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | boolean | undefined>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (typeof value === "string") made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/**
 * A list of terms: `facts({ id: "…" })`.
 *
 * @param {Record<string, string | Node | undefined>} pairs those without a value are left out
 */
export function facts(pairs) {
  const list = element("dl");
  for (const [term, value] of Object.entries(pairs)) {
    if (value !== undefined) list.append(element("dt", {}, term), element("dd", {}, value));
  }
  return list;
}

/**
 * Show what a reader is doing, as a dot and a word.
 *
 * @param {HTMLElement} target
 * @param {import("./client.js").State} state
 * @param {import("./client.js").StateDetail} [detail]
 */
export function showState(target, state, detail = {}) {
  const words = {
    connecting: "Connecting",
    streaming: "Live, by stream",
    polling: "Live, by long-poll",
    waiting: `No answer; next try in ${Math.max(1, Math.round(detail.delay ?? 0))} s`,
    offline: "No network",
    paused: "Paused",
    closed: detail.error ? detail.error.message : "Not following",
  };
  if (detail.error?.retryAfter !== undefined && state === "waiting") {
    words.waiting = `${detail.error.message} Next try in ${Math.round(detail.delay ?? 0)} s`;
  }
  target.dataset.state = detail.error && state === "closed" ? "failed" : state;
  target.textContent = words[state];
}

/**
 * Say what is wrong beside a field, or that nothing is.
 *
 * @param {HTMLInputElement | HTMLTextAreaElement} field
 * @param {HTMLElement} hint
 * @param {string} wrong empty where it is right
 * @returns {boolean} whether it is right
 */
export function showError(field, hint, wrong) {
  hint.textContent = wrong;
  if (wrong) {
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", hint.id);
  } else {
    field.removeAttribute("aria-invalid");
    if (field.getAttribute("aria-describedby") === hint.id) field.removeAttribute("aria-describedby");
  }
  return !wrong;
}

const SECONDS = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const MINUTES = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const COUNT = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/**
 * @param {string} created_at
 * @param {"minutes" | "seconds"} precision
 */
export function time(created_at, precision) {
  const format = precision === "minutes" ? MINUTES : SECONDS;
  const shown = element("time", { datetime: created_at, title: created_at });
  shown.textContent = format.format(new Date(created_at));
  return shown;
}

/** @param {number} number */
export function count(number) {
  return number < 10 && !Number.isInteger(number) ? SHORT.format(number) : COUNT.format(Math.round(number));
}

/** @param {number} number of bytes */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(number) : SHORT.format(number)} ${units[unit]}`;
}

/** @param {number} number in seconds */
export function seconds(number) {
  if (number < 0.001) return `${SHORT.format(number * 1e6)} µs`;
  if (number < 1) return `${SHORT.format(number * 1e3)} ms`;
  return `${SHORT.format(number)} s`;
}

/** @param {number} number in seconds, as `3 d 4 h` */
export function span(number) {
  const minutes = Math.floor(number / 60);
  const hours = Math.floor(minutes / 60);
  const days = Math.floor(hours / 24);
  if (days > 0) return `${days} d ${hours % 24} h`;
  if (hours > 0) return `${hours} h ${minutes % 60} min`;
  return minutes > 0 ? `${minutes} min` : `${Math.floor(number)} s`;
}

/**
 * The size of a message's body. Of JSON it is that of the same JSON without white space.
 *
 * @param {import("./client.js").Message} message
 */
export function sizeOf({ data }) {
  if (data instanceof Uint8Array) return data.length;
  return new TextEncoder().encode(typeof data === "string" ? data : JSON.stringify(data)).length;
}

/**
 * @param {any} data
 * @param {"line" | "block"} shape
 */
export function shown(data, shape) {
  if (typeof data === "string") return data;
  if (!(data instanceof Uint8Array)) return JSON.stringify(data, null, shape === "block" ? 2 : 0);
  const octets = Array.from(data.subarray(0, shape === "block" ? 4096 : 24), (octet) =>
    octet.toString(16).padStart(2, "0"),
  );
  return octets.join(" ") + (octets.length < data.length ? " …" : "");
}

/** @param {string} word as a shell takes it */
export function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
}

/** @param {string} recipient as it stands in a path */
export function pathOf(recipient) {
  return recipient.split("/").map(encodeURIComponent).join("/").replaceAll("%40", "@");
}

/** Give every example the server's own address, and a button that copies it. */
export function prepareExamples() {
  for (const base of document.querySelectorAll("[data-base]")) base.textContent = BASE;
  for (const host of document.querySelectorAll("[data-host]"))
    host.textContent = BASE.replace(/^\w+:\/\/|\/$/g, "");
  for (const example of document.querySelectorAll(".example")) {
    const button = element(
      "button",
      { type: "button", class: "copy", "aria-label": "Copy this command" },
      "Copy",
    );
    button.addEventListener("click", async () => {
      const done = await copy(example.querySelector("code")?.textContent ?? "");
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      setTimeout(() => (button.textContent = "Copy"), 1500);
      if (!done) getSelection()?.selectAllChildren(/** @type {Node} */ (example.querySelector("code")));
    });
    example.append(button);
  }
}

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text); // Not there on a page that came over plain HTTP.
    return true;
  } catch {
    return false;
  }
}
