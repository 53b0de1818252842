"""Kill servers again and again while workers lease messages; whatever was confirmed is done at least once.

    python tests/soak/soak_leases.py 200
    python tests/soak/soak_leases.py 50 --redis

Four writers push to four queues, each push under a key, until it is confirmed. Eight workers lease from all
of them. They work for a random time, and then acknowledge, release, extend and go on, or die: they say
nothing. The server keeps its messages in SQLite, and is killed; with ``--redis`` there are two servers at one
Redis (``appendfsync always``), and one of the three is killed. Checked is that

- every push that was confirmed is done at least once, and what was acknowledged is not given again;
- no worker is given a message while another one surely has a valid lease of it;
- the attempts of a message rise, and are as many as it was given, but for answers that were broken off;
- of two messages of a queue that are given for the first time, the older one is not given later.

Exits 1 where that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from counted import CODE, disagreements
from redis_recount import Recount
from redis_server import RedisServer
from server import Broken, Client, Server
from soak_redis_kill import Either
from soak_sqlite_kill import LIFE_SECONDS, PAUSE_SECONDS, number, say

from cometd_lite.stores.redis.connection import PREFIX

WRITERS, WORKERS = 4, 8
QUEUES = ("queue0", "queue1", "queue2", "queue3")
LEASE_SECONDS = (1.0, 3.0)
WORK_SECONDS = 1.0
OPTIONS = (
    "--capacity",
    "1000000",
    "--capacity-bytes",
    "1G",
    "--max-attempts",
    "100000",
    "--max-memory",
    "4G",
)
CLOCKS_SECONDS = 0.02
"""A process learns the difference of two clocks by reading one after the other."""
MOST_QUEUED = 200
"""Writers pause while so many messages are not done, so that each is given several times."""


@dataclass
class Held:
    """A lease that a worker was told of: until then it is surely valid, unless it was given up."""

    attempt: int
    until: float
    is_held: bool = True


@dataclass
class Job:
    """What is known of one message."""

    queue: str
    given: int = 0
    held: Held | None = None
    done_at: float | None = None
    """When an acknowledgement of it was answered."""
    may_be_done: bool = False
    """Whether an acknowledgement of it was sent, and not answered."""


@dataclass
class Truth:
    """What was confirmed, what was given and done, and what is wrong."""

    confirmed: dict[int, str] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    firsts: dict[str, list[tuple[float, float, int]]] = field(default_factory=lambda: defaultdict(list))
    """For each queue, when a first attempt was asked for and given, and its number."""
    broken: Counter[str] = field(default_factory=Counter)
    """Leases that were asked for and not answered, by queue: any of them may have been an attempt."""
    states: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    writing: bool = True
    working: bool = True
    dying: bool = True

    @property
    def left(self) -> set[int]:
        done = {at for at, job in self.jobs.items() if job.done_at is not None or job.may_be_done}
        return self.confirmed.keys() - done

    def give(self, queue: str, message: dict[str, Any], asked: float, seconds: float) -> Held:
        """Note that a worker was given a message that it asked for at a time, and check that it may be."""
        now = time.monotonic()
        at, attempt = number(message["id"]), message["attempt"]
        job = self.jobs.setdefault(at, Job(queue))
        job.given += 1
        if job.done_at is not None and job.done_at < asked:
            self.faults.append(f"{at} was given again after it was done")
        last = job.held
        if last is not None and last.is_held and now < last.until - CLOCKS_SECONDS:
            self.faults.append(f"{at} was given while another worker had it for {last.until - now:.2f} s")
        if last is not None and attempt <= last.attempt:
            self.faults.append(f"{at} was given with attempt {attempt} after attempt {last.attempt}")
        if not job.given <= attempt <= job.given + self.broken[queue]:
            self.faults.append(f"{at} was given {job.given} times, and says it was attempt {attempt}")
        if attempt == 1:
            self.firsts[queue].append((asked, now, at))
        job.held = Held(attempt, asked + seconds)
        return job.held

    def check_order(self) -> None:
        """Check that no message was given for the first time after all of a newer one's was over."""
        for queue, firsts in self.firsts.items():
            earliest: list[tuple[float, int]] = sorted((given, at) for _, given, at in firsts)
            newest, place = 0, 0
            for asked, _, at in sorted(firsts):
                while place < len(earliest) and earliest[place][0] < asked:
                    newest = max(newest, earliest[place][1])
                    place += 1
                if at < newest:
                    self.faults.append(f"{queue}: {at} was given for the first time after {newest}")


