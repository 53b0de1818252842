"""Readers that nobody here wrote follow the running program through 100 resets, and miss nothing."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from foreign import HERE
from program import Connection, Program, eventually
from proxy import Proxy
from tools import needs_node, needs_package

CUTS = 100


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("program"), "--capacity", "100000")
    yield program
    assert program.stop() == 0
    log = program.log.read_text()
    assert "Traceback" not in log, log
    assert "Unhandled" not in log, log


class Reader:
    """A foreign client in a process, and what it has said."""

    def __init__(self, command: list[str]) -> None:
        self.told: list[Any] = []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    def has(self, data: str) -> bool:
        assert self.process.poll() is None, self.told[-3:]
        return bool(self.told) and self.told[-1].get("data") == data

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def reading(command: list[str]) -> Iterator[Reader]:
    reader = Reader(command)
    try:
        yield reader
    finally:
        reader.end()


def push_until_cut(program: Program, proxy: Proxy, reader: Reader, name: str) -> list[str]:
    """Push, one message after the other, until the proxy has cut often enough; return what was pushed."""
    sent: list[str] = []

    def push() -> str:
        sent.append(f"{len(sent)} " + "line\n" * (len(sent) % 7) + "☃")
        program.push(f"/{name}", sent[-1])
        return sent[-1]

    behind = 0
    while proxy.cuts < CUTS:
        push()
        if len(sent) - len(reader.told) > 30:  # it must not only read backlogs
            eventually(lambda: len(sent) - len(reader.told) < 5 or proxy.cuts >= CUTS, "its catching up")
        behind += 1
        assert behind < 20_000
    last = push()
    eventually(lambda: reader.has(last), "the last message")
    return sent


def test_eventsource_follows_through_100_resets(program: Program) -> None:
    command = [needs_node(HERE), str(HERE / "stream_client.mjs")]
    proxy = Proxy(program.port, CUTS, most=1_500, hasty=True)
    after = program.get("/poll/stream?after=now&wait=0").json["cursor"]
    with reading([*command, f"http://127.0.0.1:{proxy.port}/stream/stream?after={after}"]) as reader:
        sent = push_until_cut(program, proxy, reader, "stream")
    proxy.close()
    assert proxy.cuts == CUTS
    assert [told.get("data") for told in reader.told] == sent
    eventually(lambda: program.waiting("stream") == 0, "nobody waits any more")


def test_websockets_follows_through_100_resets(program: Program) -> None:
    needs_package("websockets")
    command = [sys.executable, str(HERE / "websockets_client.py")]
    proxy = Proxy(program.port, CUTS, most=1_500)
    after = program.get("/poll/socket?after=now&wait=0").json["cursor"]
    with reading([*command, f"ws://127.0.0.1:{proxy.port}/ws/socket", after]) as reader:
        sent = push_until_cut(program, proxy, reader, "socket")
    proxy.close()
    assert proxy.cuts == CUTS
    assert [told.get("data") for told in reader.told] == sent
    eventually(lambda: program.waiting("socket") == 0, "nobody waits any more")


def upgraded(program: Program) -> Connection:
    connection = program.connect().request(
        "GET",
        "/ws/closing",
        Upgrade="websocket",
        Connection="Upgrade",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        Sec_WebSocket_Version="13",
    )
    assert connection.answer().status == 101
    return connection


def test_a_closing_handshake_ends_the_connection_at_once(program: Program) -> None:
    connection = upgraded(program)
    files = program.files()
    connection.send(b"\x88\x82\0\0\0\0" + struct.pack(">H", 1000))
    assert connection.socket.recv(100) == b"\x88\x02" + struct.pack(">H", 1000)
    assert connection.socket.recv(100) == b""
    connection.close()
    eventually(lambda: program.files() < files, "the connection's end")
    assert program.waiting("closing") == 0


def test_a_program_that_stops_closes_its_sockets_with_1012(tmp_path: Path) -> None:
    program = Program(tmp_path)
    connection = upgraded(program)
    eventually(lambda: program.waiting("closing") == 1, "its reader")
    program.begin_stop()
    said = b""
    while data := connection.socket.recv(100):
        said += data
    assert said[2:4] == struct.pack(">H", 1012)
    assert program.stop() == 0
