/**
 * The browser client of cometd-lite: one ES module, without a build step and without dependencies.
 *
 *     import { Comet } from "./client.js";
 *
 *     const comet = new Comet("https://push.example.org/");
 *     const following = comet.follow(["lobby"], (message) => console.log(message.data));
 *     const receipt = await comet.push("lobby", { text: "hello" });
 *     following.stop();
 *
 * What arrives are names of recipients; what leaves are their messages, each once and in order, for as
 * long as it takes: over streams where they come through and over long-polls where they do not, across
 * broken networks, restarts of the server, reloads of the page and a laptop's closed lid.
 *
 * It rests on one idea of the server. Every message's id is a *cursor*, a place in the server's one order
 * of messages, and a reader who comes back with a cursor is given everything after it. So there is no
 * session to lose: to go on after anything at all is to ask again with the last cursor. Where the server
 * no longer keeps what lay after that cursor it says so, and `onGap` is called: nothing is ever skipped
 * in silence.
 *
 * It runs in browsers, in workers and in Node 20 or later. The words are those of the server's HTTP
 * interface, to which `GET /openapi.json` is the reference.
 *
 * @module
 */

/**
 * A message, as it was pushed to one recipient.
 *
 * @typedef {object} Message
 * @property {string} id its place in the server's one order; also a cursor: "everything after this"
 * @property {string} recipient whose mailbox it is from; of interest where several are followed
 * @property {string} created_at when the server accepted it, as `2026-11-20T10:15:58.123Z`
 * @property {string} type its media type
 * @property {string} [event] its event name, if it was pushed with one
 * @property {any} data parsed JSON, or a string, or a `Uint8Array` for every other media type
 */

/**
 * What a push is answered with.
 *
 * @typedef {object} Receipt
 * @property {string} id the id that the message was given; the last one, where there are several
 * @property {string[]} ids all of them
 * @property {string} created_at
 * @property {number} delivered how many waiting readers it woke; 0: it waits in the mailbox
 * @property {string[]} recipients
 */

/**
 * What a poll is answered with.
 *
 * @typedef {object} Answer
 * @property {Message[]} messages
 * @property {string} cursor what to come back with
 * @property {boolean} gap messages before these are no longer kept
 * @property {boolean} more there are further ones already
 */

/**
 * A name that reads a recipient.
 *
 * @typedef {object} Member
 * @property {string} name
 * @property {string} since when it came, as `2026-11-20T10:15:58.123Z`
 * @property {number} readers how many readers it had when it was looked at: its tabs and devices
 */

/**
 * What has changed of who reads a recipient: a name that came or left, or for `count` neither.
 *
 * @typedef {{event: "join" | "leave", name: string} | {event: "count"}} PresenceChange
 */

/**
 * What is known of a recipient.
 *
 * @typedef {object} Standing
 * @property {string} recipient
 * @property {boolean} online someone waits for it, or did so a moment ago
 * @property {number} waiting how many do
 * @property {number} queued messages that are kept
 * @property {number} bytes
 * @property {number} leased those of them that workers hold by a lease
 * @property {string|null} oldest
 * @property {string|null} newest
 * @property {string|null} last_seen
 */

/**
 * What a reader is doing:
 *
 * - `connecting`: the server was asked, and has not answered yet
 * - `streaming`: messages come over a stream, at once
 * - `polling`: messages come over long-polls, also at once, with a little more traffic
 * - `waiting`: the last try failed; the next one follows after a pause (`detail.delay`, in seconds)
 * - `offline`: the browser says that there is no network; goes on as soon as there is one
 * - `paused`: the page is frozen, put away or (without `background`) hidden; goes on when it is shown again
 * - `closed`: over, by `stop()`, by the signal, or by a refusal that no retry can change (`detail.error`)
 *
 * @typedef {"connecting"|"streaming"|"polling"|"waiting"|"offline"|"paused"|"closed"} State
 */

/**
 * @typedef {object} StateDetail
 * @property {CometError} [error] why, where something went wrong
 * @property {number} [delay] seconds until the next try
 */

/**
 * @typedef {object} CometOptions
 * @property {string | ((renew: boolean) => string | undefined | Promise<string | undefined>)} [token]
 *   a JSON Web Token, or what returns one. It is called with `true` after the server refused the last.
 * @property {typeof fetch} [fetch] in the place of the global one
 * @property {Pick<Storage, "getItem" | "setItem" | "removeItem"> | null} [storage]
 *   where cursors outlive a reload: `sessionStorage` unless given; null remembers nothing
 * @property {RequestCredentials} [credentials] whether cookies go along; "same-origin" unless given
 * @property {"auto" | "stream" | "poll"} [transport]
 *   "auto" unless given: streams, and long-polls where something on the way holds streams back
 * @property {number} [patience] seconds in which a stream must show a first sign of life; 4 unless given
 * @property {boolean} [share] false: each reader has a connection of its own. Unless given, the pages of
 *   one origin that follow as the same token subject share one, where the browser lets them
 */

