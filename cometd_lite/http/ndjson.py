"""NDJSON: the ``Format`` of a stream as one JSON object a line (HTTP.md, "Stream").

A line is a message object as in the answer to a poll, or ``{"gap": true}``, or ``{"heartbeat": true}``. The
last has a ``cursor`` where the reader has no message yet.
"""

from __future__ import annotations

from ..core.message import Batch, Cursor
from .stream import Format

_HEARTBEAT = b'{"heartbeat":true}\n'


def render(batch: Batch) -> bytes:
    """Return the lines of a batch, after the line of a gap where messages before them are no longer kept."""
    gap = b'{"gap":true}\n' if batch.gap else b""
    if not batch.messages:
        return gap + _place(batch.cursor)
    return gap + b"".join([message.json + b"\n" for message in batch.messages])


def _place(cursor: Cursor) -> bytes:
    return b'{"heartbeat":true,"cursor":"%b"}\n' % str(cursor).encode()


NDJSON = Format(
    name="ndjson",
    head=(
        b"Content-Type: application/x-ndjson\r\nCache-Control: no-store\r\nVary: Accept, Origin\r\n"
        b"X-Accel-Buffering: no\r\n"
    ),
    opening=lambda _: _HEARTBEAT,
    place=_place,
    render=render,
    heartbeat=_HEARTBEAT,
    closing=lambda _: b"",
)
