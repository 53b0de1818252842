"""What is said and what is heard: Python values leave as bodies and parameters, answers arrive as values.

Whatever does not read as HTTP.md says is ``NotComet``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType, field
from msgspec.json import Decoder

from ..core.message import Batch, Content, Cursor, Message, Receipt
from ..jsontext import decode
from .remote import Answer, NotComet, Query

S = TypeVar("S")
T = TypeVar("T")
Recipients = str | Iterable[str]

AS_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Presence:
    """What the server knows of a recipient: what its mailbox holds, and who reads it."""

    recipient: str
    waiting: int
    """Readers that wait at this moment."""
    queued: int
    """Messages that no reader has fetched."""
    size: int
    """Their bytes."""
    oldest: Cursor | None
    newest: Cursor | None
    """The ends of the mailbox; None where it holds nothing."""
    last_seen: float | None
    """When a reader was last here, in seconds since 1970; None: not within an hour."""
    online: bool
    """Whether someone waits, or was here a moment ago."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What a registration is answered with."""

    id: str
    recipients: tuple[str, ...]
    expires_in: float
    cursor: Cursor


# What is said.


def encoded(data: Any, media_type: str | None) -> tuple[bytes, str]:
    """Return the body and media type of a push. Raises ``ValueError`` where there is nothing to say."""
    if isinstance(data, Content):
        return data.body, media_type or data.type
    if media_type is None:
        content = Content.of(data)
        return content.body, content.type
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), media_type
    return (data.encode() if isinstance(data, str) else Content.of(data).body), media_type


def listed(recipients: Recipients) -> list[str]:
    """Return one or several names as a list."""
    return [recipients] if isinstance(recipients, str) else list(recipients)


def named(recipients: Recipients) -> Query:
    """Return the parameters that name recipients: nothing on the way rewrites what stands there."""
    return [("rcpt", name) for name in listed(recipients)]


def place(after: str | Cursor) -> Cursor:
    """Return the cursor that was given. Raises ``ValueError`` where it is none."""
    return after if isinstance(after, Cursor) else Cursor.parse(after)


def seconds(number: float) -> str:
    """Return a number of seconds as parameters have it: to the millisecond, never with an exponent."""
    return f"{number:.3f}".rstrip("0").rstrip(".")


# What is heard.


class _Receipt(Struct):
    ids: tuple[str, ...]
    created_at: datetime
    delivered: int
    recipients: tuple[str, ...]


class _Message(Struct):
    id: str
    recipient: str
    created_at: datetime
    type: str
    data: Raw | UnsetType = UNSET
    data_base64: bytes | UnsetType = UNSET
    event: str | None = None


class _Batch(Struct):
    messages: list[_Message]
    cursor: str
    gap: bool
    more: bool


class _Registered(Struct):
    id: str
    recipients: tuple[str, ...]
    expires_in: float
    cursor: str


class _Presence(Struct):
    recipient: str
    waiting: int
    queued: int
    size: int = field(name="bytes")
    oldest: str | None
    newest: str | None
    last_seen: datetime | None
    online: bool


class _Line(Struct):
    """What tells a stream's lines apart: only a message has an id."""

    id: str | UnsetType = UNSET
    gap: bool = False
    cursor: str | None = None


_LINE = Decoder(_Line)
_TEXT = Decoder(str)
_MESSAGE = Decoder(_Message)


def _heard(kind: type[S], read: Callable[[S], T]) -> Callable[[Answer], T]:
    """Return a function that reads an answer's JSON; whatever else stands there is not a cometd-lite's."""
    decoder = Decoder(kind)

    def hear(answer: Answer) -> T:
        try:
            return read(decode(answer.body, decoder))
        except ValueError:
            media_type = answer.header("content-type") or "no type"
            sentence = f"What answers there is not a cometd-lite: it said {answer.status}, with {media_type}."
            raise NotComet(sentence) from None

    return hear


def _message(said: _Message) -> Message:
    """Return a message; when it expires only the server knows."""
    return Message(
        Cursor.parse(said.id),
        said.recipient,
        _content(said),
        said.created_at.timestamp(),
        float("inf"),
        said.event,
    )


def _content(said: _Message) -> Content:
    media_type = said.type
    if said.data_base64 is not UNSET:
        return Content(said.data_base64, media_type, "octets")
    if said.data is UNSET:
        raise ValueError("a message has data or data_base64")
    essence = media_type.partition(";")[0].strip().lower()
    if not essence.startswith("text/") or essence == "text/json" or essence.endswith("+json"):
        return Content(bytes(said.data), media_type, "json")
    return Content(decode(bytes(said.data), _TEXT).encode(), media_type, "text")


def _place(text: str | None) -> Cursor | None:
    return None if text is None else Cursor.parse(text)


receipt = _heard(
    _Receipt, lambda said: Receipt(said.ids, said.created_at.timestamp(), said.delivered, said.recipients)
)
"""Returns what a push was answered with."""

batch = _heard(
    _Batch,
    lambda said: Batch(tuple(map(_message, said.messages)), Cursor.parse(said.cursor), said.gap, said.more),
)
"""Returns what a poll was answered with."""

registered = _heard(
    _Registered,
    lambda said: Registered(said.id, said.recipients, said.expires_in, Cursor.parse(said.cursor)),
)
"""Returns what a registration was answered with."""

presence = _heard(
    _Presence,
    lambda said: Presence(
        recipient=said.recipient,
        waiting=said.waiting,
        queued=said.queued,
        size=said.size,
        oldest=_place(said.oldest),
        newest=_place(said.newest),
        last_seen=None if said.last_seen is None else said.last_seen.timestamp(),
        online=said.online,
    ),
)
"""Returns what is said of a recipient."""


def streamed(line: bytes) -> tuple[Message | Cursor | None, ...]:
    """Return what a line of a stream tells: a message, None for a gap, the place of a reader, or nothing.

    Raises ``ValueError`` where it is not a cometd-lite's.
    """
    said = decode(line, _LINE)
    if said.id is not UNSET:
        return (_message(decode(line, _MESSAGE)),)
    if said.gap:
        return (None,)
    return () if said.cursor is None else (Cursor.parse(said.cursor),)
