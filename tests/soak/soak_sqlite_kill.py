"""Kill the server again and again while writers push and readers poll; nothing that was confirmed is lost.

    python tests/soak/soak_sqlite_kill.py 200 [--sync normal]

Eight writers push to four rooms, as fast as they are answered. Half of them give each push a key and repeat
it until it is confirmed: those are there exactly once. The others go on to the next push: what was not
confirmed may be there or not. Eight readers poll by cursor: rooms, two rooms at once, and all of them by a
pattern. Four of them are parked all the time; four come only after each restart, and so read what was in the
file. Each must read what was confirmed for it in the one order, once, with no gap told. Exits 1 where that is
not so.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from counted import CODE, disagreements
from server import Broken, Client, Server

WRITERS = 8
ROOMS = ("room0", "room1", "room2", "room3")
PARKED = (("room0",), ("room1",), ("room2", "room3"), ("**",))
LATE = (("room2",), ("room3",), ("room0", "room1"), ("*",))
KEPT_SECONDS = 60
"""Long enough for every reader, short enough that expiry happens, too."""
PAUSE_SECONDS = 0.02
"""Until a client that was refused, or cut off, comes again."""
LIFE_SECONDS = (0.0, 1.2)
"""How long the server lives once it answers."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def number(id_: str) -> int:
    return int(id_.partition("-")[2])


