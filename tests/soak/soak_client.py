"""Reset every connection 100 times and restart the server 100 times under the client and the command.

    python tests/soak/soak_client.py [--resets 100] [--restarts 100] [--recipients 4] [--store memory]

Pushers push numbers, each to a recipient of its own, by ``Client.push`` and, on threads, ``SyncClient.push``.
Readers read them all: ``Client.follow`` and ``SyncClient.follow`` by polls and by streams, and
``cometd-lite follow``, one of which is killed again and again and goes on from its ``--cursor-file``.
Everything goes through a proxy that resets all connections at once; the server ends by SIGTERM or SIGKILL,
and starts again from its file. Every reader must have every number once and in order; the one that is killed
may have a number twice for each time that it was killed, between printing and noting it.

With ``--store memory`` a mailbox ends with the process: pushing pauses before each restart until all was
read, the end is by SIGTERM, and a reader may be told of a gap for each restart. Exits 1 where something is
wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from server import ROOT, Server

sys.path.insert(0, str(ROOT))

from cometd_lite.client import Client, SyncClient

PUSH_PAUSE = 0.02
"""Between two pushes of a pusher: enough to be in the middle of one most of the time."""
CALM_SECONDS = (0.05, 1.0)
"""Between two troubles."""
KEPT = ("--capacity", "100000", "--capacity-bytes", "64M")
"""What one reader has read makes room in a mailbox, and another may be in a pause of half a minute."""
PATIENCE = 120.0
"""What was not read by then will never be."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Proxy:
    """Hands on bytes between its port and the server's, and can reset all connections at once."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.resets = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    def reset(self) -> None:
        """Reset every connection, on both of its sides."""
        for writer in list(self.writers):
            sock = writer.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            self.resets += 1

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self.pipe(source, sink, (writer, back)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def pipe(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        self.writers.update(both)
        try:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            for writer in both:
                self.writers.discard(writer)
                writer.close()


@dataclass
class Reader:
    """What one reader was told: the numbers of each recipient in its order, and gaps."""

    name: str
    numbers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    gaps: int = 0
    retries: int = 0
    kills: int = 0

    def heard(self, recipient: str, number: int) -> None:
        self.numbers[recipient].append(number)

    def faults(self, pushed: dict[str, int]) -> list[str]:
        """Return what is wrong with what was read, of so many numbers pushed to each recipient."""
        faults = []
        again = 0
        for recipient, count in pushed.items():
            numbers = self.numbers[recipient]
            kept = [
                number for place, number in enumerate(numbers) if place == 0 or number != numbers[place - 1]
            ]
            again += len(numbers) - len(kept)
            if kept != list(range(count)):
                lost = sorted(set(range(count)) - set(kept))
                order = "in order" if kept == sorted(kept) else "out of order"
                faults.append(f"{self.name}: {recipient}: lost {lost[:10]}, {len(kept)} of {count}, {order}")
        if again > self.kills:
            faults.append(f"{self.name}: {again} numbers came twice, and it was killed {self.kills} times")
        return faults


@dataclass
class Run:
    """What all have in common."""

    client: Client
    blocking: SyncClient
    threads: ThreadPoolExecutor
    pushed: dict[str, int]
    readers: list[Reader]
    calm: asyncio.Event
    pushing: bool = True
    push_retries: int = 0

    def all_read(self) -> bool:
        return all(
            len(reader.numbers[name]) >= count
            for reader in self.readers
            for name, count in self.pushed.items()
        )


async def push(run: Run, recipient: str, *, in_thread: bool) -> None:
    def retried(*_: object) -> None:
        run.push_retries += 1

    words: dict[str, Any] = {"patience": PATIENCE, "on_retry": retried}
    while run.pushing:
        await run.calm.wait()
        number = run.pushed[recipient]
        if in_thread:
            await in_a_thread(run, lambda number=number: run.blocking.push(recipient, number, **words))
        else:
            await run.client.push(recipient, number, **words)
        run.pushed[recipient] += 1
        await asyncio.sleep(random.uniform(0, 2 * PUSH_PAUSE))


async def follow(run: Run, reader: Reader, *, stream: bool) -> None:
    def gap(_: object) -> None:
        reader.gaps += 1

    def retried(*_: object) -> None:
        reader.retries += 1

    following = run.client.follow(list(run.pushed), "oldest", stream=stream, on_gap=gap, on_retry=retried)
    async for message in following:
        reader.heard(message.recipient, message.data)


async def in_a_thread(run: Run, call: Callable[[], object]) -> None:
    await asyncio.get_running_loop().run_in_executor(run.threads, call)


async def follow_in_thread(run: Run, reader: Reader, *, stream: bool) -> None:
    def gap(_: object) -> None:
        reader.gaps += 1

    def read() -> None:
        for message in run.blocking.follow(list(run.pushed), "oldest", stream=stream, on_gap=gap):
            reader.heard(message.recipient, message.data)

    await in_a_thread(run, read)


async def follow_by_command(run: Run, reader: Reader, directory: Path, *words: str, kill: bool) -> None:
    """Read by the command, through a file as a shell would; where it is to be killed, start it again."""
    place = directory / f"{reader.name.replace(' ', '-')}.cursor"
    while True:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cometd_lite", "follow", *run.pushed, *words),
            *("--json", "--after", "oldest", "--cursor-file", str(place), "--url", run.client.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        reading = asyncio.create_task(_lines(reader, process.stdout))
        try:
            if kill:
                await asyncio.sleep(random.uniform(1, 4))
                reader.kills += 1
            else:
                await reading
        finally:
            process.kill()
            await process.wait()
        await reading


async def _lines(reader: Reader, stream: asyncio.StreamReader) -> None:
    while line := await stream.readline():
        if line.endswith(b"\n"):
            said = msgspec.json.decode(line)
            if "gap" in said:
                reader.gaps += 1
            else:
                reader.heard(said["recipient"], said["data"])


async def until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def trouble(
    run: Run, server: Server, proxy: Proxy, resets: int, restarts: int, *, durable: bool
) -> None:
    """Reset and restart, in any order, and say how far it is.

    Between two troubles something is pushed to every reader, however long a loaded machine takes for that.
    """
    troubles = ["reset"] * resets + ["restart"] * restarts
    random.shuffle(troubles)
    for number, what in enumerate(troubles, 1):
        before = run.pushed.copy()
        await asyncio.sleep(random.uniform(*CALM_SECONDS))
        if not await until(lambda before=before: all(run.pushed[name] > before[name] for name in before)):
            return
        if what == "reset":
            proxy.reset()
        else:
            if not durable:
                run.calm.clear()
                if not await until(run.all_read):
                    return
            if durable and random.random() < 0.5:
                server.kill()
            else:
                await server.stop()
            server.start()
            await server.up()
            run.calm.set()
        if number % 20 == 0:
            say(f"  {number} of {len(troubles)} troubles, {sum(run.pushed.values()):,} pushed")


async def soak(arguments: argparse.Namespace, directory: Path) -> list[str]:
    durable = arguments.store == "sqlite"
    options = ("--store", f"sqlite:{directory}/comet.db") if durable else ()
    server = Server(directory, *KEPT, *options)
    server.start()
    await server.up()
    proxy = Proxy(server.port)
    await proxy.start()
    readers = [
        Reader("client polls"),
        Reader("client streams"),
        Reader("thread polls"),
        Reader("thread streams"),
        Reader("command polls"),
        Reader("command streams"),
    ]
    if durable:  # one that is not there when a mailbox ends with its process is lost with it
        readers.append(Reader("command killed"))
    pushed = {f"soak/{number}": 0 for number in range(arguments.recipients)}
    client = Client(f"http://127.0.0.1:{proxy.port}")
    threads = ThreadPoolExecutor(2 + len(pushed))
    run = Run(client, SyncClient(client.url), threads, pushed, readers, asyncio.Event())
    run.calm.set()
    reading = [
        asyncio.create_task(follow(run, readers[0], stream=False)),
        asyncio.create_task(follow(run, readers[1], stream=True)),
        asyncio.create_task(follow_in_thread(run, readers[2], stream=False)),
        asyncio.create_task(follow_in_thread(run, readers[3], stream=True)),
        asyncio.create_task(follow_by_command(run, readers[4], directory, kill=False)),
        asyncio.create_task(follow_by_command(run, readers[5], directory, "--stream", kill=False)),
    ]
    if durable:
        reading.append(asyncio.create_task(follow_by_command(run, readers[6], directory, kill=True)))
    pushers = [
        asyncio.create_task(push(run, name, in_thread=bool(number % 2))) for number, name in enumerate(pushed)
    ]
    began = time.monotonic()
    await trouble(run, server, proxy, arguments.resets, arguments.restarts, durable=durable)
    run.pushing = False
    run.calm.set()
    await asyncio.gather(*pushers)
    finished = await until(run.all_read)
    await asyncio.sleep(0.5)  # whatever came twice comes now
    seconds = time.monotonic() - began
    run.blocking.close()
    for task in reading:
        task.cancel()
    ended = await asyncio.gather(*reading, return_exceptions=True)
    await client.close()
    threads.shutdown()
    await server.stop()
    say(
        f"{sum(pushed.values()):,} messages to {len(pushed)} recipients and {len(readers)} readers in "
        f"{seconds:.0f} s: {arguments.restarts} restarts, {arguments.resets} resets of {proxy.resets:,} "
        f"connections' ends, {run.push_retries} pushes tried again"
    )
    for reader in readers:
        more = f", killed {reader.kills} times" if reader.kills else ""
        say(f"  {reader.name}: {sum(map(len, reader.numbers.values())):,} read, {reader.gaps} gaps{more}")
    faults = [] if finished else ["not all was read in time"]
    faults += [f"a reader failed: {error!r}" for error in ended if isinstance(error, Exception)]
    for reader in readers:
        faults += reader.faults(pushed)
        if reader.gaps > (0 if durable else arguments.restarts):
            faults.append(f"{reader.name}: {reader.gaps} gaps")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resets", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--recipients", type=int, default=4)
    parser.add_argument("--store", choices=("sqlite", "memory"), default="sqlite")
    parser.add_argument("--seed", type=int, default=None, help="of the order and the pauses")
    arguments = parser.parse_args()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    random.seed(seed)
    say(f"seed {seed}")
    with TemporaryDirectory() as directory:
        faults = asyncio.run(soak(arguments, Path(directory)))
    for fault in faults:
        say(f"WRONG: {fault}")
    say("wrong" if faults else "nothing lost, nothing twice, all in order")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
