"""What is pushed and what is read: frozen values, none of which changes after it was accepted.

A ``Push`` arrives; it becomes one ``Message`` for each of its contents and recipients; readers leave
with a ``Batch`` of them. A ``Cursor`` is a place in the server's one order of messages.

All are msgspec's structs: these are made in less than half the time of a ``NamedTuple``, and the garbage
collector, which took some 6 % of a busy server's time, need not look at them (``gc=False``), because none
can be part of a cycle.
"""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, Self, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import force_setattr

from ..jsontext import check, dumps, encoded, parse
from ..limits import (
    CURSOR_DIGITS,
    HISTORY_DIGITS,
    HISTORY_MESSAGES_MOST,
    RENDERED_BYTES,
    RENDERED_MESSAGES,
    STREAM_BYTES,
)
from ..memos import forgotten_by, memo
from .shown import shown

R = TypeVar("R")

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"
OCTETS_TYPE = "application/octet-stream"

COMMON_TYPES = {
    common: common
    for common in (
        JSON_TYPE,
        TEXT_TYPE,
        OCTETS_TYPE,
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "text/plain",
        "text/plain;charset=UTF-8",
        "text/html",
        "text/html; charset=utf-8",
    )
}
"""The types that most messages have, each by itself: all messages share one text of each."""

_CURSOR = re.compile(rf"([0-9a-z]{{10}})-(0|[1-9][0-9]{{0,{CURSOR_DIGITS - 1}}})")
_HISTORY = re.compile(rf"last:([1-9][0-9]{{0,3}})|since:([0-9]{{1,{HISTORY_DIGITS}}}(?:\.[0-9]{{1,3}})?)")
_FLAT = bytes.maketrans(b"\r\n", b"  ")
_UNESCAPED = bytes(set(range(0x20, 0x100)) - set(b'"\\'))
"""The bytes that stand for themselves in a JSON string; any other takes up to six."""
_EVENT_LINE_BYTES = 7
"""What a line of a payload takes more in an event, ``data: `` and a line break; a JSON escape takes less."""
_ENVELOPE_BYTES = 160
"""What a message takes in JSON besides its data and names: the id, the time, and the keys."""
_JSON = re.compile(r"(?:application|text)/json|[^/]+/[^/;]+\+json", re.IGNORECASE)


