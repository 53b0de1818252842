"""The service of ``twistd cometd-lite``, which wires together what the options ask for; see ``options``.

A port or a store that cannot be opened ends the program with one sentence and a non-zero status.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any, NamedTuple, NoReturn, Unpack

from twisted.application.service import Service
from twisted.internet import reactor as _reactor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    formatEventAsClassicLogText,
    timeFormatRFC3339,
)
from twisted.python import failure as failures
from twisted.python.failure import Failure

from . import __version__, listening
from .access.origins import is_loopback
from .access.quotas import Clients, Share
from .access_log import AccessLog, Refusals
from .comet import Comet, Hooks
from .core.store import StoreUnusable
from .deferreds import is_pending
from .errors import TooManyRequests
from .garbage import Garbage, collect_new, settle_collector
from .heap import Heap
from .limits import (
    APPLICATION_QUESTIONS,
    DRAIN_IDLE_SECONDS,
    FILES_RESERVED,
    GC_SECONDS,
    HEAP_SECONDS,
    MEMO_SECONDS,
)
from .memos import forget_all, renew
from .metrics import ReactorMonitor
from .options import Options
from .server import Application, Bounds, HTTPFactory, Refused, Request
from .server.reuse import ReusingReactor

try:
    import resource
except ImportError:  # there is none on Windows
    resource = None  # type: ignore[assignment]

reactor: Any = _reactor
_LOOK_SECONDS = 0.05

__all__ = ["CometService", "Options", "makeService"]


class CannotStartError(Exception):
    """The program cannot begin; its text says why."""


class CometService(Service):
    """Listens while it runs; when it stops, every parked reader is answered before the program ends.

    Where twistd has parsed the ``options``, the process has no other service, so this one handles signals,
    configures the garbage collector, and returns freed memory to the system. ``access_log`` is given each
    request that is over. ``warnings`` are logged once it has started.
    """

    log = Logger()
    name = "cometd-lite"

    def __init__(
        self,
        comet: Comet,
        factory: HTTPFactory,
        options: Options,
        access_log: AccessLog | None,
        warnings: Sequence[str],
    ) -> None:
        self.comet = comet
        self.factory = factory
        self.options = options
        self.listen: list[str] = options["listen"]
        self.drain: float = options["drain"]
        self.access_log = access_log
        self.warnings = warnings
        self.garbage = Garbage()
        self.repeated = (
            (LoopingCall(Heap().trim), HEAP_SECONDS),
            (LoopingCall(collect_new), GC_SECONDS),
            (LoopingCall(self._forget), MEMO_SECONDS),
        )
        self.monitor = None if options["no-metrics"] else ReactorMonitor(comet.metrics, reactor)
        self.refusals = Refusals(comet.metrics.refusals, reactor)
        self.ports: list[IListeningPort] = []
        self.addresses: list[str] = []
        """What to open in a browser, or give to a client, for each port."""

    def setServiceParent(self, parent: Any) -> None:  # noqa: N802  Twisted's name
        """Join an application, and write its log where twistd would write it to standard output.

        The lines are those of twistd. Their time is made without a ``tzinfo``, whose methods twistd looks up
        by new names for each line: CPython caches the names, and those of three lines that were written
        during a flood kept up to 6 MB. See ``memos``.
        """
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]  # Twisted's
        twistd = self.options.parent
        if twistd is not None and _logs_to_stdout(twistd):
            # twistd uses the observer of its application, unless --logger names one.
            parent.setComponent(ILogObserver, FileLogObserver(sys.stdout, _line))

    def privilegedStartService(self) -> None:  # noqa: N802  Twisted's name
        """Bind every endpoint, while a low port may still be bound; a taken one ends the program."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's
        listener = ReusingReactor(reactor) if self.options["reuse-port"] else reactor
        for endpoint in self.listen:
            bound = listening.listen(listener, endpoint, self.factory)
            bound.addCallbacks(self._listens, self._cannot_listen, (endpoint,), errbackArgs=(endpoint,))
        if self._failed is not None:
            self._fail(self._failed)

    def _listens(self, port: IListeningPort, endpoint: str) -> None:
        """Note a port. Where all are of this machine only, the server does not answer to every Host."""
        self.ports.append(port)
        self.addresses.append(listening.address(endpoint, port.getHost(), self.options["mount"]))
        policy = self.comet.routes.policy
        policy.hosts = replace(policy.hosts, loopback_only=all(map(_is_local, self.ports)))

    _failed: str | None = None

    def _cannot_listen(self, failure: Any, endpoint: str) -> None:
        self._failed = listening.refusal(endpoint, failure.value)

    def _fail(self, sentence: str) -> NoReturn:
        """End the program, which has not quite begun."""
        twistd = self.options.parent
        if twistd is not None and not twistd.get("nodaemon", True):
            # The shell waits at a pipe. There, twistd reports exceptions, but not SystemExit.
            raise CannotStartError(sentence)
        raise SystemExit(f"cometd-lite: {sentence}")

    def startService(self) -> None:  # noqa: N802  Twisted's name
        """Open the store and begin to serve; a store that cannot be opened ends the program."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        try:
            opened = self.comet.start()
        except StoreUnusable as error:
            self._fail(str(error))
        if is_pending(opened):
            opened.addErrback(self._cannot_open)
        if self.access_log is not None:
            try:
                self.access_log.open()
            except OSError as error:
                self._fail(f"the access log {error.filename} cannot be written: {error.strerror}.")
        self.refusals.start()
        if self.monitor is not None:
            self.monitor.start()
        for address in self.addresses:
            self.log.info("cometd-lite {version} serves {address}", version=__version__, address=address)
        policy = self.comet.routes.policy
        asked = (policy.tokens, policy.application, policy.authorize)
        if not policy.hosts.loopback_only and asked == (None, None, None):
            self.log.warn(
                "Each client that can connect may push, read and delete everything: "
                "there is neither --key nor --authorize-url."
            )
        for warning in self.warnings:
            self.log.warn("{warning}", warning=warning)
        if self.options.parent is not None:
            self._take_process()

    def _take_process(self) -> None:
        """Handle what belongs to the process: signals, garbage, and memory that is free."""
        reactor.callWhenRunning(self._handle_signals)
        reactor.callWhenRunning(settle_collector)
        for call, seconds in self.repeated:
            call.start(seconds, now=False)

    def _forget(self) -> None:
        """Let go of what a flood of requests has left (see ``memos``), and of what Python keeps for reuse."""
        forget_all()
        self.factory.forget()
        self.garbage.collect()
        # After the collection: the numbers would lie between the garbage, and keep its memory.
        self.comet.metrics.renew()
        if hasattr(failures, "count"):
            renew(failures, "count")  # how many Twisted has made

    def _cannot_open(self, failure: Failure) -> None:
        """End the program, which runs already, because what it has reached is not what it needs."""
        failure.trap(StoreUnusable)
        self.log.error("cometd-lite: {sentence}", sentence=str(failure.value))
        # After a reactor was stopped the status would be 0, which a service manager takes for success.
        reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._stop_reactor()

    def stopService(self) -> Deferred[Any]:  # noqa: N802  Twisted's name
        """Stop accepting, answer every parked reader, wait until the answers have left, close the store.

        Readers are answered in the first half of the time. Answers are sent until three quarters of it, and
        the store has the rest. A step that ends sooner is not waited for. Connections without a request are
        closed after a moment: a client that was answered just now may send its next request.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        closing = [port.stopListening() for port in self.ports]
        self.ports = []
        self.factory.stopping = True
        return Deferred.fromCoroutine(self._stop([closed for closed in closing if closed is not None]))

    async def _stop(self, closing: list[Deferred[Any]]) -> None:
        began = time.monotonic()
        self.log.info("Stopping; readers that are parked: {parked}", parked=self.comet.hub.registry.parked)
        drained = self.comet.drain(self.drain / 2)
        await self._disconnected(began + min(DRAIN_IDLE_SECONDS, self.drain / 10))
        self.factory.shutdown()
        await drained
        await self._disconnected(began + self.drain * 3 / 4)
        closed = self.comet.stop()
        left = self.drain - (time.monotonic() - began)
        try:
            await gatherResults([closed, *closing]).addTimeout(max(_LOOK_SECONDS, left), reactor)
        except DeferredTimeout:
            self.log.error("The store did not end in time.")  # noqa: TRY400  all is said
        self.refusals.stop()
        for call, _ in self.repeated:
            if call.running:
                call.stop()
        if self.monitor is not None:
            self.monitor.stop()
        if self.access_log is not None:
            self.access_log.close()
        self.log.info("Stopped")

    async def _disconnected(self, until: float) -> None:
        """Wait until no client is connected, or until the time ``until``."""
        while self.factory.connections and time.monotonic() < until:
            await deferLater(reactor, _LOOK_SECONDS)

    def _handle_signals(self) -> None:
        # Twisted would end the process by the signal itself, which service managers report as a failure.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: reactor.callFromThread(self._stop_reactor))
        signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(self._reload))

    def _reload(self) -> None:
        """Go on in a new access log where the old one was renamed, and read the keys again."""
        if self.access_log is not None:
            try:
                self.access_log.open()
            except OSError as error:
                self.log.error(  # noqa: TRY400  all is said
                    "The access log stays where it was: {file}: {error}.",
                    file=error.filename,
                    error=error.strerror,
                )
        tokens, webhooks = self.comet.routes.policy.tokens, self.comet.webhooks
        if webhooks is not None:
            self._read_again("The key of --notify-key", "was", "stays as it was", webhooks.signer.reload)
        if tokens is not None:
            self._read_again("The keys", "were", "stay as they were", tokens.reload)

    def _read_again(self, what: str, was: str, stays: str, reload: Callable[[], object]) -> None:
        try:
            reload()
        except ValueError as error:
            self.log.error("{what} {stays}: {error}.", what=what, stays=stays, error=error)  # noqa: TRY400
        else:
            self.log.info("{what} {was} read again.", what=what, was=was)

    @staticmethod
    def _stop_reactor() -> None:
        with suppress(ReactorNotRunning):  # a second signal finds it stopping already
            reactor.stop()


