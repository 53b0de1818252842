"""Leases as the script of Redis says them: rows with an attempt become messages, and leases become words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...core.leases import LeaseId
from ...core.message import LeasedMessage, Message


def lease_word(lease: LeaseId) -> str:
    """Return a lease as the script names it; the epoch is that of the log."""
    return f"{lease.sequence} {lease.attempt} {lease.secret}"


def undo_words(messages: Iterable[Message]) -> list[str]:
    """Return what the script needs to undo leases: the number, name and lease of each message."""
    return [
        str(word)
        for message in messages
        if isinstance(message, LeasedMessage)
        for word in (message.sequence, message.recipient, lease_word(LeaseId.parse(message.lease)))
    ]


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
