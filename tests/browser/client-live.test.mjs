/**
 * `client.js` against the real server, in Node and in Chromium: broken lines, a buffering proxy, a server
 * that is killed, and a page that is reloaded, put away or without a network.
 */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { Comet } from "../../cometd_lite/pages/client.js";
import { NOBODY_THERE, open } from "./support/browser.mjs";
import { atEnd } from "./support/cleanup.mjs";
import { Proxy } from "./support/proxy.mjs";
import { Server } from "./support/server.mjs";

/** Follow in Node, until the test is over; `until` settles once the condition holds after some event. */
function follow(t, comet, recipients, options = {}) {
  const heard = { messages: [], gaps: [], states: [] };
  const waiting = new Set();
  const look = () => waiting.forEach((check) => check());
  const following = comet.follow(recipients, (message) => void (heard.messages.push(message), look()), {
    onGap: (gap) => void (heard.gaps.push(gap), look()),
    onState: (state) => void (heard.states.push(state), look()),
    ...options,
  });
  atEnd(t, () => following.stop());
  const until = (condition) =>
    new Promise((resolve) => {
      const check = () => condition() && (waiting.delete(check), resolve());
      waiting.add(check);
      check();
    });
  return { following, until, ...heard };
}

/** Follow in a page; what it heard is `window.heard`. */
async function followInPage(page, recipients, options = {}) {
  await page.evaluate(
    async ([recipients, options]) => {
      const { Comet } = await import("./client.js");
      const heard = (window.heard = { messages: [], gaps: [], states: [] });
      window.following = new Comet().follow(recipients, (message) => heard.messages.push(message.data), {
        onGap: (gap) => heard.gaps.push(gap),
        onState: (state) => heard.states.push(state),
        ...options,
      });
    },
    [recipients, options],
  );
}

function stateIn(page, state) {
  return page.waitForFunction((state) => window.heard.states.at(-1) === state, state);
}

test("what is pushed arrives as it was, over a stream and over polls", async (t) => {
  const server = await Server.start(t);
  for (const transport of ["stream", "poll"]) {
    const comet = new Comet(server.url, { transport });
    const bob = `bob/${transport}`;
    const { messages, until, states } = follow(t, comet, [bob, "team/**"]);
    await until(() => ["streaming", "polling"].includes(states.at(-1)));
    const bodies = ["hello\nåäö 𝄞", { a: [1, null, "x"] }, Uint8Array.of(0, 255, 10), ["a"], ""];
    for (const body of bodies.slice(0, 4)) await comet.push(bob, body, { event: "try" });
    await assert.rejects(comet.push(bob, bodies[4]), { status: 400, kind: "bad-body" });
    await comet.push("team/a/b", "deep");
    await until(() => messages.length === 5);
    assert.deepEqual(
      messages.map(({ data }) => data),
      [...bodies.slice(0, 4), "deep"],
    );
    assert.deepEqual(
      messages.map(({ event, recipient }) => [event, recipient]),
      [...Array(4).fill(["try", bob]), [undefined, "team/a/b"]],
    );
  }
});

test("who reads is listed by name, as they come and leave", async (t) => {
  const server = await Server.start(t, "--presence");
  const comet = new Comet(server.url);
  const seen = [];
  let look = () => {};
  const presence = comet.presence("chat/lobby", ({ members, readers }, change) => {
    seen.push([members.map(({ name }) => name).join(), readers, change?.event]);
    look();
  });
  atEnd(t, () => presence.stop());
  const until = (count) => new Promise((resolve) => ((look = () => seen.length >= count && resolve()), look()));
  await until(1);
  const { following } = follow(t, comet, ["chat/lobby"], { as: "Zoë" });
  await until(2);
  following.stop();
  await until(3);
  assert.deepEqual(seen, [
    ["", 0, undefined],
    ["Zoë", 1, "join"],
    ["", 0, "leave"],
  ]);
  assert.equal((await comet.describe("chat/lobby")).waiting, 0);
});

test("a reader begins with a history, and goes on with what comes", async (t) => {
  const server = await Server.start(t);
  const comet = new Comet(server.url);
  for (const text of ["1", "2", "3"]) await comet.push("bob", text);
  for (const [after, expected] of [["last:2", "2,3,4"], ["since:600", "1,2,3,4"]]) {
    const { messages, gaps, until, states } = follow(t, comet, "bob", { after });
    await until(() => states.at(-1) === "streaming");
    if (after === "last:2") await comet.push("bob", "4");
    await until(() => messages.length === expected.split(",").length);
    assert.equal(messages.map(({ data }) => data).join(","), expected);
    assert.deepEqual(gaps, []);
  }
});

