"""What the soaks share: the real server on a fixed port, and the smallest HTTP client that asyncio allows."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fork_server import Process, fork, spawn

ROOT = Path(__file__).resolve().parents[2]
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
ACTIVATED = (
    "import os; os.dup2(LISTEN_FD, 3, inheritable=False); "
    "os.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES='comet', LISTEN_PID=str(os.getpid())); "
)


class Broken(Exception):
    """The connection ended before the answer did, or there was none to be had."""


@dataclass(frozen=True)
class Answer:
    status: int
    head: bytes
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Client:
    """One connection, opened when it is needed, from a given address where there is one."""

    def __init__(self, port: int, address: str | None = None) -> None:
        self.port = port
        self.local = None if address is None else (address, 0)
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request and return its answer. Raises ``Broken``."""
        fields = {"Host": "localhost", "Content-Length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port, local_addr=self.local)
            reader, writer = self.streams
            writer.write(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            answer = Answer(int(head[9:12]), head, await reader.readexactly(int(length or 0)))
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise Broken(str(error)) from error
        if b"\r\nconnection: close\r\n" in head:
            self.close()
        return answer

    def close(self) -> None:
        streams, self.streams = self.streams, None
        if streams is not None:
            streams[1].close()


class Server:
    """The server, which may be killed and started again on the same port and in the same directory.

    ``activated``: its listening socket is ours, and it is given it as systemd does (sd_listen_fds(3)).
    """

    def __init__(self, directory: Path, *options: str, code: str = TWISTD, activated: bool = False) -> None:
        self.code = code
        self.directory = directory
        self.options = options
        self.log = directory / "twistd.log"
        self.process: Process | None = None
        found = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = found.getsockname()[1]
        self.socket = found if activated else None
        if not activated:
            found.close()

    def start(self) -> None:
        """Start it, without waiting for anything."""
        words = ("-n", "--pidfile=", "cometd-lite", *self.options, "--listen")
        with self.log.open("ab") as log:
            if self.socket is None:
                listen = f"tcp:{self.port}:interface=127.0.0.1"
                self.process = fork(self.code, *words, listen, cwd=self.directory, stdout=log)
            else:
                number = self.socket.fileno()
                code = f"LISTEN_FD = {number}; {ACTIVATED}{self.code}"
                command = (sys.executable, "-c", code, *words, "systemd:domain=INET:index=0")
                self.process = spawn(*command, cwd=self.directory, stdout=log, pass_fds=[number])

    async def up(self, patience: float = 30.0) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + patience
        client = Client(self.port)
        while True:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-2_000:]
            try:
                # Where the socket is ours, a connection waits for a server that may never come.
                if (await asyncio.wait_for(client.ask("GET", "/healthz"), 1)).status == 200:
                    break
            except (Broken, TimeoutError):
                client.close()
            assert time.monotonic() < deadline, "the server does not answer"
            await asyncio.sleep(0.02)
        client.close()

    def kill(self) -> None:
        """End it as a power switch would, without its knowing."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def stop(self) -> int:
        """End it by SIGTERM; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        while (code := self.process.poll()) is None:
            await asyncio.sleep(0.02)
        return code

    async def end(self) -> list[str]:
        """Stop it for good; return what was wrong with that, and what its log tells of failures."""
        code = await self.stop()
        return ([f"the server ended with {code}"] if code else []) + self.failures()

    def failures(self) -> list[str]:
        """Return what its log tells of failures, with what stands around them."""
        found = []
        for word in ("Traceback", "Unhandled"):
            before, there, behind = self.log.read_text().partition(word)
            if there:
                found.append(f"the log has a failure: {before[-500:]}{there}{behind[:2_000]}")
        return found

    def discard(self) -> None:
        """Kill it if it still runs: the soak has failed."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def memory(self) -> float:
        """Return the megabytes that it takes."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024
