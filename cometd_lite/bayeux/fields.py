"""The fields of Bayeux messages: values that may be anything arrive, and are checked; errors leave.

The paragraphs named here are those of the Bayeux 1.0 specification, in CometD's reference. An error is
``NNN:argument:kind`` ("The error field"), and None where nothing is wrong.
"""

from __future__ import annotations

import re
from typing import Any, TypedDict

from msgspec import DecodeError, Raw, ValidationError
from msgspec.json import Decoder

from ..core.message import JSON_TYPE, Content
from ..core.recipient import recipient
from ..errors import BadBody, BadRecipient, BodyTooLarge, CometError
from ..jsontext import decode, dumps, kept, parse
from ..limits import BAYEUX_BATCH_MESSAGES, BAYEUX_BATCH_VALUES
from ..memos import memo

CONNECTION_TYPES = ("websocket", "long-polling", "callback-polling")
"""What this server offers, the best first ("The supportedConnectionTypes field")."""

VERSION = "1.0"

_LATEST = 1e15
"""Milliseconds: a time beyond all history, below what a float loses."""

# CometD's clients let more through than the specification's "token": . # + { and } are in channels out there.
CHANNEL = re.compile(r"(?:/[A-Za-z0-9\-_!~()$@.#+{}]+)+")
PATTERN = re.compile(r"(?:/[A-Za-z0-9\-_!~()$@.#+{}]+)*/\*\*?")
_VERSION = re.compile(r"[0-9]{1,9}(?:\.[A-Za-z0-9][A-Za-z0-9_-]{0,31}){0,7}")
_NOT_IN_ERRORS = re.compile(r"[^A-Za-z0-9\-_!~()$@ /*.]")


class MessageFailed(Exception):
    """Fails one message of a batch; its text is the error of the reply ("The error field")."""


class _Fields(TypedDict, total=False):
    """The fields of a message that mean something; others are dropped. ``data`` is kept as it came."""

    channel: Any
    clientId: Any
    connectionType: Any
    subscription: Any
    data: Raw
    id: Any
    ext: Any
    advice: Any
    timestamp: Any
    version: Any
    minimumVersion: Any
    supportedConnectionTypes: Any


class _Data(TypedDict, total=False):
    """The field of a message of which no value is made."""

    data: Raw


_Other = str | int | float | bool | None
_MESSAGES: Decoder[Any] = Decoder(list[_Fields | list[Any] | _Other] | _Fields | _Other)
_DATA: Decoder[Any] = Decoder(list[_Data] | _Data)
_PARTS: Decoder[Any] = Decoder(list[Raw])
_WHOLE: Decoder[Any] = Decoder(Raw)
_MEMBERS = Decoder(dict[str, Raw])


def read(text: bytes) -> Any:
    """Return the messages in a JSON text, as dicts, or whatever else is in it; ``data`` is ``Raw``.

    Raises ``ValueError`` where it is no JSON, ``BodyTooLarge`` where there are too many messages.
    """
    if _values(text) > BAYEUX_BATCH_VALUES:
        _check_values(text)
    # The second and third take what has a number outside of data that is larger than a float's.
    found = decode(text, _MESSAGES, _PARTS, _WHOLE)
    if isinstance(found, Raw):
        return _read_message(bytes(found))
    if isinstance(found, list) and found and isinstance(found[0], Raw):
        return [_read_message(bytes(part)) for part in batch_of(found)]
    return found


def batch_of(value: Any) -> list[Any]:
    """Return the messages in what was parsed from JSON: an array of them, or one ("Messages").

    Raises ``BadBody`` where it is neither, ``BodyTooLarge`` where they are too many.
    """
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise BadBody("A Bayeux request is a JSON array of messages, or one message.")
    if len(value) > BAYEUX_BATCH_MESSAGES:
        raise BodyTooLarge(f"A Bayeux request has at most {BAYEUX_BATCH_MESSAGES} messages.")
    return value


