"""What processes ask each other: an answer, or to be told why there is none."""

from __future__ import annotations

import gc
from functools import partial
from weakref import ref

import pytest
from helpers import Outcome
from twisted.internet.defer import Deferred, fail, succeed

from cometd_lite.core.store import ProcessGone, RPCAnswer
from cometd_lite.errors import InternalError, StoreDown
from cometd_lite.stores.redis.rpc import Calls


class Exchange:
    """Processes that hear each other at once, and the processes that are there."""

    def __init__(self, *names: str) -> None:
        self.calls = {name: Calls(name, self.publish) for name in names}
        self.down = False

    def publish(self, process: str, said: bytes) -> Deferred[int]:
        if self.down:
            return fail(StoreDown())
        if process not in self.calls:
            return succeed(0)
        kind, _, rest = said.partition(b" ")
        self.calls[process].received(kind, rest)
        return succeed(1)


@pytest.fixture
def exchange() -> Exchange:
    return Exchange("one", "two")


def test_a_question_is_answered_at_once_or_later(exchange: Exchange) -> None:
    later: Deferred[RPCAnswer] = Deferred()
    answers = iter([RPCAnswer(b"a b\r\n"), later])
    exchange.calls["two"].answerer = lambda question: next(answers)
    assert Outcome(exchange.calls["one"].ask("two", b"x")).value == b"a b\r\n"
    asked = Outcome(exchange.calls["one"].ask("two", b"y z"))
    assert asked.parked
    assert exchange.calls["one"].asked == {"two"}
    later.callback(RPCAnswer(b""))
    assert asked.value == b""
    assert exchange.calls["one"].asked == set()


def test_who_asks_a_process_that_is_no_more_is_told_so(exchange: Exchange) -> None:
    with pytest.raises(ProcessGone):
        _ = Outcome(exchange.calls["one"].ask("three", b"x")).value
    exchange.calls["two"].answerer = lambda question: Deferred()
    asked = [Outcome(exchange.calls["one"].ask("two", b"x")) for _ in range(2)]
    exchange.calls["one"].process_ended("three")
    assert all(one.parked for one in asked)
    exchange.calls["one"].process_ended("two")
    for one in asked:
        with pytest.raises(ProcessGone):
            _ = one.value


def test_who_leaves_is_known_to_have_left(exchange: Exchange) -> None:
    left, answers = [], []

    def answer(question: bytes) -> Deferred[RPCAnswer]:
        answer: Deferred[RPCAnswer] = Deferred(lambda _: left.append(question))
        answers.append(ref(answer))
        return answer

    exchange.calls["two"].answerer = answer
    asked = Outcome(exchange.calls["one"].ask("two", b"x"))
    asked.cancel()
    assert left == [b"x"]
    gc.collect()
    assert answers[0]() is None


def test_without_a_connection_no_request_waits_for_an_answer(exchange: Exchange) -> None:
    left = []
    exchange.calls["two"].answerer = lambda question: Deferred(left.append)
    asked = Outcome(exchange.calls["one"].ask("two", b"x"))
    exchange.down = True
    for calls in exchange.calls.values():
        calls.cut_off()
    for late in (asked, Outcome(exchange.calls["one"].ask("two", b"x"))):
        with pytest.raises(StoreDown):
            _ = late.value
    assert len(left) == 1


def test_an_answer_that_comes_when_no_reader_can_hear_it_is_let_go_of(exchange: Exchange) -> None:
    answer: Deferred[RPCAnswer] = Deferred()
    exchange.calls["two"].answerer = lambda question: answer
    asked = Outcome(exchange.calls["one"].ask("two", b"x"))
    exchange.down = True
    answer.callback(RPCAnswer(b"late"))
    assert asked.parked


@pytest.mark.parametrize("later", [False, True])
def test_what_an_answer_failed_with_is_logged_where_that_was_and_the_caller_gets_an_error(
    exchange: Exchange, expected_failures: list[type[BaseException]], *, later: bool
) -> None:
    expected_failures.append(ZeroDivisionError)

    def answer(question: bytes) -> Deferred[RPCAnswer]:
        if later:
            return fail(ZeroDivisionError())
        raise ZeroDivisionError

    exchange.calls["two"].answerer = answer
    with pytest.raises(InternalError):
        _ = Outcome(exchange.calls["one"].ask("two", b"x")).value


# -- answers whose loss is to be undone


def test_an_answer_that_has_arrived_is_confirmed(exchange: Exchange) -> None:
    lost: list[bytes] = []
    exchange.calls["two"].answerer = lambda question: RPCAnswer(b"a b", lambda: lost.append(question))
    assert Outcome(exchange.calls["one"].ask("two", b"x")).value == b"a b"
    assert exchange.calls["two"].asked == set()
    exchange.calls["two"].cut_off()
    assert lost == []


def test_an_answer_is_lost_whose_caller_has_left_or_lost_its_client_or_cannot_be_told(
    exchange: Exchange,
) -> None:
    lost: list[bytes] = []
    later: list[Deferred[RPCAnswer]] = []

    def answer(question: bytes) -> Deferred[RPCAnswer]:
        later.append(Deferred())
        return later[-1]

    exchange.calls["two"].answerer = answer
    one = exchange.calls["one"]
    asked = [Outcome(one.ask("two", b"x"))]
    one.cut_off()  # it finds Redis again before the answer comes
    asked += [Outcome(one.ask("two", b"y", lambda: True)), Outcome(one.ask("two", b"z"))]
    for place, name in enumerate((b"x", b"y", b"z")):
        exchange.down = name == b"z"
        later[place].callback(RPCAnswer(b"", partial(lost.append, name)))
        assert lost[place:] == [name]
    with pytest.raises(StoreDown):
        _ = asked[0].value
    assert asked[1].value == b""
    assert asked[2].parked


def test_an_answer_that_a_process_has_not_confirmed_is_lost_when_that_is_no_more(exchange: Exchange) -> None:
    lost: list[bytes] = []
    exchange.calls["one"] = Calls("one", lambda process, said: succeed(1))  # what it says is not heard
    two = exchange.calls["two"]
    two.answerer = lambda question: RPCAnswer(b"", lambda: lost.append(question))
    two.received(b"ask", b"one 1 x")
    assert (two.asked, lost) == ({"one"}, [])
    two.process_ended("one")
    assert (two.asked, lost) == (set(), [b"x"])
