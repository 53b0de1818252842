"""WebSockets without a server: frames, and a store that waits."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from helpers import Outcome, SlowStore, now, push
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from websockets.protocol import Protocol
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage

from cometd_lite.core.hub import Hub
from cometd_lite.core.message import NOW
from cometd_lite.core.registry import Registry
from cometd_lite.errors import StoreDown
from cometd_lite.http.pubsub import PubSubSocket
from cometd_lite.http.stream import Heartbeats
from cometd_lite.http.websocket import Socket, text_frame
from cometd_lite.limits import Limits
from cometd_lite.stores.memory import MemoryStore


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_a_text_frame_is_what_a_client_reads(size):
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(text_frame(b"x" * size))
    texts = [event for event in client.events() if isinstance(event, TextMessage)]
    assert "".join(event.data for event in texts) == "x" * size
    assert texts[-1].message_finished


class Setting:
    """A socket on a store that waits."""

    def __init__(self, clock: Clock) -> None:
        self.store: Any = SlowStore(MemoryStore(Limits()))
        hub = self.hub = Hub(self.store, Registry(clock, 100), clock, wall=lambda: 0.0)
        self.conversation = PubSubSocket(hub, ("bob",), NOW, lambda _: None, lambda _, asked: hub.push(asked))
        self.held: list[int] = []
        self.socket = Socket(
            self.conversation, Heartbeats(clock, 25.0), 10_000, lambda: 0, lambda: False, self.held.append
        )
        self.transport = StringTransport()
        self.transport.registerProducer(object(), True)  # that of the server which wrote the 101
        self.socket.makeConnection(self.transport)
        self.client = Connection(ConnectionType.CLIENT)

    def say(self, text: str) -> None:
        self.socket.dataReceived(self.client.send(TextMessage(text)))

    def events(self) -> list[Any]:
        self.client.receive_data(self.transport.value())
        self.transport.clear()
        return list(self.client.events())

    def lose(self) -> None:
        self.socket.connectionLost()


def test_what_is_kept_of_a_message_is_counted_until_it_is_complete(clock):
    setting = Setting(clock)
    setting.say("hi")
    assert setting.held == []
    frame = setting.client.send(TextMessage("x" * 3_000))
    setting.socket.dataReceived(frame[:2_000])
    assert 1_900 < setting.held[-1] < 2_100
    setting.socket.dataReceived(frame[2_000:])
    assert setting.held[-1] == 0
    setting.socket.dataReceived(setting.client.send(TextMessage("x" * 1_000, message_finished=False)))
    assert setting.held[-1] == 4_000  # one character of four bytes would make all of them as wide
    setting.socket.hold_backlog(500)
    assert setting.held[-1] == 4_500
    setting.lose()
    assert setting.held[-1] == 0


def test_what_comes_at_once_is_parsed_in_several_turns(clock):
    setting = Setting(clock)
    pushes = 200
    store, append = setting.store, setting.store.append

    def slow_append(*given):
        clock.rightNow += 0.001
        return append(*given)

    def appended():
        return sum([asked.verb == "append" for asked in store.asked])

    store.append = slow_append
    text = '{"push":"eve","data":"' + "x" * 100 + '"}'
    setting.socket.dataReceived(b"".join([setting.client.send(TextMessage(text)) for _ in range(pushes)]))
    first = appended()
    assert 5 <= first < pushes / 4
    assert setting.transport.producerState == "paused"
    clock.advance(0)
    assert appended() == pushes
    assert setting.transport.producerState == "producing"
    setting.lose()


def test_a_socket_whose_connection_is_lost_is_freed_without_the_collector(clock):
    # The parser of websockets is a generator that refers to its protocol.
    def parsers() -> int:
        return sum(isinstance(one, Protocol) for one in gc.get_objects())

    before = parsers()
    gc.disable()
    try:
        setting = Setting(clock)
        setting.say("half a")
        assert parsers() == before + 1
        setting.transport.unregisterProducer()
        setting.lose()
        del setting
        assert parsers() == before
    finally:
        gc.enable()


def test_messages_that_a_slow_store_gives_are_told(clock):
    setting = Setting(clock)
    setting.store.settle()
    Outcome(setting.hub.push(push("bob", body="hi")))
    setting.store.settle()
    assert '"data":"hi"' in setting.events()[0].data
    setting.lose()
    assert setting.hub.registry.parked == 0
    assert clock.getDelayedCalls() == []


def test_where_it_cannot_be_found_out_where_it_begins_the_socket_closes_with_1011(clock, expected_failures):
    expected_failures.append(StoreDown)
    setting = Setting(clock)
    setting.store.next("read").fail(StoreDown("The disk is gone."))
    (closed,) = setting.events()
    assert isinstance(closed, CloseConnection)
    assert closed.code == 1011
    assert setting.transport.disconnecting
    setting.lose()
    assert setting.hub.registry.parked == 0
    assert clock.getDelayedCalls() == []


def test_a_push_is_answered_when_the_store_has_it(clock):
    setting = Setting(clock)
    setting.store.settle()
    setting.say('{"push": "alice", "data": "hi", "ref": 7}')
    assert setting.events() == []
    setting.store.settle()
    assert '"ref":7,"receipt"' in setting.events()[0].data
    setting.lose()


def test_a_push_at_which_the_store_fails_is_answered_with_a_problem(clock):
    setting = Setting(clock)
    setting.store.settle()
    setting.say('{"push": "alice", "data": "hi", "ref": 7}')
    setting.store.next("append").fail(StoreDown("The disk is gone."))
    assert '"ref":7,"error"' in setting.events()[0].data
    setting.lose()


def test_a_push_whose_client_left_is_made_nevertheless(clock):
    setting = Setting(clock)
    setting.store.settle()
    setting.say('{"push": "alice", "data": "hi", "ref": 7}')
    setting.lose()
    setting.store.settle()
    assert now(setting.store.store.describe("alice", 0.0)).queued == 1
