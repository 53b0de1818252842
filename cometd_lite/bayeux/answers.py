"""What comes of a Bayeux conversation: replies, and what completes those to connects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..core.message import NOW, Cursor
from ..errors import CometError
from ..jsontext import dumps
from .sessions import BayeuxSession

Reply: TypeAlias = dict[str, Any]


@dataclass(slots=True, eq=False)
class Connect:
    """A connect that is still to be answered: its reply, and what must be known to complete it."""

    session: BayeuxSession
    reply: Reply
    received_at: float

    def complete(self, place: Cursor, now: float, *, gap: bool) -> None:
        """Complete the reply, which carries, or follows, the session's events up to ``place``.

        ``gap``: some that came before them are no longer kept.
        """
        session = self.session
        ext: Reply = self.reply.get("ext", {})
        if session.ack:
            session.ack_batch += 1
            session.ack_place = None if place == NOW else place
            ext["ack"] = session.ack_batch
        if gap:
            ext["gap"] = True
        if "timesync" in ext:
            ext["timesync"]["p"] = int((now - self.received_at) * 1000)
        if ext:
            self.reply["ext"] = ext

    def fail(self, error: str) -> None:
        """Make the reply say that the connect failed; clients then try again, after a pause of their own."""
        self.reply["successful"] = False
        self.reply["error"] = error


@dataclass(slots=True, eq=False)
class BatchAnswer:
    """The answer to a batch while it is made, apart from events and from what completes the connects.

    It is a context manager: from ``serve`` to the end of the block, no wake delivers anything to its session,
    because the answer carries what there is. ``wait`` is the seconds that its only connect is to be held, 0
    where the answer is due now. ``cookie`` is the browser's new name.
    """

    replies: list[Reply] = field(default_factory=list)
    connects: list[Connect] = field(default_factory=list)
    session: BayeuxSession | None = None
    """The one whose events may travel with it; None after a handshake."""
    greeted: BayeuxSession | None = None
    """The session that shook hands in it."""
    wait: float = 0.0
    cookie: str | None = None
    unreadable: CometError | None = None
    """Why the peer may not get the session's events; None where it may."""

    def serve(self, session: BayeuxSession) -> None:
        """Be the answer to a request of the session, if it is not to one of another session already."""
        if self.session is None:
            self.session = session
            session.answering += 1

    def __enter__(self) -> BatchAnswer:
        return self

    def __exit__(self, *error: object) -> None:
        if self.session is not None:
            self.session.answering -= 1

    @property
    def may_read(self) -> bool:
        """Whether the peer may get the session's events."""
        return self.unreadable is None

    @property
    def may_carry(self) -> bool:
        """Whether events may travel with it: under acknowledgement they do with replies to connects only."""
        session = self.session
        return (
            session is not None
            and self.may_read
            and bool(session.reads)
            and (bool(self.connects) or not session.ack)
        )

    def json(self, events: bytes = b"") -> bytes:
        """Return the answer's array, the events first."""
        return b"[%b%b" % (events, dumps(self.replies)[1:])
