"""The Bayeux conversation without I/O: batches of messages and a time go in, replies and effects come out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from helpers import EPOCH
from helpers import message as at
from hypothesis import given
from hypothesis import strategies as st

from cometd_lite.access.grants import Grant
from cometd_lite.bayeux import BayeuxOptions
from cometd_lite.bayeux.answers import BatchAnswer
from cometd_lite.bayeux.conversation import Bayeux
from cometd_lite.bayeux.effects import (
    Ask,
    Call,
    Effect,
    Forget,
    Give,
    Locate,
    Peer,
    Replace,
    Serve,
)
from cometd_lite.bayeux.events import BINARY_TYPE
from cometd_lite.bayeux.fields import CONNECTION_TYPES, batch_of, read
from cometd_lite.bayeux.sessions import BayeuxSession
from cometd_lite.core.message import Cursor
from cometd_lite.errors import BadBody, BodyTooLarge, CometError, Forbidden, ServerFull, Unauthorized
from cometd_lite.jsontext import dumps
from cometd_lite.limits import (
    BAYEUX_BATCH_MESSAGES,
    BAYEUX_BATCH_VALUES,
    BAYEUX_BROWSER_SESSIONS,
    BAYEUX_SUBSCRIPTIONS,
    Limits,
)

NOW = 5_000.0
WALL = 1_795_169_758.123
HANDSHAKE = {
    "channel": "/meta/handshake",
    "version": "1.0",
    "supportedConnectionTypes": ["long-polling"],
    "id": "1",
}


class World:
    """Whatever a conversation asks for is done here, by lists and numbers."""

    def __init__(self, options: BayeuxOptions | None = None, most: int = 1_000) -> None:
        self.bayeux = Bayeux(options or BayeuxOptions(), Limits(max_sessions=most))
        self.now = NOW
        self.end = 7
        self.effects: list[Effect] = []
        self.refuse: dict[str, CometError] = {}

    def say(self, *messages: Any, peer: Peer | None = None) -> list[Any]:
        """Return the replies to a batch."""
        return self.exchange(*messages, peer=peer).replies

    def exchange(self, *messages: Any, peer: Peer | None = None) -> BatchAnswer:
        self.effects = []
        with BatchAnswer() as answer:
            batch = read(msgspec.json.encode(messages))
            talk = self.bayeux.converse(batch, peer or Peer(), answer, self.now, WALL)
            value: Any = None
            error: CometError | None = None
            while True:
                try:
                    effect = talk.send(value) if error is None else talk.throw(error)
                except StopIteration:
                    for connect in answer.connects:
                        connect.complete(connect.session.place, self.now, gap=False)
                    return answer
                value = error = None
                self.effects.append(effect)
                try:
                    value = self.perform(effect)
                except CometError as refusal:
                    error = refusal

    def perform(self, effect: Effect) -> Any:
        if isinstance(effect, Ask):
            return effect.rights.check(effect.action, effect.names)
        if isinstance(effect, Locate):
            return Cursor(EPOCH, self.end)
        if isinstance(effect, Give):
            (name,) = effect.push.recipients
            if name in self.refuse:
                raise self.refuse[name]
            self.end += 1
        if isinstance(effect, Serve):
            return effect.handler(effect.call)
        return None

    def shake_hands(self, **fields: Any) -> str:
        """Return the id of a new session."""
        (reply,) = self.say({**HANDSHAKE, **fields})
        assert reply["successful"], reply
        client_id: str = reply["clientId"]
        return client_id

    def session(self, client_id: str) -> BayeuxSession:
        session = self.bayeux.sessions.get(client_id, self.now)
        assert session is not None
        return session

    def connected(self) -> str:
        """Return the id of a session whose first connect was answered."""
        client_id = self.shake_hands()
        self.say(connect(client_id))
        return client_id

    @property
    def given(self) -> list[tuple[str, Any]]:
        """What was pushed by the last batch, and to whom."""
        pushes = [effect.push for effect in self.effects if isinstance(effect, Give)]
        return [(push.recipients[0], msgspec.json.decode(push.contents[0].body)) for push in pushes]


def connect(client_id: Any, **fields: Any) -> dict[str, Any]:
    message = {"channel": "/meta/connect", "clientId": client_id, "connectionType": "long-polling"}
    return {**message, **fields}


def subscribe(client_id: str, subscription: Any, **fields: Any) -> dict[str, Any]:
    return {
        "channel": "/meta/subscribe",
        "clientId": client_id,
        "subscription": subscription,
        **fields,
    }


def unsubscribe(client_id: str, subscription: Any) -> dict[str, Any]:
    return {**subscribe(client_id, subscription), "channel": "/meta/unsubscribe"}


def publish(client_id: str, channel: str, data: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"channel": channel, "clientId": client_id, "data": data, **fields}


def disconnect(client_id: str) -> dict[str, Any]:
    return {"channel": "/meta/disconnect", "clientId": client_id}


@pytest.fixture
def world() -> World:
    return World()


# -- requests


def test_a_batch_is_an_array_or_one_message() -> None:
    assert batch_of([{"channel": "/a"}, 1]) == [{"channel": "/a"}, 1]
    assert batch_of({"channel": "/a"}) == [{"channel": "/a"}]
    assert batch_of([]) == []


@pytest.mark.parametrize("value", [None, "hi", 7, True])
def test_anything_else_is_no_batch(value: Any) -> None:
    with pytest.raises(BadBody):
        batch_of(value)


def test_a_batch_has_a_bound() -> None:
    assert len(batch_of([{}] * BAYEUX_BATCH_MESSAGES)) == BAYEUX_BATCH_MESSAGES
    with pytest.raises(BodyTooLarge):
        batch_of([{}] * (BAYEUX_BATCH_MESSAGES + 1))


def test_a_batch_beyond_its_bound_is_refused_before_its_messages_are_read() -> None:
    # Each large number was read by itself: 50,000 of them took 0.3 s.
    began = time.thread_time()
    with pytest.raises(BodyTooLarge):
        read(b"[" + b"1e9999," * (BAYEUX_BATCH_VALUES - 2) + b"1]")
    assert time.thread_time() - began < 0.1


@pytest.mark.parametrize("huge", ["1e9999", "[1e9999]", '{"of":[-1e9999]}'])
def test_a_number_that_no_float_holds_may_stand_in_one_message_as_in_an_array_of_them(huge: str) -> None:
    text = f'{{"channel":"/a","ext":{huge},"data":[{huge}]}}'
    message = read(text.encode())
    (alone,), (first, second) = read(f"[{text}]".encode()), read(f"[{text},{{}}]".encode())
    assert message["channel"] == "/a"
    assert bytes(message["data"]) == f"[{huge}]".encode()
    assert dumps(message["ext"]) == huge.replace("1e9999", "1E+9999").encode()
    assert message["ext"] == alone["ext"] == first["ext"]
    assert second == {}


def test_a_number_that_no_float_holds_is_no_batch() -> None:
    with pytest.raises(BadBody):
        batch_of(read(b"1e9999"))


# -- handshake


def test_a_handshake_is_answered_with_all_that_the_specification_demands(world: World) -> None:
    (reply,) = world.say(HANDSHAKE)
    assert reply["channel"] == "/meta/handshake"
    assert reply["successful"] is True
    assert reply["version"] == "1.0"
    assert reply["id"] == "1"
    assert {"long-polling", "callback-polling"} <= set(reply["supportedConnectionTypes"])
    assert reply["advice"] == {"reconnect": "retry", "interval": 0, "timeout": 30_000, "maxInterval": 10_000}


def test_a_client_id_has_at_least_128_random_bits_and_only_letters_and_digits(world: World) -> None:
    ids = {world.shake_hands() for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch("[0-9a-f]{40}", client_id) for client_id in ids)


def test_no_common_connection_type_fails_the_handshake_and_says_what_there_is(world: World) -> None:
    for types in (["iframe", "flash"], []):
        (reply,) = world.say({**HANDSHAKE, "supportedConnectionTypes": types})
        assert reply["successful"] is False
        assert reply["error"].startswith("301:")
        assert reply["advice"] == {"reconnect": "none"}
        assert reply["supportedConnectionTypes"] == CONNECTION_TYPES
        assert reply["id"] == "1"
        assert "clientId" not in reply
    assert len(world.bayeux.sessions) == 0


@pytest.mark.parametrize(
    ("version", "oldest", "common"),
    [
        ("1.0", None, True),
        ("1.0", "1.0", True),
        ("1.0", "1.0beta", True),
        ("1.0", "0.9", True),
        ("1.1", None, True),
        ("1.10.x-y", "1.0", True),
        ("2.0", "1.0", True),
        ("2.0", None, False),
        ("2.0", "1.1", False),
        ("0.9", None, False),
        ("1.0beta", None, False),
    ],
)
def test_the_versions_of_both_sides_must_meet(
    world: World, version: str, oldest: str | None, common: bool
) -> None:
    minimum = {} if oldest is None else {"minimumVersion": oldest}
    (reply,) = world.say({**HANDSHAKE, "version": version, **minimum})
    assert reply["successful"] is common
    if not common:
        assert reply["error"] == f"300:{version}:version_mismatch"
        assert reply["advice"] == {"reconnect": "none"}


@pytest.mark.parametrize("field", ["version", "supportedConnectionTypes"])
@pytest.mark.parametrize("value", [None, "", 1, {}, [1], "one"])
def test_a_handshake_without_what_it_must_have_fails(world: World, field: str, value: Any) -> None:
    (reply,) = world.say({**HANDSHAKE, field: value})
    assert reply["successful"] is False
    assert reply["error"][:3] in {"400", "301"}
    assert reply["advice"] == {"reconnect": "none"}


def test_every_other_message_beside_a_handshake_is_ignored(world: World) -> None:
    client_id = world.shake_hands()
    for batch in (
        [HANDSHAKE, publish(client_id, "/a"), HANDSHAKE],
        [publish(client_id, "/a"), HANDSHAKE],
        [17, HANDSHAKE],
    ):
        replies = world.say(*batch)
        assert [reply["channel"] for reply in replies] == ["/meta/handshake"]
        assert world.effects == []


def test_a_browser_without_a_name_is_given_one_and_keeps_it(world: World) -> None:
    named = world.exchange(HANDSHAKE).cookie
    assert named is not None
    assert world.exchange(HANDSHAKE, peer=Peer(named)).cookie is None


def test_the_sessions_of_a_browser_are_bounded_and_freed_when_they_end(world: World) -> None:
    peer = Peer("browser1")
    ids = [world.say(HANDSHAKE, peer=peer)[0]["clientId"] for _ in range(BAYEUX_BROWSER_SESSIONS)]
    (reply,) = world.say(HANDSHAKE, peer=peer)
    assert reply["successful"] is False
    assert reply["error"] == "503:bayeux-browser-sessions:server-full"
    assert reply["advice"]["reconnect"] == "handshake"
    assert reply["advice"]["interval"] > 0
    assert world.say(HANDSHAKE, peer=Peer("browser2"))[0]["successful"] is True
    world.say(disconnect(ids[0]))
    assert world.say(HANDSHAKE, peer=peer)[0]["successful"] is True


def test_all_sessions_are_bounded_and_freed_when_their_time_is_over() -> None:
    world = World(most=1)
    world.shake_hands()
    (reply,) = world.say(HANDSHAKE)
    assert reply["error"] == "503::server-full"
    assert reply["advice"]["reconnect"] == "handshake"
    world.now += 10.0
    assert len(world.bayeux.sessions.expire(world.now)) == 1
    world.shake_hands()


def test_the_acknowledgement_extension_is_agreed_on_only_if_it_is_asked_for(world: World) -> None:
    assert "ext" not in world.say(HANDSHAKE)[0]
    for asked in (True, {"enabled": True}):
        assert world.say({**HANDSHAKE, "ext": {"ack": asked}})[0]["ext"] == {"ack": True}
    for other in (False, {"enabled": 1}, "yes", 1, None, []):
        assert "ext" not in world.say({**HANDSHAKE, "ext": {"ack": other}})[0]


def test_an_id_comes_back_in_every_reply_be_it_good_or_bad(world: World) -> None:
    for id in ("7", 7, 1.5):  # noqa: A001  the protocol's name
        client_id = world.connected()
        good = (
            connect(client_id),
            subscribe(client_id, "/a"),
            unsubscribe(client_id, "/a"),
            publish(client_id, "/a"),
            publish(client_id, "/service/x"),
            disconnect(client_id),
        )
        bad = (
            connect("nobody"),
            subscribe("nobody", "/a"),
            unsubscribe("nobody", "/a"),
            publish("nobody", "/a"),
            disconnect("nobody"),
            {"channel": "/meta/foo"},
            {"clientId": client_id},
        )
        for successful, messages in ((True, good), (False, bad)):
            for message in messages:
                (reply,) = world.say({**message, "id": id})
                assert (reply["successful"], reply["id"]) == (successful, id), message
        (reply,) = world.say({**HANDSHAKE, "version": None, "id": id})
        assert (reply["successful"], reply["id"]) == (False, id)


def test_channels_that_only_clients_know_are_never_on_the_wire(world: World) -> None:
    client_id = world.connected()
    for message in (publish(client_id, "/a b"), subscribe(client_id, "/a b"), publish("nobody", "/a")):
        (reply,) = world.say(message)
        assert reply["channel"] == message["channel"]
    for channel in ("/meta/unsuccessful", "/meta/publish"):
        assert world.say(publish(client_id, channel))[0]["error"] == f"404:{channel}:channel_unknown"
        assert world.effects == []


# -- connect


def test_the_first_connect_is_answered_at_once_and_the_second_is_held(world: World) -> None:
    # Rule 1: aiocometd sends no advice.timeout=0, and took 3 s to open where this was not kept.
    client_id = world.shake_hands()
    first = world.exchange(connect(client_id, id="2"))
    assert first.wait == 0
    assert first.replies == [{"channel": "/meta/connect", "successful": True, "id": "2"}]
    assert world.exchange(connect(client_id, id="3")).wait == 30.0


def test_a_connect_that_shares_its_request_is_not_held(world: World) -> None:
    # Rule 2: aiocometd subscribes again in the batch of its connect.
    client_id = world.connected()
    exchange = world.exchange(connect(client_id, id="2"), subscribe(client_id, "/a", id="3"))
    assert exchange.wait == 0
    assert [reply["id"] for reply in exchange.replies] == ["2", "3"]


@pytest.mark.parametrize(
    ("timeout", "wait"), [(0, 0.0), (500, 0.5), (1.5, 0.0015), (60_000, 60.0), (10**9, 120.0)]
)
def test_a_client_may_say_how_long_it_will_wait(world: World, timeout: float, wait: float) -> None:
    client_id = world.connected()
    exchange = world.exchange(connect(client_id, advice={"timeout": timeout}))
    assert exchange.wait == wait
    # Whoever gives advice may have forgotten ours, as after a reload.
    assert exchange.replies[0]["advice"]["timeout"] == 30_000


@pytest.mark.parametrize("advice", [{}, {"timeout": -1}, {"timeout": "5"}, {"timeout": True}, "soon", 5, []])
def test_advice_that_is_none_is_ignored(world: World, advice: Any) -> None:
    client_id = world.connected()
    assert world.exchange(connect(client_id, advice=advice)).wait == 30.0


def test_an_unknown_session_is_told_to_shake_hands_again(world: World) -> None:
    for client_id in ("nobody", 17, None, ["a"], {}):
        (reply,) = world.say(connect(client_id, id="9"))
        assert reply == {
            "channel": "/meta/connect",
            "successful": False,
            "error": "402::session_unknown",
            "id": "9",
            "advice": {"reconnect": "handshake", "interval": 0},
        }
    (reply,) = world.say({"channel": "/meta/connect", "connectionType": "long-polling"})
    assert reply["error"] == "401::client_id_missing"
    assert reply["advice"]["reconnect"] == "handshake"


def test_only_connects_and_handshakes_carry_the_advice_to_shake_hands_again(world: World) -> None:
    # cometd.js keeps every advice that it sees, and does not know "handshake" after a successful connect.
    for message in (publish("nobody", "/a"), subscribe("nobody", "/a"), disconnect("nobody")):
        (reply,) = world.say(message)
        assert reply["error"] == "402::session_unknown"
        assert "advice" not in reply


@pytest.mark.parametrize("kind", [None, "iframe", 7, ["long-polling"]])
def test_a_connect_says_its_connection_type(world: World, kind: Any) -> None:
    client_id = world.connected()
    exchange = world.exchange(connect(client_id, connectionType=kind))
    (reply,) = exchange.replies
    assert reply["successful"] is False
    assert reply["error"].startswith("400:")
    assert reply["advice"] == {"reconnect": "none"}
    assert exchange.wait == 0


@pytest.mark.parametrize("kind", CONNECTION_TYPES)
def test_a_session_may_come_by_any_transport(world: World, kind: str) -> None:
    client_id = world.connected()
    assert world.exchange(connect(client_id, connectionType=kind)).wait == 30.0


def test_a_newer_connect_replaces_the_one_that_is_held(world: World) -> None:
    client_id = world.connected()
    session = world.session(client_id)
    peer = Peer()
    world.exchange(connect(client_id), peer=peer)
    assert world.effects == []  # nothing is held here
    session.reader = object()
    world.exchange(connect(client_id), peer=peer)
    assert world.effects == [Replace(session, peer)]


def test_a_session_that_does_not_connect_for_max_interval_is_gone(world: World) -> None:
    client_id = world.connected()
    world.now += 9.9
    assert world.bayeux.sessions.expire(world.now) == []
    world.now += 0.1
    assert world.say(publish(client_id, "/a"))[0]["error"] == "402::session_unknown"
    assert [session.id for session in world.bayeux.sessions.expire(world.now)] == [client_id]


def test_a_session_waits_for_its_client_by_its_interval_too() -> None:
    world = World(BayeuxOptions(interval=2_000, max_interval=1.0))
    client_id = world.connected()
    assert world.say(connect(client_id, advice={"timeout": 0}))[0]["advice"]["interval"] == 2_000
    world.now += 2.9
    assert world.say(publish(client_id, "/a"))[0]["successful"] is True


# -- disconnect


def test_a_disconnect_ends_the_session_and_its_connect(world: World) -> None:
    client_id = world.connected()
    session = world.session(client_id)
    assert world.say(disconnect(client_id)) == [{"channel": "/meta/disconnect", "successful": True}]
    assert world.effects == [Forget(session)]
    assert world.say(disconnect(client_id))[0]["error"] == "402::session_unknown"


def test_a_session_serves_only_its_browser_if_that_is_wanted() -> None:
    # Rule 3: not by default, because some clients have no cookies.
    named, other = Peer("browser1"), Peer("browser2")
    for bind, error in ((False, None), (True, "402::session_unknown")):
        world = World(BayeuxOptions(bind_browser=bind))
        client_id = world.say(HANDSHAKE, peer=named)[0]["clientId"]
        assert world.say(connect(client_id), peer=named)[0]["successful"] is True
        assert world.say(connect(client_id), peer=other)[0].get("error") == error


# -- subscribe and unsubscribe


@pytest.mark.parametrize(
    ("subscription", "keys"),
    [
        ("/chat/room1", ("chat/room1",)),
        ("/chat/*", ("chat/*",)),
        ("/chat/**", ("chat/**",)),
        ("/**", ("**",)),
        ("/*", ("*",)),
        (["/a", "/b/*", "/a"], ("a", "b/*")),
        ("/foo-bar/(foobar)", ("foo-bar/(foobar)",)),
        ("/a_!~$@.b", ("a_!~$@.b",)),
    ],
)
def test_a_channel_is_a_recipient_and_a_pattern_a_pattern(
    world: World, subscription: Any, keys: tuple[str, ...]
) -> None:
    client_id = world.connected()
    (reply,) = world.say(subscribe(client_id, subscription, id="5"))
    assert reply == {
        "channel": "/meta/subscribe",
        "successful": True,
        "subscription": subscription,
        "id": "5",
    }
    assert world.session(client_id).recipients == keys


@pytest.mark.parametrize(
    "subscription",
    [
        "", "/", "a", "a/b", "//", "/a/", "/a//b", "/a b", "/a?b", "/a/*/b", "/**/a", "/a*", "/a/***", "/*a",
        "/a,b", "/ä", "/a\x00", "/a\n", "/..", "/a/./b", "/$server", "/" + "a" * 300, ["/a", "b"],
        ["/a", "/b/"],
    ],
)  # fmt: skip
def test_what_is_no_channel_cannot_be_subscribed_to(world: World, subscription: Any) -> None:
    client_id = world.connected()
    (reply,) = world.say(subscribe(client_id, subscription))
    assert reply["successful"] is False
    assert re.fullmatch(r"4\d\d:[^:]*:[\w -]+", reply["error"])
    assert reply["subscription"] == subscription
    assert world.session(client_id).recipients == ()


@pytest.mark.parametrize("subscription", [None, 17, {}, [], [7], [["/a"]], {"a": 1}, True])
def test_a_subscription_is_a_string_or_strings(world: World, subscription: Any) -> None:
    client_id = world.connected()
    (reply,) = world.say(subscribe(client_id, subscription))
    assert reply["successful"] is False
    assert reply["error"].startswith("403::subscription_")


@pytest.mark.parametrize("channel", ["/meta/connect", "/meta/*", "/meta/**", "/meta/x"])
def test_meta_channels_cannot_be_subscribed_to(world: World, channel: str) -> None:
    client_id = world.connected()
    (reply,) = world.say(subscribe(client_id, ["/a", channel]))
    assert reply["error"] == f"403:{channel}:subscribe_denied"
    assert world.session(client_id).recipients == ()


def test_subscriptions_to_services_succeed_and_are_not_recorded(world: World) -> None:
    client_id = world.connected()
    assert world.say(subscribe(client_id, ["/service/echo", "/a"]))[0]["successful"] is True
    assert world.session(client_id).recipients == ("a",)
    assert world.say(unsubscribe(client_id, "/service/echo"))[0]["successful"] is True


def test_unsubscribing_takes_away_only_what_is_there(world: World) -> None:
    client_id = world.connected()
    world.say(subscribe(client_id, ["/a", "/b", "/c/*"]))
    (reply,) = world.say(unsubscribe(client_id, ["/a", "/c/*"]))
    assert reply == {"channel": "/meta/unsubscribe", "successful": True, "subscription": ["/a", "/c/*"]}
    assert world.session(client_id).recipients == ("b",)
    assert world.say(unsubscribe(client_id, "/a"))[0]["error"] == "404:/a:subscription_unknown"
    assert world.say(unsubscribe(client_id, ["/b", "/a"]))[0]["successful"] is False
    assert world.session(client_id).recipients == ("b",)


def test_subscribing_again_changes_nothing(world: World) -> None:
    client_id = world.connected()
    world.say(subscribe(client_id, "/a"))
    world.end = 99
    world.say(subscribe(client_id, "/a"))
    assert world.effects == []
    assert world.session(client_id).since == {}


def test_the_subscriptions_of_a_session_are_bounded(world: World) -> None:
    client_id = world.connected()
    world.say(subscribe(client_id, [f"/{number}" for number in range(BAYEUX_SUBSCRIPTIONS)]))
    assert world.say(subscribe(client_id, "/0"))[0]["successful"] is True
    (reply,) = world.say(subscribe(client_id, "/more"))
    assert reply["error"] == f"403:{BAYEUX_SUBSCRIPTIONS}:too_many_subscriptions"


def test_the_subscriptions_of_all_sessions_are_bounded_in_bytes_and_freed_when_they_end() -> None:
    world = World(most=10)
    channels = [f"/{number:0190}" for number in range(30)]
    one, other = world.connected(), world.connected()
    assert world.say(subscribe(one, channels))[0]["successful"] is True
    (reply,) = world.say(subscribe(other, channels))
    assert reply["error"] == "503::server-full"
    assert world.session(other).recipients == ()
    world.say(unsubscribe(one, channels[:15]))
    assert world.say(subscribe(other, channels[:15]))[0]["successful"] is True
    world.bayeux.sessions.check_invariants()
    world.say(disconnect(one))
    world.now += 60.0
    world.bayeux.sessions.expire(world.now)
    assert world.bayeux.sessions.memory == 0


def test_two_requests_at_once_subscribe_once(world: World) -> None:
    # A store that waits may answer one when the other is done.
    client_id = world.connected()
    talks = [
        world.bayeux.converse([subscribe(client_id, "/a")], Peer(), BatchAnswer(), NOW, WALL)
        for _ in range(2)
    ]
    for talk in talks:
        assert next(talk) == Locate()
    for talk in talks:
        with pytest.raises(StopIteration):
            talk.send(Cursor(EPOCH, 9))
    assert world.session(client_id).recipients == ("a",)
    world.bayeux.sessions.check_invariants()


def test_a_subscription_that_comes_after_the_end_is_not_counted(world: World) -> None:
    client_id = world.connected()
    talk = world.bayeux.converse([subscribe(client_id, "/a")], Peer(), BatchAnswer(), NOW, WALL)
    assert next(talk) == Locate()
    world.say(disconnect(client_id))
    with pytest.raises(StopIteration):
        talk.send(Cursor(EPOCH, 9))
    assert world.bayeux.sessions.memory == 0


# -- a session's place


def test_a_later_subscription_counts_from_when_it_was_made(world: World) -> None:
    client_id = world.connected()
    session = world.session(client_id)
    world.say(subscribe(client_id, "/a"))
    assert session.place == Cursor(EPOCH, 7)
    world.end = 9  # 8 and 9 were pushed, and the session was not told yet
    world.say(subscribe(client_id, "/b/*"))
    assert session.place == Cursor(EPOCH, 7)
    assert [session.wants(at(number, "a")) for number in (8, 9, 10)] == [True, True, True]
    assert [session.wants(at(number, "b/1")) for number in (8, 9, 10)] == [False, False, True]
    session.advance(Cursor(EPOCH, 8))
    assert session.since == {"b/*": 9}
    session.advance(Cursor(EPOCH, 9))
    assert session.since == {}


def test_a_message_of_two_subscriptions_counts_by_the_older_one(world: World) -> None:
    client_id = world.connected()
    session = world.session(client_id)
    world.say(subscribe(client_id, "/b/*"))
    world.end = 9
    world.say(subscribe(client_id, "/b/1"))
    assert session.wants(at(8, "b/1")) is True


# -- publish


def test_what_is_published_is_pushed_and_acknowledged_without_its_data(world: World) -> None:
    client_id = world.connected()
    (reply,) = world.say(publish(client_id, "/chat/room1", {"text": "hi"}, id="7", ext={"a": 1}))
    assert reply == {"channel": "/chat/room1", "successful": True, "id": "7"}
    assert world.given == [("chat/room1", {"text": "hi"})]
    (effect,) = world.effects
    assert isinstance(effect, Give)
    assert effect.push.overflow == "drop-oldest"


@pytest.mark.parametrize("data", [None, "", 0, False, [], {}, "text", 1.5, {"a": [None]}])
def test_data_is_any_json(world: World, data: Any) -> None:
    client_id = world.connected()
    assert world.say(publish(client_id, "/a", data))[0]["successful"] is True
    assert world.given == [("a", data)]


def test_a_publication_needs_data(world: World) -> None:
    client_id = world.connected()
    (reply,) = world.say({"channel": "/a", "clientId": client_id, "id": "1"})
    assert reply == {"channel": "/a", "successful": False, "error": "400:/a:data_missing", "id": "1"}


def test_of_ext_only_the_binary_extension_is_kept_for_the_readers(world: World) -> None:
    client_id = world.connected()
    data = {"data": "HelloWorld", "last": True}
    for ext, kept in (
        ({"binary": {}, "token": "secret"}, BINARY_TYPE),
        ({"binary": True}, "application/json"),
    ):
        world.say(publish(client_id, "/a", data, ext=ext))
        (effect,) = world.effects
        assert isinstance(effect, Give)
        (content,) = effect.push.contents
        assert (content.type, msgspec.json.decode(content.body)) == (kept, data)


@pytest.mark.parametrize("channel", ["/a/*", "/**", "a", "", "/", "/a/", "/a b", "/a\n", "/ä", "/a:b"])
def test_what_is_no_channel_cannot_be_published_to(world: World, channel: str) -> None:
    client_id = world.connected()
    (reply,) = world.say(publish(client_id, channel))
    assert reply["successful"] is False
    assert reply["error"].startswith("405:")
    assert reply["channel"] == channel
    assert world.effects == []


@pytest.mark.parametrize("channel", ["/$server", "/..", "/a/.", "/" + "a" * 300])
def test_a_channel_that_no_mailbox_can_have_is_refused(world: World, channel: str) -> None:
    client_id = world.connected()
    assert world.say(publish(client_id, channel))[0]["error"].endswith(":bad-recipient")


def test_unknown_meta_channels_are_answered(world: World) -> None:
    client_id = world.connected()
    for channel in ("/meta/foo", "/meta/connect/x", "/meta/"):
        assert world.say(publish(client_id, channel, id="4"))[0] == {
            "channel": channel,
            "successful": False,
            "error": f"404:{channel}:channel_unknown",
            "id": "4",
        }


def test_a_push_that_is_refused_fails_its_message_only(world: World) -> None:
    client_id = world.connected()
    world.refuse["b"] = ServerFull("full")
    replies = world.say(*[publish(client_id, f"/{name}") for name in "abc"])
    assert [reply["successful"] for reply in replies] == [True, False, True]
    assert replies[1]["error"] == "503:/b:server-full"
    assert [name for name, _ in world.given] == ["a", "b", "c"]


def test_data_that_is_nested_too_deeply_fails_its_message_only(world: World) -> None:
    client_id = world.connected()
    deep: Any = []
    for _ in range(600):
        deep = [deep]
    replies = world.say(publish(client_id, "/a", deep), publish(client_id, "/b"))
    assert [reply["successful"] for reply in replies] == [False, True]
    assert replies[0]["error"] == "400:/a:bad-body"


def test_publishing_without_a_session_is_allowed_only_by_option() -> None:
    message = {"channel": "/a", "data": "hi", "id": "1"}
    assert World().say(message)[0]["error"] == "401::client_id_missing"
    world = World(BayeuxOptions(anonymous_publish=True))
    assert world.say(message) == [{"channel": "/a", "successful": True, "id": "1"}]
    assert world.given == [("a", "hi")]
    # An id that is no session's is not the same as none, and nothing else works without one.
    assert world.say(publish("nobody", "/a"))[0]["error"] == "402::session_unknown"
    assert world.say({"channel": "/meta/subscribe", "subscription": "/a"})[0]["successful"] is False


def test_messages_of_one_request_are_done_and_answered_in_order(world: World) -> None:
    client_id = world.connected()
    replies = world.say(
        publish(client_id, "/a", 1, id="1"),
        subscribe(client_id, "/a", id="2"),
        publish(client_id, "/a", 2, id="3"),
        unsubscribe(client_id, "/a"),
        disconnect(client_id),
        publish(client_id, "/a", 3, id="6"),
    )
    assert [reply["successful"] for reply in replies] == [True, True, True, True, True, False]
    assert [type(effect) for effect in world.effects] == [Give, Locate, Give, Forget]


# -- services


def test_a_service_answers_its_caller_alone(world: World) -> None:
    calls: list[Call] = []

    def echo(call: Call) -> Any:
        calls.append(call)
        return {"echo": call.data}

    world.bayeux.services["service/echo"] = echo
    client_id = world.connected()
    (reply,) = world.say(publish(client_id, "/service/echo", "hi", id="7", ext={"x": 1}))
    assert reply == {"channel": "/service/echo", "successful": True, "id": "7"}
    assert calls == [Call("/service/echo", "hi", client_id, "7", {"x": 1})]
    answer = {"channel": "/service/echo", "data": {"echo": "hi"}, "id": "7"}
    assert world.given == [(f"$bayeux/{client_id}", answer)]
    assert f"$bayeux/{client_id}" in world.session(client_id).keys


def test_a_service_may_answer_nothing_and_none_need_be_there(world: World) -> None:
    world.bayeux.services["service/**"] = lambda _: None
    client_id = world.connected()
    assert world.say(publish(client_id, "/service/a/b"))[0]["successful"] is True
    world.bayeux.services.clear()
    assert world.say(publish(client_id, "/service/a/b"))[0]["successful"] is True
    assert world.given == []


def test_the_nearest_service_is_called(world: World) -> None:
    for key in ("service/**", "service/a/*", "service/a/b"):
        world.bayeux.services[key] = lambda _, key=key: key
    client_id = world.connected()
    for channel, key in (
        ("/service/a/b", "service/a/b"),
        ("/service/a/c", "service/a/*"),
        ("/service/x", "service/**"),
    ):
        world.say(publish(client_id, channel))
        assert world.given[0][1]["data"] == key


def test_a_caller_without_a_session_is_answered_in_the_same_response() -> None:
    world = World(BayeuxOptions(anonymous_publish=True))
    world.bayeux.services["service/echo"] = lambda call: call.data
    replies = world.say({"channel": "/service/echo", "data": "hi", "id": "1"})
    assert {"channel": "/service/echo", "data": "hi", "id": "1"} in replies
    assert {"channel": "/service/echo", "successful": True, "id": "1"} in replies
    assert world.given == []


def test_an_answer_that_json_cannot_say_fails_the_call(world: World) -> None:
    world.bayeux.services["service/odd"] = lambda _: object()
    client_id = world.connected()
    assert world.say(publish(client_id, "/service/odd"))[0]["error"] == "400:/service/odd:bad-body"


# -- rights


class Some:
    """Rights to what is named, for a minute."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed

    def check(self, action: str, names: tuple[str, ...]) -> float:
        if not self.allowed:
            raise Unauthorized("no token")
        for name in names:
            if f"{action} {name}" not in self.allowed:
                raise Forbidden("not this one")
        return 60.0

    grant = Grant()


