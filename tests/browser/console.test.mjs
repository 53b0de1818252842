/**
 * The console in Chromium, on the real server: its three parts, by mouse and by keyboard, on a screen and
 * on a phone. Every page here fails its test where it logs an error or breaks its policy.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { NOBODY_THERE, heard, join, open, say, talk } from "./support/browser.mjs";
import { Proxy } from "./support/proxy.mjs";
import { Server } from "./support/server.mjs";

const AXE = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

/** What axe finds wrong with the page as it stands, for people who do not see or use it as others do. */
async function barriers(page) {
  // Past the page's policy, as a browser's own tools are.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run(document));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}

function focused(page) {
  return page.evaluate(() => document.activeElement?.id);
}

/** Press Tab until this element has the focus. */
async function tabTo(page, id) {
  for (let presses = 0; presses < 30; presses++) {
    if ((await focused(page)) === id) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`Tab does not lead to #${id}`);
}

async function followInInspector(page, recipients, { after = "now", transport = "poll" } = {}) {
  await page.getByRole("tab", { name: "Inspector" }).click();
  await stopFollowing(page);
  await page.getByLabel("Follow", { exact: true }).fill(recipients);
  await page.getByLabel("From", { exact: true }).fill(after);
  await page.getByLabel("By", { exact: true }).selectOption(transport);
  await page.getByRole("button", { name: "Follow" }).click();
  await page
    .locator("#inspector-state[data-state=streaming], #inspector-state[data-state=polling]")
    .waitFor();
}

/** The inspector follows everything as soon as it is looked at. */
async function stopFollowing(page) {
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByRole("button", { name: "Follow" }).waitFor();
}

test("two pages chat with each other, and see how many are there", async (t) => {
  const server = await Server.start(t);
  const ada = await open(t, server.url);
  const grace = await open(t, server.url);
  await join(ada, "lobby", "Ada");
  await say(ada, "Anyone here?");
  await join(grace, "lobby", "Grace");
  await heard(grace, "Anyone here?");
  await say(grace, "I am!");
  await heard(ada, "I am!");
  await ada.locator("#others").getByText("2 readers here.").waitFor();
  await grace.locator("#others").getByText("2 readers here.").waitFor();
  assert.deepEqual(await talk(ada), ["Anyone here?", "I am!"]);
  assert.deepEqual(await talk(grace), ["Anyone here?", "I am!"]);

  await grace.getByRole("button", { name: "Leave" }).click();
  await ada.locator("#others").getByText("1 reader here.").waitFor();
  await grace.getByLabel("Room", { exact: true }).waitFor();
});

test("a page that is closed has left the room", async (t) => {
  const server = await Server.start(t, "--presence");
  const ada = await open(t, server.url);
  const grace = await open(t, server.url);
  await join(ada, "lobby", "Ada");
  await join(grace, "lobby", "Grace");
  await ada.locator("#people").getByText("Grace").waitFor();
  await grace.close({ runBeforeUnload: true });
  await ada.locator("#people").getByText("Grace").waitFor({ state: "detached" });
});

test("a server with presence says who is in the room, those of other programs too", async (t) => {
  const server = await Server.start(t, "--presence");
  const ada = await open(t, server.url);
  await join(ada, "lobby", "Ada");
  const grace = await open(t, server.url);
  await join(grace, "lobby", "Grace Hopper");
  await ada.locator("#people").getByText("Grace Hopper").waitFor();
  const program = new AbortController();
  fetch(`${server.url}poll/chat/lobby?after=now&as=a%20bot`, { signal: program.signal }).catch(() => {});
  await ada.locator("#people").getByText("a bot").waitFor();
  fetch(`${server.url}poll/chat/lobby?after=now`, { signal: program.signal }).catch(() => {});
  await say(grace, "Anyone here?");
  await heard(ada, "Anyone here?");
  await grace.getByRole("button", { name: "Leave" }).click();
  await ada.locator("#people").getByText("Grace Hopper").waitFor({ state: "detached" });
  program.abort();
});

test("what is said has the shape of README's chat, and a name has one colour", async (t) => {
  const server = await Server.start(t, "--presence");
  for (let number = 1; number <= 60; number++) {
    const said = { from: number % 2 ? "Grace" : "Ada", text: `number ${number}` };
    await server.push("chat/lobby", JSON.stringify(said), { type: "application/json" });
  }
  const page = await open(t, server.url);
  await join(page, "lobby", "Ada");
  await heard(page, "number 60");
  const said = await talk(page);
  assert.equal(said.length, 50);
  assert.equal(said[0], "number 11");
  assert.equal(await page.locator("#talk .saying.own").count(), 25);

  await say(page, "by the page");
  await heard(page, "by the page");
  const { messages } = await (await fetch(`${server.url}poll/chat/lobby?after=last:1`)).json();
  assert.deepEqual(messages[0].data, { from: "Ada", text: "by the page" });

  const grace = await open(t, server.url);
  await join(grace, "lobby", "Grace");
  const colours = await page.evaluate(() => {
    const of = (/** @type {string} */ place) =>
      [...document.querySelectorAll(place)].map((face) => getComputedStyle(face).backgroundColor);
    return { talk: of("#talk .face"), people: of("#people .face") };
  });
  await page.locator("#people").getByText("Grace").waitFor();
  const people = await page.locator("#people .face").evaluateAll((faces) =>
    faces.map((face) => getComputedStyle(face).backgroundColor),
  );
  assert.deepEqual(new Set(colours.talk), new Set([people[1]]));
  assert.notEqual(people[0], people[1]);
});

test("in a room the composer is in sight, however low the window is", async (t) => {
  const server = await Server.start(t, "--presence");
  const page = await open(t, server.url);
  await join(page, "lobby", "Ada");
  for (let number = 0; number < 60; number++) await server.push("chat/lobby", `number ${number}`);
  await heard(page, "number 59");
  for (const [width, height] of [
    [1280, 800],
    [1280, 420],
    [768, 1024],
    [390, 844],
    [390, 400],
  ]) {
    await page.setViewportSize({ width, height });
    const { y, height: high } = await page.locator("#say").boundingBox();
    assert.ok(y > 0 && y + high <= height, `${width} × ${height}: ${y + high}`);
    assert.equal(await page.evaluate(() => document.documentElement.scrollHeight - innerHeight), 0);
  }
});

test("rooms are apart, and their names may be anything that a recipient's may", async (t) => {
  const server = await Server.start(t);
  const ada = await open(t, server.url);
  const grace = await open(t, server.url);
  await join(ada, "büro/3. stock & co", "Ada");
  await join(grace, "lobby", "Grace");
  await say(grace, "in the lobby");
  await heard(grace, "in the lobby");
  await say(ada, "upstairs");
  await heard(ada, "upstairs");
  assert.deepEqual(await talk(ada), ["upstairs"]);

  await ada.getByRole("button", { name: "Leave" }).click();
  await ada.getByLabel("Room", { exact: true }).fill("a//b");
  await ada.getByRole("button", { name: "Join" }).click();
  await ada.locator("#room-error").getByText("no empty segment").waitFor();
  assert.equal(await focused(ada), "room");
});

test("what a program pushes to a room is heard there, as text and not as markup", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, server.url);
  await join(page, "lobby", "Ada");
  const attack = `<img src="x" onerror="alert(1)"><script>alert(2)</script>`;
  await server.push("chat/lobby", attack);
  await heard(page, attack);
  const forged = { from: attack, text: attack };
  await server.push("chat/lobby", JSON.stringify(forged), { type: "application/json" });
  await page.locator("#talk .who").getByText(attack).waitFor();
  await server.push("chat/lobby", JSON.stringify({ from: 7, text: [] }), {
    type: "application/json",
  });
  await heard(page, '{"from":7,"text":[]}');
  await server.push("chat/lobby", Uint8Array.of(0, 1, 2), { type: "application/octet-stream" });
  await heard(page, "3 bytes");
  assert.equal(await page.locator("#talk img, #talk script").count(), 0);
});

