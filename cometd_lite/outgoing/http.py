"""Requests by treq: a body that is written at once, a reply that is bounded, and errors as sentences."""

from __future__ import annotations

import builtins
import socket
import ssl
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, TimeoutError, succeed  # noqa: A004  Twisted's name
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    ConnectionRefusedError,  # noqa: A004  Twisted's name
    DNSLookupError,
)
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.internet.interfaces import IConsumer, IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from .. import __version__
from ..limits import OUTGOING_CONNECTIONS_KEPT, OUTGOING_KEPT_SECONDS, REPLY_BYTES
from . import NoReply, PostReply

NETWORK_ERRORS = (
    ConnectError,
    ConnectionClosed,
    OSError,  # DNSLookupError is one
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    TimeoutError,
)
"""The failures of treq's Deferreds for which the network is to blame."""


_SENTENCES: tuple[tuple[type[BaseException], str], ...] = (
    (DNSLookupError, "No server answers at {url}: there is no such host."),
    (socket.gaierror, "No server answers at {url}: there is no such host."),
    (builtins.ConnectionRefusedError, "No server answers at {url}: the connection was refused."),
    (ssl.SSLError, "The certificate of {url} is not trusted here, or TLS failed: {error}."),
    (ConnectionRefusedError, "No server answers at {url}: the connection was refused."),
    (ConnectTimedOut, "No server answers at {url}: it did not accept a connection in time."),
    (ConnectError, "No server answers at {url}: {error}"),
    (ConnectionClosed, "The connection to {url} was lost before the answer was there."),
    (TLSError, "The certificate of {url} is not trusted here, or TLS failed: {error}."),
    (VerificationError, "The certificate of {url} is for another name."),
    (TimeoutError, "The server at {url} did not answer in time."),
    (builtins.TimeoutError, "No server answers at {url}: it did not accept a connection in time."),
    (OSError, "No server answers at {url}: {error.strerror}."),
    (BaseException, "The request to {url} failed: {error!r}."),
)


def sentence_of(url: str, error: BaseException | None) -> str:
    """Return a network's error as one sentence, with the URL."""
    while isinstance(reasons := getattr(error, "reasons", None), list) and reasons:
        error = reasons[0].value
    if type(error).__name__ == "ParseError":  # Twisted has it nowhere in public
        return f"What answers at {url} does not speak HTTP."
    sentences = (sentence for kind, sentence in _SENTENCES if isinstance(error, kind))
    return next(sentences, _SENTENCES[-1][1]).format(url=url, error=error)


class ReplyTooLarge(Exception):
    """A body is over its bound."""


@implementer(IBodyProducer)
class WholeBody:
    """A request's body that is written at once; treq's own would ask for a running reactor."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802  Twisted's name
        """Write the whole of it."""
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: all is written."""

    resumeProducing = stopProducing = pauseProducing  # noqa: N815  Twisted's names


class BoundedBody(TwistedProtocol):
    """Collects a response's body of at most ``most`` bytes; ``whole`` fires with it.

    It fails with ``ReplyTooLarge`` beyond. Cancelling it closes the connection.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._data = bytearray()
        self.whole: Deferred[bytes] = Deferred(lambda _: self._close())

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        if len(self._data) + len(data) > self._most:
            self._fire(Failure(ReplyTooLarge()))
            self._close()
        else:
            self._data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802  Twisted's name
        """Fire; an answer without a length ends with its connection."""
        self._fire(bytes(self._data) if reason.check(ResponseDone, PotentialDataLoss) else reason)

    def _fire(self, result: bytes | Failure) -> None:
        if not self.whole.called:
            self.whole.callback(result)

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


class _ClosingBody(TwistedProtocol):
    """Closes the connection of a response that is not read."""

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        if self.transport is not None:
            self.transport.loseConnection()


class _QuietPool(HTTPConnectionPool):
    """A pool that does not log the beginning and the end of each connection."""

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Deferred[Any]:  # noqa: N802
        return super().getConnection(key, _QuietEndpoint(endpoint))


@implementer(IStreamClientEndpoint)
class _QuietEndpoint:
    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: Any) -> Deferred[IProtocol]:  # noqa: N803  Twisted's name
        protocolFactory.noisy = False
        return self._endpoint.connect(protocolFactory)


class _Compressed(Exception):
    """A response has a Content-Encoding."""


@implementer(IAgent)
class _PlainAgent:
    """An agent below treq's own, which takes neither compressed responses nor cookies.

    treq would inflate 64 KiB to 64 MiB in one step, and would send a cookie that the application sets for one
    client with what is asked for another.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803  Twisted's name
    ) -> Deferred[IResponse]:
        """Send a request that takes no compressed response."""
        sent = Headers() if headers is None else headers.copy()
        sent.setRawHeaders(b"accept-encoding", [b"identity"])
        return self._agent.request(method, uri, sent, bodyProducer).addCallback(_plain)


