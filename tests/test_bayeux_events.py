"""What was pushed, as Bayeux events: what they say, what they do not, and that they are made once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers import EPOCH

from cometd_lite.bayeux.events import BINARY_TYPE, event, events_of
from cometd_lite.bayeux.sessions import BayeuxSession, Browser
from cometd_lite.core.message import Batch, Content, Cursor, Message


def at(number: int, recipient: str, content: Content | None = None) -> Message:
    return Message(Cursor(EPOCH, number), recipient, content or Content.of({"n": number}), 0.0, 1e9)


def told(*messages: Message) -> Any:
    return msgspec.json.decode(b"[%b]" % b"".join(map(event, messages))[:-1])


def test_an_event_is_its_channel_and_its_data_and_nothing_else() -> None:
    assert told(at(1, "chat/room1")) == [{"channel": "/chat/room1", "data": {"n": 1}}]
    assert told(at(2, "a", Content.of("text"))) == [{"channel": "/a", "data": "text"}]
    octets = Content.parse(b"\x00\xff", "image/png")
    assert told(at(3, "a", octets)) == [
        {"channel": "/a", "data": {"data_base64": "AP8=", "type": "image/png"}}
    ]


def test_names_and_texts_are_escaped() -> None:
    name = 'über "alles" \\ 😀'
    assert told(at(1, name, Content.of('"\n\u2028'))) == [{"channel": "/" + name, "data": '"\n\u2028'}]


@pytest.mark.parametrize("name", ["meta/handshake", "meta/connect", "service/x", "$listeners"])
def test_no_client_forges_the_protocols_own_messages_by_a_push(name: str) -> None:
    assert event(at(1, name)) == b""


def test_a_mailbox_called_meta_is_an_ordinary_channel() -> None:
    assert told(at(1, "meta"), at(2, "service"), at(3, "metal/x"))[0]["channel"] == "/meta"


def test_what_a_binary_extension_has_made_says_so() -> None:
    content = Content(b'{"data":"HelloWorld"}', BINARY_TYPE, "json")
    assert told(at(1, "a", content)) == [
        {"channel": "/a", "data": {"data": "HelloWorld"}, "ext": {"binary": {}}}
    ]


@pytest.mark.parametrize(
    ("kind", "ext"),
    [("application/json", {"event": "join"}), (BINARY_TYPE, {"binary": {}, "event": "join"})],
)
def test_the_name_of_an_event_is_in_its_ext(kind: str, ext: Any) -> None:
    content = Content(b'{"name":"alice"}', kind, "json")
    message = Message(Cursor(EPOCH, 1), "$presence/chat/lobby", content, 0.0, 1e9, "join")
    assert told(message) == [{"channel": "/$presence/chat/lobby", "data": {"name": "alice"}, "ext": ext}]


def test_what_all_are_told_is_rendered_once() -> None:
    one, other = (BayeuxSession(name, 10.0, Browser("some"), ack=False) for name in ("one", "other"))
    for session in (one, other):
        session.subscribed(("a",))
    batch = Batch((at(8, "a"), at(9, "a")), Cursor(EPOCH, 9))
    assert events_of(batch, one) is events_of(batch, other)
    assert event(batch.messages[0]) is event(batch.messages[0])
    other.since["a"] = 8
    assert events_of(batch, other) == event(at(9, "a"))
