"""HTTP.md, "Your application's word": what it is asked, what its answers mean, and how long they hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from traceback import extract_tb
from typing import Any

import pytest
from applications import FakeApplication, said
from helpers import Outcome, TurningClock
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from cometd_lite.access.application import Allowance, Authorizer, Permission
from cometd_lite.access.questions import question_of
from cometd_lite.errors import ApplicationDown, CometError, Forbidden, ServerFull, Unauthorized
from cometd_lite.limits import (
    APPLICATION_ANSWER_OVERHEAD,
    APPLICATION_QUESTIONS,
    APPLICATION_QUESTIONS_SHARE,
    APPLICATION_REMEMBERED_BYTES,
    APPLICATION_REMEMBERED_SECONDS,
    APPLICATION_SECONDS,
)
from cometd_lite.outgoing import PostReply
from cometd_lite.sizes import text_size

SHARE = round(APPLICATION_QUESTIONS * APPLICATION_QUESTIONS_SHARE)


@dataclass
class Request:
    """A request of a client, as far as it is asked about."""

    head: dict[bytes, bytes] = field(default_factory=dict)
    client: str | None = "192.0.2.1"
    query: bytes = b""
    path: bytes = b"/poll/bob"
    is_secure: bool = False
    request: Any = None


def of(cookie: str, **words: Any) -> Request:
    return Request({b"cookie": cookie.encode()}, **words)


class World:
    """An application, what asks it, and a clock."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.application = FakeApplication()
        self.authorizer = Authorizer(self.application, "http://app.example", self.clock, Random(1))

    def ask(self, request: Request | None = None, *names: str, action: str = "poll") -> Outcome:
        asked = question_of(request or of("alice"), action, names or ("bob",))
        return Outcome(self.authorizer.ask(asked))

    def watch(self, request: Request, reply: PostReply) -> tuple[Deferred[None], list[CometError]]:
        """Park a reader that the application lets in; return it, and the errors with which it is ended."""
        asked = self.ask(request)
        if asked.parked:
            self.application.reply(reply)
        parked: Deferred[None] = Deferred()
        ends: list[CometError] = []
        Permission(self.authorizer, request, "poll", ("bob",), asked.value).watch(parked, ends.append)
        return parked, ends


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.authorizer.check_invariants()


# -- questions


def test_a_question_says_what_is_asked_and_by_whom(world: World) -> None:
    fields = {
        b"cookie": b"session=1",
        b"authorization": b"Basic eDp5",
        b"origin": b"https://example.com",
        b"user-agent": b"curl/8",
        b"x-other": b"not asked for",
    }
    world.ask(Request(fields, "192.0.2.7", b"after=now&room=9", b"/comet/poll/a"), "a", "b/c", action="poll")
    assert world.application.asked == [
        {
            "action": "poll",
            "recipients": ["a", "b/c"],
            "address": "192.0.2.7",
            "cookie": "session=1",
            "authorization": "Basic eDp5",
            "origin": "https://example.com",
            "user_agent": "curl/8",
            "path": "/comet/poll/a",
            "query": "after=now&room=9",
        }
    ]


def test_what_a_client_does_not_send_is_null(world: World) -> None:
    world.ask(Request(client=None))
    (asked,) = world.application.asked
    assert [asked[name] for name in ("address", "cookie", "authorization", "origin", "user_agent")] == [
        None
    ] * 5


@pytest.mark.parametrize("query", [b"token=secret", b"tok%65n=secret", b"token=&token=secret"])
def test_a_token_in_the_query_is_not_passed_on(world: World, query: bytes) -> None:
    world.ask(Request(query=b"room=9&" + query + b"&after=now"))
    assert world.application.asked[0]["query"] == "room=9&after=now"


