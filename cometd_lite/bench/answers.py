"""What a server sends, cut into answers (RFC 9112 §6)."""

from __future__ import annotations

from typing import NamedTuple

from .results import UnexpectedAnswer

ANSWER_BYTES = 16 * 1024 * 1024
"""An answer that goes on longer than this is not one that the generator asked for."""


def field(head: bytes, name: bytes) -> bytes | None:
    """Return the value of the header ``name`` (in lower case) in ``head``, or None where there is none."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def chunks(data: bytes, start: int) -> tuple[bytes, int, bool]:
    """Return what the whole chunks from ``start`` on hold, where they end, and whether the last was there."""
    pieces: list[bytes] = []
    while (line := data.find(b"\r\n", start)) >= 0:
        size = int(data[start:line].partition(b";")[0], 16)
        if size == 0:
            return b"".join(pieces), line, True
        if len(data) < line + size + 4:
            break
        pieces.append(data[line + 2 : line + 2 + size])
        start = line + size + 4
    return b"".join(pieces), start, False


def unchunked(data: bytes, start: int) -> tuple[bytes, int] | None:
    """Return the chunked body that begins at ``start`` and where it ends; None until all of it is there."""
    body, line, is_last = chunks(data, start)
    end = data.find(b"\r\n\r\n", line) if is_last else -1  # there may be trailers
    return None if end < 0 else (body, end + 4)


class RawAnswer(NamedTuple):
    """One answer of a server."""

    status: int
    head: bytes
    body: bytes
    end: int
    """Where it ended in the data that it was cut from."""


def cut(data: bytes) -> RawAnswer | None:
    """Return the answer that ``data`` begins with.

    None until all of it is there. Raises ``UnexpectedAnswer`` for what is not an answer of HTTP/1.1 with its
    length.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > ANSWER_BYTES:
            raise UnexpectedAnswer("The server sent an answer whose head does not end.")
        return None
    head = data[: end + 2]
    body = end + 4
    try:
        status = int(data[9:12])
        length = _length(head, status)
        if length is None:
            chunked = unchunked(data, body)
            if chunked is None and len(data) > ANSWER_BYTES:
                raise UnexpectedAnswer("The server sent an answer whose body does not end.")
            return None if chunked is None else RawAnswer(status, head, *chunked)
    except ValueError:
        raise UnexpectedAnswer(f"The server sent what is not HTTP/1.1: {data[:80]!r}.") from None
    if length > ANSWER_BYTES:
        raise UnexpectedAnswer(f"The server announced an answer of {length} bytes.")
    if len(data) < body + length:
        return None
    return RawAnswer(status, head, data[body : body + length], body + length)


def _length(head: bytes, status: int) -> int | None:
    """Return how long the body is that follows ``head``; None where it is chunked."""
    lower = head.lower()
    if not lower.startswith(b"http/1.1 "):
        raise ValueError(head)
    if status in {204, 304}:
        return 0
    start = lower.find(b"\r\ncontent-length:")
    if start >= 0:
        return int(lower[start + 17 : lower.find(b"\r\n", start + 17)])
    if b"\r\ntransfer-encoding: chunked\r\n" in lower:
        return None
    raise UnexpectedAnswer(
        f"The server answered {status} without a length, so its connection cannot be kept."
    )


def excerpt(body: bytes) -> str:
    """Return the beginning of an answer, fit for one line of an error."""
    text = body[:300].decode("utf-8", "replace").strip()
    return " ".join(text.split()) or "an empty body"