async def write(truth: Truth, client: Client, writer: int) -> None:
    """Push until told to stop, each push until it is confirmed."""
    queue, place = QUEUES[writer % len(QUEUES)], 0
    while truth.writing:
        if len(truth.left) > MOST_QUEUED:
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        text = f"{writer}.{place}"
        try:
            answer = await client.ask("POST", f"/push/{queue}", text.encode(), Idempotency_Key=text)
        except Broken:
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        if answer.status in {201, 202}:
            truth.confirmed[number(answer.json["id"])] = text
            place += 1
        elif answer.status != 503:
            truth.faults.append(f"a push was answered {answer.status}: {answer.body!r}")
        await asyncio.sleep(PAUSE_SECONDS)
    client.close()


async def work(truth: Truth, client: Client) -> None:
    """Lease from all queues in turn, and do what a worker may do, until told to stop."""
    turn = random.randrange(len(QUEUES))
    while truth.working:
        turn += 1
        queue, seconds = QUEUES[turn % len(QUEUES)], lease_seconds()
        asked = time.monotonic()
        try:
            answer = await client.ask("GET", f"/poll/{queue}?lease={seconds}&wait=0.3&limit=2")
        except Broken:
            truth.broken[queue] += 2  # as many as one answer may have
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        if answer.status != 200:
            if answer.status != 503:
                truth.faults.append(f"a lease was answered {answer.status}: {answer.body!r}")
            truth.broken[queue] += 2  # Redis may have done it, and not have said so
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        jobs = [(message, truth.give(queue, message, asked, seconds)) for message in answer.json["messages"]]
        for message, held in jobs:
            await do(truth, client, queue, message, held)
    client.close()


def lease_seconds() -> float:
    return round(random.uniform(*LEASE_SECONDS), 3)


async def do(truth: Truth, client: Client, queue: str, message: dict[str, Any], held: Held) -> None:
    """Work for a while on a message, and tell what became of it, or not."""
    what = "extended"
    while what == "extended":
        await asyncio.sleep(random.uniform(0, WORK_SECONDS) if truth.dying else 0)
        acts = ("done", "released", "extended", "dies")
        what = random.choices(acts, (6, 1, 2, 2))[0] if truth.dying else "done"
        if what == "dies":
            return
        seconds = lease_seconds()
        words = {"done": "", "released": "&release=yes", "extended": f"&extend={seconds}"}[what]
        asked = time.monotonic()
        if what != "extended":
            held.is_held = False  # from the moment at which it is said, it may be another's
        state = await tell(truth, client, f"/ack/{queue}?lease={message['lease']}{words}")
        job = truth.jobs[number(message["id"])]
        job.may_be_done |= what == "done" and state not in {"done", "gone"}
        if state == "extended" and job.held is held:
            held.until = asked + seconds
        elif state != what:
            what = state  # it is not known what became of it, or it is another's
        if state == "done":
            job.done_at = job.done_at or time.monotonic()
    held.is_held = False


async def tell(truth: Truth, client: Client, target: str) -> str:
    """Settle a lease; return what became of it, or that it is not known."""
    try:
        answer = await client.ask("POST", target)
    except Broken:
        await asyncio.sleep(PAUSE_SECONDS)
        state = "broken"
    else:
        if answer.status in {200, 410}:
            (state,) = [lease["state"] for lease in answer.json["leases"]]
        else:
            state = f"answered {answer.status}"
            if answer.status != 503:
                truth.faults.append(f"an acknowledgement was answered {answer.status}: {answer.body!r}")
    truth.states[state] += 1
    return state


