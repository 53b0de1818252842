"""An application that is slow, fails every other time, and is down for minutes, is told of everything.

    python tests/soak/soak_webhooks.py
    python tests/soak/soak_webhooks.py --redis

Visitors, each under a name of its own, join rooms and leave them with a word. Persons are away while messages
are pushed to them, and fetch them later; now and then one fetches its message at once. Meanwhile the
application answers at once, then slowly, now and then too late, then every other time with 500, then it is
not there for ``--down`` seconds, and then all of this again. With ``--redis`` two servers at one Redis serve
the clients, else one on SQLite.

In the end each join and leave that ``$presence`` tells of must have been taken, in the same order for each
room, and one ``unread`` for each message that was left for a while, in the order of its person's messages.
Signatures are verified by the package standardwebhooks. Exits 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from receivers import KEY, HTTPReceiver
from redis_server import RedisServer
from server import Broken, Client, Server
from soak_coming_and_going import say

ROOMS = [f"room/{number}" for number in range(10)]
UNREAD_SECONDS = 3.0
SLACK = 4.0
"""Seconds after which what is unread was noticed, on a busy machine too."""
PATIENCE = 180.0
"""Seconds in which all that waits is taken, once the application answers."""


@dataclass
class Town:
    """What all clients share; ``expected`` are the events of each room and person, in order."""

    servers: list[Server]
    chance: random.Random
    coming: bool = True
    expected: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    either: set[tuple[str, str]] = field(default_factory=set)
    """Events of messages that were fetched so late that they may have been told."""
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def ask(self, method: str, target: str, body: bytes = b"", server: Server | None = None) -> Any:
        """Return the answer of a server, or of any."""
        client = Client((server or self.chance.choice(self.servers)).port)
        try:
            answer = await client.ask(method, target, body)
        finally:
            client.close()
        assert answer.status < 300, answer
        return answer.json if answer.body else None


async def visit(town: Town, numbers: itertools.count[int]) -> None:
    """Join a room and leave it, again and again, each time under a new name."""
    while town.coming:
        room, name = town.chance.choice(ROOMS), f"visitor-{next(numbers)}"
        with suppress(TimeoutError):
            async with asyncio.timeout(town.chance.uniform(0.5, 4)):
                await town.ask("GET", f"/poll/{room}?after=now&wait=60&as={name}")
        await town.ask("DELETE", f"/presence/{room}?as={name}")


async def be_away(town: Town, person: str) -> None:
    """Leave a message unread until that was noticed, or fetch it at once."""
    while town.coming:
        began = time.monotonic()
        message = (await town.ask("POST", f"/push/{person}", b"hi"))["id"]
        is_left = town.chance.random() >= 0.3
        if is_left:
            town.expected[person].append(("unread", message))
            await asyncio.sleep(UNREAD_SECONDS + SLACK)
        await town.ask("GET", f"/poll/{person}?wait=0")
        if not is_left:
            town.seen["fetched at once"] += 1
            if time.monotonic() - began > UNREAD_SECONDS - 0.5:
                town.either.add(("unread", message))
                town.seen["fetched too late to say"] += 1
        await asyncio.sleep(town.chance.uniform(0, 2))


async def watch(town: Town) -> None:
    """Take in what is told of all rooms."""
    query = "&".join(f"rcpt=$presence/{room}" for room in ROOMS)
    cursor = "oldest"
    while True:
        told = await town.ask("GET", f"/poll?{query}&after={cursor}&wait=1&limit=1000")
        cursor = told["cursor"]
        if told["gap"]:
            town.wrong.append("the watcher was told a gap")
        for message in told["messages"]:
            room = message["recipient"].removeprefix("$presence/")
            town.expected[room].append((message["event"], message["data"]["name"]))


async def misbehave(town: Town, receiver: HTTPReceiver, seconds: float, slow: float, down: float) -> None:
    """Let the application answer in each way for so many seconds, twice, and be down in between."""
    turns = itertools.count()
    ways = {
        "well": lambda: (204, 0.0),
        "slow": lambda: (204, slow * town.chance.choice([0.1, 0.2, 0.2, 1.0])),
        "every other": lambda: (500 if next(turns) % 2 else 204, 0.0),
    }
    for is_last in (False, True):
        for way, answer in ways.items():
            say(f"the application answers {way}")
            receiver.answer = answer
            await asyncio.sleep(seconds)
        if not is_last:
            say(f"the application is down for {down:.0f} s")
            receiver.stop()
            began = time.monotonic()
            await asyncio.sleep(down)
            town.seen["waited while it was down"] = await waiting(town)
            receiver.start()
            town.seen["seconds down"] = round(time.monotonic() - began)


async def waiting(town: Town) -> int:
    """Return how many events wait, as far as any server knows."""
    counts = []
    for server in town.servers:
        client = Client(server.port)
        text = (await client.ask("GET", "/metrics")).body.decode()
        client.close()
        counts += re.findall(r"^cometd_lite_webhook_events_waiting (\S+)$", text, re.MULTILINE)
    return max(int(float(count)) for count in counts)


def check(town: Town, receiver: HTTPReceiver) -> None:
    """Hold what the application was told to what has happened."""
    told: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for event in receiver.events:
        key = (event["event"], event["name"] if "name" in event else event["id"])
        town.seen["told again"] += key in told[event["recipient"]]
        told[event["recipient"]][key] = None
        town.seen[event["event"]] += 1
    for recipient in told.keys() | town.expected.keys():
        found, expected = [one for one in told[recipient] if one not in town.either], town.expected[recipient]
        if found != expected:
            lost, more = set(expected) - set(found), set(found) - set(expected)
            town.wrong.append(
                f"{recipient}: {len(lost)} lost ({list(lost)[:3]}), {len(more)} too many ({list(more)[:3]})"
                if lost or more
                else f"{recipient}: told in another order"
            )
    town.seen["attempts"] = len(receiver.attempts)
    town.seen["answered 500"] = receiver.attempts.count(500)


async def soak(
    directory: Path,
    *,
    visitors: int,
    persons: int,
    seconds: float,
    slow: float,
    down: float,
    redis: bool = False,
    seed: int | None = None,
) -> Town:
    """Let so many clients come and go while the application misbehaves; return what was wrong."""
    (directory / "key").write_text(KEY)
    receiver = HTTPReceiver()
    store = RedisServer(directory).start() if redis else None
    words = (*receiver.options, "--notify-key", "../key", "--presence", "--unread-after", str(UNREAD_SECONDS))
    words = (*words, "--store", "sqlite:comet.db" if store is None else store.address)
    servers = []
    for name in ("one", "two") if redis else ("one",):
        (directory / name).mkdir()
        servers.append(Server(directory / name, *words))
        servers[-1].start()
    town = Town(servers, random.Random(seed))
    try:
        for server in servers:
            await server.up()
            while (await town.ask("GET", "/healthz", server=server))["store"] != "ok":
                await asyncio.sleep(0.05)
        watching = asyncio.create_task(watch(town))
        numbers = itertools.count()
        lives = [asyncio.create_task(visit(town, numbers)) for _ in range(visitors)]
        lives += [asyncio.create_task(be_away(town, f"person/{number}")) for number in range(persons)]
        await misbehave(town, receiver, seconds, slow, down)
        town.coming = False
        await asyncio.gather(*lives)
        await asyncio.sleep(SLACK)
        receiver.answer = lambda: (204, 0.0)
        deadline = time.monotonic() + PATIENCE
        while await waiting(town) and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
        await asyncio.sleep(1)
        watching.cancel()
        with suppress(asyncio.CancelledError, Broken):
            await watching
        check(town, receiver)
        for server in servers:
            town.wrong += await server.end()
    finally:
        for server in servers:
            server.discard()
        receiver.stop()
        if store is not None:
            store.kill()
    return town


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--persons", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60, help="of each way to answer")
    parser.add_argument("--slow", type=float, default=20, help="the longest that an answer takes")
    parser.add_argument("--down", type=float, default=300)
    parser.add_argument("--redis", action="store_true", help="two servers at one Redis")
    parser.add_argument("--seed", type=int)
    arguments = vars(parser.parse_args())
    with TemporaryDirectory() as directory:
        town = asyncio.run(soak(Path(directory), **arguments))
    say(", ".join(f"{count} {what}" for what, count in sorted(town.seen.items())))
    for sentence in town.wrong:
        say(sentence)
    raise SystemExit(bool(town.wrong))


if __name__ == "__main__":
    main()
