from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
from helpers import Outcome, check_invariants, data, now
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python import threadable
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import IResource
from twisted.web.test.requesthelper import DummyChannel
from zope.interface.verify import verifyObject

import cometd_lite
from cometd_lite.client import Client
from cometd_lite.comet import Comet
from cometd_lite.core.message import Content, Cursor
from cometd_lite.core.store import Usage
from cometd_lite.errors import BadParameter, BadRecipient, MailboxFull, NobodyWaits, Stopping, StoreDown
from cometd_lite.http.responses import Response
from cometd_lite.limits import SWEEP_SECONDS, Limits
from cometd_lite.site import TwistedWebExchange
from cometd_lite.stores.memory import MemoryStore


@pytest.fixture
def comet(clock: Clock) -> Iterator[Comet]:
    comet = Comet(clock=clock, wall=lambda: 1_795_169_758.123)
    yield comet
    check_invariants(comet.hub)


class NoTreq:
    """treq for requests that are never sent."""

    @property
    def request(self) -> Callable[..., Deferred[Any]]:
        raise AssertionError("nothing is to be sent")


def run(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Outcome:
    return Outcome(ensureDeferred(coroutine))


# -- push, poll, take


def test_a_program_pushes_and_polls_without_http(comet: Comet) -> None:
    poll = Outcome(comet.poll("bob", "now"))
    assert poll.parked
    receipt = now(comet.push("bob", {"text": "hi"}))
    assert receipt.delivered == 1
    assert data(poll.value) == [{"text": "hi"}]
    assert str(poll.value.cursor) == receipt.id


@pytest.mark.parametrize("value", [b"\x00\xff", "grüß dich", {"a": [1, None]}, 7, None])
def test_what_is_pushed_comes_out_as_it_went_in(comet: Comet, value: Any) -> None:
    now(comet.push(["bob"], value, event="greeting", ttl=5))
    (message,) = now(comet.poll(["bob"], "oldest")).messages
    assert message.data == value
    assert (message.event, message.recipient) == ("greeting", "bob")


def test_a_content_with_its_own_type_is_pushed_as_it_is(comet: Comet) -> None:
    content = Content.parse(b"<b>hi</b>", "text/html")
    now(comet.push("bob", content))
    (message,) = now(comet.take("bob")).messages
    assert message.content == content


def test_a_cursor_goes_on_as_an_object_or_as_its_text(comet: Comet) -> None:
    first = now(comet.push("bob", "1"))
    now(comet.push("bob", "2"))
    assert data(now(comet.poll("bob", first.id))) == ["2"]
    assert data(now(comet.poll("bob", Cursor.parse(first.id)))) == ["2"]


def test_a_take_takes(comet: Comet) -> None:
    now(comet.push("bob", "1"))
    assert data(now(comet.take("bob"))) == ["1"]
    take = Outcome(comet.take(["bob", "eve"], wait=5))
    assert take.parked
    take.cancel()
    with pytest.raises(CancelledError):
        _ = take.value


def test_the_words_of_a_push_mean_what_they_mean_over_http(clock: Clock) -> None:
    comet = Comet(clock=clock, limits=Limits(capacity=1), overflow="drop-oldest")
    first = now(comet.push("bob", "1", idempotency_key="k"))
    assert now(comet.push("bob", "1", idempotency_key="k")) == first
    now(comet.push("bob", "2"))
    assert data(now(comet.poll("bob", "oldest"))) == ["2"]
    with pytest.raises(MailboxFull):
        now(comet.push("bob", "3", overflow="reject"))
    with pytest.raises(NobodyWaits):
        now(comet.push("eve", "3", queue=False))
    clock.advance(1e6)
    assert data(now(comet.poll("bob", "oldest", wait=0))) == []


def test_names_that_are_given_twice_count_once(comet: Comet) -> None:
    poll = Outcome(comet.poll(["bob", "bob"], "now"))
    assert now(comet.push(["bob", "bob"], "hi")).recipients == ("bob",)
    assert data(poll.value) == ["hi"]


def test_patterns_can_be_polled_but_not_pushed_to_or_taken_from(comet: Comet) -> None:
    poll = Outcome(comet.poll("chat/*", "now"))
    now(comet.push("chat/a", "hi"))
    assert data(poll.value) == ["hi"]
    for refused in (comet.push("chat/*", "hi"), comet.take("chat/*")):
        with pytest.raises(BadRecipient):
            now(refused)


@pytest.mark.parametrize("nobody", ["", [], (), iter(())])
def test_a_request_that_names_no_recipient_is_refused_in_a_sentence(comet: Comet, nobody: Any) -> None:
    # A poll of nothing was parked where no push could find it, and where even the server's end did not.
    for refused in (comet.push(nobody, "hi"), comet.poll(nobody, "now"), comet.take(nobody)):
        with pytest.raises(BadRecipient):
            now(refused)
    assert comet.hub.registry.parked == 0


def test_a_wrong_word_fails_the_deferred_and_raises_nothing(comet: Comet) -> None:
    for failed, error in (
        (comet.push("/bob", "hi"), BadRecipient),
        (comet.push("bob", ""), ValueError),
        (comet.push("bob", object()), ValueError),
        (comet.push("bob", "hi", event="a\ndata: forged"), BadParameter),
        (comet.push("bob", "hi", event=""), BadParameter),
        (comet.push("bob", "hi", ttl=0), ValueError),
        (comet.push("bob", "hi", ttl=float("nan")), ValueError),
        (comet.poll("bob", "yesterday"), ValueError),
        (comet.poll("bob", "oldest", limit=0), ValueError),
        (comet.take("bob", limit=0), ValueError),
        (comet.describe("*"), BadRecipient),
        (comet.delete(""), BadRecipient),
    ):
        with pytest.raises(error):
            now(failed)
    assert comet.hub.store.usage() == Usage(0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"ttl": "10m"}, "ttl is a number of seconds, as in 600, not '10m'"),
        ({"ttl": True}, "ttl is a number of seconds, as in 600, not True"),
        ({"queue": "no"}, "queue is True or False, not 'no'"),
        ({"overflow": "drop"}, "overflow is 'reject' or 'drop-oldest', not 'drop'"),
        ({"event": 7}, "event is a str, not 7"),
        ({"idempotency_key": b"k"}, "idempotency_key is a str, not b'k'"),
        ({"recipients": 7}, r"recipients is a name or a list of names, .*\['bob', 'alice'\], not 7"),
        ({"recipients": None}, "recipients is a name or a list of names"),
        ({"recipients": b"bob"}, "recipients is a name or a list of names, .* not b'bob'"),
        ({"recipients": ["bob", 7]}, "A recipient's name is a str, as in 'bob', not 7"),
    ],
)
def test_an_argument_of_a_push_that_is_none_is_named_with_what_is_right(
    comet: Comet, arguments: dict[str, Any], sentence: str
) -> None:
    recipients = arguments.pop("recipients", "bob")
    with pytest.raises((TypeError, ValueError), match=sentence):
        now(comet.push(recipients, "hi", **arguments))
    with pytest.raises((TypeError, ValueError), match=sentence):
        Client(clock=Clock(), treq=NoTreq()).push(recipients, "hi", **arguments)
    assert comet.hub.store.usage() == Usage(0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"wait": "5"}, "wait is a number of seconds, as in 600, not '5'"),
        ({"limit": "5"}, "limit is a number of messages, as in 100, not '5'"),
        ({"limit": 0}, "limit is a number of messages, 1 or more"),
    ],
)
def test_an_argument_of_a_read_that_is_none_is_named_with_what_is_right(
    comet: Comet, arguments: dict[str, Any], sentence: str
) -> None:
    client = Client(clock=Clock(), treq=NoTreq())
    for read in (
        lambda: now(comet.poll("bob", "now", **arguments)),
        lambda: now(comet.take("bob", **arguments)),
        lambda: client.poll("bob", "now", **arguments),
        lambda: client.take("bob", **arguments),
        lambda: client.follow("bob", **arguments),
    ):
        with pytest.raises((TypeError, ValueError), match=sentence):
            read()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"store": "sqlite:messages.db"}, r"store is a store that was made, as in store=SQLiteStore\('mess"),
        ({"overflow": "drop"}, "overflow is 'reject' or 'drop-oldest', not 'drop'"),
        (
            {"store": MemoryStore(Limits()), "overflow": "drop-oldest"},
            "overflow is the store's where a store is given",
        ),
        ({"limits": {"capacity": 7}}, r"limits is a Limits, as in limits=Limits\(capacity=100\), not"),
        ({"tokens": "key.pem"}, r"tokens is a Tokens, as in tokens=Tokens\(\[Path\('key.pem'\)\]\), not"),
        ({"bayeux": False}, "bayeux is a BayeuxOptions"),
        (
            {"origins": "https://example.com"},
            r"origins is a list, as in origins=\['https://example.com'\], not",
        ),
        ({"proxied": "127.0.0.1"}, "proxied is a list"),
        ({"allow_parameters": "utm"}, "allow_parameters is a list"),
    ],
)
def test_an_option_of_a_comet_that_is_none_is_named_with_what_is_right(
    clock: Clock, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        Comet(clock=clock, **options)


def test_a_comet_on_the_reactor_is_asked_in_the_reactors_thread_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    comet = Comet()
    monkeypatch.setattr(threadable, "ioThread", threadable.getThreadID())
    assert now(comet.push("bob", "hi")).ids
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(RuntimeError, match=r"blockingCallFromThread\(reactor, comet\.push, 'bob', 'hi'\)"),
    ):
        pool.submit(comet.push, "bob", "hi").result()


