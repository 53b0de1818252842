/**
 * `client.js` against a server that is only a function: what goes wrong between a page and a server, one
 * thing at a time, with time that only moves when a test says so.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Comet, CometError } from "../../cometd_lite/pages/client.js";
import {
  FakeServer,
  FakeStorage,
  FakeStream,
  NETWORK_ERROR,
  answer,
  message,
  never,
  pageEvents,
  problem,
  settle,
  stopTheClock,
  until,
} from "./support/fake-server.mjs";

const URL = "http://comet.example/";

/** A reader of "lobby", and everything that it said. */
function reader(t, server, { after = "e-0", ...options } = {}, cometOptions = {}) {
  const heard = { messages: [], gaps: [], states: [], details: [] };
  const comet = new Comet(URL, { fetch: server.fetch, ...cometOptions });
  const following = comet.follow("lobby", (message) => void heard.messages.push(message.data), {
    after,
    onGap: (gap) => heard.gaps.push({ ...gap, before: heard.messages.length }),
    onState: (state, detail) => {
      heard.states.push(state);
      heard.details.push(detail);
    },
    ...options,
  });
  t.after(() => following.stop());
  return { comet, following, ...heard };
}

/** A server whose streams a test holds in its hands, and whose polls say that there is nothing. */
function streaming() {
  const streams = [];
  const server = new FakeServer((request) => {
    if (request.path !== "/stream")
      return answer([], /^(now|last:5|since:60)$/.test(request.query.after) ? "e-0" : request.query.after);
    streams.push(new FakeStream(request));
    return streams.at(-1).response;
  });
  return { server, streams };
}

test("messages of a stream are delivered as they come", async (t) => {
  const { server, streams } = streaming();
  const { messages, states, following } = reader(t, server);
  await until(() => streams.length === 1);
  assert.equal(server.requests[0].headers.get("Accept"), "application/x-ndjson");
  streams[0].send({ heartbeat: true }, message(1));
  await until(() => messages.length === 1);
  streams[0].send(message(2), { heartbeat: true }, message(3));
  await until(() => messages.length === 3);
  assert.deepEqual(messages, ["message 1", "message 2", "message 3"]);
  assert.deepEqual(states, ["connecting", "streaming"]);
  assert.equal(following.cursor, "e-3");
});

test("a reader who begins now asks first where that is, so that nothing falls between two streams", async (t) => {
  const { server, streams } = streaming();
  reader(t, server, { after: "now" });
  await until(() => streams.length === 1);
  assert.deepEqual(server.lines, ["poll after=now wait=0", "stream after=e-0"]);
});

test("a reader who begins with a history is given it first, and goes on from there", async (t) => {
  for (const after of ["last:5", "since:60"]) {
    const { server, streams } = streaming();
    reader(t, server, { after });
    await until(() => streams.length === 1);
    assert.deepEqual(server.lines, [`poll after=${after} wait=0`, "stream after=e-0"]);
  }
});

test("a reader that only watches says so at every request", async (t) => {
  const server = new FakeServer((request) => {
    if (request.path === "/stream") return new FakeStream(request).response;
    return answer([], "e-0");
  });
  reader(t, server, { after: "now", ack: false });
  await until(() => server.requests.length === 2);
  assert.deepEqual(
    server.requests.map(({ path, query }) => [path, query.ack]),
    [
      ["/poll", "no"],
      ["/stream", "no"],
    ],
  );
});

test("lines and letters may be cut anywhere", async (t) => {
  const { server, streams } = streaming();
  const { messages } = reader(t, server);
  await until(() => streams.length === 1);
  const bytes = new TextEncoder().encode(`${JSON.stringify(message(1, { data: "å𝄞" }))}\r\n\n`);
  for (const byte of bytes) streams[0].sendRaw(Uint8Array.of(byte));
  await until(() => messages.length === 1);
  assert.deepEqual(messages, ["å𝄞"]);
});

test("a broken stream goes on after the last message, and half a line is not a message", async (t) => {
  const tick = stopTheClock(t);
  const { server, streams } = streaming();
  const { messages, states } = reader(t, server);
  await until(() => streams.length === 1);
  streams[0].send(message(1));
  streams[0].sendRaw(JSON.stringify(message(2)).slice(0, 30));
  await until(() => messages.length === 1);
  streams[0].break();
  await until(() => states.at(-1) === "waiting");
  tick(0.25);
  await until(() => streams.length === 2);
  assert.equal(server.lines.at(-1), "stream after=e-1");
  streams[1].send(message(2));
  await until(() => messages.length === 2);
  assert.deepEqual(messages, ["message 1", "message 2"]);
});

