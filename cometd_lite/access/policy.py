"""The policy: who may do what.

Each request passes ``admit``, by its Host and Origin. Then its route asks ``require`` for what it wants to do
with which recipients: by its token, by the application's answer (``application``), by the embedding program's
word, and by what one client may hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ..core.parked import ParkedReader
from ..core.recipient import READABLE, below, lists, plain, reaches
from ..deferreds import MaybeDeferred, chain, gathered, is_pending
from ..errors import BadParameter, CometError, Forbidden, ForbiddenOrigin, Unauthorized
from ..limits import REMEMBERED_BYTES, TOKENS_KNOWN
from ..memos import memo
from .application import Allowance, Authorizer, Permission
from .grants import EVERYTHING, Action, Grant
from .origins import Hosts, Origins, host_name, is_loopback
from .questions import Asker, question_of
from .quotas import Clients
from .tokens import Tokens

Authorize: TypeAlias = Callable[[Any, Action, str], bool | Deferred[bool]]
"""An embedding program's own word on who may do what: called with the request, the action and a recipient."""

_SCHEMES = frozenset({b"bearer"})
_BAYEUX_SCHEMES = frozenset({b"bearer", b"oauth"})
"""The schemes of Authorization, in lower case. Bayeux clients made for Salesforce say OAuth."""

_KEY_REMOVED = "The key of the token was removed; get a new token."

_FOREIGN_SITES = frozenset({b"cross-site", b"same-site"})
"""What Fetch Metadata says of requests that pages of other origins caused."""

_BROWSERS = b"Mozilla/"
"""What the User-Agent of every browser begins with."""

_ALLOWED_ORIGIN = (
    b"Access-Control-Allow-Credentials: true\r\n"
    b"Access-Control-Expose-Headers: Comet-Cursor, Comet-Gap, Comet-Id, Comet-Recipient, Comet-Created-At, "
    b"Comet-Lease, Comet-Attempt, ETag, Location, Preference-Applied, Retry-After\r\n"
)


