"""A method and a path come in; the Klein route that serves them leaves with its parameters, or an error.

``Klein.url_map`` is read once. Rules made of fixed segments, ``<name>`` and a final ``<path:name>`` become
nested dicts. What these do not find, and every app with other rules, is left to werkzeug itself: so 404, 405
and redirects are by construction what the same app answers on twisted.web. Werkzeug costs some 60 µs; a hit
here less than one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from urllib.parse import unquote_to_bytes

from klein import Klein
from werkzeug.exceptions import BadRequest, NotFound

if TYPE_CHECKING:
    from werkzeug.routing import MapAdapter, Rule

    from .irequest import LongWay
    from .request import Request

Bound: TypeAlias = "int | Callable[[Request], int]"
Found: TypeAlias = "tuple[Route, dict[str, Any]]"
Named: TypeAlias = "list[tuple[Route, tuple[str, ...]]]"
Beginnings: TypeAlias = "dict[bytes, tuple[bytes, bytes, Route, str]]"
"""Method, path up to the name, route and parameter of the name, by what comes before the name in a line."""
Usual: TypeAlias = "tuple[Callable[[bytes], re.Match[bytes] | None], Beginnings]"

# What the tree below understands: `/`, or segments that are fixed or wholly a variable, a path only at the
# end; a slash at the end where all are fixed.
_COMPILES: Final = re.compile(
    r"/|(?:/[^/<>%]+)+/|(?:/(?:[^/<>%]+|<[A-Za-z_][A-Za-z0-9_]*>))*(?:/<path:[A-Za-z_][A-Za-z0-9_]*>)?"
).fullmatch
_VARIABLE: Final = re.compile(r"<(path:)?(\w+)>").fullmatch


class Route:
    """One rule of the app: ``call(request, **params)`` serves it.

    ``bound`` is the handler's ``max_body``: bytes, or a function of the request; None where it declares none.
    ``rule`` is as the app declares it; ``segments`` are those that it has itself, as Klein counts them for
    ``postpath``.
    """

    __slots__ = ("bound", "call", "methods", "rule", "segments")

    def __init__(self, app: Klein, rule: Rule) -> None:
        endpoint: Any = app.endpoints[rule.endpoint]
        self.rule: str = rule.rule
        self.call = _direct(app._instance, endpoint) or partial(app.execute_endpoint, rule.endpoint)
        self.methods = None if rule.methods is None else frozenset(name.encode() for name in rule.methods)
        self.bound: Bound | None = _declared(endpoint, "max_body")
        self.segments: int = _declared(endpoint, "segment_count") or 0


def _direct(instance: Any, endpoint: Any) -> Callable[..., Any] | None:
    """Return the handler itself where Klein's two functions around it only pass the instance on; else None.

    They make a Deferred of a coroutine besides, which ``Request.deliver`` does here.
    """
    handler = getattr(endpoint, "__original__", None)
    if handler is None or endpoint.__code__ is not _PASSES_ON:
        return None
    bound = instance is not None or getattr(handler, "__klein_bound__", False)
    return partial(handler, instance) if bound else cast("Callable[..., Any]", handler)


def _example() -> Any:
    """Return the code of the function that ``Klein.route`` puts around each handler."""
    app = Klein()
    app.route("/")(lambda request: request)
    return next(iter(app.endpoints.values())).__code__


_PASSES_ON: Final = _example()


class Target:
    """What the beginning of a request line means, up to its query: method, path, and the path's route.

    ``meaning`` is the app's, as that of a ``Head``: whatever it has made of the last such request.
    """

    __slots__ = ("meaning", "method", "params", "path", "route")

    def __init__(self, method: bytes, path: bytes, route: Route, params: dict[str, Any]) -> None:
        self.method = method
        self.path = path
        self.route = route
        self.params = params
        self.meaning: Any = None


class _Node:
    """What may follow the beginning of a path; looked at in werkzeug's order: fixed, segment, rest."""

    __slots__ = ("fixed", "rest", "routes", "segment")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node] = {}
        self.segment: _Node | None = None
        self.rest: Named = []
        self.routes: Named = []


