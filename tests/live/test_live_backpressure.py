"""Readers of the running server that do not read: what they cost, and that they miss nothing."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator

import pytest
from program import PATIENCE, Program, Run, eventually

READERS = 200
BODIES = 64
SIZE = 32_000
"""64 bodies of 32,000 bytes are 2 MB."""
STREAM = "Accept: text/event-stream\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture
def readers() -> Iterator[list[socket.socket]]:
    """Return a list of sockets, which are closed in the end."""
    readers: list[socket.socket] = []
    yield readers
    for reader in readers:
        reader.close()


def begin(reader: socket.socket, program: Program, target: str, fields: str) -> None:
    """Send the request of a reader for which neither kernel buffers much."""
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    # By the size of segments the server's kernel decides how much it buffers: on loopback it is 64 KB.
    reader.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    reader.settimeout(PATIENCE)
    reader.connect(("127.0.0.1", program.port))
    reader.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())


def received(reader: socket.socket, is_complete: Callable[[bytes], bool]) -> bytes:
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
    data = bytearray()
    while not is_complete(data):
        piece = reader.recv(65_536)
        assert piece, f"disconnected after {len(data)} bytes"
        data += piece
    return bytes(data)


@pytest.mark.parametrize(("target", "fields"), [("/stream", STREAM), ("/ws", UPGRADE)], ids=["sse", "ws"])
def test_200_readers_that_do_not_read_cost_one_write_each_and_miss_nothing(
    run: Run, readers: list[socket.socket], target: str, fields: str
) -> None:
    program = run("--capacity-bytes", "4M")
    for _ in range(READERS):
        readers.append(socket.socket())
        begin(readers[-1], program, f"{target}/bob", fields)
    eventually(lambda: program.waiting("bob") == READERS, "all readers")
    program.push("/alice", "." * SIZE)  # what is made once is made now
    before = program.resident()
    bodies = [f"{number} ".ljust(SIZE, ".") for number in range(BODIES)]
    delivered = [program.push("/bob", body).json["delivered"] for body in bodies]
    assert delivered[0] == READERS
    assert delivered[-1] == 0
    assert program.resident() - before < READERS * 1.5 * SIZE + BODIES * 1.5 * SIZE + 5_000_000
    assert program.waiting("bob") == READERS
    end = re.compile(rb"%d \.{%d}" % (BODIES - 1, SIZE - 3))
    for reader in readers[::50]:
        data = received(reader, lambda data: end.search(data, max(0, len(data) - 2 * SIZE)) is not None)
        assert [int(number) for number in re.findall(rb"(\d+) \.{10}", data)] == list(range(BODIES))