test("a message that comes again is not delivered again", async (t) => {
  const { server, streams } = streaming();
  const { messages, following } = reader(t, server);
  await until(() => streams.length === 1);
  streams[0].send(message(1), message(2), message(1), message(2), message(3));
  await until(() => following.cursor === "e-3");
  assert.deepEqual(messages, ["message 1", "message 2", "message 3"]);
});

test("a gap is told once, before what is still kept, and the reader goes on from there", async (t) => {
  const tick = stopTheClock(t);
  const { server, streams } = streaming();
  const { messages, gaps, following } = reader(t, server);
  await until(() => streams.length === 1);
  streams[0].send({ gap: true });
  await until(() => gaps.length === 1);
  assert.equal(following.cursor, "oldest");
  streams[0].break();
  await settle();
  tick(1);
  await until(() => streams.length === 2);
  assert.equal(server.lines.at(-1), "stream after=oldest");
  streams[1].send(message(7));
  await until(() => messages.length === 1);
  assert.deepEqual(gaps, [{ after: "e-0", recipients: ["lobby"], before: 0 }]);
});

test("a line may say where it is without being a message", async (t) => {
  const { server, streams } = streaming();
  const { following, gaps } = reader(t, server);
  await until(() => streams.length === 1);
  streams[0].send({ gap: true });
  await until(() => following.cursor === "oldest");
  streams[0].send({ heartbeat: true, cursor: "f-9" });
  await until(() => following.cursor === "f-9");
  assert.equal(gaps.length, 1);
});

test("where a stream stays silent and a poll comes through, it polls, and the tab remembers it", async (t) => {
  const tick = stopTheClock(t);
  const storage = new FakeStorage();
  const held = [];
  const server = new FakeServer((request) => {
    if (request.path === "/stream") return new FakeStream(request).response;
    if (request.query.wait === "0") return answer([message(1)], "e-1");
    held.push(request);
    return held.length === 1 ? answer([message(2)], "e-2") : never();
  });
  const { messages, states } = reader(t, server, {}, { storage });
  await until(() => server.requests.length === 1);
  tick(3.9);
  await settle();
  assert.equal(server.requests.length, 1);
  tick(0.1);
  await until(() => held.length === 2);
  assert.deepEqual(server.lines, [
    "stream after=e-0",
    "poll after=e-0 wait=0",
    "poll after=e-1 wait=25",
    "poll after=e-2 wait=25",
  ]);
  assert.deepEqual(messages, ["message 1", "message 2"]);
  assert.deepEqual(states, ["connecting", "polling"]);

  const later = reader(t, server, { storageKey: "another" }, { storage });
  await until(() => later.states.at(-1) === "polling");
  assert.equal(server.lines.filter((line) => line.startsWith("stream")).length, 1);
});

test("silence is not held against streams where nothing comes through at all", async (t) => {
  const tick = stopTheClock(t);
  let down = true;
  const streams = [];
  const server = new FakeServer((request) => {
    if (down) return never();
    if (request.path === "/poll") return answer([], "e-0");
    streams.push(new FakeStream(request));
    return streams.at(-1).response;
  });
  const { states } = reader(t, server);
  await until(() => server.requests.length === 1);
  tick(4);
  await until(() => server.requests.length === 2);
  assert.equal(server.lines[1], "poll after=e-0 wait=0");
  tick(10);
  await until(() => states.at(-1) === "waiting");
  down = false;
  tick(1);
  await until(() => streams.length === 1);
  streams[0].send({ heartbeat: true });
  await until(() => states.at(-1) === "streaming");
});

for (const status of [404, 405, 406, 501]) {
  test(`a server or proxy that answers a stream with ${status} is polled`, async (t) => {
    const server = new FakeServer((request) => {
      if (request.path === "/stream") return problem(status, "no-streams");
      return request.query.wait === "0" ? answer([], "e-0") : never();
    });
    const { states } = reader(t, server);
    await until(() => states.at(-1) === "polling");
  });
}

