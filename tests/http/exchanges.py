"""A server in memory and a tiny HTTP client, one for each way in which the routes are served.

``send(method, target, headers, body)`` gives an ``Exchange``: its ``answer`` is None while the request is
parked. ``flush`` moves what the server wrote since; ``hang_up`` loses the connection from the client's side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import msgspec
from hyperlink import EncodedURL
from tls import Tunnel
from treq.testing import StubTreq
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web import http_headers
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.resource import IResource

from cometd_lite.comet import Comet
from cometd_lite.server import Bounds, HTTPFactory

STARTED = 1_795_169_758.123
"""2026-11-20T10:15:58.123Z, when every test begins."""

Fields = list[tuple[str, str]]
Headers = dict[str, str] | Fields
HOST = "localhost:8080"


@dataclass(frozen=True)
class Answer:
    """A whole response. ``headers`` have lower-case names; what came twice is there joined by a comma."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] in {"application/json", "application/problem+json"}
        return msgspec.json.decode(self.body)


class Exchange(Protocol):
    """One request and, once it is there, its answer."""

    answer: Answer | None

    def hang_up(self) -> None:
        """Lose the connection, as a client that leaves."""


class Driver(Protocol):
    """One way to reach the routes."""

    def send(self, method: str, target: str, headers: Fields, body: bytes) -> Exchange:
        """Send a request whose target is already percent-encoded."""

    def flush(self) -> None:
        """Bring answers that were written since to their exchanges."""

    def stopping(self) -> None:
        """Tell the server below the routes that it is stopping."""


def merged(fields: Fields) -> dict[str, str]:
    """Return header fields by their names in lower case."""
    headers: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
    return headers


# -- the resource in a twisted.web site, by treq


@dataclass
class _TreqExchange:
    response: Deferred[Any]
    flush: Callable[[], None]
    answer: Answer | None = None

    def hang_up(self) -> None:
        self.response.cancel()
        self.flush()


class TreqDriver:
    """Drives a resource in a twisted.web site as treq's own tests do."""

    def __init__(self, resource: IResource) -> None:
        self.treq = StubTreq(resource)

    def send(self, method: str, target: str, headers: Fields, body: bytes) -> Exchange:
        fields = http_headers.Headers()
        for name, value in headers:
            fields.addRawHeader(name.encode(), value.encode("latin-1", "surrogateescape"))
        url = EncodedURL.from_text(f"http://{HOST}{target}")
        exchange = _TreqExchange(
            self.treq.request(
                method, url, headers=fields, data=body or None, allow_redirects=False, _stacklevel=1
            ),
            self.flush,
        )

        def read(response: Any) -> None:
            fields = [
                (name.decode(), value.decode("latin-1"))
                for name, values in response.headers.getAllRawHeaders()
                for value in values
            ]

            def there(content: bytes) -> None:
                exchange.answer = Answer(response.code, merged(fields), content)

            self.treq.content(response).addCallback(there)

        exchange.response.addCallback(read)
        exchange.response.addErrback(
            lambda failure: failure.trap(CancelledError, ResponseFailed, ResponseNeverReceived) and None
        )
        self.flush()
        return exchange

    def flush(self) -> None:
        self.treq.flush()

    def stopping(self) -> None:
        pass


# -- bytes into a protocol, for the project's own server


@dataclass
class WireExchange:
    """A connection that carries one request; what the server wrote is parsed strictly."""

    protocol: Any
    transport: Any
    method: str
    answer: Answer | None = None
    lost: bool = False
    continues: int = field(default=0)

    def write(self, data: bytes) -> None:
        """Send further bytes on this connection."""
        self.protocol.dataReceived(data)
        self.read()

    def read(self) -> None:
        """Look whether the whole answer is there."""
        if self.answer is not None or self.lost:
            return
        written = self.transport.value()
        while written.startswith(b"HTTP/1.1 100 "):
            self.continues += 1
            written = written.partition(b"\r\n\r\n")[2]
            self.transport.clear()
            self.transport.write(written)
        head, end, body = written.partition(b"\r\n\r\n")
        if not end:
            return
        line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        headers = merged(fields)
        bodiless = self.method == "HEAD" or int(status) in {204, 304}
        length = 0 if bodiless else int(headers["content-length"])
        assert len(body) <= length, "more was written than the answer has"
        if len(body) == length:
            self.answer = Answer(int(status), headers, body)

    def hang_up(self) -> None:
        self.lost = True
        self.protocol.connectionLost(Failure(ConnectionLost()))