def _plain(response: IResponse) -> IResponse:
    response.headers.removeHeader(b"set-cookie")
    if response.headers.hasHeader(b"content-encoding"):
        response.deliverBody(_ClosingBody())
        raise _Compressed
    return response


class HTTPPost:
    """Posts JSON to ``url``; a whole reply must be there within ``seconds``. It is a ``Posting``.

    Where a connection ends before anything of the reply has come, it is posted once more. Redirects are not
    followed: they would take what is posted to another server. Raises ``ValueError`` where
    the URL is none of HTTP.
    """

    def __init__(self, url: str, reactor: Any, seconds: float) -> None:
        self.url = checked_url(url)
        self._seconds = seconds
        self._clock = IReactorTime(reactor)
        self._pool = _QuietPool(reactor)  # type: ignore[no-untyped-call]  # Twisted's
        self._pool.maxPersistentPerHost = OUTGOING_CONNECTIONS_KEPT
        self._pool.cachedConnectionTimeout = OUTGOING_KEPT_SECONDS  # type: ignore[assignment]  # any number
        agent = Agent(reactor, connectTimeout=seconds, pool=self._pool)
        self._treq = HTTPClient(_PlainAgent(agent), data_to_body_producer=WholeBody)

    def __call__(self, body: bytes, headers: Mapping[str, str] | None = None) -> Deferred[PostReply]:
        reply = Deferred.fromCoroutine(self._post(body, headers or {}))
        reply.addTimeout(self._seconds, self._clock, timed_out)
        return reply.addErrback(self._failed)

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> PostReply:
        sent = {
            "User-Agent": f"cometd-lite/{__version__}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            **headers,
        }
        keywords: dict[str, Any] = {"headers": sent, "allow_redirects": False, "unbuffered": True}
        try:
            response = await self._treq.request("POST", self.url, data=body, **keywords)
        except ResponseNeverReceived as error:
            if not error.reasons[0].check(ConnectionClosed):
                raise
            # The application may have closed a connection in the moment in which it was used again.
            response = await self._treq.request("POST", self.url, data=body, **keywords)
        collected = BoundedBody(REPLY_BYTES)
        response.deliverBody(collected)
        whole = await collected.whole
        media_type: str = (response.headers.getRawHeaders("content-type") or [""])[-1]
        return PostReply(response.code, media_type.partition(";")[0].strip().lower(), whole)

    @property
    def shown(self) -> str:
        return self.url.partition("?")[0]

    def _failed(self, failure: Failure) -> Failure:
        if failure.check(ReplyTooLarge):
            raise NoReply(f"The answer of {self.shown} has more than {REPLY_BYTES} bytes.") from None
        if failure.check(_Compressed):
            raise NoReply(f"The answer of {self.shown} is compressed, which was not asked for.") from None
        if failure.check(*NETWORK_ERRORS):
            raise NoReply(sentence_of(self.shown, failure.value)) from None
        return failure

    def close(self) -> Deferred[None]:
        closed: Deferred[None] = self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]
        return closed


def checked_url(url: str) -> str:
    """Return a URL to which something may be posted. Raises ``ValueError`` with what is right."""
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_right = False
    if (
        not is_right
        or parts.username is not None
        or parts.fragment
        or not (url.isascii() and url.isprintable())
    ):
        raise ValueError(
            "the URL of an application without user and fragment, as in http://localhost:8000/path"
        )
    return url


def timed_out(_: object, seconds: float) -> NoReturn:
    """Fail whatever came of a Deferred whose time is over with ``TimeoutError``."""
    raise TimeoutError(seconds)