test("what calls itself a stream and is none is polled instead", async (t) => {
  const server = new FakeServer((request) => {
    if (request.path === "/poll") return request.query.wait === "0" ? answer([], "e-0") : never();
    return new Response("<html>\nWelcome!\n", { headers: { "Content-Type": "application/x-ndjson" } });
  });
  const { states } = reader(t, server);
  await until(() => states.at(-1) === "polling");
  assert.deepEqual(states, ["connecting", "polling"]);
});

test("a page in the place of a stream is not read as one", async (t) => {
  const server = new FakeServer((request) => {
    if (request.path === "/stream")
      return new Response("<html>Welcome!", { headers: { "Content-Type": "text/html" } });
    return request.query.wait === "0" ? answer([], "e-0") : never();
  });
  const { states } = reader(t, server);
  await until(() => states.at(-1) === "polling");
});

test("a stream that falls silent after its beginning is opened again", async (t) => {
  const tick = stopTheClock(t);
  const { server, streams } = streaming();
  const { states } = reader(t, server);
  await until(() => streams.length === 1);
  streams[0].send({ heartbeat: true });
  await until(() => states.at(-1) === "streaming");
  tick(30);
  streams[0].send({ heartbeat: true });
  await settle();
  tick(39.9);
  await settle();
  assert.equal(streams[0].closed, false);
  tick(0.2);
  await until(() => streams[0].closed);
  await until(() => states.at(-1) === "waiting");
  tick(0.25);
  await until(() => streams.length === 2);
});

test("a poll that is lost on the way is sent again", async (t) => {
  const tick = stopTheClock(t);
  const server = new FakeServer((request) => (request.query.wait === "0" ? answer([], "e-0") : never()));
  const { states } = reader(t, server, {}, { transport: "poll" });
  await until(() => states.at(-1) === "polling");
  await until(() => server.requests.length === 2);
  tick(34.9);
  await settle();
  assert.equal(states.at(-1), "polling");
  tick(0.2);
  await until(() => states.at(-1) === "waiting");
});

test("polls that nobody holds are not asked for in a hurry", async (t) => {
  const tick = stopTheClock(t);
  const server = new FakeServer(() => answer([], "e-0"));
  const { states, details } = reader(t, server, {}, { transport: "poll" });
  for (const delay of [0.25, 0.5, 1, 2]) {
    await until(() => states.at(-1) === "waiting" && details.at(-1).delay === delay);
    tick(delay);
  }
  assert.equal(server.requests.length, 8);
});

test("pauses double up to half a minute, and start anew after success", async (t) => {
  const tick = stopTheClock(t, 1);
  let up = false;
  const server = new FakeServer((request) => {
    if (!up) throw NETWORK_ERROR;
    return request.query.wait === "0" ? answer([], "e-0") : never();
  });
  const { states, details } = reader(t, server, {}, { transport: "poll" });
  for (let failures = 1; failures <= 8; failures++) {
    await until(() => server.requests.length === failures && states.at(-1) === "waiting");
    tick(details.at(-1).delay);
  }
  await until(() => server.requests.length === 9 && states.at(-1) === "waiting");
  const delays = details.filter(({ delay }) => delay).map(({ delay }) => delay);
  assert.deepEqual(delays, [0.5, 1, 2, 4, 8, 16, 30, 30, 30]);
  up = true;
  tick(30);
  await until(() => states.at(-1) === "polling");
});

test("half of a pause is chance, so that a thousand pages do not come back as one", async (t) => {
  stopTheClock(t, 0);
  const server = new FakeServer(() => {
    throw NETWORK_ERROR;
  });
  const { details, states } = reader(t, server, {}, { transport: "poll" });
  await until(() => states.at(-1) === "waiting");
  assert.equal(details.at(-1).delay, 0.25);
});

for (const [what, value] of [
  ["seconds", "7"],
  ["a date", "Fri, 20 Nov 2026 10:00:07 GMT"],
]) {
  test(`Retry-After is obeyed where it is ${what}`, async (t) => {
    const tick = stopTheClock(t);
    const server = new FakeServer(() => problem(503, "server-full", { "Retry-After": value }));
    const { states, details } = reader(t, server);
    await until(() => states.at(-1) === "waiting");
    assert.equal(details.at(-1).delay, 7);
    assert.equal(details.at(-1).error.kind, "server-full");
    tick(6.9);
    await settle();
    assert.equal(server.requests.length, 1);
    tick(0.2);
    await until(() => server.requests.length === 2);
  });
}

