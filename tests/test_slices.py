from __future__ import annotations

import time
from collections.abc import Callable, Generator

import pytest
from helpers import Outcome
from twisted.internet.defer import CancelledError

from cometd_lite.stores.slices import Slices


class Turns:
    """What is called in the next turn of a reactor."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.slices = Slices(self.calls.append)

    def turn(self) -> None:
        assert len(self.calls) == 1
        self.calls.pop()()


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    """Return slices in which each step takes a whole turn."""
    seconds = iter(range(1_000_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    return Turns()


def steps(count: int, done: list[str], name: str = "") -> Generator[None, None, str]:
    for step in range(count):
        done.append(f"{name}{step}")
        if step + 1 < count:
            yield
    return name


def test_work_of_one_step_is_done_at_once(turns: Turns) -> None:
    assert turns.slices.run(steps(1, [], "a")) == "a"
    assert turns.calls == []


def test_longer_work_goes_on_in_later_turns_one_step_of_each_after_the_other(turns: Turns) -> None:
    done: list[str] = []
    outcomes = [Outcome(turns.slices.run(steps(3, done, name))) for name in "ab"]
    assert done == ["a0", "b0"]
    turn_counts = 0
    while turns.calls:
        turns.turn()
        turn_counts += 1
    assert done == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert [outcome.value for outcome in outcomes] == ["a", "b"]
    assert turn_counts == 4


def test_short_steps_share_a_turn() -> None:
    turns, done = Turns(), []
    outcome = Outcome(turns.slices.run(steps(5, done)))
    turns.turn()
    assert len(done) == 5
    assert outcome.value == ""


def test_what_a_step_raises_is_the_failure_of_the_work_and_of_no_other(turns: Turns) -> None:
    def failing() -> Generator[None, None, None]:
        yield
        raise KeyError("no")

    done: list[str] = []
    failed, other = Outcome(turns.slices.run(failing())), Outcome(turns.slices.run(steps(2, done, "b")))
    turns.turn()
    turns.turn()
    assert turns.calls == []
    assert other.value == "b"
    with pytest.raises(KeyError):
        _ = failed.value
    with pytest.raises(KeyError):
        next(iter([turns.slices.run(iter_fails())]))


def iter_fails() -> Generator[None, None, None]:
    raise KeyError("at once")
    yield


def test_work_that_is_cancelled_takes_no_further_step(turns: Turns) -> None:
    done: list[str] = []
    outcome = Outcome(turns.slices.run(steps(3, done)))
    outcome.cancel()
    turns.turn()
    assert turns.calls == []
    assert done == ["0"]
    with pytest.raises(CancelledError):
        _ = outcome.value
