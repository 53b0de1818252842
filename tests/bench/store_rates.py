"""``python tests/bench/store_rates.py``: pushes a second and CPU by store, 64 writers at once, in one run.

Mailboxes in memory, in SQLite under each ``--sync``, and in SQLite with one commit for each push, in turn.
Over HTTP, ``cometd_lite.bench`` pushes to a server, reads back and compares; there nothing is faster than
HTTP is, and on a fast disk one commit for each push comes near to that. From Python, each writer pushes again
as soon as its push is kept; there it is seen what the commits cost. The rounds are interleaved and a ratio is
the median of the ratios within the rounds: what disturbs the machine, and its disk above all, disturbs all of
them. Each round also writes a batch of that size to the disk and waits for it, as a commit does: while it
waits, none of the 64 writers has anything to do. Exits 1 where SQLite keeps less than 0.6 of memory's rate
over HTTP, takes more than twice its CPU for a push, or keeps less than ten times the rate of one commit for
each push from Python.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "soak")]

from processes import Processes  # noqa: E402  they lie above this file, and beside it
from server import TWISTD, Server  # noqa: E402

from cometd_lite.bench import SCENARIOS, measure  # noqa: E402
from cometd_lite.comet import Comet  # noqa: E402
from cometd_lite.core.message import Content, Push  # noqa: E402
from cometd_lite.limits import Limits  # noqa: E402
from cometd_lite.stores import sqlite  # noqa: E402

WRITERS = 64
MAILBOXES = 100
SQLITE = ("--store", "sqlite:comet.db")
ONE_EACH = (
    "import cometd_lite.stores.sqlite as store; "
    "store.STORE_COMMIT_BYTES = 1; store.STORE_GATHER_SECONDS = 0; "
    f"{TWISTD}"
)
STORES: dict[str, tuple[tuple[str, ...], str, int]] = {
    "memory": ((), TWISTD, 1),
    "sqlite, full": ((*SQLITE, "--sync", "full"), TWISTD, 1),
    "sqlite, normal": ((*SQLITE, "--sync", "normal"), TWISTD, 1),
    "one commit per push": ((*SQLITE, "--sync", "full"), ONE_EACH, 10),
}
"""The options of each server, the program that runs it, and by what its number of pushes is divided."""
BOUNDS = {
    ("sqlite, full", "memory", "over HTTP"): 0.6,
    ("sqlite, full", "one commit per push", "from Python"): 10.0,
}
"""What is to be so many times as fast as what."""
MOST_CPU = 2.0
"""How much CPU a push to SQLite may take, in those to memory."""
BATCH_BYTES = 28 * 1024
"""What a commit of 64 messages of 100 bytes writes: seven pages of SQLite."""
COMMITS = 200


def over_http(store: str, pushes: int, directory: Path, cpu: dict[str, list[float]]) -> float:
    """Return the pushes a second that a fresh server takes; note the CPU time of each, in µs."""
    options, code, _ = STORES[store]
    server = Server(directory, *options, code=code)
    server.start()
    try:
        asyncio.run(server.up())
        scenario = SCENARIOS["push"].sized(None, WRITERS, MAILBOXES)
        assert server.process is not None
        costs = Processes([server.process.pid])
        url = f"http://localhost:{server.port}"
        result = measure(url, scenario, costs=costs, seconds=None, messages=pushes)
        assert asyncio.run(server.stop()) == 0
        assert result.cpu_us is not None
        cpu.setdefault(store, []).append(result.cpu_us)
        return result.per_second
    finally:
        server.kill()


def seconds_to_keep(directory: Path) -> float:
    """Return the median of the times for which the disk is waited for when a batch was written."""
    took = []
    file = os.open(directory / "batch", os.O_CREAT | os.O_WRONLY)
    os.pwrite(file, bytes(BATCH_BYTES), 0)
    os.fsync(file)
    for _ in range(COMMITS):
        os.pwrite(file, os.urandom(BATCH_BYTES), 0)
        began = time.perf_counter()
        os.fdatasync(file)
        took.append(time.perf_counter() - began)
    os.close(file)
    return statistics.median(took)


def from_python(store: str, pushes: int, directory: Path, _: dict[str, list[float]]) -> float:
    """Return the pushes a second that a fresh process makes."""
    words = [
        sys.executable,
        __file__,
        "--inside",
        store,
        "--pushes",
        str(pushes),
        "--directory",
        str(directory),
    ]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def inside(store: str, pushes: int, directory: Path) -> None:
    """Make the pushes in this process, and print how many a second there were."""
    from twisted.internet import reactor  # noqa: PLC0415  it is installed by being imported
    from twisted.internet.defer import Deferred  # noqa: PLC0415

    if store == "one commit per push":
        sqlite.STORE_COMMIT_BYTES, sqlite.STORE_GATHER_SECONDS = 1, 0.0
    limits = Limits(capacity=pushes, capacity_bytes=1024**3, max_memory=4 * 1024**3)
    sync = "normal" if store == "sqlite, normal" else "full"
    kept = None if store == "memory" else sqlite.SQLiteStore(directory / "comet.db", limits, sync=sync)
    comet = Comet(limits=limits, store=kept)
    content = Content.of("x" * 100)
    asked = [Push((f"mailbox{number}",), (content,)) for number in range(MAILBOXES)]
    left = pushes
    kept_yet = 0

    def write() -> None:
        nonlocal left
        while left:
            left -= 1
            receipt = comet.hub.push(asked[left % MAILBOXES])
            if isinstance(receipt, Deferred):
                receipt.addCallback(go_on)
                return
            count()

    def go_on(_: object) -> None:
        count()
        write()

    def count() -> None:
        nonlocal kept_yet
        kept_yet += 1
        if kept_yet == pushes:
            sys.stdout.write(f"{pushes / (time.perf_counter() - began)}\n")
            comet.stop().addBoth(lambda _: reactor.stop())

    comet.start()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    began = time.perf_counter()
    for _ in range(min(WRITERS, pushes)):
        reactor.callLater(0, write)
    reactor.run()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pushes", type=int, default=20_000)
    parser.add_argument("--directory", type=Path, help="on the disk that is to be measured")
    parser.add_argument("--inside", choices=STORES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        inside(asked.inside, asked.pushes, asked.directory)
        return 0
    ways = {"over HTTP": over_http, "from Python": from_python}
    rates: dict[tuple[str, str], list[float]] = {(store, way): [] for way in ways for store in STORES}
    cpu: dict[str, list[float]] = {}
    waits: list[float] = []
    for _ in range(asked.rounds):
        for (store, way), measured in rates.items():
            with TemporaryDirectory(dir=asked.directory) as directory:
                measured.append(ways[way](store, asked.pushes // STORES[store][2], Path(directory), cpu))
        with TemporaryDirectory(dir=asked.directory) as directory:
            waits.append(seconds_to_keep(Path(directory)))
    for (store, way), measured in rates.items():
        each = ", ".join(f"{rate:,.0f}" for rate in measured)
        say(f"{way:<12} {store:<20} {statistics.median(measured):9,.0f}/s   ({each})")
    held = True
    for way in ways:
        for slow in ("memory", "one commit per push"):
            pairs = zip(rates["sqlite, full", way], rates[slow, way], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            least = BOUNDS.get(("sqlite, full", slow, way))
            held &= least is None or ratio >= least
            wanted = "" if least is None else f", wanted {least:g} or more"
            say(f"{way:<12} sqlite, full / {slow}: {ratio:.2f}{wanted}")
    taken = statistics.median(a / b for a, b in zip(cpu["sqlite, full"], cpu["memory"], strict=True))
    held &= taken <= MOST_CPU
    each = ", ".join(f"{store} {statistics.median(took):.1f}" for store, took in cpu.items())
    say(f"CPU of a push, µs: {each}; sqlite, full / memory: {taken:.2f}, wanted {MOST_CPU:g} or less")
    wait = statistics.median(waits)
    most = WRITERS / (WRITERS / statistics.median(rates["memory", "over HTTP"]) + wait)
    say(f"The disk keeps a batch in {wait * 1000:.2f} ms: with no other work it would be {most:,.0f}/s")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
