"""twisted.web's way to ask and answer, for Klein's plain handlers and for an ``IResource`` of a route's.

Of ``IRequest`` there is everything but sessions and URL rewriting (``getSession``, ``URLPath``,
``prePathURL``, ``rememberRootURL``, ``getRootURL``): nothing here needs them, and who does mounts the app's
``resource()`` in a twisted.web site. What is kept for this way is made when it is first asked for, so that a
request that waits is small.
"""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn
from urllib.parse import unquote_to_bytes

from klein.interfaces import IKleinRequest
from twisted.internet.address import IPv4Address
from twisted.python.components import getAdapterFactory
from twisted.web import http
from twisted.web.error import UnsupportedMethod
from twisted.web.http_headers import Headers
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Request as WebRequest

from .proxies import Origin, ip_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from .connection import HTTPConnection
    from .head import Head
    from .router import Route, Target

BODYLESS: Final = frozenset({204, 304})
"""Statuses whose answer ends with its head (RFC 9110 §6.4.1)."""


class Extra:
    """What the long way keeps of one request."""

    __slots__ = (
        "args",
        "content",
        "cookies",
        "etag",
        "forced",
        "klein",
        "last_modified",
        "length",
        "notified",
        "postpath",
        "prepath",
        "received",
        "sent",
    )

    def __init__(self) -> None:
        self.args: dict[bytes, list[bytes]] | None = None
        self.content: BinaryIO | None = None
        self.cookies: list[bytes] = []
        self.etag: bytes | None = None
        self.forced: tuple[Any, bool] | None = None
        self.klein: Any = None
        self.last_modified: int | None = None
        self.length: int | None = None
        self.notified: list[Deferred[None]] = []
        self.prepath: list[bytes] = []
        self.postpath: list[bytes] = []
        self.received: Headers | None = None
        self.sent: Headers | None = None


