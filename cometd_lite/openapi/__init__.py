"""The interface as OpenAPI 3.1: the document ``interface.json``, and what this module puts into it.

``interface.json`` says what HTTP.md says, in a form that programs read. It is OpenAPI with abbreviations:

- ``<max_body>`` stands for a field of ``Limits``, ``<EVENT_BYTES>`` for a constant of ``limits``, and other
  names between ``<`` and ``>`` for what ``Interface`` knows.
- A parameter or a header is named as its component is; a header with a ``?`` may be missing.
- An operation that is ``like`` a path is that path's operation of the same method, but for its own fields.
- An empty response is the problem of that status. The problems that every request may have are left out.
- ``"security": true`` says that a token is asked for, where there is a key.
- HEAD, OPTIONS, the headers of CORS and the pages are left out. ``page.json``, ``preflight.json`` and
  ``problem.json`` are what is written in their places.

``tests/test_openapi.py`` holds the document to the routes, and Schemathesis holds the server to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
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
        document = _read("interface.json", self._values(under))
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
            problem = _problem(status, found)
            components["schemas"][f"Problem{status}"] = problem["schema"]
            components["responses"][f"Problem{status}"] = problem["response"]
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


def _read(name: str, values: Mapping[str, Any]) -> Document:
    """Return a document of this package with values in the places of their names."""

    def value(match: re.Match[str]) -> str:
        whole, part = match.groups()
        if whole:
            return dumps(values[whole]).decode()
        shown = values[part]
        return dumps(f"{shown:g}" if isinstance(shown, float) else str(shown)).decode()[1:-1]

    document: Document = parse(_NAMED.sub(value, _text(name)).encode())
    return document


@cache
def _text(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")


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


def _problem(status: int, found: Sequence[str] = ()) -> Document:
    """Return the schema of the problems with a status, and the response that has it or a sentence."""
    values = {
        "status": status,
        "phrase": HTTPStatus(status).phrase,
        "types": list(map(problem_type, found)),
        "kinds": ", ".join(f"`{kind}`" for kind in found),
        "headers": _headers((*_COMMON, *_PROBLEM_HEADERS.get(status, ()), *_CORS)),
    }
    return _read("problem.json", values)


def _sentence(status: str) -> Document:
    """Return the response of a route that refuses by a sentence; what is wrong below it is a problem."""
    sentence: Document = _problem(int(status))["sentence"]
    return sentence


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


# -- operations


def _shown(name: str, page: Page) -> Document:
    summary = "The console page" if name == "index.html" else f"The file {name}"
    media_type = page.media_type.partition(";")[0]
    operation = _read("page.json", {"summary": summary, "media_type": media_type})
    own = operation.pop("headers")
    named = [field for field in page.headers if field not in {*own, "Content-Type"}]
    headers = {**_headers((*named, *_CORS)), **own}
    responses = {status: {**shown, "headers": headers} for status, shown in operation["responses"].items()}
    return {**operation, "responses": {**_with_problems({}), **responses}}


def _with_head_and_options(path: str, item: Document) -> Document:
    """Return a path with HEAD, which is a GET without a body, and OPTIONS, which looks at no name."""
    made = dict(item)
    if "get" in item:
        made["head"] = {
            **{name: value for name, value in item["get"].items() if name != "operationId"},
            "summary": f"{item['get']['summary']}: the head alone, at once",
            "responses": {name: value for name, value in item["get"]["responses"].items() if name != "101"},
        }
    options = _read("preflight.json", {})
    parameter = options.pop("parameter")
    options["parameters"] = [{"name": name, **parameter} for name in re.findall(r"\{(\w+)\}", path)]
    options["responses"] = _with_problems(options["responses"])
    return {**made, "options": options}
