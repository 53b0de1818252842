"""NDJSON: a batch arrives, one line of JSON for each of its messages leaves (HTTP.md, "Stream").

A line is a message object as in a poll's answer, or ``{"gap": true}``, or ``{"heartbeat": true}``; one of the
last kind has the ``cursor`` of a reader that was told no message yet.
"""

from __future__ import annotations

from ..core.message import Batch, Cursor
from .stream import Format

_HEARTBEAT = b'{"heartbeat":true}\n'


def render(batch: Batch) -> bytes:
    """Return the batch's lines; before them a gap's where messages are no longer kept."""
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
