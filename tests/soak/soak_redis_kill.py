"""Kill one of two servers, their Redis, or the network between them, while writers push and readers poll.

    python tests/soak/soak_redis_kill.py 50
    python tests/soak/soak_redis_kill.py 50 --lose 0.2

A server or Redis is killed and started again, Redis is paused, and the network is cut or stands still. With
``--lose`` the network loses that share of what is published to readers.

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

from counted import CODE, disagreements
from redis_proxy import RedisProxy
from redis_recount import Recount
from redis_server import RedisServer
from server import Answer, Client, Server
from soak_sqlite_kill import KEPT_SECONDS, PAUSE_SECONDS, WRITERS, Reader, Truth, say, write

from cometd_lite.stores.redis.connection import PREFIX

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


class Either(Client):
    """A client of both servers: it asks one of them at random."""

    def __init__(self, servers: list[Server]) -> None:
        super().__init__(servers[0].port)
        self.clients = [Client(server.port) for server in servers]

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        return await random.choice(self.clients).ask(method, target, body, **headers)

    def close(self) -> None:
        for client in self.clients:
            client.close()


async def start(directory: Path, address: str) -> list[Server]:
    """Start two servers, and wait until both have reached their Redis."""
    options = ("--store", address, "--ttl", str(KEPT_SECONDS), "--max-memory", "4G")
    servers = []
    for name in ("one", "two"):
        (directory / name).mkdir()
        words = ("--capacity", "1000000", "--capacity-bytes", "1G")
        servers.append(Server(directory / name, *options, *words, code=CODE))
        servers[-1].start()
    for server in servers:
        await server.up()
        client = Client(server.port)
        while (await client.ask("GET", "/poll/room0?after=now&wait=0")).status != 200:
            await asyncio.sleep(PAUSE_SECONDS)
        client.close()
    return servers


async def kill_one(
    redis: RedisServer, servers: list[Server], network: RedisProxy, killed: Counter[str]
) -> None:
    """Disturb one of them at random, and let it go on."""
    victim = random.choice(["redis", "one", "two", "paused", "cut", "stalled"])
    killed[victim] += 1
    if victim == "paused":
        redis.pause()
        await asyncio.sleep(random.uniform(0, 1.0))
        redis.go_on()
        return
    if victim == "stalled":
        await network.stand_still(random.uniform(0, 1.0))
        return
    if victim == "cut":
        network.cut()
        return
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


async def soak(rounds: int, share: float, directory: Path) -> int:
    """Run so many rounds; return the exit code."""
    redis = RedisServer(directory, "--appendonly", "yes", "--appendfsync", "always", "--save", "").start()
    network = RedisProxy(directory / "network.sock", redis.socket, PREFIX, share)
    await network.start()
    servers = await start(directory, network.address)
    truth = Truth()
    head = (await Client(servers[0].port).ask("GET", "/poll/room0?after=now&wait=0")).json["cursor"]
    readers = [Reader(rooms, head, patient=True) for rooms in READERS]
    polling = [asyncio.create_task(reader.follow(truth, Either(servers))) for reader in readers]
    writing = [asyncio.create_task(write(truth, Either(servers), writer)) for writer in range(WRITERS)]
    killed: Counter[str] = Counter()
    began = time.monotonic()
    for turn in range(rounds):
        await asyncio.sleep(random.uniform(*LIFE_SECONDS))
        await kill_one(redis, servers, network, killed)
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
    for server in servers:
        faults += disagreements(server.directory) + await server.end()
    try:
        Recount(redis, PREFIX)
    except AssertionError as error:
        faults.append(f"what lies in Redis does not agree: {error}")
    redis.kill()
    say(
        f"{rounds} kills {dict(killed)}: {len(truth.confirmed)} pushes confirmed {dict(truth.statuses)}, "
        f"{truth.broken} broken off, {truth.repeated} repeated by their key, {network.lost} wakes lost, "
        f"{sum(len(reader.read) for reader in readers)} deliveries to {len(readers)} readers."
    )
    say("\n".join(faults) or "Nothing lost, nothing doubled, all in order, no gap.")
    return 1 if faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kills", type=int, nargs="?", default=10)
    parser.add_argument("--lose", type=float, default=0.0, metavar="SHARE")
    asked = parser.parse_args()
    with TemporaryDirectory() as directory:
        return asyncio.run(soak(asked.kills, asked.lose, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
