/**
 * What stands between a page and a server: requests arrive, go on to the server, and are written down.
 *
 * A proxy that buffers passes an answer on when it is complete, and not before: a stream never is. Any
 * proxy can cut all of its connections, as when a router is turned off.
 */

import { createServer, request as forward } from "node:http";

import { atEnd } from "./cleanup.mjs";

export class Proxy {
  /** @type {{method: string, path: string, headers: import("node:http").IncomingHttpHeaders}[]} */
  requests = [];
  #sockets = new Set();

  /**
   * @param {import("node:test").TestContext} t at whose end it is gone
   * @param {{port: number}} server
   * @param {{buffers?: boolean}} [options]
   */
  static async start(t, server, { buffers = false } = {}) {
    const proxy = new Proxy(server, buffers);
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", () => resolve(undefined)));
    atEnd(t, () => {
      proxy.cut();
      proxy.server.close();
    });
    return proxy;
  }

  constructor(server, buffers) {
    this.server = createServer((incoming, outgoing) => {
      const { method, url: path, headers } = incoming;
      this.requests.push({ method, path, headers });
      const onward = forward({ host: "127.0.0.1", port: server.port, method, path, headers }, (answer) => {
        if (buffers) {
          const parts = [];
          answer.on("data", (part) => parts.push(part));
          answer.on("end", () =>
            outgoing.writeHead(answer.statusCode, answer.headers).end(Buffer.concat(parts)),
          );
        } else {
          outgoing.writeHead(answer.statusCode, answer.headers);
          outgoing.flushHeaders();
          answer.pipe(outgoing);
        }
        answer.on("error", () => outgoing.destroy());
      });
      onward.on("error", () => outgoing.destroy());
      outgoing.on("close", () => onward.destroy());
      incoming.pipe(onward);
    });
    this.server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
  }

  get url() {
    return `http://127.0.0.1:${this.server.address().port}/`;
  }

  /** Cut off everyone. */
  cut() {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** The requests for this path, in order. */
  asked(path) {
    return this.requests.filter((request) => request.path.startsWith(path));
  }
}