test("one push may go to many, and a receipt tells how many were woken", async (t) => {
  const server = await Server.start(t);
  const comet = new Comet(server.url);
  const { messages, until, states } = follow(t, comet, ["a", "b"]);
  await until(() => states.at(-1) === "streaming");
  const receipt = await comet.push(["a", "b", "c"], "hi");
  assert.equal(receipt.delivered, 1);
  assert.equal(receipt.ids.length, 3);
  await until(() => messages.length === 2);
  assert.deepEqual(receipt.ids.slice(0, 2), [messages[0].id, messages[1].id]);
  assert.equal((await comet.describe("a")).online, true);
  assert.equal((await comet.describe("c")).queued, 1);
});

test("a message only for whoever waits is refused where nobody does", async (t) => {
  const server = await Server.start(t);
  const refusal = { status: 503, kind: "nobody-waits", passing: true };
  await assert.rejects(new Comet(server.url).push("bob", "hi", { queue: false }), refusal);
});

for (const transport of ["stream", "poll"]) {
  test(`thirty broken connections lose nothing and repeat nothing (${transport})`, async (t) => {
    t.mock.method(Math, "random", () => 0);
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server);
    const comet = new Comet(proxy.url, { transport });
    const { messages, until, states } = follow(t, comet, "bob", { after: "oldest" });
    const sent = [];
    for (let round = 1; round <= 30; round++) {
      await until(() => ["streaming", "polling"].includes(states.at(-1)));
      // One arrives before the cut, one about when it comes, and one while nobody is connected.
      for (const part of ["before", "during", "after"]) {
        if (part === "after") proxy.cut();
        const pushed = server.push("bob", `${round} ${part}`);
        sent.push(`${round} ${part}`);
        if (part !== "during") await pushed;
        if (part === "before") await until(() => messages.some(({ data }) => data === `${round} before`));
      }
      await until(() => messages.length === sent.length);
    }
    assert.deepEqual(messages.map(({ data }) => data).sort(), sent.sort());
  });
}

test("a reader of a server that is killed and started again is told the gap, and goes on", async (t) => {
  const server = await Server.start(t);
  const { messages, gaps, until, states } = follow(t, new Comet(server.url), "bob");
  await until(() => states.at(-1) === "streaming");
  await server.push("bob", "before");
  await until(() => messages.length === 1);
  await server.kill();
  await until(() => states.at(-1) === "waiting");
  await server.start();
  await server.push("bob", "after");
  await until(() => messages.length === 2);
  assert.equal(messages[1].data, "after");
  assert.equal(gaps.length, 1);
  assert.equal(gaps[0].after, messages[0].id);
});

test("behind a proxy that buffers, a page falls back to long-polls, and still does after a reload", async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server, { buffers: true });
  const page = await open(t, proxy.url);
  await followInPage(page, ["bob"]);
  await stateIn(page, "polling");
  await server.push("bob", "through the buffer");
  await page.waitForFunction(() => window.heard.messages.length === 1);
  assert.equal(proxy.asked("/stream").length, 1);

  await page.reload();
  await followInPage(page, ["bob"]);
  await stateIn(page, "polling");
  await server.push("bob", "again");
  await page.waitForFunction(() => window.heard.messages.length === 1);
  assert.deepEqual(await page.evaluate(() => window.heard.messages), ["again"]);
  assert.equal(proxy.asked("/stream").length, 1, "the tab remembers that streams do not come through");
});

test("a page that is reloaded is given what came in between, and nothing twice", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, server.url);
  await followInPage(page, ["bob"]);
  await stateIn(page, "streaming");
  await server.push("bob", "one");
  await page.waitForFunction(() => window.heard.messages.length === 1);
  await page.goto("about:blank");
  await server.push("bob", "two");
  await page.goto(server.url);
  await followInPage(page, ["bob"]);
  await server.push("bob", "three");
  await page.waitForFunction(() => window.heard.messages.length === 2);
  assert.deepEqual(await page.evaluate(() => window.heard.messages), ["two", "three"]);
});

