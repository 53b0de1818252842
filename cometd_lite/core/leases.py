"""Leases: which messages of one mailbox are reserved for one worker each, until when, and how often that was.

A lease is made of a message that no take has had. It ends when its worker acknowledges the message, when the
worker gives it back, or when its time is over. A message whose lease ended unacknowledged is given to the
next take or lease, ``attempt`` raised by one; after ``most`` attempts it is exhausted, and is given to none.

``Mailbox.leases`` is None until its first lease. ``mailbox.py`` has what a lease means for the log.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from ..limits import CURSOR_DIGITS
from .message import LeasedMessage, Message
from .recipient import DEAD

Settlement: TypeAlias = Literal["done", "released", "extended"]
"""What is to become of leases."""

LeaseState: TypeAlias = Literal["done", "released", "extended", "gone"]
"""What became of a lease; ``gone`` where it had ended and its message is another worker's, or no more."""

_LEASE = re.compile(
    rf"([0-9a-z]{{10}})-([1-9][0-9]{{0,{CURSOR_DIGITS - 1}}})\.([1-9][0-9]{{0,8}})\.([0-9A-Za-z_-]{{22}})"
)

_STALE = 64
"""The entries of the heap of ends that may be out of date before it is rebuilt."""


class LeaseId(NamedTuple):
    """The id of a lease: it names the message and the attempt, and has a secret that cannot be guessed."""

    epoch: str
    sequence: int
    attempt: int
    secret: str

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}.{self.attempt}.{self.secret}"

    @classmethod
    def parse(cls, text: str) -> LeaseId:
        """Return the lease that ``text`` names; raise ``ValueError`` where it names none."""
        match = _LEASE.fullmatch(text)
        if match is None:
            raise ValueError("not a lease")
        return cls(match[1], int(match[2]), int(match[3]), match[4])


def new_secret() -> str:
    """Return what makes the ids of the leases of one answer unguessable: 128 random bits."""
    return secrets.token_urlsafe(16)


class Ended(NamedTuple):
    """What the end of leases asks of the hub.

    At ``recipients`` there are messages again for parked takes. ``exhausted`` are messages that are to go to
    their dead letters: the hub pushes each, then settles its lease as done.
    """

    recipients: Sequence[str] = ()
    exhausted: Sequence[LeasedMessage] = ()


class Reservation(Struct, gc=False):
    """The last lease of one message.

    ``free``: it has ended, and the message is in the mailbox as any other. ``released``: the same, because
    its worker gave it back. ``exhausted``: it was the last one that the message may have, and has ended.
    """

    attempt: int
    secret: str
    ends_at: float
    state: Literal["held", "free", "released", "exhausted"]


