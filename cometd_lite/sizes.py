"""What the texts of clients take in memory, so that the bounds of tables of them hold."""

from __future__ import annotations

from collections.abc import Iterable


def text_size(text: str) -> int:
    """Return the bytes of a text: one, two or four for each character, as its widest needs (PEP 393).

    The UTF-8 that CPython keeps beside a text that is not ASCII, once it was encoded, is counted with it.
    """
    if text.isascii():
        return 64 + len(text)
    widest = max(text)
    width = 1 if widest < "\u0100" else 2 if widest < "\U00010000" else 4
    return 112 + width * len(text) + len(text.encode("utf-8", "surrogatepass"))


def names_size(names: Iterable[str], overhead: int) -> int:
    """Return the bytes of names, and of what a table keeps beside each of them."""
    return sum([text_size(name) + overhead for name in names])
