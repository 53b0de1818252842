"""5,000 clients poll, stream, leave and come back while pushes go on; then look for what is left of them.

    python tests/soak/soak_coming_and_going.py [--minutes 60] [--clients 5000] [--rate 50] [--figures FILE]

The clients read one recipient, two, or a pattern: by polls with a cursor, as listeners, by SSE, by NDJSON and
over WebSockets. Each stays for a while and leaves: by a reset, by closing, in the middle of a request, or
without having read what came. Most come back with their cursor; some have forgotten it, and begin anew.
Some stop reading for seconds. Pushers push the numbers 0, 1, 2 … to each recipient, at a steady rate,
with idempotency keys, and are reset too. No number may be missing between two that a client read, none may
come twice, no gap may be reported, and a waiting reader must get a push within ``LATE`` seconds: before the
end of its wait, by which a reader that was not woken would find it all the same.

In the end every client must have read the last number. When all have left, the server must hold no Deferred,
timer, session, connection or file of theirs. Its memory (RSS) is looked at every few seconds; the median of
the last quarter may not be over that of the third by more than 3 %. Messages are kept for minutes, so that as
many go as come by then; in a run below 20 minutes memory is told and not judged. Exits 1 where something is
wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import resource
import socket
import statistics
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from counted import CODE, counts
from server import ROOT, Broken, Client, Server

sys.path.insert(0, str(ROOT))

from cometd_lite.limits import IDEMPOTENCY_SECONDS

EACH = 5
"""Clients for each recipient; they read in different ways and beside others of the same."""
GROUP = 10
"""Recipients under one pattern."""
PUSHERS = 8
STAY_SECONDS = 25.0
AWAY_SECONDS = 3.0
AWAY_MOST = 25.0
LISTENER_SECONDS = 60.0
"""A listener is remembered for longer than anyone is away."""
UNHURRIED_SECONDS = 120.0
"""In a shorter run clients stay, are away and are remembered for a shorter time, in proportion."""
FORGETFUL = 0.1
PAUSED = 0.01
"""The part of what is read, and of what is sent, after which a client stands still."""
HALF = 0.005
"""The part of requests that are broken off in the middle."""
PAUSE_SECONDS = (0.5, 5.0)
PATIENCE = 120.0
"""Who has not heard everything by then never will."""
LATE = 15.0
"""Much less than the wait of a poll. As much as a plain request took in the last minute comes on top: where
the machine gives neither side its turn, no reader is deaf."""
LOOK_SECONDS = 5.0
TOLERANCE = 1.03
SPARE = {"twisted.internet.defer.Deferred": 5, "timers": 2}
"""What the server itself may have a few more of at one moment than at another."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends an RST."""
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def name(recipient: int) -> str:
    return f"crowd/{recipient // GROUP}/{recipient}"


@dataclass
class Crowd:
    """What all clients share."""

    port: int
    chance: random.Random
    pushed: list[int]
    pace: float = 1.0
    """By what clients' times are multiplied."""
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    lags: deque[float] = field(default_factory=lambda: deque([0.0], maxlen=60))
    """How many seconds a plain request took, each second of the last minute."""
    coming: bool = True
    """Whether clients still leave and come back."""

    def fault(self, sentence: str) -> None:
        self.seen["faults"] += 1
        if len(self.wrong) < 50:
            self.wrong.append(f"{time.strftime('%H:%M:%S')} {sentence}")

    async def pause(self) -> bool:
        """Stand still now and then; return whether it did."""
        if not self.coming or self.chance.random() >= PAUSED:
            return False
        self.seen["pauses"] += 1
        await asyncio.sleep(self.chance.uniform(*PAUSE_SECONDS) * self.pace)
        return True


