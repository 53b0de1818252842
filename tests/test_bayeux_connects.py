"""Bayeux over a hub in memory: connects are held, events travel, sockets talk, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from bayeux_clients import (
    Asked,
    Client,
    Late,
    Server,
    Story,
    arrived,
    events,
    late_client,
    post,
    session_of,
)
from helpers import Outcome, now
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from cometd_lite.access.grants import Grant
from cometd_lite.bayeux import BayeuxOptions, Call
from cometd_lite.core.message import Content, Push
from cometd_lite.errors import (
    BadBody,
    BadParameter,
    BodyTooLarge,
    ServerFull,
    Stopping,
    StoreDown,
    Unauthorized,
)
from cometd_lite.http.responses import Response
from cometd_lite.limits import POLL_MESSAGES_MOST, Limits
from cometd_lite.stores.memory import MemoryStore


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    server = Server(clock)
    yield server
    server.check_invariants()


# -- a held connect


def test_a_connect_is_held_until_an_event_comes(server: Server) -> None:
    client = server.client("/chat/room1")
    held = client.hold()
    server.push("chat/room1", {"text": "hi"})
    assert held.messages == [
        {"channel": "/chat/room1", "data": {"text": "hi"}},
        {"channel": "/meta/connect", "successful": True, "id": "3"},
    ]
    assert server.quiet


def test_a_connect_is_held_for_the_timeout_and_no_longer(server: Server) -> None:
    client = server.client("/a")
    held = client.hold()
    server.clock.advance(26.9)
    assert held.held
    server.clock.advance(3.1)  # a tenth earlier at the most, so that not all come back at once
    assert held.messages == [{"channel": "/meta/connect", "successful": True, "id": "3"}]
    assert server.quiet


def test_a_client_without_subscriptions_is_held_too(server: Server) -> None:
    client = server.client()
    held = client.hold()
    server.clock.advance(30.0)
    assert held.reply["successful"] is True
    held = client.hold()
    server.hub.stop()
    assert held.reply["successful"] is True
    assert server.quiet


def test_what_was_pushed_between_two_connects_comes_with_the_second(server: Server) -> None:
    client = server.client("/a")
    server.push("a", 1)
    server.push("a", 2)
    assert client.connect().events == [("/a", 1), ("/a", 2)]
    assert client.hold()


def test_a_client_that_subscribes_while_it_is_held_is_told_what_comes(server: Server) -> None:
    client = server.client("/a")
    held = client.hold()
    client.subscribe("/b/*")
    client.unsubscribe("/a")
    server.push("a", 1)
    assert held.held
    server.push("b/1", 2)
    assert held.events == [("/b/1", 2)]
    assert server.quiet


def test_subscribing_does_not_make_a_held_connect_longer(server: Server) -> None:
    client = server.client("/a")
    held = client.hold()
    server.clock.advance(20.0)
    client.subscribe("/b")
    server.clock.advance(10.0)
    assert not held.held


def test_what_was_pushed_before_a_subscription_is_not_told(server: Server) -> None:
    server.push("b", "old")
    client = server.client("/a")
    server.push("a", 1)
    server.push("b", 2)
    assert client.subscribe("/b", "/c/*")[0] == {"channel": "/a", "data": 1}
    server.push("b", 3)
    server.push("c/1", 4)
    assert client.connect().events == [("/b", 3), ("/c/1", 4)]


def test_a_place_that_lies_before_a_subscription_is_told_apart_from_it(server: Server) -> None:
    # Under the acknowledgement extension the answer to a subscription carries no events.
    client = server.client("/a", ext={"ack": True})
    server.push("a", 1)
    server.push("b", "too early")
    assert events(client.subscribe("/b")) == []
    server.push("b", 2)
    assert client.connect().events == [("/a", 1), ("/b", 2)]


def test_overlapping_subscriptions_deliver_once(server: Server) -> None:
    # Rule 7: cometd-nodejs-server delivers three times.
    client = server.client("/a/b", "/a/*", "/a/**", "/**")
    held = client.hold()
    server.push("a/b", 1)
    assert held.events == [("/a/b", 1)]
    assert client.hold()


def test_wildcards_match_one_segment_or_several(server: Server) -> None:
    one, several = server.client("/foo/*"), server.client("/foo/**")
    for name in ("foo", "foobar", "foo/bar", "foo/bar/boo", "foobar/boo"):
        server.push(name, name)
    assert one.connect().events == [("/foo/bar", "foo/bar")]
    assert several.connect().events == [("/foo/bar", "foo/bar"), ("/foo/bar/boo", "foo/bar/boo")]


def test_no_client_forges_the_protocols_own_messages_by_a_push_over_http(server: Server) -> None:
    client = server.client("/**")
    held = client.hold()
    server.push("meta/connect", 1)
    server.push("service/x", 2)
    assert held.held
    server.push("a", 3)
    assert held.events == [("/a", 3)]


def test_a_publication_reaches_bayeux_and_http(server: Server) -> None:
    alice, bob = server.client(), server.client("/chat/*")
    held = bob.hold()
    assert alice.publish("/chat/room1", {"text": "hi"}) == [
        {"channel": "/chat/room1", "successful": True, "id": "2"}
    ]
    assert held.events == [("/chat/room1", {"text": "hi"})]
    assert alice.id.encode() not in held.answer.body
    batch = Outcome(server.hub.take(("chat/room1",), 0.0)).value
    (message,) = batch.messages
    assert message.data == {"text": "hi"}
    assert message.content.type == "application/json"


def test_events_of_ones_own_come_with_the_answer_and_leave_the_connect_held(server: Server) -> None:
    # "Delivery": in preference to waking a waiting connect.
    client = server.client("/a")
    held = client.hold()
    assert client.publish("/a", 1)[0] == {"channel": "/a", "data": 1}
    assert held.held
    server.push("a", 2)
    assert held.events == [("/a", 2)]


def test_a_handshake_carries_no_events(server: Server) -> None:
    client = server.client("/a")
    server.push("a", 1)
    again = client.send(
        {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]}
    )
    assert again.events == []
    assert client.connect().events == [("/a", 1)]


def test_a_full_mailbox_drops_its_oldest_for_bayeux_and_tells_readers(clock: Clock) -> None:
    server = Server(clock, limits=Limits(capacity=3))
    late = server.client("/a")
    for number in range(5):
        assert server.client().publish("/a", number)[0]["successful"] is True
    answer = late.connect()
    assert answer.events == [("/a", 2), ("/a", 3), ("/a", 4)]
    assert answer.reply["ext"] == {"gap": True}
    held = late.hold()
    server.push("a", 5)
    assert "ext" not in held.reply  # it is told once
    taken = Outcome(server.hub.take(("a",), 0.0)).value
    assert taken.gap


def test_mailboxes_do_not_fill_up_because_all_their_readers_speak_bayeux(clock: Clock) -> None:
    server = Server(clock, limits=Limits(capacity=3))
    client = server.client("/a", "/b/*")
    for number in range(20):
        held = client.hold()
        server.push(("a", "b/1")[number % 2], number)  # overflow=reject, as HTTP has it
        assert [data for _, data in held.events] == [number]


def test_a_gap_reaches_a_client_that_is_held(clock: Clock) -> None:
    server = Server(clock)
    client = server.client("/a")
    server.push("a", 1)
    server.hub.delete("a")
    held = client.connect()
    assert held.messages == [
        {"channel": "/meta/connect", "successful": True, "id": "3", "ext": {"gap": True}}
    ]
    assert client.hold()


def test_a_gap_that_was_found_by_a_publication_is_told_by_the_connect(server: Server) -> None:
    client = server.client("/a")
    held = client.hold()
    server.hub.registry.forget(held.outcome.deferred and session_of(client).reader)
    server.push("a", 1)
    server.hub.delete("a")
    session_of(client).reader = None
    assert events(client.publish("/x")) == []
    assert client.connect().reply["ext"] == {"gap": True}


def test_a_thousand_events_and_more_come_in_several_answers(clock: Clock) -> None:
    server = Server(clock, limits=Limits(capacity=5_000))
    client = server.client("/a")
    for number in range(2_500):
        server.push("a", number)
    got: list[Any] = []
    while not (request := client.connect()).held:
        assert len(request.events) <= 1_000
        got += [data for _, data in request.events]
    assert got == list(range(2_500))


def test_what_it_wants_is_found_behind_much_that_it_does_not_want(clock: Clock) -> None:
    server = Server(clock, limits=Limits(capacity=5_000))
    client = server.client("/**")
    for number in range(2_500):
        server.push("meta/x", number)
    held = client.hold()
    for _ in range(1_500):
        server.push("service/x")
    server.push("a", 1)
    assert held.events == [("/a", 1)]
    for number in range(2_500):
        server.push("meta/x", number)
    server.push("a", 2)
    assert client.connect().events == [("/a", 2)]


def test_clients_that_one_push_wakes_look_once_at_much_that_they_do_not_want(clock: Clock) -> None:
    # They were given the same once more, without end.
    server = Server(clock, limits=Limits(capacity=5_000))
    held = [server.client("/**").hold() for _ in range(2)]
    server.hub.push(Push(("meta/x",), (Content.of("hi"),) * (POLL_MESSAGES_MOST + 1)))
    assert [request.held for request in held] == [True] * 2
    server.push("a", 1)
    assert [request.events for request in held] == [[("/a", 1)]] * 2


def test_an_idle_client_does_not_read_the_same_log_again_and_again(server: Server) -> None:
    client = server.client("/quiet/*")
    for number in range(10):
        server.push("loud", number)
    client.hold()
    assert session_of(client).place.sequence == 10


# -- clients that vanish


def test_a_client_that_vanished_while_it_was_held_loses_nothing(server: Server) -> None:
    # Rule 8: both reference servers lose it.
    client = server.client("/a")
    held = client.hold()
    server.push("b")
    held.lose()
    server.push("a", 1)
    assert client.connect().events == [("/a", 1)]


def test_a_client_that_has_left_unnoticed_loses_nothing(server: Server) -> None:
    client = server.client("/a")
    held = client.hold()
    client.gone = True
    server.push("a", 1)
    assert held.held
    held.lose()
    client.gone = False
    assert client.connect().events == [("/a", 1)]


def test_events_do_not_go_with_an_answer_that_is_not_read(server: Server) -> None:
    client = server.client("/a")
    client.gone = True
    assert events(client.publish("/a", 1)) == []
    client.gone = False
    assert client.connect().events == [("/a", 1)]


def test_a_session_ends_when_its_client_does_not_come_back(server: Server) -> None:
    client = server.client("/a")
    held = client.hold()
    held.lose()
    server.sweep(9.9)
    assert len(server.bayeux) == 1
    server.sweep(0.2)
    assert len(server.bayeux) == 0
    request = client.connect()
    assert request.reply["error"] == "402::session_unknown"
    assert request.reply["advice"] == {"reconnect": "handshake", "interval": 0}
    assert server.quiet


def test_a_session_does_not_end_while_its_connect_is_held(clock: Clock) -> None:
    server = Server(clock, BayeuxOptions(timeout=60.0, max_interval=5.0))
    client = server.client("/a")
    held = client.hold()
    for _ in range(50):
        server.sweep(1.0)
    assert held.held
    server.push("a", 1)
    assert held.events == [("/a", 1)]
    server.sweep(4.9)
    assert client.hold()


def test_the_time_of_a_session_runs_from_the_answer_on(server: Server) -> None:
    # Rule 5: started one turn of the loop later, half of the runs failed.
    client = server.client("/a")
    held = client.hold()
    seen: list[float] = []
    assert held.outcome.deferred is not None
    held.outcome.deferred.addCallback(lambda _: seen.append(session_of(client).expires_at))
    server.clock.advance(3.0)
    server.push("a", 1)
    assert seen == [server.clock.seconds() + 10.0]


# -- two connects, and the end


def test_a_later_connect_ends_the_first_with_409(server: Server) -> None:
    # Rule 9: not 408, at which Chrome sends the request again.
    client = server.client("/a")
    first, second = client.hold(), client.hold()
    assert first.answer.status == 409
    assert b"json" not in first.answer.head
    server.push("a", 1)
    assert second.events == [("/a", 1)]
    assert server.quiet


def test_a_connect_that_is_answered_at_once_ends_the_first_too(server: Server) -> None:
    client = server.client("/a")
    first = client.hold()
    assert client.connect(advice={"timeout": 0}).reply["successful"] is True
    assert first.answer.status == 409


def test_a_disconnect_releases_the_connect_without_an_error(server: Server) -> None:
    # Rule 10: with successful=false, cometd.js reports that the disconnect failed.
    client = server.client("/a")
    held = client.hold()
    assert client.disconnect() == [{"channel": "/meta/disconnect", "successful": True, "id": "4"}]
    assert held.reply["successful"] is True
    assert held.reply["advice"] == {"reconnect": "none"}
    assert len(server.bayeux) == 0
    assert server.quiet


def test_the_server_answers_who_is_held_when_it_stops(server: Server) -> None:
    client = server.client("/a")
    held = client.hold()
    server.hub.stop()
    server.bayeux.stop()
    assert held.reply["successful"] is True
    assert "advice" not in held.reply  # aiocometd would take an interval for seconds
    with pytest.raises(Stopping):
        client.connect()
    assert client.publish("/a")[0]["error"] == "503:/a:stopping"
    assert server.quiet


def test_a_connect_that_cannot_be_held_is_refused_as_a_poll_is(clock: Clock) -> None:
    server = Server(clock, limits=Limits(max_parked=1))
    held = server.client("/a").hold()
    crowded = server.client("/a")
    with pytest.raises(ServerFull):
        crowded.connect()
    server.push("a", 1)
    assert held.events == [("/a", 1)]
    assert crowded.connect().events == [("/a", 1)]


# -- several clients of one browser


def test_further_clients_of_a_browser_are_not_held_but_poll(server: Server) -> None:
    first = server.client("/a")
    second = Client(server)
    second.cookie = first.cookie
    second.shake_hands()
    assert second.cookie == first.cookie
    second.connect()
    second.subscribe("/a")
    held = first.hold()
    request = second.connect()
    assert request.reply["successful"] is True
    assert request.reply["advice"] == {
        "reconnect": "retry",
        "interval": 2_000,
        "timeout": 30_000,
        "maxInterval": 10_000,
        "multiple-clients": True,
    }
    server.push("a", 1)
    assert held.events == [("/a", 1)]
    assert second.connect().events == [("/a", 1)]
    assert second.hold()  # the first is not held now
    server.push("a", 2)


def test_however_often_a_client_was_held_its_browsers_others_are_not_held_beside_it(server: Server) -> None:
    first = server.client("/a")
    second = Client(server)
    second.cookie = first.cookie
    second.shake_hands()
    second.connect()
    for number in range(3):
        held = first.hold()
        assert second.connect().reply["advice"]["multiple-clients"] is True
        server.push("a", number)
        assert held.events == [("/a", number)]
    first.hold().lose()
    assert second.hold()


def test_a_client_that_is_alone_again_is_told_so(server: Server) -> None:
    first = server.client("/a")
    second = Client(server)
    second.cookie = first.cookie
    second.shake_hands()
    second.connect()
    held = first.hold()
    second.connect()
    server.sweep(11.9)  # it was told to wait 2 s, so it has 12
    assert second.connect().reply["advice"]["multiple-clients"] is True
    held.lose()
    again = second.hold()
    server.clock.advance(30.0)
    assert again.reply["advice"] == {
        "reconnect": "retry",
        "interval": 0,
        "timeout": 30_000,
        "maxInterval": 10_000,
    }


def test_a_client_that_is_alone_again_is_told_so_once_and_its_time_is_as_before(server: Server) -> None:
    first = server.client("/a")
    second = Client(server)
    second.cookie = first.cookie
    second.shake_hands()
    second.connect()
    first.hold()
    assert second.connect().reply["advice"]["multiple-clients"] is True
    first.disconnect()
    alone = second.hold()
    server.clock.advance(30.0)
    assert alone.reply["advice"]["interval"] == 0
    again = second.hold()
    server.clock.advance(30.0)
    assert "advice" not in again.reply
    server.sweep(10.1)  # and not the 12 s of a client that is to wait before each connect
    assert second.connect().reply["error"].startswith("402")


def test_clients_without_cookies_are_not_taken_for_one_browser(server: Server) -> None:
    clients = [server.client("/a") for _ in range(3)]
    for client in clients:
        client.cookie = None
    assert all(client.hold() for client in clients)


def test_the_cookie_cannot_be_read_by_scripts_and_stays_on_this_site(server: Server) -> None:
    asked = msgspec.json.encode(
        {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    )
    for secure in (False, True):
        answer = post(server, asked, Asked(secure=secure))
        assert isinstance(answer, Response)
        (line,) = [line for line in answer.head.split(b"\r\n") if line.startswith(b"Set-Cookie")]
        assert line.startswith(b"Set-Cookie: BAYEUX_BROWSER=")
        assert b"; HttpOnly" in line
        assert b"; SameSite=Lax" in line
        assert (b"; Secure" in line) is secure


# -- acknowledgements


def test_under_acknowledgement_events_travel_only_with_connects(server: Server) -> None:
    client = server.client("/a", ext={"ack": True})
    held = client.hold()
    assert client.publish("/a", 1) == [{"channel": "/a", "successful": True, "id": "4"}]
    assert held.events == [("/a", 1)]
    assert isinstance(held.reply["ext"]["ack"], int)


def test_what_was_not_confirmed_is_sent_again(server: Server) -> None:
    client = server.client("/a", ext={"ack": True})
    client.took(client.connect(advice={"timeout": 0}))
    held = client.hold()
    server.push("a", 1)
    assert held.events == [("/a", 1)]  # this answer is lost
    server.push("a", 2)
    again = client.connect()
    assert again.events == [("/a", 1), ("/a", 2)]
    client.took(again)
    assert client.hold()


@pytest.mark.parametrize(
    "ext", [{}, {"other": 1}, {"ack": "x"}, {"ack": True}, {"ack": 0, "other": 1}, 5, None]
)
def test_a_connect_that_confirms_nothing_is_held_and_told_again(server: Server, ext: Any) -> None:
    client = server.client("/a", ext={"ack": True})
    server.push("a", 1)
    assert client.connect().events == [("/a", 1)]
    again = client.connect(ext=ext)
    assert again.events == [("/a", 1)]
    client.took(again)
    assert client.hold()


def test_a_hundred_forced_disconnects_lose_nothing_and_deliver_nothing_twice(server: Server) -> None:
    client = server.client("/a", "/b/*", ext={"ack": True})
    got: list[Any] = []
    sent = 0
    for turn in range(100):
        request = client.connect()
        for _ in range(turn % 3):
            server.push(("a", "b/1")[sent % 2], sent)
            sent += 1
        if request.held:
            request.lose()
        elif turn % 2:
            got += [data for _, data in client.took(request)]
        # else its answer was written, and lost on the way
        server.sweep(0.5)
    while not (request := client.connect()).held:
        got += [data for _, data in client.took(request)]
    assert got == list(range(sent))
    assert sent == 99


def test_a_gap_is_told_until_it_is_confirmed(clock: Clock) -> None:
    server = Server(clock, limits=Limits(capacity=2))
    client = server.client("/a", ext={"ack": True})
    for number in range(4):
        client.server.client().publish("/a", number)
    for _ in range(2):
        request = client.connect()
        assert request.events == [("/a", 2), ("/a", 3)]
        assert request.reply["ext"]["gap"] is True
    client.took(request)
    assert client.hold()


@given(st.lists(st.sampled_from(Story.ACTS)))
def test_with_acknowledgements_everything_comes_once_whatever_happens(acts: list[str]) -> None:
    story = Story()
    for act in acts:
        getattr(story, act)()
    story.end()


# -- services


def test_a_service_answers_in_the_same_response(server: Server) -> None:
    server.bayeux.service("/service/echo", lambda call: {"echo": call.data})
    client, other = server.client("/service/echo", "/**"), server.client("/**")
    held = client.hold()
    assert client.publish("/service/echo", "hi") == [
        {"channel": "/service/echo", "data": {"echo": "hi"}, "id": "4"},
        {"channel": "/service/echo", "successful": True, "id": "4"},
    ]
    assert held.held
    assert other.hold()


def test_what_is_published_to_a_service_is_broadcast_to_no_client(server: Server) -> None:
    client = server.client("/service/**", "/service/x", "/**", "/*/x")
    held = client.hold()
    assert server.client().publish("/service/x") == [{"channel": "/service/x", "successful": True, "id": "2"}]
    assert held.held
    assert server.store.usage().messages == 0


def test_a_service_may_answer_later(server: Server) -> None:
    later: Deferred[Any] = Deferred()
    server.bayeux.service("/service/slow", lambda _: later)
    client = server.client()
    held = client.hold()
    assert client.publish("/service/slow") == [{"channel": "/service/slow", "successful": True, "id": "3"}]
    later.callback("done")
    assert held.events == [("/service/slow", "done")]


def test_a_service_may_have_nothing_to_say_then_either(server: Server) -> None:
    later: Deferred[Any] = Deferred()
    server.bayeux.service("/service/slow", lambda _: later)
    client = server.client()
    held = client.hold()
    client.publish("/service/slow")
    later.callback(None)
    assert held.held


def test_a_service_may_be_a_coroutine(server: Server) -> None:
    async def add(call: Call) -> Any:
        return sum(call.data)

    server.bayeux.service("/service/add", add)
    client = server.client()
    assert events(client.publish("/service/add", [1, 2])) == [("/service/add", 3)]


def test_the_answer_to_a_client_that_has_left_is_dropped(server: Server) -> None:
    later: Deferred[Any] = Deferred()
    server.bayeux.service("/service/slow", lambda _: later)
    client = server.client()
    client.publish("/service/slow")
    client.disconnect()
    later.callback("done")
    assert server.store.usage().messages == 0


def test_a_service_that_fails_is_answered_and_noted(
    server: Server, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(ZeroDivisionError)
    server.bayeux.service("/service/now", lambda _: 1 / 0)
    server.bayeux.service("/service/later", lambda _: fail(ZeroDivisionError()))
    client = server.client()
    assert client.publish("/service/now")[0]["error"] == "500:/service/now:internal-error"
    assert client.publish("/service/later")[0]["successful"] is True


def test_a_service_may_refuse_in_its_own_words(server: Server) -> None:
    def refuse(_: Call) -> None:
        raise BadBody("not like that")

    server.bayeux.service("/service/strict", refuse)
    assert server.client().publish("/service/strict")[0]["error"] == "400:/service/strict:bad-body"


def test_only_service_channels_have_services(server: Server) -> None:
    for channel in ("/a", "/meta/x", "service/x"):
        with pytest.raises(ValueError, match="service"):
            server.bayeux.service(channel, lambda _: None)


def test_a_program_delivers_to_one_session_alone(server: Server) -> None:
    client, other = server.client(), server.client("/**")
    held = client.hold()
    assert server.bayeux.deliver(client.id, "/private", {"a": 1}) is True
    assert held.events == [("/private", {"a": 1})]
    assert other.hold()
    assert server.bayeux.deliver("nobody", "/private", 1) is False
    client.disconnect()
    assert server.store.usage().messages == 0


# -- what comes in


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"", None),
        (b"[", b"application/json"),
        (b"null", b"application/json"),
        (b'"hi"', b"application/json"),
        (b"17", b"application/json"),
        (b"\xff\xfe", b"application/json"),
        (b'[{"channel":"/a","data":NaN}]', b"application/json"),
        (b"[" * 2_000 + b"]" * 2_000, b"application/json"),
        (b"message=", b"application/x-www-form-urlencoded"),
        (b"massage=%5B%7B%7D%5D", b"application/x-www-form-urlencoded"),
        (b"message=%FF", b"application/x-www-form-urlencoded"),
        (b"message=\xff", b"application/x-www-form-urlencoded"),
        (b"message=1&" * 2_000, b"application/x-www-form-urlencoded"),
        (b"message=%5B%5D", b"text/plain"),
        (b"message=%5B%5D", None),
    ],
)
def test_what_is_no_batch_is_a_bad_request(server: Server, body: bytes, media_type: bytes | None) -> None:
    with pytest.raises(BadBody):
        post(server, body, Asked(media_type))
    with pytest.raises((BadBody, BadParameter)):
        server.bayeux.get({"message": [body.decode("latin-1")]}, Asked())


def test_a_batch_that_is_too_long_is_refused(server: Server) -> None:
    with pytest.raises(BodyTooLarge):
        post(server, b"[" + b"{}," * 1_000 + b"{}]", Asked())


@pytest.mark.parametrize(
    "body",
    [
        b"message=%7B%22channel%22%3A%22%2Fa%22%7D",
        b"x=1&message=%5B%7B%22channel%22%3A%22%2Fa%22%7D%5D",
        b'{"channel":"/a"}',  # as curl sends it
        b'[{"channel":"/a"}]',
    ],
)
def test_a_form_with_messages_is_taken_as_old_clients_send_it(server: Server, body: bytes) -> None:
    form = Asked(b"application/x-www-form-urlencoded; charset=UTF-8")
    answer = post(server, body, form)
    assert isinstance(answer, Response)
    assert msgspec.json.decode(answer.body)[0]["channel"] == "/a"


def test_a_form_may_have_several_messages_and_arrays_of_them(server: Server) -> None:
    body = b"message=%7B%22id%22%3A1%7D&message=%5B%7B%22id%22%3A2%7D%2C%7B%22id%22%3A3%7D%5D&message=%5B4%5D"
    answer = post(server, body, Asked(b"application/x-www-form-urlencoded"))
    assert isinstance(answer, Response)
    assert [reply.get("id") for reply in msgspec.json.decode(answer.body)] == [1, 2, 3, None]


@pytest.mark.parametrize("ext", ["{}", "1e999"])
@pytest.mark.parametrize(
    "data",
    [
        '{"n":123456789012345678901234567890,"n":1}',
        "-99999999999999999999",
        "[1e999,1.00000000000000000001]",
        "9" * 5_000,
        '"\\ud83d\\ude00"',
    ],
)
def test_data_reaches_the_readers_as_it_came(server: Server, data: str, ext: str) -> None:
    client = server.client("/a")
    number = "18446744073709551616"
    message = (
        f'{{"channel":"/a","channel":"/a","clientId":"{client.id}","ext":{ext},"data":{data},"id":{number}}}'
    )
    answer = post(server, f"[{message}]".encode(), Asked(None))
    assert isinstance(answer, Response)
    assert answer.body == (
        f'[{{"channel":"/a","data":{data}}},{{"channel":"/a","successful":true,"id":{number}}}]'.encode()
    )


def test_half_a_surrogate_is_replaced_wherever_it_stands(server: Server) -> None:
    client = server.client("/a")
    message = f'{{"channel":"/a","clientId":"{client.id}","data":{{"\\udc00":"\\ud83d"}},"id":"\\ud83d"}}'
    answer = post(server, f"[{message}]".encode(), Asked(None))
    assert isinstance(answer, Response)
    event, reply = msgspec.json.decode(answer.body)
    assert (event["data"], reply["id"]) == ({"\ufffd": "\ufffd"}, "\ufffd")


# -- callback-polling


def test_a_script_calls_back_with_the_array(server: Server) -> None:
    message = '{"channel":"/a","id":"\u2028"}'
    answer = server.bayeux.get({"message": [message], "jsonp": ["a.b$"]}, Asked())
    assert isinstance(answer, Response)
    assert answer.status == 200
    assert b"Content-Type: text/javascript; charset=utf-8\r\n" in answer.head
    assert b"X-Content-Type-Options: nosniff\r\n" in answer.head
    assert answer.body.startswith(b"/**/a.b$([{")
    assert answer.body.endswith(b'"id":"\\u2028","error":"401::client_id_missing"}]);')
    answer = server.bayeux.get({"message": [message]}, Asked())
    assert isinstance(answer, Response)
    assert answer.body.startswith(b"/**/jsonpcallback([")


def test_a_connect_by_callback_is_held_like_any_other(server: Server) -> None:
    client = server.client("/a")
    message = client.connection()
    message["connectionType"] = "callback-polling"
    query = {"message": [msgspec.json.encode([message]).decode()], "jsonp": ["cb"]}
    outcome = Outcome(server.bayeux.get(query, Asked(cookie=client.cookie)))
    assert outcome.parked
    server.push("a", "</script>")
    assert outcome.value.body == (
        b'/**/cb([{"channel":"/a","data":"</script>"},'
        b'{"channel":"/meta/connect","successful":true,"id":"3"}]);'
    )


@pytest.mark.parametrize(
    "name", ["", "a b", "a()", "alert(1)//", "a;b", "1a", "a..b", ".a", "a.", "a-b", "ä", "a\n", "a" * 129]
)
def test_a_callback_is_a_name_and_nothing_else(server: Server, name: str) -> None:
    with pytest.raises(BadParameter):
        server.bayeux.get({"message": ["[]"], "jsonp": [name]}, Asked())


def test_a_get_without_a_message_says_what_is_missing(server: Server) -> None:
    with pytest.raises(BadParameter):
        server.bayeux.get({}, Asked())
    with pytest.raises(BadParameter):
        server.bayeux.get({"message": ["{}"], "jsonp": ["a", "b"]}, Asked())


# -- the command's options


def test_the_command_says_how_bayeux_is_spoken() -> None:
    from cometd_lite.service import Options as Command  # noqa: PLC0415  it imports the reactor

    command = Command()
    command.parseOptions([])
    assert command.bayeux == BayeuxOptions(timeout=30.0, interval=0, max_interval=10.0)
    times = ["--bayeux-timeout", "1m", "--bayeux-interval", "500", "--bayeux-max-interval", "20"]
    command.parseOptions([*times, "--bayeux-browser-sessions", "500"])
    assert command.bayeux == BayeuxOptions(
        timeout=60.0, interval=500, max_interval=20.0, browser_sessions=500
    )
    command.parseOptions(["--no-bayeux"])
    assert command.bayeux is None
    for wrong in (["--bayeux-timeout", "0"], ["--bayeux-interval", "-1"], ["--bayeux-max-interval", "x"]):
        with pytest.raises(SystemExit, match="cometd-lite: --bayeux"):
            Command().parseOptions(wrong)


# -- a store that waits


@pytest.fixture
def late(clock: Clock) -> Iterator[Server]:
    late = Server(clock, store=Late)
    yield late
    late.check_invariants()


def test_a_connect_waits_for_a_store_that_waits(late: Server) -> None:
    client = late_client(late, "/a", "/b/*")
    held = client.connect()
    late.store.give()
    assert held.held
    late.push("a", 1)
    assert held.held
    late.store.give()
    assert held.events == [("/a", 1)]
    late.push("b/1", 2)
    late.store.give()
    assert arrived(late, client.connect()).events == [("/b/1", 2)]
    assert late.quiet


def test_what_is_pushed_while_the_store_looks_is_not_missed(late: Server) -> None:
    client = late_client(late, "/a")
    held = client.connect()
    late.push("a", 1)
    late.push("a", 2)
    late.store.give()
    assert [data for _, data in held.events] in ([1], [1, 2])
    got = [data for _, data in held.events]
    if len(got) < 2:
        got += [data for _, data in arrived(late, client.connect()).events]
    assert got == [1, 2]


def test_a_publication_is_done_though_its_client_left(late: Server) -> None:
    client = late_client(late, "/a")
    request = client.send(client.message("/a", data=1), client.message("/a", data=2))
    client.gone = True
    request.lose()
    late.store.give()
    client.gone = False
    assert arrived(late, client.connect()).events == [("/a", 1), ("/a", 2)]


def test_a_store_that_fails_fails_the_message(
    late: Server, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(StoreDown)
    client = late_client(late, "/a")
    late.store.down = True
    request = arrived(late, client.send(client.message("/a", data=1), client.message("/meta/foo")))
    late.store.down = False
    late.store.give()
    assert [reply["successful"] for reply in request.messages] == [False, False]
    assert request.messages[0]["error"] == "503:/a:store-down"


def test_a_publication_alone_waits_for_its_store_and_is_refused_where_that_fails(late: Server) -> None:
    client = late_client(late, "/b")
    published = client.send(client.message("/a", data=1))
    assert published.held
    late.store.give()
    assert published.messages == [{"channel": "/a", "successful": True, "id": published.messages[0]["id"]}]
    late.store.down = True
    (reply,) = arrived(late, client.send(client.message("/a", data=2))).messages
    assert (reply["successful"], reply["error"]) == (False, "503:/a:store-down")
    late.store.down = False
    held = arrived(late, client.connect())
    assert held.held


def test_a_publication_comes_back_with_its_event_where_its_sender_hears_it(late: Server) -> None:
    client = late_client(late, "/a")
    published = arrived(late, client.send(client.message("/a", data=1)))
    assert published.events == [("/a", 1)]
    held = arrived(late, client.connect())
    late.push("a", 2)
    late.store.give()
    assert held.events == [("/a", 2)]


def test_a_read_that_an_answer_has_overtaken_tells_nothing_again(late: Server) -> None:
    client = late_client(late, "/a")
    held = arrived(late, client.hold())
    late.push("a", 1)
    late.store.give_one(0)  # it is kept, and the connect that is held begins to read
    published = client.send(client.message("/a", data=2))
    while not published.outcome.results:
        late.store.give_one(-1)
    assert published.events == [("/a", 1), ("/a", 2)]
    late.store.give()
    assert held.held
    late.push("a", 3)
    late.store.give()
    assert held.events == [("/a", 3)]


def test_a_sender_that_leaves_while_the_store_keeps_what_it_published_hears_of_it_later(late: Server) -> None:
    client = late_client(late, "/a")
    published = client.send(client.message("/a", data=1))
    client.gone = True
    published.lose()
    late.store.give()
    client.gone = False
    assert arrived(late, client.connect()).events == [("/a", 1)]


def test_a_held_connect_survives_a_store_that_is_away_and_tells_what_came_meanwhile(late: Server) -> None:
    client = late_client(late, "/a")
    held = arrived(late, client.connect())
    pushed = Outcome(late.push("a", 1))
    waiting, call = late.store.waiting.pop(0)
    waiting.callback(call())
    late.store.down = True
    late.store.give()  # the look of the connect that was woken
    late.store.down = False
    assert pushed.value.delivered == 1
    assert held.held
    late.hub.registry.wake_all()
    late.store.give()
    assert held.events == [("/a", 1)]


def test_a_store_that_breaks_fails_the_message_alone_and_is_noted(
    late: Server, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(ZeroDivisionError)
    client = late_client(late, "/a")
    request = client.send(client.message("/b", data=1), client.message("/a", data=2))
    waiting, _ = late.store.waiting.pop(0)
    waiting.errback(ZeroDivisionError())
    late.store.give()
    assert [reply.get("error") for reply in request.messages if "data" not in reply] == [
        "500:/b:internal-error",
        None,
    ]
    assert request.events == [("/a", 2)]


def test_what_cannot_be_read_with_a_publications_answer_comes_with_the_next_connect(
    late: Server, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(StoreDown)
    client = late_client(late, "/a")
    published = client.send(client.message("/a", data=1))
    waiting, call = late.store.waiting.pop(0)
    waiting.callback(call())
    late.store.down = True
    late.store.give()  # the look for events that go with the answer
    late.store.down = False
    (reply,) = published.messages
    assert reply["successful"] is True
    assert arrived(late, client.connect()).events == [("/a", 1)]


class Breaking(MemoryStore):
    """A store that breaks when it is told to."""

    breaks = False

    def append(self, *given: Any) -> Any:
        if self.breaks:
            raise ZeroDivisionError
        return super().append(*given)


def test_a_publication_at_which_the_server_breaks_leaves_its_session_as_it_was(clock: Clock) -> None:
    server = Server(clock, store=Breaking)
    client = server.client("/a")
    server.store.breaks = True
    with pytest.raises(ZeroDivisionError):
        client.publish("/a")
    with pytest.raises(ZeroDivisionError):
        client.send(client.message("/a", data=1), client.message("/a", data=2))
    server.store.breaks = False
    held = client.hold()
    server.push("a", 3)
    assert held.events == [("/a", 3)]


def test_what_was_for_a_session_alone_goes_with_it(server: Server, clock: Clock) -> None:
    client = server.client("/a")
    assert now(server.bayeux.deliver(client.id, "/private", "for you")) is True
    assert server.store.usage().mailboxes == 1
    client.disconnect()
    assert server.store.usage().mailboxes == 0
    assert now(server.bayeux.deliver(client.id, "/private", "for you")) is False


def test_a_session_whose_mailbox_cannot_be_deleted_is_gone_all_the_same(
    clock: Clock, expected_failures: list[type[BaseException]]
) -> None:
    class Keeping(MemoryStore):
        def delete(self, *given: Any) -> Any:
            return fail(ZeroDivisionError())

    expected_failures.append(ZeroDivisionError)
    server = Server(clock, store=Keeping)
    client = server.client("/a")
    now(server.bayeux.deliver(client.id, "/private", "for you"))
    assert client.disconnect()[-1]["successful"] is True
    assert len(server.bayeux) == 0


# -- rights


class Denied:
    """Rights to nothing."""

    def check(self, action: str, names: tuple[str, ...]) -> Any:
        return fail(Unauthorized("no"))

    grant = Grant()


def test_rights_that_are_told_later_are_waited_for(server: Server) -> None:
    message = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    outcome = Outcome(post(server, msgspec.json.encode(message), Asked(), rights=Denied()))
    (reply,) = msgspec.json.decode(outcome.value.body)
    assert reply["error"] == "401::unauthorized"


# -- answers that take their time


@pytest.mark.parametrize("ack", [False, True])
def test_a_session_lives_while_its_answer_is_on_its_way(server: Server, ack: bool) -> None:
    client = server.client("/a", ext={"ack": ack})
    held = client.hold()
    client.sending = True
    server.push("a", "x" * 60_000)
    assert len(client.took(held)) == 1
    for _ in range(25):
        server.sweep(1.0)
    server.push("a", "meanwhile")
    client.sending = False
    assert client.connect().events == [("/a", "meanwhile")]


def test_a_session_lives_while_the_answer_to_its_publication_is_on_its_way(server: Server) -> None:
    client = server.client("/a")
    server.push("a", "x" * 60_000)
    client.sending = True
    assert events(client.publish("/b")) != []
    for _ in range(25):
        server.sweep(1.0)
    assert client.hold()


def test_a_session_whose_answer_has_left_ends_after_its_time(server: Server) -> None:
    client = server.client("/a")
    held = client.hold()
    server.push("a", "x" * 60_000)
    assert not held.held
    for _ in range(15):
        server.sweep(1.0)
    assert len(server.bayeux) == 0


# -- clients that leave while a program is asked what they may do


class Pondered:
    """Rights that are told when the test says so."""

    grant = Grant()

    def __init__(self) -> None:
        self.asked: list[Deferred[float]] = []

    def check(self, action: str, names: tuple[str, ...]) -> Deferred[float]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def allow(self) -> None:
        while self.asked:
            self.asked.pop(0).callback(60.0)


def pondered(server: Server, client: Client) -> tuple[Pondered, Outcome]:
    """Return the rights that a connect waits for, and the connect."""
    rights = Pondered()
    body = msgspec.json.encode([client.connection()])
    return rights, Outcome(post(server, body, Asked(), rights=rights))


def test_a_connect_whose_client_left_before_it_was_allowed_is_not_held(server: Server) -> None:
    client = server.client("/a")
    rights, connect = pondered(server, client)
    connect.cancel()
    rights.allow()
    assert server.hub.registry.parked == 0
    server.push("a", 1)
    assert client.connect().events == [("/a", 1)]


def test_a_connect_whose_client_left_after_it_was_allowed_is_held_no_longer(server: Server) -> None:
    client = server.client("/a")
    rights, connect = pondered(server, client)
    rights.allow()
    assert server.hub.registry.parked == 1
    connect.cancel()
    assert server.hub.registry.parked == 0
    server.push("a", 1)
    assert client.connect().events == [("/a", 1)]
