"""A connection to Redis: commands leave, replies arrive in the same order, and what is published in between.

``hiredis`` packs and parses: Redis' own parser, maintained with it, which does no I/O. The clients made for
Twisted speak RESP2, in which a connection that subscribes can ask nothing. Under RESP3 one connection does
both, and its order is what the store stands on: who subscribes and then reads has missed nothing in between.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from zope.interface import implementer

from ...deferreds import ParkedDeferred
from ...errors import StoreDown
from ...limits import STORE_STALLED_SECONDS

_NOT_YET = object()
_IN_SCRIPT = re.compile(r"^ERR Error running script .*?: -([A-Z]+) ")
PREFIX = "cometd-lite:"


class CommandRefused(Exception):
    """Redis answered a command with an error."""

    @property
    def code(self) -> str:
        """The kind of error, as in ``OOM`` or ``NOSCRIPT``; before 7 a script's error holds another."""
        inner = _IN_SCRIPT.search(str(self))
        return inner[1] if inner else str(self).partition(" ")[0]


class RedisConnection(Protocol):
    """A connection: ``published`` is called with a channel and what was said, ``ended`` fires at its end."""

    transport: Any

    def __init__(self) -> None:
        self.published: Callable[[bytes, bytes], None] = lambda _channel, _said: None
        self.ended: Deferred[None] = Deferred()
        self._writer: TurnWriter
        self._reader = hiredis.Reader(notEnoughData=_NOT_YET)
        self._asked: deque[Deferred[Any]] = deque()
        self._ended = False

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        """Let small commands leave at once, and those that follow in one turn of the reactor together."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._writer = TurnWriter(self.transport)

    @property
    def waiting(self) -> int:
        """How many commands are not answered yet."""
        return len(self._asked)

    def ask(self, *words: Any, prelude: bytes = b"") -> Deferred[Any]:
        """Send a command; fires with its reply. Where it leaves at once, ``prelude`` goes in front.

        It is packed, and has no reply. Fails with ``CommandRefused``, or ``StoreDown`` where none comes.
        """
        asked: Deferred[Any] = ParkedDeferred()
        if self._ended:
            asked.errback(StoreDown())
            return asked
        command = hiredis.pack_command(words)
        is_alone = not self._asked
        self._asked.append(asked)
        self._writer.write(command, prelude, is_alone=is_alone)
        return asked

    def subscribe(self, verb: str, *channels: str) -> None:
        """``SUBSCRIBE`` or ``UNSUBSCRIBE``; Redis confirms it as what is published comes, by no reply."""
        if not self._ended:
            words: tuple[Any, ...] = (verb, *channels)
            self._writer.put(hiredis.pack_command(words))

    def end(self) -> None:
        """Let go of the connection at once."""
        if not self._ended:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Take in what came, and hand on what is complete."""
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _NOT_YET:
                self._take_in(reply)
        except hiredis.ProtocolError:
            self.end()

    def _take_in(self, reply: Any) -> None:
        if isinstance(reply, hiredis.PushNotification):
            if reply[0] == b"message":
                self.published(reply[1], reply[2])
        elif not self._asked:
            self.end()  # whatever this is, it does not speak the protocol
        elif isinstance(reply, hiredis.ReplyError):
            self._asked.popleft().errback(CommandRefused(str(reply)))
        else:
            self._asked.popleft().callback(reply)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002, N802  Twisted's
        """Fail every pending request: no answer comes."""
        self._ended = True
        asked, self._asked = self._asked, deque()
        for one in asked:
            one.errback(StoreDown())
        self.ended.callback(None)


