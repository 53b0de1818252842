"""Requests to a server by treq, and their answers, or errors of the server's own tree.

Every answer has a bound on its time and its size. A network's error is ``NoAnswer``, a refusal is the error
that the server raised, and the answer of any other program is ``NotComet``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.web.http import stringToDatetime
from twisted.web.http_headers import Headers

from .. import __version__
from ..deferreds import Reply, is_in_another_thread, running_loop
from ..errors import BadRequest, CometError, InternalError, MethodNotAllowed, TooManyRequests, Unavailable
from ..jsontext import parse
from ..outgoing.http import NETWORK_ERRORS, BoundedBody, ReplyTooLarge, sentence_of, timed_out
from .network import Network, Treq, reactor_network
from .on_asyncio import asyncio_network
from .replies import CancellableCall

T = TypeVar("T")
Token = str | Callable[[], "str | Deferred[str]"]
Query = Sequence[tuple[str, str]]
OnRetry = Callable[[CometError, float], object]
"""Called with the error, and the seconds until the next attempt."""

# Bounds, each with its reason; seconds and bytes.

ANSWER_SECONDS = 20.0
"""The longest time of an answer that is not held, also over a slow line."""

RETRY_SECONDS = 0.05
"""A request that got no answer is sent again within this time; after that it pauses, longer each time."""

PAUSE_FIRST = 0.5
PAUSE_MOST = 30.0
"""The first pause after a failure, and the longest. Each is twice the one before, with jitter."""

RETRY_AFTER_MOST = 300.0
"""The longest pause that a server's Retry-After causes: a proxy's may be meant for readers of a page."""

ANSWER_BYTES = 16 * 1024 * 1024
"""An answer, or a line of a stream, of a cometd-lite is never longer than this."""


class NoAnswer(CometError, status=0, title="No answer"):
    """No whole answer came; whether the request has arrived is not known."""


class NotComet(CometError, status=0, title="Not a cometd-lite", kind="not-comet"):
    """The program that answers at the URL is not a cometd-lite."""


def is_passing(error: CometError) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(error, (NoAnswer, TooManyRequests, Unavailable, InternalError))


def no_answer(url: str, error: BaseException | None) -> NoAnswer:
    """Return a network's error as one sentence, with the URL."""
    return NoAnswer(sentence_of(url, error))


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of the server."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """Return a header's last value, None where there is none."""
        values = self.headers.getRawHeaders(name)
        return values[-1] if values else None

    def json(self) -> Any:
        """Return the parsed body. Raises ``ValueError`` where it is no JSON."""
        return parse(self.body)