class Cursor(Struct, frozen=True, gc=False):
    """A place in the one order: everything after ``sequence`` in the log's life ``epoch``.

    Opaque to clients. Never a time (two messages may share a millisecond, and clocks are set back). In the
    place of an epoch a word may stand, see ``OLDEST``, ``NOW``, ``LAST``, ``SINCE`` and ``ACCEPTED``.
    """

    epoch: str
    sequence: int

    def __str__(self) -> str:
        epoch, number = self.epoch, self.sequence
        if epoch not in _WORDS and epoch not in _HISTORIES:
            return f"{epoch}-{number}"
        if epoch == SINCE:
            return "since:" + f"{number / 1000:.3f}".rstrip("0").rstrip(".")
        return epoch if epoch in _WORDS else f"{epoch}:{number}"

    @property
    def is_history(self) -> bool:
        """Whether it begins a number of messages, or a time, before the moment at which it is read."""
        return self.epoch in _HISTORIES

    @property
    def is_relative(self) -> bool:
        """Whether its place depends on the moment at which it is read."""
        return self.epoch == "now" or self.epoch in _HISTORIES

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor that ``text`` names; raise ``ValueError`` where it names none."""
        match = _CURSOR.fullmatch(text)
        if match is not None:
            return cls(match[1], int(match[2]))
        if text in _WORDS:
            return _WORDS[text]
        match = _HISTORY.fullmatch(text)
        if match is not None:
            count, seconds = match.groups()
            if count is not None and int(count) <= HISTORY_MESSAGES_MOST:
                return cls(LAST, int(count))
            if seconds is not None:
                return cls(SINCE, round(float(seconds) * 1000))
        raise ValueError(
            f"{text[:100]!r} is not a cursor: it is one that a server gave out, "
            "or oldest, now, last:50 or since:600."
        )


OLDEST = Cursor("oldest", 0)
"""Before every message that is kept; asking for what is kept is never a gap."""

NOW = Cursor("now", 0)
"""After every message that was accepted until now."""

LAST = "last"
"""The word of a cursor before the newest ``sequence`` messages of what is read together."""

SINCE = "since"
"""The word of a cursor before what was accepted in the last ``sequence`` milliseconds."""

ACCEPTED = "accepted"
"""The word of a cursor before what was accepted ``sequence`` milliseconds after 1970, or later. The hub makes
it of ``SINCE``; no request says it."""

_WORDS = {"oldest": OLDEST, "now": NOW}
_HISTORIES = frozenset({LAST, SINCE, ACCEPTED})

Form: TypeAlias = Literal["json", "text", "octets"]


class Content(Struct, frozen=True, gc=False):
    """A body and its media type, checked to be what the type says.

    ``form`` says how it is shown inside JSON: as the JSON that it is, as a string, or as base64.
    """

    body: bytes
    type: str
    form: Form

    @classmethod
    def parse(cls, body: bytes, media_type: str | None) -> Self:
        """Check ``body`` against ``media_type``; raise ``ValueError`` with a sentence where it does not fit.

        No type and ``application/x-www-form-urlencoded`` (what ``curl -d`` says) are taken as text where
        the body is UTF-8, else as octets.
        """
        if not body:
            raise ValueError("The body is empty; a message has at least one byte.")
        form = None if media_type is None else _form(media_type)
        if media_type is None or form is None:
            if _is_utf8(body):
                return cls(body, TEXT_TYPE, "text")
            return cls(body, OCTETS_TYPE, "octets")
        if form == "json":
            try:
                body = check(body)
            except ValueError as error:
                raise ValueError(f"The body is not the JSON that its type says: {error}.") from None
        elif form == "text" and not _is_utf8(body):
            raise ValueError("The body of a text type must be UTF-8.")
        return cls(body, COMMON_TYPES.get(media_type, media_type), form)

    @classmethod
    def of(cls, data: Any) -> Self:
        """Make the content that a Python value stands for: bytes, text, or anything that JSON can say.

        Raises ``ValueError`` where it is empty or cannot be said in JSON.
        """
        if isinstance(data, (bytes, bytearray, memoryview)):
            return cls.parse(bytes(data), OCTETS_TYPE)
        if isinstance(data, str):
            return cls.parse(data.encode(), TEXT_TYPE)
        try:
            return cls(dumps(data), JSON_TYPE, "json")
        except ValueError as error:
            raise ValueError(f"The data cannot be written as JSON: {error}.") from None

    def data(self) -> bytes:
        """Return the body as one line of JSON: itself, a string, or a string of base64."""
        body = self.body
        if self.form == "json":
            # Inside valid JSON a line break is only ever white space between tokens.
            return body.translate(_FLAT) if b"\n" in body or b"\r" in body else body
        if self.form == "text":
            return encoded(body.decode())
        return b'"' + b64encode(body) + b'"'


class Push(Struct, frozen=True, gc=False):
    """What one request asks to be given to its recipients: all of it, or none.

    ``ttl`` is in seconds, None for the server's own; ``overflow`` None for the server's default.
    With ``queue`` false it is only for readers that wait at this moment. ``key`` is an idempotency key, and
    ``subject`` the subject of the token whose key it is.
    """

    recipients: tuple[str, ...]
    contents: tuple[Content, ...]
    event: str | None = None
    ttl: float | None = None
    queue: bool = True
    overflow: Literal["reject", "drop-oldest"] | None = None
    key: str | None = None
    subject: str | None = None


class Message(Struct, frozen=True, gc=False):
    """A content that was accepted for a recipient, and its place in the one order.

    ``created_at`` is in seconds since 1970 (for people); ``expires_at`` is on the store's own monotonic
    clock (for the server), so that setting the wall clock neither loses nor revives a message.
    ``sequence`` is its number in the one order; ``id`` the text of its cursor, which means "everything after
    this message". Both come from the cursor.
    """

    cursor: Cursor
    recipient: str
    content: Content
    created_at: float
    expires_at: float
    event: str | None = None
    sequence: int = 0
    id: str = ""

    def __post_init__(self) -> None:
        """Take from the cursor what is asked for often."""
        cursor = self.cursor
        force_setattr(self, "sequence", cursor.sequence)
        force_setattr(self, "id", f"{cursor.epoch}-{cursor.sequence}")

    def __repr__(self) -> str:
        """Return what ``print`` shows: ``<Message tku4z02jrw-1 to bob: 'hi'>``."""
        event = "" if self.event is None else f", event {self.event}"
        data = shown(self.content.body, self.content.type, self.content.form)
        return f"<{type(self).__name__} {self.id} to {self.recipient}{event}: {data}>"

    @property
    def json(self) -> bytes:
        """The message object of a poll's answer (HTTP.md, "Poll"), one line."""
        return _json(self)

    @property
    def data(self) -> Any:
        """The parsed JSON, the text, or the bytes."""
        content = self.content
        if content.form == "json":
            return parse(content.body)
        return content.body.decode() if content.form == "text" else content.body


