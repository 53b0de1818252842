"""``Comet``: the one object that an embedding program holds. It wires a hub to its routes.

Python values and HTTP requests arrive; messages leave, to the readers that wait for them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypedDict, TypeVar
from wsgiref.types import WSGIApplication

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from .access.origins import Hosts, Origins
from .access.policy import Authorize, Policy
from .access.quotas import Clients
from .access.tokens import Tokens
from .bayeux.effects import Service
from .bayeux.options import BayeuxOptions
from .bayeux.transport import BayeuxTransport
from .core.hub import Hub, Standing
from .core.leases import LeaseId, LeaseState, Settlement
from .core.message import Batch, Content, Cursor, LeasedMessage, Message, Push, Receipt
from .core.namespaces import Namespace, Namespaces
from .core.observers import OnPush, OnReader, observe
from .core.recipient import readable, recipient, stored
from .core.registry import Registry
from .core.store import Store
from .deferreds import MaybeDeferred, chain
from .http.params import event_name
from .limits import LEASE_SECONDS, POLL_MESSAGES, REVOKED_SECONDS, SWEEP_SECONDS, WAIT_SECONDS, Limits
from .metrics import Metrics
from .routes.app import Routes
from .server import Proxies
from .site import RoutesResource
from .stores.memory import MemoryStore
from .wsgi import Beside

T = TypeVar("T")
Recipients = str | Iterable[str]


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
    Bayeux is spoken at ``/cometd`` unless ``bayeux`` is None. ``clock`` is the reactor unless given, its ages
    measured on the monotonic clock; tests give a ``twisted.internet.task.Clock``. ``proxied`` are the
    proxies, by address or network, that are believed whom they speak for.

    Hooks: ``authorize`` is asked, for each recipient, whether a request over HTTP may ``push``, ``poll`` or
    ``manage`` it; it returns whether, or a Deferred of that, and is asked besides ``tokens``. ``on_push`` is
    told each message that this process has accepted; ``on_park`` what a reader names that is held from now
    on, and ``on_leave`` that of one that is held no longer: it was answered, its wait was over, or its client
    has left. These three are called a moment later, in order; they may return a Deferred or coroutine, which
    is not waited for. A failure is logged.
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
        authorize: Authorize | None = None,
        allow_parameters: Iterable[str] = (),
        proxied: Iterable[str] = (),
        on_push: OnPush | None = None,
        on_park: OnReader | None = None,
        on_leave: OnReader | None = None,
        metrics: bool = True,
        console: bool = True,
        openapi: bool = True,
        bayeux: BayeuxOptions | None = BayeuxOptions(),  # noqa: B008  it is frozen
        clock: IReactorTime | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
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
        observe(self.hub, on_push=on_push, on_park=on_park, on_leave=on_leave)
        allowed = frozenset(origin.rstrip("/").lower().encode() for origin in origins)
        self.proxies = Proxies(proxied)
        self.clients = Clients(self.limits, clock, self.proxies.trusts)
        self.routes = Routes(
            self.hub,
            self._served_limits(spaces),
            policy=Policy(
                clock,
                wall,
                hosts=hosts,
                origins=Origins(allowed),
                tokens=tokens,
                authorize=authorize,
                clients=self.clients if self.clients.counts_requests else None,
            ),
            metrics=self.metrics,
            bayeux_options=bayeux,
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
        self.hub.recall()
        self.routes.listeners.recall()
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
        if self.routes.bayeux is not None:
            self.routes.bayeux.stop()
        return _deferred(self.hub.store.close)

    def _sweep_all(self) -> None:
        self.hub.sweep()
        self.routes.listeners.sweep()
        if self.routes.bayeux is not None:
            self.routes.bayeux.sweep()

    def resource(self) -> RoutesResource:
        """Return the HTTP interface as an ``IResource``, to be put anywhere into a twisted.web site."""
        return RoutesResource(self.routes, self.proxies or None)

    def beside(self, application: WSGIApplication, path: str = "comet") -> Beside:
        """Return a site's root: the HTTP interface below a path, of one segment, and everywhere else Django.

        Or whatever the WSGI ``application`` is. It runs in the reactor's threads; from there
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

    def deliver(self, client_id: str, channel: str, data: Any) -> Deferred[bool]:
        """Give one Bayeux session alone an event; tell whether there is such a session."""
        return _deferred(lambda: self._bayeux().deliver(client_id, channel, data))

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
    ) -> Deferred[Receipt]:
        """Push one message: ``bytes`` as octets, ``str`` as text, everything else as JSON.

        The words mean what they mean in HTTP.md, "Push"; ``ttl`` is in seconds. Fails with ``ValueError`` for
        data that cannot be said and a ``ttl`` that is none, else with a ``CometError``.
        """

        def push() -> MaybeDeferred[Receipt]:
            names = _checked(recipients, recipient)
            if ttl is not None and not ttl > 0:
                raise ValueError("ttl is a number of seconds above 0.")
            content = data if isinstance(data, Content) else Content.of(data)
            asked = Push(names, (content,), event_name(event), ttl, queue, overflow, idempotency_key)
            return self.hub.push(asked)

        return _deferred(push)

    def poll(
        self,
        recipients: Recipients,
        after: str | Cursor,
        *,
        wait: float = WAIT_SECONDS,
        limit: int = POLL_MESSAGES,
    ) -> Deferred[Batch]:
        """Return what the recipients hold after a cursor, once there is something.

        ``after`` may be ``"oldest"``, ``"now"``, ``"last:50"`` (before the newest 50 messages) or
        ``"since:600"`` (before what was accepted in the last 600 seconds), too. After ``wait`` seconds the
        batch is empty. Take nothing away; come back with the batch's cursor. Fails with ``ValueError`` for a
        malformed cursor or a ``limit`` below 1, else with a ``CometError``.
        """

        def poll() -> MaybeDeferred[Batch]:
            cursor = after if isinstance(after, Cursor) else Cursor.parse(after)
            return self.hub.poll(_checked(recipients, readable), cursor, wait, _limited(limit))

        return _deferred(poll)

    def take(
        self, recipients: Recipients, *, wait: float = WAIT_SECONDS, limit: int = POLL_MESSAGES
    ) -> Deferred[Batch]:
        """Return the oldest messages that no take has had; each message goes to one take only."""
        return _deferred(lambda: self.hub.take(_checked(recipients, stored), wait, _limited(limit)))

    def lease(
        self,
        recipients: Recipients,
        seconds: float,
        *,
        wait: float = WAIT_SECONDS,
        limit: int = 1,
    ) -> Deferred[Batch]:
        """Return the oldest messages that no take has had, each reserved for so many seconds, 1 to 3,600.

        ``Batch.leased`` has them with their leases. A message comes again, to the next take or lease, unless
        ``ack`` is told of its lease in time.
        """

        def lease() -> MaybeDeferred[Batch]:
            names = _checked(recipients, stored)
            return self.hub.lease(names, _lease_seconds(seconds), wait, _limited(limit))

        return _deferred(lease)

    def ack(
        self, message: LeasedMessage, *, extend: float | None = None, release: bool = False
    ) -> Deferred[LeaseState]:
        """Tell that a leased message is done, or that its lease goes on, or that others may have it.

        ``extend`` is in seconds from now. Returns what became of the lease: ``done``, ``extended``,
        ``released``, or ``gone`` where it had ended and the message is another worker's, or no more.
        """

        def ack() -> MaybeDeferred[LeaseState]:
            if release and extend is not None:
                raise ValueError("A lease is extended or released, not both.")
            settlement: Settlement = "released" if release else "done" if extend is None else "extended"
            seconds = 0.0 if extend is None else _lease_seconds(extend)
            leases = (LeaseId.parse(message.lease),)
            states = self.hub.settle(message.recipient, leases, settlement, seconds)
            return chain(states, lambda states: states[0])

        return _deferred(ack)

    async def follow(
        self,
        recipients: Recipients,
        after: str | Cursor = "now",
        *,
        on_gap: Callable[[Cursor], None] | None = None,
    ) -> AsyncIterator[Message]:
        """Yield the recipients' messages as they come, from a cursor on, until the server stops.

        ``on_gap`` is called with the cursor after which messages are lost to this reader; what is still kept
        follows. Closing the iterator forgets the reader.
        """
        cursor = after if isinstance(after, Cursor) else Cursor.parse(after)
        while not self.hub.stopping:
            batch = await self.poll(recipients, cursor)
            if batch.gap and on_gap is not None:
                on_gap(cursor)
            for message in batch.messages:
                yield message
            cursor = batch.cursor

    def describe(self, name: str) -> Deferred[Standing]:
        """Say how a recipient stands: what its mailbox holds, and who reads it."""
        return _deferred(lambda: self.hub.describe(stored(name)))

    def delete(self, name: str) -> Deferred[None]:
        """Lose what a recipient's mailbox holds; readers before it have a gap."""
        return _deferred(lambda: self.hub.delete(stored(name)))