for (const status of [400, 401, 403, 410, 421]) {
  test(`${status} ends it, with the server's own words`, async (t) => {
    const server = new FakeServer(() => problem(status, "that-way"));
    const { following, states } = reader(t, server);
    const error = await following.closed;
    assert.ok(error instanceof CometError);
    assert.equal(error.status, status);
    assert.equal(error.kind, "that-way");
    assert.equal(error.message, "It is that-way.");
    assert.equal(following.error, error);
    assert.equal(states.at(-1), "closed");
    assert.equal(server.requests.length, 1);
  });
}

test("a token goes with every request, and never into an address", async (t) => {
  const { server, streams } = streaming();
  reader(t, server, { after: "now" }, { token: "secret" });
  await until(() => streams.length === 1);
  for (const request of server.requests) {
    assert.equal(request.headers.get("Authorization"), "Bearer secret");
    assert.equal(request.query.token, undefined);
  }
});

test("a token that ran out is renewed once, where there is someone to ask", async (t) => {
  const asked = [];
  const server = new FakeServer((request) =>
    request.headers.get("Authorization") === "Bearer new" ? answer([], "e-0") : problem(401, "unauthorized"),
  );
  const comet = new Comet(URL, {
    fetch: server.fetch,
    token: async (renew) => {
      asked.push(renew);
      return renew ? "new" : "old";
    },
  });
  assert.equal((await comet.poll("lobby", { after: "now", wait: 0 })).cursor, "e-0");
  assert.deepEqual(asked, [false, true]);
});

for (const status of [204, 304]) {
  test(`an empty ${status} is the end of a wait, and its cursor counts`, async () => {
    const server = new FakeServer(() => new Response(null, { status, headers: { "Comet-Cursor": "e-9" } }));
    const comet = new Comet(URL, { fetch: server.fetch });
    const expected = { messages: [], cursor: "e-9", gap: false, more: false };
    assert.deepEqual(await comet.poll("lobby", { after: "e-1" }), expected);
  });
}

test("the cursor is remembered over a reload, and wins over where to begin", async (t) => {
  const storage = new FakeStorage();
  const first = streaming();
  const before = reader(t, first.server, {}, { storage });
  await until(() => first.streams.length === 1);
  first.streams[0].send(message(5));
  await until(() => before.messages.length === 1);
  before.following.stop();

  const second = streaming();
  reader(t, second.server, { after: "oldest" }, { storage });
  await until(() => second.streams.length === 1);
  assert.deepEqual(second.server.lines, ["stream after=e-5"]);
});

test("without a storage key a reload begins where it began", async (t) => {
  const storage = new FakeStorage();
  for (const round of [1, 2]) {
    const { server, streams } = streaming();
    const { messages, following } = reader(t, server, { after: "oldest", storageKey: null }, { storage });
    await until(() => streams.length === 1);
    streams[0].send(message(round));
    await until(() => messages.length === 1);
    assert.deepEqual(server.lines, ["stream after=oldest"]);
    following.stop();
  }
});

test("a storage that throws is one that remembers nothing", async (t) => {
  const broken = () => {
    throw new DOMException("no", "SecurityError");
  };
  const { server, streams } = streaming();
  const storage = { getItem: broken, setItem: broken, removeItem: broken };
  const { messages } = reader(t, server, {}, { storage });
  await until(() => streams.length === 1);
  streams[0].send(message(1));
  await until(() => messages.length === 1);
});

test("a remembered cursor that the server cannot read is a gap", async (t) => {
  const storage = new FakeStorage();
  storage.setItem("mine", "of-another-server");
  const streams = [];
  const server = new FakeServer((request) => {
    if (request.query.after === "of-another-server") return problem(400, "bad-cursor");
    streams.push(new FakeStream(request));
    return streams.at(-1).response;
  });
  const { gaps } = reader(t, server, { storageKey: "mine" }, { storage });
  await until(() => streams.length === 1);
  assert.deepEqual(gaps, [{ after: "of-another-server", recipients: ["lobby"], before: 0 }]);
  assert.equal(server.lines.at(-1), "stream after=oldest");
});

test("a given cursor that the server cannot read is the caller's mistake", async (t) => {
  const server = new FakeServer(() => problem(400, "bad-cursor"));
  const { following, gaps } = reader(t, server, { after: "nonsense" });
  assert.equal((await following.closed).kind, "bad-cursor");
  assert.deepEqual(gaps, []);
});