class SQLite:
    """One server that keeps its messages in a file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = Server(directory, "--store", "sqlite:comet.db", *OPTIONS, code=CODE)

    async def start(self) -> None:
        self.server.start()
        await self.server.up()

    def client(self) -> Client:
        return Client(self.server.port)

    async def kill(self, turn: int) -> list[str]:
        faults = []
        if turn % 10:
            await self.server.up()
            faults = await asyncio.to_thread(disagreements, self.directory)
            await asyncio.sleep(random.uniform(*LIFE_SECONDS))
        else:
            await asyncio.sleep(random.uniform(0, 1.5))  # as it starts, or reads its file
        self.server.kill()
        self.server.start()
        return faults

    async def up(self) -> None:
        await self.server.up()

    async def end(self) -> list[str]:
        return disagreements(self.directory) + await self.server.end()


class Redis:
    """Two servers at one Redis."""

    def __init__(self, directory: Path) -> None:
        words = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        self.redis = RedisServer(directory, *words).start()
        self.servers = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            options = ("--store", self.redis.address, *OPTIONS)
            self.servers.append(Server(directory / name, *options, code=CODE))

    async def start(self) -> None:
        for server in self.servers:
            server.start()
        await self.up()

    def client(self) -> Client:
        return Either(self.servers)

    async def kill(self, _: int) -> list[str]:
        await asyncio.sleep(random.uniform(0.2, 1.5))
        victim = random.choice([self.redis, *self.servers])
        victim.kill()
        if victim is self.redis:
            await asyncio.sleep(random.uniform(0, 0.5))
        await asyncio.to_thread(victim.start)
        return []

    async def up(self) -> None:
        for server in self.servers:
            await server.up()
            client = Client(server.port)
            while (await client.ask("GET", "/poll/queue0?after=now&wait=0")).status != 200:
                await asyncio.sleep(PAUSE_SECONDS)
            client.close()

    async def end(self) -> list[str]:
        faults = []
        for server in self.servers:
            faults += disagreements(server.directory) + await server.end()
        try:
            Recount(self.redis, PREFIX)
        except AssertionError as error:
            faults.append(f"what lies in Redis does not agree: {error}")
        self.redis.kill()
        return faults


async def soak(kills: int, make: Callable[[Path], SQLite | Redis], directory: Path) -> int:
    """Run so many rounds; return the exit code."""
    place, truth = make(directory), Truth()
    await place.start()
    writing = [asyncio.create_task(write(truth, place.client(), writer)) for writer in range(WRITERS)]
    working = [asyncio.create_task(work(truth, place.client())) for _ in range(WORKERS)]
    began = time.monotonic()
    for turn in range(kills):
        truth.faults += await place.kill(turn)
        if turn % 10 == 9 or truth.faults:
            took = time.monotonic() - began
            say(f"{turn + 1} kills in {took:.0f} s, {len(truth.confirmed)} confirmed, {dict(truth.states)}")
        if truth.faults:
            break
    await place.up()
    await asyncio.sleep(1.0)
    truth.writing = truth.dying = False
    deadline = time.monotonic() + 60
    while truth.left and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    await asyncio.sleep(LEASE_SECONDS[1])  # what was not told comes once more
    truth.working = False
    await asyncio.gather(*writing, *working)
    client = place.client()
    for queue in QUEUES:
        if queued := (await client.ask("GET", f"/recipients/{queue}")).json["queued"]:
            truth.faults.append(f"{queue} still has {queued}, though all was acknowledged")
    client.close()
    truth.check_order()
    unseen = truth.confirmed.keys() - truth.jobs.keys()
    given = Counter(job.given for job in truth.jobs.values())
    if truth.left:
        truth.faults.append(
            f"{len(truth.left)} are not done, {len(unseen)} were never given: {sorted(truth.left)[:5]}"
        )
    faults = truth.faults + await place.end()
    say(
        f"{kills} kills: {len(truth.confirmed)} pushes confirmed, given {dict(sorted(given.items()))} times, "
        f"acknowledgements: {dict(truth.states)}, leases broken off: {sum(truth.broken.values())}."
    )
    say("\n".join(faults[:20]) or "All was done, no lease was held twice, attempts are exact, all in order.")
    return 1 if faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument(
        "--redis", action="store_true", help="two servers at one Redis, in the place of SQLite"
    )
    asked = parser.parse_args()
    with TemporaryDirectory() as directory:
        return asyncio.run(soak(asked.kills, Redis if asked.redis else SQLite, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