test("a page in the back/forward cache lets go of the server, and goes on when it is back", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, server.url);
  await followInPage(page, ["bob"]);
  await stateIn(page, "streaming");
  await server.push("bob", "one");
  await page.waitForFunction(() => window.heard.messages.length === 1);
  await page.goto(`${server.url}?elsewhere`);
  while ((await server.describe("bob")).waiting) continue;
  await server.push("bob", "two");
  await page.goBack({ waitUntil: "commit" });
  await page.waitForFunction(() => window.heard?.messages.length === 2, undefined, { polling: 50 });
  const { messages, states } = await page.evaluate(() => window.heard);
  assert.deepEqual(messages, ["one", "two"]);
  assert.ok(states.includes("paused"), "it was kept, and not loaded again");
});

test("a page without a network says so, and misses nothing when it is back", async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const page = await open(t, proxy.url, { expected: NOBODY_THERE });
  await followInPage(page, ["bob"]);
  await stateIn(page, "streaming");
  await page.context().setOffline(true);
  proxy.cut();
  await stateIn(page, "offline");
  await server.push("bob", "while away");
  await page.context().setOffline(false);
  await page.waitForFunction(() => window.heard.messages.length === 1);
  await stateIn(page, "streaming");
});

test("a page of an allowed origin loads the client from the server, and uses it from where it is", async (t) => {
  const site = createServer((request, response) => {
    response.setHeader("Content-Type", request.url === "/" ? "text/html" : "image/svg+xml");
    response.end(
      request.url === "/" ? '<!doctype html><title>Elsewhere</title><link rel="icon" href="i" />' : "<svg/>",
    );
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", () => resolve(undefined)));
  atEnd(t, () => site.close());
  // Another port is another origin; another name for this machine is another site, too.
  const origin = `http://localhost:${site.address().port}`;
  const server = await Server.start(t, "--allow-origin", origin);
  const use = async ([url, transport]) => {
    const { Comet } = await import(`${url}client.js`);
    const comet = new Comet(url, { token: "any", transport });
    const heard = await new Promise((resolve, reject) => {
      const following = comet.follow("bob", resolve, {
        onState: (state, { error }) => {
          if (state === "streaming" || state === "polling")
            comet.push("bob", { to: transport }).catch(reject);
          if (error) reject(error);
        },
      });
      setTimeout(() => following.stop(), 10_000);
    });
    return heard.data;
  };
  const page = await open(t, origin);
  for (const transport of ["stream", "poll"]) {
    assert.deepEqual(await page.evaluate(use, [server.url, transport]), { to: transport });
  }

  const stranger = await open(t, origin.replace("localhost", "127.0.0.1"), {
    expected: /CORS policy|net::ERR_FAILED/,
  });
  await assert.rejects(stranger.evaluate(use, [server.url, "poll"]));
});

test("EventSource comes back with Last-Event-ID and misses nothing", async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const page = await open(t, proxy.url, { expected: NOBODY_THERE });
  await page.evaluate(() => {
    window.heard = { opened: 0, messages: [], gaps: 0 };
    const source = new EventSource("stream/bob");
    source.onopen = () => (window.heard.opened += 1);
    source.onmessage = ({ data, lastEventId }) => window.heard.messages.push([data, lastEventId]);
    source.addEventListener("gap", () => (window.heard.gaps += 1));
  });
  const sent = [];
  const push = async (text) => {
    const { id } = await server.push("bob", text);
    sent.push([text, id]);
  };
  for (let round = 1; round <= 4; round++) {
    await page.waitForFunction((round) => window.heard.opened === round, round);
    // Cut off before the first message ever came, it must know its place all the same.
    if (round > 1) {
      await push(`${round} before\nthe cut`);
      await page.waitForFunction((count) => window.heard.messages.length === count, sent.length);
    }
    proxy.cut();
    await push(`${round} while away`);
  }
  await page.waitForFunction((count) => window.heard.messages.length === count, sent.length);
  const { messages, gaps } = await page.evaluate(() => window.heard);
  assert.deepEqual(messages, sent);
  assert.equal(gaps, 0);
  const [first, ...later] = proxy.asked("/stream").map(({ headers }) => headers["last-event-id"]);
  assert.equal(first, undefined);
  assert.ok(later.length >= 4 && later.every(Boolean));
});
