/**
 * Chat: rooms, people and what they say. A room's name and one's own arrive; pushes leave.
 *
 * The room *lobby* is the recipient `chat/lobby`. What is said is a message with the event `say`; it is
 * kept, so a page that is opened later shows it. A server with `--presence` knows who is in the room, by
 * name. On any other, the pages tell each other by messages that are not queued (`queue=no`): `here` when a
 * page joins, every so often, and in answer to one that joins; and `gone`. Everything else that is pushed to the room, by curl for instance, is shown as what a program says.
 *
 * @module
 */

import { BASE, byId, element, pathOf, quoted, showError, showState, time } from "./console-dom.js";

/** @typedef {{name: string, seen: number}} Person */

/** Who is there says so this often, and is gone when it was not heard for longer than two times. */
const BEAT = 20_000;
const ABSENT = 50_000;

/** An answer to a newcomer waits up to this long, so that a full room does not answer as one. */
const ANSWER_WITHIN = 800;

/** A poll that was just answered needs a moment to wait again. */
const SETTLE = 250;

/** What is said within this time by the same person stands together. */
const TOGETHER = 5 * 60_000;

/** As many lines as are shown; the oldest go first. */
const LINES_MOST = 500;

/** As many people as are remembered, or shown; a room with more of them has other worries. */
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
      nameField.value.trim() ? "" : "Others will want to know who speaks.",
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
  #id = crypto.getRandomValues(new Uint32Array(2)).join("-");
  #comet;
  /** @type {import("./client.js").Following | undefined} */
  #following;
  #recipient;
  /** @type {import("./client.js").Presence | undefined} */
  #presence;
  /** Whether the server knows who is in the room. */
  #known = false;
  /** Whether one is in the room under one's name. */
  #named = true;
  #name;
  #session;
  /** @type {Map<string, Person>} by the id of their page: names may be shared */
  #people = new Map();
  #listeners = 0;
  #talk = new Talk();
  #beat = 0;
  /** @type {Map<string, number>} what is about to be said, by its reason: each once */
  #pending = new Map();

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
    this.#showPeople();
    this.#enter();
  }

  /** Begin to read, once it is known whether the server knows who is here. */
  async #enter() {
    const health = await this.#comet.request("healthz", []).then(
      (response) => response.json(),
      () => ({}),
    );
    if (!this.#recipient) return; // Left already.
    if (health.presence) this.#watch();
    else this.#introduce();
  }

  #watch() {
    this.#presence = this.#comet.presence(this.#recipient, () => {
      this.#known = true;
      this.#following ??= this.#follow();
      this.#showPeople();
    });
    this.#presence.closed.then((error) => {
      if (error?.status === 401) this.#session.refused(error, () => this.#watch());
      else if (error) this.#introduce();
    });
  }

  /** Tell the other pages who is here, since the server does not. */
  #introduce() {
    this.#known = false;
    this.#following ??= this.#follow();
    this.#beat = setInterval(() => this.#here(), BEAT);
    addEventListener("pagehide", this.#goodbye);
  }

  /** @returns {import("./client.js").Following} */
  #follow() {
    const as = this.#known && this.#named ? fitting(this.#name) : undefined;
    // What is shown is lost with the page, so a reload reads it all again: nothing is remembered.
    return this.#comet.follow(this.#recipient, (message) => this.#hear(message), {
      after: "oldest",
      storageKey: null,
      as,
      onGap: () => this.#talk.note("Something was said here that the server no longer keeps.", "gap"),
      onState: (state, detail) => {
        showState(byId("chat-state"), state, detail);
        if (state === "streaming" || state === "polling") this.#later("come", SETTLE, { newcomer: true });
        if (state !== "closed") return;
        if (as !== undefined && detail.error?.status === 403) {
          // The token does not let its reader name itself.
          this.#named = false;
          this.#following = this.#follow();
          return;
        }
        this.#session.refused(detail.error, () => (this.#following = this.#follow()));
      },
    });
  }

  /**
   * @param {string} words
   * @returns {Promise<string | undefined>} why not, where it could not be said
   */
  async say(words) {
    try {
      const options = { event: "say", overflow: /** @type {const} */ ("drop-oldest") };
      const receipt = await this.#comet.push(
        this.#recipient,
        { name: this.#name, id: this.#id, text: words },
        options,
      );
      this.#count(receipt.delivered);
      return undefined;
    } catch (error) {
      const refusal = /** @type {import("./client.js").CometError} */ (error);
      this.#session.refused(refusal, () => {});
      return refusal.message;
    }
  }

  async leave() {
    clearInterval(this.#beat);
    for (const timer of this.#pending.values()) clearTimeout(timer);
    removeEventListener("pagehide", this.#goodbye);
    this.#talk.clear();
    const last = this.#goodbye();
    this.#recipient = "";
    this.#presence?.stop();
    await last;
    this.#following?.stop();
  }

  #goodbye = () => this.#whisper("gone", {}, true);

  /** @param {{newcomer?: boolean}} [more] */
  async #here(more = {}) {
    const receipt = await this.#whisper("here", more);
    if (receipt) this.#count(receipt.delivered);
  }

  /**
   * Tell the pages that read at this moment only. That none of them does is no fault.
   *
   * @param {string} event
   * @param {object} more
   * @param {boolean} [keepalive]
   */
  async #whisper(event, more, keepalive) {
    if (!this.#recipient || this.#known) return undefined;
    try {
      const data = { name: this.#name, id: this.#id, ...more };
      return await this.#comet.push(this.#recipient, data, { event, queue: false, keepalive });
    } catch {
      return undefined;
    }
  }

  /** @param {import("./client.js").Message} message */
  #hear(message) {
    if (!this.#recipient) return; // Left, and waiting only for the last word to be sent.
    const { event, data } = message;
    const person = typeof data?.name === "string" && typeof data.id === "string" ? data : undefined;
    if (event === "gone" && person) this.#people.delete(person.id);
    if (event === "here" && person && (this.#people.size < PEOPLE_MOST || this.#people.has(person.id))) {
      this.#people.set(person.id, { name: person.name, seen: Date.now() });
      if (data.newcomer && person.id !== this.#id)
        this.#later("answer", SETTLE + Math.random() * ANSWER_WITHIN);
    }
    if (event === "say" && person && typeof data.text === "string") {
      this.#talk.say(
        { name: person.name, id: person.id, own: person.id === this.#id, text: data.text },
        message.created_at,
      );
    } else if (!person) {
      const words =
        typeof data === "string"
          ? data
          : data instanceof Uint8Array
            ? `${data.length} bytes`
            : JSON.stringify(data);
      this.#talk.say({ name: event ?? "a program", id: "", own: false, text: words }, message.created_at);
    }
    this.#showPeople();
  }

  /**
   * Say that one is here, in a moment.
   *
   * @param {string} reason
   * @param {number} milliseconds
   * @param {{newcomer?: boolean}} [more]
   */
  #later(reason, milliseconds, more) {
    clearTimeout(this.#pending.get(reason));
    this.#pending.set(
      reason,
      setTimeout(() => this.#here(more), milliseconds),
    );
  }

  /** A push tells how many readers it woke: programs are there too. @param {number} delivered */
  #count(delivered) {
    this.#listeners = delivered;
    this.#showPeople();
  }

  #showPeople() {
    if (this.#known && this.#presence) {
      const { members, readers } = this.#presence;
      const names = members.slice(0, PEOPLE_MOST).map(({ name }) => name);
      const own = fitting(this.#name);
      const others = names.filter((name) => name !== own).sort((one, other) => one.localeCompare(other));
      this.#show([[own, own, true], ...others.map((name) => personOf(name))], readers - names.length);
      return;
    }
    for (const [id, { seen }] of this.#people) if (Date.now() - seen > ABSENT) this.#people.delete(id);
    const present = [...this.#people].filter(([id]) => id !== this.#id);
    present.sort(([, a], [, b]) => a.name.localeCompare(b.name));
    /** @type {[string, string, boolean][]} */
    const people = [
      [this.#id, this.#name, true],
      ...present.map(([id, { name }]) => /** @type {[string, string, boolean]} */ ([id, name, false])),
    ];
    this.#show(people, this.#listeners - people.length);
  }

  /**
   * @param {[string, string, boolean][]} people the id and the name of each, and whether it is oneself
   * @param {number} others how many more read
   */
  #show(people, others) {
    byId("people").replaceChildren(...people.map((person) => personItem(...person)));
    byId("others").textContent =
      others > 0
        ? `and ${others} more ${others === 1 ? "reader that gives" : "readers that give"} no name`
        : "";
  }
}

/** What was said, as it stands on the page. */
class Talk {
  #list = byId("talk");
  #scroll = byId("talk-scroll");
  #last = { id: "", name: "", at: 0 };

  constructor() {
    this.clear();
  }

  clear() {
    this.#list.replaceChildren();
    this.#last = { id: "", name: "", at: 0 };
    byId("chat-empty").hidden = false;
  }

  /**
   * @param {{name: string, id: string, own: boolean, text: string}} saying
   * @param {string} created_at
   */
  say({ name, id, own, text }, created_at) {
    const at = Date.parse(created_at);
    const first = id !== this.#last.id || name !== this.#last.name || at - this.#last.at > TOGETHER;
    this.#last = { id, name, at };
    const kinds = ["saying", own && "own", first && "first", !id && "plain"].filter(Boolean).join(" ");
    const item = element("div", { class: kinds });
    if (!own && first) item.append(face(id, name));
    const who = element("span", own ? { class: "unseen" } : {}, own ? "You" : name);
    if (first) item.append(element("div", { class: "who" }, who, time(created_at, "minutes")));
    else item.append(element("span", { class: "unseen" }, `${own ? "You" : name}: `));
    item.append(element("div", { class: "words" }, text));
    this.#add(item);
  }

  /**
   * @param {string} text
   * @param {string} kind
   */
  note(text, kind) {
    this.#last = { id: "", name: "", at: 0 };
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
 * A person whom the server knows by the name alone.
 *
 * @param {string} name
 * @returns {[string, string, boolean]}
 */
function personOf(name) {
  return [name, name, false];
}

/** As much of a name as the server takes. @param {string} name */
function fitting(name) {
  const encoder = new TextEncoder();
  let size = 0;
  return [...name].filter((character) => (size += encoder.encode(character).length) <= NAME_BYTES).join("");
}

/**
 * @param {string} id
 * @param {string} name
 * @param {boolean} own
 */
function personItem(id, name, own) {
  const item = element("li", {}, face(id, name), element("span", { class: "name" }, name));
  if (own) item.append(element("small", {}, "you"));
  return item;
}

/**
 * An initial on a colour of its own, the same on every page.
 *
 * @param {string} id
 * @param {string} name
 */
function face(id, name) {
  let hue = 0;
  for (const character of name + id) hue = (hue * 31 + (character.codePointAt(0) ?? 0)) % 360;
  const initial = id ? ([...name.trim()][0] ?? "?").toUpperCase() : "›_";
  const made = element("span", { class: "face", "aria-hidden": "true" }, initial);
  made.style.setProperty("--hue", String(hue));
  return made;
}

/** @param {string} room */
function wrongRoom(room) {
  if (!room) return "A room has a name, such as lobby.";
  const allowed = room.split("/").every((segment) => segment && ![".", "..", "*", "**"].includes(segment));
  return allowed ? "" : "A room's name has no empty segment, and none that is '.', '..', '*' or '**'.";
}
