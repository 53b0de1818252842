"""The interface as OpenAPI 3.1: the bounds, and what is turned on, arrive; the document leaves.

It says what HTTP.md says, in a form that programs read: every route, parameter, status, body and header.
``tests/test_openapi.py`` holds it to the routes, and Schemathesis holds the server to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

from . import __version__
from . import limits as bounds
from .core.message import JSON_TYPE
from .errors import MALFORMED, CometError, kind_of, problem_type
from .jsontext import parse
from .limits import Limits
from .pages import pages

Document: TypeAlias = dict[str, Any]
"""A JSON object of the document, or a part of one."""

_PROBLEM_TYPE = "application/problem+json"
_ANY_TYPE = "*/*"

_EVERYWHERE = (400, 405, 408, 414, 417, 421, 429, 431, 503, 505)
"""What may be wrong with any request, whatever its path, or with the moment at which it comes."""

# -- the words of the interface, as regular expressions that ECMAScript and Python understand alike

_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_ANY = rf"[^/{_CONTROLS}]"


def _segment(not_first: str = "") -> str:
    """Return a segment of a name: not empty, and none of ``.``, ``..``, ``*`` and ``**``."""
    plain = rf"[^/.*{not_first}{_CONTROLS}]{_ANY}*"
    dotted = rf"\.(?:[^/.{_CONTROLS}]{_ANY}*|\.{_ANY}+)"
    starred = rf"\*(?:[^/*{_CONTROLS}]{_ANY}*|\*{_ANY}+)"
    return f"(?:{plain}|{dotted}|{starred})"


_NAME = f"{_segment('$')}(?:/{_segment()})*"
_CURSOR = rf"[0-9a-z]{{10}}-(?:0|[1-9][0-9]{{0,{bounds.CURSOR_DIGITS - 1}}})"
_LISTENER = "^~[0-9a-f]{40}$"
_VALIDATOR = rf'(?:W/)?"(?:oldest|now|{_CURSOR})"'


def _schema(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: Document) -> Document:
    """Return the schema of an object that has all of the properties."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _asked(**properties: Document) -> Document:
    """Return the schema of an object that a client sends: it may have the properties, and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _list(items: Document, **words: Any) -> Document:
    return {"type": "array", "items": items, **words}


def _text(description: str = "", **words: Any) -> Document:
    return {"type": "string", **({"description": description} if description else {}), **words}


def _count(description: str = "") -> Document:
    return {"type": "integer", "minimum": 0, **({"description": description} if description else {})}


def _or_null(schema: Document) -> Document:
    return {"oneOf": [schema, {"type": "null"}]}


def _schemas() -> Document:
    instant = _text(format="date-time")
    truth = {"type": "boolean"}
    names = _list(_schema("Name"), maxItems=bounds.RECIPIENTS_PER_REQUEST)
    listener = _object(
        id=_text(pattern=_LISTENER),
        recipients=_list(_schema("Readable")),
        expires_in={"type": "number", "exclusiveMinimum": 0},
        cursor=_schema("Cursor"),
    )
    message = _object(
        id=_schema("Id"), recipient=_schema("Name"), created_at=instant, type=_text("The media type.")
    )
    message["properties"] |= {
        "event": _schema("Event"),
        "data": {"description": "The parsed JSON, or the text."},
        "data_base64": _text("Any other type.", contentEncoding="base64"),
    }
    message["oneOf"] = [{"required": ["data"]}, {"required": ["data_base64"]}]
    return {
        "Name": _text(
            f"A recipient: 1 to {bounds.RECIPIENT_BYTES} bytes of UTF-8, in segments parted by `/`.",
            minLength=1,
            maxLength=bounds.RECIPIENT_BYTES,
            pattern=f"^{_NAME}$",
            examples=["bob", "chat/room1"],
        ),
        "Readable": _text(
            "A recipient, or a pattern: `chat/*` is one more segment, `chat/**` one or more. "
            "A poll with a pattern needs a cursor.",
            minLength=1,
            maxLength=bounds.RECIPIENT_BYTES,
            pattern=rf"^(?:{_NAME}(?:/\*\*?)?|\*\*?)$",
            examples=["bob", "chat/*"],
        ),
        "Names": {**names, "minItems": 1},
        "Readables": {**names, "items": _schema("Readable"), "minItems": 1},
        "Event": _text(
            f"An event name of 1 to {bounds.EVENT_BYTES} bytes.",
            minLength=1,
            maxLength=bounds.EVENT_BYTES,
            pattern=r"^[^\r\n]+$",
        ),
        "Id": _text("A message's id, and the cursor for everything after it.", pattern=f"^{_CURSOR}$"),
        "Cursor": _text("An opaque place in the log.", pattern=f"^(?:oldest|now|{_CURSOR})$"),
        "Validator": _text("A cursor as an entity tag.", pattern=f"^{_VALIDATOR}$"),
        "Receipt": _object(
            id=_schema("Id"),
            ids=_list(_schema("Id"), minItems=1),
            created_at=instant,
            delivered=_count("The waiting readers that it woke."),
            recipients=_list(_text()),
        ),
        "Message": message,
        "Messages": _object(
            messages=_list(_schema("Message"), maxItems=bounds.POLL_MESSAGES_MOST),
            cursor=_schema("Cursor"),
            gap=truth,
            more=truth,
        ),
        "Registration": _asked(
            recipients={**names, "items": _schema("Readable")},
            ttl={"type": "number", "exclusiveMinimum": 0, "maximum": bounds.LISTENER_SECONDS_MOST},
        ),
        "Change": _asked(recipients={**names, "items": _schema("Readable")}),
        "Listener": listener,
        "Standing": _object(
            recipient=_schema("Name"),
            waiting=_count("Readers that wait."),
            queued=_count("Messages that nobody has acknowledged."),
            bytes=_count(),
            oldest=_or_null(_schema("Id")),
            newest=_or_null(_schema("Id")),
            last_seen=_or_null(instant),
            online=truth,
        ),
        "Health": _object(status=_text(enum=["ok", "stopping"])),
        "BayeuxMessage": {"type": "object", "description": "A message of the Bayeux protocol."},
        "BayeuxMessages": _list(_schema("BayeuxMessage"), minItems=1),
        "BayeuxRequest": {
            "description": "A message or an array of them; each is answered by itself, be it one or not.",
            "oneOf": [_list({"examples": [parse(_HANDSHAKE.encode())]}, minItems=1), {"type": "object"}],
        },
        **{f"Problem{status}": _problem_schema(status) for status in sorted(_kinds())},
    }


# -- problems


def _errors(of: type[CometError] = CometError) -> Iterator[type[CometError]]:
    for error in of.__subclasses__():
        if error.__module__ == CometError.__module__:  # a client's own are never answered
            yield error
            yield from _errors(error)


def _kinds() -> dict[int, list[str]]:
    """Return the kinds of problem that there are, by their status."""
    kinds: dict[int, set[str]] = {}
    for error in _errors():
        kinds.setdefault(error.status, set()).add(error.kind)
    for status, title in MALFORMED.items():
        kinds.setdefault(status, set()).add(kind_of(title))
    return {status: sorted(found) for status, found in kinds.items()}


def _problem_schema(status: int) -> Document:
    return _object(
        type=_text(enum=[problem_type(kind) for kind in _kinds()[status]]),
        title=_text(),
        status={"const": status},
        detail=_text("What was wrong, and what is right."),
    )


def _problem(status: int) -> Document:
    names = ["Cache-Control", "Vary"]
    names += ["Retry-After"] if status in {429, 503} else []
    names += ["WWW-Authenticate"] if status == 401 else []
    names += ["Allow"] if status == 405 else []
    names += ["Upgrade", "Sec-WebSocket-Version"] if status == 426 else []
    kinds = ", ".join(f"`{kind}`" for kind in _kinds()[status])
    return _response(
        f"{HTTPStatus(status).phrase}: {kinds}.",
        {_PROBLEM_TYPE: _schema(f"Problem{status}")},
        _always(*names),
    )


# -- headers

_HEADERS: dict[str, Document] = {
    "Cache-Control": _text("Nothing here is to be kept; pages are asked for again.", enum=["no-store"]),
    "Vary": _text("The request's headers that the answer depends on.", pattern="Origin"),
    "Comet-Cursor": _schema("Cursor"),
    "ETag": _text("The cursor in quotes.", pattern=rf'^"(?:oldest|now|{_CURSOR})"$'),
    "Comet-Gap": _text("Messages before these are no longer kept.", enum=["true"]),
    "Comet-Id": _schema("Id"),
    "Comet-Recipient": _text("Percent-encoded."),
    "Comet-Created-At": _text(format="date-time"),
    "Preference-Applied": _text("The wait that was preferred.", pattern=r"^wait=\d+$"),
    "Retry-After": _count("Seconds."),
    "WWW-Authenticate": _text(enum=["Bearer"]),
    "Allow": _text("The methods of this path."),
    "Location": _text("The listener's address.", format="uri-reference"),
    "Set-Cookie": _text("What tells the browser, against too many held connects of one."),
    "X-Accel-Buffering": _text(enum=["no"]),
    "X-Content-Type-Options": _text(enum=["nosniff"]),
    "Content-Security-Policy": _text("What others wrote runs nothing.", pattern="sandbox|default-src 'none'"),
    "Referrer-Policy": _text(enum=["no-referrer"]),
    "Cross-Origin-Resource-Policy": _text(enum=["cross-origin"]),
    "Upgrade": _text(enum=["websocket"]),
    "Sec-WebSocket-Accept": _text(),
    "Sec-WebSocket-Version": _text(enum=["13"]),
    "Access-Control-Allow-Origin": _text("The request's origin, where it is allowed."),
    "Access-Control-Allow-Credentials": _text(enum=["true"]),
    "Access-Control-Expose-Headers": _text(),
    "Access-Control-Allow-Methods": _text(),
    "Access-Control-Allow-Headers": _text(),
    "Access-Control-Max-Age": _count("Seconds."),
}
_CORS = tuple(name for name in _HEADERS if name.startswith("Access-Control-"))
_READING_CORS = _CORS[:3]


def _always(*names: str) -> Document:
    """Return headers that an answer always has."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _maybe(*names: str) -> Document:
    """Return headers that an answer may have."""
    return {name: {"$ref": f"#/components/headers/{name}.maybe"} for name in names}


