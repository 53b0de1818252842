"""``Client``: a URL arrives, and pushes, polls and followings of that server leave."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from random import Random
from typing import Any, Literal, Self
from urllib.parse import quote
from weakref import WeakSet

from twisted.internet.interfaces import IReactorTime

from ..core.message import Batch, Cursor, Receipt
from ..errors import CometError
from ..jsontext import dumps
from ..limits import POLL_MESSAGES
from . import words
from .following import Following, Listening, OnGap, OnRetry, Polls, poll
from .remote import Answer, Query, Remote, Token, Treq, is_passing
from .replies import Reply, Work, reply, reply_of
from .streams import Streams
from .words import AS_JSON, Presence, Recipients, Registered

PATIENCE_SECONDS = 30.0
"""A push is tried again for this long: a restart of the server takes less."""

AGAIN_SECONDS = 0.05
"""A push that got no answer is tried again within this time; after that it pauses, longer each time."""


class Client:
    """A cometd-lite server, and how to speak to it.

    ``url`` is where it is mounted. ``token`` goes along with each request; a function is asked for one each
    time, and once more where the server refused the last. A push is tried again for ``patience`` seconds.
    ``treq`` and ``clock`` are the real ones unless given: tests give those of ``cometd_lite.testing``.
    Nothing happens before the first request, so a client may be made while a program is imported.

    Leave it by ``async with``, or call ``close``. Raises ``ValueError`` for what is no URL.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        token: Token | None = None,
        patience: float = PATIENCE_SECONDS,
        treq: Treq | None = None,
        clock: IReactorTime | None = None,
        random: Random | None = None,
    ) -> None:
        random = random or Random()  # noqa: S311  only spreads load; guessing it gains nothing
        self._remote = Remote(url, token, treq, clock, random)
        self._patience = patience
        self._followings: WeakSet[Following] = WeakSet()

    @property
    def url(self) -> str:
        """Where the server is, without a slash at the end."""
        return self._remote.url

    # -- push

    def push(
        self,
        recipients: Recipients,
        data: Any,
        *,
        type: str | None = None,  # noqa: A002  HTTP.md's word
        event: str | None = None,
        ttl: float | None = None,
        queue: bool = True,
        overflow: Literal["reject", "drop-oldest"] | None = None,
        idempotency_key: str | None = None,
        patience: float | None = None,
        on_retry: OnRetry | None = None,
    ) -> Reply[Receipt]:
        """Push one message: ``bytes`` as octets, ``str`` as text, everything else as JSON.

        ``type`` says what bytes or text are instead: ``application/x-ndjson`` makes a message of each
        line. The words mean what they mean in HTTP.md, "Push"; ``ttl`` is in seconds.

        Where no answer comes, or a 503, it is tried again for ``patience`` seconds, under a key, so that
        it counts once; ``on_retry`` is told. With ``queue`` false it is for this moment, and tried once.
        Fails with a ``CometError``, or with ``ValueError`` where ``data`` is nothing that can be pushed.
        """
        query = [*words.named(recipients)]
        query += [] if event is None else [("event", event)]
        query += [] if ttl is None else [("ttl", words.seconds(ttl))]
        query += [] if queue else [("queue", "no")]
        query += [] if overflow is None else [("overflow", overflow)]
        if patience is None:
            patience = self._patience if queue else 0.0
        if idempotency_key is None and patience > 0:
            idempotency_key = secrets.token_hex(16)
        key = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return reply_of(lambda work: self._push(work, query, key, data, type, patience, on_retry))

    async def _push(
        self,
        work: Work[Receipt],
        query: Query,
        key: dict[str, str],
        data: Any,
        media_type: str | None,
        patience: float,
        on_retry: OnRetry | None,
    ) -> Receipt:
        remote = self._remote
        body, media_type = words.encoded(data, media_type)
        headers = {"Content-Type": media_type, **key}
        deadline = remote.clock.seconds() + patience
        failures = 0
        while True:
            try:
                return words.receipt(await remote.ask("POST", "push", query, headers, body))
            except CometError as error:
                failures += 1
                delay = remote.delay(error, failures)
                if failures == 1 and error.retry_after is None:
                    # A kept connection ends as it is used, now and then: that says nothing of the server.
                    delay = remote.random.uniform(0.0, AGAIN_SECONDS)
                if not is_passing(error) or remote.clock.seconds() + delay > deadline:
                    raise
                if on_retry is not None:
                    on_retry(error, delay)
                    work.go_on()
            await remote.pause(delay)

    # -- read

    def poll(
        self,
        recipients: Recipients,
        after: str | Cursor,
        *,
        wait: float | None = None,
        limit: int = POLL_MESSAGES,
    ) -> Reply[Batch]:
        """Return what the recipients hold after a cursor, ``"oldest"`` or ``"now"``, once there is something.

        After ``wait`` seconds (25 unless given) the batch is empty. Take nothing away; come back with the
        batch's cursor. ``follow`` does this again and again, and better. Raises ``ValueError`` for a
        malformed cursor; fails with a ``CometError``.
        """
        return reply(poll(self._remote, words.named(recipients), words.place(after), wait, limit))

    def take(
        self, recipients: Recipients, *, wait: float | None = None, limit: int = POLL_MESSAGES
    ) -> Reply[Batch]:
        """Return the oldest messages that no take has had; each goes to one take only.

        At most once: what is lost on the way here is lost.
        """
        return reply(poll(self._remote, words.named(recipients), None, wait, limit))

    def follow(
        self,
        recipients: Recipients,
        after: str | Cursor = "now",
        *,
        cursor_file: str | os.PathLike[str] | None = None,
        on_gap: OnGap | None = None,
        on_retry: OnRetry | None = None,
        patience: float | None = None,
        wait: float | None = None,
        limit: int = POLL_MESSAGES,
        stream: bool = False,
    ) -> Following:
        """Yield the recipients' messages as they come, from a cursor on, for as long as it takes.

        What passes, as a lost connection or a restart of the server, is waited for, with pauses that grow
        and are spread; ``on_retry`` is told. What does not, as a name that is not allowed, is raised. With
        ``patience``, the server must have answered once within so many seconds.

        ``cursor_file`` keeps the place over restarts of this program: a file that is there says where to
        begin, in the place of ``after``. A message counts as handled when the next one is asked for, and
        only then is the place moved; so a program that ends in the middle of a message is given it again.
        ``on_gap`` is called where messages are lost to this reader.

        It polls: nothing is under way while a message is handled, and any proxy lets it through. With
        ``stream`` it keeps one connection open, which is less work for both where much comes; then leave
        it by ``async with``, or call its ``aclose``. ``wait`` is how long a poll asks to be held, in
        seconds. Raises ``ValueError`` for a malformed cursor, given or in the file.
        """
        polls = Polls(self._remote, words.named(recipients), wait, limit)
        following = Following(
            self._remote,
            Streams(polls) if stream else polls,
            after,
            cursor_file=cursor_file,
            on_gap=on_gap,
            on_retry=on_retry,
            patience=patience,
        )
        self._followings.add(following)
        return following

    # -- listeners

    def register(self, recipients: Recipients = (), *, ttl: float | None = None) -> Reply[Listener]:
        """Register a listener: a reader with an id, whose recipients and place the server remembers.

        Its id is a recipient of its own. Not polled for ``ttl`` seconds (300 unless given), it is gone.
        """
        return reply(self._register(words.listed(recipients), ttl))

    async def _register(self, recipients: list[str], ttl: float | None) -> Listener:
        return Listener(self._remote, await _registered(self._remote, recipients, ttl), ttl, self._followings)

    # -- recipients

    def describe(self, recipient: str) -> Reply[Presence]:
        """Say what the server knows of a recipient: what its mailbox holds, and who reads it."""
        return reply(self._describe(recipient))

    async def _describe(self, recipient: str) -> Presence:
        return words.presence(await self._remote.ask("GET", f"recipients/{quote(recipient)}"))

    def delete(self, recipient: str) -> Reply[None]:
        """Lose what a recipient's mailbox holds; readers before it have a gap."""
        return reply(self._delete(recipient))

    async def _delete(self, recipient: str) -> None:
        await self._remote.ask("DELETE", f"recipients/{quote(recipient)}")

    # -- the rest

    def request(
        self,
        method: str,
        path: str,
        query: Query = (),
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply[Answer]:
        """Send any request of the interface, once, and return its answer.

        ``path`` is percent-encoded and lies below the client's URL. Fails with a ``CometError`` for a
        refusal, and where there is no answer.
        """
        return reply(self._remote.ask(method, path, query, headers, body))

    def close(self) -> Reply[None]:
        """End whatever this client follows, and its idle connections."""
        return reply(self._close())

    async def _close(self) -> None:
        for following in list(self._followings):
            following.end()
        await self._remote.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


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
        """Where it stood when it was registered, or changed."""
        return self._registered.cursor

    @property
    def query(self) -> Query:
        """The parameters of its polls."""
        return (("listener", self.id),)

    def poll(
        self, after: str | Cursor | None = None, *, wait: float | None = None, limit: int = POLL_MESSAGES
    ) -> Reply[Batch]:
        """Return what there is from where the listener stood, or after an earlier cursor.

        Fails with ``ListenerGone`` where the server has forgotten it.
        """
        return reply(
            poll(self._remote, self.query, None if after is None else words.place(after), wait, limit)
        )

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
        the old id since then is lost, which ``on_gap`` is told.
        """
        self._on_registered = on_registered
        reader = Listening(self._remote, self, wait, limit)
        following = Following(self._remote, reader, self.cursor, on_gap=on_gap, on_retry=on_retry)
        self._followings.add(following)
        return following

    def change(self, recipients: Recipients) -> Reply[None]:
        """Set what it reads; a poll under way ends, and the next one reads the new recipients."""
        return reply(self._change(words.listed(recipients)))

    async def _change(self, recipients: list[str]) -> None:
        body = dumps({"recipients": recipients})
        answer = await self._remote.ask("PUT", f"listeners/{quote(self.id)}", (), AS_JSON, body)
        self._registered = words.registered(answer)

    def end(self) -> Reply[None]:
        """End it: the server forgets it, and its id."""
        return reply(self._end())

    async def _end(self) -> None:
        await self._remote.ask("DELETE", f"listeners/{quote(self.id)}")

    async def register_again(self) -> None:
        """Register anew what the server has forgotten, and call ``on_registered``."""
        self._registered = await _registered(self._remote, list(self.recipients), self._ttl)
        if self._on_registered is not None:
            self._on_registered(self)


async def _registered(remote: Remote, recipients: list[str], ttl: float | None) -> Registered:
    asked = {"recipients": recipients, **({} if ttl is None else {"ttl": ttl})}
    return words.registered(await remote.ask("POST", "register", (), AS_JSON, dumps(asked)))
