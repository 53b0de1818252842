/**
 * `node picture.mjs`: write the picture of the console that README.md and docs/ show.
 *
 * The picture is of the real page on the real server, a few seconds after its inspector was opened.
 */

import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { open } from "./support/browser.mjs";
import { Server } from "./support/server.mjs";

export const PICTURE = fileURLToPath(new URL("../../docs/console.png", import.meta.url));
export const SIZE = { width: 1200, height: 760 };

/** What is pushed: after how many milliseconds, to whom, what, and by which parameters. */
const PUSHED = [
  [1500, "jobs/4711", '{"done": 0.8}', "?event=progress"],
  [2600, "chat/lobby", '{"from": "Grace", "text": "Is the new build on staging?"}', ""],
  [900, "bob", '{"order": 1042, "total": 12.5}', "?event=paid"],
  [3100, "devices/kitchen", '{"celsius": 21.4}', ""],
  [1700, "jobs/4711", '{"done": 1}', "?event=progress"],
  [2200, "chat/lobby", '{"from": "Ada", "text": "It went out ten minutes ago."}', ""],
];

/**
 * Make the picture.
 *
 * @param {import("node:test").TestContext} t
 * @returns {Promise<Buffer>} a PNG
 */
export async function picture(t) {
  const server = await Server.start(t);
  const page = await open(t, `${server.url}#inspector`, {
    viewport: SIZE,
    colorScheme: "light",
    locale: "en-GB",
    timezoneId: "UTC",
  });
  await page.locator("#inspector-state[data-state=polling]").waitFor();
  for (const [pause, recipient, body, query] of PUSHED) {
    await page.waitForTimeout(pause);
    await server.push(recipient, body, { query, type: "application/json" });
  }
  await page.getByText("It went out ten minutes ago.").first().waitFor();
  await page.locator("#held-rows li", { hasText: "woken in" }).first().waitFor();
  await page.locator("#mailbox-rows tr").first().waitFor();
  await page.waitForTimeout(1300);
  await page.evaluate((base) => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      text.nodeValue = text.nodeValue.replaceAll(new URL(base).host, "localhost:8080");
    }
  }, server.url);
  return page.screenshot();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  test("the picture is written", async (t) => writeFileSync(PICTURE, await picture(t)));
}
