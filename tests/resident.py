"""What a process takes while a table grows, for the tests that compare it with what is counted (Linux)."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STATM = Path("/proc/self/statm")

#: What the process grows by before a measurement begins: more than one of Python's arenas, of 1 MiB.
FILLED_BYTES = 2 * 1024**2

#: Bytes of the blocks: a `bytes` object adds 33.
SMALL_SIZES = range(1, 512 - 33, 16)
LARGE_SIZES = [16 * 2**power for power in range(5, 13)]

needs_proc = pytest.mark.skipif(not STATM.exists(), reason="memory is measured by Linux' /proc")


def resident() -> int:
    """Return the bytes of memory that this process has, after a collection."""
    gc.collect()
    return held()


def held() -> int:
    return int(STATM.read_text().split()[1]) * 4_096


def fill() -> list[bytes]:
    """Return blocks of all sizes, so many that new memory comes from the system while they are kept.

    The imports leave memory free, several megabytes where they had to compile. What is measured would
    otherwise lie there, and would seem to take nothing.
    """
    blocks = []
    gc.collect()
    for sizes in (SMALL_SIZES, LARGE_SIZES):  # two allocators, Python's and that of the C library
        before = held()
        while held() < before + FILLED_BYTES:
            blocks += [bytes(size) for size in sizes]
    return blocks


def measure(script: str, *words: object) -> tuple[int, int]:
    """Run a script in its own process; it prints as JSON the bytes that were taken and those counted."""
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    taken, counted = json.loads(run.stdout)
    return taken, counted
