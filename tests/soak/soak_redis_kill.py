"""Kill one of two servers, or their Redis, again and again while writers push and readers poll at either.

    python tests/soak/soak_redis_kill.py 50

Redis keeps everything (``appendonly yes``, ``appendfsync always``). Eight writers push to four rooms, each
push at one of the two servers at random. Half of them give each push a key and repeat it, at either server,
until it is confirmed: those are there exactly once. The others go on to the next push: what was not confirmed
may be there or not. Eight readers poll by cursor, each poll at one of the two: rooms, two rooms at once, and
all of them by a pattern. Each must read what was confirmed for it in the one order, once, with no gap told.
Exits 1 where that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from redis_server import RedisServer
from server import Answer, Broken, Client, Server
from soak_sqlite_kill import KEPT_SECONDS, ROOMS, WRITERS, Reader, Truth, number, say

READERS = (
    ("room0",),
    ("room1",),
    ("room2",),
    ("room3",),
    ("room0", "room1"),
    ("room2", "room3"),
    ("**",),
    ("*",),
)
LIFE_SECONDS = (0.2, 1.5)
"""How long all of them live between two kills."""
PAUSE_SECONDS = 0.02


class Either:
    """A client of both servers: it asks one of them at random."""

    def __init__(self, servers: list[Server]) -> None:
        self._clients = [Client(server.port) for server in servers]

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        return await random.choice(self._clients).ask(method, target, body, **headers)

    def close(self) -> None:
        for client in self._clients:
            client.close()


async def write(truth: Truth, servers: list[Server], writer: int) -> None:
    """Push until told to stop."""
    client = Either(servers)
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
        place += not keyed  # whether it was kept or not, nobody knows
        await asyncio.sleep(PAUSE_SECONDS)
    client.close()


class Rover(Reader):
    """A reader that polls at one server, then at another."""

    async def rove(self, truth: Truth, servers: list[Server]) -> None:
        """Poll until told to stop."""
        client = Either(servers)
        names = "&".join(f"rcpt={room}" for room in self.rooms)
        while truth.reading:
            try:
                answer = await client.ask("GET", f"/poll?{names}&after={self.cursor}&wait=2&limit=1000")
            except Broken:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if answer.status == 200:
                batch = answer.json
                if batch["gap"]:
                    truth.faults.append(f"{self.rooms} was told a gap at {self.cursor}")
                self.read += [(number(m["id"]), m["recipient"], m["data"]) for m in batch["messages"]]
                self.cursor = batch["cursor"]
            elif answer.status != 503:
                truth.faults.append(f"a poll was answered {answer.status}: {answer.body!r}")
        client.close()


async def start(directory: Path, address: str) -> list[Server]:
    """Start two servers, and wait until both have reached their Redis."""
    options = ("--store", address, "--ttl", str(KEPT_SECONDS), "--max-memory", "4G")
    servers = []
    for name in ("one", "two"):
        (directory / name).mkdir()
        servers.append(Server(directory / name, *options, "--capacity", "1000000", "--capacity-bytes", "1G"))
        servers[-1].start()
    for server in servers:
        await server.up()
        client = Client(server.port)
        while (await client.ask("GET", "/poll/room0?after=now&wait=0")).status != 200:
            await asyncio.sleep(PAUSE_SECONDS)
        client.close()
    return servers


async def kill_one(redis: RedisServer, servers: list[Server], killed: Counter[str]) -> None:
    """Kill one of the three at random, and start it again."""
    victim = random.choice(["redis", "one", "two"])
    killed[victim] += 1
    if victim == "redis":
        redis.kill()
        await asyncio.sleep(random.uniform(0, 0.5))
        await asyncio.to_thread(redis.start)
        return
    server = servers[["one", "two"].index(victim)]
    server.kill()
    server.start()
    if random.random() < 0.7:
        await server.up()  # else the next kill may come as it starts


async def stop(servers: list[Server]) -> list[str]:
    """End the servers; return what was wrong with that, and what they have logged."""
    faults = []
    for server in servers:
        code = await server.stop()
        log = server.log.read_text()
        if code != 0:
            faults.append(f"the server ended with {code}")
        for word in ("Traceback", "Unhandled"):
            before, found, behind = log.partition(word)
            if found:
                faults.append(f"the log has a failure: {before[-500:]}{found}{behind[:2_000]}")
    return faults


async def soak(rounds: int, directory: Path) -> int:
    """Run so many rounds; return the exit code."""
    redis = RedisServer(directory, "--appendonly", "yes", "--appendfsync", "always", "--save", "").start()
    servers = await start(directory, redis.address)
    truth = Truth()
    head = (await Client(servers[0].port).ask("GET", "/poll/room0?after=now&wait=0")).json["cursor"]
    readers = [Rover(rooms, head) for rooms in READERS]
    polling = [asyncio.create_task(reader.rove(truth, servers)) for reader in readers]
    writing = [asyncio.create_task(write(truth, servers, writer)) for writer in range(WRITERS)]
    killed: Counter[str] = Counter()
    began = time.monotonic()
    for turn in range(rounds):
        await asyncio.sleep(random.uniform(*LIFE_SECONDS))
        await kill_one(redis, servers, killed)
        if turn % 10 == 9 or truth.faults:
            took = time.monotonic() - began
            say(f"{turn + 1} kills {dict(killed)} in {took:.0f} s, {len(truth.confirmed)} confirmed")
        if truth.faults:
            break
    for server in servers:
        await server.up()
    await asyncio.sleep(1.0)
    truth.writing = False
    await asyncio.gather(*writing)
    await asyncio.sleep(3.0)  # one more wait of those who are parked
    truth.reading = False
    await asyncio.gather(*polling)
    faults = [*truth.faults, *[fault for reader in readers for fault in reader.faults(truth)]]
    faults += await stop(servers)
    redis.kill()
    say(
        f"{rounds} kills {dict(killed)}: {len(truth.confirmed)} pushes confirmed {dict(truth.statuses)}, "
        f"{truth.broken} broken off, {truth.repeated} repeated by their key, "
        f"{sum(len(reader.read) for reader in readers)} deliveries to {len(readers)} readers."
    )
    say("\n".join(faults) or "Nothing lost, nothing doubled, all in order, no gap.")
    return 1 if faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kills", type=int, nargs="?", default=10)
    asked = parser.parse_args()
    with TemporaryDirectory() as directory:
        return asyncio.run(soak(asked.kills, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
