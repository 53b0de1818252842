"""Server-Sent Events: the ``Format`` of a stream as ``text/event-stream`` (WHATWG HTML §9.2).

The ``id:`` of each event is a cursor, which a client that reconnects sends as ``Last-Event-ID``.
"""

from __future__ import annotations

import re
from base64 import b64encode

from ..core.message import Batch, Content, Message
from .stream import Format

_LINE_END = re.compile(rb"\r\n|\n|\r")


def render(batch: Batch) -> bytes:
    """Return the events of a batch, after an event ``gap`` where messages before them are no longer kept."""
    events = b"".join(map(_event, batch.messages))
    return _gap(batch) + events if batch.gap else events


def _gap(batch: Batch) -> bytes:
    if batch.messages:
        # It has no id: a client that was disconnected here and reconnected with it would miss the messages.
        return b'event: gap\ndata: {"gap":true}\n\n'
    cursor = str(batch.cursor).encode()
    return b'id: %b\nevent: gap\ndata: {"gap":true,"cursor":"%b"}\n\n' % (cursor, cursor)


def _event(message: Message) -> bytes:
    event = b"" if message.event is None else b"event: %b\n" % message.event.encode()
    return b"id: %b\n%b%b\n\n" % (message.id.encode(), event, _data(message.content))


def _data(content: Content) -> bytes:
    body = content.body if content.form != "octets" else b64encode(content.body)
    # A bare CR ends a line too: in a payload it would begin a forged field.
    return b"\n".join([b"data: " + line for line in _LINE_END.split(body)])


SSE = Format(
    name="sse",
    head=(
        b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n"
        b"Vary: Accept, Origin\r\nX-Accel-Buffering: no\r\n"
    ),
    opening=lambda retry: b": cometd-lite\nretry: %d\n\n" % retry,
    # Without data no event is dispatched, but the client keeps the id.
    place=lambda cursor: b"id: %b\n\n" % str(cursor).encode(),
    render=render,
    heartbeat=b":\n\n",
    closing=lambda retry: b"retry: %d\n\n" % retry,
)