class LongWay:
    """The part of ``Request`` that bears twisted.web's names."""

    __slots__ = (
        "body",
        "channel",
        "code",
        "extra",
        "head",
        "method",
        "minor",
        "path",
        "query",
        "received_at",
        "route",
        "sent",
        "target",
        "uri",
    )

    body: bytes
    channel: HTTPConnection
    code: int
    extra: Extra | None
    head: Head
    method: bytes
    minor: int
    """0 or 1, of HTTP/1.0 or 1.1."""
    path: bytes
    """The target without its query, still percent-encoded."""
    query: bytes
    """What follows the target's question mark, still percent-encoded; empty where there is none."""
    received_at: float
    route: Route | None
    sent: int
    target: Target | None
    """What its line was recognised as, if it was, until it is held; see ``Target.meaning``."""
    uri: bytes

    if TYPE_CHECKING:
        give: Callable[[bytes], None]
        close_after: Callable[[], None]

    def more(self) -> Extra:
        """Return what the long way keeps, and split the path for it."""
        if self.extra is None:
            self.extra = Extra()
            parts = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
            taken = self.channel.factory.routes.prefix.count(b"/")
            taken += 0 if self.route is None else self.route.segments
            self.extra.prepath, self.extra.postpath = parts[:taken], parts[taken:]
        return self.extra

    # -- what came

    @property
    def clientproto(self) -> bytes:
        """The peer's version, as ``b"HTTP/1.1"``."""
        return b"HTTP/1.1" if self.minor else b"HTTP/1.0"

    @property
    def args(self) -> dict[bytes, list[bytes]]:
        """The query's parameters, decoded, empty ones included. A form in the body is not among them."""
        more = self.more()
        if more.args is None:
            more.args = parse_query(self.query)
        return more.args

    @property
    def content(self) -> BinaryIO:
        """The body as a file."""
        more = self.more()
        if more.content is None:
            more.content = BytesIO(self.body)
        return more.content

    def getAllHeaders(self) -> dict[bytes, bytes]:  # noqa: N802  IRequest's name
        """Return each field's last value; names are in lower case."""
        return dict(self.head.fields())

    @property
    def requestHeaders(self) -> Headers:  # noqa: N802  IRequest's name
        """All fields as Twisted's ``Headers``."""
        more = self.more()
        if more.received is None:
            more.received = Headers()
            for name, value in self.head.fields():
                more.received.addRawHeader(name, value)
        return more.received

    def getCookie(self, key: bytes) -> bytes | None:  # noqa: N802  IRequest's name
        """Return the value of a cookie that came, or None (RFC 6265 §5.4)."""
        for name, value in self.head.fields():
            if name == b"cookie":
                for pair in value.split(b";"):
                    found, equals, cookie = pair.partition(b"=")
                    if equals and found.strip() == key:
                        return cookie.strip()
        return None

    def getUser(self) -> bytes:  # noqa: N802  IRequest's name
        """Return the user of basic authentication, or nothing."""
        return self._credentials()[0]

    def getPassword(self) -> bytes:  # noqa: N802  IRequest's name
        """Return the password of basic authentication, or nothing."""
        return self._credentials()[2]

    def _credentials(self) -> tuple[bytes, bytes, bytes]:
        scheme, _, encoded = (self.head.get(b"authorization") or b"").partition(b" ")
        if scheme.lower() == b"basic":
            try:
                return b64decode(encoded.strip(), validate=True).partition(b":")
            except ValueError:
                pass
        return b"", b"", b""

    # -- who sent it, and where to

    def origin(self) -> Origin:
        """Return whence the request comes: from its peer, or from whom a trusted proxy names."""
        proxies = self.channel.factory.proxies
        peer = self.channel.peer or None
        return Origin(peer, None) if proxies is None else proxies.origin(peer, self.head.get)

    @property
    def client(self) -> Any:
        """The client's address; see ``getClientAddress``."""
        return self.getClientAddress()

    def getClientAddress(self) -> Any:  # noqa: N802  IRequest's name
        """Return the peer's address, or that of whom a trusted proxy names."""
        address = self.origin().address
        if address is None or address == self.channel.peer:
            return self.channel.transport.getPeer()
        return ip_endpoint(address)

    def getClientIP(self) -> str | None:  # noqa: N802  IRequest's name
        """Return the client's IP address, or None where it has none."""
        return self.origin().address

    def getHost(self) -> Any:  # noqa: N802  IRequest's name
        """Return the address that the request came to, or what ``setHost`` set."""
        if self.extra is not None and self.extra.forced is not None:
            return self.extra.forced[0]
        return self.channel.transport.getHost()

    def setHost(self, host: bytes, port: int, ssl: bool = False) -> None:  # noqa: N802  IRequest's
        """Pretend that the request came to another address, for a proxy's sake."""
        self.more().forced = (IPv4Address("TCP", host.decode("ascii"), port), bool(ssl))

    def getRequestHostname(self) -> bytes:  # noqa: N802  IRequest's name
        """Return the name in Host, without its port; else the address that the request came to."""
        host = self.head.host
        if host:
            return host[: host.index(b"]") + 1] if host.startswith(b"[") else host.partition(b":")[0]
        return str(getattr(self.getHost(), "host", "localhost")).encode()

    def isSecure(self) -> bool:  # noqa: N802  IRequest's name
        """Whether the client used TLS."""
        if self.extra is not None and self.extra.forced is not None:
            return self.extra.forced[1]
        secure = self.origin().secure
        return self.channel.isSecure() if secure is None else secure

    @property
    def prepath(self) -> list[bytes]:
        """The decoded segments that led to this route."""
        return self.more().prepath

    @prepath.setter
    def prepath(self, segments: list[bytes]) -> None:
        self.more().prepath = segments

    @property
    def postpath(self) -> list[bytes]:
        """The decoded segments after those that led to this route."""
        return self.more().postpath

    @postpath.setter
    def postpath(self, segments: list[bytes]) -> None:
        self.more().postpath = segments

    def __conform__(self, interface: Any) -> Any:
        """Be adapted to what Klein wants of a request (its branches and ``url_for``)."""
        if interface is not IKleinRequest:
            return None
        more = self.more()
        if more.klein is None:
            more.klein = getAdapterFactory(WebRequest, IKleinRequest, None)(self)
            more.klein.mapper = self.channel.factory.routes.adapter(self)
        return more.klein

    # -- how it is answered

    @property
    def responseHeaders(self) -> Headers:  # noqa: N802  IRequest's name
        """The fields of the answer as Twisted's ``Headers``, until it has begun."""
        more = self.more()
        if more.sent is None:
            more.sent = Headers()
        return more.sent

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:  # noqa: ARG002, N802  IRequest's
        """Set the status. No other reason phrase is sent: nobody may rely on it (RFC 9112 §4)."""
        self.code = int(code)

    def setHeader(self, name: Any, value: Any) -> None:  # noqa: N802  IRequest's name
        """Set a field of the answer."""
        self.responseHeaders.setRawHeaders(name, [value])

    @property
    def cookies(self) -> list[bytes]:
        """The ``Set-Cookie`` values of the answer."""
        return self.more().cookies

    @property
    def etag(self) -> bytes | None:
        """What ``setETag`` set."""
        return self.more().etag

    @etag.setter
    def etag(self, value: bytes) -> None:
        self.more().etag = value

    @property
    def lastModified(self) -> int | None:  # noqa: N802  twisted.web's name
        """What ``setLastModified`` set, in seconds since the epoch."""
        return self.more().last_modified

    @lastModified.setter
    def lastModified(self, when: int) -> None:  # noqa: N802  twisted.web's name
        self.more().last_modified = when

    # twisted.web's own, which need nothing but the above.
    addCookie: Any = http.Request.addCookie  # noqa: N815
    redirect: Any = http.Request.redirect
    setETag: Any = http.Request.setETag  # noqa: N815
    setLastModified: Any = http.Request.setLastModified  # noqa: N815

    def fields(self) -> bytes:
        """Return what was set as a block of lines, without the fields that frame the message."""
        block = b""
        typed = self.code in BODYLESS
        more = self.extra
        if more is not None:
            if more.last_modified is not None:
                self.responseHeaders.setRawHeaders(
                    b"last-modified", [http.datetimeToString(more.last_modified)]
                )
            if more.etag is not None:
                self.responseHeaders.setRawHeaders(b"etag", [more.etag])
            for name, values in self.responseHeaders.getAllRawHeaders():
                lower = name.lower()
                if lower == b"connection":
                    if b"close" in b",".join(values).lower():
                        self.close_after()
                elif lower == b"content-length":
                    more.length = int(values[-1])
                elif lower not in {b"transfer-encoding", b"date"}:
                    typed = typed or lower == b"content-type"
                    block += b"".join([b"%b: %b\r\n" % (name, value) for value in values])
            block += b"".join([b"Set-Cookie: %b\r\n" % cookie for cookie in more.cookies])
        # What twisted.web says of an answer that does not say what it is.
        return block if typed else block + b"Content-Type: text/html\r\n"

    def render(self, resource: Any) -> None:
        """Let an ``IResource`` answer, as ``twisted.web.server.Request.render`` does."""
        try:
            body = resource.render(self)
        except UnsupportedMethod as error:
            known = self.method in {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"}
            self.setResponseCode(405 if known else 501)
            self.setHeader(b"Allow", b", ".join(sorted(error.allowedMethods)))
            body = b""
        if body is not NOT_DONE_YET:
            self.give(body)

    # -- what is not here

    def _absent(self, *_: object) -> NoReturn:
        """Raise ``NotImplementedError``."""
        raise NotImplementedError("Mount the app's resource() in a twisted.web site for this.")

    URLPath = prePathURL = rememberRootURL = getRootURL = getSession = _absent  # noqa: N815  IRequest's names


def parse_query(query: bytes) -> dict[bytes, list[bytes]]:
    """Return a query's parameters as ``twisted.web.http.parse_qs`` does with blank values kept."""
    found: dict[bytes, list[bytes]] = {}
    for pair in query.replace(b";", b"&").split(b"&") if query else ():
        name, equals, value = pair.partition(b"=")
        if equals:
            found.setdefault(_decode(name), []).append(_decode(value))
    return found


def _decode(part: bytes) -> bytes:
    part = part.replace(b"+", b" ")
    return unquote_to_bytes(part) if b"%" in part else part
