"""What is said and what is heard: Python values leave as bodies and parameters, answers arrive as values.

Whatever does not read as HTTP.md says is ``NotComet``.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import orjson

from ..core.message import Batch, Content, Cursor, Message, Receipt
from .remote import Answer, NotComet, Query

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
    """Messages that nobody has fetched."""
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


def _heard(read: Callable[[Any], T]) -> Callable[[Answer], T]:
    """Return a function that reads an answer's JSON; whatever else stands there is not a cometd-lite's."""

    def hear(answer: Answer) -> T:
        try:
            return read(answer.json())
        except (ValueError, TypeError, KeyError, AttributeError):
            kind = answer.header("content-type") or "no type"
            sentence = f"What answers there is not a cometd-lite: it said {answer.status}, with {kind}."
            raise NotComet(sentence) from None

    return hear


@_heard
def receipt(said: Any) -> Receipt:
    """Return what a push was answered with."""
    return Receipt(
        tuple(said["ids"]), _time(said["created_at"]), int(said["delivered"]), tuple(said["recipients"])
    )


@_heard
def batch(said: Any) -> Batch:
    """Return what a poll was answered with."""
    messages = tuple(map(message, said["messages"]))
    return Batch(messages, Cursor.parse(said["cursor"]), bool(said["gap"]), bool(said["more"]))


@_heard
def registered(said: Any) -> Registered:
    """Return what a registration was answered with."""
    return Registered(
        said["id"], tuple(said["recipients"]), float(said["expires_in"]), Cursor.parse(said["cursor"])
    )


@_heard
def presence(said: Any) -> Presence:
    """Return what is said of a recipient."""
    oldest, newest, seen = said["oldest"], said["newest"], said["last_seen"]
    return Presence(
        recipient=said["recipient"],
        waiting=said["waiting"],
        queued=said["queued"],
        size=said["bytes"],
        oldest=oldest and Cursor.parse(oldest),
        newest=newest and Cursor.parse(newest),
        last_seen=seen and _time(seen),
        online=said["online"],
    )


def message(said: dict[str, Any]) -> Message:
    """Return the message that a poll's answer or a stream's line tells (HTTP.md, "Poll").

    When it expires only the server knows. Raises what parsing raises.
    """
    return Message(
        Cursor.parse(said["id"]),
        said["recipient"],
        _content(said),
        _time(said["created_at"]),
        float("inf"),
        said.get("event"),
    )


def _content(said: dict[str, Any]) -> Content:
    media_type = said["type"]
    if "data_base64" in said:
        return Content(b64decode(said["data_base64"]), media_type, "octets")
    data = said["data"]
    essence = media_type.partition(";")[0].strip().lower()
    if essence.startswith("text/") and essence != "text/json" and not essence.endswith("+json"):
        return Content(data.encode(), media_type, "text")
    return Content(orjson.dumps(data), media_type, "json")


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
