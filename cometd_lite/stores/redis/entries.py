"""Messages as they lie in Redis: one string each, a head of fixed size and then the type, event and body.

A process packs everything but the number and the expiry, which ``lua/pushing.lua`` puts in front. It stores,
publishes and answers the string as it is, so that nothing in Redis takes a message apart.
"""

from __future__ import annotations

from struct import Struct
from sys import intern

from ...core.message import Content, Cursor, Form, Message

_HEAD = Struct("<dddIHHB")
"""The number, when the message expires on Redis' clock, when it was accepted in seconds since 1970, the bytes
of its body, type and event, and the place of its form in ``_FORMS``."""
_PACKED = Struct("<dIHHB")
DOUBLE = Struct("<d")
"""Times, as they are sent to the script."""
_FORMS: tuple[Form, ...] = ("json", "text", "octets")


def pack(content: Content, event: str | None, created_at: float) -> bytes:
    """Return a message without its number and its expiry."""
    kind, name, body = content.type.encode(), (event or "").encode(), content.body
    form = _FORMS.index(content.form)
    return b"".join((_PACKED.pack(created_at, len(body), len(kind), len(name), form), kind, name, body))


def unpack(entry: bytes, recipient: str, epoch: str, offset: float) -> Message:
    """Return a message of a recipient; ``offset`` is what Redis' clock is ahead of the process'."""
    return _unpack(entry, 0, recipient, epoch, offset)[0]


def unpack_all(entries: bytes, recipient: str, epoch: str, offset: float) -> list[Message]:
    """Return the messages of a recipient that lie one behind the other."""
    messages = []
    at = 0
    while at < len(entries):
        message, at = _unpack(entries, at, recipient, epoch, offset)
        messages.append(message)
    return messages


def _unpack(data: bytes, at: int, recipient: str, epoch: str, offset: float) -> tuple[Message, int]:
    """Return the message that begins at a place, and the place behind it."""
    number, expires_at, created_at, size, kind_size, event_size, form = _HEAD.unpack_from(data, at)
    kind_at = at + _HEAD.size
    event_at = kind_at + kind_size
    body_at = event_at + event_size
    end = body_at + size
    message = Message(
        Cursor(epoch, int(number)),
        recipient,
        Content(data[body_at:end], intern(data[kind_at:event_at].decode()), _FORMS[form]),
        created_at,
        expires_at - offset,
        data[event_at:body_at].decode() or None,
    )
    return message, end