test("after stop no message comes, and the connection is gone", async (t) => {
  const { server, streams } = streaming();
  const heard = [];
  const comet = new Comet(URL, { fetch: server.fetch });
  const following = comet.follow(
    ["lobby"],
    (message) => {
      heard.push(message.id);
      following.stop();
    },
    { after: "e-0" },
  );
  await until(() => streams.length === 1);
  streams[0].send(message(1), message(2));
  assert.equal(await following.closed, undefined);
  assert.deepEqual(heard, ["e-1"]);
  assert.equal(following.state, "closed");
  assert.ok(server.requests[0].signal.aborted);
});

test("a signal ends it as stop does, before it began as well", async (t) => {
  const { server, streams } = streaming();
  const controller = new AbortController();
  const { following } = reader(t, server, { signal: controller.signal });
  await until(() => streams.length === 1);
  controller.abort();
  assert.equal(await following.closed, undefined);
  const never = reader(t, server, { signal: controller.signal });
  assert.equal(await never.following.closed, undefined);
  assert.equal(server.requests.length, 1);
});

test("a stop ends a pause", async (t) => {
  stopTheClock(t);
  const server = new FakeServer(() => problem(503, "server-full", { "Retry-After": "3600" }));
  const { following, states } = reader(t, server);
  await until(() => states.at(-1) === "waiting");
  following.stop();
  assert.equal(await following.closed, undefined);
});

test("a mistake in the caller's code is reported, and the next message still comes", async (t) => {
  const reported = t.mock.method(console, "error", () => {});
  const { server, streams } = streaming();
  const heard = [];
  const comet = new Comet(URL, { fetch: server.fetch });
  const following = comet.follow(
    "lobby",
    (message) => {
      heard.push(message.id);
      throw new Error("oops");
    },
    { after: "e-0" },
  );
  t.after(() => following.stop());
  await until(() => streams.length === 1);
  streams[0].send(message(1), message(2));
  await until(() => heard.length === 2);
  assert.equal(reported.mock.callCount(), 2);
  assert.equal(following.state, "streaming");
});

test("the next message waits for what is done with the last, and the cursor too", async (t) => {
  const { server, streams } = streaming();
  const heard = [];
  let finish;
  const comet = new Comet(URL, { fetch: server.fetch });
  const following = comet.follow(
    "lobby",
    (message) => {
      heard.push(message.id);
      return new Promise((resolve) => (finish = resolve));
    },
    { after: "e-0" },
  );
  t.after(() => following.stop());
  await until(() => streams.length === 1);
  streams[0].send(message(1), message(2));
  await until(() => heard.length === 1);
  await settle();
  assert.deepEqual(heard, ["e-1"]);
  assert.equal(following.cursor, "e-0");
  finish();
  await until(() => heard.length === 2);
  assert.equal(following.cursor, "e-1");
});

test("octets arrive as octets", async (t) => {
  const server = new FakeServer(() =>
    answer([message(1, { type: "image/png", data: undefined, data_base64: "iVBORw==" })], "e-1"),
  );
  const comet = new Comet(URL, { fetch: server.fetch });
  const { messages } = await comet.poll("lobby", { after: "oldest" });
  assert.deepEqual(messages[0].data, Uint8Array.of(0x89, 0x50, 0x4e, 0x47));
});

test("several recipients and patterns are asked for at once", async (t) => {
  const { server, streams } = streaming();
  const comet = new Comet(URL, { fetch: server.fetch });
  const following = comet.follow(["bob", "chat/**", "a&b=c"], () => {}, { after: "e-0" });
  t.after(() => following.stop());
  await until(() => streams.length === 1);
  assert.deepEqual(server.requests[0].recipients, ["bob", "chat/**", "a&b=c"]);
});

test("another network is given another chance to stream, at once", async (t) => {
  stopTheClock(t);
  const dispatch = pageEvents();
  const streams = [];
  let without = true;
  const server = new FakeServer((request) => {
    if (request.path === "/poll") return request.query.wait === "0" ? answer([], "e-0") : never();
    if (without) return problem(501, "no-streams");
    streams.push(new FakeStream(request));
    return streams.at(-1).response;
  });
  const { states } = reader(t, server);
  await until(() => states.at(-1) === "polling");
  without = false;
  dispatch("online");
  await until(() => streams.length === 1);
});

