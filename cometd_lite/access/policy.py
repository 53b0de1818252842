"""Who is let in, and to what: a request arrives, and what it may do leaves, or a refusal is raised.

Each request passes ``admit``, by its Host and Origin, and then ``allowed`` for what it wants to do with which
recipients: by its token, by the embedding program's word, and by what one client may have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, FirstError, gatherResults, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ..core.message import Push
from ..deferreds import MaybeDeferred
from ..errors import Forbidden, ForbiddenOrigin, Unauthorized
from ..http.params import fields, one, parse_query
from .origins import Hosts, Origins
from .quotas import Clients, Share
from .tokens import Action, Grant, Tokens

_ALLOWED_ORIGIN = (
    b"Access-Control-Allow-Credentials: true\r\n"
    b"Access-Control-Expose-Headers: Comet-Cursor, Comet-Gap, Comet-Id, Comet-Recipient, Comet-Created-At, "
    b"ETag, Location, Preference-Applied, Retry-After\r\n"
)

T = TypeVar("T")
Authorize: TypeAlias = Callable[[Any, Action, str], bool | Deferred[bool]]
"""An embedding program's own word on who may do what: request, action and recipient arrive."""


class Request(Protocol):
    """What the routes use of a request, be it twisted.web's or that of ``serving/``."""

    method: bytes
    uri: bytes
    path: bytes
    postpath: list[bytes]
    content: BinaryIO
    transport: Any
    responseHeaders: Any  # noqa: N815  twisted.web's name

    def getHeader(self, name: bytes) -> bytes | None:  # noqa: N802  twisted.web's name
        """Return a header's value; names are lower case."""

    def getClientAddress(self) -> Any:  # noqa: N802  twisted.web's name
        """Return the address of whoever sent it."""

    def setResponseCode(self, code: int) -> None:  # noqa: N802  twisted.web's name
        """Set the status of the response."""

    def isSecure(self) -> bool:  # noqa: N802  twisted.web's name
        """Whether it came over TLS."""


