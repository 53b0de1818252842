"""All tables and buffers that clients can fill are full at once: the process takes what the bounds say."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import filling
import pytest
from filling import Clients
from program import TWISTD, Program, Run, eventually

from cometd_lite import limits
from cometd_lite.limits import Limits
from cometd_lite.server import Bounds

MEGABYTE = 1024 * 1024
BOUNDS = Bounds()
DEFAULTS = Limits()
NUMBERS = 32 * DEFAULTS.max_recipients
"""What was lost, or acknowledged by readers of patterns: 20 bytes each, with room to grow."""
KEPT = {
    filling.lost_messages: NUMBERS,
    filling.acknowledged_patterns: NUMBERS + limits.SEEN_BYTES,
    filling.receipts: limits.IDEMPOTENCY_KEYS * 250,
}
"""What stays full for a while once it was, and its bounds."""
FREED = {
    filling.mailboxes: 64 * MEGABYTE,
    filling.listeners: DEFAULTS.max_sessions * limits.SESSION_BYTES,
    filling.sessions: DEFAULTS.max_sessions * limits.SESSION_BYTES,
}
"""What is empty again after some time."""
CLIENTS = {
    filling.places: DEFAULTS.max_parked * limits.PLACES_BYTES,
    filling.large_requests: BOUNDS.received,
    filling.half_bodies: 0,
    filling.half_texts: 0,
    filling.unread_answers: BOUNDS.unsent + 2 * limits.RENDERED_MESSAGES * limits.RENDERED_BYTES,
}
"""What is empty once the clients have left. The second, third and fourth share one bound."""
SLACK = 16 * MEGABYTE
"""What is no table: buffers of the moment, and what is remembered of requests (``server/bounds.py``)."""
LATER = """
import signal, time

seconds, later = time.monotonic, 0.0

def pass_time(*_):
    global later
    later += 4_000

time.monotonic = lambda: seconds() + later
signal.signal(signal.SIGUSR1, pass_time)
"""
"""It lets the signal SIGUSR1 pass more time than anything is remembered for."""
BACK = 1.2
"""How much of what the process began with, once it had answered a request of each kind, it has when all is
forgotten. 1.14 to 1.19 were measured: a twentieth is what is still known of lost messages, and a tenth are
megabytes of Python's that timers and the last request keep. They are made anew again and again, each where
room was freed last."""


@pytest.fixture
def clients(run: Run) -> Iterator[Clients]:
    clients = Clients(run("--max-memory=64M", fresh=True, code=LATER + TWISTD))
    yield clients
    clients.leave()


def empty(program: Program, clients: Clients) -> None:
    """Delete what there is, and let all clients leave."""
    clients.leave()
    filling.emptied_mailboxes(program)
    for name in ("big", "keyed"):
        program.ask("DELETE", f"/recipients/{name}")
    program.leave()

    def is_empty() -> bool:
        page = program.get("/metrics").body.decode()
        counts = dict(line.split(" ") for line in page.splitlines() if line and line[0] != "#")
        return not any(
            float(counts[f"cometd_lite_{name}"])
            for name in (
                "parked",
                "mailboxes",
                "listeners",
                "bayeux_sessions",
                "unsent_bytes",
                "received_bytes",
            )
        )

    eventually(is_empty, "all sessions expire")


@pytest.mark.slow
def test_the_process_takes_no_more_memory_than_one_and_a_half_times_its_bounds_and_gives_it_back(
    clients: Clients,
) -> None:
    program = clients.program
    filling.one_of_each(program, clients)
    clients.leave()
    program.leave()
    began = program.resident()
    full = 0
    for fill, bound in KEPT.items():
        before = program.resident()
        fill(program)
        assert program.resident() - before < 1.5 * bound + SLACK, fill.__name__
        full += bound
    filling.large_messages(program)
    for fill, bound in FREED.items():
        before = program.resident()
        fill(program)
        assert program.resident() - before < 1.5 * bound + SLACK, fill.__name__
        full += bound
    for fill_by_clients, bound in CLIENTS.items():
        fill_by_clients(program, clients)
        program.get("/healthz")  # it is answered once what the clients have sent is taken in
        full += bound
    assert program.resident() - began < 1.5 * full
    empty(program, clients)

    def is_back() -> bool:
        program.process.send_signal(signal.SIGUSR1)
        program.get("/healthz")
        return program.resident() < BACK * began

    eventually(is_back, "the memory goes back to the system")
