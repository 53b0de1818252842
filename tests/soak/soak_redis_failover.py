"""Kill the master of a Redis and its replica, behind two Sentinels, while writers push and readers poll.

    python tests/soak/soak_redis_failover.py 10

The master is killed, or its replica is cut off a moment before, so that it lacks the last messages; or the
Sentinels are asked to change the two. Then the other one is the master, and the one that was killed comes
back as its replica. Two servers find the master by the Sentinels. Writers and readers are those of
``soak_redis_kill.py``.

What the replica had confirmed (``WAIT``) is read by every reader. What was confirmed to a writer and is lost
is told: each reader that misses it gets a gap. Between two gaps a reader reads in order, and nothing twice.
Exits 1 where that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from counted import disagreements
from fork_server import spawn
from redis_server import RedisServer, ask, free_port
from soak_redis_kill import READERS, Either, start
from soak_sqlite_kill import WRITERS, Reader, Truth, say, write

NAME = "comet"
PATIENCE = 30.0
SENTINEL = """
port {port}
sentinel monitor {name} 127.0.0.1 {master} 2
sentinel down-after-milliseconds {name} 500
sentinel failover-timeout {name} 2000
"""


@dataclass
class ToldTruth(Truth):
    """What was confirmed, by its text, and in which time; and what of it the replica had.

    Times are counted: in the even ones the master is one and the same, the odd ones are failovers.
    """

    texts: dict[str, tuple[str, int]] = field(default_factory=dict)
    replicated: set[str] = field(default_factory=set)
    time: int = 0

    def confirm(self, id_: str, room: str, text: str) -> None:
        self.texts[text] = (room, self.time)  # a number that was lost may come again


@dataclass
class ToldReader(Reader):
    """A reader that may be told a gap; ``parts`` are how much it had read at each."""

    patient: bool = True
    parts: list[int] = field(default_factory=list)
    told: set[int] = field(default_factory=set)
    """The times of these gaps."""

    def gap(self, truth: Truth) -> None:
        assert isinstance(truth, ToldTruth)
        self.parts.append(len(self.read))
        self.told.add(truth.time)

    def faults(self, truth: Truth) -> Iterator[str]:
        assert isinstance(truth, ToldTruth)
        for begin, end in zip([0, *self.parts], [*self.parts, len(self.read)], strict=True):
            part = self.read[begin:end]
            if [one[0] for one in part] != sorted({one[0] for one in part}):
                yield f"{self.rooms} read out of order, or twice"
            if len({one[2] for one in part}) != len(part):
                yield f"{self.rooms} read a text under two numbers, with no gap between them"
        read = {text for _, _, text in self.read}
        missed = {
            text: at for text, (room, at) in truth.texts.items() if self.wants(room) and text not in read
        }
        untold = [text for text, at in missed.items() if self.told.isdisjoint({at, at + 1, at + 2})]
        if untold:
            yield f"{self.rooms} was told no gap, and missed {len(untold)}: {untold[:5]}"
        kept = truth.replicated.intersection(missed)
        if kept:
            yield f"{self.rooms} missed {len(kept)} that the replica had: {sorted(kept)[:5]}"


class Pair:
    """A master, its replica, and two Sentinels that know both."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.ports = [free_port() for _ in range(4)]
        self.servers = [self._server(directory / f"redis{number}", number) for number in range(2)]
        self.master = 0
        self._start(0)
        self._start(1)
        for server in self.servers:
            stack.callback(server.kill)
        for port in self.ports[2:]:
            place = directory / str(port)
            place.mkdir()
            (place / "sentinel.conf").write_text(
                SENTINEL.format(port=port, name=NAME, master=self.ports[self.master])
            )
            words = (self.servers[0].program, str(place / "sentinel.conf"), "--sentinel")
            process = spawn(*words, cwd=place)
            stack.callback(process.wait)
            stack.callback(process.kill)

    @property
    def address(self) -> str:
        sentinels = ",".join([f"127.0.0.1:{port}" for port in self.ports[2:]])
        return f"redis+sentinel://{sentinels}/{NAME}"

    async def is_whole(self) -> None:
        """Wait until the replica follows, and both Sentinels know both and each other; note the master.

        It may be another one than before: where a master comes back while a Sentinel still votes on its
        end, the Sentinels change the two once more.
        """
        await until(self._is_whole, "the replica follows, and both Sentinels know both")

    def replicates(self) -> bool:
        """Wait until the replica has all that was written before; return whether it has, within a second."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.servers[self.master].socket))
            if ask(connection, "SET", "probe", "1") == b"OK":
                return bool(ask(connection, "WAIT", 1, 1_000) == 1)
        return False

    async def fail_over(self, kind: str) -> None:
        """Let the replica become the master, and the master its replica."""
        old, new = self.servers[self.master], self.servers[1 - self.master]
        if kind == "asked":
            await until(
                lambda: self._ask(self.ports[2], "SENTINEL", "FAILOVER", NAME) == b"OK", "it is begun"
            )
        else:
            if kind == "cut off":
                old.ask("CLIENT", "KILL", "TYPE", "replica")
                await asyncio.sleep(random.uniform(0, 0.5))
            old.kill()
        await until(
            lambda: b"role:master" in new.ask("INFO", "replication"), "the replica becomes the master"
        )
        self.master = 1 - self.master
        if kind != "asked":
            await asyncio.sleep(random.uniform(0, 1.0))
            await asyncio.to_thread(self._start, 1 - self.master)
        await self.is_whole()

    def _server(self, directory: Path, number: int) -> RedisServer:
        directory.mkdir()
        return RedisServer(directory, "--appendonly", "yes", port=self.ports[number])

    def _start(self, number: int) -> None:
        server = self.servers[number]
        follows = () if number == self.master else ("--replicaof", "127.0.0.1", str(self.ports[self.master]))
        server.options = (*server.options[:6], *follows)
        server.start()

    def _is_whole(self) -> bool:
        said = [bytes(server.ask("INFO", "replication")) for server in self.servers]
        masters = [number for number in range(2) if b"role:master" in said[number]]
        if len(masters) != 1 or b"master_link_status:up" not in said[1 - masters[0]]:
            return False
        self.master = masters[0]
        return all(self._knows(port) for port in self.ports[2:])

    def _knows(self, port: int) -> bool:
        """Whether a Sentinel knows the master, its replica and the other Sentinel."""
        address = self._ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        replicas = self._ask(port, "SENTINEL", "REPLICAS", NAME)
        others = self._ask(port, "SENTINEL", "SENTINELS", NAME)
        good = [one for one in replicas or [] if one[one.index(b"master-link-status") + 1] == b"ok"]
        return bool(address and int(address[1]) == self.ports[self.master] and good and others)

    @staticmethod
    def _ask(port: int, *words: Any) -> Any:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return ask(connection, *words)
        return None


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    for _ in range(int(PATIENCE / 0.05)):
        with suppress(OSError):
            if await asyncio.to_thread(holds):
                return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what}: not within {PATIENCE} s")


async def note_replicated(truth: ToldTruth, pair: Pair) -> None:
    """Note again and again what the replica has of what was confirmed."""
    while truth.writing:
        at = truth.time
        confirmed = [text for text, (_, time) in truth.texts.items() if time == at]
        if at % 2 == 0 and await asyncio.to_thread(pair.replicates) and truth.time == at:
            truth.replicated.update(confirmed)
        await asyncio.sleep(0.02)


async def soak(directory: Path, *, turns: int) -> ToldTruth:
    """Run so many failovers; return what was found, with the faults."""
    with ExitStack() as stack:
        pair = Pair(directory, stack)
        await pair.is_whole()
        servers = await start(directory, pair.address)
        for server in servers:
            stack.callback(server.discard)
        truth = ToldTruth()
        clients = [Either(servers) for _ in range(len(READERS) + WRITERS)]
        head = (await clients[0].ask("GET", "/poll/room0?after=now&wait=0")).json["cursor"]
        readers = [ToldReader(rooms, head) for rooms in READERS]
        polling = [
            asyncio.create_task(reader.follow(truth, client))
            for reader, client in zip(readers, clients, strict=False)
        ]
        writing = [
            asyncio.create_task(write(truth, client, writer))
            for writer, client in enumerate(clients[len(READERS) :])
        ]
        writing.append(asyncio.create_task(note_replicated(truth, pair)))
        kinds: Counter[str] = Counter()
        for turn in range(turns):
            await asyncio.sleep(random.uniform(0.5, 2.0))
            kind = ("cut off", "killed", "asked")[turn % 3]
            kinds[kind] += 1
            truth.time += 1
            await pair.fail_over(kind)
            truth.time += 1
            say(f"failover {turn + 1}, {kind}: {len(truth.texts)} confirmed")
        await asyncio.sleep(2.0)
        truth.writing = False
        await asyncio.gather(*writing)
        await asyncio.sleep(4.0)  # one more wait of those who are parked
        truth.reading = False
        await asyncio.gather(*polling)
        truth.faults += [fault for reader in readers for fault in reader.faults(truth)]
        for server in servers:
            truth.faults += disagreements(server.directory) + await server.end()
    say(
        f"{turns} failovers {dict(kinds)}: {len(truth.texts)} pushes confirmed {dict(truth.statuses)}, "
        f"{len(truth.replicated)} of them by the replica, {truth.broken} broken off, "
        f"{sum(len(reader.parts) for reader in readers)} gaps told to {len(readers)} readers, "
        f"{sum(len(reader.read) for reader in readers)} deliveries."
    )
    return truth


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("failovers", type=int, nargs="?", default=6)
    asked = parser.parse_args()
    with TemporaryDirectory() as directory:
        truth = asyncio.run(soak(Path(directory), turns=asked.failovers))
    say("\n".join(truth.faults) or "What the replica had is all there, and what is lost was told.")
    return 1 if truth.faults else 0


if __name__ == "__main__":
    sys.exit(main())
