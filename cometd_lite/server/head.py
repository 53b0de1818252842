"""Request lines and header blocks: bytes are checked and become a method, a target and a ``Head``.

The grammar is that of RFC 9112, without its leniency. Everything that two servers in a row could read
differently is refused with 400, and the connection is closed: two lengths, a length with chunked coding, bare
CR or LF, folded lines, a space before the colon, control characters.

There is no llhttp here, because a block of fields is checked once and then recognised (``Heads``). With
llhttp each field is a call into Python, and the strict checks are a second pass. The tests compare the two.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .bounds import Bounds

_COMMON: Final = frozenset({b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)*").match
_REQUEST_LINE: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~\x80-\xff]+) HTTP/1\.([01])"
).fullmatch
_OTHER_VERSION: Final = re.compile(rb"[!-~]+ [!-~\x80-\xff]+ HTTP/(?!1\.[01])[0-9](?:\.[0-9])?").fullmatch
# Field lines (RFC 9112 §5); obs-text is allowed in values, as UTF-8 comes in it.
_FIELD: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e\x80-\xff]*+\r\n"
_BLOCK: Final = re.compile(rb"(?:%b)*\r\n" % _FIELD).fullmatch
_LENGTH: Final = re.compile(rb"[0-9]{1,18}").fullmatch
_HOST: Final = re.compile(
    rb"(?:[a-z0-9._~!$&'()*+,;=%-]*|\[[0-9a-f:.]+(?:%25[a-z0-9._~-]+)?\])(?::[0-9]{0,5})?"
).fullmatch
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#@]+)([/?].*)?", re.IGNORECASE | re.DOTALL).fullmatch
# Bytes that no head may have. They are looked for before the head is complete.
_HOPELESS: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])").search
_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})


class Refused(Exception):
    """A request that cannot be served: it is answered with ``status``, and the connection is closed.

    ``sentence`` says what is wrong.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Head:
    """A checked block of fields. All requests that sent the same bytes share it.

    ``block`` is what follows the request line: the field lines and the empty line, each with its CRLF.
    """

    __slots__ = (
        "_authorization",
        "_values",
        "block",
        "chunked",
        "close",
        "expects_continue",
        "has_body",
        "host",
        "keep_alive",
        "length",
        "memo",
        "shared",
    )

    def __init__(self, block: bytes) -> None:
        self.block = block
        self.length = 0
        """The Content-Length, or 0."""
        self.chunked = False
        self.has_body = False
        self.close = False
        """Connection says ``close``."""
        self.keep_alive = False
        """Connection says ``keep-alive``."""
        self.expects_continue = False
        """The client waits for a 100 before it sends the body (RFC 9110 §10.1.1)."""
        self.host: bytes | None = None
        """The value of Host in lower case; None without a Host field."""
        self.shared = False
        """More than one request has sent this block."""
        self.memo: Any = None
        """What the application parsed from the fields; it is the application's alone."""
        self._values: dict[bytes, bytes] | None = None
        self._authorization: bytes | None = None
        """The value of Authorization, once fields were read: each poll with a token asks for it again."""

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Return all fields in order: names in lower case, values without the space around them."""
        lines = [line.partition(b":") for line in self.block[:-4].split(b"\r\n")]
        return [(name.lower(), value.strip(b" \t")) for name, colon, value in lines if colon]

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field, None where it is missing; ``name`` is in lower case.

        Several lines of one name are one list (RFC 9110 §5.3).
        """
        values = self._values
        if values is None:
            if name == b"authorization" and self._authorization is not None:
                return self._authorization
            values = self._values = {}
            for field, value in self.fields():
                separator = b"; " if field == b"cookie" else b", "  # RFC 6265 §4.2.1
                values[field] = values[field] + separator + value if field in values else value
            self._authorization = values.get(b"authorization")
        return values.get(name)

    def forget(self) -> None:
        """Drop what can be parsed again: the one request that has this head waits."""
        self._values = None