/**
 * @typedef {object} FollowOptions
 * @property {string} [after] where to begin where nothing is remembered: a cursor, "oldest" (everything
 *   that is kept), "last:50" (the newest 50 messages), "since:600" (what came in the last 600 seconds) or
 *   "now", which it is unless given
 * @property {boolean} [ack] false: what was read stays unread for the server, and makes no room in a full
 *   mailbox; for readers that only watch
 * @property {string} [as] the name under which it is present, 1 to 64 bytes, where no token names it
 * @property {AbortSignal} [signal] ends it, as `stop()` does
 * @property {(gap: {after: string, recipients: string[]}) => void} [onGap] messages after the cursor
 *   `after` are lost to this reader; what follows is everything that is still kept
 * @property {(state: State, detail: StateDetail) => void} [onState]
 * @property {boolean} [background] false: a page that was hidden for a minute lets go of its
 *   connection, and catches up when it is looked at again. A browser has six for a server, in all its tabs
 * @property {string | null} [storageKey] the name under which the cursor is remembered, for two readers
 *   of the same recipients in one page; null: not remembered, so that a reload begins at `after` again
 */

/**
 * @typedef {object} PresenceOptions
 * @property {AbortSignal} [signal] ends it, as `stop()` does
 * @property {(state: State, detail: StateDetail) => void} [onState]
 * @property {boolean} [background] as of `follow`
 */

/**
 * @typedef {object} PushOptions
 * @property {string} [type] the media type; else text for strings, octets for bytes, JSON for the rest
 * @property {string} [event] an event name, 1 to 64 bytes
 * @property {number} [ttl] seconds that the message is kept at most
 * @property {boolean} [queue] false: only for readers that wait at this moment; it is not queued
 * @property {"reject" | "drop-oldest"} [overflow] what a full mailbox does with it
 * @property {string} [idempotencyKey] under which a repeat adds nothing; made up unless given
 * @property {AbortSignal} [signal]
 * @property {boolean} [keepalive] lets the push outlive the page, for a last word while it is left
 */

/** A heartbeat comes every 15 s; a stream that was silent for longer than two is dead. */
const STREAM_SILENCE = 40_000;

/** Held this long: under the 30 s of the strictest proxies. */
const WAIT = 25;

/** An answer that is this late after its wait was lost on the way. */
const LATE = 10_000;

/** A poll that ends this soon was not held: something on the way does not hold requests. */
const HASTY = 1_000;

/** A page that is hidden this long is not looked at. */
const UNSEEN = 60_000;

/** The first pause after a failure, and the longest. Each is twice the one before, with jitter. */
const PAUSE_FIRST = 500;
const PAUSE_MOST = 30_000;

/** A stream that lived this long was a good one: the next failure is a first failure. */
const GOOD_STREAM = 10_000;

/** A push without an answer is sent this often, under one key, so that it counts once. */
const PUSH_TRIES = 3;
const PUSH_PATIENCE = 20_000;

/** Ids that are remembered, so that a message that comes again is recognised. */
const SEEN_MOST = 5_000;

/** The recipients that a reader may have to share a connection. */
const SHARED_MOST = 100;

/** Cursors whose place depends on the moment at which the server reads them. */
const RELATIVE = /^(now$|last:|since:)/;

/** The statuses after which the same request may succeed later; 0 is "no answer at all". */
const PASSING = new Set([0, 408, 425, 429, 500, 502, 503, 504]);

/** The statuses by which something on the way, or an older server, says that it has no streams. */
const NO_STREAMS = new Set([404, 405, 406, 415, 501, 505]);

/**
 * A refusal, or no answer at all.
 *
 * The server's refusals are problem documents (RFC 9457): `kind` is the last word of their type, such as
 * "mailbox-full", and `message` is their sentence, which says what was wrong and what is right.
 */
export class CometError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, kind?: string, retryAfter?: number, problem?: any, cause?: unknown}} [more]
   */
  constructor(message, { status = 0, kind = "no-answer", retryAfter, problem, cause } = {}) {
    super(message, { cause });
    this.name = "CometError";
    /** The HTTP status; 0 where there was no answer. */
    this.status = status;
    this.kind = kind;
    /** Seconds after which to try again, if the server said so. */
    this.retryAfter = retryAfter;
    /** The whole problem document, if there was one. */
    this.problem = problem;
  }

  /** Whether the same request may succeed later. */
  get passing() {
    return PASSING.has(this.status);
  }
}

/** A server, and how to speak to it. */
export class Comet {
  /** Something on the way to this server holds streams back: found out once, and then remembered. */
  #buffered = false;

  #token;
  #fetch;
  #storage;
  #credentials;
  /**
   * Readers may share a connection with those of other pages.
   *
   * @internal
   */
  shares;
  /** Loads `tabs.js`; null where pages cannot share. @type {Promise<typeof import("./tabs.js") | null> | undefined} */
  #tabs;

  /**
   * @param {string | URL} [url] where the server is mounted; the page's own directory unless given
   * @param {CometOptions} [options]
   */
  constructor(url = "./", options = {}) {
    const base = globalThis.document?.baseURI ?? globalThis.location?.href;
    const absolute = new URL(url, base);
    if (!absolute.pathname.endsWith("/")) absolute.pathname += "/";
    absolute.search = absolute.hash = "";

    this.url = absolute.href;
    this.transport = options.transport ?? "auto";
    /** Milliseconds in which a stream must show a first sign of life. */
    this.patience = (options.patience ?? 4) * 1000;
    this.#token = options.token;
    this.#fetch = options.fetch ?? ((resource, init) => globalThis.fetch(resource, init));
    this.#storage = options.storage === undefined ? sessionStorageIfAny() : options.storage;
    this.#credentials = options.credentials ?? "same-origin";
    // What a program fetches with is its own, and so is the connection then.
    this.shares = options.share !== false && !options.fetch && Boolean(globalThis.document);
    this.#buffered = this.recall(this.#bufferedKey) === "yes";
  }