test("when the server is killed and started again, a page goes on and shows the gap", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, server.url, { expected: NOBODY_THERE });
  await join(page, "lobby", "Ada");
  await say(page, "before");
  await heard(page, "before");
  await followInInspector(page, "bob");
  await server.push("bob", "before");
  await page.locator("#messages .glimpse").getByText("before").waitFor();

  await server.kill();
  await page.locator("#inspector-state[data-state=waiting]").waitFor();
  await server.start();
  await server.push("bob", "after");
  await page.locator("#messages .glimpse").getByText("after").waitFor();
  await page.locator("#messages .lost").waitFor();
  assert.equal(await page.locator("#gaps").textContent(), "1");
  const rows = await page.locator("#messages tbody").allTextContents();
  assert.deepEqual(
    rows.map((row) => /gap|before|after/i.exec(row)?.[0].toLowerCase()),
    ["after", "gap", "before"],
  );

  await page.getByRole("tab", { name: "Chat" }).click();
  await page.locator("#chat-state[data-state=streaming]").waitFor();
  await page.locator("#talk .gap").waitFor();
  await say(page, "after");
  await heard(page, "after");
});

test("it works under a path as at the root", async (t) => {
  const server = await Server.start(t, "--mount", "/below/here");
  const page = await open(t, server.url);
  await join(page, "lobby", "Ada");
  await server.push("chat/lobby", "from below");
  await heard(page, "from below");
  assert.ok((await page.locator("#chat-curl").textContent()).includes(`${server.url}push/chat/lobby`));
  await page.getByRole("tab", { name: "Server" }).click();
  await page.waitForFunction(() => document.getElementById("kept")?.textContent === "1");
});

