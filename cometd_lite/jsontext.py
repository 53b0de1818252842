"""JSON: the only module that reads, checks and writes JSON texts, by msgspec.

``parse`` returns Python values, and ``decode`` what a decoder of msgspec's makes of a text. ``check`` and
``kept`` return the text itself, for what is passed on as it came. ``dumps`` returns the text of a value, and
``encoded`` does without its checks. All agree on what JSON is:

- A number has any size. One that is too large for Python's float is a ``Decimal``.
- An escaped surrogate without its other half, which RFC 8259 §8.2 leaves open, is read as U+FFFD.
- Arrays and objects are nested up to a bound. msgspec counts their levels against the interpreter's limit on
  recursion, and so depends on its caller's stack; therefore the levels are counted before.

Each raises ``ValueError`` for a text or a value that it refuses, with the end of a sentence that says why.
"""

from __future__ import annotations

import json
import re
import sys
from array import array
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from itertools import accumulate
from math import isinf
from operator import add
from typing import Any, NoReturn, TypeVar

from msgspec import DecodeError, EncodeError, Raw, ValidationError
from msgspec.json import Decoder, Encoder

from .limits import JSON_DEPTH, MESSAGE_DEPTH

T = TypeVar("T")

_ANYTHING: Decoder[Any] = Decoder()
_KEPT = Decoder(Raw)
encoded: Callable[[Any], bytes] = Encoder(decimal_format="number").encode
"""Return the JSON text of a value of the server's own, which is shallow and known to have one."""

_BITS = bytes.maketrans(b"[{]}", b"1100")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_HALF = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_OTHER_HALF = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE_SURROGATE = re.compile(
    rb"%b(?!%b)|(?<!\\u[dD][89abAB]..)%b" % (_HALF, _OTHER_HALF, _OTHER_HALF), re.DOTALL
)


def _walk(brackets: int) -> list[int]:
    """Return the levels after each of eight brackets, which are bits: 1 opens an array or an object."""
    return list(accumulate([1 if brackets & bit else -1 for bit in (128, 64, 32, 16, 8, 4, 2, 1)]))


_ENDS = bytes([_walk(brackets)[-1] % 256 for brackets in range(256)])
_PEAKS = bytes([max(0, *_walk(brackets)) for brackets in range(256)])


def parse(text: bytes) -> Any:
    """Return the value of a JSON text."""
    return decode(text, _ANYTHING)


def decode(text: bytes, *decoders: Decoder[T]) -> T:
    """Return what the first decoder that takes a JSON text makes of it; ``kept`` takes what is ``Raw`` in it.

    Raises msgspec's ``ValidationError``, a ``ValueError`` too, for JSON that none of them takes.
    """
    # msgspec does not look at the bytes of what it skips or returns as Raw; decode does.
    if "\\u" in text.decode():
        text = _without_lone_surrogates(text)
    if len(text) > MESSAGE_DEPTH:
        return _read_deep(text, decoders)
    return _read(text, decoders)


def kept(raw: Raw) -> bytes:
    """Return what ``decode`` left as it came, as data of a message; ``raw`` refers to the whole text."""
    text = bytes(raw)
    if len(text) > MESSAGE_DEPTH:
        _levels(text, MESSAGE_DEPTH)
    return text


def check(text: bytes) -> bytes:
    """Return a JSON text as data of a message: as it came, but for lone surrogates."""
    if "\\u" in text.decode():
        text = _without_lone_surrogates(text)
    if len(text) > MESSAGE_DEPTH:
        _levels(text, MESSAGE_DEPTH)
    _read(text, [_KEPT])
    return text


def dumps(value: Any) -> bytes:
    """Return the JSON text of a value, on one line."""
    try:
        text = encoded(value)
    except (TypeError, ValueError, RecursionError, EncodeError) as error:
        raise ValueError(str(error)) from None
    if len(text) > MESSAGE_DEPTH:
        _levels(text, MESSAGE_DEPTH)
    return text


def _read(text: bytes, decoders: Sequence[Decoder[T]]) -> T:
    refused = ""
    for decoder in decoders:
        try:
            return decoder.decode(text)
        except ValidationError as error:
            refused = str(error)
        except DecodeError as error:
            raise DecodeError(str(error).removeprefix("JSON is malformed: ")) from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
    if decoders[-1] is not _ANYTHING:
        raise ValidationError(refused)
    # Of all that may be in JSON, only a large number is no value to msgspec.
    return json.loads(  # type: ignore[no-any-return]  # T is Any
        text.decode(), parse_int=_integer, parse_float=_number, parse_constant=_refuse_constant
    )


def _read_deep(text: bytes, decoders: Sequence[Decoder[T]]) -> T:
    """Read a text that may be nested more deeply than the interpreter lets msgspec go."""
    levels = _levels(text, JSON_DEPTH)
    if levels <= MESSAGE_DEPTH:
        return _read(text, decoders)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + levels)
    try:
        return _read(text, decoders)
    finally:
        sys.setrecursionlimit(limit)


def _without_lone_surrogates(text: bytes) -> bytes:
    if b"\0" in text:
        return text  # it is no JSON, and NUL is needed below
    escapes = text.replace(rb"\\", b"\0\0")  # what is left of backslashes begins an escape
    return _LONE_SURROGATE.sub(rb"\\ufffd", escapes).replace(b"\0\0", rb"\\")


def _levels(text: bytes, most: int) -> int:
    """Return how many levels deep a text is nested, or a bound of that which is at most MESSAGE_DEPTH.

    Raises ``ValueError`` where they are more than ``most``.
    """
    opened = text.count(b"[") + text.count(b"{")
    if opened <= MESSAGE_DEPTH:
        return opened
    without_strings = b"".join(text.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    levels = _deepest(without_strings.translate(_BITS, _NO_BRACKETS))
    if levels > most:
        raise ValueError(f"it is nested more than {most} levels deep")
    return levels


def _deepest(bits: bytes) -> int:
    """Return how many levels deep brackets are nested: the digit 1 opens one, and 0 closes one.

    Eight are looked at as one, which takes 8 ms for a million and not 20.
    """
    count = -(-len(bits) // 8)
    eights = int(b"0" + bits.ljust(count * 8, b"0"), 2).to_bytes(count, "big")
    begins = accumulate(array("b", eights.translate(_ENDS)), initial=0)
    return max(map(add, begins, eights.translate(_PEAKS)), default=0)


def _integer(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:  # it has more digits than Python converts at once
        return Decimal(text)


def _number(text: str) -> float | Decimal:
    number = float(text)
    if not isinf(number):
        return number
    try:
        return Decimal(text)
    except InvalidOperation:  # its exponent has 19 digits or more
        return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
