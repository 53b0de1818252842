// CometD's own JavaScript client, as its manual uses it on Node: cometd_client.mjs URL TRANSPORT [EXTENSION…]

import { adapt } from "cometd-nodejs-client";

import { obey, say } from "./lines.mjs";

const [url, transport, ...extensions] = process.argv.slice(2);

adapt();
const stored = new Map();
global.window.sessionStorage = {
  getItem: (name) => stored.get(name) ?? null,
  setItem: (name, value) => stored.set(name, value),
  removeItem: (name) => stored.delete(name),
};
// A page's own log would be taken for what the client says.
for (const level of ["log", "info", "warn", "debug"]) global.window.console[level] = () => {};
if (transport === "callback-polling") withScripts();

const { CometD } = await import("cometd");
const { BinaryExtension } = await import("cometd/BinaryExtension.js");
const { AckExtension } = await import("cometd/AckExtension.js");
const { ReloadExtension } = await import("cometd/ReloadExtension.js");
const { TimeStampExtension } = await import("cometd/TimeStampExtension.js");
const { TimeSyncExtension } = await import("cometd/TimeSyncExtension.js");
const KNOWN = {
  ack: AckExtension,
  binary: BinaryExtension,
  reload: ReloadExtension,
  timestamp: TimeStampExtension,
  timesync: TimeSyncExtension,
};

const subscriptions = new Map();
let cometd = make();

function make() {
  const client = new CometD();
  for (const other of ["websocket", "long-polling", "callback-polling"]) {
    if (other !== transport) client.unregisterTransport(other);
  }
  for (const name of extensions) client.registerExtension(name, new KNOWN[name]());
  client.configure({ url, backoffIncrement: 50, maxBackoff: 200, maxNetworkDelay: 5_000, logLevel: "warn" });
  client.addListener("/meta/handshake", (reply) => {
    say({ note: reply.successful ? "shook hands" : "no handshake" });
    if (reply.successful) subscribeAll(client);
  });
  client.addListener("/meta/connect", (reply) => {
    if (!reply.successful) say({ note: "no connect" });
    if (reply.ext?.gap) say({ note: "gap" });
  });
  return client;
}

/** Subscribe, after a handshake, to what was subscribed to before, as CometD's manual says. */
function subscribeAll(client) {
  client.batch(() => {
    for (const channel of subscriptions.keys()) {
      subscriptions.set(channel, client.subscribe(channel, heard));
    }
  });
}

function heard(message) {
  if (message.ext?.binary) message.data.data = [...new Uint8Array(message.data.data)];
  say({ event: { channel: message.channel, data: message.data } });
}

/** Give callback-polling a document whose scripts are fetched and run. */
function withScripts() {
  const head = {
    removeChild: () => {},
    async appendChild(script) {
      try {
        const response = await fetch(script.src);
        if (!response.ok) throw new Error(String(response.status));
        if (!response.headers.get("content-type").startsWith("text/javascript")) throw new Error("no script");
        const text = await response.text();
        new Function(...Object.keys(window).filter((name) => name.startsWith("_cometd")), text)(
          ...Object.entries(window).filter(([name]) => name.startsWith("_cometd")).map(([, call]) => call),
        );
      } catch (error) {
        script.onerror({ type: String(error) });
      }
    },
  };
  window.document = { getElementsByTagName: () => [head], createElement: () => ({}) };
}

/** Call a method that takes a callback, and wait for a successful reply. */
function replied(call) {
  return new Promise((resolve, reject) => {
    call((reply) => (reply.successful ? resolve(reply) : reject(new Error(reply.error ?? "failed"))));
  });
}

await obey({
  open: () =>
    new Promise((resolve, reject) => {
      const listener = cometd.addListener("/meta/connect", (reply) => {
        cometd.removeListener(listener);
        if (reply.successful) resolve(cometd.getTransport().type);
        else reject(new Error(reply.error));
      });
      cometd.handshake((reply) => {
        if (!reply.successful) reject(new Error(reply.error));
      });
    }),
  subscribe: (channel) =>
    replied((callback) => subscriptions.set(channel, cometd.subscribe(channel, heard, callback))),
  unsubscribe(channel) {
    const subscription = subscriptions.get(channel);
    subscriptions.delete(channel);
    return replied((callback) => cometd.unsubscribe(subscription, {}, callback));
  },
  publish: (channel, data) => replied((callback) => cometd.publish(channel, data, callback)),
  async batch(publications) {
    let replies = [];
    cometd.batch(() => {
      replies = publications.map(([channel, data]) =>
        replied((callback) => cometd.publish(channel, data, callback)),
      );
    });
    return (await Promise.all(replies)).length;
  },
  publishBinary: (channel, octets) =>
    replied((callback) =>
      cometd.publishBinary(channel, new Uint8Array(octets), true, { name: "some" }, {}, callback),
    ),
  call: (target, data) =>
    new Promise((resolve, reject) => {
      cometd.remoteCall(target, data, 5_000, (reply) =>
        reply.successful === false ? reject(new Error(reply.error)) : resolve(reply.data),
      );
    }),
  /** Go to another page: the next client takes the session over from the reload extension. */
  reload: () =>
    new Promise((resolve) => {
      const id = cometd.getClientId();
      cometd.reload();
      cometd = make();
      const listener = cometd.addListener("/meta/connect", () => {
        cometd.removeListener(listener);
        resolve(cometd.getClientId() === id);
      });
      cometd.handshake();
    }),
  close: () => replied((callback) => cometd.disconnect(callback)),
});
