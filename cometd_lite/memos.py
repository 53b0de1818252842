"""Memos: what functions have returned for arguments that clients choose. All are forgotten every minute.

Python gives memory back to the system by the megabyte, once nothing in it is used. A few small results that
were remembered in the midst of a flood would keep most of what the flood took.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_memos: list[Callable[[], object]] = []


def memo(most: int) -> Callable[[F], F]:
    """Return a decorator that remembers up to ``most`` results of a function, the latest that were asked."""

    def decorate(function: F) -> F:
        remembering = lru_cache(maxsize=most)(function)
        forgotten_by(remembering.cache_clear)
        return cast("F", remembering)

    return decorate


def forgotten_by(forget: Callable[[], object]) -> None:
    """Let ``forget_all`` call a function that forgets what a module has remembered."""
    _memos.append(forget)


def forget_all() -> None:
    """Forget what all memos have remembered."""
    for forget in _memos:
        forget()