_COMMON = _always("Cache-Control", "Vary")
_PLACE = {**_COMMON, **_always("Comet-Cursor", "ETag"), **_maybe("Comet-Gap", "Preference-Applied")}
_ETAG = {"required": True, "schema": _text("That of the file.", pattern='^"[0-9a-f]+"$')}
_PAGE_CACHE = {"required": True, "schema": _text(enum=["no-cache"])}


def _response(
    description: str, content: Document | None = None, headers: Document | None = None, **words: Any
) -> Document:
    """Return a response: its schemas by media type, and its headers besides those of CORS."""
    made: Document = {"description": description}
    made["headers"] = {**(_COMMON if headers is None else headers), **_maybe(*_READING_CORS)}
    if content:
        made["content"] = {kind: {"schema": schema} if schema else {} for kind, schema in content.items()}
    return made | words


def _json(description: str, name: str, headers: Document | None = None, **words: Any) -> Document:
    return _response(description, {JSON_TYPE: _schema(name)}, headers, **words)


# -- parameters


def _query(name: str, description: str, schema: Document, **words: Any) -> Document:
    return {"name": name, "in": "query", "description": description, "schema": schema, **words}


def _field(name: str, description: str, schema: Document, **words: Any) -> Document:
    return {"name": name, "in": "header", "description": description, "schema": schema, **words}


