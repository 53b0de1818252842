"""Pollers, streams and sockets under names come, go, are reset and change process; a model says who is there.

    python tests/soak/soak_presence.py --pollers 1000 --streams 500 --sockets 500 --minutes 10
    python tests/soak/soak_presence.py --alone

Each client has a name in a room; some share one, as tabs do. It comes at one of two servers at one Redis
(with ``--alone`` at the one there is), stays, leaves by a reset, by closing or with a word (``DELETE``), is
away for a moment or for longer than the grace, and comes back at any of them. A poller asks each time at any
of them. Pushes to the rooms answer polls all the while. With ``--kills`` a server is killed now and then.

A watcher reads what is told of all rooms. For each name joins and leaves must take turns. A name joins when a
client of it is there, and leaves when none was there for the grace, or one has said so. In the end half of
the clients stay where they are: after the grace, both servers must list exactly those, each with its readers.
Then all leave, and nothing may be left in the servers' tables. ``--grace`` is in the place of the server's
45 s. Exits 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from redis_server import RedisServer
from server import TWISTD, Broken, Client, Server
from soak_coming_and_going import UPGRADE, Crowd, Wire, say

ROOMS = 20
TABS = 3
"""Clients of which one shares its name with the one before."""
SLACK = 3.0
"""Seconds by which what is told may be away from what clients know; a busy machine's delay comes on top."""
FAREWELL_SECONDS = 5.0
"""A connection that is closed so soon after its client's word leaves at once (HTTP.md, "Presence")."""
GONE = (Broken, OSError, asyncio.IncompleteReadError)


@dataclass
class House:
    """What all clients share, and what the model knows, by room and name; times are monotonic."""

    servers: list[Server]
    grace: float
    chance: random.Random
    coming: bool = True
    """Whether clients still leave and come back."""
    held: dict[tuple[str, str], list[list[float]]] = field(default_factory=lambda: defaultdict(list))
    """From when until when a client of a name was held: the end is that of the world while it is."""
    words: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """When a client of a name said that it leaves."""
    told: dict[tuple[str, str], list[tuple[str, float]]] = field(default_factory=lambda: defaultdict(list))
    """The events of a name, and when they were made."""
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lag: float = 0.0
    """The longest that a plain request took."""

    def fault(self, sentence: str) -> None:
        self.seen["faults"] += 1
        if len(self.wrong) < 30:
            self.wrong.append(sentence)

    def crowd(self) -> Crowd:
        """Return one of the servers, as a wire knows it."""
        server = self.chance.choice(self.servers)
        return Crowd(server.port, self.chance, [], seen=self.seen, coming=False)

    @property
    def slack(self) -> float:
        return SLACK + 2 * self.lag


class Guest:
    """A client under a name: it comes and goes until it is to stay, or to leave."""

    def __init__(self, house: House, kind: str, room: str, name: str) -> None:
        self.house = house
        self.kind = kind
        self.room = room
        self.name = name
        self.key = (room, name)
        self.target = f"{quote(room)}?as={quote(name)}"
        self.stays = False

    async def live(self) -> None:
        house, chance = self.house, self.house.chance
        while house.coming or self.stays:
            stay = chance.expovariate(1 / house.grace) if house.coming else None
            with suppress(TimeoutError, *GONE):
                async with asyncio.timeout(stay):
                    await self.read(await Wire.open(house.crowd()))
            if house.coming and chance.random() < 0.2:
                await self.say_goodbye()
            away = house.grace * chance.choice([0.02, 0.1, 0.3, 1.5, 2.0])
            await asyncio.sleep(away if house.coming else 0.1)

    async def say_goodbye(self) -> None:
        """Say that the name leaves, at any server."""
        client = Client(self.house.chance.choice(self.house.servers).port)
        self.house.words[self.key].append(time.monotonic())
        with suppress(Broken):
            answer = await client.ask("DELETE", f"/presence/{self.target}")
            if answer.status != 204:
                self.house.fault(f"{self.key} may not leave: {answer.status} {answer.body!r}")
            self.house.words[self.key].append(time.monotonic())
            self.house.seen["words"] += 1
        client.close()

    async def read(self, wire: Wire) -> None:
        """Read, and leave in the end; note from when until when a client of the name was there."""
        held = [time.monotonic(), float("inf")]
        self.house.held[self.key].append(held)
        self.house.seen["comings"] += 1
        wires = [wire]
        try:
            await (self.poll(wires) if self.kind == "poller" else self.follow(wire))
        finally:
            held[1] = time.monotonic()
            wires[0].leave()

    async def follow(self, wire: Wire) -> None:
        """Read a stream or a socket until it ends."""
        is_stream = self.kind == "stream"
        fields = "Accept: application/x-ndjson\r\n" if is_stream else UPGRADE
        await wire.send("GET", f"/{'stream' if is_stream else 'ws'}/{self.target}", fields)
        status, _ = await wire.head()
        if status not in {200, 101}:
            self.house.fault(f"{self.key} was answered {status}")
            return
        async for _ in wire.chunks() if is_stream else wire.frames():
            pass

    async def poll(self, wires: list[Wire]) -> None:
        """Poll, each time at any server; the wire that is in use stands in ``wires``."""
        cursor = "now"
        while True:
            status, body = await wires[0].ask("GET", f"/poll/{self.target}&after={cursor}&wait=5")
            if status == 503:
                await asyncio.sleep(0.2)
            elif status != 200:
                self.house.fault(f"{self.key} was answered {status}: {body[:200]!r}")
                return
            else:
                cursor = msgspec.json.decode(body)["cursor"]
            self.house.seen["polls"] += 1
            if self.house.coming and len(self.house.servers) > 1 and self.house.chance.random() < 0.5:
                wires[0].leave()
                wires[0] = await Wire.open(self.house.crowd())


