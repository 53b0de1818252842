"""Reads of patterns in memory: from the log, or from the mailboxes that the patterns cover.

A reader at the end of the log looks through the little that is new. A reader that comes back to a long log
reads the mailboxes of its patterns where they are few. Where they are many it goes through the log, in steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import merge
from itertools import chain, islice
from math import inf
from operator import attrgetter
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..core.mailbox import Mailbox
from ..core.message import Cursor, Message, sent_size
from ..core.recipient import matcher
from ..core.store import Shows
from ..deferreds import MaybeDeferred, is_pending
from ..limits import NAMES_LOOK, PATTERN_LOOK, PATTERN_MAILBOXES, POLL_BYTES
from .log import Log
from .names import SortedNames
from .slices import Slices, Steps

_sequence = attrgetter("sequence")

Found: TypeAlias = tuple[tuple[Message, ...], bool, bool]
"""The messages, whether there are more, and whether something was lost that had not been looked at."""

_FIRST_CHARACTER = "\0"
"""What stands behind a name in the first name after it; no name has it."""

_Asked: TypeAlias = tuple[tuple[str, ...], int | Cursor, int]


class PatternReads:
    """The reads of patterns. ``lost`` says whether the recipients have lost a message above a number."""

    def __init__(
        self,
        mailboxes: Mapping[str, Mailbox],
        log: Log,
        slices: Slices,
        lost: Callable[[tuple[str, ...], int], bool],
    ) -> None:
        self.names = SortedNames()
        """The names of all mailboxes."""
        self._mailboxes = mailboxes
        self._log = log
        self._slices = slices
        self._lost = lost
        self._reading: dict[_Asked, tuple[Deferred[Found], list[Deferred[Found]]]] = {}
        """The reads that take several steps, by what they ask, each with the readers that wait for it."""

    def read(self, recipients: tuple[str, ...], place: int | Cursor, limit: int) -> MaybeDeferred[Found]:
        """Return up to ``limit`` messages above a number, or from a cursor ``LAST`` on.

        Cancelling the Deferred forgets the reader.
        """
        asked = (recipients, place, limit)
        if asked not in self._reading:
            found = self._slices.run(self._steps(*asked))
            if not is_pending(found):
                return found
            self._reading[asked] = (found, [])
            found.addBoth(self._was_read, asked)
        under_way, waiting = self._reading[asked]

        def forget(mine: Deferred[Found]) -> None:
            waiting.remove(mine)
            if not waiting:
                under_way.cancel()

        waiting.append(Deferred(forget))
        return waiting[-1]

    def _steps(self, recipients: tuple[str, ...], place: int | Cursor, limit: int) -> Steps[Found]:
        """Look through the log in steps, unless few mailboxes are covered."""
        if isinstance(place, Cursor):
            place = yield from self._before_newest(recipients, place.sequence)
        gap = self._lost(recipients, place)
        matches = matcher(recipients)
        rest = self._log.after(place, PATTERN_LOOK)
        messages, more = bounded(filter_recipients(matches, rest), limit)
        if more or len(rest) < PATTERN_LOOK:
            return messages, more, gap
        boxes = self._few(recipients)
        if boxes is not None:
            return *bounded(merged([box.read(place, limit + 1) for box in boxes]), limit), gap
        while not more and len(rest) == PATTERN_LOOK:
            at = rest[-1].sequence
            yield
            gap = gap or self._lost(recipients, at)
            rest = self._log.after(at, PATTERN_LOOK)
            messages, more = bounded(chain(messages, filter_recipients(matches, rest)), limit)
        return messages, more, gap

    def _before_newest(self, recipients: tuple[str, ...], count: int) -> Steps[int]:
        """Return the number before the newest messages. Looks back through the log in steps."""
        rest = self._log.before(inf, PATTERN_LOOK)
        end = rest[0].sequence if rest else 0
        matches = matcher(recipients)
        place, left = end, count
        while True:
            found = list(islice(filter_recipients(matches, rest), left))
            left -= len(found)
            if found:
                place = found[-1].sequence - 1
            if not left or len(rest) < PATTERN_LOOK:
                return place
            boxes = self._few(recipients)
            if boxes is not None:
                return before_newest(boxes, count, end)
            yield
            rest = self._log.before(rest[-1].sequence, PATTERN_LOOK)

    def _few(self, recipients: tuple[str, ...]) -> list[Mailbox] | None:
        """Return the mailboxes that are covered, where they are few; else None."""
        names = self.names.covered(recipients, PATTERN_MAILBOXES)
        if names is None:
            return None
        return [self._mailboxes[name] for name in names if name in self._mailboxes]

    def listed(self, prefix: str, after: str, most: int, shows: Shows) -> Steps[list[str]]:
        """Return the names of a listing; see ``Store.names``."""
        found: list[str] = []
        first = max(prefix, after + _FIRST_CHARACTER)
        while True:
            looked = self.names.beginning(first, NAMES_LOOK)
            for name in looked:
                if not name.startswith(prefix) or len(found) == most:
                    return found
                if shows(name):
                    found.append(name)
            if len(looked) < NAMES_LOOK or len(found) == most:
                return found
            first = looked[-1] + _FIRST_CHARACTER
            yield

    def _was_read(self, found: Found | Failure, asked: _Asked) -> None:
        _, waiting = self._reading.pop(asked)
        waiting.reverse()
        while waiting:  # one that is answered may cancel others
            waiting.pop().callback(found)  # a Failure makes it an errback


def before_newest(mailboxes: Iterable[Mailbox], count: int, end: int) -> int:
    """Return the number before the newest messages of some mailboxes; ``end`` where they have none."""
    logs = [reversed(mailbox.messages) for mailbox in mailboxes]
    newest = [message.sequence for message in islice(merge(*logs, key=_sequence, reverse=True), count)]
    return newest[-1] - 1 if newest else end


def filter_recipients(matches: Callable[[str], bool], messages: Iterable[Message]) -> Iterable[Message]:
    """Return the messages whose recipients match."""
    return (message for message in messages if matches(message.recipient))


def merged(logs: Sequence[Iterable[Message]]) -> Iterable[Message]:
    """Return the messages of several logs in the one order."""
    return logs[0] if len(logs) == 1 else merge(*logs, key=_sequence)


def bounded(found: Iterable[Message], limit: int) -> tuple[tuple[Message, ...], bool]:
    """Cut what was found to ``limit`` messages and ``POLL_BYTES`` as sent; say whether there was more."""
    messages: list[Message] = []
    size = 0
    for message in found:
        size += sent_size(message)
        if len(messages) == limit or (messages and size > POLL_BYTES):
            return tuple(messages), True
        messages.append(message)
    return tuple(messages), False