test("the network's return ends a pause", async (t) => {
  stopTheClock(t);
  const dispatch = pageEvents();
  let down = true;
  const streams = [];
  const server = new FakeServer((request) => {
    if (down) throw NETWORK_ERROR;
    streams.push(new FakeStream(request));
    return streams.at(-1).response;
  });
  const { states } = reader(t, server);
  await until(() => states.at(-1) === "waiting");
  down = false;
  dispatch("online");
  await until(() => streams.length === 1);
});

test("a page that is put away lets go of its connection, and goes on when it is shown again", async (t) => {
  const dispatch = pageEvents();
  const { server, streams } = streaming();
  const { messages, states } = reader(t, server);
  await until(() => streams.length === 1);
  streams[0].send(message(1));
  await until(() => messages.length === 1);
  dispatch("pagehide");
  await until(() => states.at(-1) === "paused");
  assert.ok(streams[0].closed);
  await settle();
  assert.equal(streams.length, 1);
  dispatch("pageshow");
  await until(() => streams.length === 2);
  assert.equal(server.lines.at(-1), "stream after=e-1");
});

test("a page that nobody looks at lets go of its connection, if it was asked to", async (t) => {
  const tick = stopTheClock(t);
  const page = Object.assign(new EventTarget(), { baseURI: URL, visibilityState: "visible" });
  globalThis.document = page;
  t.after(() => delete globalThis.document);
  const look = (visibilityState) => {
    page.visibilityState = visibilityState;
    page.dispatchEvent(new Event("visibilitychange"));
  };
  const { server, streams } = streaming();
  const { states } = reader(t, server, { background: false });
  await until(() => streams.length === 1);
  streams[0].send({ heartbeat: true });
  await until(() => states.at(-1) === "streaming");
  const beat = async (seconds) => {
    tick(seconds);
    if (!streams.at(-1).closed) streams.at(-1).send({ heartbeat: true });
    await settle();
  };
  look("hidden");
  for (let seconds = 0; seconds < 45; seconds += 15) await beat(15);
  look("visible");
  for (let seconds = 0; seconds < 90; seconds += 15) await beat(15);
  assert.equal(states.at(-1), "streaming");
  look("hidden");
  for (let seconds = 0; seconds < 60; seconds += 15) await beat(15);
  await until(() => states.at(-1) === "paused");
  assert.ok(streams[0].closed);
  look("visible");
  await until(() => streams.length === 2);
});

test("a push says what it is by what it carries", async () => {
  const server = new FakeServer(() =>
    Response.json({ id: "e-1", ids: ["e-1"], delivered: 1, recipients: ["bob"] }),
  );
  const comet = new Comet(URL, { fetch: server.fetch });
  const cases = [
    ["hi", {}, "text/plain; charset=utf-8", "hi"],
    [{ a: 1 }, {}, "application/json", '{"a":1}'],
    [["x"], {}, "application/json", '["x"]'],
    [0, {}, "application/json", "0"],
    ['{"a":1}\n{"a":2}', { type: "application/x-ndjson" }, "application/x-ndjson", '{"a":1}\n{"a":2}'],
    [Uint8Array.of(1, 2), {}, "application/octet-stream", Uint8Array.of(1, 2)],
    [new Blob(["<svg/>"], { type: "image/svg+xml" }), {}, "image/svg+xml", undefined],
  ];
  for (const [data, options, type, body] of cases) {
    const receipt = await comet.push("bob", data, options);
    assert.equal(receipt.delivered, 1);
    const request = server.requests.at(-1);
    assert.equal(request.method, "POST");
    assert.equal(request.headers.get("Content-Type"), type);
    if (body !== undefined) assert.deepEqual(request.body, body);
  }
});

test("a push's options are the words of the interface", async () => {
  const server = new FakeServer(() => Response.json({ id: "e-1", delivered: 0 }));
  const comet = new Comet("http://comet.example/below/here?x#y", { fetch: server.fetch });
  const options = { event: "say", ttl: 60, queue: false, overflow: "drop-oldest", idempotencyKey: "k" };
  await comet.push(["bob", "chat/room 1"], "hi", { ...options, keepalive: true });
  const [request] = server.requests;
  assert.equal(request.path, "/below/here/push");
  assert.deepEqual(request.recipients, ["bob", "chat/room 1"]);
  assert.deepEqual(
    [request.query.event, request.query.ttl, request.query.queue, request.query.overflow],
    ["say", "60", "no", "drop-oldest"],
  );
  assert.equal(request.headers.get("Idempotency-Key"), "k");
  assert.equal(request.keepalive, true);
});

