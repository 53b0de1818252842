/**
 * A server that is only a function, and time that only moves when a test says so.
 *
 * `client.js` gets `server.fetch` in the place of fetch. Each request arrives at the handler that the test
 * gave, with its parts laid out; a Response leaves, or an error as of a broken network.
 */

export const NETWORK_ERROR = new TypeError("fetch failed");

export class FakeServer {
  /** Every request, in order. */
  requests = [];

  /** @param {(request: any, count: number) => Response | Promise<Response>} handler */
  constructor(handler) {
    this.handler = handler;
  }

  fetch = async (resource, init = {}) => {
    const url = new URL(resource);
    const request = {
      method: init.method ?? "GET",
      path: url.pathname,
      query: Object.fromEntries(url.searchParams),
      recipients: url.searchParams.getAll("rcpt"),
      headers: new Headers(init.headers),
      body: init.body,
      signal: init.signal,
      keepalive: init.keepalive,
    };
    this.requests.push(request);
    return untilAborted(this.handler(request, this.requests.length - 1), init.signal);
  };

  /** The requests as short lines: `poll after=e-3 wait=25`. */
  get lines() {
    return this.requests.map(({ path, query: { rcpt, ...query } }) =>
      [path.slice(1), ...Object.entries(query).map(([name, value]) => `${name}=${value}`)].join(" "),
    );
  }
}

/** A stream whose lines a test sends when it likes. */
export class FakeStream {
  #encoder = new TextEncoder();

  constructor(request) {
    const body = new ReadableStream({ start: (controller) => void (this.controller = controller) });
    this.response = new Response(body, { headers: { "Content-Type": "application/x-ndjson" } });
    this.closed = false;
    request.signal?.addEventListener("abort", () => {
      if (!this.closed) this.controller.error(new DOMException("aborted", "AbortError"));
      this.closed = true;
    });
  }

  send(...objects) {
    this.sendRaw(objects.map((object) => `${JSON.stringify(object)}\n`).join(""));
  }

  sendRaw(text) {
    this.controller.enqueue(typeof text === "string" ? this.#encoder.encode(text) : text);
  }

  end() {
    this.closed = true;
    this.controller.close();
  }

  break() {
    this.closed = true;
    this.controller.error(NETWORK_ERROR);
  }
}

export function message(number, more = {}) {
  return {
    id: `e-${number}`,
    recipient: "lobby",
    created_at: "2026-11-20T10:15:58.123Z",
    type: "text/plain; charset=utf-8",
    data: `message ${number}`,
    ...more,
  };
}

export function answer(messages, cursor, more = {}) {
  return Response.json({ messages, cursor, gap: false, more: false, ...more });
}

export function problem(status, kind, headers = {}) {
  const body = { type: `urn:cometd-lite:problem:${kind}`, title: kind, status, detail: `It is ${kind}.` };
  return new Response(JSON.stringify(body), {
    status,
    headers: { "Content-Type": "application/problem+json", ...headers },
  });
}

export function never() {
  return new Promise(() => {});
}

/** Time stands still, and chance always says the same, until the test is over. */
export function stopTheClock(t, chance = 0) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: Date.parse("2026-11-20T10:00:00Z") });
  t.mock.method(Math, "random", () => chance);
  return (seconds) => t.mock.timers.tick(seconds * 1000);
}

const turn = setImmediate;

/** Let everything run that can, until the condition holds; no time passes. */
export async function until(condition, what = String(condition)) {
  for (let turns = 0; turns < 1000; turns++) {
    if (condition()) return;
    await new Promise((resolve) => turn(resolve));
  }
  throw new Error(`It never came to this: ${what}`);
}

/** Let everything run that can: for showing that something does not happen. */
export async function settle() {
  for (let turns = 0; turns < 20; turns++) await new Promise((resolve) => turn(resolve));
}

/** What sessionStorage is to a page. */
export class FakeStorage {
  #items = new Map();
  getItem(key) {
    return this.#items.get(key) ?? null;
  }
  setItem(key, value) {
    this.#items.set(key, String(value));
  }
  removeItem(key) {
    this.#items.delete(key);
  }
}

/** The events of a page, where there is no page: `online`, `pagehide`, `pageshow`. */
export function pageEvents() {
  const target = new EventTarget();
  // They stay: a reader that is stopped after its test takes its listeners off again.
  globalThis.addEventListener = target.addEventListener.bind(target);
  globalThis.removeEventListener = target.removeEventListener.bind(target);
  return (name) => target.dispatchEvent(new Event(name));
}

function untilAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    const abort = () => reject(new DOMException("aborted", "AbortError"));
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort);
    Promise.resolve(promise).then(resolve, reject);
  });
}