def _values(text: bytes) -> int:
    """Return how many values are in a JSON text at most."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _check_values(text: bytes) -> None:
    """Raise ``BodyTooLarge`` where messages have too many values besides their data."""
    try:
        found = _DATA.decode(text)
    except (DecodeError, RecursionError):
        found = []  # some are no messages
    messages = found if isinstance(found, list) else [found]
    in_data = sum([_values(bytes(message["data"])) for message in messages if "data" in message])
    if _values(text) - in_data > BAYEUX_BATCH_VALUES:
        raise BodyTooLarge(
            f"A Bayeux request has at most {BAYEUX_BATCH_VALUES} values besides the data of its messages."
        )


def _read_message(text: bytes) -> Any:
    try:
        members = decode(text, _MEMBERS)
    except ValidationError:
        return parse(text)
    return {name: value if name == "data" else parse(bytes(value)) for name, value in members.items()}


def unknown(message: dict[str, Any]) -> str:
    """Return the error of a message that names no session that there is."""
    return "402::session_unknown" if "clientId" in message else "401::client_id_missing"


def refused(error: CometError, about: Any = None) -> str:
    """Return an error as the protocol writes it ("The error field")."""
    return f"{error.status}:{argument(about)}:{error.kind}"


def argument(value: Any) -> str:
    """Return what an error is about, as far as the protocol lets it stand there."""
    return _NOT_IN_ERRORS.sub("_", value[:64]) if isinstance(value, str) else ""


def is_texts(value: Any) -> bool:
    """Whether a value is a string, or an array of strings."""
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(text, str) for text in value)
    )


@memo(4_096)
def plain_name(channel: str) -> str | None:
    """Return the recipient that a channel stands for; None where it is none, or not an ordinary one."""
    if not CHANNEL.fullmatch(channel) or channel.startswith(("/meta/", "/service/")):
        return None
    try:
        return recipient(channel[1:])
    except BadRecipient:
        return None


def is_service(channel: str) -> bool:
    """Whether a channel is one that is never broadcast."""
    return channel.startswith("/service/")


def milliseconds(value: Any) -> float | None:
    """Return a time that a client advises; None where it is none."""
    return min(value, _LATEST) if _is_number(value) and value >= 0 else None


def time_of(value: Any) -> float | None:
    """Return a point or a span of time in milliseconds; None where it is none, or beyond all history."""
    return value if _is_number(value) and abs(value) <= _LATEST else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def version_error(message: dict[str, Any]) -> str | None:
    """Return what is wrong with the versions of a handshake ("Version"); None where we have one in common."""
    versions = [message.get("version"), message.get("minimumVersion", VERSION)]
    if not all(isinstance(version, str) and _VERSION.fullmatch(version) for version in versions):
        return "400::version_invalid"
    newest, oldest = map(_comparable, versions)
    ours = _comparable(VERSION)
    if not oldest <= ours <= newest or ("minimumVersion" not in message and newest[0] != ours[0]):
        return f"300:{argument(message['version'])}:version_mismatch"
    return None


def _comparable(version: str) -> list[tuple[int, bool, str]]:
    """Return a version so that versions compare element by element, with ``1.0beta`` below ``1.0``."""
    elements = [re.match(r"([0-9]*)(.*)", element) for element in version.split(".")]
    return [(int(match[1] or 0), not match[2], match[2]) for match in elements if match]


def types_error(message: dict[str, Any]) -> str | None:
    """Return what is wrong with a handshake's connection types; None where we have one in common."""
    types = message.get("supportedConnectionTypes")
    if not isinstance(types, list) or not is_texts(types):
        return "400::supported_connection_types_invalid"
    if not any(name in CONNECTION_TYPES for name in types):
        return "301::no_common_connection_type"
    return None


def published(data: Raw, media_type: str = JSON_TYPE) -> Content:
    """Return what is published as content. Raises ``BadBody`` where it is nested too deeply."""
    try:
        return Content(kept(data), media_type, "json")
    except ValueError as error:
        raise BadBody(f"The data cannot be delivered: {error}.") from None


def content_of(event: dict[str, Any]) -> Content:
    """Return an event of a program's as content. Raises ``BadBody`` where it cannot be written as JSON."""
    try:
        return Content(dumps(event), JSON_TYPE, "json")
    except ValueError as error:
        raise BadBody(f"The data cannot be written as JSON: {error}.") from None
