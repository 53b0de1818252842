"""Parked Deferreds behave as Twisted's own do, in the cases of Twisted's tests and in those of the lane."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import Outcome
from twisted.internet import defer
from twisted.internet.defer import AlreadyCalledError, CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.test import test_defer as cases

from cometd_lite import deferreds
from cometd_lite.deferreds import ParkedDeferred, ShieldedDeferred, shielded_chain


@pytest.fixture(autouse=True)
def expected_failures() -> None:
    """Leave the check of logged failures to Twisted's own test cases, which have one."""


@pytest.fixture(autouse=True, scope="module")
def _twisted_cases_use_parked_deferreds() -> Iterator[None]:
    """Let the cases of Twisted's own tests make parked Deferreds."""
    patch = pytest.MonkeyPatch()
    patch.setattr(cases, "defer", SimpleNamespace(**{**vars(defer), "Deferred": ParkedDeferred}))
    patch.setattr(cases, "Deferred", ParkedDeferred)
    yield
    patch.undo()


class TestTwistedsOwnCases(cases.DeferredTests):  # type: ignore[misc]  # Twisted's tests carry no types
    # These look at the name of the class, at its attributes, and at the stack below a warning.
    test_DEFERRED_SUBCLASSES = None
    test_circularChainWarning = None
    test_repr = None
    test_reprWithChaining = None
    test_reprWithResult = None
    test_succeedMatchesManualSuccess = None