test("an answer that somebody opens has an icon too, and logs no error", async (t) => {
  const proxy = await Proxy.start(t, await Server.start(t));
  const page = await open(t, `${proxy.url}poll/bob?after=now&wait=0`);
  // Chromium asks for it where no page names one, and logs what it does not find.
  while (!proxy.asked("/favicon.ico").length) await page.waitForTimeout(20);
  await page.goto(`${proxy.url}metrics`);
});

test("what could not be sent comes back into its field, with the reason", async (t) => {
  const server = await Server.start(t, "--max-body", "200");
  const page = await open(t, server.url, { expected: /413/ });
  await join(page, "lobby", "Ada");
  const long = "x".repeat(300);
  await say(page, long);
  await page.locator("#say-error").getByText("Not sent.").waitFor();
  assert.equal(await page.locator("#text").inputValue(), long);
});

test("behind a proxy that buffers, the chat goes on by long-poll", async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server, { buffers: true });
  const ada = await open(t, proxy.url);
  const grace = await open(t, server.url);
  await join(grace, "lobby", "Grace");
  await join(ada, "lobby", "Ada");
  assert.equal(await ada.locator("#chat-state").textContent(), "Live, by long-poll");
  await say(grace, "can you hear me?");
  await heard(ada, "can you hear me?");
  await say(ada, "every word");
  await heard(grace, "every word");
});

