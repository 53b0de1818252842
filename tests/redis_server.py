"""A Redis of one's own: in a directory, at a unix socket; it may be killed, paused and started again.

``REDIS_SERVER`` in the environment names another program than ``redis-server``: the tests have been run with
Redis 6.2.14 and 7.0.15 and Valkey 9.1.2.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import hiredis
from fork_server import Process, spawn
from tools import needs

PATIENCE = 20.0
PROGRAM = os.environ.get("REDIS_SERVER", "redis-server")


class RedisServer:
    """``options`` are those of redis-server, as in ``"--appendonly", "yes"``."""

    program = PROGRAM

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.options = ("--bind", "127.0.0.1", "--port", str(port), *options)
        self.process: Process | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    def start(self) -> RedisServer:
        """Start it, and wait until it answers."""
        files = ["--dir", self.directory, "--unixsocket", self.socket]
        files += ["--logfile", self.directory / "redis.log"]
        kept = () if "--save" in self.options or "--appendonly" in self.options else ("--save", "")
        words = (needs(PROGRAM, "redis-server"), *map(str, files), *kept, *self.options)
        self.process = spawn(*words, cwd=self.directory)
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            assert self.process.poll() is None, (self.directory / "redis.log").read_text()
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        """End it as a power switch would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """Let it answer nothing until it is told to go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def ask(self, *words: Any) -> Any:
        """Return the reply to one command."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.socket))
            return ask(connection, *words)

    def answers(self) -> bool:
        try:
            reply = self.ask("PING")
            return reply == b"PONG" or str(reply).startswith("NOAUTH")
        except OSError:
            return False


def ask(connection: socket.socket, *words: Any) -> Any:
    """Return the reply to one command on a connection to a Redis or a Sentinel. Raises ``OSError``."""
    (reply,) = ask_all(connection, [words])
    return reply


def ask_all(connection: socket.socket, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return the replies to commands that are sent at once. Raises ``OSError``."""
    connection.sendall(b"".join(map(hiredis.pack_command, commands)))
    reader = hiredis.Reader()
    replies: list[Any] = []
    while len(replies) < len(commands):
        reply = reader.gets()
        if reply is not False:
            replies.append(reply)
            continue
        data = connection.recv(65_536)
        if not data:
            raise ConnectionResetError("It ended before it had answered.")
        reader.feed(data)
    return replies


def free_port() -> int:
    """Return the number of a port at which nobody listens, and that no outgoing connection is given."""
    while True:
        port = random.randrange(20_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
