"""One run: it opens the connections, warms up, pushes and reads for a while, and returns a ``Result``."""

from __future__ import annotations

import gc
import resource
import select
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from .dialect import CometLite, Dialect, Site
from .load import READ_BACK, Load, ServerAddress
from .results import BenchError, Result
from .scenarios import Scenario

FEWEST_FOR_MEMORY = 1_000
"""With fewer readers, what the server's allocator rounds up to hides what a reader costs."""


class Costs(Protocol):
    """The CPU time and memory of the server; ``tests/bench`` reads them from ``/proc``."""

    def cpu(self) -> float:
        """Return the CPU time in seconds that the server has had."""

    def idle_memory(self) -> int:
        """Wait until the server is idle, and return its memory in bytes."""


def allow_files(count: int) -> None:
    """Let this process have ``count`` connections. Raises ``BenchError`` where it may not."""
    needed = count + 64  # Standard streams, epoll, what the interpreter keeps open.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchError(
            f"{count} connections need {needed} open files, and {hard} are allowed (ulimit -Hn)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else hard, hard))


def measure(
    url: str | Sequence[str],
    scenario: Scenario,
    make_dialect: Callable[[Site], Dialect] = CometLite,
    *,
    costs: Costs | None = None,
    seconds: float | None = 5.0,
    messages: int | None = None,
    warm_up: float = 1.0,
    parked: int = 0,
    size: int = 100,
    token: str | None = None,
    wait: float = 120.0,
    on_progress: Callable[[str], None] | None = None,
) -> Result:
    """Run ``scenario`` against the server at ``url`` and return what was measured.

    Where there are several URLs, they are addresses of one server, as of processes at one Redis: readers and
    pushers connect to each in turn, so that messages go from any to any.

    The measured phase takes ``seconds``, or as long as ``messages`` messages take; the warm-up, ``warm_up``
    seconds of the same before it, is not counted. ``costs`` measures the server meanwhile.
    ``parked`` more polls wait all the time. A message's body has ``size`` bytes. Polls ask to be held for
    ``wait`` seconds, which should not end within the phase. ``on_progress`` is called with a line several
    times a second.

    Raises ``NotThere`` where nothing answers, ``UnexpectedAnswer`` for an answer that the interface does not
    have, and ``Lost`` where a message was lost, doubled, changed or out of order.
    """
    if not hasattr(select, "epoll"):
        raise BenchError("The load generator needs Linux: it waits with epoll.")
    allow_files((scenario.readers or READ_BACK) + parked + scenario.pushers)
    sites = []
    for one in [url] if isinstance(url, str) else url:
        parts = urlsplit(one)
        sites.append((one, make_dialect(Site(parts.netloc, parts.path.rstrip("/"), token, wait))))
    dialect = sites[0][1]
    if not (scenario.readers_each or dialect.keeps):
        raise BenchError(f"{dialect.name} keeps nothing for later readers: choose another scenario.")
    show = on_progress or (lambda _line: None)
    load = Load([ServerAddress.find(*site) for site in sites], scenario, size)
    # Nothing here makes cycles, and a collection would show up as the server's latency.
    gc.collect()
    gc.disable()
    try:
        show(f"opening {scenario.readers + parked:,} connections")
        kb_per_reader = _open(load, parked, costs)
        if scenario.readers_each:
            show("warming up")
            load.run(warm_up, messages and -(-messages // 10))
            measured = _timed(load, costs, seconds, messages, show)
        else:
            show(f"filling {scenario.recipients:,} mailboxes")
            kept = load.keep_some()
            load.run(None, scenario.recipients)  # So that each has a message before the first one counts.
            measured = _timed(load, costs, seconds, messages, show)
            show(f"reading back {len(kept):,} mailboxes")
            load.read_back(kept)
    finally:
        gc.enable()
        load.close()
    return Result(
        scenario=scenario.name,
        dialect=dialect.name,
        url=load.where,
        readers=scenario.readers,
        parked=parked,
        mailboxes=scenario.recipients,
        pushers=scenario.pushers,
        kb_per_reader=kb_per_reader,
        **measured,
    )


def _open(load: Load, parked: int, costs: Costs | None) -> float | None:
    """Open all connections; return the KB that each reader added to the server's memory."""
    readers = parked + load.scenario.readers
    measured = costs if readers >= FEWEST_FOR_MEMORY else None
    before = measured.idle_memory() if measured else 0
    load.open_parked(parked)
    load.open_readers()
    after = measured.idle_memory() if measured else 0
    # Last, because a pusher's Bayeux session ends when it does nothing for some seconds.
    load.open_pushers()
    return (after - before) / readers / 1024 if measured else None


def _timed(
    load: Load, costs: Costs | None, seconds: float | None, messages: int | None, show: Callable[[str], None]
) -> dict[str, Any]:
    """Run the phase that counts; return its part of a ``Result``."""
    load.reset()
    cpu_before = costs.cpu() if costs else 0.0
    own_before, start = time.process_time(), time.perf_counter()
    load.on_progress = lambda count: show(f"{count:,} in {time.perf_counter() - start:.1f} s")
    load.run(seconds, messages)
    load.on_progress = None
    wall = time.perf_counter() - start
    own = time.process_time() - own_before
    cpu = costs.cpu() - cpu_before if costs else None
    counted = load.deliveries or load.messages
    if not counted:
        raise BenchError("Nothing was pushed: give it more seconds or messages.")
    p50, p99, most = load.latencies.quantiles(0.5, 0.99, 1.0)
    return {
        "seconds": wall,
        "messages": load.messages,
        "deliveries": load.deliveries,
        "per_second": counted / wall,
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": most,
        "cpu_us": None if cpu is None else cpu / counted * 1e6,
        "server_cpu": None if cpu is None else cpu / wall,
        "own_cpu": own / wall,
    }