def test_a_comet_on_the_reactor_says_where_it_works_when_it_is_asked_on_an_asyncio_loop() -> None:
    comet = Comet()

    async def program() -> None:
        await comet.poll("bob", "now")

    with pytest.raises(RuntimeError, match=r"asyncioreactor\.install\(loop\), or run the server by itself"):
        asyncio.run(program())


def test_an_asyncio_coroutine_awaits_what_a_comet_returns(comet: Comet) -> None:
    async def program() -> list[Any]:
        polling = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        await comet.push("bob", "hi")
        return await polling

    async def wait() -> list[Any]:
        return data(await comet.poll("bob", "now"))

    assert asyncio.run(program()) == ["hi"]


def test_what_is_read_is_printed_for_people(comet: Comet) -> None:
    now(comet.push("bob", {"text": "hi"}, event="greeting"))
    now(comet.push("bob", "line\nbreak"))
    now(comet.push("bob", Content.parse(b"\x89PNG", "image/png")))
    now(comet.push("bob", "ü" * 1_000))
    batch = now(comet.poll("bob", "oldest"))
    first, second, third, fourth = map(str, batch.messages)
    ids = [message.id for message in batch.messages]
    assert first == f'<Message {ids[0]} to bob, event greeting: {{"text":"hi"}}>'
    assert second == f"<Message {ids[1]} to bob: 'line\\nbreak'>"
    assert third == f"<Message {ids[2]} to bob: 4 bytes of image/png>"
    assert fourth.endswith("üü…>")
    assert len(fourth) < 300
    assert str(batch) == f"<Batch [{first}, {second}, {third}, {fourth}] up to {ids[3]}>"


