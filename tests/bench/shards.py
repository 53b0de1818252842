"""``python tests/bench/shards.py``: recipients spread over 1, 2 and 4 Redis, and what that costs.

A prototype of what docs/scale.md designs, outside of the package. ``Shards`` has a ``RedisStore`` for each
Redis. The hash of a recipient's name says on which of them its mailbox lies. Each has an order of its own,
and ``Places`` hold a cursor for each. Two processes push to mailboxes, then read them: one each, ten at once,
ten at once that hold nothing more, and all by a pattern. Every message that was pushed must be read once, and
those of a recipient in order.

What is printed is CPU time, of all processes, of all Redis and of the busiest Redis, for each message that is
pushed or read, and for each read that finds nothing:
on a machine with few cores the rate shows only how they share these.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from heapq import merge
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from processes import Processes  # noqa: E402  it lies beside this file
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred  # noqa: E402

from cometd_lite.core.message import OLDEST, Content, Cursor, Message, Push  # noqa: E402
from cometd_lite.core.recipient import is_pattern  # noqa: E402
from cometd_lite.core.store import Store  # noqa: E402
from cometd_lite.limits import Limits  # noqa: E402

WORKERS = 2
UNDER_WAY = 64
MAILBOXES = 1_000
"""Of each worker."""
EACH = 10
"""Messages of each mailbox."""
TOGETHER = 10
"""Mailboxes that are read together."""
LIMIT = 100
PHASES = ("push", "one", "ten", "nothing", "pattern")


class Places(dict[int, Cursor]):
    """A cursor for each shard on which a reader's recipients lie; the oldest place where it has none.

    In a request it is the cursors with dots between them, in the order of the shards.
    """

    def __missing__(self, shard: int) -> Cursor:
        return OLDEST

    def __str__(self) -> str:
        return ".".join([f"{shard}:{cursor}" for shard, cursor in sorted(self.items())])

    @classmethod
    def parse(cls, text: str) -> Places:
        """Return the places that a text names. Raises ``ValueError``."""
        pairs = [part.partition(":") for part in text.split(".") if part]
        return cls({int(shard): Cursor.parse(cursor) for shard, _, cursor in pairs})


class Shards:
    """Several stores, over which recipients are spread by a hash of their names."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores

    def shard_of(self, name: str) -> int:
        """Return where the mailbox of a recipient lies."""
        return crc32(name.encode()) % len(self.stores)

    def by_shard(self, recipients: Sequence[str]) -> Mapping[int, tuple[str, ...]]:
        """Return which of the recipients are asked for at each shard: a pattern at all of them."""
        found: dict[int, list[str]] = {}
        for name in recipients:
            for shard in range(len(self.stores)) if is_pattern(name) else (self.shard_of(name),):
                found.setdefault(shard, []).append(name)
        return {shard: tuple(names) for shard, names in found.items()}

    async def append(self, push: Push, now: float) -> list[Message]:
        """Append a push at each shard of its recipients: all or nothing at each of them alone."""
        asked = [
            maybeDeferred(self.stores[shard].append, Push(names, push.contents, push.event), now, now)
            for shard, names in self.by_shard(push.recipients).items()
        ]
        return [message for messages in await gatherResults(asked) for message in messages]

    async def read(
        self, recipients: Sequence[str], after: Places, limit: int, now: float
    ) -> tuple[list[Message], Places, bool]:
        """Return what the recipients hold after the places, the next places, and whether there is more.

        Messages of one shard are in its order. Those of several are, within a batch, in the order of the
        times at which they were accepted. Each shard is asked for its part of the limit.
        """
        shards = self.by_shard(recipients)
        part = -(-limit // len(shards))
        asked = [
            maybeDeferred(self.stores[shard].read, names, after[shard], part, now)
            for shard, names in shards.items()
        ]
        batches = dict(zip(shards, await gatherResults(asked), strict=True))
        of_each = [batch.messages for batch in batches.values()]
        merged = merge(*of_each, key=lambda message: message.created_at)
        places = Places(after | {shard: batch.cursor for shard, batch in batches.items()})
        return list(merged), places, any(batch.more for batch in batches.values())


# -- one process of the prototype


class Worker:
    """One of the processes: it pushes to mailboxes of its own, and reads them."""

    def __init__(self, number: int, shards: Shards, clock: Callable[[], float]) -> None:
        self.shards = shards
        self.clock = clock
        self.mailboxes = [f"worker{number}/{mailbox}" for mailbox in range(MAILBOXES)]
        self.pattern = f"worker{number}/*"
        self.places: dict[tuple[str, ...], Places] = {}
        """Up to where each group of mailboxes was read."""

    async def run(self, phase: str) -> int:
        """Do what a phase is; return how many messages, or reads that find nothing, there were."""
        if phase == "push":
            names = self.mailboxes * EACH
            numbered = zip(names, range(len(names)), strict=True)
            await self._all([lambda name=name, at=at: self.push(name, at) for name, at in numbered])
            return len(names)
        if phase == "nothing":
            groups = [group for group in self.places if len(group) == TOGETHER] * EACH
            return sum(await self._all([lambda group=group: self.read_nothing(group) for group in groups]))
        size = {"one": 1, "ten": TOGETHER, "pattern": MAILBOXES}[phase]
        parts = [tuple(self.mailboxes[at : at + size]) for at in range(0, MAILBOXES, size)]
        groups = [(self.pattern,)] if phase == "pattern" else parts
        return sum(await self._all([lambda group=group: self.read(group) for group in groups]))

    async def push(self, name: str, number: int) -> None:
        """Push a message to a mailbox."""
        content = Content.of(f"{number:0100}")
        await self.shards.append(Push((name,), (content,)), self.clock())

    async def read(self, names: tuple[str, ...]) -> int:
        """Read all that mailboxes hold, and check it; return how many messages that were."""
        places, more = Places(), True
        found: dict[str, list[int]] = {}
        while more:
            before = Places.parse(str(places))
            messages, places, more = await self.shards.read(names, before, LIMIT, self.clock())
            for message in messages:
                found.setdefault(message.recipient, []).append(int(message.content.body))
        self.places[names] = places
        wanted = self.mailboxes if names == (self.pattern,) else names
        assert found == {
            name: [self.mailboxes.index(name) + MAILBOXES * at for at in range(EACH)] for name in wanted
        }, "each message is read once, and those of a mailbox in their order"
        return EACH * len(wanted)

    async def read_nothing(self, names: tuple[str, ...]) -> int:
        """Read mailboxes from where they were read to, which is to find nothing."""
        messages, _, more = await self.shards.read(names, self.places[names], LIMIT, self.clock())
        assert not messages
        assert not more
        return 1

    async def _all(self, calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
        """Make calls, with some of them under way at once; return their results."""
        todo = iter(calls)

        async def some() -> list[Any]:
            return [await call() for call in todo]

        found = await gatherResults([Deferred.fromCoroutine(some()) for _ in range(UNDER_WAY)])
        return [result for results in found for result in results]


def work(number: int, addresses: Sequence[str]) -> None:
    """Be a worker: for each phase that is named on a line, do it, and print what it took."""
    from twisted.internet import reactor  # noqa: PLC0415  it is installed by being imported

    from cometd_lite.stores.redis.store import RedisStore  # noqa: PLC0415  as above

    limits = Limits(max_memory=1024**3)
    stores = [RedisStore(address, limits) for address in addresses]

    async def phases() -> None:
        await gatherResults([store.open(reactor.seconds()) for store in stores])
        worker = Worker(number, Shards(stores), reactor.seconds)
        for phase in sys.stdin:
            began = time.process_time()
            times = await worker.run(phase.strip())
            tell({"times": times, "cpu": time.process_time() - began})

    def ended(result: object) -> None:
        if result is not None:
            sys.stderr.write(f"{result}\n")
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(phases()).addBoth(ended))
    reactor.run()


def tell(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


# -- the measurement


def measure(redis: int) -> dict[str, list[float]]:
    """Return for each phase the µs of CPU of the processes, of all Redis, and of the busiest Redis."""
    from redis_server import RedisServer  # noqa: PLC0415  it needs hiredis, and ``Shards`` does not

    with ExitStack() as stack:
        servers = []
        for number in range(redis):
            directory = Path(stack.enter_context(TemporaryDirectory())) / str(number)
            directory.mkdir()
            servers.append(RedisServer(directory).start())
            stack.callback(servers[-1].kill)
        pids = [server.process.pid for server in servers if server.process is not None]
        workers = []
        for number in range(WORKERS):
            command = [
                sys.executable,
                __file__,
                "--worker",
                str(number),
                *[server.address for server in servers],
            ]
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(worker.wait)
            stack.callback(worker.kill)
            workers.append(worker)
        found = {}
        for phase in PHASES:
            before = [Processes.cpu_of(pid) for pid in pids]
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(f"{phase}\n")
                worker.stdin.flush()
            answers = [
                json.loads(worker.stdout.readline()) for worker in workers if worker.stdout is not None
            ]
            used = [Processes.cpu_of(pid) - then for pid, then in zip(pids, before, strict=True)]
            times = sum(one["times"] for one in answers)
            own = sum(one["cpu"] for one in answers)
            found[phase] = [taken / times * 1e6 for taken in (own, sum(used), max(used))]
        return found


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write what was found there")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(int(asked.worker[0]), asked.worker[1:])
        return 0
    rounds: dict[int, list[dict[str, list[float]]]] = {1: [], 2: [], 4: []}
    for _ in range(asked.rounds):
        for redis, runs in rounds.items():
            runs.append(measure(redis))
    found: dict[int, dict[str, list[float]]] = {}
    for redis, runs in rounds.items():
        found[redis] = {}
        for phase in PHASES:
            each = zip(*[run[phase] for run in runs], strict=True)
            found[redis][phase] = medians = [statistics.median(values) for values in each]
            own, all_redis, busiest = medians
            sys.stdout.write(
                f"{redis} Redis, {phase:<8} {own:6.0f} µs of processes, {all_redis:6.0f} of all Redis, "
                f"{busiest:6.0f} of the busiest\n"
            )
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