# -- answers


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_2xx_allows(world: World, status: int) -> None:
    asked = world.ask()
    assert asked.parked
    world.application.reply(PostReply(status, "", b""))
    assert asked.value == Allowance(None, None)
    assert world.authorizer.counts.allowed == 1


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (403, Forbidden)])
def test_401_and_403_refuse_with_the_same_status(world: World, status: int, error: type[CometError]) -> None:
    asked = world.ask()
    world.application.reply(PostReply(status, "application/json", b'{"subject": "alice", "expires_in": 60}'))
    with pytest.raises(error) as refused:
        _ = asked.value
    assert refused.value.status == status
    again = world.ask()
    assert again.parked, "a refusal is not remembered"


def test_a_refusal_keeps_nothing_of_the_requests_that_were_refused_before(world: World) -> None:
    async def wait_for(answer: Any) -> None:
        await answer

    def refused(cookie: str) -> int:
        asked = world.authorizer.ask(question_of(of(cookie), "poll", ("bob",)))
        outcome = Outcome(Deferred.fromCoroutine(wait_for(asked)))
        world.application.reply(said(403))
        assert isinstance(outcome.results[0], Failure)
        return len(extract_tb(outcome.results[0].value.__traceback__))

    assert len({refused(cookie) for cookie in ("alice", "bob", "carol")}) == 1


@pytest.mark.parametrize("status", [100, 300, 301, 302, 307, 304, 400, 402, 404, 429, 500, 502, 503])
def test_any_other_status_lets_nothing_in(world: World, status: int) -> None:
    asked = world.ask()
    world.application.reply(PostReply(status, "application/json", b'{"expires_in": 60}'))
    with pytest.raises(ApplicationDown) as refused:
        _ = asked.value
    assert (refused.value.status, refused.value.retry_after) == (503, 1)
    assert world.authorizer.counts.failed == 1


def test_no_answer_lets_nothing_in(world: World) -> None:
    asked = world.ask()
    world.application.fail()
    with pytest.raises(ApplicationDown):
        _ = asked.value


@pytest.mark.parametrize(
    "body",
    [
        b'{"expires_in": "60"}',
        b'{"expires_in": true}',
        b'{"expires_in": -1}',
        b'{"expires_in": 1e999}',
        b'{"subject": 7}',
        b'{"subject": ""}',
        b'{"subject": "%b"}' % (b"x" * 257),
        b'{"subject": "alice"',
        b"[]",
        b"true",
        b'"alice"',
        b"\xff",
        b"[" * 60_000,
    ],
)
def test_json_that_says_something_else_lets_nothing_in(world: World, body: bytes) -> None:
    asked = world.ask()
    world.application.reply(PostReply(200, "application/json", body))
    with pytest.raises(ApplicationDown):
        _ = asked.value


@pytest.mark.parametrize(("media_type", "body"), [("text/html", b"<p>OK"), ("", b"OK"), ("text/plain", b"")])
def test_a_page_for_people_says_nothing_besides(world: World, media_type: str, body: bytes) -> None:
    asked = world.ask()
    world.application.reply(PostReply(200, media_type, body))
    assert asked.value == Allowance(None, None)


@pytest.mark.parametrize("media_type", ["application/json", "", "text/plain"])
def test_a_json_object_names_the_subject_and_the_time(world: World, media_type: str) -> None:
    world.clock.advance(10)
    asked = world.ask()
    world.application.reply(PostReply(200, media_type, b' {"subject": "al", "expires_in": 1.5, "other": []}'))
    assert asked.value == Allowance("al", 11.5)


def test_a_failure_of_ours_lets_nothing_in_and_is_logged(world: World, expected_failures: Any) -> None:
    expected_failures.append(ZeroDivisionError)
    asked = world.ask()
    world.application.pending.pop().errback(ZeroDivisionError())
    with pytest.raises(ApplicationDown):
        _ = asked.value


# -- remembering


def test_an_answer_is_remembered_for_as_long_as_it_says(world: World) -> None:
    world.ask()
    world.application.reply(said(subject="alice", expires_in=60))
    world.clock.advance(59)
    assert world.ask().value.subject == "alice"
    world.clock.advance(1)
    assert world.ask().parked
    assert world.authorizer.counts.remembered == 1