class Table:
    """The routes of one app under one prefix. ``app`` may be bound to an instance."""

    def __init__(self, app: Klein, prefix: bytes = b"") -> None:
        self.prefix = prefix.rstrip(b"/")
        self._app = app
        self._root = _Node()
        self._whole: dict[bytes, list[Route]] = {}
        named: dict[bytes, dict[bytes, tuple[Route, str]]] = {}
        rules = list(app.url_map.iter_rules())
        if not app.url_map.host_matching and all(map(_compiles, rules)):
            for rule in rules:
                self._add(rule)
        for segment, node in self._root.fixed.items():
            if node.rest and not node.fixed and node.segment is None:
                named[b"/" + segment.encode()] = _by_method(node.rest)
        self._usual, self._beginnings = _usual_lines(self.prefix, named)

    def recognise(self, start: bytes) -> Target | None:
        """Return what a request line of the usual shape means, from its beginning up to its query, if any.

        That is one fixed segment and a name in plain characters. None: ``lookup`` may know it.
        """
        match = self._usual(start)
        if match is None:
            return None
        beginning, name = match.groups()
        method, before, route, parameter = self._beginnings[beginning]
        return Target(method, before + name, route, {parameter: name.decode()})

    def _add(self, rule: Rule) -> None:
        """Put one rule into the tree, and into the dict of whole paths where it has no variable."""
        route = Route(self._app, rule)
        node = self._root
        names: list[str] = []
        for segment in rule.rule.split("/")[1:]:
            variable = _VARIABLE(segment)
            if variable is not None and variable[1]:
                node.rest.append((route, (*names, variable[2])))
            elif variable is None:
                node = node.fixed.setdefault(segment, _Node())
            else:
                names.append(variable[2])
                node.segment = node.segment or _Node()
                node = node.segment
        if "<path:" not in rule.rule:
            node.routes.append((route, tuple(names)))
        if "<" not in rule.rule:
            self._whole.setdefault(rule.rule.encode(), []).append(route)

    def lookup(self, method: bytes, path: bytes) -> Target | None:
        """Return what ``find`` finds without werkzeug; None: ask ``find``."""
        with contextlib.suppress(NotFound, BadRequest):
            found = self._followed(method, self._inside(path))
            if found is not None:
                return Target(method, path, *found)
        return None

    def find(self, method: bytes, path: bytes, request: Request) -> Found:
        """Return the route of a path (as it came, without its query) and the route's parameters.

        Raises werkzeug's ``NotFound``, ``MethodNotAllowed`` and ``RequestRedirect``, and its ``BadRequest``
        where the decoded path is not UTF-8.
        """
        path = self._inside(path)
        found = self._followed(method, path)
        if found is not None:
            return found
        rule, params = self.adapter(request, method, _text(path)).match(return_rule=True)
        return Route(self._app, rule), dict(params)

    def _followed(self, method: bytes, path: bytes) -> Found | None:
        """Return what the rules that were read once say of a path. Raises ``BadRequest``."""
        for route in self._whole.get(path, ()):
            if route.methods is None or method in route.methods:
                return route, {}
        text = _text(path)
        if text.startswith("/"):
            with contextlib.suppress(_SlashWanted):
                return _search(self._root, method, text.lstrip("/").split("/"), ())
        return None

    def _inside(self, path: bytes) -> bytes:
        """Return a path without the prefix. Raises ``NotFound`` for one that lies outside."""
        length = len(self.prefix)
        if not length or path == b"*":
            return path
        if not path.startswith(self.prefix) or path[length : length + 1] not in {b"/", b""}:
            raise NotFound
        return path[length:]

    def adapter(self, request: LongWay, method: bytes = b"GET", text: str = "/") -> MapAdapter:
        """Bind werkzeug's map to a request, as ``KleinResource`` does for each."""
        host, secure = request.getHost(), request.isSecure()
        name = request.getRequestHostname().decode("ascii")
        port = getattr(host, "port", 443 if secure else 80)
        if port != (443 if secure else 80):
            name = f"{name}:{port}"
        return self._app.url_map.bind(
            name,
            self.prefix.decode() or None,
            path_info=text,
            default_method=method.decode("ascii"),
            url_scheme="https" if secure else "http",
        )