def _path(name: str, description: str, schema: Document) -> Document:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _parameters(limits: Limits) -> Document:
    rcpt = "Given once for each of them, where the path names none."
    place = "Used where `after` is not given"
    return {
        "recipient": _path(
            "recipient", "The name, percent-encoded; a `/` in it may stay as it is.", _schema("Name")
        ),
        "readable": _path(
            "recipient", "A name or a pattern; a `/` in it may stay as it is.", _schema("Readable")
        ),
        "id": _path("id", "A listener's id.", _text(pattern=_LISTENER)),
        "kind": _path(
            "kind",
            "What a client puts behind the path: its kind of message.",
            _text(pattern=r"^[^/\n][^\n]*$"),
        ),
        "to-rcpt": _query("rcpt", rcpt, _schema("Names")),
        "of-rcpt": _query("rcpt", rcpt, _schema("Readables")),
        "some-rcpt": _query("rcpt", "Given once for each of them.", _schema("Readables"), required=True),
        "to": _query("to", "Every registered listener, in the place of `rcpt`.", _text(enum=["listeners"])),
        "event": _query("event", "An event name, for SSE and WebSocket.", _schema("Event")),
        "ttl": _query(
            "ttl",
            f"Seconds that the message is kept; {limits.ttl:g} at the most, however many are asked for.",
            {"type": "number", "exclusiveMinimum": 0},
        ),
        "queue": _query(
            "queue", "`no`: only for whoever waits at this moment.", _text(enum=["yes", "no"], default="yes")
        ),
        "overflow": _query(
            "overflow",
            "What a full mailbox does with this push; else what the server was started with.",
            _text(enum=["reject", "drop-oldest"]),
        ),
        "idempotency-key": _field(
            "Idempotency-Key",
            "A repeat with the same body gets the first answer and adds nothing.",
            _text(
                minLength=1,
                maxLength=bounds.IDEMPOTENCY_KEY_BYTES,
                pattern="^[!-~\\u0080-\\u00ff](?:[ -~\\u0080-\\u00ff]*[!-~\\u0080-\\u00ff])?$",
            ),
        ),
        "after": _query("after", "The reader's cursor.", _schema("Cursor")),
        "if-none-match": _field("If-None-Match", f"{place}: the cursor as an ETag.", _schema("Validator")),
        "last-event-id": _field("Last-Event-ID", f"{place}, nor If-None-Match.", _schema("Cursor")),
        "wait": _query(
            "wait",
            "Seconds to be held.",
            {
                "type": "number",
                "minimum": 0,
                "maximum": limits.max_wait,
                "default": min(bounds.WAIT_SECONDS, limits.max_wait),
            },
        ),
        "prefer": _field("Prefer", "`wait=N`, where there is no `wait` (RFC 7240).", _text()),
        "limit": _query(
            "limit",
            "Messages in one answer.",
            {
                "type": "integer",
                "minimum": 1,
                "maximum": bounds.POLL_MESSAGES_MOST,
                "default": bounds.POLL_MESSAGES,
            },
        ),
        "format": _query(
            "format",
            "Else by `Accept`: `json` unless only text or octets are accepted.",
            _text(enum=["json", "raw"]),
        ),
        "listener": _query(
            "listener", "A listener's id, in the place of recipients and cursor.", _text(pattern=_LISTENER)
        ),
        "key": _field(
            "Sec-WebSocket-Key",
            "RFC 6455 §4.1.",
            _text("16 bytes in base64.", pattern="^[A-Za-z0-9+/]{21}[AQgw]==$"),
            required=True,
        ),
        "version": _field("Sec-WebSocket-Version", "RFC 6455 §4.1.", _text(enum=["13"]), required=True),
        "jsonp": _query(
            "jsonp",
            "The name of the function that is called.",
            _text(
                maxLength=bounds.BAYEUX_CALLBACK_BYTES,
                pattern=r"^[A-Za-z_$][A-Za-z0-9_$]*(?:\.[A-Za-z_$][A-Za-z0-9_$]*)*$",
                default="jsonpcallback",
            ),
        ),
        "message": {
            "name": "message",
            "in": "query",
            "description": "What is asked, as JSON.",
            "required": True,
            "content": {JSON_TYPE: {"schema": _schema("BayeuxRequest")}},
        },
    }