def test_rights_are_asked_for_at_handshake_subscribe_connect_and_publish(world: World) -> None:
    peer = Peer(rights=Some("poll a", "push b", "push service/x"))
    client_id = world.say(HANDSHAKE, peer=peer)[0]["clientId"]
    assert world.say(subscribe(client_id, "/a"), peer=peer)[0]["successful"] is True
    assert world.say(subscribe(client_id, "/b"), peer=peer)[0]["error"] == "403:/b:forbidden"
    assert world.say(subscribe(client_id, "/**"), peer=peer)[0]["error"] == "403:/**:forbidden"
    assert world.say(publish(client_id, "/b"), peer=peer)[0]["successful"] is True
    assert world.say(publish(client_id, "/a"), peer=peer)[0]["error"] == "403:/a:forbidden"
    assert world.say(publish(client_id, "/service/x"), peer=peer)[0]["successful"] is True
    assert world.say(publish(client_id, "/service/y"), peer=peer)[0]["successful"] is False
    assert world.say(connect(client_id), peer=peer)[0]["successful"] is True
    assert world.session(client_id).recipients == ("a",)


def test_without_rights_a_handshake_ends_the_client(world: World) -> None:
    (reply,) = world.say(HANDSHAKE, peer=Peer(rights=Some()))
    assert reply["error"] == "401::unauthorized"
    assert reply["advice"] == {"reconnect": "none"}


