/**
 * Chromium, and pages that remember what went wrong in them.
 *
 * A page fails its test where it logs an error, throws, or breaks its own policy, unless the test says
 * that this error belongs to it: a browser logs each request to a server that was killed.
 */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after } from "node:test";

import { chromium } from "playwright-core";

import { atEnd } from "./cleanup.mjs";

const CHROMIUM = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser"].find(
  (path) => path && existsSync(path),
);

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // A name that is not loopback, so that a page is no secure context.
  "--host-resolver-rules=MAP push.test 127.0.0.1",
];

/** @type {Promise<import("playwright-core").Browser> | undefined} */
let browser;

after(async () => (await browser)?.close());

/**
 * A page in a profile of its own, already at `url`.
 *
 * @param {import("node:test").TestContext} t
 * @param {string} url
 * @param {{expected?: RegExp} & import("playwright-core").BrowserContextOptions} [options] the errors that belong to the test
 */
export async function open(t, url, { expected, ...options } = {}) {
  assert.ok(CHROMIUM, "Chromium is needed: apt-get install chromium, or CHROMIUM=/path/to/it");
  browser ??= chromium.launch({
    executablePath: CHROMIUM,
    args: FLAGS,
    // Playwright turns it off, for those who do not want to test it.
    ignoreDefaultArgs: ["--disable-back-forward-cache"],
  });
  const context = await (await browser).newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(20_000);
  const errors = [];
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) =>
      console.error(`policy violation: ${event.violatedDirective} ${event.blockedURI}`),
    );
  });
  context.on("console", (entry) => {
    if (entry.type() === "error" || entry.type() === "warning") errors.push(entry.text());
  });
  context.on("weberror", (error) => errors.push(String(error.error())));
  atEnd(t, async () => {
    await context.close();
    assert.deepEqual(
      errors.filter((error) => !expected?.test(error)),
      [],
      "The page logged errors.",
    );
  });
  const page = await context.newPage();
  await page.goto(url);
  return page;
}

/** What a browser logs of requests to a server that is not there. */
export const NOBODY_THERE =
  /net::ERR_(CONNECTION_|INCOMPLETE_CHUNKED|EMPTY_RESPONSE|NETWORK_CHANGED|SOCKET_NOT_CONNECTED|INTERNET_DISCONNECTED)/;

/** Join a room of the chat. */
export async function join(page, room, name) {
  await page.getByLabel("Room", { exact: true }).fill(room);
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Join" }).click();
  await page.locator("#chat-state[data-state=streaming], #chat-state[data-state=polling]").waitFor();
}

/** Say something in the room. */
export async function say(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
}

/** Wait until the conversation holds these words. */
export async function heard(page, text) {
  await page.locator("#talk .words").getByText(text, { exact: true }).waitFor();
}

/** Everything that was said, in order. */
export function talk(page) {
  return page.locator("#talk .words").allTextContents();
}