class Wire:
    """One connection of a client, which may leave in any way."""

    def __init__(self, crowd: Crowd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.crowd = crowd
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, crowd: Crowd) -> Wire:
        crowd.seen["connections"] += 1
        return cls(crowd, *await asyncio.open_connection("127.0.0.1", crowd.port))

    async def send(self, method: str, target: str, fields: str = "", body: bytes = b"") -> None:
        """Send a request, perhaps with a pause in it, perhaps only its beginning. Raises ``Broken``."""
        length = f"Content-Length: {len(body)}\r\n" if method != "GET" else ""
        data = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{length}{fields}\r\n".encode() + body
        chance = self.crowd.chance
        cut = chance.randrange(len(data))
        if self.crowd.coming and chance.random() < HALF:
            self.writer.write(data[:cut])
            self.leave()
            raise Broken("reset in the middle of a request")
        if self.crowd.coming and chance.random() < PAUSED:
            self.writer.write(data[:cut])
            await self.crowd.pause()
            self.writer.write(data[cut:])
        else:
            self.writer.write(data)

    async def head(self) -> tuple[int, bytes]:
        """Return the status of an answer, and its head in lower case."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        return int(head[9:12]), head

    async def ask(self, method: str, target: str, fields: str = "", body: bytes = b"") -> tuple[int, bytes]:
        """Send a request; return the status and the body of its answer."""
        await self.send(method, target, fields, body)
        status, head = await self.head()
        length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        return status, await self.reader.readexactly(int(length or 0))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Return the pieces of a body that has no end."""
        while size := int(await self.reader.readline() or b"0", 16):
            yield (await self.reader.readexactly(size + 2))[:-2]

    async def frames(self) -> AsyncIterator[bytes]:
        """Return the texts of a WebSocket, and answer its pings (RFC 6455 §5.2)."""
        while True:
            kind, length = await self.reader.readexactly(2)
            if length == 126:
                length = int.from_bytes(await self.reader.readexactly(2))
            elif length == 127:
                length = int.from_bytes(await self.reader.readexactly(8))
            data = await self.reader.readexactly(length)
            if kind == 0x89:
                self.writer.write(bytes([0x8A, 0x80 | length]) + bytes(4) + data)
            elif kind == 0x88:
                raise Broken("closed by the server")
            else:
                yield data

    def leave(self) -> None:
        """End the connection, as a client does or as a network does."""
        if self.writer.transport.is_closing():
            return
        if self.crowd.chance.random() < 0.6:
            self.crowd.seen["resets"] += 1
            where: socket.socket = self.writer.get_extra_info("socket")
            where.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.writer.transport.abort()
        else:
            self.writer.close()


