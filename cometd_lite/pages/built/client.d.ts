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
export type Message = {
    /**
     * its place in the server's one order; also a cursor: "everything after this"
     */
    id: string;
    /**
     * whose mailbox it is from; of interest where several are followed
     */
    recipient: string;
    /**
     * when the server accepted it, as `2026-11-20T10:15:58.123Z`
     */
    created_at: string;
    /**
     * its media type
     */
    type: string;
    /**
     * its event name, if it was pushed with one
     */
    event?: string;
    /**
     * parsed JSON, or a string, or a `Uint8Array` for every other media type
     */
    data: any;
};
export type Receipt = {
    /**
     * the id that the message was given; the last one, where there are several
     */
    id: string;
    /**
     * all of them
     */
    ids: string[];
    created_at: string;
    /**
     * how many waiting readers it woke; 0: it waits in the mailbox
     */
    delivered: number;
    recipients: string[];
};
export type Answer = {
    messages: Message[];
    /**
     * what to come back with
     */
    cursor: string;
    /**
     * messages before these are no longer kept
     */
    gap: boolean;
    /**
     * there are further ones already
     */
    more: boolean;
};
export type Member = {
    name: string;
    /**
     * when it came, as `2026-11-20T10:15:58.123Z`
     */
    since: string;
    /**
     * how many readers it had when it was looked at: its tabs and devices
     */
    readers: number;
};
export type PresenceChange = {
    event: "join" | "leave";
    name: string;
} | {
    event: "count";
};
export type Standing = {
    recipient: string;
    /**
     * someone waits for it, or did so a moment ago
     */
    online: boolean;
    /**
     * how many do
     */
    waiting: number;
    /**
     * messages that are kept
     */
    queued: number;
    bytes: number;
    /**
     * those of them that workers hold by a lease
     */
    leased: number;
    oldest: string | null;
    newest: string | null;
    last_seen: string | null;
};
export type State = "connecting" | "streaming" | "polling" | "waiting" | "offline" | "paused" | "closed";
export type StateDetail = {
    /**
     * why, where something went wrong
     */
    error?: CometError;
    /**
     * seconds until the next try
     */
    delay?: number;
};
export type CometOptions = {
    /**
     * a JSON Web Token, or what returns one. It is called with `true` after the server refused the last.
     */
    token?: string | ((renew: boolean) => string | undefined | Promise<string | undefined>);
    /**
     * in the place of the global one
     */
    fetch?: typeof fetch;
    /**
     * where cursors outlive a reload: `sessionStorage` unless given; null remembers nothing
     */
    storage?: Pick<Storage, "getItem" | "setItem" | "removeItem"> | null;
    /**
     * whether cookies go along; "same-origin" unless given
     */
    credentials?: RequestCredentials;
    /**
     * "auto" unless given: streams, and long-polls where something on the way holds streams back
     */
    transport?: "auto" | "stream" | "poll";
    /**
     * seconds in which a stream must show a first sign of life; 4 unless given
     */
    patience?: number;
    /**
     * false: each reader has a connection of its own. Unless given, the pages of
     * one origin that follow as the same token subject share one, where the browser lets them
     */
    share?: boolean;
};
export type FollowOptions = {
    /**
     * where to begin where nothing is remembered: a cursor, "oldest" (everything
     * that is kept), "last:50" (the newest 50 messages), "since:600" (what came in the last 600 seconds) or
     * "now", which it is unless given
     */
    after?: string;
    /**
     * false: what was read stays unread for the server, and makes no room in a full
     * mailbox; for readers that only watch
     */
    ack?: boolean;
    /**
     * the name under which it is present, 1 to 64 bytes, where no token names it
     */
    as?: string;
    /**
     * ends it, as `stop()` does
     */
    signal?: AbortSignal;
    /**
     * messages after the cursor
     * `after` are lost to this reader; what follows is everything that is still kept
     */
    onGap?: (gap: {
        after: string;
        recipients: string[];
    }) => void;
    onState?: (state: State, detail: StateDetail) => void;
    /**
     * false: a page that was hidden for a minute lets go of its
     * connection, and catches up when it is looked at again. A browser has six for a server, in all its tabs
     */
    background?: boolean;
    /**
     * the name under which the cursor is remembered, for two readers
     * of the same recipients in one page; null: not remembered, so that a reload begins at `after` again
     */
    storageKey?: string | null;
};
export type PresenceOptions = {
    /**
     * ends it, as `stop()` does
     */
    signal?: AbortSignal;
    onState?: (state: State, detail: StateDetail) => void;
    /**
     * as of `follow`
     */
    background?: boolean;
};
export type PushOptions = {
    /**
     * the media type; else text for strings, octets for bytes, JSON for the rest
     */
    type?: string;
    /**
     * an event name, 1 to 64 bytes
     */
    event?: string;
    /**
     * seconds that the message is kept at most
     */
    ttl?: number;
    /**
     * false: only for readers that wait at this moment; it is not queued
     */
    queue?: boolean;
    /**
     * what a full mailbox does with it
     */
    overflow?: "reject" | "drop-oldest";
    /**
     * under which a repeat adds nothing; made up unless given
     */
    idempotencyKey?: string;
    signal?: AbortSignal;
    /**
     * lets the push outlive the page, for a last word while it is left
     */
    keepalive?: boolean;
};
/**
 * A refusal, or no answer at all.
 *
 * The server's refusals are problem documents (RFC 9457): `kind` is the last word of their type, such as
 * "mailbox-full", and `message` is their sentence, which says what was wrong and what is right.
 */
