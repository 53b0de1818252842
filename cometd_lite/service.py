"""``twistd cometd-lite``: the command's options arrive, a service that listens leaves.

Wires everything together. What is wrong with an option, or with a port, is one sentence and a non-zero exit.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from functools import cached_property, partial
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Unpack
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from . import __version__
from .access.origins import Hosts, is_loopback
from .access.quotas import Clients, Share
from .access.tokens import Tokens
from .access_log import FORMATS, AccessLog, Refusals
from .bayeux.conversation import Options as BayeuxOptions
from .comet import Comet, Hooks
from .core.store import Store, StoreUnusable
from .deferreds import is_pending
from .errors import TooManyRequests
from .limits import DRAIN_IDLE_SECONDS, DRAIN_SECONDS, FILES_RESERVED, LISTEN_BACKLOG, Limits
from .metrics import Pulse
from .server import Bounds, HTTPFactory, Proxies, Refused, Request
from .server.reuse import ReusingReactor

try:
    import resource
except ImportError:  # there is none on Windows
    resource = None  # type: ignore[assignment]

reactor: Any = _reactor
_LOOK_SECONDS = 0.05

GC_THRESHOLDS = (50_000, 20, 100)
"""Allocations between collections of the youngest objects, and how many of those until older ones are
walked too. In a fan-out to 1,000 the collector took a quarter of the time with Python's 700, 10, 10."""

_SIZE = re.compile(r"(\d{1,15})([kmg]?)b?")
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)")
_REDIS = frozenset({"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"})
_SIZES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_SPANS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def size(text: str) -> int:
    """Return the bytes that ``65536``, ``64k`` or ``256M`` say; at least 1. Raises ``ValueError``."""
    match = _SIZE.fullmatch(text.lower())
    if match is None or int(match[1]) < 1:
        raise ValueError("a number of bytes, as in 65536, 64k or 256M")
    return int(match[1]) * _SIZES[match[2]]


def count(text: str) -> int:
    """Return the number that ``text`` says; at least 1. Raises ``ValueError``."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("a whole number, 1 or more")
    return int(text)


def span(text: str) -> float:
    """Return the seconds that ``90``, ``1.5m``, ``12h`` or ``7d`` say; above 0. Raises ``ValueError``."""
    match = _SPAN.fullmatch(text.lower())
    if match is None or float(match[1]) <= 0:
        raise ValueError("a time above 0, in seconds or as in 90s, 15m, 12h or 7d")
    return float(match[1]) * _SPANS[match[2]]


def milliseconds(text: str) -> int:
    """Return the number that ``text`` says; at least 0. Raises ``ValueError``."""
    if not text.isdecimal():
        raise ValueError("a whole number of milliseconds, 0 or more")
    return int(text)


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a function that lets only ``choices`` through."""

    def choose(text: str) -> str:
        if text not in choices:
            raise ValueError(" or ".join(choices))
        return text

    return choose


def store(text: str) -> str:
    """Return what ``memory``, ``sqlite:PATH`` or the URL of a Redis says. Raises ``ValueError``."""
    kind, colon, rest = text.partition(":")
    if text == "memory" or (kind == "sqlite" and colon and rest):
        return text
    if colon and kind in _REDIS:
        try:
            from .stores.redis.connection import Address  # noqa: PLC0415  hiredis is only there where it was asked for
        except ImportError:
            raise ValueError("a Redis only with hiredis: pip install 'cometd-lite[redis]'") from None
        Address.parse(text).check()
        return text
    raise ValueError(
        "memory, sqlite: and the path of a file, as in sqlite:/var/lib/comet/messages.db, "
        "or a Redis, as in redis://localhost:6379 or unix:/run/redis/redis.sock"
    )


def mount(text: str) -> str:
    """Return a path prefix with a leading and no trailing slash, empty for the root."""
    path = "/" + text.strip("/")
    if not re.fullmatch(r"(?:/[\w.~!$&'()*+,;=:@-]+)+|/", path, re.ASCII):
        raise ValueError("a path, as in /comet")
    return "" if path == "/" else path


