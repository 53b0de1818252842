/**
 * `node screens.mjs DIRECTORY`: write a picture of every part of the console, to be looked at after a change.
 *
 * Each part is shown in three widths and both colour schemes: without data, with data, and with the server
 * away. A file is named by what it shows: `room-data-390-dark.png`.
 */

import { mkdirSync } from "node:fs";
import { test } from "node:test";

import { NOBODY_THERE, heard, join, open, say } from "./support/browser.mjs";
import { Server } from "./support/server.mjs";

const directory = process.argv[2];
const SIZES = [
  { width: 1280, height: 800 },
  { width: 768, height: 1024 },
  { width: 390, height: 844 },
];
const SAID = [
  { from: "Grace", text: "Is the new build on staging?" },
  { from: "Grace", text: "I would like to try the notification bell before noon." },
  { from: "Linus", text: "It went out ten minutes ago." },
  { from: "Ada", text: "Works for me. The bell rang at once." },
];

/** @param {Server} server */
async function fill(server) {
  for (const said of SAID) {
    await server.push("chat/lobby", JSON.stringify(said), { type: "application/json" });
  }
  await server.push("chat/lobby", "build 4711 is green");
  await server.push("devices/kitchen", '{"celsius": 21.4}', { type: "application/json" });
}

/** @param {Server} server */
async function traffic(server) {
  for (let round = 1; round <= 4; round++) {
    await server.push("bob", `note ${round}`);
    await server.push("jobs/4711", `{"done": ${round / 4}}`, { query: "?event=progress", type: "application/json" });
    await new Promise((resolve) => setTimeout(resolve, 700));
  }
}

mkdirSync(directory, { recursive: true });
for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
  for (const viewport of SIZES) {
    test(`${viewport.width} ${colorScheme}`, async (t) => {
      const server = await Server.start(t, "--presence");
      const look = { viewport, colorScheme, locale: "en-GB", timezoneId: "UTC", expected: NOBODY_THERE };
      const shot = async (page, name, fullPage = true) => {
        const path = `${directory}/${name}-${viewport.width}-${colorScheme}.png`;
        await page.screenshot({ path, fullPage });
      };
      const idle = await open(t, `${server.url}#server`, look);
      await idle.locator("#server-empty").waitFor();
      await shot(idle, "server-idle");
      await idle.goto("about:blank");
      const parts = {
        room: await open(t, server.url, look),
        inspector: await open(t, `${server.url}#inspector`, look),
        server: await open(t, `${server.url}#server`, look),
      };
      const all = async (state) => {
        for (const [name, page] of Object.entries(parts)) await shot(page, `${name}-${state}`, name !== "room");
      };
      const { room, inspector } = parts;
      await shot(room, "entrance");
      await room.getByRole("button", { name: "Join" }).click();
      await shot(room, "entrance-refused");
      await join(room, "lobby", "Ada");
      await room.waitForTimeout(1500);
      await all("empty");

      await fill(server);
      for (const name of ["Grace", "Linus"]) {
        const reader = new AbortController();
        fetch(`${server.url}stream/chat/lobby?after=now&as=${name}`, { signal: reader.signal }).catch(() => {});
        t.after(() => reader.abort());
      }
      await say(room, "I see it, too.");
      await heard(room, "I see it, too.");
      await traffic(server);
      await all("data");

      await inspector.locator("#messages .glimpse button").nth(1).click();
      await inspector.getByRole("button", { name: "Push", exact: true }).click();
      await inspector.locator("#receipt:visible").waitFor();
      await shot(inspector, "opened");
      await inspector.getByLabel("Type").selectOption("application/json");
      await inspector.getByLabel("Body").fill("{");
      await inspector.getByRole("button", { name: "Push", exact: true }).click();
      await inspector.getByRole("button", { name: "List" }).click();
      await inspector.getByRole("button", { name: "Delete bob" }).click();
      await shot(inspector, "dialog", false);
      await inspector.getByRole("button", { name: "Keep it" }).click();
      await shot(inspector, "refused");

      await server.kill();
      await room.waitForTimeout(3000);
      await all("away");
      await say(room, "Is anybody there?");
      await room.locator("#say-error").getByText("Not sent").waitFor();
      await shot(room, "unsent", false);
      await server.start();
      await room.waitForTimeout(5000);
      await all("back");
    });
  }
}

for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
  for (const viewport of SIZES) {
    test(`the token, ${viewport.width} ${colorScheme}`, async (t) => {
      const server = await Server.start(t);
      const page = await open(t, server.url, { viewport, colorScheme, expected: /401/ });
      const problem = { type: "urn:cometd-lite:problem:unauthorized", status: 401, detail: "A token is needed." };
      await page.route(/\/(push|poll|stream|recipients)\b/, (route) =>
        route.fulfill({ status: 401, contentType: "application/problem+json", body: JSON.stringify(problem) }),
      );
      await page.getByLabel("Your name").fill("Ada");
      await page.getByRole("button", { name: "Join" }).click();
      await page.getByLabel("JSON Web Token").waitFor();
      const path = (name) => `${directory}/${name}-${viewport.width}-${colorScheme}.png`;
      await page.screenshot({ path: path("token-room") });
      await page.getByRole("tab", { name: "Inspector" }).click();
      await page.waitForTimeout(800);
      await page.screenshot({ path: path("token-inspector"), fullPage: true });
    });
  }
}
