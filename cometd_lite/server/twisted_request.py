"""The read side of twisted.web's ``IRequest``, for the ``authorize`` of embedding programs.

What can be read is the same as from a request of a twisted.web site. Nothing can be written: the route
answers.
"""

from __future__ import annotations

from base64 import b64decode
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from twisted.web.http import parse_qs
from twisted.web.http_headers import Headers

from .proxies import ip_endpoint

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from .head import Head
    from .shared import ServedConnection


class _Exchange(Protocol):
    """What is used of a request."""

    method: bytes
    path: bytes
    query: bytes
    body: bytes
    head: Head

    @property
    def uri(self) -> bytes: ...
    @property
    def client(self) -> str | None: ...
    @property
    def is_secure(self) -> bool: ...
    def notifyFinish(self) -> Deferred[None]: ...  # noqa: N802  twisted.web's name


class TwistedWebRequest:
    """A request as ``IRequest`` shows it. Names are twisted.web's; see there."""

    def __init__(self, exchange: _Exchange, connection: ServedConnection) -> None:
        self._exchange = exchange
        self._connection = connection
        self.method = exchange.method
        self.uri = exchange.uri
        self.path = exchange.path

    @cached_property
    def args(self) -> dict[bytes, list[bytes]]:
        """The parameters of the query, decoded; not those of a form in the body."""
        args: dict[bytes, list[bytes]] = parse_qs(self._exchange.query, keep_blank_values=True)
        return args

    @cached_property
    def content(self) -> BinaryIO:
        """The body as a file."""
        return BytesIO(self._exchange.body)

    @cached_property
    def requestHeaders(self) -> Headers:  # noqa: N802  twisted.web's name
        """All header fields."""
        headers = Headers()
        for name, value in self._exchange.head.fields():
            headers.addRawHeader(name, value)
        return headers

    def getHeader(self, key: str | bytes) -> str | bytes | None:  # noqa: N802  twisted.web's name
        """Return the last value of a field or None; a str for a name that is a str."""
        values = self.requestHeaders.getRawHeaders(key)
        return None if values is None else values[-1]

    def getAllHeaders(self) -> dict[bytes, bytes]:  # noqa: N802  twisted.web's name
        """Return the last value of each field, by its name in lower case."""
        return dict(self._exchange.head.fields())

    def getCookie(self, key: bytes) -> bytes | None:  # noqa: N802  twisted.web's name
        """Return the value of a cookie or None (RFC 6265 §5.4)."""
        for pair in (self._exchange.head.get(b"cookie") or b"").split(b";"):
            name, equals, value = pair.partition(b"=")
            if equals and name.strip() == key:
                return value.strip()
        return None

    def getUser(self) -> bytes:  # noqa: N802  twisted.web's name
        """Return the user of basic authentication, empty without one."""
        return self._credentials[0]

    def getPassword(self) -> bytes:  # noqa: N802  twisted.web's name
        """Return the password of basic authentication, empty without one."""
        return self._credentials[2]

    @cached_property
    def _credentials(self) -> tuple[bytes, bytes, bytes]:
        scheme, _, encoded = (self._exchange.head.get(b"authorization") or b"").partition(b" ")
        if scheme.lower() == b"basic":
            try:
                return b64decode(encoded.strip(), validate=True).partition(b":")
            except ValueError:
                pass
        return b"", b"", b""

    def getClientAddress(self) -> Any:  # noqa: N802  twisted.web's name
        """Return the address of the client, or of the client that a trusted proxy names."""
        address = self._exchange.client
        if address is None or address == self._connection.peer:
            return self._connection.wire.getPeer()
        return ip_endpoint(address)

    def getHost(self) -> Any:  # noqa: N802  twisted.web's name
        """Return the address that the client connected to."""
        return self._connection.wire.getHost()

    def getRequestHostname(self) -> bytes:  # noqa: N802  twisted.web's name
        """Return the name in Host, without its port; else the address that the client connected to."""
        host = self._exchange.head.host
        if host:
            return host[: host.index(b"]") + 1] if host.startswith(b"[") else host.partition(b":")[0]
        return str(getattr(self.getHost(), "host", "localhost")).encode()

    def isSecure(self) -> bool:  # noqa: N802  twisted.web's name
        """Return whether the client uses TLS, to this server or to a trusted proxy."""
        return self._exchange.is_secure

    def notifyFinish(self) -> Deferred[None]:  # noqa: N802  twisted.web's name
        """Return a Deferred that fires when the response is sent, or fails when the client disconnects."""
        return self._exchange.notifyFinish()
