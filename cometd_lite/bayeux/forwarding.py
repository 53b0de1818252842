"""Bayeux sessions of other processes: their requests arrive here, and are answered where the session lives.

A session is known by one process, that which greeted it; its name stands in the client's id. So clients may
send each request to whichever process they like: one that is another's is handed on, as it came, and held
there. Where that process is no more, neither is the session, and the client is advised to shake hands again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..core.store import RPC, ProcessGone, RPCAnswer
from ..deferreds import MaybeDeferred
from ..http.exchange import Exchange
from ..http.responses import Response
from ..jsontext import dumps, parse
from .delivery import EventsResponse

_CLIENT = re.compile(rb'"clientId"\s*:\s*"([0-9a-f]{16})[0-9a-f]{40}"')

_FIELDS = (
    b"authorization",
    b"content-type",
    b"cookie",
    b"host",
    b"origin",
    b"referer",
    b"sec-fetch-site",
    b"user-agent",
    b"x-requested-with",
)
"""The header fields that a session, a token or an embedding program may ask for."""


class ForwardedRequest:
    """A request that another process received, as far as its session needs it. It is its own head."""

    def __init__(self, question: bytes) -> None:
        asked = parse(question)
        self.method: bytes = asked["method"].encode()
        self.path: bytes = asked.get("path", "/cometd").encode("latin-1")  # older processes leave it out
        self.query: bytes = asked["query"].encode("latin-1")
        self.body: bytes = asked["body"].encode("latin-1")
        self.is_secure: bool = asked["secure"]
        self.client: str | None = asked["client"]
        self.has_left = False
        self._fields = {
            name.encode("latin-1"): value.encode("latin-1") for name, value in asked["fields"].items()
        }

    @property
    def head(self) -> ForwardedRequest:
        return self

    @property
    def request(self) -> ForwardedRequest:
        """What an embedding program sees."""
        return self

    def get(self, name: bytes) -> bytes | None:
        return self._fields.get(name)

    getHeader = get  # noqa: N815  twisted.web's name, for an embedding program

    def is_disconnected(self) -> bool:
        return self.has_left

    was_disconnected = is_disconnected

    def is_sending(self) -> bool:
        """Return False: the other process does not report it."""
        return False


class Forwarding:
    """Forwards requests to the processes that know their sessions, and answers those that come from them.

    ``answer`` answers a request whose session is known here.
    """

    def __init__(
        self, process: str, calls: RPC, answer: Callable[[ForwardedRequest], Coroutine[Any, Any, Response]]
    ) -> None:
        self.prefix = process
        """What the ids of this process' sessions begin with."""
        self._process = process.encode()
        self._calls = calls
        self._answer = answer
        calls.answerer = self._answered

    def forward(
        self, exchange: Exchange, body: bytes, here: Callable[[], MaybeDeferred[Response]]
    ) -> MaybeDeferred[Response]:
        """Return the answer to a request, from ``here`` unless its session is another process'."""
        found = _CLIENT.search(body) or (not body and _CLIENT.search(unquote_to_bytes(exchange.query)))
        if not found or found[1] == self._process:
            return here()
        question = _question(exchange, body)
        answer = self._calls.ask(found[1].decode(), question, exchange.was_disconnected)

        def failed(failure: Failure) -> MaybeDeferred[Response]:
            failure.trap(ProcessGone)
            return here()  # where the session is not known either, and the answer says so

        return answer.addCallbacks(_unpacked, failed)

    def forward_text(
        self, exchange: Exchange, text: str, is_disconnected: Callable[[], bool]
    ) -> Deferred[Response] | None:
        """Return the answer to a text of the socket that ``exchange`` has opened; None to answer it here.

        It is forwarded as a request of the long-polling transport. Fails as ``RPC.ask`` does.
        """
        body = text.encode()
        found = _CLIENT.search(body)
        if not found or found[1] == self._process:
            return None
        question = _question(exchange, body, is_text=True)
        return self._calls.ask(found[1].decode(), question, is_disconnected).addCallback(_unpacked)

    def _answered(self, question: bytes) -> Deferred[RPCAnswer]:
        request = ForwardedRequest(question)
        answering = Deferred.fromCoroutine(self._answer(request))

        def leave(_: Deferred[RPCAnswer]) -> None:
            request.has_left = True
            answering.cancel()

        forwarded: Deferred[RPCAnswer] = Deferred(leave)
        answering.addCallback(_packed).addBoth(forwarded.callback)  # a Failure makes it an errback
        return forwarded


def _question(exchange: Exchange, body: bytes, *, is_text: bool = False) -> bytes:
    """Return a request as another process takes it; a text of a socket is a POST of JSON."""
    fields = {name: value for name in _FIELDS if (value := exchange.head.get(name)) is not None}
    if is_text:
        fields[b"content-type"] = b"application/json"
    return dumps(
        {
            "method": "POST" if is_text else exchange.method.decode(),
            "path": exchange.path.decode("latin-1"),
            "query": exchange.query.decode("latin-1"),
            "body": body.decode("latin-1"),
            "fields": {name.decode(): value.decode("latin-1") for name, value in fields.items()},
            "secure": exchange.is_secure,
            "client": exchange.client,
        }
    )


def _packed(answer: Response) -> RPCAnswer:
    said = b"%d %d %b%b" % (answer.status, len(answer.head), answer.head, answer.body)
    return RPCAnswer(said, answer.undo if isinstance(answer, EventsResponse) else None)


def _unpacked(said: bytes) -> Response:
    status, length, rest = said.split(b" ", 2)
    size = int(length)
    return Response(int(status), rest[:size], rest[size:])