class LeasedMessage(Message, frozen=True, gc=False):
    """A message as it is given to the worker that leased it; ``attempt`` counts from 1.

    ``lease`` is the id by which it is acknowledged, extended or released.
    """

    lease: str = ""
    attempt: int = 1

    @property
    def json(self) -> bytes:
        """The message object of a poll's answer (HTTP.md, "Leases"), one line."""
        return b'%b,"lease":"%b","attempt":%d}' % (_json(self)[:-1], self.lease.encode(), self.attempt)


def shown_size(content: Content) -> int:
    """Return how many bytes the data of a content takes at most, in JSON or as an event's ``data`` lines."""
    body = content.body
    if content.form == "json":
        return len(body) + _EVENT_LINE_BYTES * (1 + body.count(b"\n") + body.count(b"\r"))
    if content.form == "text":
        return len(body) + _EVENT_LINE_BYTES * (1 + len(body.translate(None, _UNESCAPED)))
    return len(body) * 4 // 3 + 2 * _EVENT_LINE_BYTES


def sent_size(message: Message) -> int:
    """Return how many bytes a message takes at most when it is sent, in any format."""
    content, event = message.content, message.event
    names = len(message.recipient) + len(content.type) + (0 if event is None else len(event))
    return shown_size(content) + _ENVELOPE_BYTES + 4 * names  # a character takes four bytes at most


def rendered_once(render: Callable[[Message], bytes]) -> Callable[[Message], bytes]:
    """Remember what a function makes of the latest messages.

    A fan-out is busy with few messages at a time. Who reads several mailboxes is given another batch than who
    reads one of them, but the messages are the same. To keep it with each message would double their memory.
    """
    known: dict[int, tuple[Message, bytes]] = {}
    forgotten_by(known.clear)

    @wraps(render)
    def rendered(message: Message) -> bytes:
        entry = known.get(message.sequence)
        if entry is not None and entry[0] is message:
            return entry[1]
        made = render(message)
        if len(made) <= RENDERED_BYTES:
            if len(known) >= RENDERED_MESSAGES:
                known.clear()
            known[message.sequence] = (message, made)
        return made

    return rendered


@rendered_once
def _json(message: Message) -> bytes:
    content = message.content
    return b'{"id":"%b","recipient":%b,"created_at":"%b",%b%b}' % (
        message.id.encode(),
        encoded(message.recipient),
        timestamp(message.created_at).encode(),
        _what(content.type, content.form, message.event),
        content.data(),
    )