def test_a_connect_is_held_no_longer_than_its_rights(world: World) -> None:
    peer = Peer(rights=Some("poll a"))
    client_id = world.say(HANDSHAKE, peer=peer)[0]["clientId"]
    world.say(connect(client_id), peer=peer)
    assert world.exchange(connect(client_id, advice={"timeout": 90_000}), peer=peer).wait == 60.0
    (reply,) = world.say(connect(client_id), peer=Peer(rights=Some()))
    assert reply["error"] == "401::unauthorized"
    assert reply["advice"]["reconnect"] == "handshake"


@pytest.mark.parametrize(
    "message",
    [
        connect,
        disconnect,
        lambda me: subscribe(me, "/b"),
        lambda me: unsubscribe(me, "/a"),
        lambda me: publish(me, "/a"),
        lambda me: {"channel": "/meta/unheard-of", "clientId": me},
    ],
)
def test_without_a_token_no_message_does_anything_or_is_told_events(
    world: World, message: Callable[[str], dict[str, Any]]
) -> None:
    client_id = world.connected()
    world.say(subscribe(client_id, "/a"))
    exchange = world.exchange({**message(client_id), "id": "7"}, peer=Peer(rights=Some()))
    (reply,) = exchange.replies
    assert (reply["successful"], reply["error"], reply["id"]) == (False, "401::unauthorized", "7")
    assert reply["advice"] == {"reconnect": "handshake", "interval": 0}
    assert exchange.session is None
    assert world.session(client_id).recipients == ("a",)


