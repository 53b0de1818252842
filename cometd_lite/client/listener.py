"""Listeners: readers whose recipients and place the server remembers (HTTP.md, "Listeners")."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote
from weakref import WeakSet

from ..core.arguments import Recipients, names
from ..core.message import Batch, Cursor
from ..deferreds import Reply
from ..errors import ListenerGone
from ..jsontext import dumps
from ..limits import POLL_MESSAGES
from . import codec
from .codec import Registered
from .following import Following, OnGap, Polls, poll
from .remote import OnRetry, Query, Remote
from .replies import reply, replying

_AS_JSON = {"Content-Type": "application/json"}


class Listener:
    """A registered reader: the server remembers its recipients and its place. ``Client.register`` makes it.

    ``id`` is a secret, and itself a recipient: what is pushed to it reaches this listener alone.
    """

    def __init__(
        self, remote: Remote, registered: Registered, ttl: float | None, followings: WeakSet[Following]
    ) -> None:
        self._remote = remote
        self._registered = registered
        self._ttl = ttl
        self._followings = followings
        self._on_registered: Callable[[Listener], object] | None = None

    @property
    def id(self) -> str:
        """The listener's id; another one after the server had forgotten it and it was registered again."""
        return self._registered.id

    @property
    def recipients(self) -> tuple[str, ...]:
        """What it reads, besides its own id."""
        return self._registered.recipients

    @property
    def expires_in(self) -> float:
        """Seconds that the server remembers it for between two polls."""
        return self._registered.expires_in

    @property
    def cursor(self) -> Cursor:
        """Its place when it was registered, or changed."""
        return Cursor.parse(self._registered.cursor)

    @property
    def query(self) -> Query:
        """The parameters of its polls."""
        return (("listener", self.id),)

    def poll(
        self, after: str | Cursor | None = None, *, wait: float | None = None, limit: int = POLL_MESSAGES
    ) -> Reply[Batch]:
        """Return what there is after the listener's place, or after an earlier cursor.

        Fails with ``ListenerGone`` where the server has forgotten it.
        """
        place = None if after is None else codec.place(after)
        return reply(poll(self._remote, self.query, place, wait, limit))

    def follow(
        self,
        *,
        on_gap: OnGap | None = None,
        on_retry: OnRetry | None = None,
        on_registered: Callable[[Listener], object] | None = None,
        wait: float | None = None,
        limit: int = POLL_MESSAGES,
    ) -> Following:
        """Yield what it reads as it comes, as ``Client.follow`` does.

        Where the server has forgotten the listener it is registered again, with the same recipients and
        from the same place on, and ``on_registered`` is called: its id is another one. What was pushed to
        the old id since then is lost, for which ``on_gap`` is called.
        """
        self._on_registered = on_registered
        polls = ListenerPolls(self._remote, self, wait, limit)
        following = Following(self._remote, polls, self.cursor, on_gap=on_gap, on_retry=on_retry)
        self._followings.add(following)
        return following

    @replying
    async def change(self, recipients: Recipients) -> None:
        """Set what it reads; a poll under way ends, and the next one reads the new recipients."""
        body = dumps({"recipients": names(recipients)})
        answer = await self._remote.ask("PUT", f"listeners/{quote(self.id)}", (), _AS_JSON, body)
        self._registered = codec.registered(answer)

    @replying
    async def end(self) -> None:
        """End it: the server forgets it, and its id."""
        await self._remote.ask("DELETE", f"listeners/{quote(self.id)}")

    async def register_again(self) -> None:
        """Register anew what the server has forgotten, and call ``on_registered``."""
        self._registered = await register(self._remote, self.recipients, self._ttl)
        if self._on_registered is not None:
            self._on_registered(self)


async def register(remote: Remote, recipients: Recipients, ttl: float | None) -> Registered:
    """Register a reader of the recipients."""
    asked = {"recipients": names(recipients), **({} if ttl is None else {"ttl": ttl})}
    return codec.registered(await remote.ask("POST", "register", (), _AS_JSON, dumps(asked)))


class ListenerPolls(Polls):
    """Reads as a registered listener, which is registered again where the server has forgotten it."""

    def __init__(self, remote: Remote, listener: Listener, wait: float | None, limit: int) -> None:
        super().__init__(remote, (), wait, limit)
        self._listener = listener

    async def read(self, after: Cursor) -> Batch:
        """Return the answer to a poll; a gap where the listener had to be registered again."""
        self.query = self._listener.query
        try:
            return await super().read(after)
        except ListenerGone:
            await self._listener.register_again()
            # Its recipients are read from the same place on; what was pushed to the old id is lost.
            return Batch((), after, gap=True)

    async def acknowledge(self, cursor: Cursor) -> None:
        """Do nothing: what a poll is answered with would count as read."""
