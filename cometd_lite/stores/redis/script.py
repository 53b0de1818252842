"""The script that Redis runs for everything that is asked, with the bounds in front of it, and its refusals.

What the script does stands in ``script.lua``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from ...core.namespaces import MailboxBounds
from ...core.store import Repeated
from ...errors import MailboxFull, ServerFull
from ...limits import (
    EXHAUSTED_AT_ONCE,
    ONLINE_SECONDS,
    POLL_BYTES,
    PRESENCE_COUNT_SECONDS,
    PRESENCE_MEMBERS,
    PRESENCE_MESSAGE_SECONDS,
    REDIS_EXPIRED_AT_ONCE,
    REDIS_LEASE_COST,
    REDIS_LEASES_ENDED_AT_ONCE,
    REDIS_LOOK,
    REDIS_MAILBOX_COST,
    REDIS_MESSAGE_COST,
    REDIS_OOM_BYTES,
    REDIS_RUNS,
    REDIS_WAKE_BYTES,
    STORE_NUMBERS_RESERVED,
    Limits,
)

LAYOUT = 3
"""The version of what lies in Redis; ``script.lua`` says what that is."""


@cache
def _text() -> str:
    return Path(__file__).with_name("script.lua").read_text()


def script(limits: Limits) -> str:
    """Return the script, with the bounds in front of it."""
    bounds = {
        "CAPACITY": limits.capacity,
        "CAPACITY_BYTES": limits.capacity_bytes,
        "MAX_RECIPIENTS": limits.max_recipients,
        "MAX_MEMORY": limits.max_memory,
        "POLL_BYTES": POLL_BYTES,
        "MESSAGE_COST": REDIS_MESSAGE_COST,
        "MAILBOX_COST": REDIS_MAILBOX_COST,
        "LOOK": REDIS_LOOK,
        "EXPIRED_AT_ONCE": REDIS_EXPIRED_AT_ONCE,
        "MAX_ATTEMPTS": limits.max_attempts,
        "LEASE_COST": REDIS_LEASE_COST,
        "LEASES_ENDED_AT_ONCE": REDIS_LEASES_ENDED_AT_ONCE,
        "EXHAUSTED_AT_ONCE": EXHAUSTED_AT_ONCE,
        "OOM_BYTES": REDIS_OOM_BYTES,
        "PRESENT_SECONDS": ONLINE_SECONDS,
        "PRESENT_MEMBERS": PRESENCE_MEMBERS,
        "PRESENT_KEPT_SECONDS": PRESENCE_MESSAGE_SECONDS,
        "PRESENT_COUNT_SECONDS": PRESENCE_COUNT_SECONDS,
        "RUNS_KNOWN": REDIS_RUNS,
        "NUMBERS_RESERVED": STORE_NUMBERS_RESERVED,
        "WAKE_BYTES": REDIS_WAKE_BYTES,
    }
    names, values = ", ".join(bounds), ", ".join(map(str, bounds.values()))
    return f"local LAYOUT, {names} = '{LAYOUT}', {values}\n{_text()}"


def refusal(
    status: bytes, about: bytes, limits: Limits, bounds_of: Callable[[str], MailboxBounds] | None = None
) -> Exception | None:
    """Return the error that a status of the script says; None where it is not about what was asked.

    ``about`` is what the status is about: a recipient, or the record of a receipt.
    """
    match status:
        case b"repeated":
            return Repeated(about)
        case b"full":
            return MailboxFull(
                f"The mailbox of {about.decode()!r} is full of messages that no reader has fetched. "
                "Push again later, or with overflow=drop-oldest."
            )
        case b"too large":
            bounds = limits if bounds_of is None else bounds_of(about.decode())
            return MailboxFull(
                f"The push does not fit: a mailbox holds {bounds.capacity} messages "
                f"and {bounds.capacity_bytes} bytes."
            )
        case b"mailboxes":
            return ServerFull(f"The server holds {limits.max_recipients} mailboxes, which is its bound.")
        case b"memory":
            return ServerFull(f"The messages kept reach the server's bound of {limits.max_memory} bytes.")
    return None