class Heads:
    """The header blocks that were checked before.

    A client sends the same block with each poll, and to recognise it costs less than any parser.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._known: dict[bytes, Head] = {}

    def get(self, block: bytes) -> Head:
        """Return the head of a block. Raises ``Refused``: 400, 417, 431."""
        head = self._known.get(block)
        if head is not None:
            head.shared = True
            return head
        head = parse_block(block, self._bounds)
        if len(block) <= self._bounds.head_known:
            if len(self._known) >= self._bounds.heads_known:
                self._known.clear()
            self._known[block] = head
        return head

    def forget(self) -> None:
        """Forget the blocks that were checked before."""
        self._known.clear()


def without_empty_lines(data: bytes) -> bytes:
    """Return ``data`` without empty lines before a request, which are ignored (RFC 9112 §2.2)."""
    match = _EMPTY_LINES(data)
    return data if match is None else data[match.end() :]


def asked_path(head: bytes) -> bytes:
    """Return the path that a head asks for, which may be malformed or cut off; empty where it shows none."""
    parts = head.split(b"\r\n", 1)[0].split(b" ", 2)
    return parts[1].partition(b"?")[0] if len(parts) > 1 else b""


def parse_line(line: bytes, bounds: Bounds) -> tuple[bytes, bytes, int]:
    """Return method, target and minor version of a request line (RFC 9112 §3).

    Raises ``Refused``: 400, 414, 505.
    """
    parts = line.split(b" ")
    if len(parts) == 3 and parts[0] in _COMMON and parts[2] == b"HTTP/1.1" and len(line) < bounds.target:
        # The usual form costs a third of the pattern below.
        text = str(line, "latin-1")
        if parts[1] and text.isascii() and text.isprintable():
            return parts[0], parts[1], 1
    match = _REQUEST_LINE(line)
    if match is None:
        if len(line) > bounds.target:
            raise Refused(414, f"The request target is longer than {bounds.target} bytes.")
        if _OTHER_VERSION(line):
            raise Refused(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
        raise Refused(400, "The request line is not that of HTTP/1.1.")
    method, target, minor = match.groups()
    if len(target) > bounds.target:
        raise Refused(414, f"The request target is longer than {bounds.target} bytes.")
    return method, target, int(minor)


def parse_block(block: bytes, bounds: Bounds) -> Head:
    """Check what follows the request line, up to and with the empty line (RFC 9112 §5 and §6).

    Raises ``Refused``: 400, 417, 431.
    """
    if not _BLOCK(block):
        raise Refused(400, "A header field is not `name: value` on one line, ended by CRLF.")
    lines = block.lower().split(b"\r\n")
    if len(lines) - 2 > bounds.fields:
        raise Refused(431, f"There are more than {bounds.fields} header fields.")
    head = Head(block)
    seen: set[bytes] = set()
    for line in lines:
        name, _, value = line.partition(b":")
        if name in _FRAMING:
            _frame(head, name, value.strip(b" \t"), again=name in seen)
            seen.add(name)
    if head.chunked and b"content-length" in seen:
        raise Refused(400, "Content-Length and Transfer-Encoding contradict each other.")
    head.has_body = head.chunked or head.length > 0
    return head


def _frame(head: Head, name: bytes, value: bytes, *, again: bool) -> None:
    """Take a field that the framing or the routing of the message depends on; all is in lower case."""
    if name == b"connection":
        tokens = [token.strip(b" \t") for token in value.split(b",")]
        head.close = head.close or b"close" in tokens
        head.keep_alive = head.keep_alive or b"keep-alive" in tokens
        return
    if again:
        raise Refused(400, f"There are two {name.decode()} fields.")
    if name == b"content-length":
        if not _LENGTH(value):
            raise Refused(400, "Content-Length is not a number of bytes.")
        head.length = int(value)
    elif name == b"transfer-encoding":
        if value != b"chunked":
            raise Refused(400, "The only transfer coding here is chunked.")
        head.chunked = True
    elif name == b"host":
        if not _HOST(value):
            raise Refused(400, "Host is not a host and port.")
        head.host = value
    elif value == b"100-continue":
        head.expects_continue = True
    else:
        raise Refused(417, "The only expectation that can be met is 100-continue.")


def check_version(minor: int, head: Head) -> None:
    """Check what differs between the versions (RFC 9112 §3.2, §6.1). Raises ``Refused``: 400."""
    if minor and head.host is None:
        raise Refused(400, "HTTP/1.1 needs a Host field.")
    if not minor and head.chunked:
        raise Refused(400, "HTTP/1.0 has no chunked coding.")


def split_absolute(method: bytes, target: bytes, head: Head) -> tuple[bytes, Head]:
    """Return a target that does not begin with a slash as one that does, and the head that goes with it.

    The host of an absolute target replaces the Host field (RFC 9112 §3.2.2). ``OPTIONS *`` stays as it is.
    Raises ``Refused``: 400.
    """
    if target == b"*" and method == b"OPTIONS":
        return target, head
    match = _ABSOLUTE(target)
    if match is None or not _HOST(match[1].lower()):
        raise Refused(400, "The request target is neither a path nor an http URI.")
    host, rest = match[1], match[2] or b"/"
    fields = [(name, value) for name, value in head.fields() if name != b"host"]
    other = Head(b"".join([b"%b: %b\r\n" % field for field in [*fields, (b"host", host)]]) + b"\r\n")
    other.length, other.chunked, other.has_body = head.length, head.chunked, head.has_body
    other.close, other.keep_alive = head.close, head.keep_alive
    other.expects_continue, other.host = head.expects_continue, host.lower()
    return (b"/" + rest if rest.startswith(b"?") else rest), other


def check_trailers(block: bytes) -> None:
    """Check trailer fields, up to and with the empty line (RFC 9112 §7.1.2). Raises ``Refused``: 400."""
    if not _BLOCK(block):
        raise Refused(400, "A trailer field is not `name: value` on one line, ended by CRLF.")


def check_unfinished(data: bytes, seen: int, bounds: Bounds) -> None:
    """Check the beginning of a head, of which ``seen`` bytes were checked before.

    Raises ``Refused`` where no continuation makes it a valid head: 400, 414, 431.
    """
    if _HOPELESS(data, max(0, seen - 1)):
        raise Refused(400, "The head has a control character, or a line not ended by CRLF.")
    if len(data) > bounds.target + 64 and data.find(b"\r\n", 0, bounds.target + 64) < 0:
        raise Refused(414, f"The request target is longer than {bounds.target} bytes.")
    if len(data) >= bounds.head:
        raise Refused(431, f"The head is longer than {bounds.head} bytes.")