@implementer(IReactorTime)
class Monotonic:
    """A reactor's timers beside the monotonic clock: setting the machine's clock makes no message older."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor

    seconds = staticmethod(time.monotonic)

    def callLater(  # noqa: N802  Twisted's name
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002  Twisted's name
        *given: object,
        **words: object,
    ) -> IDelayedCall:
        """Call something after ``delay`` seconds."""
        return self._reactor.callLater(delay, callable, *given, **words)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:  # noqa: N802  Twisted's name
        """Return what is still to be called."""
        return self._reactor.getDelayedCalls()


def _checked(recipients: Recipients, check: Callable[[str], str]) -> tuple[str, ...]:
    listed = (recipients,) if isinstance(recipients, str) else tuple(recipients)
    # Where none is named, the check of an empty name says so.
    return tuple(dict.fromkeys(map(check, listed or ("",))))


def _limited(limit: int) -> int:
    if limit < 1:
        raise ValueError("limit is a number of messages, 1 or more.")
    return limit


def _lease_seconds(seconds: float) -> float:
    least, most = LEASE_SECONDS
    if not least <= seconds <= most:
        raise ValueError(f"A lease is for {least:g} to {most:g} seconds.")
    return seconds


def _deferred(call: Callable[[], MaybeDeferred[T]]) -> Deferred[T]:
    """Return what the call returns, or raises, as a Deferred."""
    try:
        result = call()
    except Exception:  # noqa: BLE001  every failure goes to the Deferred
        return fail()
    return result if isinstance(result, Deferred) else succeed(result)