  /**
   * Give every message of these recipients to `onMessage`, each once and in order, until it is stopped.
   *
   * Readers may name patterns: `chat/*` is every room of the chat, `chat/**` also what lies deeper.
   * Where `onMessage` returns a promise, the next message waits for it. The cursor moves once a message
   * has been handled, so a page that is closed in the middle is given that message again.
   *
   * @param {string | string[]} recipients
   * @param {(message: Message) => unknown} onMessage
   * @param {FollowOptions} [options]
   * @returns {Following}
   */
  follow(recipients, onMessage, options = {}) {
    return new Following(this, listOf(recipients), onMessage, options);
  }

  /**
   * Give a message to a recipient, or to several: to all of them, or to none.
   *
   * A string is sent as text, bytes and blobs as they are, everything else as JSON. Where no answer
   * comes, the push is repeated under its idempotency key, so that it counts once however often it
   * arrived. A refusal is thrown, as a `CometError` that says whether and when to try again.
   *
   * @param {string | string[]} recipients
   * @param {any} data
   * @param {PushOptions} [options]
   * @returns {Promise<Receipt>}
   */
  async push(recipients, data, options = {}) {
    const { event, ttl, queue = true, overflow, signal, keepalive } = options;
    const [body, type] = encode(data, options.type);
    // What is only for this moment must not come a second time, later.
    const tries = queue ? PUSH_TRIES : 1;
    const key = options.idempotencyKey ?? (tries > 1 ? randomKey() : undefined);
    const request = {
      method: "POST",
      query: { event, ttl, overflow, queue: queue ? undefined : "no" },
      headers: { "Content-Type": type, ...(key && { "Idempotency-Key": key }) },
      body,
      keepalive,
    };
    for (let failures = 1; ; failures++) {
      const attempt = new Attempt(signal);
      attempt.limit(PUSH_PATIENCE);
      try {
        const response = await this.request("push", listOf(recipients), {
          ...request,
          signal: attempt.signal,
        });
        return await response.json();
      } catch (error) {
        signal?.throwIfAborted();
        const refusal = asCometError(error);
        if (refusal.status !== 0 || failures >= tries) throw refusal;
        await pause(backOff(failures), signal);
        signal?.throwIfAborted();
      } finally {
        attempt.end();
      }
    }
  }

  /**
   * Ask once for the messages after a cursor, and be held until there is one or the wait is over.
   *
   * `follow` does this again and again, and better. Without `after` it is a *take*: the server remembers
   * what was read, and gives each message to one taker only.
   *
   * @param {string | string[]} recipients
   * @param {{after?: string, wait?: number, limit?: number, ack?: boolean, as?: string,
   *   signal?: AbortSignal}} [options]
   * @returns {Promise<Answer>}
   */
  async poll(recipients, { after, wait, limit, ack, as, signal } = {}) {
    const response = await this.request("poll", listOf(recipients), {
      query: { after, wait, limit, ack: ack === false ? "no" : undefined, as },
      // Over plain HTTP nothing else may show the server that it is no foreign page that takes.
      headers: after === undefined ? { "X-Requested-With": "cometd-lite" } : {},
      signal,
    });
    // Ours is a 200 also when the wait is over. What stands between may have made less of it.
    const empty = response.status === 204 || response.status === 304;
    const answer = empty ? {} : await response.json();
    return {
      messages: (answer.messages ?? []).map(decode),
      cursor: answer.cursor ?? response.headers.get("Comet-Cursor") ?? after ?? "now",
      gap: answer.gap ?? response.headers.get("Comet-Gap") === "true",
      more: answer.more ?? false,
    };
  }

  /**
   * What the server knows of a recipient: whether someone waits for it, and what is kept for it.
   *
   * @param {string} recipient
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Standing>}
   */
  async describe(recipient, { signal } = {}) {
    const response = await this.request(`recipients/${pathOf(recipient)}`, [], { signal });
    return response.json();
  }

  /**
   * Keep a list of who reads a recipient, by name, until it is stopped; `onChange` is called with it.
   *
   * The server must be started with `--presence`. A page is present itself by `follow` with the option
   * `as`, or by the `sub` of its token.
   *
   * @param {string} recipient
   * @param {(presence: Presence, change?: PresenceChange) => unknown} onChange called once the list is
   *   there, without a change, and then with each change
   * @param {PresenceOptions} [options]
   * @returns {Presence}
   */
  presence(recipient, onChange, options = {}) {
    return new Presence(this, recipient, onChange, options);
  }

  /**
   * Say that a name has left a recipient, so that it is not present for 45 s more.
   *
   * A reader that was followed with `as` says so by itself when it is stopped.
   *
   * @param {string} recipient
   * @param {{as?: string, keepalive?: boolean, signal?: AbortSignal}} [options] `as` is the name, where
   *   no token has it; `keepalive` lets the word outlive the page
   */
  async leave(recipient, { as, keepalive, signal } = {}) {
    await this.request(`presence/${pathOf(recipient)}`, [], {
      method: "DELETE",
      query: { as },
      keepalive,
      signal,
    });
  }

