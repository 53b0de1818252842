"""Leases as the script of Redis says them: rows with an attempt become messages, and leases become words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...core.leases import LeaseId
from ...core.message import LeasedMessage, Message


def lease_word(lease: LeaseId) -> str:
    """Return a lease as the script names it; the epoch is that of the log."""
    return f"{lease.sequence} {lease.attempt} {lease.secret}"


def undo_words(messages: Iterable[Message]) -> tuple[list[str], list[Any]]:
    """Return what undoes leases: the recipients of messages, and the number and lease of each."""
    found = [message for message in messages if isinstance(message, LeasedMessage)]
    words = [word for one in found for word in (one.sequence, lease_word(LeaseId.parse(one.lease)))]
    return [one.recipient for one in found], words


def leased(messages: Sequence[Message], leases: Iterable[tuple[int, str]]) -> tuple[LeasedMessage, ...]:
    """Return messages with their leases, each by its attempt and its secret."""
    return tuple(
        [
            LeasedMessage(
                message.cursor,
                message.recipient,
                message.content,
                message.created_at,
                message.expires_at,
                message.event,
                lease=str(LeaseId(message.cursor.epoch, message.sequence, attempt, secret)),
                attempt=attempt,
            )
            for message, (attempt, secret) in zip(messages, leases, strict=True)
        ]
    )
