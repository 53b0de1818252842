"""Push 100,000 messages to 1,000 recipients whose readers poll, and reset connections at random.

    python tests/soak/soak_delivery.py [--pushes 100000] [--recipients 1000] [--readers 1000] [--seed 1]

Each reader polls its recipient by cursor over a connection of its own; each pusher pushes the numbers 0, 1,
2 … to each of its recipients, every push with an idempotency key. Connections of both are reset (SO_LINGER 0)
at random moments: while a poll is held, when half a request is sent, when part of an answer has come. A
client that was reset comes back, the reader with its last cursor, the pusher with the same push. In the end
every reader must have every number of its recipient, in order, once, and without a gap. Exits 1 where one has
not.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from counted import CODE, disagreements
from server import Broken, Server

PUSHERS = 16
PATIENCE = 60.0
"""A reader that hears nothing for so long, though there is something for it, is deaf."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends an RST."""
HALF = 0.01
"""The part of requests and answers in the middle of which the connection is reset."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass
class Soak:
    """What all of them share."""

    port: int
    chance: random.Random
    resets: int = 0
    polls: int = 0
    repeated: int = 0
    links: list[Link] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Link:
    """A client that asks one request at a time, over a connection that is opened when it is needed."""

    def __init__(self, soak: Soak) -> None:
        self.soak = soak
        self.connection: Connection | None = None
        soak.links.append(self)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return the status and the body of its answer. Raises ``Broken``."""
        loop = asyncio.get_running_loop()
        if self.connection is None or self.connection.lost:
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self.soak), "127.0.0.1", self.soak.port
                )
            except OSError as error:
                raise Broken(str(error)) from error
            self.connection = connection
        return await self.connection.ask(request)

    def reset(self) -> None:
        """Lose the connection, whatever is on its way."""
        if self.connection is not None:
            self.connection.reset()


class Connection(asyncio.Protocol):
    """One connection, which sometimes breaks in the middle of a request or an answer."""

    def __init__(self, soak: Soak) -> None:
        self.lost = False
        self.soak = soak
        self.chance = soak.chance
        self.buffer = b""
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        if self.lost:
            raise Broken("reset")
        loop = asyncio.get_running_loop()
        self.buffer = b""
        self.answer = loop.create_future()
        if self.chance.random() < HALF:
            self.transport.write(request[: self.chance.randrange(len(request))])
            loop.call_soon(self.reset)
        else:
            self.transport.write(request)
        return await self.answer

    def reset(self) -> None:
        """Close so that the server gets an RST."""
        if not self.lost:
            self.soak.resets += 1
            where: socket.socket = self.transport.get_extra_info("socket")
            where.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()
            self.connection_lost(None)

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.chance.random() < HALF:
            self.reset()
            return
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end or self.answer is None or self.answer.done():
            return
        length = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) >= length:
            self.answer.set_result((int(head[9:12]), body))

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(Broken("reset"))


async def read(soak: Soak, name: str, most: int) -> None:
    """Poll a recipient by cursor until so many messages were heard, and check them."""
    link = Link(soak)
    heard: list[int] = []
    cursor = "oldest"
    heard_at = time.monotonic()
    while len(heard) < most:
        try:
            status, body = await link.ask(
                f"GET /poll/{name}?after={cursor}&wait=10 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
        except Broken:
            continue
        soak.polls += 1
        if status != 200:
            soak.wrong.append(f"{name} was answered {status}: {body[:200]!r}")
            return
        told = msgspec.json.decode(body)
        if told["gap"]:
            soak.wrong.append(f"{name} was told a gap after {cursor}")
        cursor = told["cursor"]
        new = [message["data"] for message in told["messages"]]
        if new != list(range(len(heard), len(heard) + len(new))):
            soak.wrong.append(f"{name} heard {new} after {len(heard)} messages")
            return
        heard += new
        if new:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > PATIENCE:
            soak.wrong.append(f"{name} heard nothing any more after {len(heard)} of {most} messages")
            return


async def push(soak: Soak, names: list[str], each: int) -> None:
    """Push the numbers below ``each`` to all of these, each until it is accepted."""
    link = Link(soak)
    for number in range(each):
        for name in names:
            body = b"%d" % number
            request = (
                f"POST /push/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Idempotency-Key: {name}-{number}\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode() + body
            status = 0
            while status not in {201, 202}:
                try:
                    status, answer = await link.ask(request)
                except Broken:
                    soak.repeated += 1
                    continue
                if status not in {201, 202}:
                    soak.wrong.append(f"a push to {name} was answered {status}: {answer[:200]!r}")
                    return


async def trouble(soak: Soak) -> None:
    """Reset connections that are chosen at random, as long as it lasts."""
    while True:
        await asyncio.sleep(soak.chance.expovariate(1 / 0.005))
        for link in soak.chance.sample(soak.links, max(1, len(soak.links) // 250)):
            link.reset()


async def run(server: Server, pushes: int, recipients: int, readers: int, seed: int) -> Soak:
    """Read, push and reset until all was heard."""
    await server.up()
    soak = Soak(server.port, random.Random(seed))
    names = [f"reader/{number}" for number in range(recipients)]
    each = pushes // recipients
    reading = [asyncio.create_task(read(soak, names[one % recipients], each)) for one in range(readers)]
    pushing = [asyncio.create_task(push(soak, names[one::PUSHERS], each)) for one in range(PUSHERS)]
    resetting = asyncio.create_task(trouble(soak))
    await asyncio.gather(*pushing, *reading)
    resetting.cancel()
    for link in soak.links:
        link.reset()
    return soak


async def deliver(directory: Path, pushes: int, recipients: int, readers: int, seed: int = 1) -> Soak:
    """Soak a server of one's own; what is ``wrong`` with it are sentences."""
    server = Server(directory, "--max-parked", str(readers + 100), code=CODE)
    server.start()
    try:
        soak = await run(server, pushes, recipients, readers, seed)
        say(f"the server takes {server.memory():.0f} MB")
        soak.wrong += disagreements(directory) + await server.end()
    finally:
        server.discard()
    return soak


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pushes", type=int, default=100_000)
    parser.add_argument("--recipients", type=int, default=1_000)
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with TemporaryDirectory() as directory:
        began = time.monotonic()
        soak = asyncio.run(
            deliver(Path(directory), given.pushes, given.recipients, given.readers, given.seed)
        )
    say(
        f"{given.pushes} pushes to {given.recipients} recipients, heard by {given.readers} readers in "
        f"{soak.polls} polls; {soak.resets} resets, {soak.repeated} pushes repeated; "
        f"{time.monotonic() - began:.0f} s"
    )
    for sentence in soak.wrong[:20]:
        say(f"WRONG: {sentence}")
    say("every reader read everything, in order, once" if not soak.wrong else f"{len(soak.wrong)} wrong")
    return bool(soak.wrong)


if __name__ == "__main__":
    sys.exit(main())
