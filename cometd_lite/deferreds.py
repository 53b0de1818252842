"""What cometd-lite adds to Deferreds: values that are there at once or later.

A store in memory answers at once, and a store on a disk or a network answers with a Deferred. Code that
serves both asks ``is_pending`` and goes on with ``chain``. Where nothing is pending, no Deferred is made: a
push to memory runs from its request to the readers that it wakes in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from typing_extensions import TypeIs

T = TypeVar("T")
R = TypeVar("R")
MaybeDeferred: TypeAlias = T | Deferred[T]

_kinds: dict[type, bool] = {}


def is_pending(value: MaybeDeferred[T]) -> TypeIs[Deferred[T]]:
    """Whether a value is still to come.

    ``Deferred`` is an abstract base class since it can be awaited, and to ask ``isinstance`` of one costs ten
    times a look into a dict; this is asked ten times for each message.
    """
    kind: type[Any] = value.__class__
    known = _kinds.get(kind)
    if known is None:
        known = _kinds[kind] = issubclass(kind, Deferred)
    return known


def chain(result: MaybeDeferred[T], use: Callable[[T], MaybeDeferred[R]]) -> MaybeDeferred[R]:
    """Give ``result`` to ``use`` now, or once it is there."""
    if is_pending(result):
        return result.addCallback(use)
    return use(result)


def shielded(result: MaybeDeferred[T], unwanted: Callable[[T], object] | None = None) -> MaybeDeferred[T]:
    """Return what may be cancelled without cancelling the work behind it.

    What the work gives when nobody wants it any more is given to ``unwanted``.
    """
    if not is_pending(result):
        return result
    outside: Deferred[T] = Deferred()

    def finish(value: T | Failure) -> None:
        if not outside.called:
            outside.callback(value)  # a Failure makes it an errback
        elif unwanted is not None and not isinstance(value, Failure):
            unwanted(value)

    result.addBoth(finish)
    return outside


def total(counts: Sequence[MaybeDeferred[int]]) -> MaybeDeferred[int]:
    """Return the sum of counts."""
    known = 0
    later: list[Deferred[int]] = []
    for count in counts:
        if is_pending(count):
            later.append(count)
        else:
            known += count
    return gatherResults(later).addCallback(lambda found: known + sum(found)) if later else known
