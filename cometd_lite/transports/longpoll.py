"""The answer of a poll: a batch arrives, one HTTP response leaves (HTTP.md, "Poll").

A batch is rendered once for each format, however many readers it answers.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from ..message import Batch, timestamp
from . import Answer

Format = Literal["json", "raw"]

_COMMON = b"Cache-Control: no-store\r\nVary: Accept, Origin, Prefer\r\n"
_JSON = b"Content-Type: application/json\r\n"
_RAW = b"X-Content-Type-Options: nosniff\r\nContent-Security-Policy: sandbox\r\n"


def answer(batch: Batch, form: Format) -> Answer:
    """Return the response to a poll that was given ``batch``, or whose wait ended with an empty one."""
    return batch.once(form, _raw if form == "raw" else _json)


def not_modified(batch: Batch) -> Answer:
    """Return the response to a conditional poll whose wait ended with nothing new (RFC 9110 §15.4.5)."""
    return Answer(304, _head(batch))


def _json(batch: Batch) -> Answer:
    return Answer(200, _JSON + _head(batch), batch.json)


def _raw(batch: Batch) -> Answer:
    if not batch.messages:
        return Answer(204, _head(batch))
    (message,) = batch.messages
    head = b"Content-Type: %b\r\nComet-Id: %b\r\nComet-Recipient: %b\r\nComet-Created-At: %b\r\n" % (
        message.content.type.encode("latin-1"),
        message.id.encode(),
        quote(message.recipient, safe="/~!$&'()*+,;=:@").encode(),
        timestamp(message.created_at).encode(),
    )
    return Answer(200, head + _RAW + _head(batch), message.content.body)


def _head(batch: Batch) -> bytes:
    cursor = batch.place
    gap = b"Comet-Gap: true\r\n" if batch.gap else b""
    return b'%bComet-Cursor: %b\r\nETag: "%b"\r\n%b' % (_COMMON, cursor, cursor, gap)
