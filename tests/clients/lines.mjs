// A foreign client is told what to do by lines of JSON, and says by such lines what came of it.
//
// {"n": 1, "do": "subscribe", "with": ["/a"]} arrives; {"n": 1, "ok": …} or {"n": 1, "error": "…"} leaves, and
// {"event": {"channel": …, "data": …}} or {"note": "…"} whenever the client hears or notices something.

import { createInterface } from "node:readline";

/** Say something. */
export function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** Do what is told by the functions of `deeds`, until there is no more to be told. */
export async function obey(deeds) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { n, do: name, with: given } = JSON.parse(line);
    Promise.resolve()
      .then(() => deeds[name](...given))
      .then(
        (ok) => say({ n, ok: ok ?? null }),
        (error) => say({ n, error: String(error?.message ?? error) }),
      );
  }
  process.exit(0);
}
