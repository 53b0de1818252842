"""Numbers, sizes and time spans as options write them: ``64k``, ``15m``.

Each function returns what a text says, or raises ``ValueError`` with what it takes, as in "a whole number".
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_SIZE = re.compile(r"(\d{1,15})([kmg]?)b?")
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)")
_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("a whole number, 1 or more")
    return int(text)


def whole(text: str) -> int:
    """Return a whole number of at least 0."""
    if not text.isdecimal():
        raise ValueError("a whole number, 0 or more")
    return int(text)


def size(text: str) -> int:
    """Return the bytes that ``65536``, ``64k`` or ``256M`` are; at least 1."""
    match = _SIZE.fullmatch(text.lower())
    if match is None or int(match[1]) < 1:
        raise ValueError("a number of bytes, as in 65536, 64k or 256M")
    return int(match[1]) * _BYTES[match[2]]


def span(text: str) -> float:
    """Return the seconds that ``90``, ``1.5m``, ``12h`` or ``7d`` are; at least 0."""
    match = _SPAN.fullmatch(text.lower())
    if match is None:
        raise ValueError("a time in seconds, or as in 90s, 15m, 12h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def duration(text: str) -> float:
    """Return the seconds of a span that has a length."""
    try:
        seconds = span(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise ValueError("a time above 0, in seconds or as in 90s, 15m, 12h or 7d")
    return seconds


def for_argparse(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return one of these functions as a ``type`` of argparse, whose sentence its error completes."""

    def convert(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from None

    return convert
