"""Presence: who reads a recipient, by name, over the pauses between the polls of one reader.

A reader that is held is present. One that was answered, or has disconnected, stays present for
``ONLINE_SECONDS``: a poller is away between two polls, and a stream reconnects. A reader that comes meanwhile
under the same name takes its place, so a poller counts as one reader.

``PresenceTracker`` observes the registry of one process. It reports each change of a count to an
``Announcer``, which announces joins and leaves (``announcers.py``). There is no tracker where presence is
off.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from math import ceil
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from ..limits import (
    ONLINE_SECONDS,
    PRESENCE_BYTES,
    PRESENCE_FAREWELL_SECONDS,
    PRESENCE_LOOKS,
    PRESENCE_MEMBER_OVERHEAD,
    PRESENCE_MEMBERS,
    PRESENCE_PLACE_OVERHEAD,
    PRESENCE_READER_OVERHEAD,
    PRESENCE_SWEPT_AT_ONCE,
)
from ..sizes import text_size
from .hub import Hub
from .parked import ParkedReader
from .present import Announcer, Present, PresentMember
from .recipient import covering, is_hidden, is_pattern

_MOMENT = 0.5
"""A reader that changes process comes at the other one within so many seconds, and that is reported."""


@dataclass(slots=True, eq=False)
class _Member:
    """The readers of one name at one recipient or pattern; ``name`` is None for those that have none."""

    place: _Place
    name: str | None
    since: float
    held: int = 0
    """Readers that are parked."""
    ends: list[float] = field(default_factory=list)
    """When those that have left are present no more, soonest first."""
    due: int | None = None
    """The second in which it is looked at."""
    taken: float = 0.0
    """The end of the one that has left whose place was taken last."""
    farewell: float = 0.0
    """The next reader that leaves before then is present no more."""

    @property
    def readers(self) -> int:
        return self.held + len(self.ends)


@dataclass(slots=True, eq=False)
class _Place:
    """A recipient or pattern that has readers; they are counted, and listed by their names."""

    name: str
    members: dict[str | None, _Member] = field(default_factory=dict)
    readers: int = 0


class PresenceTracker:
    """The names that read through the registry of a hub, which reports its readers.

    ``announcer`` makes what announces changes. ``is_on`` returns whether presence is kept of a recipient;
    None: of all. The table takes at most ``most`` bytes. At that bound, names leave early whose readers have
    all left. Where that does not suffice, new readers are served and not counted.
    """

    def __init__(
        self,
        hub: Hub,
        announcer: Callable[[PresenceTracker], Announcer],
        is_on: Callable[[str], bool] | None = None,
        most: int = PRESENCE_BYTES,
    ) -> None:
        self.hub = hub
        self.clock = hub.clock
        self.counts = hub.counts
        self.wall = hub.wall
        self.most = most
        self.bytes = 0
        """The memory that the table takes."""
        self.named = 0
        """Names that are present, once for each recipient."""
        self.uncounted = 0
        """Readers that were served and not counted, because the table was full."""
        self._is_on = is_on
        self._places: dict[str, _Place] = {}
        self._patterns = 0
        """Places that are patterns."""
        self._due: dict[int, set[_Member]] = {}
        """Members by the second in which they are looked at, because a reader of theirs is away then."""
        self._timer: IDelayedCall | None = None
        """The one delayed call, for the first of these seconds."""
        self._is_stopped = False
        self.announcer = announcer(self)
        hub.keeps_presence = self.is_kept

    # -- what the registry reports

    def arrived(self, reader: ParkedReader[Any]) -> None:
        """Count a reader that is parked from now on, under its name, at each of its keys."""
        name = reader.name
        for key in reader.keys:
            member = self._member(key, name)
            if member is not None and member.ends:
                member.taken = member.ends.pop()
                member.held += 1
            else:
                self._enter(reader, key, member)

    def departed(self, reader: ParkedReader[Any]) -> None:
        """Keep a reader that is parked no longer present for a while."""
        name = reader.name
        now = self.clock.seconds()
        for key in reader.keys:
            member = self._member(key, name)
            if member is None or key in reader.uncounted:
                continue
            member.held -= 1
            if member.farewell and now < member.farewell:
                member.farewell = 0.0
                self._forget(member, 1)
                continue
            member.ends.append(now + ONLINE_SECONDS)
            if member.due is None:
                self._look_later(member)
        if reader.uncounted:
            reader.uncounted = ()

    def visited(self, reader: ParkedReader[Any]) -> None:
        """Keep a reader that was answered without being parked present for a while.

        Under a name whose readers are all held it is no further one: a page that shares a connection with
        others asks beside it.
        """
        if reader.name is not None and all(self._are_held(key, reader.name) for key in reader.keys):
            return
        self.arrived(reader)
        self.departed(reader)

    def _are_held(self, key: str, name: str) -> bool:
        member = self._member(key, name)
        return member is not None and member.held > 0 and not member.ends

    def _enter(self, reader: ParkedReader[Any], key: str, member: _Member | None) -> None:
        """Count one reader more under a name, if there is room for it."""
        name = reader.name
        size = PRESENCE_READER_OVERHEAD
        if member is None:
            if is_hidden(key) or not (self._is_on is None or is_pattern(key) or self._is_on(key)):
                return
            size += _member_size(name)
        if key not in self._places:
            size += _place_size(key)
        if self.bytes + size > self.most and not self._has_made_room(size):
            self.uncounted += 1
            reader.uncounted = (*reader.uncounted, key)
            return
        # Where room was made, the place and the member may have been removed.
        place = self._places.get(key) or self._add_place(key)
        member = place.members.get(name) or self._add_member(place, name)
        before = member.readers
        member.held += 1
        place.readers += 1
        self.bytes += PRESENCE_READER_OVERHEAD
        self.announcer.changed(key, name, before)

    def _has_made_room(self, size: int) -> bool:
        """Let names leave early whose readers have all left; return whether so many bytes are free then."""
        members = chain.from_iterable([self._due[second] for second in sorted(self._due)])
        for member in list(islice(members, PRESENCE_LOOKS)):
            if not member.held:
                count = len(member.ends)
                member.ends.clear()
                self._forget(member, count)
                if self.bytes + size <= self.most:
                    return True
        return False

    def _add_place(self, key: str) -> _Place:
        place = self._places[key] = _Place(key)
        self._patterns += key[-1] == "*"
        self.bytes += _place_size(key)
        return place

    def _add_member(self, place: _Place, name: str | None) -> _Member:
        member = place.members[name] = _Member(place, name, self.wall())
        self.named += name is not None
        self.bytes += _member_size(name)
        return member

    # -- leaving

    def leave(self, recipient: str, name: str) -> None:
        """Let a name leave now, unless a reader of it is still held.

        The one that is held may be that of the client which says so: its connection was closed just before,
        and the reactor has not reported it. So, unless one has just left, the next reader that leaves in a
        moment leaves at once.
        """
        self.dismiss(recipient, name)
        self.announcer.left(recipient, name)

    def dismiss(self, recipient: str, name: str) -> None:
        member = self._member(recipient, name)
        if member is not None:
            now = self.clock.seconds()
            has_just_left = member.ends and member.ends[-1] > now + ONLINE_SECONDS - PRESENCE_FAREWELL_SECONDS
            if member.held and not has_just_left:
                member.farewell = now + PRESENCE_FAREWELL_SECONDS
            self.replaced(recipient, name, len(member.ends))

    def replaced(self, recipient: str, name: str | None, most: int) -> bool:
        member = self._member(recipient, name)
        if member is None:
            return False
        count = min(most, len(member.ends))
        has_passed = count < most and member.taken > self.clock.seconds() + ONLINE_SECONDS - _MOMENT
        member.taken = 0.0
        if count:
            del member.ends[-count:]
            self._forget(member, count)
        return has_passed

    def _forget(self, member: _Member, count: int) -> None:
        """Count so many readers less, which were taken out of their member."""
        place, name = member.place, member.name
        left = member.readers
        place.readers -= count
        self.bytes -= count * PRESENCE_READER_OVERHEAD
        if not left:
            self._end_looks(member)
            del place.members[name]
            self.named -= name is not None
            self.bytes -= _member_size(name)
            if not place.members:
                del self._places[place.name]
                self._patterns -= place.name[-1] == "*"
                self.bytes -= _place_size(place.name)
        self.announcer.changed(place.name, name, left + count)

    # -- time

    def _look_later(self, member: _Member) -> None:
        """Look at a member when the first of its readers is present no more."""
        second = member.due = ceil(member.ends[0])
        self._due.setdefault(second, set()).add(member)
        if self._timer is None:
            self._set_timer()

    def _end_looks(self, member: _Member) -> None:
        if member.due is not None:
            members = self._due[member.due]
            members.discard(member)
            if not members:
                del self._due[member.due]
            member.due = None

    def _set_timer(self) -> None:
        if self._due and not self._is_stopped:
            wait = max(0.0, min(self._due) - self.clock.seconds())
            self._timer = self.clock.callLater(wait, self._sweep)

    def _sweep(self) -> None:
        """Forget the readers whose time is over, of ``PRESENCE_SWEPT_AT_ONCE`` members in one turn."""
        now = self.clock.seconds()
        due = chain.from_iterable([self._due[second] for second in sorted(self._due) if second <= now])
        for member in list(islice(due, PRESENCE_SWEPT_AT_ONCE)):
            self._end_looks(member)
            count = bisect_right(member.ends, now)
            if count:
                del member.ends[:count]
                self._forget(member, count)
            if member.ends:
                self._look_later(member)
        self._timer = None
        self._set_timer()

    def stop(self) -> None:
        """Announce nothing any more, and leave no timer behind."""
        self._is_stopped = True
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self.announcer.stop()

    # -- what is said of it

    def names(self) -> Iterator[tuple[str, str | None]]:
        """See ``PresentReaders.names``. The table must not change meanwhile."""
        return ((place.name, name) for place in self._places.values() for name in place.members)

    def count(self, recipient: str, name: str | None) -> int:
        member = self._member(recipient, name)
        return 0 if member is None else member.readers

    def readers(self, recipient: str) -> int:
        """Count the readers of a recipient, those of patterns that cover it included."""
        keys = covering(recipient) if self._patterns else (recipient,)
        return sum([self._places[key].readers for key in keys if key in self._places])

    def members(self, recipient: str) -> int:
        """Count the names that read a recipient."""
        place = self._places.get(recipient)
        return 0 if place is None else len(place.members) - (None in place.members)

    def is_kept(self, recipient: str) -> bool:
        """Return whether presence is kept of a recipient."""
        return self._is_on is None or self._is_on(recipient)

    def describe(self, recipient: str) -> Present:
        """Say who reads a recipient at this process."""
        place = self._places.get(recipient)
        named = () if place is None else (one for one in place.members.values() if one.name is not None)
        members = [
            PresentMember(member.name or "", member.since, member.readers)
            for member in islice(named, PRESENCE_MEMBERS)
        ]
        more = self.members(recipient) > PRESENCE_MEMBERS
        return Present(recipient, self.readers(recipient), tuple(members), more)

    def _member(self, recipient: str, name: str | None) -> _Member | None:
        place = self._places.get(recipient)
        return None if place is None else place.members.get(name)

    # -- for tests

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests, between two calls."""
        places = self._places.values()
        members = [member for place in places for member in place.members.values()]
        assert all(place.members for place in places), "no place is without a member"
        assert all(member.readers > 0 <= member.held for member in members), "no member is without a reader"
        for place in places:
            counted = sum([member.readers for member in place.members.values()])
            assert place.readers == counted, "the readers of a place are those of its members"
        assert self.named == sum([member.name is not None for member in members]), "names are counted"
        assert self._patterns == sum([place.name[-1] == "*" for place in places]), "patterns are counted"
        size = sum([_place_size(place.name) for place in places])
        size += sum([_member_size(one.name) + one.readers * PRESENCE_READER_OVERHEAD for one in members])
        assert self.bytes == size <= self.most, "bytes are counted, and bounded"
        for member in members:
            assert member.ends == sorted(member.ends), "the ends of a member are in order"
            assert not member.ends or (member.due is not None and member.due <= ceil(member.ends[0])), (
                "a member is looked at no later than its first reader is present no more"
            )
        due = {(member, second) for second, group in self._due.items() for member in group}
        assert all(self._due.values()), "no second is without a member"
        assert due == {(member, member.due) for member in members if member.due is not None}
        assert self._is_stopped or self._timer is not None or not self._due, (
            "there is a timer where a member is to be looked at"
        )


def _member_size(name: str | None) -> int:
    return PRESENCE_MEMBER_OVERHEAD + (0 if name is None else text_size(name))


def _place_size(name: str) -> int:
    return PRESENCE_PLACE_OVERHEAD + text_size(name)