class TestTwistedsOwnCasesWithoutALane(TestTwistedsOwnCases):
    @pytest.fixture(autouse=True)
    def _no_lane(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make Twisted lack the private names that the lane uses."""
        monkeypatch.setattr(deferreds, "_HAS_LANE", False)


class TestTwistedsOwnCasesOfCancelling(cases.DeferredCancellerTests):  # type: ignore[misc]  # as above
    pass


class TestTwistedsOwnCasesOfUnhandledErrors(cases.LogTests):  # type: ignore[misc]  # as above
    pass


def fired(value: Any, *callbacks: Any) -> list[Any]:
    """Return what the last of the callbacks returned, once a parked Deferred fired with a value."""
    out: list[Any] = []
    deferred: ParkedDeferred[Any] = ParkedDeferred()
    for callback in callbacks:
        deferred.addCallback(callback)
    deferred.addBoth(out.append)
    deferred.callback(value)
    return out


def test_callbacks_run_in_order_each_with_what_the_one_before_returned() -> None:
    assert fired(1, lambda value: value + 1, lambda value: value * 10) == [20]


def test_a_callback_that_raises_leads_to_the_errbacks_behind_it() -> None:
    def fails(_: int) -> int:
        raise ValueError("no")

    (failure,) = fired(1, fails, lambda value: value + 1)
    assert failure.check(ValueError)


def test_a_callback_that_returns_a_failure_leads_to_the_errbacks_behind_it() -> None:
    (failure,) = fired(1, lambda _: Failure(ValueError("no")), lambda value: value + 1)
    assert failure.check(ValueError)


def test_a_callback_that_returns_a_deferred_is_waited_for() -> None:
    inner: Deferred[int] = Deferred()
    out = fired(1, lambda _: inner, lambda value: value + 1)
    assert out == []
    inner.callback(41)
    assert out == [42]


def test_a_callback_that_is_added_while_callbacks_run_runs_after_them() -> None:
    order: list[str] = []
    deferred: ParkedDeferred[None] = ParkedDeferred()
    deferred.addCallback(lambda _: deferred.addCallback(lambda _: order.append("added")) and None)
    deferred.addCallback(lambda _: order.append("second"))
    deferred.callback(None)
    assert order == ["second", "added"]


def test_a_coroutine_is_given_what_the_callbacks_before_it_have_returned() -> None:
    async def waiter(deferred: Deferred[int]) -> int:
        return await deferred

    parked: Deferred[int] = ParkedDeferred()
    parked.addCallback(lambda value: value + 1).addCallback(lambda value: value * 10)
    waiting = Outcome(Deferred.fromCoroutine(waiter(parked)))
    parked.callback(1)
    assert waiting.value == 20


def test_a_cancel_while_callbacks_run_is_too_late() -> None:
    cancelled: list[object] = []
    deferred: ParkedDeferred[int] = ParkedDeferred(cancelled.append)
    deferred.addCallback(lambda value: deferred.cancel() or value)
    deferred.callback(7)
    assert (deferred.result, cancelled) == (7, [])


def test_it_fires_once() -> None:
    deferred: ParkedDeferred[int] = ParkedDeferred()
    deferred.addCallback(lambda value: value)
    deferred.callback(1)
    with pytest.raises(AlreadyCalledError):
        deferred.callback(2)


def test_it_is_chained_behind_another_deferred_in_the_order_of_adding() -> None:
    order: list[int] = []
    parked: ParkedDeferred[int] = ParkedDeferred()
    parked.addCallback(lambda value: order.append(1) or value)
    outer: Deferred[Any] = Deferred()
    outer.addCallback(lambda _: parked).addCallback(order.append)
    outer.callback(None)
    parked.addCallback(lambda _: order.append(3))
    parked.callback(2)
    assert order == [1, 2, 3]


def test_a_canceller_that_does_not_fire_it_lets_it_fail_with_a_cancelled_error() -> None:
    out: list[Any] = []
    deferred: ParkedDeferred[int] = ParkedDeferred(lambda _: None)
    deferred.addCallbacks(out.append, lambda failure: out.append(failure.type))
    deferred.cancel()
    assert out == [CancelledError]


def test_it_leaves_nothing_for_the_garbage_collector_once_it_has_fired() -> None:
    gc.collect()
    gc.disable()
    try:
        deferred: ParkedDeferred[int] = ParkedDeferred(lambda _: None)
        deferred.addCallback(lambda value: value).addErrback(lambda failure: failure)
        deferred.callback(1)
        del deferred
        assert gc.collect() == 0
    finally:
        gc.enable()


# -- work that goes on where it is cancelled


@pytest.fixture(params=[ParkedDeferred, ShieldedDeferred])
def work(request: pytest.FixtureRequest) -> Deferred[Any]:
    """Return what fires when the work is done."""
    made: Deferred[Any] = request.param()
    return made


def test_a_shielded_chain_fires_with_what_becomes_of_the_result(work: Deferred[Any]) -> None:
    outcome = Outcome(shielded_chain(work, lambda value, more: value + more, 2))
    assert outcome.parked
    work.callback(1)
    assert outcome.value == 3


def test_a_shielded_chain_of_work_that_is_done_fires_at_once(work: Deferred[Any]) -> None:
    work.callback(1)
    assert Outcome(shielded_chain(work, lambda value, more: value + more, 2)).value == 3


def test_a_shielded_chain_that_is_cancelled_gives_on_its_result_all_the_same(work: Deferred[Any]) -> None:
    used: list[int] = []
    outcome = Outcome(shielded_chain(work, used.append))
    outcome.cancel()
    with pytest.raises(CancelledError):
        _ = outcome.value
    work.callback(1)
    assert used == [1]


def test_a_shielded_chain_fails_as_the_work_does_or_what_it_is_given_to(work: Deferred[Any]) -> None:
    outcome = Outcome(shielded_chain(work, lambda value: 1 / value))
    work.callback(0)
    with pytest.raises(ZeroDivisionError):
        _ = outcome.value


@pytest.mark.parametrize("cancels", [False, True])
def test_a_shielded_chain_whose_work_fails_gives_on_nothing(work: Deferred[Any], cancels: bool) -> None:
    used: list[int] = []
    outcome = Outcome(shielded_chain(work, used.append))
    if cancels:
        outcome.cancel()
    work.errback(KeyError())
    assert used == []
    with pytest.raises(CancelledError if cancels else KeyError):
        _ = outcome.value


@pytest.mark.parametrize("cancels", [False, True])
def test_a_shielded_chain_waits_for_what_waits(work: Deferred[Any], cancels: bool) -> None:
    later: Deferred[int] = Deferred()
    outcome = Outcome(shielded_chain(work, lambda _: later))
    work.callback(1)
    assert outcome.parked
    if cancels:
        outcome.cancel()
    assert not later.called
    later.callback(2)
    if cancels:
        with pytest.raises(CancelledError):
            _ = outcome.value
    else:
        assert outcome.value == 2


def test_a_shielded_chain_fails_as_what_waits_does(work: Deferred[Any]) -> None:
    later: Deferred[int] = Deferred()
    outcome = Outcome(shielded_chain(work, lambda _: later))
    work.callback(1)
    later.errback(KeyError())
    with pytest.raises(KeyError):
        _ = outcome.value