class Reader:
    """A client: what it reads, where it stands, and which number of each recipient it is to hear next."""

    def __init__(self, crowd: Crowd, number: int, recipients: int, cursor: str) -> None:
        self.crowd = crowd
        self.follow = FOLLOW[number % len(FOLLOW)]
        mine = number % recipients
        self.reads: tuple[int, ...] = (mine,)
        self.names: tuple[str, ...] = (name(mine),)
        if number // len(FOLLOW) % 4 == 1:
            self.reads = tuple(dict.fromkeys((mine, (mine * 7 + 1) % recipients)))
            self.names = tuple(map(name, self.reads))
        elif number // len(FOLLOW) % 4 == 2:
            first = mine // GROUP * GROUP
            self.reads = tuple(range(first, min(first + GROUP, recipients)))
            self.names = (f"crowd/{mine // GROUP}/*",)
        self.query = "&".join(f"rcpt={one}" for one in self.names)
        self.who = f"{self.follow.__name__} {number}"
        self.cursor = cursor
        self.next: dict[int, int] = dict.fromkeys(self.reads, 0)
        self.listener = ""
        self.waits_since = math.inf
        """Since when it waits; inf while it is away, or stands still."""

    def forget(self) -> None:
        """Begin anew."""
        self.crowd.seen["forgotten"] += 1
        self.cursor, self.next, self.listener = "now", {}, ""

    def heard(self, told: dict[str, Any], cursor: str) -> None:
        """Take in one message, and check that it is the next of its recipient."""
        self.cursor = cursor
        recipient, number = told["to"], told["n"]
        expected = self.next.get(recipient, number)
        if number != expected:
            self.crowd.fault(f"{self.who} heard {number} of {recipient} where {expected} was next")
        self.next[recipient] = number + 1
        self.crowd.seen["heard"] += 1
        now = time.monotonic()
        if self.waits_since < told["at"]:
            self.crowd.delays.append(now - told["at"])
            if now - told["at"] > LATE + max(self.crowd.lags):
                self.crowd.fault(f"{self.who} heard {number} of {recipient} after {now - told['at']:.1f} s")

    def gap(self) -> None:
        self.crowd.fault(f"{self.who} was told a gap after {self.cursor}")

    @property
    def has_all(self) -> bool:
        """Whether it read the last number. What it has not read since it began anew is not counted."""
        return all(self.crowd.pushed[one] == number for one, number in self.next.items())

    async def live(self) -> None:
        """Come, stay, leave, be away, and come back, until it is cancelled."""
        crowd, chance = self.crowd, self.crowd.chance
        while True:
            wire = None
            try:
                async with asyncio.timeout(self.stay() if crowd.coming else None):
                    wire = await Wire.open(crowd)
                    await self.follow(self, wire)
            except TimeoutError:
                crowd.seen["left"] += 1
            except (Broken, OSError, asyncio.IncompleteReadError):
                crowd.seen["broken off"] += 1
            finally:
                self.waits_since = math.inf
                if wire is not None:
                    wire.leave()
            if crowd.coming and chance.random() < FORGETFUL:
                self.forget()
            await asyncio.sleep(self.away() if crowd.coming else 0.1)

    def stay(self) -> float:
        return self.crowd.chance.expovariate(1 / STAY_SECONDS) * self.crowd.pace

    def away(self) -> float:
        return min(AWAY_MOST, self.crowd.chance.expovariate(1 / AWAY_SECONDS)) * self.crowd.pace

    async def poll(self, wire: Wire) -> None:
        await self.poll_once(wire, f"{self.query}&wait=25")

    async def listen(self, wire: Wire) -> None:
        if not self.listener:
            asked = msgspec.json.encode({"recipients": self.names, "ttl": LISTENER_SECONDS * self.crowd.pace})
            status, body = await wire.ask("POST", "/register", "Content-Type: application/json\r\n", asked)
            if status != 201:
                self.crowd.fault(f"{self.who} was not registered: {status} {body!r}")
                return
            told = msgspec.json.decode(body)
            # What was pushed before is not its affair.
            self.listener, self.cursor, self.next = told["id"], told["cursor"], {}
        await self.poll_once(wire, f"listener={self.listener}&wait=25")

    async def poll_once(self, wire: Wire, query: str) -> None:
        while True:
            self.waits_since = time.monotonic()
            status, body = await wire.ask("GET", f"/poll?{query}&after={self.cursor}")
            if status != 200:
                self.crowd.fault(f"{self.who} was answered {status}: {body[:200]!r}")
                await asyncio.sleep(1)
                return
            told = msgspec.json.decode(body)
            if told["gap"]:
                self.gap()
            for message in told["messages"]:
                self.heard(message["data"], message["id"])
            self.cursor = told["cursor"]
            self.waits_since = math.inf
            await self.crowd.pause()

    async def sse(self, wire: Wire) -> None:
        place = "" if self.cursor == "now" else f"Last-Event-ID: {self.cursor}\r\n"
        rest = b""
        async for chunk in self.stream(wire, f"/stream?{self.query}", place):
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                told = dict(line.partition(b": ")[::2] for line in event.split(b"\n"))
                cursor = told.get(b"id", self.cursor.encode()).decode()
                if told.get(b"event") == b"gap":
                    self.gap()
                elif b"data" in told:
                    self.heard(msgspec.json.decode(told[b"data"]), cursor)
                self.cursor = cursor

    async def ndjson(self, wire: Wire) -> None:
        rest = b""
        target = f"/stream?{self.query}&after={self.cursor}"
        async for chunk in self.stream(wire, target, "Accept: application/x-ndjson\r\n"):
            *lines, rest = (rest + chunk).split(b"\n")
            for told in map(msgspec.json.decode, lines):
                self.told(told)

    async def stream(self, wire: Wire, target: str, fields: str) -> AsyncIterator[bytes]:
        await wire.send("GET", target, fields)
        status, _ = await wire.head()
        if status != 200:
            self.crowd.fault(f"{self.who} was answered {status}")
            return
        async for chunk in wire.chunks():
            yield chunk
            await self.go_on()

    async def socket(self, wire: Wire) -> None:
        await wire.send("GET", f"/ws?{self.query}&after={self.cursor}", UPGRADE)
        status, _ = await wire.head()
        if status != 101:
            self.crowd.fault(f"{self.who} was answered {status}")
            return
        async for text in wire.frames():
            self.told(msgspec.json.decode(text))
            await self.go_on()

    def told(self, told: dict[str, Any]) -> None:
        if "gap" in told:
            self.gap()
        elif "heartbeat" in told:
            self.cursor = told.get("cursor", self.cursor)
        else:
            self.heard(told["data"], told["id"])

    async def go_on(self) -> None:
        """Wait for more, perhaps after a pause in which nothing is read."""
        if await self.crowd.pause() or self.waits_since == math.inf:
            # What came meanwhile is read at once, and says nothing about the server.
            self.waits_since = time.monotonic() + PAUSE_SECONDS[1]


FOLLOW: tuple[Callable[[Reader, Wire], Any], ...] = (
    *(Reader.poll, Reader.sse, Reader.poll, Reader.socket, Reader.poll, Reader.ndjson, Reader.poll),
    Reader.listen,
)
"""How clients read, in turn."""


