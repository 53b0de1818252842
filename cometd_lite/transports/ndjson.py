"""NDJSON: a batch arrives, one line of JSON for each of its messages leaves (HTTP.md, "Stream").

A line is a message object as in a poll's answer, or ``{"gap": true}``, or ``{"heartbeat": true}``.
"""

from __future__ import annotations

from ..message import Batch
from .stream import Format

_HEARTBEAT = b'{"heartbeat":true}\n'


def render(batch: Batch) -> bytes:
    """Return the batch's lines; before them a gap's where messages are no longer kept."""
    gap = b'{"gap":true}\n' if batch.gap else b""
    return gap + b"".join([message.json + b"\n" for message in batch.messages])


NDJSON = Format(
    name="ndjson",
    head=(
        b"Content-Type: application/x-ndjson\r\nCache-Control: no-store\r\nVary: Accept, Origin\r\n"
        b"X-Accel-Buffering: no\r\n"
    ),
    opening=lambda _: _HEARTBEAT,
    place=lambda _: b"",
    render=render,
    heartbeat=_HEARTBEAT,
    closing=lambda _: b"",
)
