"""Readers of the running server that do not read: what they cost, and that they miss nothing."""

from __future__ import annotations

import re
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from program import PATIENCE, Program, Run, eventually
from tls import client_context

from cometd_lite.limits import STREAM_BYTES

READERS = 200
BODIES = 64
SIZE = 32_000
"""64 bodies of 32,000 bytes are 2 MB."""
PUSHES = 15_000
"""They are 2 MB, and so are their answers."""
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


def connected(program: Program, readers: list[socket.socket]) -> socket.socket:
    """Return one more socket, for which neither kernel buffers much."""
    readers.append(socket.socket())
    readers[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    readers[-1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    # By the size of segments the server's kernel decides how much it buffers: on loopback it is 64 KB.
    readers[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    readers[-1].settimeout(PATIENCE)
    readers[-1].connect(("127.0.0.1", program.port))
    if program.tls:
        readers[-1] = client_context().wrap_socket(readers[-1], server_hostname="localhost")
    return readers[-1]


def head(target: str, fields: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode()


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
        connected(program, readers).sendall(head(f"{target}/bob", fields))
    eventually(lambda: program.waiting("bob") == READERS, "all readers")
    program.push("/alice", "." * SIZE)  # what is made once is made now
    before = program.resident()
    bodies = [f"{number} ".ljust(SIZE, ".") for number in range(BODIES)]
    delivered = [program.push("/bob", body).json["delivered"] for body in bodies]
    assert delivered[0] == READERS
    assert delivered[-1] == 0
    # On a busy machine a reader finds two messages at once, which are one write of up to STREAM_BYTES.
    assert program.resident() - before < READERS * 1.1 * STREAM_BYTES + BODIES * 1.5 * SIZE + 5_000_000
    assert program.waiting("bob") == READERS
    end = re.compile(rb"%d \.{%d}" % (BODIES - 1, SIZE - 3))
    for reader in readers[::50]:
        data = received(reader, lambda data: end.search(data, max(0, len(data) - 2 * SIZE)) is not None)
        assert [int(number) for number in re.findall(rb"(\d+) \.{10}", data)] == list(range(BODIES))


@pytest.mark.parametrize("listens", ["shared", "secured"], ids=["tcp", "ssl"])
def test_a_client_that_pushes_without_reading_is_read_no_more_until_it_does(
    request: pytest.FixtureRequest, readers: list[socket.socket], listens: str
) -> None:
    program: Program = request.getfixturevalue(listens)
    client = connected(program, readers)
    client.sendall(head("/ws/bob", UPGRADE))
    before = program.resident()
    client.setblocking(False)
    pushes = b"".join([push_frame(ref) for ref in range(PUSHES)])
    sent = 0
    while select.select([], [client], [], 1.0)[1]:
        with suppress(BlockingIOError, ssl.SSLWantWriteError):
            sent += client.send(pushes[sent : sent + 65_536])
        assert sent < len(pushes), "the server should have stopped reading"
    assert program.resident() - before < 5_000_000
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
    answers = bytearray()
    while b'"ref":%d' % (PUSHES - 1) not in answers[-1_000:]:
        assert any(select.select([client], [client] if sent < len(pushes) else [], [], PATIENCE))
        with suppress(BlockingIOError, ssl.SSLWantReadError):
            answers += client.recv(1_000_000)
        with suppress(BlockingIOError, ssl.SSLWantWriteError):
            sent += client.send(pushes[sent : sent + 65_536])
    assert [int(ref) for ref in re.findall(rb'"ref":(\d+)', answers)] == list(range(PUSHES))


def push_frame(ref: int) -> bytes:
    """Return a push as a client sends it; the mask is zero, which changes nothing."""
    text = b'{"push":"alice","data":%d,"ref":%d}' % (10**100, ref)
    return b"\x81\xfe%b\0\0\0\0%b" % (len(text).to_bytes(2), text)