async def push(crowd: Crowd, mine: range, pause: float, until: float) -> None:
    """Push the next number of one recipient after the other, each until it is accepted."""
    wire: Wire | None = None
    due = time.monotonic() + crowd.chance.uniform(0, pause)
    while time.monotonic() < until:
        await asyncio.sleep(due - time.monotonic())
        due = max(due + pause, time.monotonic())  # what a busy machine kept back is not made up for
        recipient = crowd.chance.choice(mine)
        number = crowd.pushed[recipient]
        now = time.monotonic()
        padding = "x" * int(crowd.chance.paretovariate(1) * 20 % 20_000)
        body = msgspec.json.encode({"to": recipient, "n": number, "at": now, "padding": padding})
        fields = f"Content-Type: application/json\r\nIdempotency-Key: {recipient}-{number}-{now}\r\n"
        status = 0
        while status not in {201, 202}:
            try:
                wire = wire or await Wire.open(crowd)
                status, answer = await wire.ask("POST", f"/push/{name(recipient)}", fields, body)
            except (Broken, OSError, asyncio.IncompleteReadError):
                crowd.seen["pushes repeated"] += 1
                if wire is not None:
                    wire.leave()
                wire = None
                continue
            if status not in {201, 202}:
                crowd.fault(f"a push to {name(recipient)} was answered {status}: {answer[:200]!r}")
                break
        crowd.pushed[recipient] = number + 1
        crowd.seen["pushes"] += 1
    if wire is not None:
        wire.leave()


@dataclass
class Look:
    """What was seen of the server's process at a moment, in seconds since the beginning."""

    at: float
    megabytes: float


async def feel(crowd: Crowd) -> None:
    """Measure every second how long both sides need for nothing at all."""
    client = Client(crowd.port)
    try:
        while True:
            began = time.monotonic()
            await asyncio.sleep(1)
            await client.ask("GET", "/healthz")
            crowd.lags.append(time.monotonic() - began - 1)
    finally:
        client.close()


async def watch(crowd: Crowd, server: Server, looks: list[Look], note: Callable[[str], None]) -> None:
    """Look at the server's memory every few seconds, and say every minute how it goes."""
    began = time.monotonic()
    minute = 0
    faults = 0
    while True:
        for sentence in crowd.wrong[faults:]:
            note(f"WRONG: {sentence}")
        faults = len(crowd.wrong)
        looks.append(Look(time.monotonic() - began, server.memory()))
        if looks[-1].at >= minute * 60:
            minute += 1
            asking = Client(server.port)
            answer = (await asking.ask("GET", "/metrics")).body.decode()
            asking.close()
            held = {
                what: float(answer.partition(f"\ncometd_lite_{what} ")[2].split()[0])
                for what in ("parked", "listeners", "messages")
            }
            standing = ", ".join(f"{int(number)} {what}" for what, number in held.items())
            lag = f"a request took up to {max(crowd.lags):.1f} s"
            note(
                f"{looks[-1].at:5.0f} s: {looks[-1].megabytes:.1f} MB, {standing}; {told(crowd.seen)}; {lag}"
            )
        await asyncio.sleep(LOOK_SECONDS)


def told(seen: Counter[str]) -> str:
    return ", ".join(f"{times:,} {what}" for what, times in sorted(seen.items()))


async def run(crowd: Crowd, clients: int, rate: float, seconds: float) -> None:
    """Come and go and push for so many seconds; then wait until every client has read everything."""
    recipients = len(crowd.pushed)
    asking = Client(crowd.port)
    cursor = (await asking.ask("GET", "/poll/x?after=now&wait=0")).json["cursor"]
    asking.close()
    readers = [Reader(crowd, number, recipients, cursor) for number in range(clients)]
    living = []
    for reader in readers:
        living.append(asyncio.create_task(reader.live()))
        if not len(living) % 50:
            await asyncio.sleep(0.05)
    until = time.monotonic() + seconds
    share = math.ceil(recipients / PUSHERS)
    shares = [range(one * share, min(recipients, (one + 1) * share)) for one in range(PUSHERS)]
    pushing = [push(crowd, mine, PUSHERS / rate, until) for mine in shares if mine]
    await asyncio.gather(*pushing)
    crowd.coming = False
    deadline = time.monotonic() + PATIENCE
    while not all(reader.has_all for reader in readers):
        if time.monotonic() > deadline:
            for reader in readers:
                if not reader.has_all:
                    crowd.fault(f"{reader.who} stopped at {reader.next}")
            break
        await asyncio.sleep(0.5)
    for one, task in zip(readers, living, strict=True):
        if task.done():
            crowd.fault(f"{one.who} failed: {task.exception()!r}")
        task.cancel()
    await asyncio.gather(*living, return_exceptions=True)


