/**
 * Tabs: the pages of one origin that follow recipients at the same server, as the same token subject, share
 * one connection. `client.js` loads this module where the browser has what it needs.
 *
 * One page, the *leader*, follows the recipients of all pages over one connection, and sends each message to
 * the others over a `BroadcastChannel`. The Web Locks API elects it. Where a page has no Web Locks, because it
 * is no secure context, a `SharedWorker` leads; it runs this module.
 *
 * A message on the channel is never the truth. Each reader keeps a cursor of its own, and asks the server for
 * everything behind it when it has joined, when another leader has taken over, and when the leader had a gap.
 * So a leader that is closed, that crashed or that hangs loses nothing, and a reader that gets a message twice
 * knows its id.
 *
 * @module
 */

import { Comet, Following } from "./client.js";

/** @typedef {import("./client.js").Message} Message */
/** @typedef {import("./client.js").State} State */
/** @typedef {import("./client.js").StateDetail} StateDetail */

/**
 * What happens at a member: a message; `look`, behind which something may lie that the channel does not bring;
 * a state of the leader's connection; or `alone`, when the member needs a connection of its own.
 *
 * @typedef {{kind: "message", message: Message} | {kind: "look"} | {kind: "alone"} |
 *   {kind: "state", state: State, detail: StateDetail}} TabEvent
 */

/**
 * What the leader of a group is made with; it goes to the worker as it is.
 *
 * @typedef {object} Shared
 * @property {string} name of the group: pages with the same name share
 * @property {string} url of the server
 * @property {"auto" | "stream" | "poll"} transport
 * @property {number} patience in seconds
 * @property {RequestCredentials} credentials
 * @property {boolean} ack
 * @property {string} [as] the name under which its readers are present
 */

/** @typedef {(renew: boolean) => Promise<string | undefined>} TokenSource */

/** The recipients that one connection may name: the server's bound on a request. */
const RECIPIENTS_MOST = 100;

/** A leader that has answered nothing for this long hangs, and another page takes over. */
const LEADER_SILENCE = 5_000;

/** A page asks this often whether the leader is there. */
const PING = 1_000;

/** A page that a worker has received nothing from for this long has ended; timers of hidden pages run once a minute. */
const PAGE_SILENCE = 150_000;

/** Events that a member may leave unread; beyond, it asks the server when it comes to them. */
const BACKLOG = 1_000;

/** Whether pages here can share a connection. */
export function canShare() {
  return typeof BroadcastChannel === "function" && (hasLocks() || typeof SharedWorker === "function");
}

function hasLocks() {
  return Boolean(globalThis.navigator?.locks);
}

/** The groups of this page, by name. @type {Map<string, Group>} */
const groups = new Map();

/**
 * Join a group.
 *
 * @param {Shared} shared
 * @param {TokenSource} token
 * @param {string[]} recipients
 * @returns {Member}
 */
export function join(shared, token, recipients) {
  let group = groups.get(shared.name);
  if (!group) groups.set(shared.name, (group = new Group(shared, token)));
  return group.join(recipients);
}

/** One reader of this page. Its events wait here until it has handled those before. */
export class Member {
  /** @type {TabEvent[]} */
  #events = [];
  #wake = () => {};
  #left = false;
  /** Whether the leader knows this member: it says so by `look`, which is what it may have missed until then. */
  #isKnown = false;

  /**
   * @param {Group} group
   * @param {string} id
   * @param {string[]} recipients
   */
  constructor(group, id, recipients) {
    this.group = group;
    this.id = id;
    this.recipients = recipients;
  }

