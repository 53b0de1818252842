/**
 * Tabs that share one connection: eight pages of one origin over HTTP/1.1, of which a browser lets six connect.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Comet } from "../../cometd_lite/pages/client.js";
import { covers } from "../../cometd_lite/pages/tabs.js";
import { NOBODY_THERE, open } from "./support/browser.mjs";
import { Server } from "./support/server.mjs";

/** Open pages of one origin in one profile, which follow each its recipients. */
async function tabs(t, url, count, recipientsOf, options = {}, context = {}) {
  const first = await open(t, url, context);
  const pages = [first];
  while (pages.length < count) {
    const page = await first.context().newPage();
    await page.goto(url);
    pages.push(page);
  }
  for (const [at, page] of pages.entries()) await follow(page, recipientsOf(at), options);
  return pages;
}

async function follow(page, recipients, options = {}) {
  await page.evaluate(
    async ([recipients, { server, share, ...options }]) => {
      const { Comet } = await import("./client.js");
      window.comet = new Comet(server, { share });
      window.heard = { messages: [], gaps: [], states: [] };
      window.following = window.comet.follow(recipients, (message) => window.heard.messages.push(message.data), {
        onGap: (gap) => window.heard.gaps.push(gap),
        onState: (state) => window.heard.states.push(state),
        ...options,
      });
    },
    [recipients, options],
  );
  await page.waitForFunction(() => ["streaming", "polling"].includes(window.following.state));
}

/** Wait until a page has heard so many messages, and return them. */
async function heard(page, count) {
  await page.waitForFunction((count) => window.heard.messages.length >= count, count);
  return page.evaluate(() => window.heard.messages);
}

/** Wait until so many readers wait for a recipient. */
async function waiting(server, recipient, count) {
  for (let tries = 0; tries < 100; tries++) {
    if ((await server.describe(recipient)).waiting === count) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.equal((await server.describe(recipient)).waiting, count);
}

/** Let a browser freeze a page, as it does to hidden ones when memory is short. */
async function freeze(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Page.setWebLifecycleState", { state: "frozen" });
}

/** The page whose connection is shared. */
async function leaderOf(pages) {
  for (const page of pages) {
    const { held } = await page.evaluate(() => navigator.locks.query());
    const lock = held.find(({ name }) => /^cometd-lite .*\]$/.test(name));
    const own = await page.evaluate(async () => {
      // The id of this page's client, as the browser names the holder of a lock.
      const name = `probe ${Math.random()}`;
      return navigator.locks.request(name, async () => {
        const { held } = await navigator.locks.query();
        return held.find((one) => one.name === name).clientId;
      });
    });
    if (lock?.clientId === own) return page;
  }
  throw new Error("No page leads.");
}

test("eight tabs have one connection, and each hears its own messages once and in order", async (t) => {
  const server = await Server.start(t);
  const pages = await tabs(t, server.url, 8, (at) => ["lobby", `room/${at % 2}`]);
  await waiting(server, "lobby", 1);
  const sent = [];
  for (let number = 0; number < 30; number++) {
    const to = ["lobby", "room/0", "room/1"][number % 3];
    await server.push(to, `${to} ${number}`);
    sent.push(`${to} ${number}`);
  }
  for (const [at, page] of pages.entries()) {
    const expected = sent.filter((text) => /^lobby/.test(text) || text.startsWith(`room/${at % 2}`));
    assert.deepEqual(await heard(page, expected.length), expected);
    assert.deepEqual(await page.evaluate(() => window.heard.gaps), []);
  }
  await waiting(server, "lobby", 1);
});

for (const end of ["close", "crash", "freeze", "hang"]) {
  test(`a leader that is lost loses nothing and repeats nothing (${end})`, { timeout: 120_000 }, async (t) => {
    const server = await Server.start(t);
    const pages = await tabs(t, server.url, 4, () => ["lobby"], {}, { expected: /./ });
    await server.push("lobby", "0");
    for (const page of pages) await heard(page, 1);
    const leader = await leaderOf(pages);
    const others = pages.filter((page) => page !== leader);
    let isOver = false;
    t.after(() => (isOver = true));
    const pushing = (async () => {
      // One after the other: two that are under way together may be taken in any order.
      for (let number = 1; !isOver; number++) {
        await server.push("lobby", String(number));
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    })();
    if (end === "close") await leader.close();
    else if (end === "crash") leader.goto("chrome://crash").catch(() => {});
    else if (end === "freeze") await freeze(leader);
    else leader.evaluate(() => { for (const until = Date.now() + 9_000; Date.now() < until; ); }).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, end === "hang" ? 12_000 : 3_000));
    isOver = true;
    await pushing;
    await server.push("lobby", "last");
    for (const page of end === "hang" ? pages : others) {
      await page.waitForFunction(() => window.heard.messages.at(-1) === "last");
      const messages = await page.evaluate(() => window.heard.messages);
      assert.deepEqual(messages.slice(0, -1), messages.slice(0, -1).map((_, at) => String(at)));
      assert.deepEqual(await page.evaluate(() => window.heard.gaps), []);
    }
    await waiting(server, "lobby", 1);
  });
}