test("a push without an answer is sent again under the same key", async (t) => {
  const tick = stopTheClock(t);
  const server = new FakeServer((request, count) => {
    if (count < 2) throw NETWORK_ERROR;
    return Response.json({ id: "e-1", delivered: 0 });
  });
  const pushed = new Comet(URL, { fetch: server.fetch }).push("bob", "hi");
  await until(() => server.requests.length === 1);
  await settle();
  tick(0.25);
  await until(() => server.requests.length === 2);
  await settle();
  tick(0.5);
  assert.equal((await pushed).id, "e-1");
  const keys = new Set(server.requests.map((request) => request.headers.get("Idempotency-Key")));
  assert.equal(keys.size, 1);
  assert.match([...keys][0], /^[0-9a-f]{32}$/);
});

test("a push that is only for now is sent once", async () => {
  const server = new FakeServer(() => {
    throw NETWORK_ERROR;
  });
  const comet = new Comet(URL, { fetch: server.fetch });
  await assert.rejects(comet.push("bob", "hi", { queue: false }), { name: "CometError", status: 0 });
  assert.equal(server.requests.length, 1);
  assert.equal(server.requests[0].headers.get("Idempotency-Key"), null);
});

test("a refused push is thrown, and says when to try again", async () => {
  const server = new FakeServer(() => problem(503, "mailbox-full", { "Retry-After": "5" }));
  const comet = new Comet(URL, { fetch: server.fetch });
  const refusal = { status: 503, kind: "mailbox-full", retryAfter: 5, passing: true };
  await assert.rejects(comet.push("bob", "hi"), refusal);
  assert.equal(server.requests.length, 1);
});

test("a push can be called off", async () => {
  const server = new FakeServer(() => never());
  const controller = new AbortController();
  const pushed = new Comet(URL, { fetch: server.fetch }).push("bob", "hi", { signal: controller.signal });
  await until(() => server.requests.length === 1);
  controller.abort();
  await assert.rejects(pushed, { name: "AbortError" });
  assert.ok(server.requests[0].signal.aborted);
});

test("a refusal that is no problem document is one all the same", async () => {
  const server = new FakeServer(() => new Response("<h1>Bad gateway", { status: 502 }));
  const comet = new Comet(URL, { fetch: server.fetch });
  const refusal = { status: 502, kind: "unknown", message: "The server answered 502." };
  await assert.rejects(comet.poll("bob"), refusal);
});

test("mailboxes are listed a page at a time", async () => {
  const page = { recipients: [{ recipient: "chat/a" }], more: "chat/a" };
  const server = new FakeServer(() => Response.json(page));
  const comet = new Comet(URL, { fetch: server.fetch });
  assert.deepEqual(await comet.recipients("chat/", { limit: 1 }), page);
  await comet.recipients("chat/", { after: page.more });
  await comet.recipients();
  assert.deepEqual(
    server.requests.map(({ path, query }) => [path, { ...query }]),
    [
      ["/recipients", { prefix: "chat/", limit: "1" }],
      ["/recipients", { prefix: "chat/", after: "chat/a" }],
      ["/recipients", {}],
    ],
  );
});

test("a recipient is described by its name, segment by segment", async () => {
  const server = new FakeServer(() => Response.json({ recipient: "chat/room 1", online: true, waiting: 2 }));
  const comet = new Comet(URL, { fetch: server.fetch });
  assert.equal((await comet.describe("chat/room 1")).waiting, 2);
  assert.equal(server.requests[0].path, "/recipients/chat/room%201");
});

/** A server that knows who reads the lobby: what it lists, and the streams of what changes. */
function withPresence(list) {
  const streams = [];
  const server = new FakeServer((request) => {
    if (request.path.startsWith("/presence/"))
      return request.method === "DELETE"
        ? new Response(null, { status: 204 })
        : Response.json({ recipient: "lobby", ...list() }, { headers: { "Comet-Cursor": "e-5" } });
    streams.push(new FakeStream(request));
    return streams.at(-1).response;
  });
  return { server, streams };
}

const alice = { name: "alice", since: "2026-11-20T10:00:00.000Z", readers: 2 };

function change(number, event, data) {
  return message(number, { recipient: "$presence/lobby", event, data });
}