async def soak(
    directory: Path,
    clients: int,
    seconds: float,
    rate: float,
    seed: int = 1,
    note: Callable[[str], None] = say,
) -> Crowd:
    """Soak a server of one's own; what is ``wrong`` with it are sentences."""
    kept = min(180.0, max(60.0, seconds / 3))
    server = Server(directory, "--max-parked", str(clients * 2), "--ttl", f"{kept:.0f}", code=CODE)
    server.start()
    try:
        await server.up()
        # A few of each first: what the server makes once is there before it is counted.
        few = Crowd(server.port, random.Random(seed), [0] * GROUP, pace=0.05)
        await run(few, min(clients, 100), rate, 1)
        before = await settled(directory, None)
        pace = min(1.0, seconds / UNHURRIED_SECONDS)
        crowd = Crowd(server.port, random.Random(seed), [0] * math.ceil(clients / EACH), pace)
        looks: list[Look] = []
        watching = [asyncio.create_task(watch(crowd, server, looks, note)), asyncio.create_task(feel(crowd))]
        await run(crowd, clients, rate, seconds)
        crowd.wrong += [f"watching failed: {task.exception()!r}" for task in watching if task.done()]
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        left = await settled(directory, before)
        note("left: " + ", ".join(f"{count} {kind.rpartition('.')[2]}" for kind, count in left.items()))
        crowd.wrong += [
            f"{left[kind]} of {kind} are left, where there were {before[kind]}"
            for kind in before
            if left[kind] > before[kind] + SPARE.get(kind, 0)
        ]
        crowd.wrong += grown(looks, seconds, kept, note)
        delays = sorted(crowd.delays)
        if delays:
            p50, p99 = (delays[int(len(delays) * part)] * 1000 for part in (0.5, 0.99))
            note(f"push to ear: p50 {p50:.0f} ms, p99 {p99:.0f} ms, most {delays[-1] * 1000:.0f} ms")
        crowd.wrong += await server.end()
    finally:
        server.discard()
    return crowd


async def settled(directory: Path, before: dict[str, int] | None) -> dict[str, int]:
    """Return what lives in the server once all clients have left, and their listeners' time is over."""
    deadline = time.monotonic() + LISTENER_SECONDS + PATIENCE
    while True:
        left = await asyncio.to_thread(counts, directory)
        here = left["sessions"] + left["cometd_lite.server.connection.HTTPConnection"]
        if not here and (before is None or left["files"] <= before["files"]):
            return left
        if time.monotonic() > deadline:
            return left
        await asyncio.sleep(1)


def grown(looks: list[Look], seconds: float, kept: float, note: Callable[[str], None]) -> list[str]:
    """Compare the memory of the last two quarters."""
    third, last = (
        [look.megabytes for look in looks if begin * seconds <= look.at < (begin + 0.25) * seconds]
        for begin in (0.5, 0.75)
    )
    if not third or not last:
        return []
    before, after = statistics.median(third), statistics.median(last)
    note(f"memory: median {before:.1f} MB in the third quarter, {after:.1f} MB in the last")
    if seconds / 2 >= max(kept, IDEMPOTENCY_SECONDS) and after > before * TOLERANCE:
        return [f"memory has grown from {before:.1f} to {after:.1f} MB"]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=5_000)
    parser.add_argument("--rate", type=float, default=50, help="pushes a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figures", type=Path, help="write what is said to this file, too")
    given = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, given.clients * 2 + 200)), hard))

    def note(line: str) -> None:
        say(line)
        if given.figures:
            with given.figures.open("a") as file:
                file.write(line + "\n")

    with TemporaryDirectory() as directory:
        began = time.monotonic()
        crowd = asyncio.run(
            soak(Path(directory), given.clients, given.minutes * 60, given.rate, given.seed, note)
        )
    note(f"{given.clients} clients for {given.minutes:g} minutes, {time.monotonic() - began:.0f} s in all")
    note(told(crowd.seen))
    for sentence in crowd.wrong:
        note(f"WRONG: {sentence}")
    note("nothing lost, nothing twice, nothing left" if not crowd.wrong else f"{len(crowd.wrong)} wrong")
    return bool(crowd.wrong)


if __name__ == "__main__":
    sys.exit(main())
