"""Bayeux sessions of other processes: their requests arrive here, and are answered where the session lives.

A session is known by one process, that which greeted it; its name stands in the client's id. So clients may
send each request to whichever process they like: one that is another's is handed on, as it came, and held
there. Where that process is no more, neither is the session, and the client is told to shake hands again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from ..deferreds import MaybeDeferred, chain
from ..http.responses import Response
from ..jsontext import dumps, parse
from ..stores.redis.rpc import Calls, ProcessGone

_CLIENT = re.compile(rb'"clientId"\s*:\s*"([0-9a-f]{16})[0-9a-f]{40}"')


class Borrowed:
    """A request that another process received, as far as it matters to whoever answers it."""

    def __init__(self, question: bytes) -> None:
        asked = parse(question)
        self.method: bytes = asked["method"].encode()
        self.uri: bytes = asked["uri"].encode("latin-1")
        self.path = self.uri.partition(b"?")[0]
        self.body: bytes = asked["body"].encode("latin-1")
        self.left = False
        self.requestHeaders = Headers()  # twisted.web's name
        for name, value in asked["headers"]:
            self.requestHeaders.addRawHeader(name.encode("latin-1"), value.encode("latin-1"))
        self._secure: bool = asked["secure"]
        self._host: str | None = asked["client"]

    def getHeader(self, name: bytes) -> bytes | None:  # noqa: N802  twisted.web's name
        """Return a header's last value; names are lower case."""
        values = self.requestHeaders.getRawHeaders(name)
        return values[-1] if values else None

    def isSecure(self) -> bool:  # noqa: N802  twisted.web's name
        """Whether it came over TLS."""
        return self._secure

    def getClientAddress(self) -> Any:  # noqa: N802  twisted.web's name
        """Return the address of whoever sent it."""
        return None if self._host is None else IPv4Address("TCP", self._host, 0)

    def gone(self) -> bool:
        """Whether its client has left."""
        return self.left


class Elsewhere:
    """Hands requests on to the processes that know their sessions, and answers those that come from them.

    ``answer`` answers a request whose session is known here.
    """

    def __init__(
        self, process: str, calls: Calls, answer: Callable[[Borrowed], MaybeDeferred[Response]]
    ) -> None:
        self.prefix = process
        """What the ids of this process' sessions begin with."""
        self._process = process.encode()
        self._calls = calls
        self._answer = answer
        calls.answerer = self._answered

    def hand_on(
        self, request: Any, body: bytes, here: Callable[[], MaybeDeferred[Response]]
    ) -> MaybeDeferred[Response]:
        """Return the answer to a request, from ``here`` unless its session is another process'."""
        found = _CLIENT.search(body) or (not body and _CLIENT.search(unquote_to_bytes(request.uri)))
        if not found or found[1] == self._process:
            return here()
        answer = self._calls.ask(found[1].decode(), _question(request, body))

        def failed(failure: Failure) -> MaybeDeferred[Response]:
            failure.trap(ProcessGone)
            return here()  # where nobody knows the session either, and the client is told so

        return answer.addCallbacks(_unpacked, failed)

    def _answered(self, question: bytes) -> MaybeDeferred[bytes]:
        request = Borrowed(question)
        answer = chain(self._answer(request), _packed)
        if not isinstance(answer, Deferred):
            return answer

        def leave(_: Deferred[bytes]) -> None:
            request.left = True
            answer.cancel()

        handed: Deferred[bytes] = Deferred(leave)

        def hand(result: bytes | Failure) -> None:
            if not handed.called:
                handed.callback(result)  # a Failure makes it an errback

        answer.addBoth(hand)
        return handed


def _question(request: Any, body: bytes) -> bytes:
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, values in request.requestHeaders.getAllRawHeaders()
        for value in values
    ]
    return dumps(
        {
            "method": request.method.decode(),
            "uri": request.uri.decode("latin-1"),
            "body": body.decode("latin-1"),
            "headers": headers,
            "secure": request.isSecure(),
            "client": getattr(request.getClientAddress(), "host", None),
        }
    )


def _packed(answer: Response) -> bytes:
    return b"%d %d %b%b" % (answer.status, len(answer.head), answer.head, answer.body)


def _unpacked(said: bytes) -> Response:
    status, length, rest = said.split(b" ", 2)
    size = int(length)
    return Response(int(status), rest[:size], rest[size:])
