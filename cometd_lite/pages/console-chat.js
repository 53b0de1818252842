/**
 * Chat: rooms, people and what they say. A room's name and one's own arrive; pushes leave.
 *
 * The room *lobby* is the recipient `chat/lobby`. What is said is `{"from": "Ada", "text": "hello"}`, as in
 * the chat of README.md. It is kept, so a page that is opened later shows the last of it. A server with
 * `--presence` knows who is in the room by name; any other knows how many readers wait there. Everything
 * else that is pushed to the room, by curl for instance, is shown as what a program says.
 *
 * @module
 */

import { BASE, byId, element, pathOf, quoted, showError, showState, time } from "./console-dom.js";

/** How often a server without presence is asked how many readers wait in the room. */
const COUNTED_EVERY = 5_000;

/** What is said of the others while the server does not answer. */
const UNKNOWN = "Who else is here is not known.";

/** The newest messages of a room, which are shown on entering it. */
const BEGIN = "last:50";

/** What is said within this time by the same person stands together. */
const TOGETHER = 5 * 60_000;

/** As many lines as are shown; the oldest go first. */
const LINES_MOST = 500;

/** As many people as are shown. */
const PEOPLE_MOST = 200;

/** The bytes of a name that the server takes (HTTP.md, "Presence"). */
const NAME_BYTES = 64;

/** @param {import("./console.js").Session} session */
export function chat(session) {
  const enter = /** @type {HTMLFormElement} */ (byId("enter"));
  const roomField = /** @type {HTMLInputElement} */ (byId("room"));
  const nameField = /** @type {HTMLInputElement} */ (byId("name"));
  const text = /** @type {HTMLInputElement} */ (byId("text"));
  /** @type {Room | undefined} */
  let room;

  enter.addEventListener("submit", (event) => {
    event.preventDefault();
    const inRoom = showError(roomField, byId("room-error"), wrongRoom(roomField.value.trim()));
    const named = showError(
      nameField,
      byId("name-error"),
      nameField.value.trim() ? "" : "Enter a name, which the others see.",
    );
    if (!inRoom) return roomField.focus();
    if (!named) return nameField.focus();
    room = new Room(session, roomField.value.trim(), nameField.value.trim());
    byId("entrance").hidden = true;
    byId("room-card").hidden = false;
    text.focus();
  });

  byId("leave").addEventListener("click", () => {
    room?.leave();
    room = undefined;
    byId("entrance").hidden = false;
    byId("room-card").hidden = true;
    roomField.focus();
  });

  byId("say").addEventListener("submit", async (event) => {
    event.preventDefault();
    const words = text.value.trim();
    if (!words || !room) return;
    text.value = "";
    const refusal = await room.say(words);
    showError(text, byId("say-error"), refusal ? `Not sent. ${refusal}` : "");
    // What could not be sent is not lost, unless something else was begun in the meantime.
    if (refusal && !text.value) text.value = words;
  });
}

/** Someone, in a room. */
class Room {
  #comet;
  /** @type {import("./client.js").Following | undefined} */
  #following;
  #recipient;
  /** @type {import("./client.js").Presence | undefined} */
  #presence;
  /** Whether one is in the room under one's name. */
  #named = true;
  #name;
  #session;
  #talk = new Talk();
  #counting = 0;
  #showOthers = () => {};
  #left = false;