class Policy:
    """Lets in the requests of one hub's routes, whose ``clock`` and ``wall`` it goes by."""

    def __init__(
        self,
        clock: IReactorTime,
        wall: Callable[[], float],
        *,
        hosts: Hosts | None = None,
        origins: Origins | None = None,
        tokens: Tokens | None = None,
        application: Authorizer | None = None,
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
        self.application = application
        """What is asked where a request has no valid token; None where nothing is."""
        self.authorize = authorize
        self.clients = clients

    # -- by Host and Origin

    def admit(
        self, exchange: Asker, host: bytes | None, origin: bytes | None, changes: bool, probed: bool = False
    ) -> None:
        """Raise the refusal of a request whose Host or Origin may not come in, or may not change anything.

        What is ``probed`` may be asked for by address.
        """
        if probed:
            self.hosts.check(host, probed=True)
        elif host != self._host:
            self.hosts.check(host)
            self._host = host
        if changes and origin is not None:
            self.origins.check(origin, host, secure=exchange.is_secure)

    def cors(self, exchange: Asker) -> bytes:
        """Return the header lines that let a page of an allowed origin read the response."""
        origin = exchange.head.get(b"origin")
        if origin is None:
            return b""
        if not self.origins.allow(origin, exchange.head.get(b"host"), secure=exchange.is_secure):
            return b""
        return b"Access-Control-Allow-Origin: %b\r\n" % origin + _ALLOWED_ORIGIN

    def check_taker(self, exchange: Asker) -> None:
        """Raise ``ForbiddenOrigin`` where a page of a foreign origin may make its reader's browser take.

        A prefetch may not take either: its answer is perhaps never looked at.
        """
        for name in (b"sec-purpose", b"purpose"):
            purpose = exchange.head.get(name)
            if purpose is not None and b"prefetch" in purpose.lower():
                raise Forbidden(
                    "A prefetch may not take messages; it may read by cursor, as in ?after=oldest."
                )
        self.check_page(exchange)

    def check_page(self, exchange: Asker) -> None:
        """Raise ``ForbiddenOrigin`` for a GET that changes something and may be a foreign page's.

        A page can take by the address of an image, and speak Bayeux by that of a script. Such requests have
        no Origin. A Referer or Fetch Metadata (W3C) says which page sends them. A page can suppress the
        Referer, and browsers send no Fetch Metadata over plain HTTP to a name that is not loopback. There, a
        browser needs a token, or a header field that pages of other origins cannot set.
        """
        head = exchange.head
        origin, site, host = head.get(b"origin"), head.get(b"sec-fetch-site"), head.get(b"host")
        if origin is None:
            origin = _origin_of(head.get(b"referer"))
        if origin is None and site in _FOREIGN_SITES:
            origin = b"null"
        if origin is not None:
            if not self.origins.allow(origin, host, secure=exchange.is_secure):
                raise ForbiddenOrigin(
                    "Pages of other origins may not take messages or speak Bayeux here; they may read by "
                    "cursor, as in ?after=oldest, and the server may be started with --allow-origin."
                )
        elif (
            site is None
            and not self._has_token(exchange)
            and (head.get(b"user-agent") or b"").startswith(_BROWSERS)
            and head.get(b"x-requested-with") is None
            and not exchange.is_secure
            and not (host is not None and is_loopback(host_name(host)))
        ):
            raise ForbiddenOrigin(
                "This may be a request of another origin's page, which may not take messages or speak Bayeux "
                "here. Send a Referer or X-Requested-With, or read by cursor, as in ?after=oldest."
            )

    # -- by token, program and quota

    def require(
        self, exchange: Asker, action: Action, names: tuple[str, ...], schemes: frozenset[bytes] = _SCHEMES
    ) -> MaybeDeferred[Grant]:
        """Return what the request is granted, where it may do the action with all the names.

        Of a name of the server's own that readers may name, it is asked for the recipient behind it: see
        ``plain``. Its token comes by one of ``schemes``, or in the query; without a valid one the application
        is asked, if there is one. Raises, or fails with, ``Unauthorized``, ``Forbidden``, ``ApplicationDown``
        or ``ServerFull``.
        """
        grant = EVERYTHING
        if self.tokens is None and self.application is None and self.authorize is None:
            return grant if self.clients is None else self._count_and_judge(grant, exchange, action, names)
        if len(names) != 1 or names[0].startswith(READABLE):
            names = tuple(dict.fromkeys(map(plain, names)))
        if self.tokens is not None:
            try:
                grant = self.tokens.grant(_token(exchange, schemes))
            except Unauthorized:
                if self.application is None:
                    raise
                return self._ask(self.application, exchange, action, names)
            grant.check(action, names)
        elif self.application is not None:
            return self._ask(self.application, exchange, action, names)
        if self.clients is None and self.authorize is None:
            return grant
        return self._count_and_judge(grant, exchange, action, names)

    def is_known_to_allow(self, exchange: Asker, action: Action, names: tuple[str, ...]) -> bool:
        """Return whether a request may do the action, as far as its token or the lack of tokens says so.

        Neither the application nor the program is asked. Raises, of the refusals of ``require``, those by
        token.
        """
        if self.tokens is not None:
            self.tokens.grant(_token(exchange, _SCHEMES)).check(action, names)
        return self.authorize is None and (self.tokens is not None or self.application is None)

    def _ask(
        self, application: Authorizer, exchange: Asker, action: Action, names: tuple[str, ...]
    ) -> MaybeDeferred[Grant]:
        """Return what a request is granted by the application, and then by the program and the quotas."""

        def granted(allowance: Allowance) -> MaybeDeferred[Grant]:
            permission = Permission(application, exchange, action, names, allowance)
            # The application has seen by which name the reader wants to be present.
            grant = Grant(subject=allowance.subject, names=True, permission=permission)
            return self._count_and_judge(grant, exchange, action, names)

        return chain(application.ask(question_of(exchange, action, names)), granted)

    def _count_and_judge(
        self, grant: Grant, exchange: Asker, action: Action, names: tuple[str, ...]
    ) -> MaybeDeferred[Grant]:
        """Return a grant with what it counts against, where the embedding program allows the action too."""
        if self.clients is not None:
            grant = replace(grant, client=self.clients.of(exchange.client or None, grant.subject))

        def judged(is_allowed: bool) -> Grant:
            if not is_allowed:
                raise Forbidden(f"This client may not {action} here.")
            return grant

        return chain(self._judge(grant, exchange, action, names), judged)

    def _judge(
        self, grant: Grant, exchange: Asker, action: Action, names: tuple[str, ...]
    ) -> MaybeDeferred[bool]:
        """Return whether the embedding program allows it; fails where the key was removed meanwhile."""
        if self.authorize is None:
            return True
        authorize: Callable[[Any, Action, str], Any] = self.authorize
        asked: list[Deferred[bool]] = [
            maybeDeferred(authorize, exchange.request, action, name) for name in names
        ]

        def judge(verdicts: list[bool]) -> bool:
            if self.tokens is not None:
                self.tokens.check_key(grant)
            return all(verdicts)

        return gathered(asked).addCallback(judge)

    def require_listing(self, exchange: Asker, prefix: str) -> MaybeDeferred[Callable[[str], bool]]:
        """Return which of the mailboxes that begin with a prefix the request may list: those it may manage.

        With a token these are those that its claim covers. Without one, everything that begins so has to be
        allowed. Raises, or fails with, what ``require`` does.
        """
        about = plain(prefix)
        names: tuple[str, ...] = (below(about),)
        if self.tokens is not None:
            try:
                grant = self.tokens.grant(_token(exchange, _SCHEMES))
            except Unauthorized:
                pass  # ``require`` decides what that means
            else:
                names = tuple([claim for claim in grant.manage if reaches(claim, about)])
                if not names:
                    raise Forbidden(f"The token's claim 'manage' covers nothing that begins with {prefix!r}.")
        return chain(self.require(exchange, "manage", names), lambda _: lists(prefix, names))

    def may(self, exchange: Asker, grant: Grant, action: Action, name: str) -> MaybeDeferred[bool]:
        """Return whether a request may do what it did not ask for by name.

        By its token or the application, and by the program. Raises, or fails with, ``ApplicationDown`` or
        ``ServerFull``.
        """
        if grant.permission is not None:
            asked = self._ask(grant.permission.application, exchange, action, (name,))
            return asked.addCallbacks(lambda _: True, _refused) if is_pending(asked) else True
        if self.tokens is not None and not grant.covers(action, name):
            return False
        return self._judge(grant, exchange, action, (name,))

    def reader_name(self, grant: Grant, own: str | None) -> str | None:
        """Return the name under which a reader is present: its token's subject, else its ``own``.

        Raises ``Forbidden`` where its token does not let it name itself.
        """
        if grant.name is not None:
            return grant.name
        if own is not None and self.tokens is not None and not grant.names:
            raise Forbidden(
                "The token does not let its reader name itself by as=: it needs a sub, which is the name, "
                'or the claim "as": true.'
            )
        return own

    def require_bayeux(self, exchange: Asker, action: Action, names: tuple[str, ...]) -> MaybeDeferred[Grant]:
        """Do as ``require`` does, for a request of a Bayeux client."""
        return self.require(exchange, action, names, _BAYEUX_SCHEMES)

    def _has_token(self, exchange: Asker) -> bool:
        """Return whether a request that was let in has a token, which no page of a foreign origin knows."""
        if self.tokens is None or self.application is None:
            return self.tokens is not None
        try:
            self.tokens.grant(_token(exchange, _BAYEUX_SCHEMES))
        except Unauthorized:
            return False
        return True

    def nothing(self, exchange: Asker) -> Grant:
        """Return a grant of nothing, for what is counted against the request's address."""
        return Grant(client=None if self.clients is None else self.clients.of(exchange.client or None, None))

    def time_left(self, grant: Grant) -> float:
        """Return the seconds for which a grant still holds."""
        return float("inf") if grant.expires_at is None else max(0.0, grant.expires_at - self.wall())

    def end_with(
        self,
        grant: Grant,
        parked: Deferred[Any],
        end: Callable[[], object],
        refused: Callable[[CometError], object] | None = None,
    ) -> None:
        """Count a stream or socket until ``parked`` fires, and call ``end`` when its token expires.

        ``refused``, or ``end`` for it, is called where the key of the token is removed while ``parked`` is in
        the registry, and where the application refuses the reader when it is asked again.
        """
        if grant.client is not None:
            grant.client.parked.hold_until(parked)
        if grant.key is not None and isinstance(parked, ParkedReader):
            parked.admission = grant.key
            parked.on_revoked = end if refused is None else partial(refused, Unauthorized(_KEY_REMOVED))
        grant.watch(parked, refused or (lambda _: end()))
        if grant.expires_at is None:
            return
        timer = self.clock.callLater(self.time_left(grant), end)

        def cancel(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            return result

        parked.addBoth(cancel)

    def rights(self, exchange: Asker) -> Rights | None:
        """Return what the sender of a Bayeux request may do; None where everyone may do everything."""
        if (
            self.tokens is None
            and self.application is None
            and self.authorize is None
            and self.clients is None
        ):
            return None
        return Rights(self, exchange)


class Rights:
    """What the sender of a Bayeux request may do, by its token and the embedding program.

    ``grant`` is what was granted at the last check. A client is checked before it is counted.
    """

    def __init__(self, policy: Policy, exchange: Asker) -> None:
        self._policy = policy
        self._exchange = exchange
        self.grant = Grant()

    def check(self, action: Action, names: tuple[str, ...]) -> MaybeDeferred[float]:
        """Return for how many seconds the action on the names is allowed. Raises where it is not."""
        grant = self._policy.require_bayeux(self._exchange, action, names)
        return grant.addCallback(self._granted) if is_pending(grant) else self._granted(grant)

    def _granted(self, grant: Grant) -> float:
        self.grant = grant
        return self._policy.time_left(grant)


def _refused(failure: Failure) -> bool:
    failure.trap(Unauthorized, Forbidden)
    return False


def _token_of(authorization: bytes, schemes: frozenset[bytes]) -> str:
    """Return the token of an Authorization field by one of the schemes, empty where it has none."""
    scheme, _, token = authorization.partition(b" ")
    return token.strip().decode("latin-1") if scheme.lower() in schemes else ""


_named_token = memo(TOKENS_KNOWN)(_token_of)
"""The same, remembered in 2 MB at the most: a reader sends the same field with each poll."""


def _token(exchange: Asker, schemes: frozenset[bytes]) -> str:
    """Return the request's token. Raises ``Unauthorized`` where it brings none."""
    field = exchange.head.get(b"authorization")
    if field is not None:
        token = (_named_token if len(field) <= REMEMBERED_BYTES else _token_of)(field, schemes)
        if token:
            return token
    pairs = [pair.partition(b"=") for pair in exchange.query.split(b"&")]
    given = [value for name, _, value in pairs if name == b"token"]
    if len(given) > 1:
        raise BadParameter("token is given once.")
    if given and given[0]:
        return unquote_to_bytes(given[0].replace(b"+", b" ")).decode("utf-8", "replace")
    raise Unauthorized("A token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN.")


def _origin_of(referer: bytes | None) -> bytes | None:
    """Return the origin of the page that a Referer names; None where it names none."""
    if not referer:
        return None
    try:
        page = urlsplit(referer.decode("latin-1"))
    except ValueError:
        return b"null"
    return f"{page.scheme}://{page.netloc}".lower().encode("latin-1") if page.netloc else None