def _compiles(rule: Rule) -> bool:
    """Whether the tree gives a rule the meaning that werkzeug gives it."""
    return (
        bool(_COMPILES(rule.rule))
        and rule.strict_slashes is not False
        and not (rule.host or rule.subdomain or rule.websocket or rule.alias or rule.build_only)
        and not (rule.defaults or rule.redirect_to)
    )


def _by_method(choices: Named) -> dict[bytes, tuple[Route, str]]:
    """Return the first route for each method, as far as the methods are named."""
    found: dict[bytes, tuple[Route, str]] = {}
    for route, names in choices:
        if route.methods is None:
            break
        for method in route.methods:
            found.setdefault(method, (route, names[-1]))
    return found


def _usual_lines(prefix: bytes, named: Mapping[bytes, Mapping[bytes, tuple[Route, str]]]) -> Usual:
    """Return a pattern for request lines of the usual shape, and what each of their beginnings means."""
    beginnings = {
        b"%b %b%b/" % (method, prefix, segment): (method, b"%b%b/" % (prefix, segment), *there)
        for segment, by_method in named.items()
        for method, there in by_method.items()
    }
    plain = rb"[0-9A-Za-z_.~@:-]+(?:/[0-9A-Za-z_.~@:-]+)*"
    pattern = rb"(%b)(%b)(?: HTTP/1\.1|\?)" % (b"|".join(map(re.escape, beginnings)) or b"(?!)", plain)
    return re.compile(pattern).fullmatch, beginnings


def _declared(handler: Any, name: str) -> Any:
    """Return an attribute of a handler, or of what it wraps; else None."""
    while handler is not None:
        value = getattr(handler, name, None)
        if value is not None:
            return value
        handler = getattr(handler, "__wrapped__", None)
    return None


def _text(path: bytes) -> str:
    """Return a path without percent-encoding. Raises ``BadRequest`` where it is not UTF-8."""
    if path == b"*":
        return "/"
    if b"%" in path:
        path = unquote_to_bytes(path)
    try:
        return path.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("The path is not UTF-8.") from error


def _is_path(rest: str) -> bool:
    """Whether werkzeug's ``path`` converter takes this, whose pattern is ``[^/].*?``."""
    return bool(rest) and rest[0] != "/" and "\n" not in rest[1:]


class _SlashWanted(Exception):
    """There is a rule for the same path with a slash at its end: werkzeug redirects to it."""


def _search(node: _Node, method: bytes, parts: list[str], values: tuple[str, ...]) -> Found | None:
    """Follow the tree with all that is left of a path, and come back from where it does not fit.

    Raises ``_SlashWanted``.
    """
    if not parts:
        if (
            "" in node.fixed
            and not _first(node.routes, method, ())
            and _first(node.fixed[""].routes, method, ())
        ):
            raise _SlashWanted
        return _first(node.routes, method, values)
    found: Found | None = None
    following = node.fixed.get(parts[0])
    if following is not None:
        found = _search(following, method, parts[1:], values)
    if found is None and node.segment is not None and parts[0]:
        found = _search(node.segment, method, parts[1:], (*values, parts[0]))
    if found is None and node.rest:
        rest = "/".join(parts)
        if _is_path(rest):
            found = _first(node.rest, method, (*values, rest))
    return found


def _first(choices: Named, method: bytes, values: tuple[str, ...]) -> Found | None:
    """Return the first of the routes that has the method, with the values under its names."""
    for route, names in choices:
        if route.methods is None or method in route.methods:
            return route, dict(zip(names, values, strict=False))
    return None