test("the inspector shows all there is to a message, and follows patterns", async (t) => {
  const server = await Server.start(t);
  await server.push("bob", "kept from before");
  const page = await open(t, `${server.url}#inspector`);
  await followInInspector(page, "bob, orders/**", { after: "oldest" });
  await page.locator("#messages .glimpse").getByText("kept from before").waitFor();
  const body = JSON.stringify({ total: 12.5 });
  const { id } = await server.push("orders/eu/4711", body, {
    query: "?event=paid",
    type: "application/json",
  });
  await server.push("elsewhere", "not for us");
  const row = page.locator("#messages tbody", { hasText: "orders/eu/4711" });
  await row.locator(".glimpse button").click();
  await row.locator("dd").getByText(id).waitFor();
  const facts = await row.locator(".detail dl").innerText();
  for (const fact of ["orders/eu/4711", "application/json", "paid", "14 B"])
    assert.ok(facts.includes(fact), fact);
  assert.equal(await row.locator("pre").textContent(), '{\n  "total": 12.5\n}');
  await page.waitForFunction((id) => document.getElementById("cursor")?.textContent === id, id);
  assert.equal(await page.locator("#count").textContent(), "2");

  await page.getByRole("button", { name: "Clear" }).click();
  await page.locator("#inspector-empty").waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.locator("#inspector-state").getByText("Not following").waitFor();
});

test("a page that is opened at a part begins at its top", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#inspector`, { viewport: { width: 1280, height: 400 } });
  await page.locator("#inspector-state[data-state=polling]").waitFor();
  const settled = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  await page.evaluate(settled);
  assert.equal(await page.evaluate(() => scrollY), 0);
});

test("the inspector follows everything as it is opened, and acknowledges nothing", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#inspector`);
  await page.locator("#inspector-state[data-state=polling]").waitFor();
  await server.push("bob", "for bob");
  await page.locator("#messages .glimpse").getByText("for bob").waitFor();
  await server.push("jobs/4711", "for a job");
  await page.locator("#messages .glimpse").getByText("for a job").waitFor();
  assert.equal((await server.describe("bob")).queued, 1);
  await page.locator("#mailbox-rows").getByText("jobs/4711").waitFor();
});

test("the timeline shows how long requests were held, and how soon they were woken", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#inspector`);
  const story = page.locator("#held-rows li");
  await story.getByText(/^held for [\d.]+ s …$/).waitFor();
  await story.getByText(/^held for 0\.[3-9]/).waitFor();
  await server.push("bob", "wake up");
  await story.getByText(/^held \d\.\d s, woken in [\d.]+ [mµ]s$/).waitFor();
  await story.getByText(/^held for/).waitFor();
  const bars = await page.locator("#held-rows .bar").evaluateAll((bars) =>
    bars.map((bar) => bar.getBoundingClientRect()).map(({ left, right }) => ({ left, right })),
  );
  assert.equal(bars.length, 2);
  assert.ok(Math.abs(bars[0].left - bars[1].right) < 15, "The next is held where the last was answered.");

  await followInInspector(page, "**", { transport: "auto" });
  await server.push("bob", "one");
  await server.push("bob", "two");
  await story.getByText(/^open for [\d.]+ s, 2 messages …$/).waitFor();
  await page.locator("#held-rows .mark").nth(1).waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await story.getByText(/^open [\d.]+ s, 2 messages$/).waitFor();
});

test("the inspector pushes, and shows the receipt or the refusal", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#inspector`, { expected: /503|400/ });
  await stopFollowing(page);
  await page.getByLabel("Recipient").fill("team/x y");
  await page.getByLabel("Type").selectOption("application/json");
  await page.getByLabel("Body").fill("{");
  await page.getByRole("button", { name: "Push", exact: true }).click();
  await page.locator("#body-error").getByText("This is not JSON yet.").waitFor();
  assert.equal(await focused(page), "push-body");

  await page.getByLabel("Body").fill('{"a": 1}');
  await page.getByLabel("Event").fill("try");
  const curl = await page.locator("#push-curl").textContent();
  assert.ok(curl.includes(`${server.url}push/team/x%20y?event=try`), curl);
  await page.keyboard.press("Control+Enter");
  await page.getByRole("button", { name: "Push", exact: true }).click();
  await page.locator("#receipt").getByText("Accepted: it waits in the mailbox.").waitFor();
  await page.locator("#receipt dd").getByText("202").waitFor();

  await page.getByLabel("Only for readers that wait at this moment").check();
  await page.getByRole("button", { name: "Push", exact: true }).click();
  await page.locator("#receipt[data-outcome=refused]").getByText("nobody-waits").waitFor();

  await page.getByLabel("Follow", { exact: true }).fill("team/*");
  await page.getByRole("button", { name: "Follow" }).click();
  await page.locator("#inspector-state[data-state=polling]").waitFor();
  await page.getByRole("button", { name: "Push", exact: true }).click();
  await page.locator("#receipt").getByText("Delivered: it woke one reader.").waitFor();
  await page.locator("#messages .chip").getByText("try").waitFor();

  await page.getByLabel("Recipient").fill("a//b");
  await page.getByRole("button", { name: "Push", exact: true }).click();
  await page.locator("#receipt[data-outcome=refused]").getByText("bad-recipient").waitFor();
});

