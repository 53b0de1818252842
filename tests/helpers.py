"""Words that the tests of the core share: contents and pushes in short, and what became of a Deferred."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any, TypeVar

from hypothesis import strategies
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from cometd_lite.message import Batch, Content, Cursor, Message, Push
from cometd_lite.stores import Maybe

T = TypeVar("T")

EPOCH = "epoch00000"

bodies = strategies.binary(min_size=1, max_size=64)
names = strategies.text(string.ascii_lowercase, min_size=1, max_size=3)


def text(body: str = "hi") -> Content:
    return Content.of(body)


def push(*recipients: str, body: str | list[str] = "hi", **words: Any) -> Push:
    """Return a push of one text, or of several."""
    bodies = [body] if isinstance(body, str) else body
    return Push(recipients, tuple(map(text, bodies)), **words)


def message(number: int, recipient: str = "bob", body: str = "hi", expires_at: float = 1e9) -> Message:
    return Message(Cursor(EPOCH, number), recipient, text(body), 0.0, expires_at)


def numbers(found: Batch | Iterable[Message]) -> list[int]:
    """Return the places of messages in the one order."""
    return [message.sequence for message in (found.messages if isinstance(found, Batch) else found)]


def data(found: Batch | Iterable[Message]) -> list[Any]:
    return [message.data for message in (found.messages if isinstance(found, Batch) else found)]


class Outcome:
    """What became of a Deferred, or of a plain result: nothing yet, a value, or a failure."""

    def __init__(self, result: Maybe[Any]) -> None:
        self.results: list[Any] = []
        self.deferred = result if isinstance(result, Deferred) else None
        if self.deferred is None:
            self.results.append(result)
        else:
            self.deferred.addBoth(self.results.append)

    @property
    def parked(self) -> bool:
        return not self.results

    @property
    def value(self) -> Any:
        """The value; raises what it failed with, or ``AssertionError`` where there is nothing yet."""
        assert self.results, "it is still parked"
        (result,) = self.results
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def cancel(self) -> None:
        """Leave, as a client does whose connection is lost."""
        assert self.deferred is not None
        self.deferred.cancel()


def now(result: Maybe[T]) -> T:
    """Return what is there already, plain or in a Deferred; raise what it failed with."""
    value: T = Outcome(result).value
    return value