  /**
   * @param {import("./console.js").Session} session
   * @param {string} room
   * @param {string} name
   */
  constructor(session, room, name) {
    this.#session = session;
    this.#comet = session.comet();
    this.#recipient = `chat/${room}`;
    this.#name = name;
    byId("room-name").textContent = room;
    byId("chat-curl").textContent =
      `curl -d ${quoted("hello from a terminal")} ${quoted(`${BASE}push/${pathOf(this.#recipient)}`)}`;
    showPeople([name], "");
    this.#enter();
  }

  /** Begin to read, once it is known whether the server knows who is here. */
  async #enter() {
    const health = await this.#comet.request("healthz", []).then(
      (response) => response.json(),
      () => ({}),
    );
    if (this.#left) return;
    if (health.presence) this.#watch();
    else this.#count();
  }

  /** Let the server say who is here. */
  #watch() {
    const own = fitting(this.#name);
    addEventListener("pagehide", this.#closed);
    const show = () => {
      this.#following ??= this.#follow(own);
      const others = presence.members.map(({ name }) => name).filter((name) => name !== own);
      others.sort((one, other) => one.localeCompare(other));
      // One name may have several readers, as in two windows.
      const unnamed = presence.readers - presence.members.reduce((sum, { readers }) => sum + readers, 0);
      showPeople(
        [own, ...others.slice(0, PEOPLE_MOST)],
        unnamed > 0 ? `and ${readers(unnamed)} without a name` : "",
      );
    };
    const presence = this.#comet.presence(this.#recipient, show);
    this.#presence = presence;
    this.#showOthers = show;
    presence.closed.then((error) => {
      if (error?.status === 401) this.#session.refused(error, () => this.#watch());
      else if (error) this.#count();
    });
  }

  /** Ask now and then how many readers are here, where the server does not know their names. */
  #count() {
    this.#following ??= this.#follow(undefined);
    const ask = async () => {
      if (document.hidden) return;
      try {
        const { waiting } = await this.#comet.describe(this.#recipient);
        const others = `${readers(waiting)} here. With --presence, a server knows their names.`;
        if (!this.#left) showPeople([this.#name], others);
      } catch {
        if (!this.#left) showPeople([this.#name], UNKNOWN);
      }
    };
    this.#counting = setInterval(ask, COUNTED_EVERY);
    this.#showOthers = ask;
  }

  /**
   * @param {string | undefined} as the name under which the server knows this reader
   * @returns {import("./client.js").Following}
   */
  #follow(as) {
    // What is shown is lost with the page, so a reload reads it again: nothing is remembered.
    return this.#comet.follow(this.#recipient, (message) => this.#show(message), {
      after: BEGIN,
      storageKey: null,
      as: this.#named ? as : undefined,
      onGap: () => this.#talk.note("Something was said here that the server no longer keeps.", "gap"),
      onState: (state, detail) => {
        showState(byId("chat-state"), state, detail);
        const isLive = state === "streaming" || state === "polling";
        this.#talk.live(isLive);
        if (isLive) this.#showOthers();
        else if (state === "waiting" || state === "offline") showPeople([this.#name], UNKNOWN);
        if (state !== "closed" || this.#left) return;
        if (this.#named && as !== undefined && detail.error?.status === 403) {
          // The token does not let its reader name itself.
          this.#named = false;
          this.#following = this.#follow(as);
          return;
        }
        this.#session.refused(detail.error, () => (this.#following = this.#follow(as)));
      },
    });
  }

  /**
   * @param {string} text
   * @returns {Promise<string | undefined>} why not, where it could not be said
   */
  async say(text) {
    try {
      await this.#comet.push(this.#recipient, { from: this.#name, text }, { overflow: "drop-oldest" });
      return undefined;
    } catch (error) {
      const refusal = /** @type {import("./client.js").CometError} */ (error);
      this.#session.refused(refusal, () => {});
      return refusal.message;
    }
  }

  /** A server keeps the name of a reader that was disconnected for a while, unless the page says that it leaves. */
  #closed = () => {
    if (!this.#named) return;
    this.#comet.leave(this.#recipient, { as: fitting(this.#name), keepalive: true }).catch(() => {});
  };

  leave() {
    this.#left = true;
    removeEventListener("pagehide", this.#closed);
    clearInterval(this.#counting);
    this.#talk.clear();
    this.#presence?.stop();
    this.#following?.stop();
  }

  /** @param {import("./client.js").Message} message */
  #show({ event, data, created_at }) {
    if (typeof data?.from === "string" && typeof data.text === "string") {
      this.#talk.say({ name: data.from, own: data.from === this.#name, text: data.text }, created_at);
      return;
    }
    const text =
      typeof data === "string"
        ? data
        : data instanceof Uint8Array
          ? `${data.length} bytes`
          : JSON.stringify(data);
    this.#talk.say({ name: event ?? "a program", own: false, text, program: true }, created_at);
  }
}

/** What was said, as it stands on the page. */
class Talk {
  #list = byId("talk");
  #scroll = byId("talk-scroll");
  #last = { name: "", program: false, at: 0 };

  constructor() {
    this.clear();
  }

  clear() {
    this.#list.replaceChildren();
    this.#last = { name: "", program: false, at: 0 };
    byId("chat-empty").hidden = true;
  }

  /** Whether nothing was said is known once there is a connection. @param {boolean} isLive */
  live(isLive) {
    byId("chat-empty").hidden = !isLive || this.#list.childElementCount > 0;
  }

  /**
   * @param {{name: string, own: boolean, text: string, program?: boolean}} saying
   * @param {string} created_at
   */
  say({ name, own, text, program = false }, created_at) {
    const at = Date.parse(created_at);
    const last = this.#last;
    const first = name !== last.name || program !== last.program || at - last.at > TOGETHER;
    this.#last = { name, program, at };
    const kinds = ["saying", own && "own", first && "first", program && "plain"].filter(Boolean).join(" ");
    const item = element("div", { class: kinds });
    if (!own && first) item.append(face(name, program));
    const who = element("span", own ? { class: "unseen" } : {}, own ? "You" : name);
    if (first) item.append(element("div", { class: "row who" }, who, time(created_at, "minutes")));
    else item.append(element("span", { class: "unseen" }, `${own ? "You" : name}: `));
    item.append(element("div", { class: "words" }, text));
    this.#add(item);
  }

  /**
   * @param {string} text
   * @param {string} kind
   */
  note(text, kind) {
    this.#last = { name: "", program: false, at: 0 };
    this.#add(element("p", { class: `note ${kind}` }, text));
  }

  /** @param {HTMLElement} item */
  #add(item) {
    // A reader who has scrolled up stays there.
    const atEnd = this.#scroll.scrollHeight - this.#scroll.scrollTop - this.#scroll.clientHeight < 60;
    byId("chat-empty").hidden = true;
    this.#list.append(item);
    if (this.#list.childElementCount > LINES_MOST) this.#list.firstElementChild?.remove();
    if (atEnd) this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }
}

/**
 * @param {string[]} names one's own first
 * @param {string} others what is to be said of all others
 */
function showPeople(names, others) {
  const items = names.map((name) =>
    element("li", { class: "row" }, face(name), element("span", { class: "clip" }, name)),
  );
  items[0].append(element("small", { class: "hint" }, "you"));
  byId("people").replaceChildren(...items);
  byId("others").textContent = others;
}

/** @param {number} number */
function readers(number) {
  return number === 1 ? "1 reader" : `${number} readers`;
}

/** As much of a name as the server takes. @param {string} name */
function fitting(name) {
  const encoder = new TextEncoder();
  let size = 0;
  return [...name].filter((character) => (size += encoder.encode(character).length) <= NAME_BYTES).join("");
}

/**
 * An initial on a colour: one name has one colour, on every page.
 *
 * @param {string} name
 * @param {boolean} [program]
 */
function face(name, program = false) {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + (character.codePointAt(0) ?? 0)) >>> 0;
  const initial = program ? "›_" : ([...name.trim()][0] ?? "?").toUpperCase();
  const made = element("span", { class: "face", "aria-hidden": "true" }, initial);
  // The golden angle: names that differ little get colours that differ much.
  if (!program) made.style.setProperty("--hue", String((hash * 137.508) % 360));
  return made;
}

/** @param {string} room */
function wrongRoom(room) {
  if (!room) return "A room has a name, such as lobby.";
  const allowed = room.split("/").every((segment) => segment && ![".", "..", "*", "**"].includes(segment));
  return allowed ? "" : "A room's name has no empty segment, and none that is '.', '..', '*' or '**'.";
}