_HANDSHAKE = (
    '{"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["callback-polling"]}'
)
_PLACES = ("after", "if-none-match", "last-event-id")
_PUSHING = ("event", "ttl", "queue", "overflow", "idempotency-key")
_POLLING = (*_PLACES, "wait", "prefer", "limit", "format")


# -- the document


@dataclass(frozen=True)
class Interface:
    """What is turned on in one server, and its bounds. ``tokens``: whether requests need one.

    ``judged``: whether the embedding program has a word on who may do what.
    """

    limits: Limits
    tokens: bool = False
    judged: bool = False
    metrics: bool = True
    console: bool = True
    bayeux: bool = True

    def document(self, under: str = "") -> Document:
        """Return the whole document of an interface that lies under a path."""
        components = {
            "schemas": _schemas(),
            "parameters": _parameters(self.limits),
            "headers": {
                **{name: {"schema": schema, "required": True} for name, schema in _HEADERS.items()},
                **{f"{name}.maybe": {"schema": schema} for name, schema in _HEADERS.items()},
            },
            "responses": {f"Problem{status}": _problem(status) for status in sorted(_kinds())},
        }
        if self.tokens:
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "token": {"type": "apiKey", "in": "query", "name": "token"},
            }
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "cometd-lite",
                "version": __version__,
                "summary": "A comet server: hold a GET until someone pushes.",
                "description": _DESCRIPTION,
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": under or "/"}],
            "tags": [{"name": name, "description": sentence} for name, sentence in _TAGS.items()],
            "paths": {path: self._path_item(path, operations) for path, operations in self._paths().items()},
            "components": components,
        }

    def _paths(self) -> dict[str, dict[str, Document]]:
        """Return the operations of each path by their methods."""
        paths = {
            "/push": {"post": self._push("to-rcpt", "to")},
            "/push/{recipient}": {"post": self._push("recipient")},
            "/poll": {"get": self._poll("of-rcpt", "listener")},
            "/poll/{recipient}": {"get": self._poll("readable")},
            "/stream": {"get": self._stream("some-rcpt")},
            "/stream/{recipient}": {"get": self._stream("readable")},
            "/ws": {"get": self._socket("some-rcpt")},
            "/ws/{recipient}": {"get": self._socket("readable")},
            "/register": {"post": self._register()},
            "/listeners/{id}": self._listener(),
            "/recipients/{recipient}": self._recipient(),
            "/healthz": {"get": _health()},
            "/openapi.json": {"get": _shown("This document", "server", {JSON_TYPE: {"type": "object"}})},
        }
        if self.bayeux:
            for path, *named in (("/cometd",), ("/cometd/",), ("/cometd/{kind}", "kind")):
                paths[path] = {"post": self._bayeux_post(*named), "get": self._bayeux_get(*named)}
        if self.metrics:
            paths["/metrics"] = {
                "get": _shown("Counts, as Prometheus reads them", "server", {"text/plain": _text()})
            }
        for name in sorted(pages()):
            if self.console or name == "client.js":
                paths[f"/{name}" if name != "index.html" else "/"] = {"get": _page(name)}
        return paths

    @staticmethod
    def _path_item(path: str, operations: dict[str, Document]) -> Document:
        """Return a path with what every path knows besides: HEAD where there is GET, and OPTIONS."""
        item: Document = dict(operations)
        if "get" in operations:
            item["head"] = _looked(operations["get"])
        item["options"] = _preflight(path)
        return item

    def _operation(
        self,
        summary: str,
        tag: str,
        parameters: tuple[str, ...],
        responses: dict[int, Document],
        problems: tuple[int, ...] = (),
        *,
        changes: bool = False,
        guarded: bool = True,
    ) -> Document:
        """Return an operation with everything that may go wrong; a ``guarded`` one asks for the token."""
        refused = {*_EVERYWHERE, *problems}
        if changes or (guarded and (self.tokens or self.judged)):
            refused.add(403)
        if guarded and self.tokens:
            refused.add(401)
        made: Document = {
            "summary": summary,
            "tags": [tag],
            "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in parameters],
            "responses": _with_problems(responses, refused),
        }
        if guarded and self.tokens:
            made["security"] = [{"bearer": []}, {"token": []}]
        return made

    def _push(self, *named: str) -> Document:
        most = self.limits.max_body
        text = {"schema": _text(minLength=1, maxLength=most)}
        body = {
            JSON_TYPE: {"schema": {"description": "Any JSON."}},
            "application/x-ndjson": {
                "schema": _text("One JSON message a line.", minLength=1, maxLength=most)
            },
            "text/plain": text,
            "application/octet-stream": text,
            _ANY_TYPE: {},
        }
        receipt = {"recipient": "$response.body#/recipients/0", "after": "$response.body#/id"}
        links = {"poll": {"operationId": "pollRecipient", "parameters": receipt}}
        operation = self._operation(
            "Give a message to recipients",
            "push",
            (*named, *_PUSHING),
            {
                201: _json("At least one waiting reader got it.", "Receipt", links=links),
                202: _json("It waits in the mailbox.", "Receipt", links=links),
            },
            (413, 422),
            changes=True,
        )
        operation["requestBody"] = {
            "description": f"The message, of at most {most} bytes, as its Content-Type says. JSON and NDJSON "
            "must parse, and `text/*` must be UTF-8; a form's type, or none, is text or octets.",
            "required": True,
            "content": body,
        }
        return operation

    def _poll(self, *named: str) -> Document:
        raw = {"description": "With `format=raw`, a message that is JSON itself."}
        exact = _always("Comet-Id", "Comet-Recipient", "Comet-Created-At", "X-Content-Type-Options")
        shown = {
            JSON_TYPE: {"anyOf": [_schema("Messages"), raw]},
            _ANY_TYPE: {},
        }
        headers = {**_PLACE, **_maybe(*exact, "Content-Security-Policy")}
        operation = self._operation(
            "Ask for messages, and be held until there is one",
            "poll",
            (*named, *_POLLING),
            {
                200: _response("Messages, or none at the wait's end; or the one raw one.", shown, headers),
                204: _response("The wait is over, and raw was asked for.", headers=_PLACE),
                304: _response("The wait is over, and the cursor came in If-None-Match.", headers=_PLACE),
            },
            (403, *((410,) if "listener" in named else ())),
        )
        return {**operation, "operationId": "pollRecipient" if "readable" in named else "poll"}

    def _stream(self, named: str) -> Document:
        headers = {**_COMMON, **_always("X-Accel-Buffering")}
        shown: Document = {"text/event-stream": {}, "application/x-ndjson": {}}
        return self._operation(
            "Be told messages as they come",
            "stream",
            (named, *_PLACES),
            {200: _response("Server-Sent Events, or NDJSON by `Accept`, without an end.", shown, headers)},
        )

    def _socket(self, named: str) -> Document:
        return self._operation(
            "Open a WebSocket: messages come as texts, and pushes are sent as texts",
            "stream",
            (named, *_PLACES, "key", "version"),
            {101: _opened()},
            (426,),
            changes=True,
        )

    def _register(self) -> Document:
        found = {"id": "$response.body#/id"}
        operation = self._operation(
            "Register a listener",
            "listeners",
            (),
            {
                201: _json(
                    "It is registered; its id is a secret, and a recipient of its own.",
                    "Listener",
                    {**_COMMON, **_always("Location")},
                    links={
                        "show": {"operationId": "showListener", "parameters": found},
                        "change": {"operationId": "changeListener", "parameters": found},
                        "end": {"operationId": "endListener", "parameters": found},
                        "poll": {"operationId": "poll", "parameters": {"listener": found["id"]}},
                    },
                )
            },
            (413,),
            changes=True,
        )
        operation["requestBody"] = {"content": {JSON_TYPE: {"schema": _schema("Registration")}}}
        return operation

    def _listener(self) -> dict[str, Document]:
        shown = {200: _json("The listener.", "Listener")}
        named = ("id",)
        show = self._operation("Show a listener", "listeners", named, shown, (404, 410))
        change = self._operation(
            "Set a listener's recipients", "listeners", named, shown, (404, 410, 413), changes=True
        )
        change["requestBody"] = {"content": {JSON_TYPE: {"schema": _schema("Change")}}}
        ended = {204: _response("It is gone.")}
        end = self._operation("End a listener", "listeners", named, ended, (404, 410), changes=True)
        return {
            "get": {**show, "operationId": "showListener"},
            "put": {**change, "operationId": "changeListener"},
            "delete": {**end, "operationId": "endListener"},
        }

    def _recipient(self) -> dict[str, Document]:
        named = ("recipient",)
        shown = {200: _json("How it stands; one that nobody knows has nothing.", "Standing")}
        emptied = {204: _response("Its messages are gone; readers get a gap.")}
        return {
            "get": self._operation("Say how a recipient stands", "recipients", named, shown),
            "delete": self._operation(
                "Lose a recipient's messages", "recipients", named, emptied, changes=True
            ),
        }

    def _bayeux_post(self, *named: str) -> Document:
        operation = self._operation(
            "Bayeux: long-polling",
            "bayeux",
            named,
            {
                200: _json("A reply for each message, and events.", "BayeuxMessages", _BAYEUX),
                409: _response("A later connect of the same client took its place.", {"text/plain": _text()}),
            },
            (403, 404, 413),
            guarded=False,
        )
        form = _object(message=_schema("BayeuxRequest"))
        operation["requestBody"] = {
            "description": "Messages. Where a token is needed, each is answered by what it may do.",
            "required": True,
            "content": {
                JSON_TYPE: {"schema": _schema("BayeuxRequest")},
                "application/x-www-form-urlencoded": {
                    "schema": form,
                    "encoding": {"message": {"contentType": JSON_TYPE}},
                },
            },
        }
        return operation

    def _bayeux_get(self, *named: str) -> Document:
        return self._operation(
            "Bayeux: callback-polling, or a WebSocket where the request asks to upgrade",
            "bayeux",
            (*named, "message", "jsonp"),
            {
                101: _opened(),
                200: _response(
                    "A script that calls the function with an array of messages.",
                    {"text/javascript": _text()},
                    {**_BAYEUX, **_always("X-Content-Type-Options")},
                ),
                409: _response("A later connect of the same client took its place.", {"text/plain": _text()}),
            },
            (401, 403, 404, 426) if self.tokens else (403, 404, 426),
            guarded=False,
        )