  /**
   * The mailboxes that hold messages and whose names begin with a prefix, by name, a page at a time.
   *
   * `more` is the `after` of the next page; null where there is none.
   *
   * @param {string} [prefix]
   * @param {{after?: string | null, limit?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<{recipients: Standing[], more: string | null}>}
   */
  async recipients(prefix = "", { after, limit, signal } = {}) {
    const query = { prefix: prefix || undefined, after: after ?? undefined, limit };
    const response = await this.request("recipients", [], { query, signal });
    return response.json();
  }

  /**
   * Join the readers of all pages that share a connection; nothing where this one is to have its own.
   *
   * @param {string[]} recipients
   * @param {boolean} ack
   * @param {string} [as]
   * @returns {Promise<import("./tabs.js").Member | undefined>}
   * @internal
   */
  async join(recipients, ack, as) {
    if (!this.shares || recipients.length > SHARED_MOST) return undefined;
    this.#tabs ??= import("./tabs.js").then(
      (tabs) => (tabs.canShare() ? tabs : null),
      () => null, // This file alone was copied.
    );
    const tabs = await this.#tabs;
    if (!tabs) return undefined;
    const { url, transport } = this;
    const credentials = this.#credentials;
    const alike = [url, transport, credentials, ack, as, subjectOf(await this.token(false))];
    const name = `cometd-lite ${JSON.stringify(alike)}`;
    const shared = { name, url, transport, patience: this.patience / 1000, credentials, ack, as };
    try {
      return tabs.join(shared, (renew) => this.token(renew), recipients);
    } catch {
      return undefined; // A worker of another origin, or a policy that allows none.
    }
  }

  /**
   * @param {boolean} renew
   * @internal
   */
  async token(renew) {
    return typeof this.#token === "function" ? this.#token(renew) : this.#token;
  }

  /**
   * Whether to try a stream first.
   *
   * @internal
   */
  get streams() {
    return this.transport === "stream" || (this.transport === "auto" && !this.#buffered);
  }

  /**
   * Remember, for as long as this tab lives and stays on its network, that streams are held back.
   *
   * @param {boolean} held
   * @internal
   */
  set buffered(held) {
    if (this.transport !== "auto" || this.#buffered === held) return;
    this.#buffered = held;
    this.remember(this.#bufferedKey, held ? "yes" : null);
  }

  get #bufferedKey() {
    return `comet buffered ${this.url}`;
  }

  /**
   * Send a request and return the answer; throw a `CometError` where it is a refusal or there is none.
   *
   * @param {string} path
   * @param {string[]} recipients always as `?rcpt=`: nothing on the way rewrites what stands there
   * @param {{query?: Record<string, string | number | undefined>, headers?: Record<string, string>} &
   *   Omit<RequestInit, "headers">} [init]
   * @returns {Promise<Response>}
   * @internal
   */
  async request(path, recipients, { query = {}, headers = {}, ...init } = {}) {
    const url = new URL(path, this.url);
    for (const recipient of recipients) url.searchParams.append("rcpt", recipient);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    const send = async (/** @type {boolean} */ renew) => {
      const token = await this.token(renew);
      const authorization = token ? { Authorization: `Bearer ${token}` } : undefined;
      return this.#fetch(url.href, {
        ...init,
        headers: { ...headers, ...authorization },
        cache: "no-store",
        credentials: this.#credentials,
      });
    };
    let response = await send(false);
    if (response.status === 401 && typeof this.#token === "function") {
      await response.body?.cancel();
      response = await send(true);
    }
    if (response.ok || response.status === 304) return response;
    throw await refusalOf(response);
  }

  /**
   * @param {string} key
   * @returns {string | null}
   * @internal
   */
  recall(key) {
    try {
      return this.#storage?.getItem(key) ?? null;
    } catch {
      return null; // A storage that is blocked is one that remembers nothing.
    }
  }

  /**
   * @param {string} key
   * @param {string | null} value
   * @internal
   */
  remember(key, value) {
    try {
      if (value === null) this.#storage?.removeItem(key);
      else this.#storage?.setItem(key, value);
    } catch {
      // Full or blocked: a reload then begins where it began before.
    }
  }
}

/** A reader at work. `Comet.follow` makes it; it runs until it is stopped. */
export class Following {
  /** @type {State | undefined} the last state that was reported */
  #state;
  /** @type {string} */
  #cursor;
  /** @type {Attempt | undefined} what is under way; to end it is to make the reader look around */
  #attempt;
  /** @type {CometError | undefined} */
  #error;
  #ended = false;
  #paused = false;
  #failures = 0;
  /** The last stream stayed silent: the next poll shows whether it was the stream's fault. */
  #suspicious = false;
  /** The cursor is one that was remembered, and not yet one that this server gave out. */
  #remembered;
  #seen = new Seen();
  /** This reader has a connection of its own. */
  #alone;

  /** @type {(() => void)[]} */
  #removals = [];
  #comet;
  #onMessage;
  #options;
  #storageKey;

