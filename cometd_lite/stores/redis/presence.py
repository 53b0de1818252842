"""Presence over all processes at one Redis: each process reports how many readers of a name it has.

A process reports a change within ``REDIS_PRESENCE_SECONDS``, many in one run of the script, and every second
that it is there. The script knows the readers of all processes. So it knows when a name joins and leaves, and
pushes the message in the same run: a reader that changes process does not leave. When a process has not
reported for ``ONLINE_SECONDS``, the others take its readers out.

A reader that comes at one process may have left another one a moment ago, where it counts as present for a
while. The script notifies that process, which lets go of one that has left.

When a process has connected, it reports all of its readers, under a name of its own for that connection. What
it had reported under the name before, and does not report again, has left.

Where an application is notified of joins and leaves, the script also keeps the event for it. So no event is
lost or doubled where the answer to a report is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from ...core.message import timestamp
from ...core.present import OnChange, PresenceChange, Present, PresentMember, PresentReaders
from ...errors import StoreDown
from ...jsontext import dumps, parse
from ...limits import (
    PRESENCE_CHANGES,
    REDIS_PRESENCE_AT_ONCE,
    REDIS_PRESENCE_BEAT_SECONDS,
    REDIS_PRESENCE_SECONDS,
)
from .link import RedisLink
from .wakes import Wakes

_LEFT = "dismissed 0"
_REPLACED = "replaced 1"
"""What is published to the other processes beside a count: that a name has said that it leaves, or that one
reader of it that has left them is here."""


class RedisAnnouncer:
    """Reports the readers of one process. It is an ``Announcer``."""

    def __init__(self, link: RedisLink, wakes: Wakes, readers: PresentReaders) -> None:
        self.on_change: OnChange | None = None
        self._link = link
        self._process = wakes.process
        self._readers = readers
        self._connections = 0
        self._name = ""
        """The name under which it reports over this connection; empty while it has none."""
        self._is_new = True
        """Whether it has not yet reported under this name."""
        self._former = ""
        """The name of the connection before, until all readers are reported under the new one."""
        self._unreported: Iterator[tuple[str, str | None]] | None = None
        """The names that are still to be reported because the connection is new."""
        self._changed: dict[tuple[str, str | None], str | None] = {}
        """The names of which something is to be reported: what is published, None for the count alone."""
        self._is_reporting = False
        self._call: IDelayedCall | None = None
        self._is_stopped = False
        wakes.on_presence = self.received
        link.on_connected = self.entered

    # -- the connection

    def entered(self) -> None:
        """Report all readers: the connection is new."""
        if self._is_stopped:
            return
        self._connections += 1
        self._former, self._name = self._name or self._former, f"{self._process}.{self._connections}"
        self._is_new = True
        self._changed = {changed: what for changed, what in self._changed.items() if what == _LEFT}
        self._unreported = iter(list(self._readers.names()))
        self._report_in(0.0)

    def received(self, about: bytes, said: bytes) -> None:
        """Take in what the script says of a name that other processes have readers of, too."""
        count, _, rest = said.partition(b" ")
        recipient, _, name = rest.partition(b"\n")
        own = parse(name) if name else None
        if about == b"replaced":
            # Two readers of a name that change places may each take that of the other.
            if self._readers.replaced(recipient.decode(), own, int(count)):
                self._note(recipient.decode(), own, _REPLACED)
        elif own is not None:
            self._readers.dismiss(recipient.decode(), own)

    # -- what the tracker reports

    def changed(self, recipient: str, name: str | None, before: int) -> None:
        del before  # the script knows
        self._note(recipient, name, None)

    def left(self, recipient: str, name: str) -> None:
        self._note(recipient, name, _LEFT)

    def _note(self, recipient: str, name: str | None, what: str | None) -> None:
        if self._is_stopped or not self._name:
            return
        changed = (recipient, name)
        if changed not in self._changed and len(self._changed) >= PRESENCE_CHANGES:
            self.entered()
            return
        self._changed[changed] = what or self._changed.get(changed)
        if not self._is_reporting:
            self._report_in(REDIS_PRESENCE_SECONDS)

    # -- what is reported

    def _report_in(self, seconds: float) -> None:
        """Report in so many seconds, unless that is to be done earlier."""
        clock = self._readers.clock
        if self._call is not None:
            if self._call.getTime() <= clock.seconds() + seconds:
                return
            self._call.cancel()
        self._call = clock.callLater(seconds, self._report)

    def _report(self) -> None:
        """Report what has changed, or that nothing has."""
        self._call = None
        if self._is_stopped or self._is_reporting or not self._link.is_up:
            return  # it begins again when an answer has come, or the connection is new
        rows = self._next_rows()
        is_whole = self._unreported is None
        words = [
            self._name,
            self._former,
            repr(self._readers.wall()),
            int(is_whole),
            int(self._is_new),
            "" if self.on_change is None else timestamp(self._readers.wall()),
            *[word for recipient, name, what in rows for word in self._row(recipient, name, what)],
        ]
        self._is_reporting = True
        asked = self._link.run(self._readers.clock.seconds(), "attend", (), *words)
        asked.addCallback(self._reported, self._name, is_whole)
        asked.addErrback(self._not_reported, self._name, rows)

    def _next_rows(self) -> list[tuple[str, str | None, str | None]]:
        """Take out what is reported next."""
        if self._unreported is not None:
            first = list(islice(self._unreported, REDIS_PRESENCE_AT_ONCE))
            if len(first) < REDIS_PRESENCE_AT_ONCE:
                self._unreported = None
            return [(recipient, name, None) for recipient, name in first]
        changed = list(islice(self._changed, REDIS_PRESENCE_AT_ONCE))
        return [(*one, self._changed.pop(one)) for one in changed]

    def _row(self, recipient: str, name: str | None, what: str | None) -> tuple[str, str, str | int]:
        shown = "" if name is None else dumps(name).decode()
        return f"{recipient}\n{shown}", what or "", self._readers.count(recipient, name)

    def _reported(self, reply: list[Any], name: str, is_whole: bool) -> None:
        """Note what the script makes of a report: what it has announced, and whether there is more to do."""
        is_known, more, untold, *announced = reply
        self._is_reporting = False
        counts = self._readers.counts
        counts.presence_untold += untold
        for event, recipient, own, readers in zip(*[iter(announced)] * 4, strict=True):
            joins = event == b"join"
            counts.presence_joins += joins
            counts.presence_leaves += not joins
            if self.on_change is not None:
                self.on_change(
                    PresenceChange(
                        "join" if joins else "leave",
                        recipient.decode(),
                        parse(own),
                        readers,
                        self._readers.wall(),
                    )
                )
        if self._is_stopped:
            return
        if name != self._name:
            self._report_in(0.0)  # the connection has changed meanwhile
        elif not is_known:
            self._former = self._name = ""  # it was away for too long, and its readers were taken out
            self.entered()
        else:
            self._is_new = False
            if is_whole:
                self._former = ""
            is_busy = more or self._changed or self._unreported is not None
            self._report_in(REDIS_PRESENCE_SECONDS if is_busy else REDIS_PRESENCE_BEAT_SECONDS)

    def _not_reported(
        self, failure: Failure, name: str, rows: list[tuple[str, str | None, str | None]]
    ) -> None:
        """Report the same later, where Redis takes no writes; where it is away, all is reported anew.

        A name that has said that it leaves is not among those that are there, so that is reported again.
        """
        self._is_reporting = False
        failure.trap(StoreDown)
        if self._is_stopped:
            return
        rows = [row for row in rows if name == self._name or row[2] == _LEFT]
        if rows:
            changed, self._changed = self._changed, {(one, own): what for one, own, what in rows}
            for (recipient, own), what in changed.items():
                self._changed[recipient, own] = what or self._changed.get((recipient, own))
        self._report_in(REDIS_PRESENCE_BEAT_SECONDS)

    # -- what is said of it

    def describe(self, recipient: str) -> Deferred[Present]:
        """See ``Announcer.describe``. Fails with ``StoreDown``.

        What has changed here is reported before: a client that came or left a moment ago sees that it did.
        """
        if self._changed:
            self._end_timer()
            self._report()

        def described(reply: list[Any]) -> Present:
            readers, more, *found = reply
            members = [
                PresentMember(parse(name), float(since), count)
                for name, since, count in zip(*[iter(found)] * 3, strict=True)
            ]
            return Present(recipient, readers, tuple(members), bool(more))

        asked: Deferred[list[Any]] = self._link.run(self._readers.clock.seconds(), "present", (), recipient)
        return asked.addCallback(described)

    def stop(self) -> None:
        """See ``Announcer.stop``. When the time of its readers is over, other processes take them out."""
        self._is_stopped = True
        self._end_timer()

    def _end_timer(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