def _classes(root: type[CometError]) -> Iterable[type[CometError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _classes(kind)


# A subclass without a kind of its own is known to the server only, apart from the answer to any failure.
_BY_KIND = {kind.kind: kind for kind in _classes(CometError) if "kind" in vars(kind) or kind is InternalError}
_BY_STATUS = {kind.status: kind for kind in reversed(list(_classes(CometError)))}
"""The tree's uppermost class for each status."""

_LOST_BEHIND_A_PROXY = frozenset({408, 425, 502, 504})


def refusal(answer: Answer) -> CometError:
    """Return the error in an answer of 400 or more (RFC 9457), of the class that the server raised.

    Where a proxy answered in the place of the server, the class goes by the status.
    """
    try:
        problem = answer.json()
        kind = str(problem["type"]).rpartition(":")[2]
        detail = str(problem["detail"])
    except (ValueError, TypeError, KeyError):
        kind, detail = "", f"The server, or something before it, answered {answer.status}."
    found = _BY_KIND.get(kind) or _BY_STATUS.get(answer.status)
    if found is None:
        found = InternalError if answer.status >= 500 else BadRequest
        if answer.status in _LOST_BEHIND_A_PROXY:
            found = Unavailable
    if issubclass(found, MethodNotAllowed):
        return found(detail, tuple((answer.header("allow") or "").replace(" ", "").split(",")))
    error = found(detail)
    error.retry_after = _retry_after(answer)
    return error


def _retry_after(answer: Answer) -> int | None:
    """Return the seconds in Retry-After; a date there is compared with the answer's own."""
    text = answer.header("retry-after") or ""
    if text.isdecimal():
        return int(text)
    try:
        then, now = (stringToDatetime(date.encode()) for date in (text, answer.header("date") or ""))
    except (ValueError, IndexError):
        return None
    return max(0, int(then - now))


class Remote:
    """The server at ``url``. ``treq`` and ``clock`` are real ones unless given. Raises ``ValueError``.

    It has a network on the reactor, and one on each asyncio loop that it is used on. None is made before it
    is needed, so that a client may be made before there is a reactor or a loop.
    """

    def __init__(
        self, url: str, token: Token | None, treq: Treq | None, clock: IReactorTime | None, random: Random
    ) -> None:
        self.url = server_url(url)
        self.random = random
        self._token = token
        self._given_treq = treq
        self._given_clock = clock
        self._networks: dict[asyncio.AbstractEventLoop | None, Network] = {}

    @property
    def clock(self) -> IReactorTime:
        """The clock of time-outs and pauses."""
        return self._given_clock or self._network().clock

    async def ask(
        self,
        method: str,
        path: str,
        query: Query = (),
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        patience: float = ANSWER_SECONDS,
        answers: Container[int] = (),
    ) -> Answer:
        """Return the answer to one request; it must be there within ``patience`` seconds.

        Raises the error with which the server refuses it, ``NoAnswer``, or ``NotComet``. A status that is
        among ``answers`` is no refusal.
        """

        async def ask_once() -> Answer:
            return await self.whole(await self.respond(method, path, query, headers or {}, body))

        answer = await self.within(patience, ask_once)
        if answer.status == 401 and callable(self._token):
            answer = await self.within(patience, ask_once)
        if answer.status >= 400 and answer.status not in answers:
            raise refusal(answer)
        if 400 > answer.status >= 300 and answer.status != 304:
            place = answer.header("location") or "somewhere else"
            raise NotComet(f"{self.url} is not a cometd-lite: it leads to {place}.")
        return answer

    def insist(
        self,
        ask: Callable[[], Coroutine[Deferred[Any], Any, T]],
        patience: float,
        on_retry: OnRetry | None = None,
    ) -> Reply[T]:
        """Return the answer to a request that is sent again for ``patience`` seconds, while that may help."""

        async def insist(call: CancellableCall[T]) -> T:
            deadline = self.clock.seconds() + patience
            failures = 0
            while True:
                try:
                    return await ask()
                except CometError as error:
                    call.check_cancelled()
                    failures += 1
                    delay = self.delay(error, failures)
                    if failures == 1 and error.retry_after is None:
                        # The server may close a kept connection just as it is used, and yet be there.
                        delay = self.random.uniform(0.0, RETRY_SECONDS)
                    if not is_passing(error) or self.clock.seconds() + delay > deadline:
                        raise
                    if on_retry is not None:
                        on_retry(error, delay)
                        call.check_cancelled()
                await self.pause(delay)

        return CancellableCall(insist).reply

    async def within(self, patience: float, function: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Return what a coroutine function returns within so many seconds.

        Raises ``NoAnswer`` for the network's errors, and other errors of the function as they are.
        """
        result = Deferred.fromCoroutine(function())
        result.addTimeout(patience, self.clock, timed_out)
        try:
            return await result
        except NETWORK_ERRORS as error:
            raise no_answer(self.url, error) from error

    async def respond(
        self, method: str, path: str, query: Query, headers: dict[str, str], body: bytes | None = None
    ) -> Any:
        """Return treq's response, whose body is still to be read. Raises treq's errors."""
        sent = {"User-Agent": f"cometd-lite/{__version__}", "Accept": "application/json", **headers}
        token = self._token() if callable(self._token) else self._token
        if token is not None:
            sent["Authorization"] = f"Bearer {await token if isinstance(token, Deferred) else token}"
        url = f"{self.url}/{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        treq = self._given_treq or self._network()
        # Redirects are not followed: they would take a token, or a push, to another server.
        keywords: dict[str, Any] = {"headers": sent, "allow_redirects": False, "unbuffered": True}
        return await treq.request(method, url, **keywords, **({} if body is None else {"data": body}))

    async def whole(self, response: Any) -> Answer:
        """Return a response with its body. Raises ``NotComet`` where that is over the bound."""
        body = BoundedBody(ANSWER_BYTES)
        response.deliverBody(body)
        try:
            return Answer(response.code, response.headers, await body.whole)
        except ReplyTooLarge:
            raise NotComet(f"{self.url} gave an answer of more than {ANSWER_BYTES} bytes.") from None

    async def pause(self, seconds: float) -> None:
        await deferLater(self.clock, seconds)

    def delay(self, error: CometError, failures: int) -> float:
        """Return the seconds to pause after so many failures in a row, the last of which was ``error``.

        They double, with jitter, up to half a minute, and are never less than the server's Retry-After.
        """
        pause = min(PAUSE_MOST, PAUSE_FIRST * 2.0 ** min(failures - 1, 16)) * self.random.uniform(0.5, 1.0)
        asked = min(float(error.retry_after or 0), RETRY_AFTER_MOST)
        return max(pause, asked * self.random.uniform(1.0, 1.1))

    async def close(self) -> None:
        """Close the idle connections of the network that is used here."""
        network = self._networks.pop(running_loop(), None)
        if network is not None:
            await network.close()

    def _network(self) -> Network:
        """Return the network for a request that is begun here.

        Raises ``RuntimeError`` in a thread that is neither that of the running reactor nor that of a loop:
        the reactor would not notice what is sent there.
        """
        loop = running_loop()
        if loop is None and is_in_another_thread():
            raise RuntimeError(
                "Client belongs to the thread of Twisted's reactor. In another thread use SyncClient, or "
                "twisted.internet.threads.blockingCallFromThread(reactor, client.push, 'bob', 'hi')."
            )
        network = self._networks.get(loop)
        if network is None:
            for closed in [known for known in self._networks if known is not None and known.is_closed()]:
                self._networks.pop(closed, None)  # another thread may have done so
            network = reactor_network() if loop is None else asyncio_network(loop)
            self._networks[loop] = network
        return network


def server_url(url: str) -> str:
    """Return the URL of a server without a slash at the end. Raises ``ValueError`` where it is none."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is no URL of a server, as in http://localhost:8080.")
    return url.rstrip("/")