def test_mailboxes_are_listed(comet: Comet) -> None:
    comet.push(["chat/a", "chat/b", "bob"], "hi")
    page = now(comet.recipients("chat/", limit=1))
    assert ([one.recipient for one in page.recipients], page.more) == (["chat/a"], "chat/a")
    assert page.recipients[0].queued == 1
    page = now(comet.recipients("chat/", after="chat/a"))
    assert ([one.recipient for one in page.recipients], page.more) == (["chat/b"], None)
    with pytest.raises(ValueError, match="limit"):
        now(comet.recipients(limit=0))


def test_a_recipient_is_described_and_deleted(comet: Comet) -> None:
    now(comet.push("bob", "hi"))
    standing = now(comet.describe("bob"))
    assert (standing.queued, standing.leased, standing.bytes, standing.oldest) == (1, 0, 2, standing.newest)
    now(comet.delete("bob"))
    assert now(comet.describe("bob")).queued == 0
    assert now(comet.poll("bob", "oldest", wait=0)).gap is False


# -- follow


def test_a_program_follows_recipients_until_the_server_stops(comet: Comet) -> None:
    heard = []

    async def listen() -> str:
        async for message in comet.follow(["bob", "chat/*"]):
            heard.append(message.data)  # noqa: PERF401  as a program would do
        return "stopped"

    listening = run(listen())
    assert listening.parked
    for number in range(3):
        now(comet.push("bob", str(number)))
    now(comet.push("chat/a", "3"))
    assert heard == ["0", "1", "2", "3"]
    comet.stop()
    assert listening.value == "stopped"


