"""Encodes Python values as bodies and parameters of requests, and decodes answers to values.

An answer that HTTP.md does not have is ``NotComet``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType, field
from msgspec.json import Decoder

from ..core.arguments import Recipients, names
from ..core.hub import Standing
from ..core.leases import LeaseState
from ..core.message import Batch, Content, Cursor, LeasedMessage, Message, Receipt
from ..core.present import Present, PresentMember
from ..core.store import Listing
from ..jsontext import decode
from .remote import Answer, NotComet, Query

S = TypeVar("S")
T = TypeVar("T")


class Registered(Struct, frozen=True):
    """The answer to a registration."""

    id: str
    recipients: tuple[str, ...]
    expires_in: float
    cursor: str

    def __post_init__(self) -> None:
        Cursor.parse(self.cursor)


# -- requests


def encoded(data: Any, media_type: str | None) -> tuple[bytes, str]:
    """Return the body and media type of a push. Raises ``ValueError`` for data that cannot be pushed."""
    if isinstance(data, Content):
        return data.body, media_type or data.type
    if media_type is None:
        content = Content.of(data)
        return content.body, content.type
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), media_type
    return (data.encode() if isinstance(data, str) else Content.of(data).body), media_type


def named(recipients: Recipients, reader: str | None = None, acks: bool = True) -> Query:
    """Return the parameters that name recipients, which nothing on the way rewrites, and say who reads."""
    said = given(**{"as": reader, "ack": None if acks else "no"})
    return [*[("rcpt", name) for name in names(recipients)], *said]


def given(**words: str | float | None) -> Query:
    """Return the parameters that have a value; numbers are to the millisecond, and have no exponent."""
    return [
        (name, value if isinstance(value, str) else f"{value:.3f}".rstrip("0").rstrip("."))
        for name, value in words.items()
        if value is not None
    ]


def place(after: str | Cursor) -> Cursor:
    """Return a cursor. Raises ``ValueError`` where it is malformed."""
    return after if isinstance(after, Cursor) else Cursor.parse(after)


# -- answers


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
    lease: str | None = None
    attempt: int = 1


class _Batch(Struct):
    messages: list[_Message]
    cursor: str
    gap: bool
    more: bool


class _Standing(Struct):
    recipient: str
    waiting: int
    queued: int
    size: int = field(name="bytes")
    oldest: str | None
    newest: str | None
    last_seen: datetime | None
    online: bool
    leased: int = 0


class _Reader(Struct):
    name: str
    since: datetime
    readers: int


class _Present(Struct):
    recipient: str
    readers: int
    members: tuple[_Reader, ...]
    more: bool = False


class _Listing(Struct):
    recipients: list[_Standing]
    more: str | None


class _Line(Struct):
    """What distinguishes the lines of a stream: only a message has an id."""

    id: str | UnsetType = UNSET
    gap: bool = False
    cursor: str | None = None


_LINE = Decoder(_Line)
_TEXT = Decoder(str)
_MESSAGE = Decoder(_Message)


def _decoded_by(kind: type[S], read: Callable[[S], T]) -> Callable[[Answer], T]:
    """Return a function that decodes an answer's JSON. It raises ``NotComet`` for any other body."""
    decoder = Decoder(kind)

    def decode_answer(answer: Answer) -> T:
        try:
            return read(decode(answer.body, decoder))
        except ValueError:
            media_type = answer.header("content-type") or "no type"
            sentence = f"The server is not a cometd-lite: it answered {answer.status}, with {media_type}."
            raise NotComet(sentence) from None

    return decode_answer


class _Settled(Struct):
    lease: str
    state: LeaseState


class _Acknowledged(Struct):
    """What became of the one lease that was named."""

    leases: tuple[_Settled]


def _message(decoded: _Message) -> Message:
    """Return a message; when it expires only the server knows."""
    common = (
        Cursor.parse(decoded.id),
        decoded.recipient,
        _content(decoded),
        decoded.created_at.timestamp(),
        float("inf"),
        decoded.event,
    )
    if decoded.lease is None:
        return Message(*common)
    return LeasedMessage(*common, lease=decoded.lease, attempt=decoded.attempt)


def _content(decoded: _Message) -> Content:
    media_type = decoded.type
    if decoded.data_base64 is not UNSET:
        return Content(decoded.data_base64, media_type, "octets")
    if decoded.data is UNSET:
        raise ValueError("a message has data or data_base64")
    essence = media_type.partition(";")[0].strip().lower()
    if not essence.startswith("text/") or essence == "text/json" or essence.endswith("+json"):
        return Content(bytes(decoded.data), media_type, "json")
    return Content(decode(bytes(decoded.data), _TEXT).encode(), media_type, "text")


def _end(text: str | None) -> Cursor | None:
    return None if text is None else Cursor.parse(text)


def _stands(answer: _Standing) -> Standing:
    return Standing(
        answer.queued,
        answer.size,
        _end(answer.oldest),
        _end(answer.newest),
        answer.leased,
        recipient=answer.recipient,
        waiting=answer.waiting,
        last_seen=None if answer.last_seen is None else answer.last_seen.timestamp(),
        online=answer.online,
    )


receipt = _decoded_by(
    _Receipt,
    lambda answer: Receipt(answer.ids, answer.created_at.timestamp(), answer.delivered, answer.recipients),
)
batch = _decoded_by(
    _Batch,
    lambda answer: Batch(
        tuple(map(_message, answer.messages)), Cursor.parse(answer.cursor), answer.gap, answer.more
    ),
)
settled = _decoded_by(_Acknowledged, lambda answer: answer.leases[0].state)
registered = _decoded_by(Registered, lambda answer: answer)
present = _decoded_by(
    _Present,
    lambda answer: Present(
        answer.recipient,
        answer.readers,
        tuple([PresentMember(one.name, one.since.timestamp(), one.readers) for one in answer.members]),
        answer.more,
    ),
)
standing = _decoded_by(_Standing, _stands)
listing = _decoded_by(_Listing, lambda answer: Listing(tuple(map(_stands, answer.recipients)), answer.more))


def stream_line(text: bytes) -> Message | Cursor | Literal["gap"] | None:
    """Return what a line of a stream is: a message, a gap, the place of a reader, or nothing.

    Raises ``ValueError`` where it is not a cometd-lite's.
    """
    decoded = decode(text, _LINE)
    if decoded.id is not UNSET:
        return _message(decode(text, _MESSAGE))
    return "gap" if decoded.gap else _end(decoded.cursor)
