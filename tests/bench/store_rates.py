"""``python tests/bench/store_rates.py``: pushes a second by store, 64 writers at once, in one run.

Servers with mailboxes in memory, with SQLite under each ``--sync``, and with SQLite and one commit for each
push start in turn, are pushed to over HTTP by ``cometd_lite.bench``, and pushes are read back and compared.
The rounds are interleaved and a ratio is the median of the ratios within the rounds: what disturbs the
machine, and its disk above all, disturbs all of them. Exits 1 where SQLite keeps less than half of memory's
rate, or less than ten times that of one commit for each push.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "soak")]

from server import TWISTD, Server  # noqa: E402  they lie above this file, and beside it

from cometd_lite.bench import SCENARIOS, measure  # noqa: E402

WRITERS = 64
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
BOUNDS = (("sqlite, full", "memory", 0.5), ("sqlite, full", "one commit per push", 10.0))
"""What is to be so many times as fast as what."""


def rate(store: str, pushes: int, directory: Path) -> float:
    """Return the pushes a second that a fresh server takes."""
    options, code, less = STORES[store]
    server = Server(directory, *options, code=code)
    server.start()
    try:
        asyncio.run(server.up())
        scenario = SCENARIOS["push"].sized(None, WRITERS, None)
        result = measure(f"http://localhost:{server.port}", scenario, messages=pushes // less)
        latency = f"p50 {result.p50_ms:.2f} ms   p99 {result.p99_ms:.2f} ms"
        say(f"{store:<20} {result.per_second:9,.0f}/s   {latency}")
        assert asyncio.run(server.stop()) == 0
        return result.per_second
    finally:
        server.kill()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pushes", type=int, default=20_000)
    parser.add_argument("--directory", type=Path, help="on the disk that is to be measured")
    asked = parser.parse_args()
    rates: dict[str, list[float]] = {store: [] for store in STORES}
    for _ in range(asked.rounds):
        for store, measured in rates.items():
            with TemporaryDirectory(dir=asked.directory) as directory:
                measured.append(rate(store, asked.pushes, Path(directory)))
    held = True
    for fast, slow, least in BOUNDS:
        ratio = statistics.median(a / b for a, b in zip(rates[fast], rates[slow], strict=True))
        held &= ratio >= least
        say(f"{fast} / {slow}: {ratio:.2f}, wanted {least:g} or more")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
