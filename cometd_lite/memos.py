"""How the memory of a flood of requests is given back: what was made meanwhile must not stay.

Python gives memory back to the system by the megabyte, once nothing in it is used. One small object that was
made during the flood, and lives on, keeps a megabyte. So a memo, which is what a function has returned for
arguments that clients choose, is forgotten after a minute at the most. The numbers of counts are made anew:
those that are made together lie together. Their lists and tables are kept, since new ones would lie apart.
Empty tables give up their room, which CPython keeps until something is put in.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
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


def renew(holder: Any, *names: str) -> None:
    """Make the numbers in these attributes of an object anew."""
    for name in names:
        setattr(holder, name, getattr(holder, name) + 0)


def shrink(*tables: MutableMapping[Any, Any]) -> None:
    """Let those of the tables that are empty take no room."""
    for table in tables:
        if not table:
            table.clear()