  /**
   * @param {Comet} comet
   * @param {string[]} recipients
   * @param {(message: Message) => unknown} onMessage
   * @param {FollowOptions} options
   */
  constructor(comet, recipients, onMessage, options) {
    this.#comet = comet;
    this.recipients = recipients;
    this.#onMessage = onMessage;
    this.#options = options;
    this.#alone = !comet.shares;
    this.#storageKey =
      options.storageKey === undefined
        ? `comet cursor ${comet.url} ${JSON.stringify([...recipients].sort())}`
        : options.storageKey;
    const remembered = this.#storageKey === null ? null : comet.recall(this.#storageKey);
    this.#remembered = remembered !== null;
    this.#cursor = remembered ?? options.after ?? "now";
    this.#heed();
    /** Settles, and never fails, once it is over: with the error that ended it, or with nothing. */
    this.closed = this.#run();
  }

  /** @returns {State} */
  get state() {
    return this.#state ?? "connecting";
  }

  /** Everything up to here has been handled. */
  get cursor() {
    return this.#cursor;
  }

  /** What ended it, where that was a refusal. */
  get error() {
    return this.#error;
  }

  /** End it. No message comes after this. */
  stop() {
    if (!this.#ended) this.#leave();
    this.end();
  }

  /**
   * End it as `stop` does, but let its name stay present for as long as it does after a lost connection.
   *
   * @internal
   */
  end() {
    this.#ended = true;
    this.#attempt?.abort();
  }

  /** Say that the name of this reader leaves, if it has one. Where that fails, it leaves in 45 s. */
  #leave() {
    const { as } = this.#options;
    if (as === undefined) return;
    for (const recipient of this.recipients) {
      if (recipient.startsWith("$") || recipient.endsWith("*")) continue;
      this.#comet.leave(recipient, { as, keepalive: true }).catch(() => {});
    }
  }