@pytest.mark.parametrize("words", [{}, {"subject": "alice"}, {"expires_in": 0}])
def test_an_answer_that_says_no_time_is_not_remembered(world: World, words: dict[str, Any]) -> None:
    world.ask()
    world.application.reply(said(**words))
    assert world.ask().parked


def test_an_answer_is_remembered_for_five_minutes_at_the_most(world: World) -> None:
    world.ask()
    world.application.reply(said(expires_in=100_000))
    world.clock.advance(APPLICATION_REMEMBERED_SECONDS - 1)
    assert not world.ask().parked
    world.clock.advance(1)
    assert world.ask().parked


ALICE = of("alice")


@pytest.mark.parametrize(
    ("request_", "names", "action"),
    [
        (of("carol"), ("bob",), "poll"),
        (Request({b"authorization": b"alice"}), ("bob",), "poll"),
        (Request({b"cookie": b"alice", b"authorization": b""}), ("bob",), "poll"),
        (Request({b"cookie": b"alice", b"origin": b"https://evil.example"}), ("bob",), "poll"),
        (of("alice", client="192.0.2.2"), ("bob",), "poll"),
        (of("alice", client=None), ("bob",), "poll"),
        (of("alice", query=b"password=x"), ("bob",), "poll"),
        (of("alice", query=b"as=root"), ("bob",), "poll"),
        (of("alice", query=b"_key=x"), ("bob",), "poll"),
        (ALICE, ("bob",), "push"),
        (ALICE, ("bobby",), "poll"),
        (ALICE, ("bob", "carol"), "poll"),
        (ALICE, (), "poll"),
        (ALICE, ("bob,carol",), "poll"),
    ],
)
def test_an_answer_holds_for_the_same_question_only(
    world: World, request_: Request, names: tuple[str, ...], action: str
) -> None:
    world.ask(ALICE)
    world.application.reply(said(expires_in=60))
    asked = question_of(request_, action, names)
    assert Outcome(world.authorizer.ask(asked)).parked


@pytest.mark.parametrize(
    "query", [b"after=now", b"rcpt=bob&wait=3", b"token=x", b"lastEventId=e-1&", b"limit=1"]
)
def test_an_answer_holds_whatever_a_request_asks_for_besides(world: World, query: bytes) -> None:
    world.ask(ALICE)
    world.application.reply(said(expires_in=60))
    assert not world.ask(of("alice", query=query, path=b"/stream")).parked
    assert not world.ask(Request({**ALICE.head, b"user-agent": b"another"})).parked


def test_what_is_remembered_is_bounded_in_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cometd_lite.limits.APPLICATION_REMEMBERED_BYTES", APPLICATION_REMEMBERED_BYTES // 20)
    world.application.answer = lambda _: said(subject="s" * 256, expires_in=300)
    many = APPLICATION_REMEMBERED_BYTES // 20 // (APPLICATION_ANSWER_OVERHEAD + 256)
    for number in range(many + 10):
        world.ask(of(str(number)))
    assert len(world.application.asked) == many + 10
    world.ask(of(str(many)))
    assert len(world.application.asked) == many + 10, "the newest are remembered"
    world.ask(of("0"))
    assert len(world.application.asked) == many + 11, "the oldest was forgotten"