class WireDriver:
    """Drives a protocol factory by bytes, one connection for each request."""

    def __init__(self, factory: Any) -> None:
        self.factory = factory
        self.exchanges: list[WireExchange] = []

    def send(self, method: str, target: str, headers: Fields, body: bytes) -> WireExchange:
        names = {name.lower() for name, _ in headers}
        fields = [*headers] if "host" in names else [("Host", HOST), *headers]
        if (body or method == "POST") and names.isdisjoint({"content-length", "transfer-encoding"}):
            fields.append(("Content-Length", str(len(body))))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        exchange = self.connect(method)
        exchange.write("\r\n".join(lines).encode("latin-1", "surrogateescape") + body)
        self.flush()
        return exchange

    def connect(self, method: str = "GET") -> WireExchange:
        """Open a connection on which nothing was sent yet."""
        client, server = IPv4Address("TCP", "127.0.0.1", 31337), IPv4Address("TCP", "127.0.0.1", 8080)
        exchange = WireExchange(*self.ends(client, server), method)
        self.exchanges.append(exchange)
        return exchange

    def ends(self, client: IPv4Address, server: IPv4Address) -> tuple[Any, Any]:
        """Return what a client writes to, and what it reads."""
        protocol = self.factory.buildProtocol(client)
        transport = StringTransport(server, client)
        protocol.makeConnection(transport)
        return protocol, transport

    def flush(self) -> None:
        for exchange in self.exchanges:
            exchange.read()
        self.exchanges = [exchange for exchange in self.exchanges if exchange.answer is None]

    def stopping(self) -> None:
        self.factory.stopping = True


class TLSDriver(WireDriver):
    """The same through TLS."""

    def ends(self, client: IPv4Address, server: IPv4Address) -> tuple[Any, Any]:
        tunnel = Tunnel(self.factory, client, server)
        return tunnel, tunnel


# -- a server, and whatever talks to it


def by_twisted_web(comet: Comet) -> TreqDriver:
    return TreqDriver(comet.resource())


def by_serving(comet: Comet, driver: type[WireDriver] = WireDriver, prefix: bytes = b"") -> WireDriver:
    bounds = Bounds(body=comet.limits.max_body)
    factory = HTTPFactory(
        comet.routes,
        clock=Clock(),
        bounds=bounds,
        prefix=prefix,
        on_answer=comet.metrics.count_request,
        proxies=comet.proxies or None,
    )
    return driver(factory)


DRIVERS: dict[str, Callable[[Comet], Driver]] = {"twisted.web": by_twisted_web, "serving": by_serving}
TLS: dict[str, Callable[[Comet], Driver]] = {"serving over TLS": partial(by_serving, driver=TLSDriver)}


class Server:
    """A comet on a clock that stands still, and the client that talks to it."""

    def __init__(self, comet: Comet, clock: Clock, driver: Driver) -> None:
        self.comet = comet
        self.clock = clock
        self.driver = driver

    def send(
        self, method: str, target: str, body: bytes | str = b"", headers: Headers | None = None
    ) -> Exchange:
        fields = list(headers.items()) if isinstance(headers, dict) else headers or []
        return self.driver.send(method, target, fields, body.encode() if isinstance(body, str) else body)

    def ask(
        self, method: str, target: str, body: bytes | str = b"", headers: Headers | None = None
    ) -> Answer:
        """Send a request that is answered at once."""
        answer = self.send(method, target, body, headers).answer
        assert answer is not None, "the request is parked"
        return answer

    def get(self, target: str, headers: Headers | None = None) -> Answer:
        return self.ask("GET", target, b"", headers)

    def push(self, target: str, body: bytes | str = "hello", headers: Headers | None = None) -> Answer:
        """Push below ``/push``, where there is room and someone to push to."""
        answer = self.ask("POST", f"/push{target}", body, headers)
        assert answer.status in {201, 202}, answer
        return answer

    def park(self, target: str, headers: Headers | None = None) -> Exchange:
        """Send a poll that finds nothing."""
        exchange = self.send("GET", target, b"", headers)
        assert exchange.answer is None, exchange.answer
        return exchange

    def read(self, target: str, headers: Headers | None = None) -> list[Any]:
        """Return the data of the messages that a poll is answered with at once."""
        return [message["data"] for message in self.get(target, headers).json["messages"]]

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.driver.flush()

    def stop(self) -> None:
        self.driver.stopping()
        self.comet.stop()
        self.driver.flush()

    @property
    def parked(self) -> int:
        return self.comet.hub.registry.parked