test("a page that hung while it led hears what no other page follows", { timeout: 120_000 }, async (t) => {
  const server = await Server.start(t);
  const pages = await tabs(t, server.url, 3, (at) => [`room/${at}`], {}, { expected: /./ });
  const leader = await leaderOf(pages);
  const room = `room/${pages.indexOf(leader)}`;
  leader.evaluate(() => { for (const until = Date.now() + 9_000; Date.now() < until; ); }).catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 12_000));
  for (const text of ["first", "second"]) {
    await server.push(room, text);
    await leader.waitForFunction((text) => window.heard.messages.at(-1) === text, text);
  }
  await waiting(server, room, 1);
});

test("a page that the next leader knows late loses nothing", { timeout: 120_000 }, async (t) => {
  const server = await Server.start(t);
  const pages = await tabs(t, server.url, 3, () => ["lobby"]);
  await server.push("lobby", "0");
  for (const page of pages) await heard(page, 1);
  const leader = await leaderOf(pages);
  const others = pages.filter((page) => page !== leader);
  for (const page of others) {
    await page.evaluate(() => {
      const post = BroadcastChannel.prototype.postMessage;
      BroadcastChannel.prototype.postMessage = function (data) {
        const late = () => {
          try {
            post.call(this, data);
          } catch {
            // The page has ended, and closed its channel.
          }
        };
        setTimeout(late, data.kind === "want" ? 700 : 0);
      };
    });
  }
  // The next leader begins after some messages, too.
  await leader.context().route(/after=now/, (route) => void setTimeout(() => route.continue(), 300));
  await leader.close();
  for (let number = 1; number <= 40; number++) {
    await server.push("lobby", String(number));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  for (const page of others) {
    const expected = Array.from({ length: 41 }, (_, number) => String(number));
    assert.deepEqual(await heard(page, expected.length), expected);
  }
});

test("tabs share across a restart of the server, and each is told of its gap", async (t) => {
  const server = await Server.start(t);
  const pages = await tabs(t, server.url, 3, () => ["lobby"], {}, { expected: NOBODY_THERE });
  await server.push("lobby", "before");
  for (const page of pages) await heard(page, 1);
  await server.kill();
  await server.start();
  await server.push("lobby", "after");
  for (const page of pages) {
    assert.deepEqual(await heard(page, 2), ["before", "after"]);
    assert.equal(await page.evaluate(() => window.heard.gaps.length), 1);
  }
  await waiting(server, "lobby", 1);
});

test("a tab that may not read what it asks for ends alone", async (t) => {
  const server = await Server.start(t);
  const pages = await tabs(t, server.url, 2, () => ["lobby"], {}, { expected: /400/ });
  const error = await pages[0].evaluate(async () => {
    const following = window.comet.follow(["a//b"], () => {});
    return (await following.closed).kind;
  });
  assert.equal(error, "bad-recipient");
  await server.push("lobby", "hi");
  for (const page of pages) assert.deepEqual(await heard(page, 1), ["hi"]);
});

test("tabs that are not to share have a connection each", async (t) => {
  const server = await Server.start(t);
  await tabs(t, server.url, 2, () => ["lobby"], { share: false });
  await waiting(server, "lobby", 2);
});

test("where a page has no locks, a worker has the connection", async (t) => {
  const server = await Server.start(t, "--host", "push.test");
  // Chromium takes a name that is not loopback for no secure context, wherever it leads.
  const first = await open(t, server.url.replace("127.0.0.1", "push.test"));
  assert.equal(await first.evaluate(() => navigator.locks), undefined);
  const second = await first.context().newPage();
  await second.goto(first.url());
  for (const page of [first, second]) await follow(page, ["lobby"]);
  await waiting(server, "lobby", 1);
  await server.push("lobby", "hi");
  for (const page of [first, second]) assert.deepEqual(await heard(page, 1), ["hi"]);
  await first.close();
  await server.push("lobby", "there");
  assert.deepEqual(await heard(second, 2), ["hi", "there"]);
});

test("a pattern covers what the server says that it covers", () => {
  for (const [pattern, name, expected] of [
    ["a", "a", true],
    ["a", "a/b", false],
    ["a/*", "a/b", true],
    ["a/*", "a/b/c", false],
    ["a/*", "a", false],
    ["a/**", "a/b/c", true],
    ["a/**", "a", false],
    ["*", "a", true],
    ["*", "a/b", false],
    ["**", "a/b", true],
    ["**", "$presence/a", false],
  ]) {
    assert.equal(covers(pattern, name), expected, `${pattern} ${name}`);
  }
});

test("under Node each reader has a connection of its own", async (t) => {
  const server = await Server.start(t);
  for (const comet of [new Comet(server.url), new Comet(server.url)]) {
    const following = comet.follow("lobby", () => {}, { storageKey: null });
    t.after(() => following.stop());
  }
  await waiting(server, "lobby", 2);
});