def test_a_subject_is_counted_with_what_its_characters_take(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = "\U0001f600" * 64
    bound = 3 * (APPLICATION_ANSWER_OVERHEAD + text_size(subject))
    monkeypatch.setattr("cometd_lite.limits.APPLICATION_REMEMBERED_BYTES", bound)
    world.application.answer = lambda _: said(subject=subject, expires_in=300)
    for name in ("a", "b", "c", "d", "a"):
        world.ask(of(name))
    assert len(world.application.asked) == 5, "the fourth took the place of the first"


def test_as_much_is_remembered_as_the_bound_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 3 * APPLICATION_ANSWER_OVERHEAD
    monkeypatch.setattr("cometd_lite.limits.APPLICATION_REMEMBERED_BYTES", bound)
    world.application.answer = lambda _: said(expires_in=300)
    for name in ("a", "b", "c", "a", "b", "c"):
        world.ask(of(name))
    assert len(world.application.asked) == 3
    world.authorizer.check_invariants()


def test_an_answer_that_is_asked_for_again_takes_the_place_of_the_one_before(world: World) -> None:
    world.application.answer = lambda _: said(subject="alice", expires_in=300)
    question = question_of(ALICE, "poll", ("bob",))
    for _ in range(3):
        allowed = Outcome(world.authorizer.ask(question, after=world.clock.seconds() + 300)).value
        world.clock.advance(10)
    assert allowed.expires_at == world.clock.seconds() + 290
    assert world.ask(ALICE).value == allowed
    assert len(world.application.asked) == 3
    world.authorizer.check_invariants()


# -- questions that are under way


def test_identical_questions_that_are_under_way_are_asked_once(world: World) -> None:
    asked = [world.ask() for _ in range(30)]
    assert len(world.application.asked) == 1
    world.application.reply(said(subject="alice"))
    assert [each.value.subject for each in asked] == ["alice"] * 30
    assert world.ask().parked


def test_all_who_wait_for_a_question_are_refused_together(world: World) -> None:
    asked = [world.ask() for _ in range(3)]
    world.application.reply(said(403))
    for each in asked:
        with pytest.raises(Forbidden):
            _ = each.value


def test_a_client_that_disconnects_leaves_the_others_their_answer(world: World) -> None:
    first, second = world.ask(), world.ask()
    first.cancel()
    world.application.reply(said())
    assert second.value == Allowance()
    assert world.application.cancelled == 0


def test_a_thousand_that_wait_for_one_answer_go_on_in_slices_and_in_order() -> None:
    clock = TurningClock()
    world = World(clock)
    order: list[int] = []
    for number in range(1_000):
        answer = world.authorizer.ask(question_of(ALICE, "poll", ("bob",)))
        assert isinstance(answer, Deferred)
        answer.addCallback(lambda _, number=number: order.append(number))
    world.application.reply(said())
    assert 0 < len(order) < 200
    turns = 0
    while clock.getDelayedCalls():
        clock.turn()
        turns += 1
    assert order == list(range(1_000))
    assert turns >= 5


def test_the_questions_that_are_under_way_are_bounded(world: World) -> None:
    addresses = [f"192.0.2.{number % 8}" for number in range(APPLICATION_QUESTIONS)]
    asked = [world.ask(of(str(i), client=address)) for i, address in enumerate(addresses)]
    assert world.authorizer.under_way == APPLICATION_QUESTIONS
    with pytest.raises(ServerFull) as refused:
        world.ask(of("one more", client="192.0.2.99"))
    assert (refused.value.status, refused.value.retry_after) == (503, 5)
    joined = world.ask(of("7", client="192.0.2.7"))
    assert joined.parked, "it waits for a question that is under way"
    world.application.reply(said())
    assert not asked[0].parked
    assert world.ask(of("one more", client="192.0.2.99")).parked


@pytest.mark.parametrize(
    ("addresses", "another"),
    [(["192.0.2.1"], "192.0.2.2"), (["2001:db8::1", "2001:db8::2"], "2001:db8:1::1")],
)
def test_one_address_does_not_fill_the_bound(world: World, addresses: list[str], another: str) -> None:
    for number in range(SHARE):
        world.ask(of(str(number), client=addresses[number % len(addresses)]))
    with pytest.raises(ServerFull):
        world.ask(of("one more", client=addresses[0]))
    assert world.ask(of("one more", client=another)).parked
    for _ in range(SHARE):
        world.application.reply(said())
    assert world.ask(of("and more", client=addresses[0])).parked


def test_clients_without_an_address_have_no_share(world: World) -> None:
    for number in range(SHARE + 1):
        assert world.ask(of(str(number), client=None)).parked


def test_what_is_under_way_at_the_end_is_refused(world: World) -> None:
    asked = [world.ask(), world.ask()]
    world.authorizer.stop()
    for each in asked:
        with pytest.raises(ApplicationDown):
            _ = each.value
    assert (world.application.cancelled, world.authorizer.under_way) == (1, 0)
    assert world.clock.getDelayedCalls() == []


# -- readers


def test_a_reader_is_asked_about_again_when_the_time_is_over(world: World) -> None:
    parked, ends = world.watch(ALICE, said(expires_in=60))
    world.clock.advance(53)
    assert len(world.application.asked) == 1
    world.clock.advance(7)
    assert len(world.application.asked) == 2
    assert world.application.asked[1] == world.application.asked[0]
    world.application.reply(said(expires_in=60))
    world.clock.advance(60)
    assert len(world.application.asked) == 3
    assert not ends
    parked.callback(None)
    assert world.clock.getDelayedCalls() == []


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (403, Forbidden), (500, ApplicationDown)])
def test_a_reader_ends_where_it_is_refused_then(world: World, status: int, error: type[CometError]) -> None:
    _, ends = world.watch(ALICE, said(expires_in=60))
    world.clock.advance(60)
    world.application.reply(said(status))
    assert [type(end) for end in ends] == [error]
    assert world.clock.getDelayedCalls() == []


