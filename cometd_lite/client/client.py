"""``Client``: pushes to the server at a URL, and reads from it."""

from __future__ import annotations

import os
import secrets
from functools import partial
from random import Random
from typing import Any, Literal, Self
from urllib.parse import quote
from weakref import WeakSet

from twisted.internet.interfaces import IReactorTime

from ..core.arguments import Recipients, check_lease, check_push, check_read, settlement_of
from ..core.hub import Standing
from ..core.leases import LeaseState
from ..core.message import Batch, Cursor, LeasedMessage, Receipt
from ..core.present import Present
from ..core.store import Listing
from ..deferreds import Reply
from ..limits import LISTED, POLL_MESSAGES
from . import codec
from .following import Following, OnGap, Polls, poll
from .listener import Listener, register
from .network import Treq
from .remote import Answer, OnRetry, Query, Remote, Token
from .replies import reply, replying
from .streams import Streams
from .working import OnGone, Working, settle

PATIENCE_SECONDS = 30.0
"""A push is tried again for this long: a restart of the server takes less."""


class Client:
    """A client of a cometd-lite server.

    ``url`` is where it is mounted. ``token`` is sent with each request; a function is called for one each
    time, and once more where the server refused the last. A push is tried again for ``patience`` seconds.
    ``treq`` and ``clock`` are the real ones unless given: tests give those of ``cometd_lite.testing``.
    Nothing happens before the first request, so a client may be made while a program is imported.

    End it by ``async with`` or ``close``. Raises ``ValueError`` for a malformed URL.
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
        """The URL of the server, without a slash at the end."""
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
        it counts once; ``on_retry`` is called. With ``queue`` false it is for this moment, and tried once.
        Fails with a ``CometError``, or with ``ValueError`` for ``data`` that cannot be pushed.
        """
        check_push(event=event, ttl=ttl, queue=queue, overflow=overflow, idempotency_key=idempotency_key)
        words = codec.given(event=event, ttl=ttl, queue=None if queue else "no", overflow=overflow)
        query = [*codec.named(recipients), *words]
        if patience is None:
            patience = self._patience if queue else 0.0
        if idempotency_key is None and patience > 0:
            idempotency_key = secrets.token_hex(16)
        key = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}

        async def push() -> Receipt:
            body, media_type = codec.encoded(data, type)
            headers = {"Content-Type": media_type, **key}
            ask = partial(self._remote.ask, "POST", "push", query, headers, body)
            return codec.receipt(await self._remote.insist(ask, patience, on_retry))

        return reply(push())

    # -- read

    def poll(
        self,
        recipients: Recipients,
        after: str | Cursor,
        *,
        wait: float | None = None,
        limit: int = POLL_MESSAGES,
        ack: bool = True,
        name: str | None = None,
    ) -> Reply[Batch]:
        """Return what the recipients hold after a cursor, once there is something.

        ``after`` may be ``"oldest"``, ``"now"``, ``"last:50"`` (before the newest 50 messages) or
        ``"since:600"`` (before what was accepted in the last 600 seconds), too. After ``wait`` seconds (25
        unless given) the batch is empty. Take nothing away; come back with the batch's cursor. ``follow``
        does this again and again, and better. Without ``ack`` the reader only watches: what it reads makes no
        room in a full mailbox. ``name`` is that under which the reader is present, where no token has one.
        Raises ``ValueError`` for a malformed cursor; fails with a ``CometError``.
        """
        check_read(wait, limit)
        query = codec.named(recipients, name, ack)
        return reply(poll(self._remote, query, codec.place(after), wait, limit))

    def take(
        self,
        recipients: Recipients,
        *,
        wait: float | None = None,
        limit: int = POLL_MESSAGES,
        name: str | None = None,
    ) -> Reply[Batch]:
        """Return the oldest messages that no take has had; each goes to one take only.

        Delivery is at most once: an answer that is lost on its way takes its messages along.
        """
        check_read(wait, limit)
        return reply(poll(self._remote, codec.named(recipients, name), None, wait, limit))

    def lease(
        self, recipients: Recipients, seconds: float, *, wait: float | None = None, limit: int = 1
    ) -> Reply[Batch]:
        """Return the oldest messages that no take has had, each reserved for so many seconds, 1 to 3,600.

        ``Batch.leased`` has them with their leases. Each comes again, to any worker, unless ``ack`` settles
        it in time; so delivery is at least once. ``work`` does this again and again, and better.
        """
        check_read(wait, limit)
        query = [*codec.named(recipients), *codec.given(lease=check_lease(seconds))]
        return reply(poll(self._remote, query, None, wait, limit))

    def ack(
        self,
        message: LeasedMessage,
        *,
        extend: float | None = None,
        release: bool = False,
        patience: float | None = None,
    ) -> Reply[LeaseState]:
        """Acknowledge a leased message, or extend its lease, or release it for others.

        ``extend`` is in seconds from now. Returns what became of the lease: ``done``, ``extended``,
        ``released``, or ``gone`` where it had ended and the message is another worker's, or no more. Where no
        answer comes, or a 503, it is tried again for ``patience`` seconds.
        """
        settlement, seconds = settlement_of(message, extend, release)
        patience = self._patience if patience is None else patience
        return reply(settle(self._remote, message, settlement, seconds, patience))

    def work(
        self,
        recipients: Recipients,
        seconds: float = 30.0,
        *,
        on_gone: OnGone | None = None,
        on_retry: OnRetry | None = None,
    ) -> Working:
        """Yield messages to be worked on, one at a time, each leased for ``seconds`` and extended meanwhile.

        A message is acknowledged when the next one is asked for; ``release`` of what this returns gives it
        back instead. Use it by ``async with``: where that ends with an error the message is released. After
        an error of the network it goes on, as ``follow`` does. ``on_gone`` is called with a message whose
        lease had ended all the same, as after a long pause of this machine.
        """
        return Working(
            self._remote,
            codec.named(recipients),
            check_lease(seconds),
            patience=self._patience,
            on_gone=on_gone,
            on_retry=on_retry,
        )

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
        ack: bool = True,
        name: str | None = None,
    ) -> Following:
        """Yield the recipients' messages as they come, from a cursor on, without an end.

        After an error that may pass, such as a lost connection or a restart of the server, it goes on, with
        pauses that grow and are spread; ``on_retry`` is called. Other errors, such as a name that is not
        allowed, are raised. With ``patience``, the server must have answered once within so many seconds.

        ``cursor_file`` keeps the cursor over restarts of this program: where the file exists, it says where
        to begin, in the place of ``after``. A message counts as handled when the next one is asked for, and
        only then is the cursor moved; so a program that ends while it handles a message is given it again.
        ``on_gap`` is called where messages are lost to this reader.

        It polls: no request is open while a message is handled, and any proxy lets it through. With
        ``stream`` it keeps one connection open, which is less work for both where much comes; then end it
        by ``async with``, or call its ``aclose``. ``wait`` is how long a poll asks to be held, in seconds.
        Without ``ack`` it only watches: what it reads makes no room in a full mailbox. ``name`` is that under
        which the reader is present, where no token has one. Raises ``ValueError`` for a malformed cursor,
        given or in the file.
        """
        check_read(wait, limit)
        polls = Polls(self._remote, codec.named(recipients, name, ack), wait, limit)
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

    @replying
    async def register(self, recipients: Recipients = (), *, ttl: float | None = None) -> Listener:
        """Register a listener: a reader with an id, whose recipients and place the server remembers.

        Its id is a recipient of its own. The server forgets it when it is not polled for ``ttl`` seconds, 300
        unless given.
        """
        registered = await register(self._remote, recipients, ttl)
        return Listener(self._remote, registered, ttl, self._followings)

    # -- recipients

    @replying
    async def describe(self, recipient: str) -> Standing:
        """Return what the server knows of a recipient: what its mailbox holds, and who reads it."""
        return codec.standing(await self._remote.ask("GET", f"recipients/{quote(recipient)}"))

    @replying
    async def presence(self, recipient: str) -> Present:
        """Return who reads a recipient, by name. Fails with ``NotFound`` where that is not known."""
        return codec.present(await self._remote.ask("GET", f"presence/{quote(recipient)}"))

    @replying
    async def leave(self, recipient: str, name: str | None = None) -> None:
        """Say that a name has left a recipient, so that it is not present for 45 s more.

        ``name`` is None where the token has it.
        """
        await self._remote.ask("DELETE", f"presence/{quote(recipient)}", codec.given(**{"as": name}))

    @replying
    async def recipients(
        self, prefix: str = "", *, after: str | None = None, limit: int = LISTED
    ) -> Listing[Standing]:
        """Return how the mailboxes stand that hold messages and whose names begin with a prefix.

        They come by name, up to ``limit`` of them; ``more`` is ``after`` of the next page, None on the last.
        """
        query = codec.given(prefix=prefix, limit=limit, after=after)
        return codec.listing(await self._remote.ask("GET", "recipients", query))

    @replying
    async def delete(self, recipient: str) -> None:
        """Delete what a recipient's mailbox holds; readers before it have a gap."""
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

    @replying
    async def close(self) -> None:
        """End the followings of this client, and its idle connections."""
        for following in list(self._followings):
            following.end()
        await self._remote.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
