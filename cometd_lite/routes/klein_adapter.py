"""Temporary: the routes of ``app`` as an ``Application`` of ``server/``. Goes once routes see an ``Exchange``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ..errors import CometError, MethodNotAllowed, NotFound
from ..http import responses as answers
from ..server import Request
from .app import _NOTHING_HERE, Routes


class KleinRequest(Request):
    """A request with the names that the routes used before there was an ``Exchange``."""

    __slots__ = ()

    hold = Request.park
    gone = Request.is_disconnected
    seems_gone = Request.was_disconnected

    def getHeader(self, name: bytes) -> bytes | None:  # noqa: N802  twisted.web's name
        """Return the value of a field; its name is in lower case."""
        return self.head.get(name.lower())

    @property
    def transport(self) -> Any:
        """What can be aborted."""
        return self._connection.wire

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: ARG002, N802  twisted.web's
        """See ``register_producer``."""
        self.register_producer(producer)

    def unregisterProducer(self) -> None:  # noqa: N802  twisted.web's name
        """See ``unregister_producer``."""
        self.unregister_producer()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.request, name)


class KleinRoute(NamedTuple):
    """A ``Route`` of ``server/``."""

    rule: str
    methods: frozenset[str]
    call: Callable[..., object]
    max_body: int | None = None


class KleinApplication:
    """``Routes`` as an ``Application``."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self.malformed = routes.malformed
        app: Any = routes.app
        self.routes: Sequence[KleinRoute] = [
            KleinRoute(
                rule.rule,
                frozenset(rule.methods or ()),
                partial(self._call, app.endpoints[rule.endpoint].__original__),
            )
            for rule in app.url_map.iter_rules()
        ]

    def _call(self, handler: Callable[..., Any], request: Any, **names: str) -> None:
        request.__class__ = KleinRequest
        result = handler(self._routes, request, **names)
        if isinstance(result, Deferred):
            request.park(result)
            result.addErrback(partial(self._failed_later, request))

    def _failed_later(self, request: Any, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.failed(request, failure)

    def _answer(self, request: Any, answer: answers.Response | CometError) -> None:
        request.__class__ = KleinRequest
        try:
            self._routes.door.admit(request, False)
            if isinstance(answer, CometError):
                raise answer
        except CometError as error:
            answer = self._routes.problem(error)
        self._routes.send(answer, request)

    def preflight(self, request: Any, methods: tuple[str, ...]) -> None:
        """See ``Application``."""
        request.__class__ = KleinRequest
        allow = b"Allow: %b\r\n" % ", ".join(_with_options(methods)).encode() if methods else b""
        cors = answers.PREFLIGHT if self._routes.door.cors(request) else b""
        self._answer(request, answers.Response(204, answers.COMMON + allow + cors))

    def not_found(self, request: Any) -> None:
        """See ``Application``."""
        self._answer(request, NotFound(_NOTHING_HERE))

    def not_allowed(self, request: Any, methods: tuple[str, ...]) -> None:
        """See ``Application``."""
        allowed = _with_options(methods)
        self._answer(request, MethodNotAllowed(f"This path knows {', '.join(allowed)}.", allowed))

    def too_large(self, request: Any) -> None:
        """See ``Application``."""
        self._answer(request, self._routes.too_large())

    def failed(self, request: Any, failure: Failure) -> None:
        """See ``Application``."""
        self._routes.failed(failure, request)


def _with_options(methods: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*methods, "OPTIONS"}))
