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

async function followInInspector(page, recipients, { after = "now", transport = "auto" } = {}) {
  await page.getByRole("tab", { name: "Inspector" }).click();
  await page.getByLabel("Follow", { exact: true }).fill(recipients);
  await page.getByLabel("From", { exact: true }).fill(after);
  await page.getByLabel("By", { exact: true }).selectOption(transport);
  await page.getByRole("button", { name: "Follow" }).click();
  await page
    .locator("#inspector-state[data-state=streaming], #inspector-state[data-state=polling]")
    .waitFor();
}

test("two pages chat with each other, and see who is there", async (t) => {
  const server = await Server.start(t);
  const ada = await open(t, server.url);
  const grace = await open(t, server.url);
  await join(ada, "lobby", "Ada");
  await say(ada, "Anyone here?");
  await join(grace, "lobby", "Grace");
  await heard(grace, "Anyone here?");
  await say(grace, "I am!");
  await heard(ada, "I am!");
  await ada.locator("#people").getByText("Grace").waitFor();
  await grace.locator("#people").getByText("Ada").waitFor();
  assert.deepEqual(await talk(ada), ["Anyone here?", "I am!"]);
  assert.deepEqual(await talk(grace), ["Anyone here?", "I am!"]);

  await grace.getByRole("button", { name: "Leave" }).click();
  await ada.locator("#people").getByText("Grace").waitFor({ state: "detached" });
  await grace.getByLabel("Room", { exact: true }).waitFor();
});

test("who closes the page has left the room", async (t) => {
  const server = await Server.start(t);
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
  const forged = { name: attack, id: attack, text: attack };
  await server.push("chat/lobby", JSON.stringify(forged), { query: "?event=say", type: "application/json" });
  await page.locator("#talk .who").getByText(attack).waitFor();
  await server.push("chat/lobby", JSON.stringify({ name: 7, text: [] }), {
    query: "?event=here",
    type: "application/json",
  });
  await heard(page, '{"name":7,"text":[]}');
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
  const rows = await page.locator("#messages > li").allTextContents();
  assert.deepEqual(
    rows.map((row) => /after$|before$|gap/i.exec(row.replace(/text\/plain.*/, ""))?.[0].toLowerCase()),
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
  const page = await open(t, `${server.url}#inspector`);
  await server.push("bob", "kept from before");
  await followInInspector(page, "bob, orders/**", { after: "oldest" });
  await page.locator("#messages .glimpse").getByText("kept from before").waitFor();
  const body = JSON.stringify({ total: 12.5 });
  const { id } = await server.push("orders/eu/4711", body, {
    query: "?event=paid",
    type: "application/json",
  });
  await server.push("elsewhere", "not for us");
  const row = page.locator("#messages > li", { hasText: "orders/eu/4711" });
  await row.locator("summary").click();
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

test("the inspector pushes, and shows the receipt or the refusal", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#inspector`, { expected: /503|400/ });
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

  await followInInspector(page, "team/*");
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
  await page.locator("#inspector-state[data-state=streaming]").waitFor();
  await page.getByRole("button", { name: "List" }).click();
  await row("bob").locator("td").nth(2).getByText("1").waitFor();

  await page.getByRole("button", { name: "Delete bob" }).click();
  await page.getByRole("button", { name: "Keep it" }).click();
  assert.equal(await row("bob").count(), 1);
  await page.getByRole("button", { name: "Delete bob" }).click();
  assert.match(await page.getByRole("dialog").innerText(), /All messages of bob are lost/);
  await page.getByRole("button", { name: "Delete it" }).click();
  await page.getByText("No mailbox holds a message.").waitFor();
  assert.equal((await server.describe("bob")).newest, null);
});

test("a reader whom the server refuses is told why", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#inspector`, { expected: /400/ });
  await page.getByLabel("Follow", { exact: true }).fill("a/*/b");
  await page.getByRole("button", { name: "Follow" }).click();
  await page.locator("#inspector-state[data-state=failed]").getByText("recipient").waitFor();
  await page.getByRole("button", { name: "Follow" }).waitFor();
});

test("the server's numbers are drawn, and follow what happens", async (t) => {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#inspector`);
  await followInInspector(page, "bob");
  await page.getByRole("tab", { name: "Server" }).click();
  const value = (plot, label) => page.locator(`#plot-${plot} .legend li`, { hasText: label }).locator("b");
  await value("waiting", "streams").getByText("1", { exact: true }).waitFor();
  for (let round = 0; round < 20; round++) await server.push("bob", "tick");
  await page.waitForFunction(() => document.querySelector("#plot-latency b")?.textContent?.endsWith("s"));
  await page.waitForFunction(() => document.getElementById("kept")?.textContent === "20");
  await page.waitForFunction(() =>
    document.querySelector("#plot-rates .line.ink-1")?.getAttribute("d")?.includes("L"),
  );
  assert.equal(await page.locator("#mailboxes").textContent(), "1");
  assert.match(await page.locator("#mailboxes-of").textContent(), /^of 100,000/);
});

test("where the numbers are turned off, the console says so and the rest works", async (t) => {
  const server = await Server.start(t, "--no-metrics");
  const page = await open(t, `${server.url}#server`, { expected: /404/ });
  await page.locator("#server-notice").getByText("The server keeps its numbers to itself").waitFor();
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
  await keyboard.press("Tab");
  await keyboard.press("Control+A");
  await keyboard.type("bob");
  await keyboard.press("Enter");
  await page.locator("#inspector-state[data-state=streaming]").waitFor();
  await tabTo(page, "push-body");
  await keyboard.press("Control+A");
  await keyboard.type("by hand");
  await keyboard.press("Control+Enter");
  await page.locator("#receipt").getByText("it woke one reader").waitFor();
  await page.locator("#messages .glimpse").getByText("by hand").waitFor();
  await page.locator("#clear").focus();
  await keyboard.press("Tab");
  await keyboard.press("Enter");
  await page.locator("#messages pre").getByText("by hand").waitFor();

  await page.locator("#tab-inspector").focus();
  await keyboard.press("ArrowRight");
  await page.waitForFunction(() =>
    (document.querySelector("#plot-memory .line")?.getAttribute("d") ?? "").includes("L"),
  );
  await keyboard.press("Tab");
  await keyboard.press("ArrowLeft");
  const label = await page.locator("#plot-waiting svg").getAttribute("aria-label");
  assert.match(label, /^Readers that wait, \d+ seconds ago: polls \d+, streams \d+, sockets \d+$/);
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
    await page.locator("#messages summary").first().click();
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
  await page.locator("#messages summary").first().click();
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