test("the inspector lists mailboxes, opens them, and deletes one after a question", async (t) => {
  const server = await Server.start(t);
  for (let number = 0; number < 60; number++)
    await server.push(`chat/${String(number).padStart(2, "0")}`, "hi");
  await server.push("bob", "one");
  await server.push("bob", "two");
  const page = await open(t, `${server.url}#inspector`);
  const row = (name) => page.locator("#mailbox-rows tr", { hasText: name });
  await row("bob").waitFor();
  assert.deepEqual(await row("bob").locator("td").allTextContents(), ["2", "6 B", "0", "Delete"]);
  assert.equal(await page.locator("#mailbox-rows tr").count(), 50);
  await page.getByRole("button", { name: "More" }).click();
  await row("chat/59").waitFor();
  assert.equal(await page.locator("#mailbox-rows tr").count(), 61);
  assert.equal(await page.locator("#mailboxes-more").isVisible(), false);

  await page.getByLabel("Names that begin with").fill("b");
  await page.getByRole("button", { name: "List" }).click();
  await row("chat/00").waitFor({ state: "detached" });
  await row("bob").getByRole("button", { name: "bob", exact: true }).click();
  await page.locator("#messages .glimpse").getByText("two").waitFor();
  assert.equal(await page.getByLabel("Follow", { exact: true }).inputValue(), "bob");
  await page.locator("#inspector-state[data-state=polling]").waitFor();
  await page.getByRole("button", { name: "List" }).click();
  await row("bob").locator("td").nth(2).getByText("1").waitFor();

  await page.getByRole("button", { name: "Delete bob" }).click();
  await page.getByRole("button", { name: "Keep it" }).click();
  assert.equal(await row("bob").count(), 1);
  // The list is renewed while a button of it has the focus, and that button keeps it.
  await server.push("bob", "three");
  await row("bob").locator("td").nth(0).getByText("3").waitFor();
  const held = await page.evaluate(() => document.activeElement?.getAttribute("aria-label"));
  assert.equal(held, "Delete bob");
  await page.getByRole("button", { name: "Delete bob" }).click();
  assert.match(await page.getByRole("dialog").innerText(), /All messages of bob are deleted/);
  await page.getByRole("button", { name: "Delete it" }).click();
  await page.getByText("No mailbox holds a message.").waitFor();
  assert.equal((await server.describe("bob")).newest, null);
});

test("a reader that the server refuses is told why", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#inspector`, { expected: /400/ });
  await stopFollowing(page);
  await page.getByLabel("Follow", { exact: true }).fill("a/*/b");
  await page.getByRole("button", { name: "Follow" }).click();
  await page.locator("#inspector-state[data-state=failed]").getByText("recipient").waitFor();
  await page.getByRole("button", { name: "Follow" }).waitFor();
});

