"""Checks of what Python programs pass: a wrong type or word is named in a sentence, with what is right.

Requests over HTTP are checked by ``http.params``. Types are checked as well, because many programs have no
type checker, and ``queue="no"`` would be taken as true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..limits import LEASE_SECONDS
from .leases import Settlement
from .message import LeasedMessage

Recipients = str | Iterable[str]

OVERFLOWS = ("reject", "drop-oldest")
"""What a full mailbox may do with a push."""


def names(recipients: Recipients) -> list[str]:
    """Return one or several names as a list. Raises ``TypeError`` for anything else than strings."""
    if isinstance(recipients, str):
        return [recipients]
    if isinstance(recipients, (bytes, bytearray)) or not isinstance(recipients, Iterable):
        raise TypeError(
            f"recipients is a name or a list of names, as in ['bob', 'alice'], not {recipients!r}."
        )
    listed = list(recipients)
    for name in listed:
        if not isinstance(name, str):
            raise TypeError(f"A recipient's name is a str, as in 'bob', not {name!r}.")
    return listed


def checked_names(recipients: Recipients, check: Callable[[str], str]) -> tuple[str, ...]:
    """Return each name once, checked by a function of ``core.recipient``."""
    # Where none is named, the check of an empty name says so.
    return tuple(dict.fromkeys(map(check, names(recipients) or ("",))))


def check_push(
    *, event: object, ttl: object, queue: object, overflow: object, idempotency_key: object
) -> None:
    """Raise ``TypeError`` or ``ValueError`` where an argument of a push is not what it can be."""
    check_text("event", event)
    check_text("idempotency_key", idempotency_key)
    check_seconds("ttl", ttl)
    if isinstance(ttl, (int, float)) and not ttl > 0:
        raise ValueError("ttl is a number of seconds above 0.")
    if not isinstance(queue, bool):
        raise TypeError(f"queue is True or False, not {queue!r}.")
    if overflow is not None:
        check_overflow(overflow)


def check_overflow(overflow: object) -> None:
    """Raise ``ValueError`` for a word that is none of ``OVERFLOWS``."""
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow is 'reject' or 'drop-oldest', not {overflow!r}.")


def check_read(wait: object, limit: object) -> None:
    """Raise ``TypeError`` or ``ValueError`` where an argument of a poll or take is not what it can be."""
    check_seconds("wait", wait)
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit is a number of messages, as in 100, not {limit!r}.")
    if limit < 1:
        raise ValueError("limit is a number of messages, 1 or more.")


def check_lease(seconds: float, name: str = "seconds") -> float:
    """Return for how long a lease is. Raises ``TypeError`` or ``ValueError`` where it cannot be that long."""
    least, most = LEASE_SECONDS
    check_seconds(name, seconds)
    if seconds is None or not least <= seconds <= most:
        raise ValueError(f"{name} is a number of seconds from {least:g} to {most:g}, not {seconds!r}.")
    return seconds


def settlement_of(message: object, extend: float | None, release: object) -> tuple[Settlement, float]:
    """Return what is to become of the lease of a message, and the seconds for which it is extended."""
    if not isinstance(message, LeasedMessage):
        raise TypeError(f"ack is given a message that was leased, as in Batch.leased, not {message!r}.")
    if not isinstance(release, bool):
        raise TypeError(f"release is True or False, not {release!r}.")
    if extend is None:
        return ("released" if release else "done"), 0.0
    if release:
        raise ValueError("A lease is extended or released, not both.")
    return "extended", check_lease(extend, "extend")


def check_seconds(name: str, value: object) -> None:
    """Raise ``TypeError`` where an argument is neither a number nor None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"{name} is a number of seconds, as in 600, not {value!r}.")


def check_text(name: str, value: object) -> None:
    """Raise ``TypeError`` where an argument is neither a string nor None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is a str, not {value!r}.")


def check_kind(name: str, value: object, kind: type[Any], example: str) -> None:
    """Raise ``TypeError`` where an argument is neither of a class nor None; ``example`` shows one that is."""
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} is a {kind.__name__}, as in {name}={example}, not {value!r}.")


def check_list(name: str, value: object, example: str) -> None:
    """Raise ``TypeError`` where an argument that is a list of strings is one string."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name} is a list, as in {name}=[{example!r}], not {value!r}.")
