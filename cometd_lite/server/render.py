"""Responses as bytes: the status line with its date, and the whole of a plain response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from wsgiref.handlers import format_date_time

from twisted.web.http import RESPONSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from .application import ServedResponse

BODYLESS: Final = frozenset({204, 304})
"""The statuses of responses that end with their head (RFC 9110 §6.4.1)."""

JOINED_BYTES: Final = 16 * 1024
"""Up to this size a body is copied behind its head and sent in one write. A larger one is written by itself,
so that all connections with the same body share it while it is unsent."""


class PlainResponse(NamedTuple):
    """A ``ServedResponse`` of this package's own."""

    status: int
    head: bytes
    body: bytes


class Renderer:
    """Renders responses, and remembers what is the same in all responses of one second.

    ``wall`` is the time for Date, in seconds since the epoch. ``new_second`` is called when it has changed.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._lines: dict[int, bytes] = {}
        self.new_second()

    def new_second(self) -> None:
        """Forget what was remembered."""
        self._lines.clear()
        self.last: ServedResponse | None = None
        self.last_bytes = self.last_piece = self.last_chunk = b""

    def status_line(self, status: int) -> bytes:
        """Return the status line and Date (RFC 9110 §6.6.1), each with its CRLF."""
        line = self._lines.get(status)
        if line is None:
            date = format_date_time(self._wall()).encode()
            line = b"HTTP/1.1 %d %b\r\nDate: %b\r\n" % (status, RESPONSES.get(status, b""), date)
            self._lines[status] = line
        return line

    def plain(self, response: ServedResponse) -> bytes | None:
        """Return a whole response, as it is on a connection of HTTP/1.1 that stays open.

        None for one without a body, or with a large one. All readers of the same response share the bytes: a
        push wakes them together, so ``last_bytes`` are those of the ``last`` response.
        """
        status, body = response.status, response.body
        if status in BODYLESS or len(body) > JOINED_BYTES:
            return None
        line = self._lines.get(status) or self.status_line(status)
        self.last = response
        self.last_bytes = data = b"%b%bContent-Length: %d\r\n\r\n%b" % (line, response.head, len(body), body)
        return data

    def chunk(self, piece: bytes) -> bytes:
        """Return a piece of a stream as a chunk (RFC 9112 §7.1).

        All streams that send the same piece share the bytes: ``last_chunk`` are those of ``last_piece``.
        """
        self.last_piece, self.last_chunk = piece, b"%x\r\n%b\r\n" % (len(piece), piece)
        return self.last_chunk
