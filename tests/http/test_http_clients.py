"""What one client may hold and push, at each door: beyond it 429 and Retry-After, for that client alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from wires import Connection, Stream, WebSocket, leave

from cometd_lite.access.tokens import Tokens
from cometd_lite.limits import CLIENT_BURST_SECONDS, Limits

SECRET = b"a secret of at least thirty-two bytes"
BURST = int(CLIENT_BURST_SECONDS)
JSON = {"Content-Type": "application/json"}


def kind(answer: Any) -> tuple[int, str]:
    return answer.status, answer.json["type"].rpartition(":")[2]


TOO_MANY = (429, "too-many-requests")


def bearer(subject: str | None = None) -> dict[str, str]:
    claims: dict[str, Any] = {"push": ["**"], "poll": ["**"]}
    token = jwt.encode(claims | ({} if subject is None else {"sub": subject}), SECRET, "HS256")
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    file = tmp_path / "key"
    file.write_bytes(SECRET)
    return Tokens([file])


@pytest.fixture(autouse=True)
def everybody_leaves(serve):
    yield
    leave()


def handshake(server: Any) -> dict[str, Any]:
    message = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    (reply,) = server.ask("POST", "/cometd", msgspec.json.encode([message]), JSON).json
    assert isinstance(reply, dict)
    return reply


# -- what is held


def test_unless_told_otherwise_one_client_may_do_whatever_all_may(serve):
    server = serve()
    assert server.comet.routes.policy.clients is None


def test_polls_streams_and_sockets_of_one_client_are_counted_together(serve):
    server = serve(Limits(client_parked=3))
    poll = server.park("/poll/a?after=now")
    stream = Stream(server, "/stream/a")
    socket = WebSocket(server, "/ws/a")
    refused = server.get("/poll/a?after=now")
    assert kind(refused) == TOO_MANY
    assert int(refused.headers["retry-after"]) >= 1
    for target, headers in (("/stream/a", {}), ("/ws/a", {})):
        connection = WebSocket(server, target) if target == "/ws/a" else Connection(server)
        if target != "/ws/a":
            connection.request("GET", target, headers)
        assert connection.status == 429
    assert server.get("/poll/a?after=oldest&wait=0").status == 200, "nothing is held"
    assert server.push("/b").status == 202, "a push is not held"
    stream.hang_up()
    again = server.park("/poll/a?after=now")
    socket.hang_up()
    poll.hang_up()
    again.hang_up()
    assert server.comet.clients.of("127.0.0.1", None).parked.held == 0


def test_takes_and_polls_of_listeners_are_counted_as_well(serve):
    server = serve(Limits(client_parked=1))
    listener = server.ask("POST", "/register").json["id"]
    take = server.park("/poll/a")
    assert kind(server.get(f"/poll?listener={listener}")) == TOO_MANY
    assert kind(server.get("/poll/a")) == TOO_MANY
    server.push("/a")
    server.driver.flush()
    assert take.answer.status == 200
    held = server.park(f"/poll?listener={listener}")
    server.advance(30)
    assert held.answer.status == 200
    assert server.comet.clients.of("127.0.0.1", None).parked.held == 0


def test_a_bayeux_connect_and_a_bayeux_socket_are_counted_too(serve):
    server = serve(Limits(client_parked=1))
    client = handshake(server)["clientId"]
    socket = WebSocket(server, "/cometd")
    connect = {"channel": "/meta/connect", "clientId": client, "connectionType": "long-polling"}
    first = server.ask("POST", "/cometd", msgspec.json.encode([connect]), JSON)  # answered at once
    assert first.status == 200
    refused = server.ask("POST", "/cometd", msgspec.json.encode([connect]), JSON)
    assert (refused.status, refused.headers["content-type"]) == (429, "text/plain; charset=utf-8")
    assert int(refused.headers["retry-after"]) > 0
    socket.hang_up()
    held = server.send("POST", "/cometd", msgspec.json.encode([connect]), JSON)
    assert held.answer is None
    assert WebSocket(server, "/cometd").status == 429
    held.hang_up()


# -- registrations


def test_listeners_and_bayeux_sessions_of_one_client_are_counted_until_they_end(serve):
    server = serve(Limits(client_registrations=2))
    first = server.ask("POST", "/register").json["id"]
    assert handshake(server)["successful"]
    assert kind(server.ask("POST", "/register")) == TOO_MANY
    refused = handshake(server)
    assert refused["successful"] is False
    assert refused["error"].startswith("429:")
    assert refused["advice"]["reconnect"] == "handshake"
    assert server.ask("DELETE", f"/listeners/{first}").status == 204
    assert server.ask("POST", "/register", '{"ttl": 5}').status == 201
    server.comet.start()
    server.advance(15)
    server.advance(1)
    assert server.ask("POST", "/register").status == 201, "both were not used for their time"


# -- pushes


def test_messages_are_counted_for_each_recipient_over_every_road(serve):
    server = serve(Limits(client_pushes=1))
    socket = WebSocket(server, "/ws/a")
    client = handshake(server)["clientId"]
    publish = {"channel": "/a", "data": 1, "clientId": client}
    server.push("?rcpt=a&rcpt=b", "1\n2", {"Content-Type": "application/x-ndjson"})
    assert "receipt" in socket.push(push="a", data=1, ref=1)
    (reply,) = server.ask("POST", "/cometd", msgspec.json.encode([publish]), JSON).json[-1:]
    assert reply["successful"] is True
    assert kind(server.ask("POST", "/push/a", "hi")) == TOO_MANY
    assert socket.push(push="a", data=1, ref=2)["error"]["status"] == 429
    replies = server.ask("POST", "/cometd", msgspec.json.encode([publish]), JSON).json
    assert [reply["error"][:4] for reply in replies if not reply.get("successful", True)] == ["429:"]
    server.clock.advance(3)
    assert server.push("/a").status in {201, 202}


def test_bytes_are_counted_over_every_road(serve):
    server = serve(Limits(client_bytes=100))
    server.push("/a", "x" * 100 * BURST)
    server.push("/a", "x" * 100)
    refused = server.ask("POST", "/push/a", "x")
    assert kind(refused) == TOO_MANY
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    socket = WebSocket(server, "/ws/a")
    assert socket.push(push="a", data="x")["error"]["status"] == 429
    server.clock.advance(2)
    assert server.push("/a").status in {201, 202}


# -- who is one client


def test_a_subject_is_one_client_and_does_not_stand_for_its_address(serve, tokens):
    server = serve(Limits(client_parked=1), tokens=tokens)
    server.park("/poll/a?after=now", bearer("alice"))
    assert kind(server.get("/poll/a?after=now", bearer("alice"))) == TOO_MANY
    server.park("/poll/a?after=now", bearer("bob"))
    server.park("/poll/a?after=now", bearer())
    assert kind(server.get("/poll/a?after=now", bearer())) == TOO_MANY


def test_who_may_not_come_in_is_told_that_and_counts_for_nothing(serve, tokens):
    server = serve(Limits(client_pushes=1), tokens=tokens)
    for _ in range(3 * BURST):
        assert server.ask("POST", "/push/a", "hi").status == 401
    assert server.push("/a", headers=bearer()).status == 202


# -- behind a proxy


def test_behind_a_trusted_proxy_each_client_is_counted_by_itself(serve):
    server = serve(Limits(client_parked=1), proxied=["127.0.0.1"])
    server.park("/poll/a?after=now", {"X-Forwarded-For": "192.0.2.1"})
    assert kind(server.get("/poll/a?after=now", {"X-Forwarded-For": "192.0.2.1"})) == TOO_MANY
    assert kind(server.get("/poll/a?after=now", {"X-Forwarded-For": "6.6.6.6, 192.0.2.1"})) == TOO_MANY
    lines = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "192.0.2.1")]
    assert kind(server.get("/poll/a?after=now", lines)) == TOO_MANY
    server.park("/poll/a?after=now", {"Forwarded": "for=192.0.2.2"})
    server.park("/poll/a?after=now", {"Forwarded": 'for="[2001:db8::1]:5"'})
    assert kind(server.get("/poll/a?after=now", {"Forwarded": 'for="[2001:db8::2]"'})) == TOO_MANY


def test_a_client_that_comes_without_a_trusted_proxy_cannot_be_another_one(serve):
    server = serve(Limits(client_parked=1))
    server.park("/poll/a?after=now", {"X-Forwarded-For": "192.0.2.1"})
    assert kind(server.get("/poll/a?after=now", {"X-Forwarded-For": "192.0.2.2"})) == TOO_MANY


def test_behind_a_proxy_that_ends_tls_the_secure_origin_is_ones_own(serve):
    server = serve(proxied=["127.0.0.1"])
    https, http = {"Origin": "https://localhost:8080"}, {"Origin": "http://localhost:8080"}
    secure = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
    assert server.ask("POST", "/push/a", "hi", https | secure).status == 202
    assert server.ask("POST", "/push/a", "hi", http | secure).status == 403, "not the page that was secured"
    assert server.ask("POST", "/push/a", "hi", http).status == 202
    assert (
        server.get("/poll/a?wait=0", https | secure).headers["access-control-allow-origin"] == https["Origin"]
    )


def test_a_scheme_that_no_trusted_proxy_has_named_changes_nothing(serve):
    server = serve()
    http = {"Origin": "http://localhost:8080", "X-Forwarded-Proto": "https", "Forwarded": "proto=https"}
    assert server.ask("POST", "/push/a", "hi", http).status == 202


def test_a_browsers_cookie_is_for_tls_only_where_a_trusted_proxy_ended_it(serve):
    message = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    server = serve(proxied=["127.0.0.1"])
    secure = server.ask(
        "POST", "/cometd", msgspec.json.encode([message]), JSON | {"Forwarded": "proto=https"}
    )
    plain = server.ask("POST", "/cometd", msgspec.json.encode([message]), JSON)
    assert "; Secure" in secure.headers["set-cookie"]
    assert "; Secure" not in plain.headers["set-cookie"]