def test_a_reader_whose_answer_has_no_time_is_not_asked_about_again(world: World) -> None:
    world.watch(ALICE, said())
    assert world.clock.getDelayedCalls() == []


def test_readers_of_one_client_are_asked_about_once(world: World) -> None:
    readers = [world.watch(ALICE, said(expires_in=60)) for _ in range(100)]
    world.application.answer = lambda _: said(expires_in=60)
    for _ in range(60):
        world.clock.advance(1)
    assert len(world.application.asked) == 2
    assert not any(ends for _, ends in readers)
    for parked, _ in readers:
        parked.callback(None)
    assert world.clock.getDelayedCalls() == []


def test_readers_that_came_together_are_not_asked_about_in_one_moment(world: World) -> None:
    for number in range(100):
        world.watch(of(str(number), client=f"192.0.2.{number}"), said(expires_in=100))
    world.clock.advance(92)
    at_once = len(world.application.asked) - 100
    assert 0 < at_once < 50


def test_a_reader_is_asked_about_once_a_second_at_the_most(world: World) -> None:
    parked, _ = world.watch(ALICE, said(expires_in=0.001))
    world.application.answer = lambda _: said(expires_in=0.001)
    for _ in range(100):
        world.clock.advance(0.1)
    assert len(world.application.asked) <= 11
    parked.callback(None)


def test_a_reader_that_ends_while_it_is_asked_about_leaves_nothing(world: World) -> None:
    parked, ends = world.watch(ALICE, said(expires_in=60))
    world.clock.advance(60)
    parked.callback(None)
    world.application.reply(said(403))
    assert not ends
    assert world.clock.getDelayedCalls() == []


def test_a_reader_stays_for_a_while_where_there_is_no_room_for_its_question(world: World) -> None:
    parked, ends = world.watch(ALICE, said(expires_in=60))
    others = [world.ask(of(str(i), client=f"192.0.2.{i}")) for i in range(2, APPLICATION_QUESTIONS + 2)]
    world.clock.advance(60)
    assert not ends
    for _ in others:
        world.application.reply(said())
    world.application.answer = lambda _: said(expires_in=60)
    world.clock.advance(2)
    assert not ends
    parked.callback(None)


def test_a_reader_ends_where_there_is_no_room_for_its_question_in_time(world: World) -> None:
    _, ends = world.watch(ALICE, said(expires_in=60))
    for i in range(2, APPLICATION_QUESTIONS + 2):
        world.ask(of(str(i), client=f"192.0.2.{i}"))
    world.clock.pump([1.0] * round(60 + APPLICATION_SECONDS + 3))
    assert [type(end) for end in ends] == [ServerFull]
    assert world.clock.getDelayedCalls() == []


def test_a_reader_ends_where_the_time_of_its_answer_is_over_after_the_end(world: World) -> None:
    _, ends = world.watch(of("alice"), said(expires_in=60))
    world.authorizer.stop()
    world.clock.advance(61)
    assert [type(error) for error in ends] == [ApplicationDown]
