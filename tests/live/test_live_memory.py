"""All tables and buffers that clients can fill are full at once: the process takes what the bounds say."""

from __future__ import annotations

from collections.abc import Iterator

import filling
import pytest
from filling import Clients
from program import Program, Run, eventually

from cometd_lite import limits
from cometd_lite.limits import Limits
from cometd_lite.server import Bounds

MEGABYTE = 1024 * 1024
BOUNDS = Bounds()
DEFAULTS = Limits()
KEPT = {
    filling.lost_messages: limits.LOSSES_BYTES,
    filling.acknowledged_patterns: limits.ACKNOWLEDGED_BYTES + limits.SEEN_BYTES,
    filling.receipts: limits.IDEMPOTENCY_KEYS * 250,
}
"""What stays full once it was, and its bounds."""
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


@pytest.fixture
def clients(run: Run) -> Iterator[Clients]:
    clients = Clients(run("--max-memory=64M", fresh=True))
    yield clients
    clients.leave()


def empty(program: Program, clients: Clients) -> int:
    """Let all clients leave, and delete what there is; return the memory that the process has then."""
    clients.leave()
    filling.emptied_mailboxes(program)
    for name in ("big", "keyed"):
        program.ask("DELETE", f"/recipients/{name}")

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
    return program.resident()


@pytest.mark.slow
def test_the_process_takes_no_more_memory_than_one_and_a_half_times_its_bounds(clients: Clients) -> None:
    program = clients.program
    began = program.resident()
    bounds = 0
    for fill, bound in KEPT.items():
        before = program.resident()
        fill(program)
        assert program.resident() - before < 1.5 * bound + SLACK, fill.__name__
        bounds += bound
    empty_at: list[int] = []
    for _ in range(2):
        full = bounds
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
        empty_at.append(empty(program, clients))
    assert empty_at[1] < 1.2 * empty_at[0]
