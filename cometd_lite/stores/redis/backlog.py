"""What a process is to write once Redis takes writes again.

While Redis refuses writes it is still read. What readers acknowledge, what takes give back and what is
remembered of listeners waits here until then, within a bound in bytes: the oldest is dropped first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred

from ...core.leases import LeaseId
from ...core.message import Cursor, LeasedMessage, Message
from ...deferreds import value_of
from ...errors import StoreDown
from ...limits import REDIS_UNWRITTEN_BYTES, REDIS_WRITTEN_AT_ONCE
from .leases import lease_word
from .link import RedisLink

_ENTRY_BYTES = 300
"""What an entry takes besides its name."""

Place = tuple[Any, ...]
"""An epoch, a number, and a recipient; and a lease where one is undone."""


class Backlog:
    """What one process has not written: acknowledgements, returned takes, and records."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._entries: dict[tuple[str, str], Any] = {}
        """Places to acknowledge or give back, and how records are written, by what they are about."""
        self._size = 0
        self._is_writing = False

    def acknowledge(self, names: tuple[str, ...], after: Cursor) -> None:
        """Acknowledge later what the names hold up to a cursor."""
        for name in names:
            known = self._entries.get(("acknowledge", name))
            if known is None or known[0] != after.epoch or known[1] < after.sequence:
                self._put(("acknowledge", name), (after.epoch, after.sequence, name))

    def give_back(self, messages: Sequence[Message]) -> None:
        """Give messages back later."""
        for message in messages:
            place = (message.cursor.epoch, message.sequence, message.recipient)
            if isinstance(message, LeasedMessage):
                self._put(("undo", message.id), (*place, lease_word(LeaseId.parse(message.lease))))
            else:
                self._put(("give_back", message.id), place)

    def put_record(
        self,
        kind: str,
        id: str,  # noqa: A002
        value: Callable[[], bytes] | None,
        write: Callable[[], object],
    ) -> None:
        """Call ``write`` later. Until then the record is what ``value`` returns; None: it is deleted."""
        self._put((f"record {kind}", id), (value, write))

    def record(self, kind: str, id: str) -> tuple[Callable[[], bytes] | None] | None:  # noqa: A002
        """Return, in a tuple, what returns the value of a record that is not written yet; else None."""
        found = self._entries.get((f"record {kind}", id))
        return None if found is None else found[:1]

    def forget_record(self, kind: str, id: str) -> None:  # noqa: A002
        """Forget what was to be written of a record, because something newer was."""
        self._drop((f"record {kind}", id))

    def write(self) -> None:
        """Write everything, a step at a time."""
        if self._entries and not self._is_writing:
            self._is_writing = True
            Deferred.fromCoroutine(self._write())

    async def _write(self) -> None:
        try:
            for verb in ("give_back", "undo", "acknowledge"):
                while keys := [key for key in self._entries if key[0] == verb][:REDIS_WRITTEN_AT_ONCE]:
                    places: list[Place] = [self._entries[key] for key in keys]
                    here = [place for place in places if place[0] == self._link.epoch]
                    words = [word for place in here for word in (place[1], *place[3:])]
                    await self._link.run(0.0, verb, [place[2] for place in here], *words)
                    for key, place in zip(keys, places, strict=True):
                        if self._entries.get(key) == place:
                            self._drop(key)
            records = iter([key for key in self._entries if key[0].startswith("record ")])
            while keys := list(islice(records, REDIS_WRITTEN_AT_ONCE)):
                for key in keys:
                    if key in self._entries:
                        self._drop(key)[1]()  # it comes here again where it is refused
                await value_of(self._link.flush())
        except StoreDown:
            pass  # it is written when the store says once more that it can be
        finally:
            self._is_writing = False

    def _put(self, key: tuple[str, str], entry: Any) -> None:
        self._drop(key)
        self._entries[key] = entry
        self._size += _ENTRY_BYTES + len(key[1].encode())
        while self._size > REDIS_UNWRITTEN_BYTES:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: tuple[str, str]) -> Any:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= _ENTRY_BYTES + len(key[1].encode())
        return entry

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` where the bytes of what is unwritten are miscounted, or too many."""
        assert self._size == sum(_ENTRY_BYTES + len(id_.encode()) for _, id_ in self._entries)
        assert self._size <= REDIS_UNWRITTEN_BYTES
