// Faye's own client, as its manual uses it on Node: faye_client.mjs URL TRANSPORT

import faye from "faye";

import { obey, say } from "./lines.mjs";

const [url, transport] = process.argv.slice(2);

const client = new faye.Client(url, { timeout: 5, retry: 0.2 });
// It shakes hands over long-polling whatever follows, and then takes the best that is left.
if (transport === "long-polling") client.disable("websocket");
client.addExtension({
  incoming(message, callback) {
    if (message.channel === "/meta/handshake") say({ note: message.successful ? "shook hands" : "no handshake" });
    if (message.channel === "/meta/connect" && !message.successful) say({ note: "no connect" });
    callback(message);
  },
});
const subscriptions = new Map();

await obey({
  open: () =>
    new Promise((resolve) => {
      client.connect(() => resolve(client._dispatcher.connectionType));
    }),
  subscribe(channel) {
    const subscription = client.subscribe(channel).withChannel((from, data) => {
      say({ event: { channel: from, data } });
    });
    subscriptions.set(channel, subscription);
    return subscription;
  },
  unsubscribe(channel) {
    subscriptions.get(channel).cancel();
    subscriptions.delete(channel);
  },
  publish: (channel, data) => client.publish(channel, data),
  batch: (publications) =>
    // Faye sends what is published in one turn in one request.
    Promise.all(publications.map(([channel, data]) => client.publish(channel, data))).then((all) => all.length),
  close: () => client.disconnect(),
});
