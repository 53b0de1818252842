/**
 * The real server: `twistd cometd-lite` as a process of its own, on a free port, and gone after the test.
 */

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { atEnd } from "./cleanup.mjs";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const VENV = join(ROOT, ".venv/bin/python");
const PYTHON = process.env.PYTHON ?? (existsSync(VENV) ? VENV : "python3");
const TWISTD = ["-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="];

export class Server {
  /**
   * @param {import("node:test").TestContext} t at whose end it is killed
   * @param {...string} options of the command
   */
  static async start(t, ...options) {
    const server = new Server(options);
    atEnd(t, () => server.close());
    await server.start();
    return server;
  }

  constructor(options) {
    this.options = options;
    this.directory = mkdtempSync(join(tmpdir(), "cometd-lite-"));
    this.port = 0;
    this.mount = options.includes("--mount") ? options[options.indexOf("--mount") + 1] : "";
  }

  get url() {
    return `http://127.0.0.1:${this.port}${this.mount}/`;
  }

  /** Start it, again on the port that it had; settles once it listens. */
  async start() {
    const endpoint = `tcp:${this.port}:interface=127.0.0.1`;
    this.process = spawn(PYTHON, [...TWISTD, "cometd-lite", "--listen", endpoint, ...this.options], {
      cwd: this.directory,
      env: { ...process.env, PYTHONPATH: ROOT },
    });
    this.gone = new Promise((resolve) => this.process.once("close", resolve));
    let log = "";
    await new Promise((resolve, reject) => {
      const read = (data) => {
        log += data;
        const listening = /starting on (\d+)/i.exec(log);
        if (!listening) return;
        this.port = Number(listening[1]);
        resolve();
      };
      this.process.stdout.on("data", read);
      this.process.stderr.on("data", read);
      this.process.once("error", reject);
      this.gone.then(() => reject(new Error(`twistd did not start (PYTHON=${PYTHON}):\n${log}`)));
    });
  }

  /** End it as a crash would, and wait until its port is free. */
  async kill() {
    this.process.kill("SIGKILL");
    await this.gone;
  }

  async close() {
    await this.kill();
    rmSync(this.directory, { recursive: true });
  }

  async push(recipient, body, { query = "", type = "text/plain" } = {}) {
    const headers = { "Content-Type": type };
    const response = await fetch(`${this.url}push/${recipient}${query}`, { method: "POST", body, headers });
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    return response.json();
  }

  async describe(recipient) {
    return (await fetch(`${this.url}recipients/${recipient}`)).json();
  }
}