class Batch(Struct, eq=False, gc=False):
    """What a reader is given: messages in order, the cursor to come back with, and what to know of it.

    ``gap``: something before these messages is no longer kept. ``more``: there are further ones already.
    """

    messages: tuple[Message, ...]
    cursor: Cursor
    gap: bool = False
    more: bool = False
    _rendered: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Return what ``print`` shows: the messages, each as it is shown itself, and the cursor."""
        flags = "".join([f", {name}" for name in ("gap", "more") if getattr(self, name)])
        return f"<Batch {list(self.messages)} up to {self.cursor}{flags}>"

    def __bool__(self) -> bool:
        """Whether there is something to deliver to a waiting reader."""
        return bool(self.messages) or self.gap

    def once(self, form: str, render: Callable[[Batch], R]) -> R:
        """Return what ``render`` makes of it, made once for each ``form``: it may answer many readers."""
        rendered = self._rendered
        if rendered is None:
            rendered = self._rendered = {}
        elif form in rendered:
            known: R = rendered[form]
            return known
        made = rendered[form] = render(self)
        return made

    @property
    def leased(self) -> tuple[LeasedMessage, ...]:
        """The messages that are leased: all of them where they were leased, else none."""
        return tuple([message for message in self.messages if isinstance(message, LeasedMessage)])

    @property
    def parts(self) -> tuple[Batch, ...]:
        """The batch in parts of at most ``STREAM_BYTES`` as they are sent, or of one message."""
        if len(self.messages) < 2:
            return (self,)
        return self.once("parts", _parts) or (self,)

    @property
    def place(self) -> bytes:
        """The text of the cursor, which is mostly the id of the last message."""
        messages = self.messages
        if messages and (newest := messages[-1]).cursor is self.cursor:
            return newest.id.encode()
        return str(self.cursor).encode()

    @property
    def json(self) -> bytes:
        """The body of a poll's answer (HTTP.md, "Poll"), with a line's end, for terminals."""
        return json_at(self, self.place)


def json_at(batch: Batch, place: bytes) -> bytes:
    """Return ``Batch.json``; ``place`` is that of the batch, which the head of the answer has too."""
    messages = batch.messages
    return b'{"messages":[%b],"cursor":"%b","gap":%b,"more":%b}\n' % (
        messages[0].json if len(messages) == 1 else b",".join([message.json for message in messages]),
        place,
        b"true" if batch.gap else b"false",
        b"true" if batch.more else b"false",
    )


def _parts(batch: Batch) -> tuple[Batch, ...]:
    """Cut a batch; return nothing where it is one part: a batch that held itself would never be freed."""
    groups: list[list[Message]] = [[]]
    size = 0
    for message in batch.messages:
        taken = sent_size(message)
        size += taken
        if size > STREAM_BYTES and groups[-1]:
            groups.append([])
            size = taken
        groups[-1].append(message)
    if len(groups) == 1:
        return ()
    first, *rest = [Batch(tuple(group), group[-1].cursor, more=True) for group in groups]
    first.gap, rest[-1].cursor, rest[-1].more = batch.gap, batch.cursor, batch.more
    return (first, *rest)


class Receipt(Struct, frozen=True, gc=False):
    """What a push is answered with: the ids it was given, and how many waiting readers it woke.

    ``created_at`` is in seconds since 1970, as in a ``Message``.
    """

    ids: tuple[str, ...]
    created_at: float
    delivered: int
    recipients: tuple[str, ...]

    @property
    def id(self) -> str:
        """The last id."""
        return self.ids[-1]

    @property
    def json(self) -> bytes:
        """The body of a push's answer (HTTP.md, "Push")."""
        return encoded(
            {
                "id": self.ids[-1],
                "ids": self.ids,
                "created_at": timestamp(self.created_at),
                "delivered": self.delivered,
                "recipients": self.recipients,
            }
        )


@memo(256)
def _form(media_type: str) -> Form | None:
    """Return how a body of a media type is shown; None where the type says nothing of it."""
    essence = media_type.partition(";")[0].strip().lower()
    if essence in {"", "application/x-www-form-urlencoded"}:
        return None
    if _JSON.fullmatch(essence):
        return "json"
    return "text" if essence.startswith("text/") else "octets"


@memo(256)
def has_charset(media_type: str) -> bool:
    """Return whether a media type has the parameter ``charset``."""
    parameters = media_type.split(";")[1:]
    return any(parameter.partition("=")[0].strip().lower() == "charset" for parameter in parameters)


@memo(64)  # a message and its receipt have the same moment
def timestamp(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339 in UTC with milliseconds: ``2026-11-20T10:15:58.123Z``."""
    milliseconds = round(seconds * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"


@memo(64)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@memo(256)
def _what(media_type: str, form: str, event: str | None) -> bytes:
    """Return what precedes the data in a message object: most messages are of few kinds."""
    return b'"type":%b,%b"%b":' % (
        dumps(media_type),
        b"" if event is None else b'"event":' + dumps(event) + b",",
        b"data_base64" if form == "octets" else b"data",
    )


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
