// Follows a stream by the npm package eventsource, and says every event in a line of JSON.
import { EventSource } from "eventsource";

const source = new EventSource(process.argv[2]);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
source.addEventListener("message", ({ data, lastEventId }) => say({ data, id: lastEventId }));
source.addEventListener("gap", () => say({ gap: true }));
source.addEventListener("error", ({ code }) => {
  if (source.readyState === EventSource.CLOSED) {
    say({ closed: code ?? null });
    process.exit(1);
  }
});
process.stdin.resume().on("end", () => process.exit(0));