def _parameter(name: str, default: str | None, sentence: str, read: Callable[[str], Any]) -> tuple[Any, ...]:
    """Return one of twisted's option tuples; a wrong value is told by the option's name."""

    def coerce(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise UsageError(f"--{name} {text}: it takes {error}.") from None

    return (name, None, default, sentence, coerce)


class Options(UsageOptions):
    """The options of ``twistd cometd-lite``."""

    synopsis = "[options]"
    longdesc = """\
A comet server: a client asks GET /poll/NAME and is held until someone says
POST /push/NAME. Try it, in two shells beside this one:

  curl localhost:8080/poll/bob
  curl -d 'hello' localhost:8080/push/bob

Sizes are bytes or end in k, M or G; times are seconds or end in s, m, h or d.
Put twistd's own options first: -n stays in the foreground, --pidfile= writes
no pid file."""
    optFlags = (  # noqa: N815  Twisted's name
        ("no-console", None, "Do not show the console page at /."),
        ("no-metrics", None, "Do not show the counts at /metrics."),
        ("no-openapi", None, "Do not describe the interface at /openapi.json."),
        ("no-bayeux", None, "Do not speak Bayeux at /cometd."),
        ("reuse-port", None, "Let several processes listen at the same TCP port (SO_REUSEPORT)."),
    )
    optParameters = (  # noqa: N815  Twisted's name
        _parameter("capacity", "1000", "Messages that one mailbox holds.", count),
        _parameter("capacity-bytes", "1M", "Bytes of messages that one mailbox holds.", size),
        _parameter("ttl", "1d", "Time that a message is kept, at the most.", span),
        _parameter("max-body", "64k", "Bytes of one push's body.", size),
        _parameter("max-wait", "120", "Time that a poll may ask to be held.", span),
        _parameter("keep-alive", "75", "Time that a connection is kept open between two requests.", span),
        _parameter("max-parked", "15000", "Polls, streams and sockets that wait at once.", count),
        _parameter("max-connections", "20000", "Connections that are open at once, if files suffice.", count),
        _parameter("max-recipients", "100000", "Mailboxes that exist at once.", count),
        _parameter("max-sessions", "50000", "Listeners and Bayeux clients remembered at once.", count),
        _parameter("max-memory", "256M", "Bytes that all messages take, with overhead.", size),
        _parameter(
            "overflow",
            "reject",
            "What a full mailbox does with a push: reject or drop-oldest.",
            one_of("reject", "drop-oldest"),
        ),
        _parameter("bayeux-timeout", "30", "Time that a Bayeux connect is held.", span),
        _parameter("bayeux-interval", "0", "Milliseconds between a Bayeux client's connects.", milliseconds),
        _parameter("bayeux-max-interval", "10", "Time after which a silent Bayeux client is gone.", span),
        _parameter("mount", "/", "Path under which the interface lies, as in /comet.", mount),
        _parameter("store", "memory", "Where messages live: memory, sqlite:PATH or redis://HOST.", store),
        _parameter(
            "sync",
            "full",
            "What a push to sqlite: waits for: full survives a loss of power, normal a crash.",
            one_of("full", "normal"),
        ),
        _parameter("drain", "10", "Time in which clients are let go of when the server stops.", span),
        ("access-log", None, None, "Write a line for each request into this file."),
        _parameter(
            "access-log-format",
            "combined",
            "What a line is: combined, as of nginx and Apache, or json, with the time it took.",
            one_of(*FORMATS),
        ),
        _parameter(
            "client-connections",
            None,
            "Connections of one address at once [default: a quarter of all, of a public address].",
            count,
        ),
        _parameter("client-parked", None, "Polls, streams and sockets of one client that wait.", count),
        _parameter("client-pushes", None, "Messages that one client pushes a second.", count),
        _parameter("client-bytes", None, "Bytes that one client pushes a second.", size),
        _parameter("client-registrations", None, "Listeners and Bayeux sessions of one client.", count),
        ("audience", None, None, "Whom tokens must be meant for: they need an aud that names it."),
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        for name, _, default, _, *coerce in self.optParameters:
            if coerce and default is not None:
                self[name] = coerce[0](default)  # usage shows defaults as they are typed, and leaves them so
        self["listen"] = []
        self["allow-origin"] = []
        self["host"] = []
        self["key"] = []
        self["proxied"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Listen there; may be given again. A Twisted endpoint [default: tcp:8080:interface=127.0.0.1]."""
        self["listen"].append(endpoint)

    def opt_allow_origin(self, origin: str) -> None:
        """Let web pages of this origin push and read, as in https://example.com; may be given again."""
        self["allow-origin"].append(origin)

    def opt_host(self, name: str) -> None:
        """Answer to this Host too, where only this machine can connect; may be given again."""
        self["host"].append(name)

    def opt_key(self, file: str) -> None:
        """Check tokens against this key file: a secret, a PEM public key or a JWKS; may be given again."""
        self["key"].append(file)

    def opt_proxied(self, network: str) -> None:
        """Believe this proxy whom it speaks for: an address, a network or unix; may be given again."""
        self["proxied"].append(network)

    def opt_version(self) -> None:
        """Print the version and exit."""
        sys.stdout.write(f"cometd-lite {__version__}\n")
        raise SystemExit(0)

    def parseArgs(self, *surplus: str) -> None:  # noqa: N802  Twisted's name
        """Refuse what is no option, by name."""
        if surplus:
            raise UsageError(f"{surplus[0]}: only options are taken, each beginning with --.")

    def postOptions(self) -> None:  # noqa: N802  Twisted's name
        """Check what belongs together; raises ``UsageError`` with a sentence."""
        self["listen"] = self["listen"] or ["tcp:8080:interface=127.0.0.1"]
        for endpoint in self["listen"]:
            try:
                serverFromString(reactor, endpoint)
            except Exception as error:  # noqa: BLE001  an endpoint's parser raises what it likes
                raise UsageError(
                    f"--listen {endpoint}: not an endpoint that Twisted knows, "
                    f"as in tcp:8080:interface=127.0.0.1 ({error})."
                ) from None
        for origin in self["allow-origin"]:
            parts = urlsplit(origin)
            if origin != "*" and not (parts.scheme and parts.netloc and parts.path in {"", "/"}):
                raise UsageError(f"--allow-origin {origin}: not an origin, as in https://example.com.")
        for network in self["proxied"]:
            try:
                Proxies([network])
            except ValueError:
                raise UsageError(
                    f"--proxied {network}: not an address or network, as in 10.1.2.3 or 10.0.0.0/8, nor unix."
                ) from None
        _ = self.tokens  # a wrong key file is told before anything is served

    def parseOptions(self, options: Any = None) -> None:  # noqa: N802  Twisted's name
        """Parse as Twisted does, but answer a wrong option by one sentence instead of the whole help."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]  # Twisted's
        except UsageError as error:
            raise SystemExit(f"cometd-lite: {error}") from None

    def getUsage(self, width: int | None = None) -> str:  # noqa: N802  Twisted's name
        """Return the help; its opening keeps its lines, which Twisted would fill."""
        described, self.longdesc = self.longdesc, ""
        try:
            return f"{described}\n\n{super().getUsage(width)}"
        finally:
            self.longdesc = described

    @cached_property
    def tokens(self) -> Tokens | None:
        """What checks tokens, None without keys. Raises ``UsageError`` for a file that holds no key."""
        if not self["key"]:
            return None
        try:
            return Tokens(map(Path, self["key"]), audience=self["audience"])
        except ValueError as error:
            raise UsageError(f"--key: {error}.") from None

    @property
    def bayeux(self) -> BayeuxOptions | None:
        """How Bayeux is spoken, None for not at all."""
        if self["no-bayeux"]:
            return None
        return BayeuxOptions(self["bayeux-timeout"], self["bayeux-interval"], self["bayeux-max-interval"])

    @property
    def store(self) -> Store | None:
        """The store that was asked for, not opened; None for memory."""
        kind, _, path = self["store"].partition(":")
        if kind in _REDIS:
            from .stores.redis.store import RedisStore  # noqa: PLC0415  as in ``store``

            return RedisStore(self["store"], self.limits, overflow=self["overflow"], clock=reactor)
        if kind == "memory":
            return None
        from .stores.sqlite import SQLiteStore  # noqa: PLC0415  some Pythons are built without sqlite3

        file = Path(path).expanduser()
        return SQLiteStore(file, self.limits, overflow=self["overflow"], sync=self["sync"])

    @property
    def access_log(self) -> AccessLog | None:
        """The access log that was asked for, not opened."""
        if self["access-log"] is None:
            return None
        file = Path(self["access-log"]).expanduser().absolute()  # a daemon leaves its directory
        return AccessLog(file, self["access-log-format"], reactor)

    @property
    def limits(self) -> Limits:
        """The bounds that were given, each under its option's name."""
        return Limits(**{field.name: self[field.name.replace("_", "-")] for field in fields(Limits)})

    @property
    def hosts(self) -> Hosts:
        """The names that are answered to: not all of them where only this machine can connect."""
        only = all(_is_local(endpoint) for endpoint in self["listen"])
        return Hosts(frozenset(name.lower() for name in self["host"]), only)


class CannotStartError(Exception):
    """The program cannot begin; its text says why."""


class CometService(Service):
    """Listens while it runs; when it stops, every parked reader is answered before the program ends.

    ``drain`` is the seconds within which it has stopped, whatever clients and disks do. ``alone``: it is what
    the process is for, and so may take over its signals and its garbage collector; beside other services it
    leaves them alone. ``daemon``: twistd leaves the shell that has started it, once all has begun well.
    ``access_log`` is what the factory tells of requests, ``pulse`` what feels the process; None for neither.
    ``reuse_port``: other processes listen at the same ports.
    """

    log = Logger()
    name = "cometd-lite"

    def __init__(
        self,
        comet: Comet,
        factory: HTTPFactory,
        listen: list[str],
        drain: float = DRAIN_SECONDS,
        *,
        alone: bool = False,
        daemon: bool = False,
        reuse_port: bool = False,
        access_log: AccessLog | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self.comet = comet
        self.factory = factory
        self.listen = listen
        self.drain = drain
        self.alone = alone
        self.daemon = daemon
        self.reuse_port = reuse_port
        self.access_log = access_log
        self.pulse = pulse
        self.refusals = Refusals(comet.metrics.refusals, reactor)
        self.ports: list[IListeningPort] = []

    def privilegedStartService(self) -> None:  # noqa: N802  Twisted's name
        """Bind every endpoint, while a low port may still be bound; a taken one ends the program."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's
        listener = ReusingReactor(reactor) if self.reuse_port else reactor
        for endpoint in self.listen:
            listening = serverFromString(listener, with_backlog(endpoint)).listen(self.factory)
            listening.addCallbacks(self.ports.append, self._cannot_listen, errbackArgs=(endpoint,))
        self._exit_if_failed()

    _failed: str | None = None

    def _cannot_listen(self, failure: Any, endpoint: str) -> None:
        error = failure.value
        if isinstance(error, CannotListenError) and isinstance(error.socketError, OSError):
            error = error.socketError.strerror
        self._failed = f"cannot listen on {endpoint}: {error}."

    def _exit_if_failed(self) -> None:
        if self._failed is not None:
            self._fail(self._failed)

    def _fail(self, sentence: str) -> NoReturn:
        """End the program, which has not quite begun."""
        if self.daemon:
            # Who started it waits at a pipe, where twistd tells of exceptions, and of SystemExit never.
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
        if self.pulse is not None:
            self.pulse.start()
        self.log.info("cometd-lite {version} begins", version=__version__)
        if self.alone:
            reactor.callWhenRunning(self._handle_signals)
            reactor.callWhenRunning(settle_collector)

    def _cannot_open(self, failure: Failure) -> None:
        """End the program, which runs already, because what it has reached is not what it needs."""
        failure.trap(StoreUnusable)
        self.log.error("cometd-lite: {sentence}", sentence=str(failure.value))
        # A reactor that was stopped leaves the status 0, which tells a service manager that all is well.
        reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._stop_reactor()

    def stopService(self) -> Deferred[Any]:  # noqa: N802  Twisted's name
        """Stop accepting, answer every parked reader, wait until the answers have left, close the store.

        Readers are let go of in the first half of the time, answers leave until three quarters of it, and
        what is left is the store's. Whatever is done sooner is not waited for. Connections on which nothing
        is asked are closed after a moment only: whoever was answered just now comes back for the rest.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        closing = [port.stopListening() for port in self.ports]
        self.ports = []
        self.factory.stopping = True
        return Deferred.fromCoroutine(self._stop([closed for closed in closing if closed is not None]))

    async def _stop(self, closing: list[Deferred[Any]]) -> None:
        began = time.monotonic()
        self.log.info("Stopping, with {parked} who wait", parked=self.comet.hub.registry.parked)
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
        if self.pulse is not None:
            self.pulse.stop()
        if self.access_log is not None:
            self.access_log.close()
        self.log.info("Stopped")

    async def _disconnected(self, until: float) -> None:
        """Wait until nobody is connected any more, or the time has come."""
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
        tokens = self.comet.routes.door.tokens
        if tokens is None:
            return
        try:
            tokens.reload()
        except ValueError as error:
            self.log.error("The keys stay as they were: {error}.", error=error)  # noqa: TRY400  all is said
        else:
            self.log.info("The keys were read again.")

    @staticmethod
    def _stop_reactor() -> None:
        with suppress(ReactorNotRunning):  # a second signal finds it stopping already
            reactor.stop()


def with_backlog(endpoint: str) -> str:
    """Return a TCP or TLS endpoint with a longer queue of connections that wait to be accepted.

    Twisted's 50 is short for a thousand clients that come back in one second: whoever finds no place waits
    for the next second.
    """
    kind = endpoint.removeprefix("haproxy:").partition(":")[0]
    if kind in {"tcp", "tcp6", "ssl"} and "backlog=" not in endpoint:
        return f"{endpoint}:backlog={LISTEN_BACKLOG}"
    return endpoint


def settle_collector() -> None:
    """Keep the cyclic garbage collector away from what lives long: modules, and thousands of parked readers.

    With Python's own thresholds it walks all of them again and again. A parked poll is no garbage and, when
    it ends, no cycle; so what was there at the start is frozen, and collections are rare.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def makeService(options: Options, **hooks: Unpack[Hooks]) -> CometService:  # noqa: N802  Twisted's name
    """Return the service that ``twistd`` runs, or another program beside its own, with ``hooks``.

    Where twistd has parsed the options, the process is this service's alone.
    """
    twistd = options.parent
    if twistd is not None:
        # Twisted measures its timers on the wall clock unless told otherwise; setting that clock back by an
        # hour would hold every poll for an hour more.
        reactor.seconds = time.monotonic
    limits = options.limits
    room = connections_within_files(limits.max_connections, settle=twistd is not None)
    if room.connections < limits.max_connections:
        CometService.log.warn(
            "{connections} connections may be open, not {wanted}: the process may open no more files.",
            connections=room.connections,
            wanted=limits.max_connections,
        )
    comet = Comet(
        limits=replace(limits, max_connections=room.connections),
        store=options.store,
        overflow=options["overflow"],
        hosts=options.hosts,
        origins=options["allow-origin"],
        tokens=options.tokens,
        proxied=options["proxied"],
        metrics=not options["no-metrics"],
        console=not options["no-console"],
        openapi=not options["no-openapi"],
        bayeux=options.bayeux,
        **hooks,
    )
    access_log = options.access_log
    observers: list[Callable[[Request], None]] = []
    if not options["no-metrics"]:
        observers.append(comet.metrics.count_request)
    if access_log is not None:
        observers.append(access_log.add)
    factory = HTTPFactory(
        comet.routes.app,
        clock=reactor,
        malformed=comet.routes.malformed,
        bounds=Bounds(
            body=options["max-body"], idle_seconds=ceil(options["keep-alive"]), refused=room.refused
        ),
        prefix=options["mount"].encode(),
        proxies=comet.proxies or None,
        most=room.connections,
        admit=partial(_admit, comet.clients),
        on_answer=_telling(observers),
    )
    if not options["no-metrics"]:
        comet.metrics.connections = lambda: len(factory.connections)
    daemon = twistd is not None and not twistd.get("nodaemon", True)
    return CometService(
        comet,
        factory,
        options["listen"],
        options["drain"],
        alone=twistd is not None,
        daemon=daemon,
        reuse_port=options["reuse-port"],
        access_log=access_log,
        pulse=None if options["no-metrics"] else Pulse(comet.metrics, reactor),
    )


def _telling(observers: list[Callable[[Request], None]]) -> Callable[[Request], None] | None:
    """Return one function that tells all observers of a request; None where there are none."""
    if len(observers) < 2:
        return observers[0] if observers else None

    def tell(request: Request) -> None:
        for observer in observers:
            observer(request)

    return tell


class Room(NamedTuple):
    """The connections that are served at once, and those besides that may read why they are not."""

    connections: int
    refused: int


def connections_within_files(wanted: int, *, settle: bool) -> Room:
    """Return how many connections there may be, so that files are left for all else; ``wanted`` at the most.

    ``settle``: raise the process's own limit where it is in the way, as far as the system lets it.
    """
    refused = Bounds().refused
    if resource is None:
        return Room(wanted, refused)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return Room(wanted, refused)
    needed = wanted + refused + FILES_RESERVED
    if settle and files < needed:
        files = needed if most == resource.RLIM_INFINITY else min(needed, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    refused = min(refused, files // 8)
    return Room(min(wanted, files - refused - min(FILES_RESERVED, files // 4)), refused)


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


def _is_local(endpoint: str) -> bool:
    """Whether only this machine can connect to an endpoint."""
    kind, _, rest = endpoint.partition(":")
    if kind in {"unix", "systemd", "fd"}:
        return kind == "unix"
    for part in rest.replace("\\:", "%3A").split(":"):
        name, equals, value = part.partition("=")
        if name == "interface" and equals:
            return is_loopback(value.replace("%3A", ":").strip("[]"))
    return False