class Leases:
    """The last lease of each message of one mailbox that was leased; ``most`` is how many a message may have.

    ``reservations`` are by the number of the message, which is there until the message is done or dropped.
    """

    def __init__(self, recipient: str, most: int) -> None:
        # Dead letters of dead letters would have no end.
        self.most = inf if recipient.startswith(DEAD) else most
        self.reservations: dict[int, Reservation] = {}
        self.held = 0
        """How many are held by a worker."""
        self.exhausted: dict[int, None] = {}
        """The numbers of the messages that are exhausted, longest ago first."""
        self.changed: set[int] | None = None
        """The numbers of messages whose reservations have changed, for a store whose file follows them."""
        self._counted = (0, 0)
        self._ends: list[tuple[float, int]] = []
        """A heap with an entry for the end of each lease that is held; some are out of date."""

    # -- what is asked

    def reserves(self, number: int) -> bool:
        """Return whether a message is kept from takes: a worker has it, or it is exhausted."""
        reservation = self.reservations.get(number)
        return reservation is not None and reservation.state in {"held", "exhausted"}

    def find(self, lease: LeaseId) -> Reservation | None:
        """Return the reservation that a lease names, held or not; None where there was a later one."""
        reservation = self.reservations.get(lease.sequence)
        if reservation is None or reservation.attempt != lease.attempt:
            return None
        return reservation if secrets.compare_digest(reservation.secret, lease.secret) else None

    @property
    def next_end(self) -> float:
        """No lease that is held ends before this time."""
        return self._ends[0][0] if self._ends else inf

    # -- what changes

    def begin(self, message: Message, secret: str, ends_at: float) -> LeasedMessage:
        """Reserve a message that is not reserved."""
        number = message.sequence
        last = self.reservations.get(number)
        attempt = 1 if last is None else last.attempt + 1
        self.reservations[number] = Reservation(attempt, secret, inf, "free")
        self.hold(number, ends_at)
        return self.last(message)

    def last(self, message: Message) -> LeasedMessage:
        """Return a message with its last lease, as its worker was given it."""
        cursor = message.cursor
        reservation = self.reservations[cursor.sequence]
        lease = LeaseId(cursor.epoch, cursor.sequence, reservation.attempt, reservation.secret)
        return LeasedMessage(
            cursor,
            message.recipient,
            message.content,
            message.created_at,
            message.expires_at,
            message.event,
            lease=str(lease),
            attempt=reservation.attempt,
        )

    def hold(self, number: int, ends_at: float) -> None:
        """Let the last lease of a message end at this time, and not before."""
        reservation = self.reservations[number]
        if reservation.state != "held":
            reservation.state = "held"
            self.held += 1
        reservation.ends_at = ends_at
        self._note(number)
        heappush(self._ends, (ends_at, number))
        if len(self._ends) > 2 * self.held + _STALE:
            self._ends = [(one.ends_at, at) for at, one in self.reservations.items() if one.state == "held"]
            heapify(self._ends)

    def free(self, number: int) -> bool:
        """End the lease of a message; return whether others may have it, or it is exhausted."""
        reservation = self.reservations[number]
        self.held -= reservation.state == "held"
        self._note(number)
        if reservation.attempt < self.most:
            reservation.state = "free"
            return True
        reservation.state = "exhausted"
        self.exhausted[number] = None
        return False

    def release(self, number: int) -> bool:
        """End a lease that its worker gives back; return as ``free`` does."""
        reservation = self.reservations[number]
        is_there = reservation.state != "held" or self.free(number)
        if is_there:
            reservation.state = "released"
            self._note(number)
        return is_there

    def undo(self, number: int) -> None:
        """End the lease of a message whose worker has never had it: the attempt does not count."""
        self.held -= 1
        self._note(number)
        reservation = self.reservations[number]
        reservation.attempt -= 1
        reservation.state = "free"
        if not reservation.attempt:
            del self.reservations[number]

    def over(self, now: float, most: int) -> list[int]:
        """Return the numbers of up to ``most`` messages that are held and whose time is over."""
        ends = self._ends
        over: dict[int, None] = {}
        while ends and ends[0][0] <= now and len(over) < most:
            number = heappop(ends)[1]
            reservation = self.reservations.get(number)
            if reservation is not None and reservation.state == "held" and reservation.ends_at <= now:
                over[number] = None
        return list(over)

    def forget(self, numbers: Iterable[int]) -> None:
        """Forget the leases of messages that are done, or that are no longer kept."""
        for number in numbers:
            reservation = self.reservations.pop(number, None)
            if reservation is not None:
                self.held -= reservation.state == "held"
                self.exhausted.pop(number, None)
                self._note(number)

    def restore(self, number: int, reservation: Reservation) -> None:
        """Take in the last lease of a message, as a file has kept it."""
        ends_at, reservation.ends_at = reservation.ends_at, inf
        self.reservations[number] = reservation
        if reservation.state == "held":
            reservation.state = "free"
            self.hold(number, ends_at)

    def _note(self, number: int) -> None:
        if self.changed is not None:
            self.changed.add(number)

    def uncounted(self) -> tuple[int, int]:
        """Return how many more reservations there are, and are held, than when this was called last."""
        entries, held = self._counted
        self._counted = (len(self.reservations), self.held)
        return len(self.reservations) - entries, self.held - held

    # -- for tests

    def check_invariants(self, is_kept: Callable[[int], bool], is_untaken: Callable[[int], bool]) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests, between two calls."""
        reservations, ends = self.reservations, self._ends
        held = {number for number, one in reservations.items() if one.state == "held"}
        assert all(map(is_kept, reservations)), "a reservation is of a message that is kept"
        assert self.held == len(held), "held counts the leases that are held"
        assert set(self.exhausted) == {
            number for number, one in reservations.items() if one.state == "exhausted"
        }, "exhausted has those that are exhausted"
        assert not any(self.reserves(number) and is_untaken(number) for number in reservations), (
            "what is reserved is given to no take"
        )
        assert all(1 <= one.attempt <= self.most for one in reservations.values()), "attempts are counted"
        assert ends[:1] == sorted(ends)[:1], "the heap of ends begins with its first time"
        assert {(reservations[number].ends_at, number) for number in held} <= set(ends), (
            "the heap has the end of each lease that is held"
        )