@dataclass
class Truth:
    """What was confirmed, by number; what is wrong; and when to end."""

    confirmed: dict[int, tuple[str, str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    repeated: int = 0
    writing: bool = True
    reading: bool = True

    def confirm(self, id_: str, room: str, text: str) -> None:
        """Note that a push got its 201 or 202."""
        if self.confirmed.setdefault(number(id_), (room, text)) != (room, text):
            self.faults.append(f"{id_} was given twice: {self.confirmed[number(id_)]} and {(room, text)}")


async def write(truth: Truth, client: Client, writer: int) -> None:
    """Push until told to stop."""
    keyed = writer % 2 == 0
    room = ROOMS[writer % len(ROOMS)]
    place = 0
    while truth.writing:
        text = f"{writer}.{place}"
        headers = {"Content_Type": "text/plain"} | ({"Idempotency_Key": text} if keyed else {})
        try:
            answer = await client.ask("POST", f"/push/{room}", text.encode(), **headers)
        except Broken:
            truth.broken += 1
        else:
            truth.statuses[answer.status] += 1
            if answer.status in {201, 202}:
                truth.confirm(answer.json["id"], room, text)
                place += 1
                continue
            if answer.status != 503:
                truth.faults.append(f"a push was answered {answer.status}: {answer.body!r}")
        truth.repeated += keyed
        place += not keyed  # it may have been kept or not
        await asyncio.sleep(PAUSE_SECONDS)
    client.close()


@dataclass
class Reader:
    """What one reader read, as it was told."""

    rooms: tuple[str, ...]
    cursor: str
    read: list[tuple[int, str, str]] = field(default_factory=list)
    patient: bool = False
    """A store that is away for a moment is no fault."""

    def wants(self, room: str) -> bool:
        return room in self.rooms or "*" in self.rooms or "**" in self.rooms

    async def follow(self, truth: Truth, client: Client) -> None:
        """Poll until told to stop."""
        while truth.reading:
            await self.poll(truth, client, 2)
        client.close()

    async def catch_up(self, truth: Truth, client: Client) -> None:
        """Poll for as long as there is something."""
        while await self.poll(truth, client, 0):
            pass
        client.close()

    async def poll(self, truth: Truth, client: Client, wait: int) -> bool:
        """Poll once; return whether there may be more at once."""
        names = "&".join(f"rcpt={room}" for room in self.rooms)
        try:
            answer = await client.ask("GET", f"/poll?{names}&after={self.cursor}&wait={wait}&limit=1000")
        except Broken:
            await asyncio.sleep(PAUSE_SECONDS)
            return False
        if answer.status == 503 and self.patient:
            await asyncio.sleep(PAUSE_SECONDS)
            return False
        if answer.status != 200:
            truth.faults.append(f"a poll was answered {answer.status}: {answer.body!r}")
            return False
        batch = answer.json
        if batch["gap"]:
            self.gap(truth)
        self.read += [(number(m["id"]), m["recipient"], m["data"]) for m in batch["messages"]]
        self.cursor = batch["cursor"]
        return bool(batch["more"])

    def gap(self, truth: Truth) -> None:
        """Take in that messages were lost before the next ones."""
        truth.faults.append(f"{self.rooms} was told a gap at {self.cursor}")

    def faults(self, truth: Truth) -> Iterator[str]:
        """Say what is wrong with what was read."""
        numbers = [found[0] for found in self.read]
        if numbers != sorted(set(numbers)):
            yield f"{self.rooms} read out of order, or twice"
        texts = Counter(text for _, _, text in self.read)
        twice = [text for text, times in texts.items() if times > 1]
        if twice:
            yield f"{self.rooms} read under two numbers: {twice[:5]}"
        read = {found[0]: found[1:] for found in self.read}
        missed = [
            (at, room, text)
            for at, (room, text) in truth.confirmed.items()
            if self.wants(room) and read.get(at) != (room, text)
        ]
        if missed:
            yield f"{self.rooms} missed {len(missed)} that were confirmed: {missed[:5]}"


async def soak(rounds: int, sync: str, directory: Path) -> int:
    """Run so many rounds; return the exit code."""
    options = ("--store", "sqlite:comet.db", "--sync", sync, "--ttl", str(KEPT_SECONDS))
    words = ("--capacity", "1000000", "--capacity-bytes", "1G")
    server = Server(directory, *options, *words, code=CODE)
    truth = Truth()
    server.start()
    await server.up()
    head = (await Client(server.port).ask("GET", "/poll/room0?after=now&wait=0")).json["cursor"]
    parked = [Reader(rooms, head) for rooms in PARKED]
    late = [Reader(rooms, head) for rooms in LATE]
    polling = [asyncio.create_task(reader.follow(truth, Client(server.port))) for reader in parked]
    writing = [asyncio.create_task(write(truth, Client(server.port), writer)) for writer in range(WRITERS)]
    began = time.monotonic()
    for turn in range(rounds):
        if turn % 10:
            await server.up()
            truth.faults += await asyncio.to_thread(disagreements, directory)
            await asyncio.gather(*[reader.catch_up(truth, Client(server.port)) for reader in late])
            await asyncio.sleep(random.uniform(*LIFE_SECONDS))
        else:
            await asyncio.sleep(random.uniform(0, 1.5))  # as it starts, reads its file, or a moment later
        server.kill()
        server.start()
        if turn % 20 == 19 or truth.faults:
            took = time.monotonic() - began
            say(f"{turn + 1} kills in {took:.0f} s, {len(truth.confirmed)} confirmed")
        if truth.faults:
            break
    await server.up()
    await asyncio.sleep(0.5)
    truth.writing = False
    await asyncio.gather(*writing)
    server.kill()
    server.start()
    await server.up()
    await asyncio.gather(*[reader.catch_up(truth, Client(server.port)) for reader in late])
    await asyncio.sleep(2.5)  # one more wait of those who are parked
    truth.reading = False
    await asyncio.gather(*polling)
    readers = [*parked, *late]
    faults = [*truth.faults, *[fault for reader in readers for fault in reader.faults(truth)]]
    faults += disagreements(directory) + await server.end()
    size = (directory / "comet.db").stat().st_size / 1024 / 1024
    say(
        f"{rounds} kills with --sync={sync}: {len(truth.confirmed)} pushes confirmed {dict(truth.statuses)}, "
        f"{truth.broken} broken off, {truth.repeated} of them repeated by their key, "
        f"{sum(len(reader.read) for reader in readers)} deliveries to {len(readers)} readers; "
        f"the file has {size:.1f} MB."
    )
    say("\n".join(faults) or "Nothing lost, nothing doubled, all in order, no gap.")
    return 1 if faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--sync", choices=["full", "normal"], default="full")
    asked = parser.parse_args()
    with TemporaryDirectory() as directory:
        return asyncio.run(soak(asked.kills, asked.sync, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