async def watch(house: House, rooms: list[str]) -> None:
    """Take in what is told of all rooms."""
    query = "&".join(f"rcpt={quote(f'$presence/{room}')}" for room in rooms)
    cursor = "oldest"
    began = time.time() - time.monotonic()
    client = Client(house.servers[0].port)
    try:
        while True:
            try:
                asked = time.monotonic()
                answer = await client.ask("GET", f"/poll?{query}&after={cursor}&wait=1&limit=1000")
                house.lag = max(house.lag, time.monotonic() - asked - 1.5)
            except Broken:
                await asyncio.sleep(0.05)
                continue
            if answer.status != 200:
                await asyncio.sleep(0.05)
                continue
            told = answer.json
            if told["gap"]:
                house.fault(f"the watcher was told a gap after {cursor}")
            cursor = told["cursor"]
            for message in told["messages"]:
                room = message["recipient"].removeprefix("$presence/")
                at = _seconds(message["created_at"]) - began
                house.told[room, message["data"]["name"]].append((message["event"], at))
                house.seen[message["event"]] += 1
    finally:
        client.close()


def _seconds(created_at: str) -> float:
    return datetime.fromisoformat(created_at).timestamp()


async def push(house: House, rooms: list[str]) -> None:
    """Answer polls, now and then, while clients come and go."""
    client = Client(house.servers[-1].port)
    try:
        while house.coming:
            with suppress(Broken):
                room = quote(house.chance.choice(rooms))
                await client.ask("POST", f"/push/{room}?overflow=drop-oldest", b"hi")
            await asyncio.sleep(0.05)
    finally:
        client.close()


def check(house: House) -> None:
    """Hold what was told to what the clients know."""
    for key in house.held.keys() | house.told.keys():
        events, held = house.told[key], house.held[key]
        for number, (event, at) in enumerate(events):
            if event != ("join", "leave")[number % 2]:
                house.fault(f"{key}: joins and leaves do not take turns: {[one for one, _ in events]}")
                break
            if event == "join":
                if not any(begin - house.slack <= at <= end + house.slack for begin, end in held):
                    house.fault(f"{key} joined at {at:.1f}, and no client of it was there: {held}")
                continue
            after = at - house.grace + house.slack
            here = [(begin, end) for begin, end in held if begin < at - house.slack and end > after]
            said = [word for word in house.words[key] if abs(at - word) < FAREWELL_SECONDS + house.slack]
            if here and not said:
                house.fault(f"{key} left at {at:.1f} (grace {house.grace}), and was there: {here}")


async def listed(house: House, rooms: list[str]) -> list[dict[tuple[str, str], int]]:
    """Return the readers of each name, as each server lists them."""
    found = []
    for server in house.servers:
        client = Client(server.port)
        names: dict[tuple[str, str], int] = {}
        for room in rooms:
            answer = await client.ask("GET", f"/presence/{quote(room)}")
            assert answer.status == 200, answer
            names |= {(room, one["name"]): one["readers"] for one in answer.json["members"]}
            assert answer.json["readers"] == sum([one["readers"] for one in answer.json["members"]])
        client.close()
        found.append(names)
    return found


async def kill(house: House, kills: int, seconds: float) -> None:
    """Kill the last server, and start it again, so often."""
    for _ in range(kills):
        await asyncio.sleep(seconds / (kills + 1))
        house.servers[-1].kill()
        house.seen["kills"] += 1
        house.servers[-1].start()
        await house.servers[-1].up()