@pytest.mark.parametrize(
    ("message", "may_read"),
    [
        (lambda me: publish(me, "/b"), False),
        (connect, False),
        (lambda me: unsubscribe(me, "/a"), True),  # then there is nothing that it may not read
    ],
)
def test_with_a_token_that_may_only_push_no_events_are_told(
    world: World, message: Callable[[str], dict[str, Any]], *, may_read: bool
) -> None:
    client_id = world.connected()
    world.say(subscribe(client_id, "/a"))
    exchange = world.exchange(message(client_id), peer=Peer(rights=Some("push b")))
    assert exchange.may_read is may_read
    assert (
        world.exchange(publish(client_id, "/b"), peer=Peer(rights=Some("push b", "poll a"))).may_read is True
    )


# -- extensions


def test_a_confirmed_batch_is_let_go_and_an_unconfirmed_one_is_not(world: World) -> None:
    client_id = world.shake_hands(ext={"ack": True})
    session = world.session(client_id)
    world.say(subscribe(client_id, "/a"))

    def answer(ack: Any, place: int) -> Any:
        """Send a connect, and answer it with events up to a place."""
        (made,) = world.exchange(connect(client_id, ext={"ack": ack})).connects
        made.complete(Cursor(EPOCH, place), NOW, gap=False)
        return made.reply["ext"]["ack"]

    first = answer(0, 10)
    assert session.place == Cursor(EPOCH, 7)
    for wrong in (first - 1, str(first), True, None, 1.5, -1, [first]):
        again = answer(wrong, 10)
        assert session.place == Cursor(EPOCH, 7), wrong
    assert again > first
    answer(again, 12)
    assert session.place == Cursor(EPOCH, 10)
    answer(10**9, 12)
    assert session.place == Cursor(EPOCH, 12)


