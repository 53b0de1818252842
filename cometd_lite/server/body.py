"""The decoder of chunked bodies (RFC 9112 §7.1): bytes in any pieces in, the content out.

It takes the grammar of the RFC and nothing else, because chunk sizes and extensions are where two servers in
a row disagree, which is how requests are smuggled. Extensions and trailers are checked, bounded and dropped.
"""

from __future__ import annotations

import re
from typing import Final

from .bounds import Bounds
from .head import Refused, check_trailers

# A size and its extensions (§7.1.1). A match takes linear time: no two repetitions can take the same byte.
# Groups are not repeated possessively, because CPython before 3.11.5 matches such groups wrongly (gh-106052).
_SIZE: Final = rb"([0-9A-Fa-f]{1,8})"
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED: Final = rb'"[\t !#-\[\]-~\x80-\xff]*+(?:\\[\t -~\x80-\xff][\t !#-\[\]-~\x80-\xff]*+)*'
"""A quoted string without its closing quote."""
_EXTENSIONS: Final = rb"((?:[\t ]*+;[\t ]*+%b(?:[\t ]*+=[\t ]*+(?:%b))?)*)"
_SIZE_LINE: Final = re.compile(_SIZE + _EXTENSIONS % (_TOKEN, rb'%b|%b"' % (_TOKEN, _QUOTED))).fullmatch
# Any beginning of a good size line: the value of the last extension may break off, or its name be missing.
_BEGINNING: Final = re.compile(
    _SIZE + _EXTENSIONS % (_TOKEN, rb'%b|%b(?:"|\\?\Z)|\Z' % (_TOKEN, _QUOTED)) + rb"[\t ]*+(?:;[\t ]*+)?"
).fullmatch
_LINE: Final = 512
"""The bound of a size line, which has ten bytes without extensions. A line that comes in pieces is matched
again with each piece, so this bounds that work too."""
_BAD_LINE: Final = "A chunk does not begin with its size in hexadecimal and well-formed extensions."


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
            raise Refused(400, _BAD_LINE)
        self._extensions += len(match[2])
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
        """Refuse an unfinished size line that no further bytes can make a good one."""
        is_good = _SIZE_LINE(part[:-1]) if part.endswith(b"\r") else not part or _BEGINNING(part)
        if len(part) >= _LINE or not is_good:
            raise Refused(400, _BAD_LINE)

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
