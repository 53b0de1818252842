"""A chunked body comes in as bytes, in any pieces, and leaves as its content; or is refused (RFC 9112 §7.1).

Strict, because chunk sizes and extensions are where servers in a row disagree: a size is hexadecimal digits
and nothing else, lines end in CRLF, a chunk is followed by CRLF, extensions and trailers are bounded and
dropped.
"""

from __future__ import annotations

import re
from typing import Final

from .bounds import Bounds
from .head import Refused, check_trailers

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(;[\t\x20-\x7e]*)?").fullmatch
_LINE: Final = 512
"""A chunk's size line at the most; without extensions it has ten bytes."""


class Chunked:
    """One body on its way in. ``feed`` it until it says that the body is complete, then take ``content``."""

    __slots__ = ("_bounds", "_extensions", "_pending", "_trailing", "_want", "content", "most", "rest")

    def __init__(self, most: int, bounds: Bounds) -> None:
        self.content = bytearray()
        self.most = most
        self.rest = b""
        """What came after the body."""
        self._bounds = bounds
        self._pending = b""
        self._want = 0
        """Bytes of the current chunk still to come, its CRLF included; 0: a size line comes next."""
        self._trailing = False
        self._extensions = 0

    def feed(self, data: bytes) -> bool:
        """Take ``data`` in and return whether the body is complete.

        Raises ``Refused`` 400 for what is not chunked coding, and ``TooLarge`` past ``most`` bytes of
        content.
        """
        data = self._pending + data
        at = 0
        while not self._trailing:
            if self._want:
                end = at + self._want
                if len(data) < end:
                    at = self._part(data, at)
                    break
                if data[end - 2 : end] != b"\r\n":
                    raise Refused(400, "A chunk is longer than its size says.")
                self.content += data[at : end - 2]
                at, self._want = end, 0
            end = data.find(b"\r\n", at, at + _LINE)
            if end < 0:
                self._check_line(data[at:])
                break
            self._begin(data[at:end])
            at = end + 2
        if self._trailing:
            return self._end(data[at:])
        self._pending = data[at:]
        return False

    def _part(self, data: bytes, at: int) -> int:
        """Take what there is of a chunk, all but its CRLF; return how far that goes."""
        end = min(len(data), at + self._want - 2)
        self.content += data[at:end]
        self._want -= end - at
        if not b"\r\n".startswith(data[end:]):
            raise Refused(400, "A chunk is longer than its size says.")
        return end

    def _begin(self, line: bytes) -> None:
        """Read a chunk's size line."""
        match = _SIZE_LINE(line)
        if match is None:
            raise Refused(400, "A chunk's size is not a hexadecimal number.")
        self._extensions += len(match[2] or b"")
        if self._extensions > self._bounds.extensions:
            raise Refused(400, "The chunk extensions are too long.")
        size = int(match[1], 16)
        if len(self.content) + size > self.most:
            raise TooLarge
        if size:
            self._want = size + 2
        else:
            self._trailing = True

    def _check_line(self, part: bytes) -> None:
        """Refuse the beginning of a size line that can never become a good one."""
        if len(part) >= _LINE or not _SIZE_LINE(part.removesuffix(b"\r") or b"0"):
            raise Refused(400, "A chunk's size is not a hexadecimal number.")

    def _end(self, data: bytes) -> bool:
        """Read the trailer section up to its empty line."""
        if data.startswith(b"\r\n"):
            self.rest = data[2:]
            return True
        end = data.find(b"\r\n\r\n")
        if end > self._bounds.trailers or (end < 0 and len(data) > self._bounds.trailers):
            raise Refused(431, "The trailer fields are too long.")
        self._pending = data
        if end < 0:
            return False
        check_trailers(data[: end + 4])
        self.rest = data[end + 4 :]
        return True


class TooLarge(Exception):
    """The body is over the bound of its route."""