/** Watch who reads the lobby; `seen` is each list of names, with what had changed. */
function watch(t, server, options = {}) {
  const seen = [];
  const states = [];
  const comet = new Comet(URL, { fetch: server.fetch });
  const presence = comet.presence(
    "lobby",
    ({ members, readers, more }, change) =>
      void seen.push([members.map(({ name }) => name).join(), readers, more, change?.event, change?.name]),
    { onState: (state) => states.push(state), ...options },
  );
  t.after(() => presence.stop());
  return { presence, seen, states };
}

test("who reads is listed, and kept up to date by what is told from there on", async (t) => {
  const { server, streams } = withPresence(() => ({ readers: 3, members: [alice] }));
  const { presence, seen } = watch(t, server);
  await until(() => streams.length === 1);
  assert.deepEqual(server.lines, ["presence/lobby", "stream after=e-5 ack=no"]);
  assert.deepEqual(server.requests[1].recipients, ["$presence/lobby"]);
  streams[0].send(
    change(6, "join", { name: "bob", readers: 4 }),
    change(7, "join", { name: "alice", readers: 4 }),
    change(8, "leave", { name: "alice", readers: 2 }),
    change(9, "leave", { name: "nobody", readers: 2 }),
    change(10, "count", { readers: 1200 }),
  );
  await until(() => seen.length === 6);
  assert.deepEqual(seen, [
    ["alice", 3, false, undefined, undefined],
    ["alice,bob", 4, false, "join", "bob"],
    ["alice,bob", 4, false, "join", "alice"],
    ["bob", 2, false, "leave", "alice"],
    ["bob", 2, false, "leave", "nobody"],
    ["bob", 1200, true, "count", undefined],
  ]);
  assert.deepEqual(presence.members, [{ name: "bob", since: message(6).created_at, readers: 1 }]);
});

test("where something was missed, the list is asked for again", async (t) => {
  const tick = stopTheClock(t);
  let members = [alice];
  const { server, streams } = withPresence(() => ({ readers: members.length, members }));
  const { seen } = watch(t, server);
  await until(() => streams.length === 1);
  members = [{ ...alice, name: "bob" }];
  streams[0].send({ gap: true });
  await until(() => seen.length === 2);
  assert.equal(seen[1][0], "bob");
  members = [];
  streams[0].break();
  await settle();
  tick(1);
  await until(() => streams.length === 2);
  streams[1].send({ heartbeat: true });
  await until(() => seen.length === 3);
  assert.deepEqual(seen[2].slice(0, 2), ["", 0]);
});

test("a list that is not there yet is asked for again, and one that is refused is closed", async (t) => {
  const tick = stopTheClock(t);
  const refusals = [problem(503, "stopping"), problem(404, "not-found")];
  const server = new FakeServer(() => refusals.shift());
  const { presence, states, seen } = watch(t, server);
  await until(() => states.length === 1);
  await settle();
  tick(2);
  const error = await presence.closed;
  assert.equal(error.kind, "not-found");
  assert.deepEqual(states, ["waiting", "closed"]);
  assert.deepEqual(seen, []);
});

test("a list that is stopped, also by a signal, asks for nothing more", async (t) => {
  for (const how of ["stop", "signal"]) {
    const { server, streams } = withPresence(() => ({ readers: 1, members: [alice] }));
    const controller = new AbortController();
    const { presence } = watch(t, server, { signal: controller.signal });
    await until(() => streams.length === 1);
    if (how === "stop") presence.stop();
    else controller.abort();
    assert.equal(await presence.closed, undefined);
    await settle();
    assert.equal(server.requests.length, 2);
  }
});

test("a reader has a name at every request, and leaves under it when it is stopped", async (t) => {
  const { server, streams } = withPresence(() => ({}));
  const comet = new Comet(URL, { fetch: server.fetch });
  const following = comet.follow(["lobby", "chat/*", "$presence/lobby"], () => {}, { after: "e-1", as: "Zoë" });
  t.after(() => following.stop());
  await until(() => streams.length === 1);
  assert.equal(server.requests[0].query.as, "Zoë");
  following.stop();
  following.stop();
  await following.closed;
  const left = server.requests.slice(1);
  assert.deepEqual(
    left.map(({ method, path, query, keepalive }) => [method, path, query.as, keepalive]),
    [["DELETE", "/presence/lobby", "Zoë", true]],
  );
  comet.poll("lobby", { after: "e-1", as: "bob", signal: AbortSignal.timeout(1) }).catch(() => {});
  await settle();
  assert.equal(server.requests.at(-1).query.as, "bob");
});
