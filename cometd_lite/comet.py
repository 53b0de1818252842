"""``Comet``: the one object that an embedding program holds. It wires a hub to its routes.

It takes Python values and HTTP requests, and answers the readers that wait for messages.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar
from wsgiref.types import WSGIApplication

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from .access.application import Authorizer
from .access.origins import Hosts, Origins
from .access.policy import Authorize, Policy
from .access.quotas import Clients
from .access.tokens import Tokens
from .bayeux.effects import Service
from .bayeux.options import BayeuxOptions
from .bayeux.transport import BayeuxTransport
from .core.announcers import tracker_of
from .core.arguments import (
    Recipients,
    check_lease,
    check_list,
    check_push,
    check_read,
    checked_names,
    settlement_of,
)
from .core.clock import Monotonic
from .core.hub import Hub, Standing
from .core.leases import LeaseId, LeaseState
from .core.listing import listing
from .core.message import Batch, Content, Cursor, LeasedMessage, Message, Push, Receipt
from .core.namespaces import Namespace, Namespaces
from .core.observers import OnPush, OnReader, observe
from .core.present import Present
from .core.recipient import lists, readable, recipient, stored
from .core.registry import Registry
from .core.store import Listing, Store
from .deferreds import MaybeDeferred, Reply, chain, replied
from .http.naming import reader_name
from .http.params import event_name
from .limits import (
    APPLICATION_SECONDS,
    LISTED,
    POLL_MESSAGES,
    REVOKED_SECONDS,
    SWEEP_SECONDS,
    WAIT_SECONDS,
    Limits,
)
from .metrics import Metrics
from .outgoing import Posting, post_to
from .routes.app import Routes
from .server import Proxies
from .site import RoutesResource
from .stores.memory import MemoryStore
from .usage import check_options, check_place
from .webhooks.service import Webhooks, webhooks_of
from .wsgi import Beside

T = TypeVar("T")


class Hooks(TypedDict, total=False):
    """The hooks that a program may give, by their names; ``Comet`` says what each is called with."""

    authorize: Authorize
    on_push: OnPush
    on_park: OnReader
    on_leave: OnReader


class Comet:
    """A comet server inside a Twisted program: push and poll from Python, and serve the same over HTTP.

    Messages live in memory unless a ``store`` is given. ``overflow`` is what a full mailbox does with a push.
    ``namespaces`` are other bounds for the recipients of a pattern, as in ``{"chat/**": Namespace(ttl=60)}``.
    Bayeux is spoken at ``/cometd`` unless ``bayeux`` is None. ``presence``: whether the names of a
    recipient's readers are kept, where no namespace says so. ``clock`` is the reactor unless given, its ages
    measured on the monotonic clock; tests give a ``twisted.internet.task.Clock``. ``proxied`` are the
    addresses or networks of proxies whose ``Forwarded`` and ``X-Forwarded-For`` are trusted.

    ``authorize_url`` is the URL of an application that is asked, by HTTP, about each request without a valid
    token (HTTP.md, "Who may do what"). ``notify_url`` is that of one that is notified of joins, leaves and,
    after ``unread_after`` seconds, unread messages (HTTP.md, "Webhooks"); ``notify_key`` is the key that
    signs this, or its file. Raises ``ValueError`` where one of them is wrong.

    Hooks: ``authorize`` is asked, for each recipient, whether a request over HTTP may ``push``, ``poll`` or
    ``manage`` it; it returns whether, or a Deferred of that, and is asked besides ``tokens`` and the
    application. ``on_push`` is called with each message that this process has accepted. ``on_park`` is called
    with the recipients of a reader when its wait begins, and ``on_leave`` when it ends: the reader was
    answered, its time was over, or its client has disconnected. These three are called a moment later, in
    order; they may return a Deferred or a coroutine, which is not waited for. A failure is logged.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        store: Store | None = None,
        overflow: Literal["reject", "drop-oldest"] = "reject",
        namespaces: Mapping[str, Namespace] | None = None,
        hosts: Hosts | None = None,
        origins: Iterable[str] = (),
        tokens: Tokens | None = None,
        authorize_url: str | None = None,
        authorize: Authorize | None = None,
        notify_url: str | None = None,
        notify_key: Path | str | None = None,
        unread_after: float | None = None,
        allow_parameters: Iterable[str] = (),
        proxied: Iterable[str] = (),
        on_push: OnPush | None = None,
        on_park: OnReader | None = None,
        on_leave: OnReader | None = None,
        metrics: bool = True,
        console: bool = True,
        openapi: bool = True,
        bayeux: BayeuxOptions | None = BayeuxOptions(),  # noqa: B008  it is frozen
        presence: bool = False,
        clock: IReactorTime | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        check_options(limits, store, overflow, tokens, bayeux)
        for name, listed, example in (
            ("origins", origins, "https://example.com"),
            ("allow_parameters", allow_parameters, "utm_source"),
            ("proxied", proxied, "127.0.0.1"),
        ):
            check_list(name, listed, example)
        self._on_reactor = clock is None
        if clock is None:
            from twisted.internet import reactor  # noqa: PLC0415  importing it at the top would install one

            clock = Monotonic(IReactorTime(reactor))
        self.limits = limits or Limits()
        self.metrics = Metrics()
        spaces = Namespaces(namespaces) if namespaces else None
        self.hub = Hub(
            store or MemoryStore(self.limits, overflow=overflow, soon=partial(clock.callLater, 0)),
            Registry(clock, self.limits.max_parked),
            clock,
            counts=self.metrics,
            wall=wall,
            namespaces=spaces,
            max_body=self.limits.max_body,
        )
        self._presence = tracker_of(self.hub, spaces, presence)
        self._outgoing: list[Posting] = []
        """What posts to applications, to be closed at the end."""
        self.webhooks = webhooks_of(self.hub, notify_url, notify_key, unread_after, spaces)
        """What notifies an application of events; None where there is none."""
        if self.webhooks is not None:
            self._wire(self.webhooks)
        unread = None if self.webhooks is None else self.webhooks.unread
        observe(
            self.hub,
            on_push=on_push,
            on_park=on_park,
            on_leave=on_leave,
            presence=self._presence,
            unread=unread,
        )
        allowed = frozenset(origin.rstrip("/").lower().encode() for origin in origins)
        self.proxies = Proxies(proxied)
        self.clients = Clients(self.limits, clock, self.proxies.trusts)
        self.application: Authorizer | None = None
        """What asks the application; None where none is asked."""
        if authorize_url is not None:
            post = post_to(authorize_url, APPLICATION_SECONDS)
            self._outgoing.append(post)
            self.application = Authorizer(post, post.shown, clock)
            self.metrics.application = self.application.counts
        self.routes = Routes(
            self.hub,
            self._served_limits(spaces),
            policy=Policy(
                clock,
                wall,
                hosts=hosts,
                origins=Origins(allowed),
                tokens=tokens,
                application=self.application,
                authorize=authorize,
                clients=self.clients if self.clients.counts_requests else None,
            ),
            metrics=self.metrics,
            bayeux_options=bayeux,
            presence=self._presence,
            show_metrics=metrics,
            show_console=console,
            show_openapi=openapi,
            allow_parameters=frozenset(allow_parameters),
        )
        if tokens is not None:
            revoke = self.hub.registry.revoke
            tokens.on_removed.append(lambda removed: revoke(removed, REVOKED_SECONDS))
        self._sweep = LoopingCall(self._sweep_all)
        self._sweep.clock = clock

    def _wire(self, webhooks: Webhooks) -> None:
        """Let webhooks be counted, closed at the end, and notified of changes of presence."""
        self._outgoing.append(webhooks.post)
        self.metrics.webhooks = webhooks.counts
        self.metrics.waiting_events = lambda: webhooks.outbox.waiting
        if self._presence is not None:
            self._presence.announcer.on_change = webhooks.on_change
        elif webhooks.unread is None:
            webhooks.log.warn(
                "Webhooks have nothing to post: there is neither presence nor a time for unread messages."
            )

    def _served_limits(self, namespaces: Namespaces | None) -> Limits:
        """Return the bounds of requests: a body may be as large as any recipient takes."""
        if namespaces is None:
            return self.limits
        return replace(self.limits, max_body=namespaces.largest_body(self.limits.max_body))

    def start(self) -> MaybeDeferred[None]:
        """Open the store, and begin to clear away, every second, what is too old.

        Without it a store in memory works, and clears away as mailboxes are used. Raises ``StoreUnusable``.
        """
        return chain(self.hub.store.open(self.hub.clock.seconds()), self._opened)

    def _opened(self, _: None) -> None:
        self.hub.receipts.recall()
        self.routes.listeners.recall()
        if self.webhooks is not None:
            self.webhooks.start()
        if not self._sweep.running:
            self._sweep.start(SWEEP_SECONDS, now=False)

    def drain(self, seconds: float) -> Deferred[None]:
        """Refuse pushes from now on, and answer parked readers, spread over up to so many seconds.

        Fires when all are answered; ``stop`` is to be called then.
        """
        if self.routes.bayeux is not None:
            self.routes.bayeux.stop()
        return self.hub.drain(seconds)

    def stop(self) -> Deferred[None]:
        """Refuse pushes from now on, answer every parked reader, and close the store.

        The program may end when it fires.
        """
        if self._sweep.running:
            self._sweep.stop()
        self.hub.stop()
        if self._presence is not None:
            self._presence.stop()
        if self.routes.bayeux is not None:
            self.routes.bayeux.stop()
        for asking in (self.application, self.webhooks):
            if asking is not None:
                asking.stop()
        return self._reply(self._close)

    def _close(self) -> MaybeDeferred[None]:
        """Close the store and the connections to applications; where one fails, fail once all are done."""
        if not self._outgoing:
            return self.hub.store.close()
        closing: list[Deferred[Any]] = [maybeDeferred(self.hub.store.close)]
        closing += [post.close() for post in self._outgoing]
        return DeferredList(closing, consumeErrors=True).addCallback(_all_closed)

    def _sweep_all(self) -> None:
        self.hub.sweep()
        self.routes.listeners.sweep()
        if self.routes.bayeux is not None:
            self.routes.bayeux.sweep()

    def resource(self) -> RoutesResource:
        """Return the HTTP interface as an ``IResource``, to be put anywhere into a twisted.web site."""
        return RoutesResource(self.routes, self.proxies or None)

    def beside(self, application: WSGIApplication, path: str = "comet") -> Beside:
        """Return a site's root: the HTTP interface below a path of one segment, and an application elsewhere.

        The WSGI ``application``, as of Flask or Django, runs in the reactor's threads; from there
        ``twisted.internet.threads.blockingCallFromThread(reactor, comet.push, "bob", "hi")`` pushes. Raises
        ``ValueError`` for a path of none or several segments.
        """
        from twisted.internet import reactor  # noqa: PLC0415  importing it at the top would install one

        return Beside(reactor, application, path, self.resource())

    def service(self, channel: str, handler: Service) -> None:
        """Let ``handler`` answer what Bayeux clients publish to a ``/service`` channel, or a pattern of such.

        It is given a ``Call`` and returns the data of the answer, which only the sender gets, None for none,
        or a Deferred or coroutine of either. Raises ``ValueError`` where it is no such channel.
        """
        self._bayeux().service(channel, handler)

    def deliver(self, client_id: str, channel: str, data: Any) -> Reply[bool]:
        """Give an event to one Bayeux session alone; return whether there is such a session."""
        return self._reply(lambda: self._bayeux().deliver(client_id, channel, data))

    def _bayeux(self) -> BayeuxTransport:
        if self.routes.bayeux is None:
            raise ValueError("This server speaks no Bayeux.")
        return self.routes.bayeux

    def push(
        self,
        recipients: Recipients,
        data: Any,
        *,
        event: str | None = None,
        ttl: float | None = None,
        queue: bool = True,
        overflow: Literal["reject", "drop-oldest"] | None = None,
        idempotency_key: str | None = None,
    ) -> Reply[Receipt]:
        """Push one message: ``bytes`` as octets, ``str`` as text, everything else as JSON.

        The words mean what they mean in HTTP.md, "Push"; ``ttl`` is in seconds. Fails with ``ValueError`` for
        data that cannot be said and a ``ttl`` that is none, else with a ``CometError``.
        """

        def push() -> MaybeDeferred[Receipt]:
            names = checked_names(recipients, recipient)
            check_push(event=event, ttl=ttl, queue=queue, overflow=overflow, idempotency_key=idempotency_key)
            content = data if isinstance(data, Content) else Content.of(data)
            asked = Push(names, (content,), event_name(event), ttl, queue, overflow, idempotency_key)
            return self.hub.push(asked)

        return self._reply(push)

    def poll(
        self,
        recipients: Recipients,
        after: str | Cursor,
        *,
        wait: float = WAIT_SECONDS,
        limit: int = POLL_MESSAGES,
        name: str | None = None,
    ) -> Reply[Batch]:
        """Return what the recipients hold after a cursor, once there is something.

        ``after`` may be ``"oldest"``, ``"now"``, ``"last:50"`` (before the newest 50 messages) or
        ``"since:600"`` (before what was accepted in the last 600 seconds), too. After ``wait`` seconds the
        batch is empty. Take nothing away; come back with the batch's cursor. ``name`` is that under which the
        reader is present. Fails with ``ValueError`` for a malformed cursor or a ``limit`` below 1, else with
        a ``CometError``.
        """

        def poll() -> MaybeDeferred[Batch]:
            cursor = after if isinstance(after, Cursor) else Cursor.parse(after)
            check_read(wait, limit)
            own = None if name is None else reader_name(name)
            return self.hub.poll(self._read_names(recipients, readable), cursor, wait, limit, name=own)

        return self._reply(poll)

    def _read_names(self, recipients: Recipients, check: Callable[[str], str]) -> tuple[str, ...]:
        """Return the names of what a reader asks for. Raises ``BadRecipient`` or ``NotFound``."""
        names = checked_names(recipients, check)
        self.hub.check_presence(names)
        return names

    def take(
        self, recipients: Recipients, *, wait: float = WAIT_SECONDS, limit: int = POLL_MESSAGES
    ) -> Reply[Batch]:
        """Return the oldest messages that no take has had; each message goes to one take only."""

        def take() -> MaybeDeferred[Batch]:
            check_read(wait, limit)
            return self.hub.take(self._read_names(recipients, stored), wait, limit)

        return self._reply(take)

    def lease(
        self, recipients: Recipients, seconds: float, *, wait: float = WAIT_SECONDS, limit: int = 1
    ) -> Reply[Batch]:
        """Return the oldest messages that no take has had, each reserved for so many seconds, 1 to 3,600.

        ``Batch.leased`` has them with their leases. A message comes again, to the next take or lease, unless
        ``ack`` settles its lease in time.
        """

        def lease() -> MaybeDeferred[Batch]:
            check_read(wait, limit)
            names = self._read_names(recipients, stored)
            return self.hub.lease(names, check_lease(seconds), wait, limit)

        return self._reply(lease)

    def ack(
        self, message: LeasedMessage, *, extend: float | None = None, release: bool = False
    ) -> Reply[LeaseState]:
        """Acknowledge a leased message, or extend its lease, or release it for others.

        ``extend`` is in seconds from now. Returns what became of the lease: ``done``, ``extended``,
        ``released``, or ``gone`` where it had ended and the message is another worker's, or no more.
        """

        def ack() -> MaybeDeferred[LeaseState]:
            settlement, seconds = settlement_of(message, extend, release)
            leases = (LeaseId.parse(message.lease),)
            states = self.hub.settle(message.recipient, leases, settlement, seconds)
            return chain(states, lambda states: states[0])

        return self._reply(ack)

    async def follow(
        self,
        recipients: Recipients,
        after: str | Cursor = "now",
        *,
        on_gap: Callable[[Cursor], None] | None = None,
        name: str | None = None,
    ) -> AsyncIterator[Message]:
        """Yield the recipients' messages as they come, from a cursor on, until the server stops.

        ``on_gap`` is called with the cursor after which messages are lost to this reader; what is still kept
        follows. ``name`` is that under which the reader is present. Closing the iterator forgets the reader.
        """
        cursor = after if isinstance(after, Cursor) else Cursor.parse(after)
        while not self.hub.stopping:
            batch = await self.poll(recipients, cursor, name=name)
            if batch.gap and on_gap is not None:
                on_gap(cursor)
            for message in batch.messages:
                yield message
            cursor = batch.cursor

    def describe(self, name: str) -> Reply[Standing]:
        """Say how a recipient stands: what its mailbox holds, and who reads it."""
        return self._reply(lambda: self.hub.describe(stored(name)))

    def presence(self, name: str) -> Reply[Present]:
        """Say who reads a recipient. Fails with ``ValueError`` where presence is off."""

        def describe() -> MaybeDeferred[Present]:
            if self._presence is None:
                raise ValueError("Presence is off: Comet(presence=True) keeps it.")
            return self._presence.announcer.describe(recipient(name))

        return self._reply(describe)

    def recipients(
        self, prefix: str = "", *, after: str = "", limit: int = LISTED
    ) -> Reply[Listing[Standing]]:
        """Return how the mailboxes stand that hold messages and whose names begin with a prefix.

        They come by name, up to ``limit`` of them; ``more`` is ``after`` of the next page. Fails with
        ``ValueError`` for a ``limit`` below 1.
        """

        def recipients() -> MaybeDeferred[Listing[Standing]]:
            check_read(None, limit)
            return Deferred.fromCoroutine(listing(self.hub, prefix, after, limit, lists(prefix, ("**",))))

        return self._reply(recipients)

    def delete(self, name: str) -> Reply[None]:
        """Lose what a recipient's mailbox holds; readers before it have a gap."""
        return self._reply(lambda: self.hub.delete(stored(name)))

    def _reply(self, call: Callable[[], MaybeDeferred[T]]) -> Reply[T]:
        if self._on_reactor:
            check_place()
        return replied(call)


def _all_closed(results: list[tuple[bool, Any]]) -> None:
    for is_closed, failure in results:
        if not is_closed:
            failure.raiseException()