  /** @returns {Promise<CometError | undefined>} */
  async #run() {
    // The caller has the object in its hands before anything is reported about it.
    await undefined;
    while (!this.#ended) {
      const attempt = (this.#attempt = new Attempt());
      try {
        if (this.#paused) await this.#untilShown(attempt);
        else if (RELATIVE.test(this.#cursor)) await this.#ask(attempt, 0);
        else if (!this.#alone) await this.#share(attempt);
        else if (this.#comet.streams && !this.#suspicious) await this.#stream(attempt);
        else await this.#ask(attempt, this.#state === "polling" ? WAIT : 0);
      } catch (error) {
        // A failure that `stop`, the page or the network's return brought about is none.
        if (!attempt.interrupted) await this.#judge(asCometError(error));
      } finally {
        attempt.end();
      }
    }
    for (const remove of this.#removals) remove();
    this.#report("closed", this.#error && { error: this.#error });
    return this.#error;
  }

  /**
   * Read what one connection brings for all pages, until this reader needs one of its own.
   *
   * @param {Attempt} attempt
   */
  async #share(attempt) {
    // Before it joins: a refusal is this reader's, and not that of all.
    await this.#catchUp(attempt);
    const { ack, as } = this.#options;
    const member = await this.#comet.join(this.recipients, ack !== false, as);
    if (!member) {
      this.#alone = true;
      return;
    }
    // At once: a page that holds a lock or a channel is not kept for the back button.
    attempt.signal.addEventListener("abort", () => member.leave(), { once: true });
    try {
      for await (const event of member.events()) {
        if (this.#ended) return;
        if (event.kind === "look") await this.#catchUp(attempt);
        else if (event.kind === "message") await this.#deliver(event.message, true);
        else if (event.kind === "state") {
          const { error, delay } = event.detail;
          this.#report(event.state, { error: error && new CometError(error.message, error), delay });
        } else {
          this.#alone = true;
          return;
        }
      }
    } finally {
      member.leave();
    }
  }

  /** Read everything behind the cursor that is there now. @param {Attempt} attempt */
  async #catchUp(attempt) {
    for (let more = true; more && !this.#ended; ) more = await this.#ask(attempt, 0);
  }

  /**
   * One turn of a long-poll. Returns whether there is more already.
   *
   * A first turn does not wait: its answer shows that the server is there, says where "now" is, and
   * brings a refusal to light before a stream is opened.
   *
   * @param {Attempt} attempt
   * @param {number} wait in seconds
   */
  async #ask(attempt, wait) {
    if (wait === 0) this.#report("connecting");
    const asked = Date.now();
    attempt.limit(wait * 1000 + LATE);
    const answer = await this.#comet.poll(this.recipients, {
      after: this.#cursor,
      wait,
      ack: this.#options.ack,
      as: this.#options.as,
      signal: attempt.signal,
    });
    attempt.limit(null);
    if (this.#suspicious) {
      // A poll came through where a stream did not.
      this.#comet.buffered = true;
      this.#suspicious = false;
    }
    if (answer.gap) this.#gap();
    for (const message of answer.messages) await this.#deliver(message);
    if (this.#ended) return false;
    this.#moveTo(answer.cursor);
    const nothing = !answer.gap && !answer.messages.length;
    if (wait > 0 && nothing && Date.now() - asked < HASTY) {
      throw new CometError("The server did not hold the poll.", { kind: "hasty" });
    }
    if (wait > 0) this.#failures = 0;
    if (!this.#comet.streams && this.#alone) this.#report("polling");
    return answer.more;
  }

  /**
   * A stream, from its beginning to its end. It is NDJSON: unlike Server-Sent Events it names each
   * message's recipient, type and time, and unlike EventSource, fetch can send a token.
   *
   * @param {Attempt} attempt
   */
  async #stream(attempt) {
    this.#report("connecting");
    attempt.limit(this.#comet.patience);
    let opened = 0;
    try {
      const response = await this.#comet.request("stream", this.recipients, {
        query: {
          after: this.#cursor,
          ack: this.#options.ack === false ? "no" : undefined,
          as: this.#options.as,
        },
        headers: { Accept: "application/x-ndjson" },
        signal: attempt.signal,
      });
      if (!response.headers.get("Content-Type")?.startsWith("application/x-ndjson") || !response.body) {
        throw new CometError("Something else than a stream came back.", { status: 406, kind: "no-stream" });
      }
      for await (const line of linesOf(response.body, attempt, STREAM_SILENCE)) {
        const object = JSON.parse(line);
        if (!opened) {
          opened = Date.now();
          this.#report("streaming");
        }
        await this.#read(object);
        if (this.#ended) return;
      }
    } catch (error) {
      if (attempt.interrupted || opened) throw error;
      const refusal = asCometError(error);
      const silent = attempt.late || refusal.kind === "garbled";
      if (this.#comet.transport !== "auto" || !(silent || NO_STREAMS.has(refusal.status))) throw refusal;
      // Not a word on the stream, or nothing that could be one. Whether the way to the server holds
      // streams back, or there is no way at all, is what a poll will show.
      this.#suspicious = true;
      return;
    } finally {
      if (opened && Date.now() - opened >= GOOD_STREAM) this.#failures = 0;
    }
    throw new CometError("The stream ended.", { kind: "stream-ended" });
  }

  /** @param {any} object what stood in a line of the stream: a message, a gap or a heartbeat */
  async #read(object) {
    if (object.gap) this.#gap();
    else if (object.id !== undefined) await this.#deliver(decode(object));
    else if (object.cursor !== undefined) this.#moveTo(object.cursor);
  }

  /**
   * @param {Message} message
   * @param {boolean} [shared] it may have come before, and newer ones too: then the cursor stays
   */
  async #deliver(message, shared = false) {
    if (this.#ended) return;
    this.#failures = 0; // Whatever cuts it off each time, it gets on.
    const isNew = this.#seen.add(message.id);
    if (shared && !isNew) return;
    if (isNew) {
      try {
        await this.#onMessage(message);
      } catch (error) {
        report(error);
      }
    }
    this.#moveTo(message.id);
  }

  /** @param {string} cursor */
  #moveTo(cursor) {
    this.#remembered = false;
    if (cursor === this.#cursor) return;
    this.#cursor = cursor;
    if (this.#storageKey !== null) this.#comet.remember(this.#storageKey, cursor);
  }

  #gap() {
    const after = this.#cursor;
    // From here on it is everything that is still kept, which is what "oldest" means.
    this.#moveTo("oldest");
    call(this.#options.onGap, { after, recipients: this.recipients });
  }

  /**
   * Decide what a failure means: over, or again after a pause.
   *
   * @param {CometError} error
   */
  async #judge(error) {
    if (error.kind === "bad-cursor" && this.#remembered) {
      // Another server lived at this address when the cursor was remembered: a gap like any other.
      this.#gap();
      return;
    }
    if (!error.passing) {
      this.#error = error;
      this.#ended = true;
      return;
    }
    this.#suspicious = false;
    this.#failures += 1;
    const offline = globalThis.navigator?.onLine === false;
    const delay = Math.max(backOff(this.#failures), jittered((error.retryAfter ?? 0) * 1000));
    const rest = (this.#attempt = new Attempt());
    this.#report(offline ? "offline" : "waiting", { error, delay: delay / 1000 });
    await pause(delay, rest.signal);
  }

  /** @param {Attempt} attempt */
  async #untilShown(attempt) {
    this.#report("paused");
    await new Promise((resolve) => attempt.signal.addEventListener("abort", resolve, { once: true }));
  }

  /** Listen to the caller, the network and the page. Each event ends the attempt. */
  #heed() {
    const { signal } = this.#options;
    if (signal?.aborted) this.#ended = true;
    this.#listen(signal, "abort", () => this.stop());
    const again = () => this.#attempt?.abort();
    // Another network, perhaps: without that proxy, and surely without the connections of the last one.
    this.#listen(globalThis, "online", () => {
      this.#comet.buffered = false;
      this.#failures = 0;
      again();
    });
    const pauseHere = () => {
      this.#paused = true;
      again();
    };
    const goOn = () => {
      if (!this.#paused) return;
      this.#paused = false;
      this.#failures = 0;
      again();
    };
    // A page with an open connection is not kept for the back button, and a frozen one cannot read.
    this.#listen(globalThis, "pagehide", pauseHere);
    this.#listen(globalThis, "pageshow", goOn);
    const page = globalThis.document;
    this.#listen(page, "freeze", pauseHere);
    this.#listen(page, "resume", goOn);
    if (this.#options.background !== false || !page) return;
    /** @type {any} */
    let timer;
    this.#listen(page, "visibilitychange", () => {
      clearTimeout(timer);
      if (page.visibilityState === "hidden") timer = setTimeout(pauseHere, UNSEEN);
      else goOn();
    });
    this.#removals.push(() => clearTimeout(timer));
  }

  /**
   * @param {any} target nothing, where there is no page
   * @param {string} event
   * @param {() => void} listener
   */
  #listen(target, event, listener) {
    if (!target?.addEventListener) return;
    target.addEventListener(event, listener);
    this.#removals.push(() => target.removeEventListener(event, listener));
  }

  /**
   * @param {State} state
   * @param {StateDetail} [detail]
   */
  #report(state, detail = {}) {
    if (state === this.#state && state !== "waiting") return;
    this.#state = state;
    call(this.#options.onState, state, detail);
  }
}

/**
 * Who reads a recipient, by name. `Comet.presence` makes it; it is kept up to date until it is stopped.
 *
 * It asks for the list, and follows the changes from there on. Where something may have been missed,
 * because the server was away or no longer keeps the changes, it asks again.
 */
export class Presence {
  /** How many readers there are, those without a name too. */
  readers = 0;
  /** There are more than 1,000 names: only the first are listed, and changes are reported by the count. */
  more = false;

  /** @type {Map<string, Member>} */
  #members = new Map();
  /** @type {Following | undefined} */
  #following;
  #comet;
  #onChange;
  #options;
  #ended = new AbortController();
  #away = false;

  /**
   * @param {Comet} comet
   * @param {string} recipient
   * @param {(presence: Presence, change?: PresenceChange) => unknown} onChange
   * @param {PresenceOptions} options
   */
  constructor(comet, recipient, onChange, options) {
    this.#comet = comet;
    this.recipient = recipient;
    this.#onChange = onChange;
    this.#options = options;
    if (options.signal?.aborted) this.#ended.abort();
    options.signal?.addEventListener("abort", () => this.stop(), { once: true });
    /** Settles, and never fails, once it is over: with the error that ended it, or with nothing. */
    this.closed = this.#run();
  }

  /** Those who read it, the first to come in front. */
  get members() {
    return [...this.#members.values()];
  }

  /** End it. */
  stop() {
    this.#ended.abort();
    this.#following?.stop();
  }

  /** @returns {Promise<CometError | undefined>} */
  async #run() {
    await undefined;
    const { signal } = this.#ended;
    for (let failures = 1; !signal.aborted; failures++) {
      try {
        const after = await this.#look();
        this.#following = this.#comet.follow(
          `$presence/${this.recipient}`,
          (message) => this.#change(message),
          {
            after,
            ack: false,
            storageKey: null,
            signal,
            background: this.#options.background,
            onGap: () => this.#lookAgain(),
            onState: (state, detail) => this.#stateChanged(state, detail),
          },
        );
        return await this.#following.closed;
      } catch (error) {
        if (signal.aborted) break;
        const refusal = asCometError(error);
        if (!refusal.passing) {
          call(this.#options.onState, "closed", { error: refusal });
          return refusal;
        }
        const delay = Math.max(backOff(failures), jittered((refusal.retryAfter ?? 0) * 1000));
        call(this.#options.onState, "waiting", { error: refusal, delay: delay / 1000 });
        await pause(delay, signal);
      }
    }
    return undefined;
  }

  /** @returns {Promise<string>} the cursor after which changes are published */
  async #look() {
    const { signal } = this.#ended;
    const response = await this.#comet.request(`presence/${pathOf(this.recipient)}`, [], { signal });
    const { readers, members, more = false } = await response.json();
    this.readers = readers;
    this.more = more;
    this.#members = new Map(members.map((/** @type {Member} */ member) => [member.name, member]));
    call(this.#onChange, this, undefined);
    return response.headers.get("Comet-Cursor") ?? "now";
  }

  /** What is followed goes on meanwhile: a change that comes twice changes nothing. */
  #lookAgain() {
    this.#look().catch(() => {}); // Where it fails, the reader of the changes fails too, and comes back.
  }

  /**
   * @param {State} state
   * @param {StateDetail} detail
   */
  #stateChanged(state, detail) {
    call(this.#options.onState, state, detail);
    const there = state === "streaming" || state === "polling";
    if (there && this.#away) this.#lookAgain();
    if (there) this.#away = false;
    else if (state !== "connecting") this.#away = true;
  }

  /** @param {Message} message */
  #change({ event, data, created_at }) {
    this.readers = data.readers;
    if (event === "join" && !this.#members.has(data.name))
      this.#members.set(data.name, { name: data.name, since: created_at, readers: 1 });
    if (event === "leave") this.#members.delete(data.name);
    if (event === "count") this.more = true;
    const change = event === "count" ? { event } : { event, name: data.name };
    call(this.#onChange, this, /** @type {PresenceChange} */ (change));
  }
}

/** One try of something that may hang: it ends from outside, or when its time is up. */
class Attempt {
  #controller = new AbortController();
  /** @type {any} */
  #timer;
  #outer;

  /** Someone wanted it to end. */
  interrupted = false;
  /** Its time was up. */
  late = false;

  /** @param {AbortSignal} [outer] */
  constructor(outer) {
    this.#outer = outer;
    if (outer?.aborted) this.abort();
    outer?.addEventListener("abort", this.abort);
  }

  get signal() {
    return this.#controller.signal;
  }

  abort = () => {
    this.interrupted = true;
    this.#controller.abort();
  };

  /** @param {number | null} milliseconds from now, in the place of any limit before */
  limit(milliseconds) {
    clearTimeout(this.#timer);
    if (milliseconds === null) return;
    this.#timer = setTimeout(() => {
      this.late = true;
      this.#controller.abort();
    }, milliseconds);
  }

  end() {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener("abort", this.abort);
    // Whatever is still under way is of no use to anyone.
    this.#controller.abort();
  }
}

/** The ids that were delivered, as many as are kept; the oldest are forgotten first. */
class Seen {
  /** @type {Set<string>} */
  #ids = new Set();

  /**
   * @param {string} id
   * @returns {boolean} whether it was new
   */
  add(id) {
    if (this.#ids.has(id)) return false;
    this.#ids.add(id);
    if (this.#ids.size > SEEN_MOST) this.#ids.delete(/** @type {string} */ (this.#ids.values().next().value));
    return true;
  }
}

/**
 * The lines of a body, as they come. Each must come within its time; what is done with a line in
 * between takes as long as it takes.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {Attempt} attempt
 * @param {number} silence in milliseconds
 */
async function* linesOf(body, attempt, silence) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      attempt.limit(null);
      if (done) return; // A line without its end was cut off, and will come again.
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) if (line.trim()) yield line;
      attempt.limit(silence);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * @param {any} message as it stands in JSON
 * @returns {Message}
 */
function decode(message) {
  if (message.data_base64 === undefined) return message;
  const { data_base64: text, ...rest } = message;
  return { ...rest, data: Uint8Array.from(atob(text), (character) => character.charCodeAt(0)) };
}

/**
 * @param {any} data
 * @param {string} [type]
 * @returns {[BodyInit, string]} the body and its media type
 */
function encode(data, type) {
  if (typeof data === "string") return [data, type ?? "text/plain; charset=utf-8"];
  if (data instanceof Blob) return [data, type ?? (data.type || "application/octet-stream")];
  if (data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
    return [/** @type {BufferSource} */ (data), type ?? "application/octet-stream"];
  }
  return [JSON.stringify(data), type ?? "application/json"];
}

/**
 * @param {Response} response
 * @returns {Promise<CometError>}
 */
async function refusalOf(response) {
  const problem = await response.json().catch(() => undefined);
  return new CometError(problem?.detail ?? problem?.title ?? `The server answered ${response.status}.`, {
    status: response.status,
    kind: String(problem?.type ?? "unknown").replace(/^.*[:/#]/, ""),
    retryAfter: retryAfterOf(response),
    problem,
  });
}

/**
 * @param {Response} response
 * @returns {number | undefined} seconds; the header has them, or a date (RFC 9110 §10.2.3)
 */
function retryAfterOf(response) {
  const text = response.headers.get("Retry-After");
  if (!text) return undefined;
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? undefined : Math.max(0, seconds);
}

/**
 * @param {unknown} error
 * @returns {CometError}
 */
function asCometError(error) {
  if (error instanceof CometError) return error;
  const kind = error instanceof SyntaxError ? "garbled" : "no-answer";
  return new CometError("The server did not answer, or its answer broke off.", { kind, cause: error });
}

/** @param {number} failures in a row */
function backOff(failures) {
  return Math.min(PAUSE_MOST, PAUSE_FIRST * 2 ** Math.min(failures - 1, 16)) * (0.5 + Math.random() / 2);
}

/** Up to a tenth later, so that a thousand pages that got the same answer do not come in one second.
 * @param {number} milliseconds
 */
function jittered(milliseconds) {
  return milliseconds * (1 + Math.random() / 10);
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} [signal] cuts it short
 * @returns {Promise<void>}
 */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const over = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", over);
      resolve();
    };
    const timer = setTimeout(over, milliseconds);
    if (signal?.aborted) over();
    else signal?.addEventListener("abort", over);
  });
}

/** @param {string} recipient as it stands in a path */
function pathOf(recipient) {
  return recipient.split("/").map(encodeURIComponent).join("/");
}

/** @param {string | string[]} recipients */
function listOf(recipients) {
  return typeof recipients === "string" ? [recipients] : [...recipients];
}

/**
 * What a token says of its subject; of a token that says nothing, or is none, a word that differs by the token.
 *
 * @param {string | undefined} token
 */
function subjectOf(token) {
  if (!token) return "";
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    if (claims.sub !== undefined) return JSON.stringify([claims.iss, claims.sub]);
  } catch {
    // It is a secret, and the name that this becomes a part of is none.
  }
  let hash = 0;
  for (const character of token) hash = (Math.imul(hash, 31) + character.charCodeAt(0)) | 0;
  return `#${hash}`;
}

/** Unguessable, and to be had also where the page is not from a secure origin. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

function sessionStorageIfAny() {
  try {
    return globalThis.sessionStorage ?? null;
  } catch {
    return null; // Blocked by the reader's settings.
  }
}

/**
 * Call what the caller gave us. Its mistakes are the caller's: shown, and no reason to stop reading.
 *
 * @template {any[]} A
 * @param {((...args: A) => unknown) | undefined} callback
 * @param {A} args
 */
function call(callback, ...args) {
  try {
    callback?.(...args);
  } catch (error) {
    report(error);
  }
}

/** @param {unknown} error */
function report(error) {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}