test("the server's figures are drawn, and follow what happens", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#inspector`);
  await followInInspector(page, "bob", { transport: "auto" });
  await page.getByRole("tab", { name: "Server" }).click();
  const value = (plot, label) => page.locator(`#plot-${plot} .legend li`, { hasText: label }).locator("b");
  await value("waiting", "streams").getByText("1", { exact: true }).waitFor();
  for (let round = 0; round < 20; round++) await server.push("bob", "tick");
  await page.waitForFunction(() => document.querySelector("#plot-latency b")?.textContent?.endsWith("s"));
  await page.waitForFunction(() => document.getElementById("kept")?.textContent === "20");
  await page.waitForFunction(() =>
    document.querySelector("#plot-rates .sheet .line.ink-1")?.getAttribute("d")?.includes("L"),
  );
  assert.equal(await page.locator("#mailboxes").textContent(), "1");
  assert.match(await page.locator("#mailboxes-of").textContent(), /^of 100,000/);
  const { version } = await (await fetch(`${server.url}healthz`)).json();
  assert.equal(await page.locator("#version").textContent(), version);
  assert.match(await page.locator("#uptime").textContent(), /^\d+ s$/);
  assert.equal(await page.locator("#store").textContent(), "ok");
  assert.match(await page.locator("#resident").textContent(), /^[\d.]+ MiB$/);
  await page.locator("#cpu").getByText(/^[\d.]+ % of a core$/).waitFor();
  assert.deepEqual(await page.locator("#plot-waiting .levels span").allTextContents(), ["4", "2", "0"]);
  assert.deepEqual(await page.locator("#plot-waiting .times span").allTextContents(), [
    "60 s ago",
    "30 s ago",
    "now",
  ]);
});

test("lines that coincide are told apart by their dashes", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#server`);
  await page.waitForFunction(() =>
    document.querySelector("#plot-waiting .sheet .line.ink-3")?.getAttribute("d")?.includes("L"),
  );
  const lines = page.locator("#plot-waiting .sheet .line");
  const [paths, dashes] = await lines.evaluateAll((all) => [
    all.map((line) => line.getAttribute("d")),
    all.map((line) => getComputedStyle(line).strokeDasharray),
  ]);
  assert.equal(new Set(paths).size, 1);
  assert.equal(new Set(dashes).size, 3);
  const swatches = page.locator("#plot-waiting .swatch path");
  assert.deepEqual(
    await swatches.evaluateAll((all) => all.map((line) => getComputedStyle(line).strokeDasharray)),
    dashes,
  );
});

test("where the server is away its figures are not known, and not 0", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#server`, { expected: NOBODY_THERE });
  await page.locator("#plot-waiting").getByText("No reader waits").waitFor();
  await server.kill();
  await page.locator("#server-notice").getByText("The server does not answer").waitFor();
  await page.locator("#plot-waiting").getByText("Not known").waitFor();
  const figures = await page.locator("#server [data-figure], #server .plot b").allTextContents();
  assert.deepEqual(new Set(figures), new Set(["–"]));
  await server.start();
  await page.locator("#plot-waiting").getByText("No reader waits").waitFor();
  await page.locator("#uptime").getByText(/^\d+ s$/).waitFor();
});

test("where the figures are turned off, the console says so and the rest works", async (t) => {
  const server = await Server.start(t, "--no-metrics");
  const page = await open(t, `${server.url}#server`, { expected: /404/ });
  await page.locator("#server-notice").getByText("The server does not show its figures").waitFor();
  await page.getByRole("tab", { name: "Chat" }).click();
  await join(page, "lobby", "Ada");
  await say(page, "still here");
  await heard(page, "still here");
});