def test_a_batch_that_went_before_the_first_subscription_moves_nothing(world: World) -> None:
    client_id = world.shake_hands(ext={"ack": True})
    number = world.say(connect(client_id, ext={"ack": 0}))[0]["ext"]["ack"]
    world.say(subscribe(client_id, "/a"))
    world.say(connect(client_id, ext={"ack": number}))
    assert world.session(client_id).place == Cursor(EPOCH, 7)


def test_time_is_synchronised_as_cometd_does(world: World) -> None:
    # The server's time is ts, and a = tc + o + l - ts tells how wrong the client was.
    timesync = {"tc": 1_795_169_750_000, "l": 20, "o": 8_000}
    (reply,) = world.say({**HANDSHAKE, "ext": {"timesync": timesync}})
    assert reply["ext"]["timesync"] == {"tc": 1_795_169_750_000, "ts": 1_795_169_758_123, "p": 0, "a": -103}
    for partly in ({}, {"l": 20}, {"o": 8_000}, {"l": "x", "o": 8_000}, {"l": 20, "o": None}):
        (reply,) = world.say({**HANDSHAKE, "ext": {"timesync": {"tc": 5, **partly}}})
        assert reply["ext"]["timesync"] == {"tc": 5, "ts": 1_795_169_758_123, "p": 0}


