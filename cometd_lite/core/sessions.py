"""Readers whose place the server remembers: they come with an unguessable id, and go on where they stood.

A session is what it reads and one place in the one order; no message is copied for it. It lives while it
is used: it is dropped ``ttl`` seconds after its last use, which ends when the last answer has left the
server. Its id is all that a client needs to use it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Generic, Protocol, TypeVar

from ..errors import ServerFull
from ..limits import (
    LARGE_ANSWER_BYTES,
    SENDING_LOOKS,
    SESSION_BYTES,
    SESSION_ID_BYTES,
    SESSION_NAME_OVERHEAD,
    SESSION_OVERHEAD,
    SESSIONS_AT_ONCE,
    SLOW_CLIENT_BYTES_PER_SECOND,
)
from ..memos import shrink
from ..sizes import names_size
from .deadlines import Deadlines
from .message import Cursor

S = TypeVar("S", bound="Session")


def new_id() -> str:
    """Return an id that cannot be guessed: 160 random bits, safe in URLs and headers."""
    return secrets.token_hex(SESSION_ID_BYTES)


class Quota(Protocol):
    """What bounds the sessions of one client."""

    def take(self) -> None:
        """Count one more session. Raises ``TooManyRequests`` where the client has as many as it may."""

    def release(self) -> None:
        """Count one session less."""


@dataclass(slots=True, eq=False)
class Session:
    """One remembered reader: its id, what it reads, and its place.

    ``used`` counts the polls or sockets that hold it now; while there is one it does not expire. ``share`` is
    the quota of the client that it counts against; None where sessions are not counted by client.
    """

    id: str
    recipients: tuple[str, ...]
    place: Cursor
    ttl: float
    share: Quota | None = None
    used: int = 0
    expires_at: float = inf


def session_size(recipients: tuple[str, ...]) -> int:
    """Return the bytes of a session that reads these names."""
    return SESSION_OVERHEAD + names_size(recipients, SESSION_NAME_OVERHEAD)


class Sessions(Generic[S]):
    """A bounded table of sessions that forgets those whose time is over. ``now`` is monotonic seconds.

    At most ``most`` sessions are there, which take at most ``SESSION_BYTES`` each on average.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.memory = 0
        """The bytes of all sessions, with the names that they read."""
        self._sessions: dict[str, S] = {}
        self._expiries: Deadlines[str] = Deadlines(lambda _, id: id in self._sessions)  # noqa: A006
        """A time for each session, which is never too late."""
        self._sending: dict[S, Callable[[], bool]] = {}
        """The sessions whose last answer may be on its way, and what returns whether it still is."""

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[S]:
        return iter(tuple(self._sessions.values()))

    def add(self, session: S, now: float) -> None:
        """Remember a new session from now on.

        Raises ``ServerFull`` where there are as many as may be, ``TooManyRequests`` where its client has.
        """
        if len(self._sessions) >= self.most:
            raise ServerFull(f"{self.most} readers are registered already, which is the server's bound.")
        size = session_size(session.recipients)
        self._check_memory(size)
        if session.share is not None:
            session.share.take()
        self._sessions[session.id] = session
        self.memory += size
        session.expires_at = now + session.ttl
        self._expiries.add(session.expires_at, session.id)

    def change(self, session: S, recipients: tuple[str, ...], *, is_undone: bool = False) -> None:
        """Set what a session reads. Raises ``ServerFull``, unless that undoes another change."""
        if session.id in self._sessions:
            more = session_size(recipients) - session_size(session.recipients)
            if more > 0 and not is_undone:
                self._check_memory(more)
            self.memory += more
        session.recipients = recipients

    def _check_memory(self, size: int) -> None:
        if self.memory + size > self.most * SESSION_BYTES:
            raise ServerFull("The names of registered readers take as much memory as they may.")

    def get(self, id: str, now: float) -> S | None:  # noqa: A002
        """Return the session with this id, None where there is none (any more)."""
        session = self._sessions.get(id)
        if session is None or self._is_over(session, now):
            return None
        return session

    def _is_over(self, session: S, now: float) -> bool:
        if session.used or session.expires_at > now:
            return False
        is_sending = self._sending.get(session)
        return is_sending is None or not is_sending()

    def hold(self, session: S) -> None:
        """Note that a poll or socket uses the session, which therefore does not expire."""
        session.used += 1

    def release(self, session: S, now: float) -> None:
        """Note that a poll or socket has ended; the session lives for its ``ttl`` from now on."""
        session.used -= 1
        session.expires_at = now + session.ttl

    def touch(self, session: S, now: float) -> None:
        """Note that the session was used just now; it lives for its ``ttl`` from now on."""
        session.expires_at = now + session.ttl

    def answered(
        self, session: S, now: float, size: int, is_sending: Callable[[], bool] | None = None
    ) -> None:
        """Note that an answer of ``size`` bytes was written just now.

        A slow client needs time to read a large one. The session does not expire meanwhile: ``is_sending``
        returns whether bytes are on their way, and where that cannot be known the size allows for a time.
        """
        if size > LARGE_ANSWER_BYTES:
            until = now + session.ttl + size / SLOW_CLIENT_BYTES_PER_SECOND
            session.expires_at = max(session.expires_at, until)
            if is_sending is not None:
                self.sending(session, is_sending)

    def sending(self, session: S, is_sending: Callable[[], bool]) -> None:
        """Let the session live while ``is_sending`` returns true, and for its ``ttl`` from then on."""
        if session.id in self._sessions:
            self._sending[session] = is_sending

    def _look_at_sending(self, now: float) -> None:
        """Let the sessions live to which something is being sent; of very many, some at each call."""
        for session in tuple(islice(self._sending, SENDING_LOOKS)):
            is_sending = self._sending.pop(session)
            # It may have left just before this look, but not before the one before.
            session.expires_at = max(session.expires_at, now + session.ttl)
            if is_sending():
                self._sending[session] = is_sending

    def remove(self, session: S) -> None:
        """Forget a session."""
        self._sending.pop(session, None)
        if self._sessions.pop(session.id, None) is not None:
            self.memory -= session_size(session.recipients)
            if session.share is not None:
                session.share.release()

    def expire(self, now: float) -> list[S]:
        """Forget, and return, sessions whose time is over; to be called every second.

        It looks at up to ``SESSIONS_AT_ONCE`` of them. Where ``is_due`` says that there are more, call it
        again in the next turn of the reactor.
        """
        self._look_at_sending(now)
        expired = []
        later = []
        for _ in range(SESSIONS_AT_ONCE):
            if not self.is_due(now):
                break
            session = self._sessions.get(self._expiries.pop())
            if session is None:
                continue
            if not self._is_over(session, now):
                # Held, used since, or being answered: look again when it could next be over.
                if not session.used and session.expires_at <= now:
                    session.expires_at = now + session.ttl
                again = now + session.ttl if session.used else session.expires_at
                later.append((again, session.id))
                continue
            self.remove(session)
            expired.append(session)
        for entry in later:
            self._expiries.add(*entry)
        self._expiries.tidy(len(self._sessions))
        shrink(self._sessions)
        return expired

    def is_due(self, now: float) -> bool:
        """Return whether there are sessions to look at, because their time may be over."""
        return self._expiries.first <= now

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests."""
        sessions, expiries = self._sessions, self._expiries
        due = {id_: at for at, id_ in expiries}
        assert all(sessions.get(one.id) is one for one in self._sending), (
            "answers are on their way to sessions"
        )
        assert len(sessions) <= self.most, "there are at most as many sessions as may be"
        assert self.memory == sum([session_size(one.recipients) for one in sessions.values()]), (
            "the memory of sessions is counted"
        )
        assert all(one.id == id_ for id_, one in sessions.items()), "a session is under its own id"
        assert all(one.used >= 0 for one in sessions.values()), "a session is released as often as it is held"
        assert len(due) == len(expiries), "one end is noted of a session"
        assert all(one.used or due[id_] <= one.expires_at for id_, one in sessions.items()), (
            "the end of a session that is not held is noted no later than the session expires"
        )
        expiries.check_invariants({(due[id_], id_) for id_ in sessions}, self.most)