def test_a_program_that_follows_from_a_cursor_is_told_of_a_gap(comet: Comet) -> None:
    place = str(now(comet.poll("bob", "now", wait=0)).cursor)
    now(comet.push("bob", "lost"))
    now(comet.delete("bob"))
    now(comet.push("bob", "kept"))
    gaps: list[Cursor] = []

    async def first() -> Any:
        async for message in comet.follow("bob", place, on_gap=gaps.append):
            return message.data
        return None

    assert run(first()).value == "kept"
    assert [str(gap) for gap in gaps] == [place], "as the client tells it: what is lost comes after there"


def test_a_program_that_stops_following_is_forgotten(comet: Comet, clock: Clock) -> None:
    async def listen() -> None:
        async for _ in comet.follow("bob"):
            pass

    listening = run(listen())
    assert comet.hub.registry.parked == 1
    clock.advance(30)
    assert comet.hub.registry.parked == 1
    listening.cancel()
    with pytest.raises(CancelledError):
        _ = listening.value
    assert comet.hub.registry.parked == 0
    assert clock.getDelayedCalls() == []


def test_messages_that_come_while_one_is_looked_at_are_not_missed(comet: Comet) -> None:
    heard: list[str] = []
    busy: Deferred[None] = Deferred()

    async def listen() -> None:
        async for message in comet.follow("bob"):
            heard.append(message.data)
            await busy

    listening = run(listen())
    for number in range(5):
        now(comet.push("bob", str(number)))
    assert heard == ["0"]
    busy.callback(None)
    assert heard == ["0", "1", "2", "3", "4"]
    listening.cancel()
    with pytest.raises(CancelledError):
        _ = listening.value


# -- the start and the end


def test_a_comet_clears_away_every_second_what_is_too_old(comet: Comet, clock: Clock) -> None:
    comet.start()
    comet.start()
    now(comet.push("bob", "hi", ttl=10))
    clock.pump([SWEEP_SECONDS] * 9)
    assert comet.hub.store.usage().messages == 1
    clock.pump([SWEEP_SECONDS] * 2)
    assert comet.hub.store.usage() == Usage(0, 0, 0)
    comet.stop()
    assert clock.getDelayedCalls() == []


def test_a_comet_that_stops_answers_who_waits_and_takes_no_more(comet: Comet, clock: Clock) -> None:
    poll, take = Outcome(comet.poll("bob", "now")), Outcome(comet.take("bob"))
    now(comet.stop())
    assert not poll.value
    assert not take.value
    with pytest.raises(Stopping):
        now(comet.push("bob", "hi"))
    assert clock.getDelayedCalls() == []