def test_time_is_synchronised_by_what_is_said_to_the_protocol_alone(world: World) -> None:
    client_id = world.connected()
    (reply,) = world.say({"channel": "/a", "clientId": client_id, "data": 1, "ext": {"timesync": {"tc": 5}}})
    assert reply["successful"] is True
    assert "ext" not in reply


def test_the_time_that_a_connect_was_held_is_told(world: World) -> None:
    client_id = world.connected()
    (made,) = world.exchange(connect(client_id, ext={"timesync": {"tc": 1, "l": 0, "o": 0}})).connects
    made.complete(Cursor(EPOCH, 7), NOW + 2.5, gap=False)
    assert made.reply["ext"]["timesync"]["p"] == 2_500


@pytest.mark.parametrize("timesync", [None, 5, [], {}, {"tc": "x"}, {"tc": True}, {"tc": 1e300}])
def test_a_synchronisation_that_is_none_is_ignored(world: World, timesync: Any) -> None:
    assert "ext" not in world.say({**HANDSHAKE, "ext": {"timesync": timesync}})[0]


def test_unknown_extensions_and_fields_are_ignored(world: World) -> None:
    client_id = world.shake_hands(ext={"com.acme.auth": {"a": [1]}}, foo="bar", authScheme=None)
    for ext in ({"x": 1}, {"activity": {"max": 1}}, [], "x", None, 7):
        assert world.say(connect(client_id, ext=ext, advice={"timeout": 0}))[0]["successful"] is True


