"""HTTP.md, "Namespaces": other bounds for the recipients of a pattern, over HTTP, sockets and Bayeux."""

from __future__ import annotations

import jwt
import pytest
from exchanges import by_serving
from wires import WebSocket, leave

from cometd_lite.access.tokens import Tokens
from cometd_lite.comet import Comet
from cometd_lite.core.namespaces import Namespace
from cometd_lite.limits import Limits

JSON = {"Content-Type": "application/json"}
SECRET = b"a secret of at least thirty-two bytes"


@pytest.fixture(autouse=True)
def everyone_leaves(serve):
    yield
    leave()


@pytest.fixture
def server(serve):
    return serve(
        Limits(capacity=3, max_body=100),
        namespaces={
            "chat/**": Namespace(capacity=2, overflow="drop-oldest", ttl=60, max_body=10),
            "chat/old/*": Namespace(ttl=600),
            "uploads/*": Namespace(max_body=5_000),
        },
    )


def test_a_full_mailbox_does_what_its_namespace_says(server):
    for text in ("1", "2", "3"):
        assert server.push("/chat/a", text).status == 202
    assert server.read("/poll/chat/a?after=oldest") == ["2", "3"]
    for text in ("1", "2", "3"):
        server.push("/bob", text)
        server.push("/chat/old/a", text)
    for full in ("bob", "chat/old/a"):
        refused = server.ask("POST", f"/push/{full}", "4")
        assert (refused.status, refused.json["type"]) == (503, "urn:cometd-lite:problem:mailbox-full")


def test_a_push_may_say_otherwise(server):
    server.push("/chat/a", "1")
    server.push("/chat/a", "2")
    assert server.ask("POST", "/push/chat/a?overflow=reject", "3").status == 503
    server.push("/chat/b?ttl=10", "1")
    server.advance(11)
    assert server.read("/poll/chat/b?after=oldest&wait=0") == []


def test_messages_of_a_namespace_have_a_time_of_their_own(server):
    for name in ("chat/a", "chat/old/a", "bob"):
        server.push(f"/{name}?ttl=86400", "1")
    kept = []
    for seconds in (59, 2, 540):
        server.advance(seconds)
        names = ("chat/a", "chat/old/a", "bob")
        kept.append([len(server.read(f"/poll/{name}?after=oldest&wait=0")) for name in names])
    assert kept == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("recipients", "most"),
    [("/chat/a?", 10), ("/bob?", 100), ("/uploads/a?", 5_000), ("?rcpt=chat/a&rcpt=uploads/a&", 10)],
)
def test_a_body_is_bounded_by_its_namespace(server, recipients, most):
    assert server.ask("POST", f"/push{recipients}", "x" * most).status == 202
    refused = server.ask("POST", f"/push{recipients}", "x" * (most + 1))
    assert (refused.status, refused.json["type"]) == (413, "urn:cometd-lite:problem:body-too-large")
    assert f"{most} bytes" in refused.json["detail"]


def test_the_lines_of_a_body_are_bounded_together(server):
    lines = {"Content-Type": "application/x-ndjson"}
    assert server.ask("POST", "/push/chat/a", "12345\n12345", lines).status == 413
    assert server.ask("POST", "/push/chat/a", "1234\n12345", lines).status == 202


@pytest.mark.parametrize(
    ("recipients", "most"), [("/chat/a", 10), ("/bob", 100), ("?rcpt=chat/a&rcpt=uploads/a", 10)]
)
@pytest.mark.parametrize("expects", ["", "Expect: 100-continue\r\n"])
def test_a_body_over_the_bound_of_its_namespace_is_refused_before_it_comes(clock, recipients, most, expects):
    # Only by the project's own server: twisted.web reads a body before it asks what to do with it.
    spaces = {"chat/**": Namespace(max_body=10), "uploads/*": Namespace(max_body=5_000)}
    driver = by_serving(Comet(clock=clock, limits=Limits(max_body=100), namespaces=spaces))
    head = f"POST /push{recipients} HTTP/1.1\r\nHost: localhost\r\n{expects}"
    for length in (f"Content-Length: {most + 1}\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"):
        exchange = driver.connect("POST")
        exchange.write(f"{head}{length}".encode())
        if "chunked" in length:
            exchange.write(f"{most + 1:x}\r\n".encode() + b"x" * most + b"x")
        assert exchange.answer.status == 413
        assert f"at most {most} bytes" in exchange.answer.json["detail"]
    exchange = driver.connect("POST")
    exchange.write(f"{head}Content-Length: {most}\r\n\r\n".encode())
    exchange.write(b"x" * most)
    assert exchange.answer.status == 202


@pytest.mark.parametrize("length", ["Content-Length: 11", "Transfer-Encoding: chunked"])
def test_the_bound_of_a_namespace_is_told_to_no_client_that_may_not_push_there(clock, tmp_path, length):
    (tmp_path / "key").write_bytes(SECRET)
    comet = Comet(
        clock=clock,
        limits=Limits(max_body=100),
        namespaces={"chat/**": Namespace(max_body=10)},
        tokens=Tokens([tmp_path / "key"]),
    )
    body = "b\r\n12345678901\r\n0\r\n\r\n" if "chunked" in length else "12345678901"
    for claims, status in ((None, 401), ({"push": ["bob"]}, 403), ({"push": ["chat/*"]}, 413)):
        exchange = by_serving(comet).connect("POST")
        token = "" if claims is None else f"Authorization: Bearer {jwt.encode(claims, SECRET)}\r\n"
        exchange.write(f"POST /push/chat/a HTTP/1.1\r\nHost: localhost\r\n{token}{length}\r\n\r\n".encode())
        exchange.write(body.encode())
        assert exchange.answer.status == status


def test_where_a_program_is_asked_it_is_asked_before_a_body_is_too_large(clock):
    spaces = {"chat/**": Namespace(max_body=10)}
    comet = Comet(
        clock=clock,
        limits=Limits(max_body=100),
        namespaces=spaces,
        authorize=lambda *asked: asked[2] == "chat/a",
    )
    for name, status in (("chat/a", 413), ("chat/b", 403)):
        exchange = by_serving(comet).connect("POST")
        exchange.write(
            f"POST /push/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n".encode()
        )
        exchange.write(b"12345678901")
        assert exchange.answer.status == status


def test_what_is_pushed_over_a_socket_is_bounded_by_its_namespace(server):
    socket = WebSocket(server, "/ws/bob")
    for name, size, status in (("chat/a", 11, 413), ("bob", 101, 413), ("uploads/a", 2_000, None)):
        answer = socket.push(push=name, data="x" * size)
        assert answer.get("error", {}).get("status") == status


def test_what_is_published_by_bayeux_is_bounded_by_its_namespace(server):
    def publish(channel: str, data: str) -> dict:
        body = f'[{{"channel": "{channel}", "data": "{data}", "clientId": "{client}", "id": "1"}}]'
        return server.ask("POST", "/cometd", body, JSON).json[0]

    body = '[{"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}]'
    client = server.ask("POST", "/cometd", body, JSON).json[0]["clientId"]
    assert publish("/chat/a", "x" * 8)["successful"]
    assert publish("/uploads/a", "x" * 1_000)["successful"]
    for channel, size in (("/chat/a", 9), ("/bob", 99)):
        assert publish(channel, "x" * size)["error"].startswith("413:")


def test_the_interfaces_description_names_the_largest_body(server):
    schema = server.get("/openapi.json").json["paths"]["/push"]["post"]["requestBody"]
    assert "5000" in str(schema) or "5,000" in str(schema)