def test_connections_to_applications_are_closed_though_the_store_cannot_be(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    closed: list[str] = []

    class Post:
        """What posts to an application."""

        shown = "http://app.example"

        def __init__(self, url: str, seconds: float) -> None:
            self.url = url

        def close(self) -> Deferred[None]:
            closed.append(self.url)
            return succeed(None)

    class Stuck(MemoryStore):
        """A store that cannot be closed."""

        def close(self) -> Deferred[None]:
            return fail(StoreDown())

    monkeypatch.setattr("cometd_lite.comet.post_to", Post)
    comet = Comet(store=Stuck(Limits()), authorize_url="http://app.example", clock=clock)
    with pytest.raises(StoreDown):
        now(comet.stop())
    assert closed == ["http://app.example"]


def test_the_end_waits_for_the_store_though_connections_to_an_application_cannot_be_closed(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    written: Deferred[None] = Deferred()

    class Post:
        """What posts to an application, and cannot be closed."""

        shown = "http://app.example"

        def __init__(self, url: str, seconds: float) -> None:
            pass

        def close(self) -> Deferred[None]:
            return fail(ZeroDivisionError())

    class Slow(MemoryStore):
        """A store that is still written when it is to be closed."""

        def close(self) -> Deferred[None]:
            return written

    monkeypatch.setattr("cometd_lite.comet.post_to", Post)
    comet = Comet(store=Slow(Limits()), authorize_url="http://app.example", clock=clock)
    stopped = Outcome(comet.stop())
    assert stopped.parked
    written.callback(None)
    with pytest.raises(ZeroDivisionError):
        _ = stopped.value


def test_a_response_in_a_site_whose_client_has_just_left_is_dropped(comet: Comet) -> None:
    request = Request(DummyChannel(), False)
    request.method, request.uri, request.content = b"GET", b"/healthz", BytesIO()
    exchange = TwistedWebExchange(request, comet.routes)
    request.connectionLost(Failure(ConnectionLost()))
    exchange.respond(Response(200, b"Content-Type: text/plain\r\n", b"hi"))
    assert not request.finished


def test_a_comet_is_a_resource_for_any_site(comet: Comet) -> None:
    verifyObject(IResource, comet.resource())


@pytest.mark.parametrize("path", ["", "/", "a/b"])
def test_beside_an_application_a_comet_lies_below_one_segment(comet: Comet, path: str) -> None:
    with pytest.raises(ValueError, match="one segment"):
        comet.beside(lambda *_: [], path)
    assert list(comet.beside(lambda *_: [], "/live/").children) == [b"live"]


def test_two_comets_in_one_program_are_two_servers(clock: Clock) -> None:
    one, other = Comet(clock=clock), Comet(clock=clock)
    now(one.push("bob", "hi"))
    assert not now(other.poll("bob", "oldest", wait=0))
    assert now(other.poll("bob", str(now(one.poll("bob", "oldest")).cursor), wait=0)).gap


def test_a_comet_without_a_clock_gets_no_older_when_the_machines_clock_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from twisted.internet import reactor  # noqa: PLC0415  as Comet does

    comet = Comet()
    now(comet.push("bob", "hi", ttl=60))
    monkeypatch.setattr(reactor, "seconds", lambda: time.time() + 3_600)
    assert data(now(comet.poll("bob", "oldest", wait=0))) == ["hi"]
    others = comet.hub.clock.getDelayedCalls()  # the reactor is everybody's
    poll = Outcome(comet.poll("bob", "now"))
    (timer,) = [call for call in comet.hub.clock.getDelayedCalls() if call not in others]
    assert timer.active()
    poll.cancel()
    with pytest.raises(CancelledError):
        _ = poll.value
    assert not timer.active()


def test_a_program_brings_its_own_store(clock: Clock) -> None:
    store = MemoryStore(Limits(), epoch="mineismine")
    assert now(Comet(clock=clock, store=store).push("bob", "hi")).id == "mineismine-1"


def test_the_package_shows_its_public_names_and_no_others() -> None:
    assert {name: getattr(cometd_lite, name).__name__ for name in cometd_lite.__all__} == {
        name: name for name in cometd_lite.__all__
    }
    assert "Comet" in cometd_lite.__all__
    with pytest.raises(AttributeError):
        _ = cometd_lite.nothing_of_that_name  # type: ignore[attr-defined]