test("a token is asked for where one is needed, and then everything goes on", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, server.url, { expected: /401/ });
  const problem = { type: "urn:cometd-lite:problem:unauthorized", status: 401, detail: "A token is needed." };
  // What a server with a key does, seen from the page.
  await page.route(/\/(push|poll|stream)\b/, (route) =>
    route.request().headers().authorization === "Bearer good"
      ? route.continue()
      : route.fulfill({
          status: 401,
          contentType: "application/problem+json",
          body: JSON.stringify(problem),
        }),
  );
  await page.getByLabel("Your name").fill("Ada");
  await page.getByRole("button", { name: "Join" }).click();
  const field = page.getByLabel("JSON Web Token");
  await field.fill("good");
  assert.equal(await focused(page), "token-value");
  await page.keyboard.press("Enter");
  await page.locator("#chat-state[data-state=streaming]").waitFor();
  await say(page, "let in");
  await heard(page, "let in");
  await field.waitFor({ state: "hidden" });

  await page.reload();
  await join(page, "lobby", "Ada");
  await heard(page, "let in");
});

test("the tabs are one stop for Tab, with arrows, Home and End between them", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, server.url);
  await page.locator("#chat:not([hidden])").waitFor();
  await tabTo(page, "tab-chat");
  const steps = [
    ["ArrowRight", "inspector"],
    ["ArrowRight", "server"],
    ["ArrowRight", "chat"],
    ["ArrowLeft", "server"],
    ["Home", "chat"],
    ["End", "server"],
    ["ArrowLeft", "inspector"],
  ];
  for (const [key, part] of steps) {
    await page.keyboard.press(key);
    assert.equal(await focused(page), `tab-${part}`);
    assert.ok(await page.locator(`#${part}`).isVisible());
    assert.equal(await page.locator('[role="tabpanel"]:visible').count(), 1);
    assert.equal(await page.locator('[aria-selected="true"]').getAttribute("aria-controls"), part);
    assert.ok(page.url().endsWith(`#${part}`));
  }
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "theme");
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "recipients");
});

test("all three parts work with nothing but a keyboard", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, server.url);
  const { keyboard } = page;
  await page.locator("#chat:not([hidden])").waitFor();

  await tabTo(page, "room");
  await keyboard.press("Tab");
  await keyboard.type("Ada");
  await keyboard.press("Enter");
  await page.locator("#chat-state[data-state=streaming]").waitFor();
  assert.equal(await focused(page), "text");
  await keyboard.type("typed");
  await keyboard.press("Enter");
  await heard(page, "typed");

  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Shift+Tab");
  assert.equal(await focused(page), "leave");
  await tabTo(page, "text");
  for (let presses = 0; presses < 10 && (await focused(page)) !== "tab-chat"; presses++)
    await keyboard.press("Shift+Tab");
  await keyboard.press("ArrowRight");
  await page.locator("#inspector-state[data-state=polling]").waitFor();
  await tabTo(page, "follow-button");
  await keyboard.press("Enter");
  await page.locator("#inspector-state[data-state=closed]").waitFor();
  for (let presses = 0; presses < 5 && (await focused(page)) !== "recipients"; presses++)
    await keyboard.press("Shift+Tab");
  await keyboard.press("Control+A");
  await keyboard.type("bob");
  await keyboard.press("Enter");
  await page.locator("#inspector-state[data-state=polling]").waitFor();
  await tabTo(page, "push-body");
  await keyboard.press("Control+A");
  await keyboard.type("by hand");
  await keyboard.press("Control+Enter");
  await page.locator("#receipt").getByText("it woke one reader").waitFor();
  await page.locator("#messages .glimpse").getByText("by hand").waitFor();
  await page.locator("#clear").focus();
  await keyboard.press("Tab");
  const label = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label"));
  assert.equal(await label(), "Messages, newest first");
  await keyboard.press("Tab");
  await keyboard.press("Enter");
  await page.locator("#messages pre").getByText("by hand").waitFor();

  await page.locator("#tab-inspector").focus();
  await keyboard.press("ArrowRight");
  await page.waitForFunction(() =>
    (document.querySelector("#plot-memory .sheet .line")?.getAttribute("d") ?? "").includes("L"),
  );
  await keyboard.press("Tab");
  await keyboard.press("Tab");
  await keyboard.press("ArrowLeft");
  assert.match(
    await label(),
    /^Readers that wait, \d+ seconds ago: polls \d+, streams \d+, sockets \d+$/,
  );
});