class TurnWriter:
    """Sends at once, or at the end of a turn of the reactor, what Twisted's sockets send in the next.

    A command that comes alone leaves at once, which takes 50 µs off a push to another process. Where the last
    turn had several, those of a turn leave together: each ``send`` wakes Redis. A transport that is no plain
    socket is given everything at once.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._is_socket = isinstance(transport, Connection) and not transport.TLS
        self._unsent: list[bytes] = []
        self._commands = 0
        """How many commands were written since the last turn ended, or since one left at once."""
        self._is_busy = False
        """Whether there were several in the last turn."""
        self._has_left_some = False
        """Whether the socket did not take everything when it was last asked; the reactor writes the rest."""

    def write(self, command: bytes, prelude: bytes, *, is_alone: bool) -> None:
        """Send a command, in order, behind its prelude where it leaves at once.

        ``is_alone`` says that all commands before it are answered.
        """
        if is_alone and not self._is_busy:
            self._commands = 1
            self._unsent += (prelude, command)
            self._send()
        else:
            self._commands += 1
            self.put(command)

    def put(self, data: bytes) -> None:
        """Send bytes, in order, at the end of this turn, or with a command that leaves before."""
        self._unsent.append(data)
        if not self._is_socket:
            self._send()
        elif len(self._unsent) == 1:
            self._transport.reactor.callLater(0, self._end_turn)

    def _end_turn(self) -> None:
        self._is_busy, self._commands = self._commands > 1, 0
        if self._unsent:
            self._send()

    def _send(self) -> None:
        transport = self._transport
        data, self._unsent = b"".join(self._unsent), []
        if self._has_left_some:  # else the list, which has each client that reads slowly, need not be made
            self._has_left_some = transport in transport.reactor.getWriters()
        if self._is_socket and transport.connected and not self._has_left_some:
            # It has nothing else to send. To have it write would take two calls of epoll_ctl more.
            sent = transport.writeSomeData(data)
            data = data[sent:] if isinstance(sent, int) else b""  # an error is reported when it is read
            self._has_left_some = bool(data)
        transport.write(data)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Redis is, who we are there, and under what prefix its keys lie.

    ``hosts`` are several where Sentinels are asked for the one that ``service`` names; ``path`` is that of a
    unix socket.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    tls: bool = False
    ca: str = ""
    """A PEM file with the certificate of the only authority to be trusted; else the system's are."""
    username: str = ""
    password: str = ""
    database: int = 0
    prefix: str = PREFIX

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that a URL says. Raises ``ValueError`` with how it should be."""
        scheme, _, rest = text.partition(":")
        rest, _, query = rest.partition("?")
        words = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
        prefix, ca, database = words.pop("prefix", PREFIX), words.pop("ca", ""), words.pop("db", "0")
        if words or not prefix:
            raise ValueError("after ? only prefix, db and ca, as in ?prefix=chat:")
        if scheme == "unix":
            path = rest.removeprefix("//")
            if not path.startswith("/"):
                raise ValueError("the path of a socket, as in unix:/run/redis/redis.sock")
            return cls(path=unquote(path), database=_number(database), prefix=prefix)
        login, _, rest = rest.removeprefix("//").rpartition("@")
        username, _, password = login.partition(":")
        listed, *names = rest.rstrip("/").split("/")
        sentinels = scheme.endswith("+sentinel")
        if sentinels and not (names and names[0]):
            raise ValueError(
                "the service's name behind the Sentinels, as in redis+sentinel://one,two/mymaster"
            )
        service = unquote(names.pop(0)) if sentinels else ""
        if names:
            database = names.pop(0)
        if names:
            raise ValueError("nothing behind the database's number")
        port = 26379 if sentinels else 6379
        hosts = tuple([_host(host, port) for host in listed.split(",")])
        if not sentinels and len(hosts) > 1:
            raise ValueError("one host; for Sentinels say redis+sentinel://one,two/mymaster")
        return cls(
            hosts=hosts,
            service=service,
            tls=scheme.startswith("rediss"),
            ca=ca,
            username=unquote(username),
            password=unquote(password),
            database=_number(database),
            prefix=prefix,
        )

    def __str__(self) -> str:
        """Return what may be shown to people: everything but the password."""
        if self.path:
            return f"unix:{self.path}"
        kind = ("rediss" if self.tls else "redis") + ("+sentinel" if self.service else "")
        hosts = ",".join(f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in self.hosts)
        return "/".join([f"{kind}://{hosts}", *([self.service] if self.service else []), str(self.database)])

    def check(self) -> None:
        """Raise ``ValueError`` where the authority's file holds no certificate."""
        try:
            self._trust()
        except Exception:  # noqa: BLE001  the file may be missing, and pyOpenSSL raises what it likes
            raise ValueError("behind ca= a PEM file with a certificate") from None

    def _trust(self) -> Certificate | None:
        return Certificate.loadPEM(Path(self.ca).read_bytes()) if self.ca else None

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """Return where to connect."""
        if self.path:
            return UNIXClientEndpoint(reactor, self.path, timeout=STORE_STALLED_SECONDS)
        if self.service:
            return Sentinels(self, reactor)
        return self.at(reactor, *self.hosts[0])

    def at(self, reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
        """Return the endpoint of one of the hosts."""
        plain = HostnameEndpoint(reactor, host, port, timeout=STORE_STALLED_SECONDS)
        if not self.tls:
            return plain
        return wrapClientTLS(optionsForClientTLS(host, trustRoot=self._trust()), plain)


@implementer(IStreamClientEndpoint)
class Sentinels:
    """The Redis that the Sentinels name as the master. They are asked anew for each connection.

    See "Guidelines for Redis clients with support for Redis Sentinel": the first answer of a
    Sentinel counts, and a new connection asks the server whether it is the master.
    """

    def __init__(self, address: Address, reactor: Any) -> None:
        self._address = address
        self._reactor = reactor

    def connect(self, factory: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        for host, port in self._address.hosts:
            found = await self._ask(host, port)
            if found is not None:
                name, at = found
                return await self._address.at(self._reactor, name.decode(), int(at)).connect(factory)
        raise ConnectError(string=f"no Sentinel knows {self._address.service}")

    async def _ask(self, host: str, port: int) -> Any:
        """Return the master's name and port; None where this Sentinel does not know."""
        try:
            endpoint = self._address.at(self._reactor, host, port)
            sentinel: Any = await endpoint.connect(Factory.forProtocol(RedisConnection))
        except Exception:  # noqa: BLE001  the next one is asked, whatever keeps this one from answering
            return None
        asked = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
        try:
            return await asked.addTimeout(STORE_STALLED_SECONDS, self._reactor)
        except Exception:  # noqa: BLE001  as above
            return None
        finally:
            sentinel.end()


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise ValueError("a database's number, as in redis://localhost/0")
    return int(text)


def _host(text: str, port: int) -> tuple[str, int]:
    name, colon, given = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, given = text, str(port)
    name = name.strip("[]")
    if not name or not given.isdecimal() or not 0 < int(given) < 65_536:
        raise ValueError("a host and perhaps a port, as in redis://localhost:6379")
    return name, int(given)
