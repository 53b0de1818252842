"""How what the hub gives reaches a client: one module for each transport, all of them fed by the hub."""

from __future__ import annotations

from msgspec import Struct


class Answer(Struct, frozen=True, gc=False):
    """A whole HTTP response. ``head`` is a block of ready ``Name: value`` lines, each ended by CRLF.

    The lines of Content-Length and of the connection are added by whoever sends it.
    """

    status: int
    head: bytes
    body: bytes = b""

    def with_head(self, lines: bytes) -> Answer:
        """Return the same response with further lines in its head."""
        return Answer(self.status, self.head + lines, self.body)