for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
  test(`axe finds nothing to object to in any part (${colorScheme})`, async (t) => {
    const server = await Server.start(t);
    const page = await open(t, server.url, { colorScheme });
    assert.deepEqual(await barriers(page), []);
    await join(page, "lobby", "Ada");
    await say(page, "hello");
    await server.push("chat/lobby", "from a program");
    await heard(page, "from a program");
    assert.deepEqual(await barriers(page), []);
    await page.getByRole("tab", { name: "Inspector" }).click();
    await page.locator("#mailbox-rows tr").first().waitFor();
    assert.deepEqual(await barriers(page), []);
    await page.getByRole("button", { name: "Delete chat/lobby" }).click();
    assert.deepEqual(await barriers(page), []);
    await page.getByRole("button", { name: "Keep it" }).click();
    await followInInspector(page, "**", { after: "oldest" });
    await page.getByRole("button", { name: "Push", exact: true }).click();
    await page.locator("#receipt:visible").waitFor();
    await page.locator("#messages .glimpse button").first().click();
    await page.locator("#messages pre").waitFor();
    assert.deepEqual(await barriers(page), []);
    await page.getByRole("tab", { name: "Server" }).click();
    await page.waitForFunction(() => document.getElementById("kept")?.textContent !== "–");
    assert.deepEqual(await barriers(page), []);
  });
}

test("on a phone nothing is wider than the screen", async (t) => {
  const server = await Server.start(t);
  const phone = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
  const page = await open(t, server.url, phone);
  const overhang = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.equal(await overhang(), 0);
  await join(page, "lobby", "Ada".repeat(10));
  await say(page, "x".repeat(300));
  await page.locator("#talk .words").waitFor();
  assert.equal(await overhang(), 0);
  await followInInspector(page, "**", { after: "oldest" });
  await server.push("a-long-name/".repeat(10) + "x", "y".repeat(500), { query: "?event=a-long-event-name" });
  await page.locator("#messages .glimpse button").first().click();
  await page.locator("#messages pre").waitFor();
  await page.getByRole("button", { name: "List" }).click();
  await page.locator("#mailbox-rows tr").first().waitFor();
  assert.equal(await overhang(), 0);
  await page.getByRole("tab", { name: "Server" }).click();
  await page.waitForFunction(() => document.getElementById("kept")?.textContent !== "–");
  assert.equal(await overhang(), 0);
});

test("on a phone a long reason of a failure is not wider than the screen either", async (t) => {
  const server = await Server.start(t);
  const phone = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
  const page = await open(t, server.url, { ...phone, expected: /403/ });
  const detail = "This token does not cover the recipient that was asked for, nor any like it.";
  await page.route(/\/stream\b/, (route) =>
    route.fulfill({
      status: 403,
      contentType: "application/problem+json",
      body: JSON.stringify({ type: "urn:cometd-lite:problem:not-allowed", status: 403, detail }),
    }),
  );
  await page.getByLabel("Your name").fill("Ada");
  await page.getByRole("button", { name: "Join" }).click();
  await page.locator("#chat-state").getByText(detail).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0);
  const card = await page.locator("#room-card").boundingBox();
  const state = await page.locator("#chat-state").boundingBox();
  assert.ok(state.x + state.width <= card.x + card.width);
});

test("colours are the system's, or those that were chosen, also after a reload", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, server.url, { colorScheme: "dark" });
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await background();
  await page.getByRole("button", { name: "Auto colours" }).click();
  const light = await background();
  assert.notEqual(dark, light);
  await page.reload();
  await page.getByRole("button", { name: "Light colours" }).click();
  assert.equal(await background(), dark);
});