_BAYEUX = {**_COMMON, **_maybe("Set-Cookie")}


def _with_problems(responses: dict[int, Document], statuses: set[int]) -> Document:
    """Return responses by their statuses in order, those of problems by reference."""
    problems = {status: {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}
    return {str(status): response for status, response in sorted({**problems, **responses}.items())}


def _opened() -> Document:
    """Return the response that makes a connection a WebSocket."""
    return {
        "description": "The connection is a WebSocket.",
        "headers": _always("Upgrade", "Sec-WebSocket-Accept"),
    }


def _shown(summary: str, tag: str, content: Document) -> Document:
    """Return an operation that anyone may ask for and that takes no parameters."""
    return {
        "summary": summary,
        "tags": [tag],
        "responses": _with_problems({200: _response(f"{summary}.", content)}, set(_EVERYWHERE)),
    }


def _health() -> Document:
    made = _shown("Whether this server takes requests", "server", {JSON_TYPE: _schema("Health")})
    stopping = _json("The server is stopping.", "Health", {**_COMMON, **_always("Retry-After")})
    made["responses"]["503"] = stopping
    return made


def _page(name: str) -> Document:
    """Return the operation that shows a file of the console, or the browser client."""
    page = pages()[name]
    kept = {"Cache-Control", "Content-Type", "ETag"}
    headers = {
        **_always(*[field for field in page.headers if field not in kept]),
        "Cache-Control": _PAGE_CACHE,
        "ETag": _ETAG,
    }
    kind = page.media_type.partition(";")[0]
    summary = "The console page" if name == "index.html" else f"The file {name}"
    responses = {
        200: _response(f"{summary}.", {kind: _text()}, headers),
        304: _response("It has not changed.", None, headers),
    }
    return {
        "summary": summary,
        "tags": ["pages"],
        "parameters": [_field("If-None-Match", "The ETag of what one has.", _text())],
        "responses": _with_problems(responses, set(_EVERYWHERE)),
    }


def _looked(operation: Document) -> Document:
    """Return HEAD for a GET: the same, without a body, and without waiting, taking or acknowledging."""
    made = {name: value for name, value in operation.items() if name != "operationId"}
    made["summary"] = f"{operation['summary']}: the head alone, at once"
    made["responses"] = {status: told for status, told in made["responses"].items() if status != "101"}
    return made


def _preflight(path: str) -> Document:
    """Return OPTIONS, which does not look at the name in its path."""
    named = re.findall(r"\{(\w+)\}", path)
    headers = {**_COMMON, **_maybe("Allow", *_CORS)}
    return {
        "summary": "The CORS preflight",
        "tags": ["server"],
        "parameters": [_path(name, "Whatever it is.", _text(minLength=1)) for name in named],
        "responses": _with_problems(
            {204: _response("What is allowed here, to pages of allowed origins.", headers=headers)},
            set(_EVERYWHERE) | {404},
        ),
    }


_TAGS = {
    "push": "Give messages to recipients.",
    "poll": "Ask for messages and be held until there is one.",
    "stream": "Be told messages as they come.",
    "listeners": "Readers whose place and recipients the server remembers.",
    "recipients": "Mailboxes and who reads them.",
    "bayeux": "The Bayeux protocol of CometD and Faye.",
    "server": "The server itself.",
    "pages": "The console, and the client for browsers.",
}

_DESCRIPTION = """\
Push a message to a recipient; whoever polls it, or follows it, gets it. A poll without a cursor takes what no
take had before; a poll with one takes nothing away, and comes back with the cursor that it was given.

A request of a web page whose `Origin` was not allowed may change nothing (403). A server that listens on
loopback only answers to its own names (421). Errors are `application/problem+json` (RFC 9457); their `type`
is stable. 429 and 503 say by `Retry-After` when to come back."""
