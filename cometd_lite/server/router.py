"""The router: a method and a path become a ``Target``, which has the route and the name.

A rule is a fixed path (``/``, ``/metrics``, ``/cometd/``), or one fixed segment and a name
(``/poll/<path:name>``). Fixed parts are matched byte for byte, as they were sent: ``//metrics``,
``/%2Fmetrics`` and ``/poll%2Fbob`` match no rule. The name is the rest of the path, percent-decoded; it may
be empty or have empty segments, and the route checks it. A path that matches no rule, or not with its method,
has a route as well: one that lets the application answer so.

The same lines come again and again, so their targets are remembered, each by the line up to its query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from .head import check_version, parse_line, split_absolute
from .render import PlainResponse

if TYPE_CHECKING:
    from .application import Application, ServedRoute
    from .bounds import Bounds
    from .head import Head

_RULE: Final = re.compile(r"(?:/[^/<>%]*)+|(?P<fixed>/[^/<>%]+)/<path:[a-z_]+>").fullmatch
_VISIBLE: Final = bytes(range(0x21, 0x7F))
_NO_ROUTES: Final[dict[bytes, ServedRoute]] = {}


class Unrouted:
    """The ``ServedRoute`` of a request that matches no rule; its own ``rule`` is empty."""

    __slots__ = ("_answer",)
    rule = ""
    methods: Collection[str] = ()
    max_body = None
    body_bound = None

    def __init__(self, answer: Callable[[Any], object]) -> None:
        self._answer = answer

    def call(self, exchange: Any, _: str | None) -> None:
        """Answer the request."""
        self._answer(exchange)


class Target:
    """A method and a path, and what serves them. Requests with the same line may share one.

    ``name`` is what the path names, None where the route's rule has no name. ``memo`` is the application's:
    what it parsed from the last request for this target.
    """

    __slots__ = ("memo", "method", "name", "path", "route")

    def __init__(self, method: bytes, path: bytes, route: ServedRoute, name: str | None = None) -> None:
        self.method = method
        self.path = path
        self.route = route
        self.name = name
        self.memo: Any = None


class Router:
    """The routes of an application below the path ``prefix``. Raises ``ValueError`` for an unknown rule."""

    def __init__(self, application: Application[Any], prefix: bytes, bounds: Bounds) -> None:
        self.prefix = prefix.rstrip(b"/")
        self._application = application
        self._bounds = bounds
        self._fixed: dict[bytes, dict[bytes, ServedRoute]] = {}
        """The routes by path and method."""
        self._named: dict[bytes, dict[bytes, ServedRoute]] = {}
        """The routes by the path in front of the name, and by method."""
        self._not_found = Unrouted(application.not_found)
        self._targets: dict[bytes, Target] = {}
        """The targets of request lines, by the line up to its query, or by the whole line."""
        self._seen_once: set[bytes] = set()
        """The lines that came once; a target is remembered when its line comes again."""
        plain = rb"[0-9A-Za-z_.~@:-]++(?:/[0-9A-Za-z_.~@:-]++)*"
        fixed = re.escape(self.prefix) + rb"/[0-9A-Za-z_.-]++/"
        self._plain = re.compile(rb"([A-Z]+) (%b)(%b)(?: HTTP/1\.1|\?)" % (fixed, plain)).fullmatch
        for route in application.routes:
            self._add(route)

    def _add(self, route: ServedRoute) -> None:
        match = _RULE(route.rule)
        if match is None:
            raise ValueError(f"{route.rule} is neither a fixed path nor /segment/<path:name>.")
        if match["fixed"] is None:
            routes = self._fixed.setdefault(self.prefix + route.rule.encode(), {})
        else:
            fixed = self.prefix + match["fixed"].encode() + b"/"
            routes = self._named.setdefault(fixed, {})
        for method in route.methods:
            routes[method.encode()] = route
            if method == "GET":
                routes.setdefault(b"HEAD", route)

    def recognise(self, line: bytes) -> tuple[Target, bytes] | None:
        """Return the target and the query of a request line that came before, or that has a plain name.

        None: ``head.parse_line`` and ``find`` read it.
        """
        mark = line.find(b"?") + 1
        start = line[:mark] or line
        target = self._targets.get(start) or self._find_plain(start)
        if target is None:
            return None
        if not mark:
            return target, b""
        query, version = line[mark:-9], line[-9:]
        if version != b" HTTP/1.1" or query.translate(None, _VISIBLE) or len(line) > self._bounds.target:
            return None
        return target, query

    def _find_plain(self, start: bytes) -> Target | None:
        """Return the target of a line up to its query, if its name needs no decoding.

        This is 8 % of a push to a mailbox that no request has named of late.
        """
        match = self._plain(start)
        if match is None or len(start) > self._bounds.target:
            return None
        method, fixed, name = match.groups()
        route = self._named.get(fixed, _NO_ROUTES).get(method)
        if route is None:
            return None
        target = Target(method, fixed + name, route, name.decode())
        self._remember(start, target)
        return target

    def remember(self, line: bytes, target: Target) -> None:
        """Remember the target of a request line of HTTP/1.1, if the same one came before."""
        self._remember(line[: line.find(b"?") + 1] or line, target)

    def _remember(self, start: bytes, target: Target) -> None:
        """Remember the target of a line up to its query, unless the line comes for the first time.

        To remember a line that never comes again costs more than to read it.
        """
        bounds, seen_once = self._bounds, self._seen_once
        if len(start) > bounds.line_known:
            return
        if start not in seen_once:
            if len(seen_once) >= bounds.lines_known:
                seen_once.clear()
            seen_once.add(start)
            return
        seen_once.discard(start)
        if len(self._targets) >= bounds.lines_known:
            self._targets.clear()
        self._targets[start] = target

    def forget(self) -> None:
        """Forget the targets of the lines that came before."""
        self._targets.clear()
        self._seen_once.clear()

    def parse(self, line: bytes, head: Head) -> tuple[Head, Target, bytes, int]:
        """Return head, target, query and minor version of a request whose line is not known.

        Raises ``Refused``.
        """
        method, uri, minor = parse_line(line, self._bounds)
        is_path = uri.startswith(b"/")
        if not is_path:
            uri, head = split_absolute(method, uri, head)
        check_version(minor, head)
        path, _, query = uri.partition(b"?")
        target = self.find(method, path)
        if minor and is_path:
            self.remember(line, target)
        return head, target, query, minor

    def find(self, method: bytes, path: bytes) -> Target:
        """Return the target of a path without its query."""
        routes = self._fixed.get(path)
        if routes is not None:
            return Target(method, path, routes.get(method) or self._unrouted(method, routes))
        end = path.find(b"/", len(self.prefix) + 1) + 1
        routes = self._named.get(path[:end], _NO_ROUTES)
        route = routes.get(method)
        if route is None:
            return Target(method, path, self._unrouted(method, routes))
        try:
            name = unquote_to_bytes(path[end:]).decode()
        except UnicodeDecodeError:
            return Target(method, path, Unrouted(self._refuse_name))
        return Target(method, path, route, name)

    def _unrouted(self, method: bytes, routes: dict[bytes, ServedRoute]) -> Unrouted:
        """Return the route of a method that is not among those of a path."""
        methods = tuple(sorted(name.decode() for name in routes))
        if method == b"OPTIONS":
            return Unrouted(partial(self._application.preflight, methods=methods))
        if methods:
            route = next(iter(routes.values()))
            return Unrouted(partial(self._application.not_allowed, methods=methods, route=route))
        return self._not_found

    def _refuse_name(self, exchange: Any) -> None:
        """Answer a request whose name is not UTF-8."""
        sentence = "The path is not percent-encoded UTF-8."
        malformed = self._application.malformed(400, sentence, self.below(exchange.path))
        exchange.respond(PlainResponse(400, *malformed))

    def below(self, path: bytes) -> bytes:
        """Return a path without the prefix; nothing where it does not lie below it."""
        return path[len(self.prefix) :] if path.startswith(self.prefix + b"/") else b""
