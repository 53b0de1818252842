"""The interface as OpenAPI 3.1: the document ``interface.json``, and what this module puts into it.

``interface.json`` says what HTTP.md says, in a form that programs read. It is OpenAPI with abbreviations:

- ``<max_body>`` stands for a field of ``Limits``, ``<EVENT_BYTES>`` for a constant of ``limits``, and other
  names between ``<`` and ``>`` for what ``Interface`` knows.
- A parameter or a header is named as its component is; a header with a ``?`` may be missing.
- An operation that is ``like`` a path is that path's operation of the same method, but for its own fields.
- An empty response is the problem of that status. The problems that every request may have are left out.
- ``"security": true`` says that a token is asked for, where there is a key.
- HEAD, OPTIONS, the headers of CORS and the pages are left out.

``tests/test_openapi.py`` holds the document to the routes, and Schemathesis holds the server to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Any, TypeAlias

from .. import __version__
from .. import limits as bounds
from ..errors import kinds, problem_type
from ..jsontext import dumps, parse
from ..limits import Limits
from ..pages import Page, pages

Document: TypeAlias = dict[str, Any]
"""A JSON object of the document, or a part of one."""

_EVERYWHERE = (400, 405, 408, 414, 417, 421, 429, 431, 503, 505)
"""The problems that every request may have, whatever its path, by their statuses."""

_COMMON = ("Cache-Control", "Vary")
_CORS = tuple(f"Access-Control-{name}?" for name in ("Allow-Origin", "Allow-Credentials", "Expose-Headers"))
_PREFLIGHT = tuple(f"Access-Control-{name}?" for name in ("Allow-Methods", "Allow-Headers", "Max-Age"))
_PROBLEM_HEADERS = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    426: ("Upgrade", "Sec-WebSocket-Version"),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_NAMED = re.compile(r'"<(\w+)>"|<(\w+)>')
"""What stands for a value: a whole string for any, and a part of one for its text."""


@dataclass(frozen=True)
class Interface:
    """What is turned on in one server, and its bounds. ``tokens``: whether requests need one.

    ``judged``: whether the embedding program or an application has a word on who may do what. ``asked``:
    whether it is an application, which is asked by HTTP.
    """

    limits: Limits
    tokens: bool = False
    judged: bool = False
    asked: bool = False
    metrics: bool = True
    console: bool = True
    bayeux: bool = True
    presence: bool = False

    def document(self, under: str = "") -> Document:
        """Return the whole document of an interface that lies under a path."""
        document = _read(self._values(under))
        paths = {
            path: {method: self._operation(document["paths"], path, method) for method in item}
            for path, item in document["paths"].items()
            if (self.bayeux or not path.startswith("/cometd"))
            and (self.metrics or path != "/metrics")
            and (self.presence or not path.startswith("/presence"))
        }
        for name, page in sorted(pages().items()):
            if self.console or name == "client.js":
                paths["/" if name == "index.html" else f"/{name}"] = {"get": _shown(name, page)}
        document["paths"] = {path: _with_head_and_options(path, item) for path, item in paths.items()}
        components = document["components"]
        if not self.tokens:
            del components["securitySchemes"]
        for status, found in kinds().items():
            components["schemas"][f"Problem{status}"] = _problem_schema(status, found)
            components["responses"][f"Problem{status}"] = _problem(status, found)
        for name, schema in tuple(components["headers"].items()):
            components["headers"][name] = {"schema": schema, "required": True}
            components["headers"][f"{name}.maybe"] = {"schema": schema}
        return document

    def _values(self, under: str) -> dict[str, Any]:
        """Return what the names between ``<`` and ``>`` stand for."""
        return {
            **vars(bounds),
            **asdict(self.limits),
            "cursor": rf"[0-9a-z]{{10}}-(?:0|[1-9][0-9]{{0,{bounds.CURSOR_DIGITS - 1}}})",
            "history": "last:(?:[1-9][0-9]{0,2}|1000)|since:[0-9]{1,8}(?:\\.[0-9]{1,3})?",
            "lease": rf"[0-9a-z]{{10}}-[1-9][0-9]{{0,{bounds.CURSOR_DIGITS - 1}}}"
            r"\.[1-9][0-9]{0,8}\.[0-9A-Za-z_-]{22}",
            "name": f"{_segment('$')}(?:/{_segment()}){{0,{bounds.RECIPIENT_SEGMENTS - 1}}}",
            "under": under or "/",
            "version": __version__,
            "wait": min(bounds.WAIT_SECONDS, self.limits.max_wait),
        }

    def _operation(self, paths: Document, path: str, method: str) -> Document:
        """Return an operation without its abbreviations."""
        operation = paths[path][method]
        like = paths[operation["like"]][method] if "like" in operation else {}
        responses = {**like.get("responses", {}), **operation.get("responses", {})}
        operation = {name: value for name, value in {**like, **operation}.items() if name != "like"}
        operation["parameters"] = [
            {"$ref": f"#/components/parameters/{name}"} for name in operation.get("parameters", ())
        ]
        if operation.pop("security", False):
            if self.tokens:
                operation["security"] = [{"bearer": []}, {"token": []}, *([{}] if self.asked else [])]
            if self.tokens or self.asked:
                responses["401"] = {}
            if self.tokens or self.judged:
                responses["403"] = {}
        if not (self.tokens or self.asked):
            responses.pop("401", None)
        refusal = _sentence if "bayeux" in operation["tags"] else _reference
        return {**operation, "responses": _with_problems(responses, refusal)}


def _read(values: dict[str, Any]) -> Document:
    """Return the document with values in the places of their names."""

    def value(match: re.Match[str]) -> str:
        whole, part = match.groups()
        if whole:
            return dumps(values[whole]).decode()
        shown = values[part]
        return dumps(f"{shown:g}" if isinstance(shown, float) else str(shown)).decode()[1:-1]

    source = files(__name__).joinpath("interface.json").read_text("utf-8")
    document: Document = parse(_NAMED.sub(value, source).encode())
    return document


def _segment(not_first: str = "") -> str:
    """Return a regular expression of a name's segment, which is not empty, ``.``, ``..``, ``*`` or ``**``.

    ECMAScript and Python understand it alike.
    """
    controls = r"\x00-\x1f\x7f-\x9f"
    any_ = rf"[^/{controls}]"
    plain = rf"[^/.*{not_first}{controls}]{any_}*"
    dotted = rf"\.(?:[^/.{controls}]{any_}*|\.{any_}+)"
    starred = rf"\*(?:[^/*{controls}]{any_}*|\*{any_}+)"
    return f"(?:{plain}|{dotted}|{starred})"


# -- responses


def _headers(names: Iterable[str]) -> Document:
    return {
        name.removesuffix("?"): {"$ref": f"#/components/headers/{name.replace('?', '.maybe')}"}
        for name in names
    }


def _reference(status: str) -> Document:
    return {"$ref": f"#/components/responses/Problem{status}"}


def _sentence(status: str) -> Document:
    """Return the response of a route that refuses by a sentence; what is wrong below it is a problem."""
    schema = {"$ref": f"#/components/schemas/Problem{status}"}
    return {
        "description": f"{HTTPStatus(int(status)).phrase}, as a sentence that says what is right.",
        "headers": _headers((*_COMMON, *_PROBLEM_HEADERS.get(int(status), ()), *_CORS)),
        "content": {
            "text/plain": {"schema": {"type": "string"}},
            "application/problem+json": {"schema": schema},
        },
    }


def _with_problems(responses: Document, refusal: Callable[[str], Document] = _reference) -> Document:
    """Return responses by status, without their abbreviations, and with the refusals of every request."""
    made: Document = {}
    for status in sorted({*responses, *map(str, _EVERYWHERE)}):
        response = responses.get(status)
        if not response:
            made[status] = refusal(status)
        else:
            cors = () if status == "101" else _CORS
            made[status] = {**response, "headers": _headers((*response["headers"], *cors))}
    return made


def _problem_schema(status: int, kinds: list[str]) -> Document:
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "enum": list(map(problem_type, kinds))},
            "title": {"type": "string"},
            "status": {"const": status},
            "detail": {"type": "string", "description": "What was wrong, and what is right."},
        },
    }


def _problem(status: int, kinds: list[str]) -> Document:
    schema = {"$ref": f"#/components/schemas/Problem{status}"}
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{kind}`' for kind in kinds)}.",
        "headers": _headers((*_COMMON, *_PROBLEM_HEADERS.get(status, ()), *_CORS)),
        "content": {"application/problem+json": {"schema": schema}},
    }


# -- operations


def _shown(name: str, page: Page) -> Document:
    """Return the operation that shows a page."""
    summary = "The console page" if name == "index.html" else f"The file {name}"
    named = [field for field in page.headers if field not in {"Cache-Control", "Content-Type", "ETag"}]
    headers = {
        **_headers((*named, *_CORS)),
        "Cache-Control": {"required": True, "schema": {"type": "string", "enum": ["no-cache"]}},
        "ETag": {
            "required": True,
            "schema": {"type": "string", "description": "That of the file.", "pattern": '^"[0-9a-f]+"$'},
        },
    }
    content = {page.media_type.partition(";")[0]: {"schema": {"type": "string"}}}
    condition = {
        "name": "If-None-Match",
        "in": "header",
        "description": "The ETag of what one has.",
        "schema": {"type": "string"},
    }
    return {
        "summary": summary,
        "tags": ["pages"],
        "parameters": [condition],
        "responses": {
            **_with_problems({}),
            "200": {"description": f"{summary}.", "headers": headers, "content": content},
            "304": {"description": "It has not changed.", "headers": headers},
        },
    }


def _with_head_and_options(path: str, item: Document) -> Document:
    """Return a path with HEAD, which is a GET without a body, and OPTIONS, which looks at no name."""
    made = dict(item)
    if "get" in item:
        made["head"] = {
            **{name: value for name, value in item["get"].items() if name != "operationId"},
            "summary": f"{item['get']['summary']}: the head alone, at once",
            "responses": {name: value for name, value in item["get"]["responses"].items() if name != "101"},
        }
    allowed = {
        "description": "What is allowed here, to pages of allowed origins.",
        "headers": [*_COMMON, "Allow?", *_PREFLIGHT],
    }
    made["options"] = {
        "summary": "The CORS preflight",
        "tags": ["server"],
        "parameters": [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": "Whatever it is.",
                "schema": {"type": "string", "minLength": 1},
            }
            for name in re.findall(r"\{(\w+)\}", path)
        ],
        "responses": _with_problems({"204": allowed, "404": {}}),
    }
    return made