def test_a_timestamp_is_answered_with_one(world: World) -> None:
    client_id = world.shake_hands(timestamp="2026-11-20T10:15:58")
    (reply,) = world.say(publish(client_id, "/a", timestamp=7))
    assert reply["timestamp"] == "2026-11-20T10:15:58.123Z"
    assert "timestamp" not in world.say(publish(client_id, "/a"))[0]


# -- malformed messages of every kind

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=8,
)
channels = st.sampled_from(
    [
        "/meta/connect", "/meta/subscribe", "/meta/unsubscribe", "/meta/disconnect", "/meta/x", "/a",
        "/service/x", "/a/*", "", "a",
    ]
)  # fmt: skip
fields = st.fixed_dictionaries(
    {},
    optional={
        "channel": channels | json_values,
        "clientId": st.just("ME") | json_values,
        "connectionType": st.sampled_from(CONNECTION_TYPES) | json_values,
        "subscription": channels | st.lists(channels) | json_values,
        "data": json_values,
        "id": json_values,
        "ext": json_values
        | st.fixed_dictionaries({}, optional={"ack": json_values, "timesync": json_values}),
        "advice": json_values | st.fixed_dictionaries({}, optional={"timeout": json_values}),
        "version": json_values,
        "timestamp": json_values,
    },
)


