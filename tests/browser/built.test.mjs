/** What is made of the browser client: the files are those of their sources, small, typed, and can be packed. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

import { build, PAGES } from "./build.mjs";
import { Server } from "./support/server.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));

test("what is made of the client is up to date: else run `node tests/browser/build.mjs`", async () => {
  for (const [name, text] of Object.entries(await build())) {
    assert.ok(readFileSync(join(PAGES, name), "utf8") === text, `${name} is not made of its source.`);
  }
});

test("the client is served small: 10 KB at most, compressed", async (t) => {
  const server = await Server.start(t);
  let size = 0;
  for (const name of ["client.js", "tabs.js"]) {
    const headers = { "Accept-Encoding": "gzip" };
    const response = await fetch(server.url + name, { headers });
    assert.equal(response.headers.get("Content-Encoding"), "gzip");
    size += Number(response.headers.get("Content-Length"));
  }
  assert.ok(size > 0 && size <= 10_000, `${size} bytes`);
});

const PROGRAM = `
import { Comet, CometError, Following, Presence } from "cometd-lite-client";
import type {
  Answer, CometOptions, FollowOptions, Member, Message, PresenceChange, PresenceOptions, PushOptions, Receipt,
  Standing, State, StateDetail,
} from "cometd-lite-client";

const options: CometOptions = {
  token: async (renew) => (renew ? "new" : undefined), fetch, storage: null, credentials: "include",
  transport: "auto", patience: 4, share: false,
};
const comet = new Comet(new URL("https://push.example.org/"), options);
const url: string = comet.url;
const following: Following = comet.follow(["lobby", "chat/*"], (message: Message) => {
  const { id, recipient, created_at, type, event, data }: Message = message;
  console.log(id, recipient, created_at, type, event ?? "", data);
}, {
  after: "last:50", ack: false, as: "ann", signal: new AbortController().signal, background: false,
  storageKey: null, onGap: ({ after, recipients }) => console.log(after, recipients.length),
  onState: (state: State, detail: StateDetail) => console.log(state, detail.delay, detail.error?.message),
} satisfies FollowOptions);
const ended: CometError | undefined = await following.closed;
console.log(url, following.state, following.cursor, following.error, ended?.status, ended?.kind, ended?.retryAfter);
following.stop();
const receipt: Receipt = await comet.push("bob", { text: "hi" }, {
  type: "application/json", event: "e", ttl: 60, queue: true, overflow: "drop-oldest", idempotencyKey: "k",
  keepalive: true,
} satisfies PushOptions);
console.log(receipt.id, receipt.ids, receipt.created_at, receipt.delivered, receipt.recipients);
const answer: Answer = await comet.poll("bob", { after: receipt.id, wait: 0, limit: 10, ack: true, as: "ann" });
console.log(answer.messages.length, answer.cursor, answer.gap, answer.more);
const standing: Standing = await comet.describe("bob");
const { recipients, more } = await comet.recipients("chat/", { after: null, limit: 10 });
console.log(standing.waiting, standing.queued, standing.online, recipients.length, more);
const present: Presence = comet.presence("lobby", (presence: Presence, change?: PresenceChange) => {
  const members: Member[] = presence.members;
  console.log(members.map(({ name, readers }) => name + readers), change);
}, {} satisfies PresenceOptions);
present.stop();
await comet.leave("lobby", { as: "ann", keepalive: true });
// @ts-expect-error a transport is one of three
new Comet("/", { transport: "carrier pigeon" });
`;

test("a program in TypeScript uses every public name of the packed client", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "packed-"));
  t.after(() => rmSync(directory, { recursive: true }));
  execFileSync("npm", ["pack", "--silent", "--pack-destination", directory], { cwd: PAGES });
  const version = JSON.parse(readFileSync(join(PAGES, "package.json"), "utf8")).version;
  const packed = join(directory, "node_modules/cometd-lite-client");
  mkdirSync(packed, { recursive: true });
  const archive = join(directory, `cometd-lite-client-${version}.tgz`);
  execFileSync("tar", ["-xzf", archive, "-C", packed, "--strip-components", "1"]);
  writeFileSync(join(directory, "program.mts"), PROGRAM);
  const strict = ["--ignoreConfig", "--strict", "--noEmit", "--target", "es2023", "--module", "nodenext", "--types", ""];
  const tsc = join(HERE, "node_modules/.bin/tsc");
  execFileSync(tsc, [...strict, "--lib", "es2023,dom", "program.mts"], { cwd: directory, stdio: "inherit" });
  const used = "import('cometd-lite-client').then(({ Comet }) => console.log(new Comet('http://x/').url))";
  const node = [`--input-type=module`, "-e", used];
  assert.equal(execFileSync(process.execPath, node, { cwd: directory, encoding: "utf8" }), "http://x/\n");
});
