"""Bayeux over WebSockets: events come as they are pushed, sessions move, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bayeux_clients import (
    Client,
    Late,
    Server,
    Story,
    Wire,
    events,
    late_client,
    speak,
)
from helpers import now
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from cometd_lite.core.message import Content, Push
from cometd_lite.limits import BAYEUX_SOCKET_BACKLOG, POLL_MESSAGES_MOST, Limits


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    server = Server(clock)
    yield server
    server.check_invariants()


@pytest.fixture
def late(clock: Clock) -> Iterator[Server]:
    late = Server(clock, store=Late)
    yield late
    late.check_invariants()


def test_a_socket_is_told_events_without_waking_the_connect(server: Server) -> None:
    client, wire = speak(server, "/a")
    assert wire.say(client.connection()) == []
    server.push("a", 1)
    server.push("a", 2)
    assert wire.frames == [[{"channel": "/a", "data": 1}], [{"channel": "/a", "data": 2}]]
    wire.received()
    server.clock.advance(30.0)
    assert wire.received() == [{"channel": "/meta/connect", "successful": True, "id": "3"}]
    server.push("a", 3)
    assert events(wire.received()) == [("/a", 3)]  # also while no connect is held
    wire.lose()
    assert server.quiet


def test_a_socket_answers_publications_and_hears_them(server: Server) -> None:
    client, wire = speak(server, "/a")
    wire.say(client.connection())
    assert wire.say(client.message("/a", data=1)) == [
        {"channel": "/a", "successful": True, "id": "4"},
        {"channel": "/a", "data": 1},
    ]


def test_the_frame_of_an_event_is_made_once_for_all(server: Server) -> None:
    wires = [speak(server, "/a")[1] for _ in range(3)]
    frames: list[bytes] = []
    for wire in wires:
        wire.send_frame = frames.append  # type: ignore[method-assign]
    server.push("a", 0)
    server.push("a", 1)
    assert frames[3] is frames[4] is frames[5]


def test_a_lost_socket_keeps_the_session_and_what_comes_for_it(server: Server) -> None:
    client, wire = speak(server, "/a")
    wire.say(client.connection())
    wire.lose()
    server.push("a", 1)
    again = Wire(server)
    assert events(again.say(client.connection())) == [("/a", 1)]
    again.lose()
    assert server.quiet


def test_a_session_without_connects_ends_though_its_socket_is_open(server: Server) -> None:
    client, wire = speak(server, "/a")
    wire.say(client.connection())
    for _ in range(35):
        server.sweep(1.0)
    assert len(server.bayeux) == 1
    server.sweep(10.0)
    assert len(server.bayeux) == 0
    server.push("a", 1)
    assert events(wire.received()) == []
    assert wire.say(client.connection())[0]["error"] == "402::session_unknown"


def test_a_client_that_does_not_keep_up_is_told_later(server: Server) -> None:
    client, wire = speak(server, "/a")
    wire.congested = True
    for number in range(5):
        server.push("a", number)
    assert wire.frames == []
    wire.congested = False
    wire.talk.drained()
    assert [data for _, data in events(wire.received())] == [0, 1, 2, 3, 4]
    assert client.ack is None


def test_a_client_that_does_not_keep_up_and_subscribes_is_told_later_what_it_subscribed_to(
    server: Server,
) -> None:
    client, wire = speak(server, "/a")
    wire.congested = True
    server.push("a", 1)
    server.push("b", "too early")
    wire.say(client.message("/meta/subscribe", subscription="/b"))
    server.push("b", 2)
    wire.congested = False
    wire.talk.drained()
    assert events(wire.received()) == [("/a", 1), ("/b", 2)]


def test_sockets_with_patterns_that_one_push_wakes_are_told_it_once(server: Server) -> None:
    # A socket that looked again in the same wake was given the same once more, without end.
    wires = [speak(server, "/a/*", "/b")[1] for _ in range(3)]
    for number in range(3):
        server.push("a/x", number)
    assert [events(wire.received()) for wire in wires] == [[("/a/x", 0), ("/a/x", 1), ("/a/x", 2)]] * 3


def test_sockets_whose_patterns_one_push_wakes_are_each_told_what_theirs_cover(server: Server) -> None:
    (_, one), (_, two) = speak(server, "/a/*"), speak(server, "/b/*")
    server.hub.push(Push(("a/x", "b/x"), (Content.of("hi"),)))
    assert [events(wire.received()) for wire in (one, two)] == [[("/a/x", "hi")], [("/b/x", "hi")]]


def test_a_push_is_delivered_to_each_socket_that_keeps_up(server: Server) -> None:
    (_, one), (_, two) = speak(server, "/a"), speak(server, "/a")
    assert now(server.push("a", 1)).delivered == 2
    two.congested = True
    assert now(server.push("a", 2)).delivered == 1
    assert [events(wire.received()) for wire in (one, two)] == [[("/a", 1), ("/a", 2)], [("/a", 1)]]


def test_under_acknowledgement_a_first_connect_tells_what_came_since_the_subscription(server: Server) -> None:
    client, wire = Client(server), Wire(server)
    handshake = {"version": "1.0", "supportedConnectionTypes": ["websocket"], "ext": {"ack": True}}
    (reply,) = wire.say({"channel": "/meta/handshake", **handshake})
    client.id, client.ack = reply["clientId"], 0
    wire.say(client.message("/meta/subscribe", subscription="/a"))
    server.push("a", 1)
    assert wire.received() == []
    told = wire.say(client.connection())
    assert events(told) == [("/a", 1)]
    assert told[-1]["ext"]["ack"] == 1


def test_a_connect_while_the_server_drains_is_answered_and_closes_the_socket(server: Server) -> None:
    client, wire = speak(server, "/a")
    server.hub.stopping = True  # it drains, and has not come to this reader
    (reply,) = wire.say(client.connection())
    assert reply["successful"] is True
    assert wire.closed == 1012
    wire.lose()


def test_a_backlog_of_any_length_is_told_once_the_client_keeps_up(clock: Clock) -> None:
    server = Server(clock, limits=Limits(capacity=10_000, capacity_bytes=10**8))
    client, wire = speak(server, "/a")
    wire.congested = True
    for number in range(2 * POLL_MESSAGES_MOST + 10):
        server.push("a", number)
    wire.congested = False
    wire.talk.drained()
    assert [data for _, data in events(wire.received())] == list(range(2 * POLL_MESSAGES_MOST + 10))
    assert client.ack is None


def test_a_session_moves_from_polling_to_a_socket_and_back(server: Server) -> None:
    client = server.client("/a")
    held = client.hold()
    wire = Wire(server)
    assert wire.say(client.connection()) == []
    assert held.answer.status == 409
    server.push("a", 1)
    assert events(wire.received()) == [("/a", 1)]
    held = client.hold()
    (reply,) = wire.received()
    assert reply["successful"] is False
    assert reply["error"] == "409::connect_replaced"
    assert "advice" not in reply
    server.push("a", 2)
    assert held.events == [("/a", 2)]
    assert wire.received() == []
    wire.lose()
    assert server.quiet


def test_a_session_moves_to_another_socket(server: Server) -> None:
    client, old = speak(server, "/a")
    old.say(client.connection())
    new = Wire(server)
    assert new.say(client.connection()) == []
    assert old.received()[0]["error"] == "409::connect_replaced"
    server.push("a", 1)
    assert events(new.received()) == [("/a", 1)]
    old.lose()
    server.push("a", 2)
    assert events(new.received()) == [("/a", 2)]


def test_two_connects_on_one_socket_leave_the_second(server: Server) -> None:
    client, wire = speak(server, "/a")
    wire.say(client.connection())
    (reply,) = wire.say(client.connection())
    assert (reply["id"], reply["error"]) == ("3", "409::connect_replaced")
    server.clock.advance(30.0)
    assert [reply["id"] for reply in wire.received()] == ["4"]


def test_a_disconnect_over_a_socket_answers_the_connect_first(server: Server) -> None:
    # cometd.js closes the socket at the answer to the disconnect if no connect is out.
    client, wire = speak(server, "/a")
    wire.say(client.connection())
    replies = wire.say(client.message("/meta/disconnect"))
    assert [reply["channel"] for reply in replies] == ["/meta/connect", "/meta/disconnect"]
    assert [reply["successful"] for reply in replies] == [True, True]
    assert replies[0]["advice"] == {"reconnect": "none"}
    wire.lose()
    assert server.quiet


def test_under_acknowledgement_a_socket_is_told_by_its_connects(server: Server) -> None:
    client, wire = speak(server, "/a", ext={"ack": True})
    wire.say(client.connection())
    server.push("a", 1)
    (event, reply) = wire.received()
    assert event == {"channel": "/a", "data": 1}
    server.push("a", 2)
    assert wire.received() == []
    wire.lose()  # before the answer was confirmed
    again = Wire(server)
    assert events(again.say(client.connection())) == [("/a", 1), ("/a", 2)]
    client.ack = reply["ext"]["ack"] + 1
    assert again.say(client.connection()) == []


def test_a_gap_on_a_socket_is_told_by_the_connect_that_is_held(server: Server) -> None:
    client, wire = speak(server, "/a")
    wire.congested = True
    wire.say(client.connection())
    server.push("a", 1)
    server.hub.delete("a")
    wire.congested = False
    wire.talk.drained()
    (reply,) = wire.received()
    assert reply["ext"] == {"gap": True}
    assert wire.say(client.connection()) == []


def test_a_gap_on_a_socket_without_a_connect_is_told_by_the_next_one_and_by_nothing_else(
    server: Server,
) -> None:
    client, wire = speak(server, "/a")
    wire.received()
    wire.congested = True
    server.push("a", 1)
    server.hub.delete("a")
    wire.congested = False
    wire.talk.drained()
    assert wire.frames == []
    (reply,) = wire.say(client.connection())
    assert reply["ext"] == {"gap": True}


def test_a_session_lives_while_the_answer_to_its_connect_is_on_its_way_over_a_socket(server: Server) -> None:
    client, wire = speak(server, "/a")
    wire.say(client.connection())
    server.sweep()  # no earlier answer is on its way any more
    wire.sending = True
    server.clock.advance(30.0)
    assert [reply["id"] for reply in wire.received()] == ["3"]
    for _ in range(30):
        server.sweep(1.0)
    assert len(server.bayeux) == 1
    wire.sending = False
    for _ in range(20):
        server.sweep(1.0)
    assert len(server.bayeux) == 0


def test_a_socket_that_says_what_is_no_batch_is_told_so(server: Server) -> None:
    wire = Wire(server)
    for text in ("", "[", "17", '"x"', "[" * 2_000):
        wire.talk.text_received(text)
        (reply,) = wire.received()
        assert reply["successful"] is False
        assert reply["error"] == "400::bad-body"
    assert wire.closed is None
    assert wire.say({"channel": "/a", "id": "1"})[0]["id"] == "1"


def test_a_socket_closes_when_the_server_stops(server: Server) -> None:
    client, wire = speak(server, "/a")
    wire.say(client.connection())
    stranger = Wire(server)
    server.hub.stop()
    server.bayeux.stop()
    (reply,) = wire.received()
    assert reply["successful"] is True
    assert (wire.closed, stranger.closed) == (1012, 1012)
    wire.lose()
    stranger.lose()
    assert server.quiet


def test_sockets_are_closed_one_after_the_other_when_the_server_drains(server: Server) -> None:
    wires = [speak(server, "/a")[1] for _ in range(200)]
    client, wire = speak(server, "/a")
    wires.append(wire)
    server.bayeux.stop()
    server.hub.drain(4.0)
    closed = [each for each in wires if each.closed == 1012]
    assert 0 < len(closed) < len(wires)
    if wire.closed is None:  # it is not held once more, to be answered at once for ever
        assert wire.say(client.connection())[0]["successful"] is True
        assert wire.closed == 1012
    for _ in range(40):
        server.clock.advance(0.1)
    assert all(each.closed == 1012 for each in wires)
    for each in wires:
        each.lose()
    assert server.quiet


def test_a_socket_that_cannot_be_parked_is_closed(clock: Clock) -> None:
    server = Server(clock, limits=Limits(max_parked=0))
    wire = Wire(server)
    wire.say({"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]})
    assert wire.closed == 1013


def test_a_socket_whose_token_expires_is_told_no_more_and_stays_open(server: Server) -> None:
    client, wire = speak(server, "/a")
    assert wire.say(client.connection()) == []
    wire.talk.token_expired()
    (reply,) = wire.received()
    assert (reply["successful"], reply["error"]) == (False, "401::unauthorized")
    assert reply["advice"] == {"reconnect": "handshake", "interval": 0}
    server.push("a", 1)
    assert wire.received() == []
    assert wire.closed is None
    # The session is not lost with the token: another socket goes on with it.
    again = Wire(server)
    assert events(again.say(client.connection())) == [("/a", 1)]
    wire.lose()
    again.lose()
    assert server.quiet


def test_a_socket_that_speaks_for_no_session_is_closed_in_time(server: Server) -> None:
    client = server.client("/a")
    silent, talking, shaken = Wire(server), Wire(server), Wire(server)
    talking.say(client.message("/a", data=1))
    server.clock.advance(29.0)
    shaken.say({"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]})
    silent.say({"channel": "/a", "data": 1, "clientId": "unknown"})
    assert silent.closed is None
    server.clock.advance(1.0)
    assert silent.closed == 1008
    server.clock.advance(60.0)
    assert (talking.closed, shaken.closed) == (None, None)
    for wire in (silent, talking, shaken):
        wire.lose()


def test_a_socket_that_is_lost_before_it_shook_hands_leaves_no_timer(server: Server) -> None:
    Wire(server).lose()
    assert server.quiet


# -- a store that waits


def test_texts_of_a_socket_are_answered_in_order_by_a_store_that_waits(late: Server) -> None:
    client = Client(late)
    wire = Wire(late)
    (reply,) = wire.say(
        {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]}
    )
    client.id = reply["clientId"]
    wire.say(client.message("/meta/subscribe", subscription="/a"))
    for number in range(3):
        wire.say(client.message("/a", data=number))
    assert wire.received() == []
    late.store.give()
    told = wire.received()
    assert [reply["id"] for reply in told if "successful" in reply] == ["1", "2", "3", "4"]
    assert [data for _, data in events(told)] == [0, 1, 2]
    wire.lose()


def test_a_socket_that_asks_faster_than_the_store_answers_is_closed(late: Server) -> None:
    client = Client(late)
    wire = Wire(late)
    (reply,) = wire.say(
        {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]}
    )
    client.id = reply["clientId"]
    for _ in range(BAYEUX_SOCKET_BACKLOG + 1):
        wire.say(client.message("/a", data=1))
    assert wire.closed is None
    wire.say(client.message("/a", data=1))
    assert wire.closed == 1008
    wire.lose()
    late.store.give()


def test_a_socket_that_is_lost_as_a_text_that_waited_is_answered_leaves_nothing(
    late: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, wire = Client(late), Wire(late)
    (reply,) = wire.say(
        {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]}
    )
    client.id = reply["clientId"]
    wire.say(client.message("/a", data=1))
    wire.say(client.connection())
    monkeypatch.setattr(wire, "close", lambda code, reason: wire.lose())
    late.hub.stopping = True  # so that the connect is answered, and the socket closed
    late.store.give()
    assert [reply["channel"] for reply in wire.received()] == ["/a", "/meta/connect"]
    assert late.quiet


def test_texts_that_wait_are_bounded_in_bytes(late: Server) -> None:
    client, wire = Client(late), Wire(late)
    (reply,) = wire.say(
        {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]}
    )
    client.id = reply["clientId"]
    large = [client.message("/a", data="x" * 60_000) for _ in range(16)]
    wire.say(*large)
    for _ in range(8):
        wire.say(*large)
    assert wire.closed is None
    wire.say(*large)
    assert wire.closed == 1008
    wire.lose()
    late.store.give()


class LateStory(Story):
    """The same over a store that waits, and with sockets."""

    ACTS = (*Story.ACTS, "give", "open", "close", "hear")

    def __init__(self) -> None:
        clock = Clock()
        clock.advance(1_000)
        self.server = Server(clock, store=Late)
        self.client = late_client(self.server, "/a", "/*", ext={"ack": True})
        self.sent = 0
        self.got = []
        self.request = None
        self.wire: Wire | None = None

    def publish(self) -> None:
        self.client.send(self.client.message("/a", data=self.sent))
        self.sent += 1

    def subscribe(self) -> None:
        self.client.send(self.client.message("/meta/subscribe", subscription="/**"))

    def connect(self) -> None:
        if self.wire is None:
            super().connect()

    def give(self) -> None:
        self.server.store.give()

    def open(self) -> None:
        if self.wire is None:
            self.drop()
            self.wire = Wire(self.server)
            self.wire.say(self.client.connection())

    def close(self) -> None:
        if self.wire is not None:
            self.wire.lose()
            self.wire = None

    def hear(self) -> None:
        """Take in what came over the socket, and connect again."""
        for message in self.wire.received() if self.wire is not None else ():
            if "data" in message:
                self.got.append(message["data"])
            elif message["channel"] == "/meta/connect" and message["successful"]:
                self.client.ack = message["ext"]["ack"]
                assert self.wire is not None
                self.wire.say(self.client.connection())

    def end(self) -> None:
        self.give()
        self.close()
        self.give()
        self.server.sweep()
        if len(self.server.bayeux) == 0:
            return  # it was away for longer than it may be
        self.connect()
        self.give()
        while self.request is not None and not self.request.held:
            self.take()
            self.connect()
            self.give()
        assert self.got == list(range(self.sent))
        self.drop()
        assert self.server.quiet


@given(st.lists(st.sampled_from(LateStory.ACTS), max_size=40))
def test_over_a_store_that_waits_everything_comes_once_whatever_happens(acts: list[str]) -> None:
    story = LateStory()
    for act in acts:
        getattr(story, act)()
    story.end()


def test_a_session_lives_while_something_is_on_its_way_over_its_socket(server: Server) -> None:
    client, wire = speak(server, "/a")
    wire.sending = True
    wire.say(client.connection(advice={"timeout": 0}))
    for _ in range(25):
        server.sweep(1.0)
    wire.sending = False
    server.push("a", "meanwhile")
    assert events(wire.say(client.connection(advice={"timeout": 0}))) == [("/a", "meanwhile")]
    for _ in range(12):
        server.sweep(1.0)
    assert len(server.bayeux) == 0
