"""The road of plain Bayeux requests, which must lead where the conversation does."""

from __future__ import annotations

from math import inf
from typing import Any

import msgspec
from bayeux_clients import Asked, Client, Late, Request, Server, arrived
from helpers import Outcome
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from cometd_lite.access.grants import Grant
from cometd_lite.bayeux.plain import PlainRoad


class Everything:
    """The rights of a peer that may do everything. A request with rights takes no plain road."""

    grant = Grant()

    def check(self, action: str, names: tuple[str, ...]) -> float:
        return inf


def prepared(ack: bool, connected: bool, subscribed: bool) -> Client:
    """Return a client of a server of its own, after a handshake and what else is asked for."""
    clock = Clock()
    clock.advance(1_000)
    client = Client(Server(clock))
    client.shake_hands(ext={"ack": ack})
    if subscribed:
        client.subscribe("/a", "/b")
    if connected:
        client.connect()
    return client


def sent(client: Client, message: Any, rights: Any) -> Request:
    """Send a message of the client; return the request."""
    if isinstance(message, dict) and message.get("clientId") == "ME":
        message = {**message, "clientId": client.id}
    body = msgspec.json.encode([message])
    return Request(Outcome(client.server.bayeux.post(body, b"application/json", Asked(), rights)))


PLAIN_CONNECT = {"channel": "/meta/connect", "clientId": "ME", "connectionType": "long-polling", "id": "1"}
PLAIN_PUBLICATION = {"channel": "/a", "clientId": "ME", "data": 1, "id": "1"}


@given(
    st.fixed_dictionaries(
        {"channel": st.sampled_from(["/meta/connect", "/a", "/c", "/a/*", "/service/x", "/meta/x", "a", 7])},
        optional={
            "clientId": st.sampled_from(["ME", "nobody", 17, None]),
            "connectionType": st.sampled_from(["long-polling", "iframe"]),
            "data": st.sampled_from([None, 1, {"a": [1]}]),
            "id": st.sampled_from(["1", 1, None, ["1"]]),
            "ext": st.sampled_from([{}, {"ack": 1}, {"ack": 0}, {"timesync": {"tc": 1}}, "x"]),
            "advice": st.just({"timeout": 0}),
            "timestamp": st.just("now"),
        },
    )
    | st.sampled_from([PLAIN_CONNECT, {**PLAIN_CONNECT, "ext": {"ack": 1}}, PLAIN_PUBLICATION]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@example(PLAIN_CONNECT, False, True, True, False)
@example({**PLAIN_CONNECT, "ext": {"ack": 0}}, True, True, True, False)
@example(PLAIN_PUBLICATION, False, True, False, False)
def test_a_plain_request_is_answered_as_the_conversation_would(
    message: Any, ack: bool, connected: bool, subscribed: bool, pushed: bool
) -> None:
    ends = []
    for rights in (None, Everything()):
        client = prepared(ack, connected, subscribed)
        server = client.server
        if pushed:
            server.push("b", "before")
        request = sent(client, message, rights)
        was_held = request.held
        if was_held:
            server.clock.advance(30.0)
        answer = request.answer
        said = None if answer is None else (answer.status, answer.head, answer.body)
        ends.append((was_held, said, len(server.bayeux), server.store.usage().messages))
        server.check_invariants()
    assert ends[0] == ends[1]


def test_a_plain_request_takes_the_plain_road() -> None:
    client = prepared(ack=False, connected=True, subscribed=False)
    transport = client.server.bayeux
    road = PlainRoad(transport.delivery, transport.options, client.server.limits)
    publication = {"channel": "/a", "clientId": client.id, "data": msgspec.Raw(b"1"), "id": "1"}
    assert road.answer([publication], Asked()) is not None
    assert road.answer(publication, Asked()) is not None
    assert road.answer([publication, publication], Asked()) is None
    connect = client.connection()
    assert road.answer([connect], Asked()) is not None
    assert road.answer([connect], Asked()) is None, "another one is held"


def test_a_plain_publication_waits_for_the_store(clock: Clock) -> None:
    server = Server(clock, store=Late)
    client = Client(server)
    client.shake_hands()
    request = client.send(client.message("/a", data=1))
    assert request.held
    assert arrived(server, request).messages == [
        {"channel": "/a", "successful": True, "id": str(client.number)}
    ]
    request = client.send(client.message("/a", data=1))
    server.store.down = True
    (reply,) = arrived(server, request).messages
    assert (reply["successful"], reply["error"]) == (False, "503:/a:store-down")


def test_a_plain_publication_that_is_cancelled_is_published(clock: Clock) -> None:
    server = Server(clock, store=Late)
    client = Client(server)
    client.shake_hands()
    client.send(client.message("/a", data=1)).lose()
    server.store.give()
    assert server.store.usage().messages == 1