class Door:
    """Lets in the requests of one hub's routes, whose ``clock`` and ``wall`` it goes by."""

    def __init__(
        self,
        clock: IReactorTime,
        wall: Callable[[], float],
        *,
        hosts: Hosts | None = None,
        origins: Origins | None = None,
        tokens: Tokens | None = None,
        authorize: Authorize | None = None,
        clients: Clients | None = None,
    ) -> None:
        self.clock = clock
        self.wall = wall
        self.hosts = hosts or Hosts()
        self._host: bytes | None = None
        """The last Host that was let in: the next one is probably the same."""
        self.origins = origins or Origins()
        self.tokens = tokens
        self.authorize = authorize
        self.clients = clients

    def admit(self, request: Request, changes: bool) -> None:
        """Raise the refusal of a request whose Host or Origin may not come in, or may not change anything."""
        given = fields(request)
        if given.host != self._host:
            self.hosts.check(given.host)
            self._host = given.host
        if changes and given.origin is not None:
            self.origins.check(given.origin, given.host, secure=request.isSecure())

    def allowed(
        self,
        request: Request,
        action: Action,
        names: tuple[str, ...],
        act: Callable[[Grant | None], MaybeDeferred[T]],
    ) -> MaybeDeferred[T]:
        """Do ``act`` if the request's token, and the embedding program, allow the action on all the names.

        Raises ``Unauthorized`` or ``Forbidden``. ``act`` is given what the token grants, and what the request
        counts against; None where everyone may do everything.
        """
        if self.is_open:
            return act(None)
        grant = None
        if self.tokens is not None:
            grant = self.tokens.grant(_token(request))
            grant.check(action, names)
        if self.clients is not None:
            address = getattr(request.getClientAddress(), "host", None)
            client = self.clients.of(address or None, None if grant is None else grant.subject)
            grant = Grant(client=client) if grant is None else replace(grant, client=client)
        if self.authorize is None:
            return act(grant)
        asked = [maybeDeferred(self.authorize, request, action, name) for name in names]

        def judge(verdicts: list[bool]) -> MaybeDeferred[T]:
            if not all(verdicts):
                raise Forbidden(f"To {action} here is not allowed to this client.")
            return act(grant)

        verdicts = gatherResults(asked, consumeErrors=True).addErrback(_first_error)
        return cast("Deferred[T]", verdicts.addCallback(judge))  # type: ignore[call-overload]

    @property
    def is_open(self) -> bool:
        """Whether everyone may do everything, as much as they like."""
        return self.tokens is None and self.authorize is None and self.clients is None

    def time_left(self, grant: Grant) -> float:
        """Return the seconds for which a grant still holds."""
        return float("inf") if grant.expires_at is None else max(0.0, grant.expires_at - self.wall())

    def end_with(self, grant: Grant | None, ended: Deferred[None], end: Callable[[], None]) -> None:
        """End a stream or socket when its token does, and count it until it has ended."""
        if grant is None:
            return
        if grant.client is not None:
            grant.client.parked.hold_until(ended)
        if grant.expires_at is None:
            return
        timer = self.clock.callLater(self.time_left(grant), end)

        def cancel(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            return result

        ended.addBoth(cancel)

    def cors(self, request: Request) -> bytes:
        """Return the header lines that let a page of an allowed origin read the answer."""
        given = fields(request)
        if given.origin is None or not self.origins.allow(
            given.origin, given.host, secure=request.isSecure()
        ):
            return b""
        return b"Access-Control-Allow-Origin: %b\r\n" % given.origin + _ALLOWED_ORIGIN

    def check_taker(self, request: Request) -> None:
        """Raise ``ForbiddenOrigin`` where a page of a foreign origin makes its reader's browser take.

        A take changes the mailbox, and an image's address can be one; such a request has no Origin, but
        browsers say where it comes from (W3C Fetch Metadata). A request of an allowed Origin may.
        """
        if request.getHeader(b"sec-fetch-site") in {b"cross-site", b"same-site"} and not self.cors(request):
            raise ForbiddenOrigin(
                "Pages of other origins may not take messages; they may read by cursor, as in ?after=oldest, "
                "and the server may be started with --allow-origin."
            )

    def check_script(self, request: Request) -> None:
        """Raise ``ForbiddenOrigin`` where a page of a foreign origin asks for a script.

        A script is loaded without an Origin, and so is not stopped by what stops other requests.
        """
        page = urlsplit((request.getHeader(b"referer") or b"").decode("latin-1"))
        origin = f"{page.scheme}://{page.netloc}".lower().encode("latin-1") if page.netloc else None
        if origin is None and request.getHeader(b"sec-fetch-site") in {b"cross-site", b"same-site"}:
            origin = b"null"
        if origin is not None:
            self.origins.check(origin, request.getHeader(b"host"), secure=request.isSecure())

    def rights(self, request: Request) -> Rights | None:
        """Return what the sender of a Bayeux request may do; None where everyone may do everything."""
        return None if self.is_open else Rights(self, request)


class Rights:
    """What the sender of a Bayeux request may do, by its token and the embedding program."""

    def __init__(self, door: Door, request: Request) -> None:
        self._door = door
        self._request = request
        self._grant = Grant()
        """What was granted at the last check; whoever is counted was checked before."""

    def check(self, action: Action, names: tuple[str, ...]) -> MaybeDeferred[float]:
        """Return for how many seconds the action on the names is allowed. Raises where it is not."""
        door = self._door

        def seconds(grant: Grant | None) -> float:
            if grant is None:
                return inf
            self._grant = grant
            return door.time_left(grant)

        return door.allowed(self._request, action, names, seconds)

    def charge(self, messages: int, size: int) -> None:
        """Count what is published, in messages and bytes. Raises ``TooManyRequests``."""
        if self._grant.client is not None:
            self._grant.client.charge(messages, size)

    def hold(self, act: Callable[[], MaybeDeferred[T]]) -> MaybeDeferred[T]:
        """Do what may be held, and count it until it has come to its end. Raises ``TooManyRequests``."""
        return hold_for(self._grant, inf, act)

    @property
    def registrations(self) -> Share | None:
        """What a session counts against; None where nobody counts."""
        return registrations_of(self._grant)


# -- what clients may hold and push


def charge(grant: Grant, push: Push) -> None:
    """Count a push. Raises ``TooManyRequests``."""
    if grant.client is not None:
        size = sum([len(content.body) for content in push.contents])
        grant.client.charge(len(push.contents) * len(push.recipients), size)


def hold_for(grant: Grant, wait: float, act: Callable[[], MaybeDeferred[T]]) -> MaybeDeferred[T]:
    """Do what is held for up to ``wait`` seconds, and count it until then. Raises ``TooManyRequests``."""
    return act() if grant.client is None or wait <= 0 else grant.client.parked.hold(act)


def check_room(grant: Grant | None) -> None:
    """Raise ``TooManyRequests`` where a client may not have one stream or socket more."""
    if grant is not None and grant.client is not None:
        grant.client.parked.check()


def registrations_of(grant: Grant | None) -> Share | None:
    """Return what a listener or session counts against; None where nobody counts."""
    return None if grant is None or grant.client is None else grant.client.registrations


def _token(request: Request) -> str:
    """Return the request's token. Raises ``Unauthorized`` where it brings none."""
    scheme, _, token = (request.getHeader(b"authorization") or b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip().decode("latin-1")
    given = one(parse_query(request.uri), "token")
    if not given:
        raise Unauthorized("A token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN.")
    return given


def _first_error(failure: Failure) -> Failure:
    """Return what an ``authorize`` of the embedding program failed with."""
    first = failure.value
    return first.subFailure if isinstance(first, FirstError) else failure
