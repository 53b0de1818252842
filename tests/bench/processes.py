"""A server's processes, seen from outside: what ``/proc`` tells of their CPU time and memory."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cometd_lite.bench import NotThere

if TYPE_CHECKING:
    from collections.abc import Iterable

IDLE_SECONDS = 0.002
"""CPU time in a tenth of a second below which a server has read all that was sent to it."""


class Processes:
    """The server's processes and all that they started: their CPU time and memory."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.roots = tuple(pids)
        for pid in self.roots:
            if not Path(f"/proc/{pid}").exists():
                raise NotThere(f"There is no process {pid}: --pid wants the server's, on this machine.")

    def pids(self) -> list[int]:
        """Return the roots and, below them, every process whose parent is one of them."""
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The command's name may hold spaces and brackets, but none follows it (proc_pid_stat(5)).
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # It ended while this loop came to it.
            parents.setdefault(parent, []).append(int(stat.parent.name))
        found = list(self.roots)
        for pid in found:
            found += (child for child in parents.get(pid, ()) if child not in found)
        return found

    def cpu(self) -> float:
        """Return the CPU time in seconds that all have had: of every thread, ended ones as well."""
        return sum(map(self.cpu_of, self.pids()))

    @staticmethod
    def cpu_of(pid: int) -> float:
        # What clock_getcpuclockid(3) returns: nanoseconds, where /proc counts in hundredths of a second.
        try:
            return time.clock_gettime((~pid << 3) | 2)
        except OSError:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Return the memory of all in bytes, where what several share counts once."""
        return sum(map(self.memory_of, self.pids()))

    @staticmethod
    def memory_of(pid: int) -> int:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # Another user's process: the resident size is what anybody may see.
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGESIZE")
        return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))

    def idle_memory(self, seconds: float = 5.0) -> int:
        """Wait until all are idle, for at most ``seconds``, and return the memory."""
        end = time.monotonic() + seconds
        before, now = -math.inf, self.cpu()
        while now - before >= IDLE_SECONDS and time.monotonic() < end:
            time.sleep(0.1)
            before, now = now, self.cpu()
        return self.memory()