  /** @param {TabEvent} event */
  give(event) {
    if (event.kind === "look") this.#isKnown = true;
    if (event.kind === "message") {
      // Before it has looked, a message would move its cursor past those that it has missed.
      if (!this.#isKnown || !this.recipients.some((one) => covers(one, event.message.recipient))) return;
    }
    if (this.#events.length >= BACKLOG) this.#events = [{ kind: "look" }];
    this.#events.push(event);
    this.#wake();
  }

  /** Wait for a `look` of the next leader. */
  forget() {
    this.#isKnown = false;
  }

  /** The events, as they come, until the member leaves. */
  async *events() {
    while (!this.#left) {
      const event = this.#events.shift();
      if (event) yield event;
      else await new Promise((resolve) => (this.#wake = () => resolve(undefined)));
    }
  }

  leave() {
    if (this.#left) return;
    this.#left = true;
    this.#wake();
    this.group.leave(this);
  }
}

/** The readers of this page that share one connection with those of other pages. */
class Group {
  /** @type {Map<string, Member>} */
  #members = new Map();
  /** @type {Leader | undefined} where this page leads */
  #leader;
  #ended = false;
  /** When the leader was asked for a sign of life, and has given none yet. @type {number | undefined} */
  #askedAt;
  #resign = () => {};
  #ready = Promise.resolve();
  /** Ends what this page waits for: a lock that is granted later would take it out of the back button's cache. */
  #left = new AbortController();
  #page = newId();
  #channel;
  #pinging;
  #worker;
  #shared;
  #token;

  /**
   * @param {Shared} shared
   * @param {TokenSource} token
   */
  constructor(shared, token) {
    this.#shared = shared;
    this.#token = token;
    this.#channel = new BroadcastChannel(shared.name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#pinging = setInterval(() => this.#ping(), PING);
    if (hasLocks()) {
      // The leader knows that this page has ended when it is granted this lock: this page has to be first.
      this.#ready = new Promise((resolve) => {
        const hold = () => {
          resolve();
          return this.#untilEnded();
        };
        navigator.locks.request(pageLock(shared, this.#page), hold).catch(() => {});
      });
      this.#campaign({ signal: this.#left.signal });
    } else {
      this.#worker = new SharedWorker(new URL(import.meta.url), { type: "module", name: shared.name });
      this.#worker.port.postMessage(shared);
    }
  }

  /** @param {string[]} recipients */
  join(recipients) {
    const member = new Member(this, newId(), recipients);
    this.#members.set(member.id, member);
    void this.#want(member);
    return member;
  }

  /** @param {Member} member */
  leave(member) {
    this.#members.delete(member.id);
    this.#say({ kind: "drop", member: member.id });
    if (this.#members.size) return;
    this.#ended = true;
    groups.delete(this.#shared.name);
    clearInterval(this.#pinging);
    this.#left.abort();
    this.#resign();
    this.#release();
    this.#channel.close();
    this.#worker?.port.close();
  }

  #release = () => {};

  #untilEnded() {
    return this.#ended ? undefined : new Promise((resolve) => (this.#release = () => resolve(undefined)));
  }

  // -- the leader

  /**
   * Lead, as soon as no other page does, or at once where the lock is stolen.
   *
   * @param {LockOptions} options
   */
  #campaign(options) {
    const lead = () => {
      if (this.#ended) return undefined;
      const leader = (this.#leader = new Leader(this.#shared, this.#token, (data) => this.#send(data), this.#page));
      leader.begin();
      return new Promise((resolve) => {
        this.#resign = () => {
          if (this.#leader === leader) this.#leader = undefined;
          leader.end();
          resolve(undefined);
        };
      });
    };
    const over = () => {
      // Another page has stolen the lock, because this one was silent. It waits for its turn.
      this.#resign();
      if (!this.#ended) this.#campaign({ signal: this.#left.signal });
    };
    navigator.locks.request(this.#shared.name, options, lead).then(over, over);
  }

  #ping() {
    if (this.#leader) return;
    this.#say({ kind: "ping", page: this.#page });
    const now = Date.now();
    this.#askedAt ??= now;
    if (now - this.#askedAt < LEADER_SILENCE) return;
    this.#askedAt = undefined;
    if (hasLocks()) this.#campaign({ steal: true });
  }

  // -- the channel

  /** @param {Member} member */
  async #want(member) {
    member.forget();
    await this.#ready;
    if (this.#members.has(member.id)) this.#say({ kind: "want", member: member.id, page: this.#page, recipients: member.recipients });
  }

  /** Say something to the leader, wherever it is. @param {any} data */
  #say(data) {
    if (this.#leader) this.#leader.receive(data);
    else this.#channel.postMessage(data);
  }

  /** Send data to all pages, as their leader. @param {any} data */
  #send(data) {
    if (this.#ended) return;
    this.#channel.postMessage(data);
    this.#receive(data);
  }

  /** @param {any} data what another page says */
  #hear(data) {
    if (data.kind === "who" && this.#leader) {
      // Where another page has stolen the lock, this one may hear of it on the channel first. Its members have to
      // tell the next leader what they want, and not this one.
      if (data.began < this.#leader.began) return;
      this.#resign();
    }
    this.#receive(data);
  }

  /** @param {any} data */
  #receive(data) {
    const { kind, member } = data;
    if (FOR_LEADERS.has(kind)) {
      this.#leader?.receive(data);
      return;
    }
    this.#askedAt = undefined;
    if (kind === "pong" || kind === "token") return;
    if (kind === "who") for (const one of this.#members.values()) void this.#want(one);
    else if (kind === "token?") this.#answerToken(data);
    else if (member === undefined) for (const one of this.#members.values()) one.give(data);
    else this.#members.get(member)?.give({ ...data, kind: data.what });
  }

  /** @param {any} data */
  async #answerToken({ id, renew }) {
    this.#channel.postMessage({ kind: "token", id, token: await this.#token(renew) });
  }
}

const FOR_LEADERS = new Set(["want", "drop", "ping", "token"]);

/** Follows what all pages want, over one connection. */
class Leader {
  /** When it began, in milliseconds since 1970. */
  began = Date.now();
  /** What each member wants. @type {Map<string, {page: string, recipients: string[]}>} */
  #wants = new Map();
  /** Members that were not confirmed yet. @type {Set<string>} */
  #joining = new Set();
  /** When each page was last active. @type {Map<string, number>} */
  #pages = new Map();
  /** @type {Following | undefined} */
  #following;
  /** The last state of the connection. @type {any} */
  #state;
  #ended = false;
  #changing = false;
  /** What is wanted has changed. */
  #changed = false;
  #shared;
  #send;
  #comet;
  #page;
  /** Ends the wait for the ends of pages. */
  #over = new AbortController();

  /**
   * @param {Shared} shared
   * @param {TokenSource} token
   * @param {(data: any) => void} send sends to all pages
   * @param {string} [page] the leader's own, which does not end before it
   */
  constructor(shared, token, send, page) {
    this.#shared = shared;
    this.#send = send;
    this.#page = page;
    this.#comet = new Comet(shared.url, { ...shared, token, share: false });
  }

  begin() {
    this.#send({ kind: "who", began: this.began });
  }

  end() {
    this.#ended = true;
    this.#over.abort();
    this.#following?.end();
  }

  /** @param {any} data */
  receive({ kind, member, page, recipients }) {
    if (page && page !== this.#page) this.#know(page);
    if (kind === "ping") this.#send({ kind: "pong" });
    else if (kind === "drop") {
      this.#wants.delete(member);
      void this.#change();
    } else if (kind === "want") {
      this.#wants.set(member, { page, recipients });
      this.#joining.add(member);
      void this.#change();
    }
  }

  /** Note that a page is there, and forget its members once it has ended. @param {string} page */
  #know(page) {
    const known = this.#pages.has(page);
    this.#pages.set(page, Date.now());
    if (hasLocks()) {
      const { signal } = this.#over;
      const ended = () => this.#forget(page);
      if (!known) navigator.locks.request(pageLock(this.#shared, page), { signal }, ended).catch(() => {});
      return;
    }
    for (const [one, at] of this.#pages) if (Date.now() - at > PAGE_SILENCE) this.#forget(one);
  }

  /** @param {string} page */
  #forget(page) {
    this.#pages.delete(page);
    for (const [member, want] of this.#wants) if (want.page === page) this.#wants.delete(member);
    void this.#change();
  }

  /** Follow what is wanted now. */
  async #change() {
    this.#changed = true;
    if (this.#changing) return;
    this.#changing = true;
    while (this.#changed && !this.#ended) {
      this.#changed = false;
      try {
        await this.#follow(this.#union());
      } catch {
        this.#giveUp(); // Each member asks by itself, and goes on asking.
      }
    }
    this.#changing = false;
  }

  /** What all members want together; those that do not fit need a connection of their own. */
  #union() {
    /** @type {Set<string>} */
    const union = new Set();
    for (const [member, { recipients }] of this.#wants) {
      const more = recipients.filter((one) => !union.has(one));
      if (union.size + more.length <= RECIPIENTS_MOST) more.forEach((one) => union.add(one));
      else {
        this.#wants.delete(member);
        this.#joining.delete(member);
        this.#send({ kind: "for", member, what: "alone" });
      }
    }
    return [...union].sort();
  }

  /** @param {string[]} recipients */
  async #follow(recipients) {
    const before = this.#following;
    if (String(before?.recipients) !== String(recipients)) {
      before?.end();
      this.#following = undefined;
      if (!recipients.length) return;
      const known = before && before.state !== "closed" && before.cursor;
      const after = known || (await this.#comet.poll(recipients, { after: "now", wait: 0, as: this.#shared.as })).cursor;
      if (this.#ended) return;
      this.#begin(recipients, after);
    }
    const joining = [...this.#joining];
    this.#joining.clear();
    for (const member of joining) {
      this.#send({ kind: "for", member, what: "look" });
      if (this.#state) this.#send({ ...this.#state, kind: "for", what: "state", member });
    }
  }

  /**
   * @param {string[]} recipients
   * @param {string} after
   */
  #begin(recipients, after) {
    const following = this.#comet.follow(recipients, (message) => this.#send({ kind: "message", message }), {
      after,
      ack: this.#shared.ack,
      as: this.#shared.as,
      storageKey: null,
      onGap: () => {
        // What follows is everything that is kept. Each member asks for what lies behind its own cursor.
        following.end();
        this.#following = undefined;
        for (const member of this.#wants.keys()) this.#joining.add(member);
        void this.#change();
      },
      onState: (state, { error, delay }) => {
        if (following !== this.#following || state === "closed") return;
        this.#state = { kind: "state", state, detail: { delay, error: error && plain(error) } };
        this.#send(this.#state);
      },
    });
    this.#following = following;
    void following.closed.then((error) => {
      if (error && following === this.#following) this.#giveUp();
    });
  }

  /** The server refuses what all want together: each member finds out by itself whether that is its own. */
  #giveUp() {
    this.#following?.end();
    this.#following = undefined;
    this.#wants.clear();
    this.#joining.clear();
    this.#send({ kind: "alone" });
  }
}

/**
 * Whether a recipient or pattern covers a name; see `core/recipient.py`.
 *
 * @param {string} pattern
 * @param {string} name
 */
export function covers(pattern, name) {
  if (pattern === name) return true;
  const match = /^(.*?)(\*\*?)$/s.exec(pattern);
  if (!match || name.startsWith("$") || !name.startsWith(match[1])) return false;
  return match[2] === "**" || !name.slice(match[1].length).includes("/");
}

/**
 * @param {Shared} shared
 * @param {string} page
 */
function pageLock(shared, page) {
  return `${shared.name} ${page}`;
}

/** An error as it can be sent to another page. @param {any} error */
function plain({ message, status, kind, retryAfter, problem }) {
  return { message, status, kind, retryAfter, problem };
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16)).join("-");
}

/** In a worker: lead the group whose pages connect, for as long as there are any. */
function serve() {
  /** @type {Leader | undefined} */
  let leader;
  /** @type {any} */ (globalThis).onconnect = (/** @type {any} */ event) => {
    const [port] = event.ports;
    port.onmessage = (/** @type {any} */ { data: shared }) => {
      if (leader) return;
      const channel = new BroadcastChannel(shared.name);
      /** @type {Map<string, (token: string | undefined) => void>} */
      const asked = new Map();
      const token = (/** @type {boolean} */ renew) =>
        new Promise((resolve) => {
          const id = newId();
          asked.set(id, resolve);
          channel.postMessage({ kind: "token?", id, renew });
        });
      const led = (leader = new Leader(shared, /** @type {TokenSource} */ (token), (data) => channel.postMessage(data)));
      channel.onmessage = ({ data }) => {
        if (data.kind === "token") {
          asked.get(data.id)?.(data.token);
          asked.delete(data.id);
        } else if (FOR_LEADERS.has(data.kind)) led.receive(data);
      };
      led.begin();
    };
  };
}

if ("SharedWorkerGlobalScope" in globalThis) serve();