export declare class CometError extends Error {
    /** The HTTP status; 0 where there was no answer. */
    status: number;
    kind: string;
    /** Seconds after which to try again, if the server said so. */
    retryAfter: number | undefined;
    /** The whole problem document, if there was one. */
    problem: any;
    /**
     * @param {string} message
     * @param {{status?: number, kind?: string, retryAfter?: number, problem?: any, cause?: unknown}} [more]
     */
    constructor(message: string, { status, kind, retryAfter, problem, cause }?: {
        status?: number;
        kind?: string;
        retryAfter?: number;
        problem?: any;
        cause?: unknown;
    });
    /** Whether the same request may succeed later. */
    get passing(): boolean;
}
/** A server, and how to speak to it. */
export declare class Comet {
    #private;
    url: string;
    transport: "auto" | "poll" | "stream";
    /** Milliseconds in which a stream must show a first sign of life. */
    patience: number;
    /**
     * @param {string | URL} [url] where the server is mounted; the page's own directory unless given
     * @param {CometOptions} [options]
     */
    constructor(url?: string | URL, options?: CometOptions);
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
    follow(recipients: string | string[], onMessage: (message: Message) => unknown, options?: FollowOptions): Following;
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
    push(recipients: string | string[], data: any, options?: PushOptions): Promise<Receipt>;
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
    poll(recipients: string | string[], { after, wait, limit, ack, as, signal }?: {
        after?: string;
        wait?: number;
        limit?: number;
        ack?: boolean;
        as?: string;
        signal?: AbortSignal;
    }): Promise<Answer>;
    /**
     * What the server knows of a recipient: whether someone waits for it, and what is kept for it.
     *
     * @param {string} recipient
     * @param {{signal?: AbortSignal}} [options]
     * @returns {Promise<Standing>}
     */
    describe(recipient: string, { signal }?: {
        signal?: AbortSignal;
    }): Promise<Standing>;
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
    presence(recipient: string, onChange: (presence: Presence, change?: PresenceChange) => unknown, options?: PresenceOptions): Presence;
    /**
     * Say that a name has left a recipient, so that it is not present for 45 s more.
     *
     * A reader that was followed with `as` says so by itself when it is stopped.
     *
     * @param {string} recipient
     * @param {{as?: string, keepalive?: boolean, signal?: AbortSignal}} [options] `as` is the name, where
     *   no token has it; `keepalive` lets the word outlive the page
     */
    leave(recipient: string, { as, keepalive, signal }?: {
        as?: string;
        keepalive?: boolean;
        signal?: AbortSignal;
    }): Promise<void>;
    /**
     * The mailboxes that hold messages and whose names begin with a prefix, by name, a page at a time.
     *
     * `more` is the `after` of the next page; null where there is none.
     *
     * @param {string} [prefix]
     * @param {{after?: string | null, limit?: number, signal?: AbortSignal}} [options]
     * @returns {Promise<{recipients: Standing[], more: string | null}>}
     */
    recipients(prefix?: string, { after, limit, signal }?: {
        after?: string | null;
        limit?: number;
        signal?: AbortSignal;
    }): Promise<{
        recipients: Standing[];
        more: string | null;
    }>;
}
/** A reader at work. `Comet.follow` makes it; it runs until it is stopped. */
export declare class Following {
    #private;
    recipients: string[];
    /** Settles, and never fails, once it is over: with the error that ended it, or with nothing. */
    closed: Promise<CometError | undefined>;
    /**
     * @param {Comet} comet
     * @param {string[]} recipients
     * @param {(message: Message) => unknown} onMessage
     * @param {FollowOptions} options
     */
    constructor(comet: Comet, recipients: string[], onMessage: (message: Message) => unknown, options: FollowOptions);
    /** @returns {State} */
    get state(): State;
    /** Everything up to here has been handled. */
    get cursor(): string;
    /** What ended it, where that was a refusal. */
    get error(): CometError | undefined;
    /** End it. No message comes after this. */
    stop(): void;
}
/**
 * Who reads a recipient, by name. `Comet.presence` makes it; it is kept up to date until it is stopped.
 *
 * It asks for the list, and follows the changes from there on. Where something may have been missed,
 * because the server was away or no longer keeps the changes, it asks again.
 */
export declare class Presence {
    #private;
    recipient: string;
    /** Settles, and never fails, once it is over: with the error that ended it, or with nothing. */
    closed: Promise<CometError | undefined>;
    /** How many readers there are, those without a name too. */
    readers: number;
    /** There are more than 1,000 names: only the first are listed, and changes are reported by the count. */
    more: boolean;
    /**
     * @param {Comet} comet
     * @param {string} recipient
     * @param {(presence: Presence, change?: PresenceChange) => unknown} onChange
     * @param {PresenceOptions} options
     */
    constructor(comet: Comet, recipient: string, onChange: (presence: Presence, change?: PresenceChange) => unknown, options: PresenceOptions);
    /** Those who read it, the first to come in front. */
    get members(): Member[];
    /** End it. */
    stop(): void;
}
