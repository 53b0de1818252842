/**
 * The console: three views of a server, through `client.js` and its public interface only.
 *
 * Here are the frame and what the parts share: the tabs, the colours and the token. Each part has a
 * module of its own, which is given the `Session` and does the rest.
 *
 * @module
 */

import { Comet } from "./client.js";
import { chat } from "./console-chat.js";
import { BASE, byId, prepareExamples } from "./console-dom.js";
import { inspector } from "./console-inspector.js";
import { server } from "./console-server.js";

const TOKEN_KEY = `comet token ${BASE}`;
const THEMES = ["auto", "light", "dark"];

/** How this page speaks to the server: as whom, and what to do when that is not enough. */
export class Session {
  /** @type {Set<() => void>} what to try again with a new token */
  #refused = new Set();
  #token = recall(sessionStorage, TOKEN_KEY);
  #form = /** @type {HTMLFormElement} */ (byId("token"));

  constructor() {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      const field = /** @type {HTMLInputElement} */ (byId("token-value"));
      this.#token = field.value.trim();
      remember(sessionStorage, TOKEN_KEY, this.#token);
      field.value = "";
      this.#form.hidden = true;
      const again = [...this.#refused];
      this.#refused.clear();
      for (const retry of again) retry();
    });
  }

  /** @param {import("./client.js").CometOptions} [options] */
  comet(options = {}) {
    return new Comet(BASE, { token: () => this.#token ?? undefined, ...options });
  }

  /**
   * Ask for a token where its lack, or its limits, were the reason.
   *
   * @param {import("./client.js").CometError | undefined} error
   * @param {() => void} retry what to do once there is one
   */
  refused(error, retry) {
    if (error?.status !== 401 && !(error?.status === 403 && error.kind === "forbidden")) return;
    this.#refused.add(retry);
    if (this.#token) byId("token-why").textContent = error.message;
    if (!this.#form.hidden) return;
    this.#form.hidden = false;
    byId("token-value").focus();
  }
}

/** Tabs as the ARIA Authoring Practices describe them: one stop for Tab, arrows between them. */
function tabs() {
  const all = /** @type {HTMLElement[]} */ ([...document.querySelectorAll('[role="tab"]')]);
  /** @type {Map<string, (shown: boolean) => void>} */
  const listeners = new Map();

  /** @param {HTMLElement} chosen */
  const show = (chosen) => {
    for (const tab of all) {
      const part = /** @type {string} */ (tab.getAttribute("aria-controls"));
      const selected = tab === chosen;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
      byId(part).hidden = !selected;
      listeners.get(part)?.(selected);
    }
    document.title = `${chosen.textContent?.trim()} – cometd-lite`;
  };
  const fromAddress = () => {
    const part = location.hash.slice(1);
    show(all.find((tab) => tab.getAttribute("aria-controls") === part) ?? all[0]);
  };
  /** @param {HTMLElement} tab */
  const choose = (tab) => {
    history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
    show(tab);
    tab.focus();
  };
  for (const [index, tab] of all.entries()) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      /** @type {Record<string, number>} */
      const places = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: all.length - 1 };
      if (!(event.key in places)) return;
      event.preventDefault();
      choose(all[(places[event.key] + all.length) % all.length]);
    });
  }
  addEventListener("hashchange", fromAddress);
  return { listeners, start: fromAddress };
}

/** Light, dark, or as the system has it. */
function themes() {
  const button = byId("theme");
  let theme = recall(localStorage, "comet theme") ?? "auto";
  const apply = () => {
    document.documentElement.dataset.theme = theme;
    byId("theme-name").textContent = { light: "Light", dark: "Dark" }[theme] ?? "Auto";
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    remember(localStorage, "comet theme", theme);
    apply();
  });
  apply();
}

/**
 * @param {Storage} storage
 * @param {string} key
 */
function recall(storage, key) {
  try {
    return storage.getItem(key);
  } catch {
    return null;
  }
}

/**
 * @param {Storage} storage
 * @param {string} key
 * @param {string} value
 */
function remember(storage, key, value) {
  try {
    storage.setItem(key, value);
  } catch {
    // Full or blocked: it holds until the page is left.
  }
}

prepareExamples();
themes();
const session = new Session();
const { listeners, start } = tabs();
chat(session);
listeners.set("inspector", inspector(session));
listeners.set("server", server(session));
start();
