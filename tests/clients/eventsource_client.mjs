// A page's EventSource, by the npm package eventsource: eventsource_client.mjs URL

import { EventSource } from "eventsource";

import { obey, say } from "./lines.mjs";

const { origin } = new URL(process.argv[2]);

await obey({
  follow: (channel) =>
    new Promise((resolve, reject) => {
      const source = new EventSource(`${origin}/stream${channel}`);
      source.addEventListener("open", () => resolve());
      source.addEventListener("error", ({ code }) => reject(new Error(String(code))));
      source.addEventListener("message", ({ data }) => say({ event: { channel, data: JSON.parse(data) } }));
    }),
});