def _is_local(port: IListeningPort) -> bool:
    """Whether only this machine can connect to a port, by the address of its socket."""
    address = port.getHost()
    return isinstance(address, UNIXAddress) or is_loopback(getattr(address, "host", ""))


def _logs_to_stdout(twistd: Mapping[str, Any]) -> bool:
    to_file = twistd.get("logfile") not in {None, "", "-"} or twistd.get("syslog")
    return bool(twistd.get("nodaemon")) and not to_file


def _line(event: LogEvent) -> str | None:
    """Return an event as the line that twistd makes of it."""
    return formatEventAsClassicLogText(event, _shown_time)


def _shown_time(when: float | None) -> str:
    return "-" if when is None else time.strftime(timeFormatRFC3339, time.localtime(when))


def makeService(options: Options, **hooks: Unpack[Hooks]) -> CometService:  # noqa: N802  Twisted's name
    """Return the service that ``twistd`` runs, or another program beside its own, with ``hooks``.

    Where twistd has parsed the options, the process is this service's alone.
    """
    twistd = options.parent
    if twistd is not None:
        # Twisted measures its timers on the wall clock unless set otherwise; setting that clock back by an
        # hour would hold every poll for an hour more.
        reactor.seconds = time.monotonic
    limits = options.limits
    room = connections_within_files(
        limits.max_connections,
        settle=twistd is not None,
        reserved=0 if options["authorize-url"] is None else APPLICATION_QUESTIONS,
    )
    warnings = []
    if room.connections < limits.max_connections:
        warnings.append(
            f"{room.connections} connections may be open, not {limits.max_connections}: "
            "the process may open no more files."
        )
    comet = Comet(
        limits=replace(limits, max_connections=room.connections),
        store=options.store,
        overflow=options["overflow"],
        namespaces=options["namespace"],
        hosts=options.hosts,
        origins=options["allow-origin"],
        allow_parameters=options["allow-parameter"],
        tokens=options.tokens,
        authorize_url=options["authorize-url"],
        notify_url=options["notify-url"],
        notify_key=options.notify_key,
        unread_after=options["unread-after"],
        proxied=options["proxied"],
        metrics=not options["no-metrics"],
        console=not options["no-console"],
        openapi=not options["no-openapi"],
        bayeux=options.bayeux,
        presence=bool(options["presence"]),
        **hooks,
    )
    access_log = options.access_log
    observers: list[Callable[[Request], None]] = []
    if not options["no-metrics"]:
        observers.append(comet.metrics.count_request)
    if access_log is not None:
        observers.append(access_log.add)
    application: Application[Request] = comet.routes
    factory = HTTPFactory(
        application,
        clock=reactor,
        bounds=Bounds(
            body=comet.routes.limits.max_body, idle_seconds=ceil(options["keep-alive"]), refused=room.refused
        ),
        prefix=options["mount"].encode(),
        proxies=comet.proxies or None,
        max_connections=room.connections,
        admit=partial(_admit, comet.clients),
        on_answer=_observing(observers),
    )
    if not options["no-metrics"]:
        comet.metrics.connections = lambda: len(factory.connections)
        comet.metrics.unsent = lambda: factory.unsent
        comet.metrics.received = lambda: factory.received.size
    return CometService(comet, factory, options, access_log, warnings)


