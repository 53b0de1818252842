"""Words that the tests of the core share: contents and pushes in short, and what became of a Deferred."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from cometd_lite.core.hub import Hub
from cometd_lite.core.leases import Ended, LeaseId, Settlement
from cometd_lite.core.message import Batch, Content, Cursor, Message, Push
from cometd_lite.core.store import Contents, Record, Shows, Usage
from cometd_lite.deferreds import MaybeDeferred
from cometd_lite.errors import CometError
from cometd_lite.stores.memory import MemoryStore

T = TypeVar("T")

EPOCH = "epoch00000"


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

    def __init__(self, result: MaybeDeferred[Any]) -> None:
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


def now(result: MaybeDeferred[T]) -> T:
    """Return what is there already, plain or in a Deferred; raise what it failed with."""
    value: T = Outcome(result).value
    return value


class TurningClock(Clock):
    """A clock whose ``turn`` is one turn of a reactor: calls made in it wait for the next turn."""

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, then do what was due before."""
        self.rightNow += seconds
        for call in [call for call in self.calls if call.getTime() <= self.seconds()]:
            if call in self.calls:
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


def check_invariants(hub: Hub) -> None:
    """Check everything that always holds of a hub, its registry and its store."""
    hub.check_invariants()
    hub.store.check_invariants()  # type: ignore[attr-defined]  # each store of ours has it


def check_empty(hub: Hub) -> None:
    """Check, too, that no reader is parked."""
    check_invariants(hub)
    assert hub.registry.parked == 0


class Asked:
    """A question to a ``SlowStore``. It is looked at when ``look`` is called, and answered by ``answer``."""

    def __init__(self, verb: str, call: Callable[[], Any]) -> None:
        self.verb = verb
        self.deferred: Deferred[Any] = Deferred()
        self.call = call
        self.looked = False
        self.found: Any = None

    def look(self) -> None:
        """Let the store do what was asked; nobody is told yet."""
        if not self.looked:
            self.looked = True
            try:
                self.found = self.call()
            except CometError:
                self.found = Failure()

    def answer(self) -> None:
        """Tell whoever asked."""
        self.look()
        self.deferred.callback(self.found)

    def fail(self, error: Exception) -> None:
        """Do nothing of what was asked, and say so."""
        self.looked = True
        self.found = Failure(error)
        self.answer()


class SlowStore:
    """A store that looks, and answers, when the test says so, and in any order.

    What is asked of ``MemoryStore`` here waits in ``asked``; ``settle`` answers all of it, oldest first.
    """

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.asked: list[Asked] = []

    def settle(self) -> None:
        while self.asked:
            self.answer(self.asked[0])

    def answer(self, asked: Asked) -> None:
        self.asked.remove(asked)
        asked.answer()

    def next(self, verb: str) -> Asked:
        """Return the oldest question of a kind, which the test is to answer."""
        asked = next(asked for asked in self.asked if asked.verb == verb)
        self.asked.remove(asked)
        return asked

    def usage(self) -> Usage:
        return self.store.usage()

    def check_invariants(self) -> None:
        self.store.check_invariants()

    def remember(self, kind: str, id: str, value: Callable[[], bytes], expires_at: float) -> None:  # noqa: A002
        pass

    def forget(self, kind: str, id: str) -> None:  # noqa: A002
        pass

    def recall(self, kind: str) -> Sequence[Record]:
        return ()

    def ask(self, verb: str, *given: Any) -> Deferred[Any]:
        self.asked.append(Asked(verb, lambda: getattr(self.store, verb)(*given)))
        return self.asked[-1].deferred

    def open(self, now: float) -> Deferred[None]:
        return self.ask("open", now)

    def close(self) -> Deferred[None]:
        return self.ask("close")

    def flush(self) -> Deferred[None]:
        return self.ask("flush")

    def append(self, push: Push, now: float, created_at: float) -> Deferred[Sequence[Message]]:
        return self.ask("append", push, now, created_at)

    def retract(self, messages: Sequence[Message]) -> Deferred[None]:
        return self.ask("retract", messages)

    def read(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool = True
    ) -> Deferred[Batch]:
        return self.ask("read", recipients, after, limit, now, acks)

    def take(self, recipients: tuple[str, ...], limit: int, now: float) -> Deferred[Batch]:
        return self.ask("take", recipients, limit, now)

    def lease(self, recipients: tuple[str, ...], limit: int, seconds: float, now: float) -> Deferred[Batch]:
        return self.ask("lease", recipients, limit, seconds, now)

    def settle_leases(
        self, recipient: str, leases: Sequence[LeaseId], settlement: Settlement, seconds: float, now: float
    ) -> Deferred[Sequence[bool]]:
        return self.ask("settle_leases", recipient, leases, settlement, seconds, now)

    def give_back(self, messages: Sequence[Message]) -> Deferred[None]:
        return self.ask("give_back", messages)

    def delete(self, recipient: str, now: float) -> Deferred[None]:
        return self.ask("delete", recipient, now)

    def names(self, prefix: str, after: str, most: int, shows: Shows) -> Deferred[Sequence[str]]:
        return self.ask("names", prefix, after, most, shows)

    def describe(self, recipient: str, now: float) -> Deferred[Contents]:
        return self.ask("describe", recipient, now)

    def expire(self, now: float) -> Deferred[Ended | None]:
        return self.ask("expire", now)


class Inline:
    """A worker of an ``SQLiteStore`` that does everything at once, so that nothing ever waits."""

    def soon(self, call: Callable[[], None], seconds: float = 0.0) -> None:
        call()

    def run(self, work: Callable[[], None], done: Callable[[Failure | None], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001  whatever it is, whoever waits is told
            done(Failure())
        else:
            done(None)

    def stop(self) -> None:
        pass