@given(st.lists(fields | json_values, min_size=1, max_size=6))
def test_every_message_is_answered_whatever_it_and_its_neighbours_are(batch: list[Any]) -> None:
    world = World()
    client_id = world.connected()
    other = world.connected()
    mine = [
        {**message, "clientId": client_id}
        if isinstance(message, dict) and message.get("clientId") == "ME"
        else message
        for message in batch
    ]
    neighbour = publish(other, "/neighbour", "hi", id="neighbour")
    replies = world.say(*mine, neighbour)
    msgspec.json.encode(replies)
    if any(isinstance(message, dict) and message.get("channel") == "/meta/handshake" for message in mine):
        return
    assert len(replies) == len(batch) + 1
    assert replies[-1] == {"channel": "/neighbour", "successful": True, "id": "neighbour"}
    for message, reply in zip(mine, replies, strict=False):
        assert isinstance(reply["channel"], str)
        assert reply["successful"] is True or re.match(r"\d\d\d:[^:]*:.+", reply["error"], re.DOTALL)
        if isinstance(message, dict) and isinstance(message.get("id"), str):
            assert reply["id"] == message["id"]


@given(
    st.fixed_dictionaries({"channel": st.just("/meta/handshake")}, optional={"x": json_values}).flatmap(
        lambda base: st.fixed_dictionaries(
            {},
            optional={
                "version": st.just("1.0") | json_values,
                "minimumVersion": json_values,
                "supportedConnectionTypes": st.just(["websocket"]) | json_values,
                "id": json_values,
                "ext": json_values,
                "advice": json_values,
                "clientId": json_values,
            },
        ).map(lambda more: {**base, **more})
    )
)
def test_every_handshake_is_answered_whatever_is_in_it(message: dict[str, Any]) -> None:
    world = World()
    (reply,) = world.say(message)
    msgspec.json.encode(reply)
    assert reply["successful"] is ("clientId" in reply)
    assert len(world.bayeux.sessions) == reply["successful"]


def test_a_conversation_that_breaks_keeps_events_from_its_session_no_longer(world: World) -> None:
    client_id = world.connected()
    batch = read(msgspec.json.encode([publish(client_id, "/a")]))
    answer = BatchAnswer()
    talk = world.bayeux.converse(batch, Peer(), answer, NOW, WALL)
    next(talk)
    assert world.session(client_id).answering == 1
    with pytest.raises(ZeroDivisionError), answer:
        talk.throw(ZeroDivisionError())
    assert world.session(client_id).answering == 0