def _observing(observers: list[Callable[[Request], None]]) -> Callable[[Request], None]:
    """Return one function that gives a request to all observers."""
    if len(observers) == 1:
        return observers[0]

    def observe(request: Request) -> None:
        for observer in observers:
            observer(request)

    return observe


class Room(NamedTuple):
    """The connections that are served at once, and those besides that may read why they are not."""

    connections: int
    refused: int


def connections_within_files(wanted: int, *, settle: bool, reserved: int = 0) -> Room:
    """Return how many connections there may be, so that some files are left for all else; ``wanted`` at most.

    ``settle``: raise the process's own limit where it is in the way, as far as the system lets it.
    ``reserved`` are files that are needed besides ``FILES_RESERVED``.
    """
    refused = Bounds().refused
    if resource is None:
        return Room(wanted, refused)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return Room(wanted, refused)
    reserved += FILES_RESERVED
    needed = wanted + refused + reserved
    if settle and files < needed:
        files = needed if most == resource.RLIM_INFINITY else min(needed, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    refused = min(refused, files // 8)
    return Room(min(wanted, files - refused - min(reserved, files // 4)), refused)


def _admit(clients: Clients, address: str) -> Share | Refused | None:
    """Count a connection from an address in, or say why it is refused.

    Nothing is raised: an attacker would decide how much there is to do for the garbage collector.
    """
    share = clients.connections_from(address)
    if share is not None and share.is_full:
        return Refused(TooManyRequests.status, share.refusal)
    if share is not None:
        share.take()
    return share