async def soak(
    directory: Path,
    *,
    guests: dict[str, int],
    seconds: float,
    grace: float,
    alone: bool = False,
    kills: int = 0,
    seed: int | None = None,
) -> House:
    """Let guests of each kind come and go for so long; return what was seen, and what was wrong."""
    patched = "import cometd_lite.core.presence as one, cometd_lite.stores.redis.script as other; "
    code = f"{patched}one.ONLINE_SECONDS = other.ONLINE_SECONDS = {grace!r}; {TWISTD}"
    redis = None if alone else RedisServer(directory).start()
    words = ("--presence", "--capacity", "100000", *(() if redis is None else ("--store", redis.address)))
    servers = []
    for name in ("one",) if alone else ("one", "two"):
        (directory / name).mkdir()
        servers.append(Server(directory / name, *words, code=code))
        servers[-1].start()
    try:
        for server in servers:
            await server.up()
        house = House(servers, grace, random.Random(seed))
        await _run(house, guests, seconds, kills)
        for server in servers:
            house.wrong += await server.end()
    finally:
        for server in servers:
            server.discard()
        if redis is not None:
            redis.kill()
    return house


def guests_of(house: House, counts: dict[str, int], rooms: list[str]) -> list[Guest]:
    """Return so many guests of each kind, in any order."""
    crowd: list[Guest] = []
    for kind, count in counts.items():
        for number in range(count):
            shares = number % TABS == 1 and crowd
            room, name = crowd[-1].key if shares else (house.chance.choice(rooms), f"{kind} {number} é")
            crowd.append(Guest(house, kind, room, name))
    house.chance.shuffle(crowd)
    return crowd


async def check_lists(house: House, rooms: list[str], there: list[Guest]) -> None:
    """Hold what the servers list to who is there."""
    model = dict(Counter([guest.key for guest in there]))
    for server, found in zip(house.servers, await listed(house, rooms), strict=True):
        if found != model:
            more, less = dict(found.items() - model.items()), dict(model.items() - found.items())
            house.fault(f"server {server.port} lists others than are there: more {more}, less {less}")


async def check_tables(house: House) -> None:
    """Look whether the tables of the servers are empty."""
    for server in house.servers:
        client = Client(server.port)
        shown = (await client.ask("GET", "/metrics")).body.decode()
        client.close()
        for metric in ("cometd_lite_presence_members 0.0", "cometd_lite_presence_bytes 0.0"):
            if metric not in shown:
                house.fault(f"server {server.port} does not show {metric}")


async def _run(house: House, counts: dict[str, int], seconds: float, kills: int) -> None:
    rooms = [f"chat/room {number}" for number in range(ROOMS)]
    crowd = guests_of(house, counts, rooms)
    beside = [asyncio.create_task(watch(house, rooms)), asyncio.create_task(push(house, rooms))]
    lives = {guest: asyncio.create_task(guest.live()) for guest in crowd}
    killing = asyncio.create_task(kill(house, kills, seconds))
    await asyncio.sleep(seconds)
    await killing
    staying, leaving = crowd[: len(crowd) // 2], crowd[len(crowd) // 2 :]
    for guest in staying:
        guest.stays = True
    house.coming = False
    for guests, there in ((leaving, staying), (staying, [])):
        for guest in guests:
            lives[guest].cancel()
        # Those that stay may still be away, for two graces at most.
        await asyncio.sleep((4 if there else 1) * house.grace + 2 * SLACK)
        await check_lists(house, rooms, there)
    await check_tables(house)
    for task in (*beside, *lives.values()):
        task.cancel()
    await asyncio.gather(*beside, *lives.values(), return_exceptions=True)
    await asyncio.sleep(0.1)  # what was closed is told in the next turns of the loop
    check(house)
    left = {key for key, events in house.told.items() if len(events) % 2}
    if left:
        house.fault(f"joined and never left: {left}")


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--sockets", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--grace", type=float, default=10)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="one server, without Redis")
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    guests = {"poller": arguments.pollers, "stream": arguments.streams, "socket": arguments.sockets}
    with TemporaryDirectory() as directory:
        house = asyncio.run(
            soak(
                Path(directory),
                guests=guests,
                seconds=60 * arguments.minutes,
                grace=arguments.grace,
                alone=arguments.alone,
                kills=arguments.kills,
                seed=arguments.seed,
            )
        )
    say(", ".join(f"{count} {what}" for what, count in sorted(house.seen.items())))
    for sentence in house.wrong:
        say(sentence)
    raise SystemExit(bool(house.wrong))


if __name__ == "__main__":
    main()
