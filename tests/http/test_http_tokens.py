"""HTTP.md, "Tokens", over HTTP: what each door asks for, who gets through, and when it closes again."""

from __future__ import annotations

import gc
import hashlib
import hmac
import tracemalloc
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from exchanges import STARTED, Answer, Server
from jwt.utils import base64url_encode
from twisted.internet.defer import Deferred, fail, succeed
from wires import Connection, Stream, WebSocket

from cometd_lite.access.origins import Hosts
from cometd_lite.access.tokens import Tokens

SECRET = b"a secret of at least thirty-two bytes"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
JSON = {"Content-Type": "application/json"}


def token(seconds: float | None = None, **claims: Any) -> str:
    """Return a token that is good for so many seconds from the beginning."""
    if seconds is not None:
        claims["exp"] = STARTED + seconds
    return jwt.encode(claims, SECRET, "HS256")


def bearer(seconds: float | None = None, **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(seconds, **claims)}"}


ALL = bearer(push=["**"], poll=["**"], manage=["**"])


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return the file with the server's key."""
    file = tmp_path / "key"
    file.write_bytes(SECRET)
    return file


@pytest.fixture
def server(serve, keys) -> Server:
    """Return a server that asks for tokens."""
    made: Server = serve()
    made.comet.routes.policy.tokens = Tokens([keys], wall=made.comet.hub.wall)
    return made


def kind(answer) -> tuple[int, str]:
    return answer.status, answer.json["type"].rpartition(":")[2]


def test_a_body_over_the_bound_is_refused_before_the_token_is_looked_at(server):
    answer = server.ask("POST", "/push/bob", "x" * (server.comet.routes.limits.max_body + 1))
    assert kind(answer) == (413, "body-too-large")


# -- every door

DOORS = [
    ("POST", "/push/bob"),
    ("POST", "/push?rcpt=bob"),
    ("POST", "/push?to=listeners"),
    ("GET", "/poll/bob?wait=0"),
    ("HEAD", "/poll/bob"),
    ("GET", "/poll?rcpt=bob&after=oldest&wait=0"),
    ("GET", "/stream/bob"),
    ("HEAD", "/stream/bob"),
    ("GET", "/stream?rcpt=bob"),
    ("GET", "/ws/bob"),
    ("GET", "/ws?rcpt=bob"),
    ("POST", "/register"),
    ("GET", "/recipients/bob"),
    ("DELETE", "/recipients/bob"),
    ("GET", "/recipients?prefix=bob"),
]
GUARDED = [(method, target) for method, target in DOORS if target != "/register"]
doors = pytest.mark.parametrize(("method", "target"), DOORS)


@doors
def test_every_door_is_closed_without_a_token(server, method, target):
    answer = server.ask(method, target, "hi" if "push" in target else "")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["cache-control"] == "no-store"
    if method != "HEAD":
        assert kind(answer) == (401, "unauthorized")


@pytest.mark.parametrize(("method", "target"), GUARDED)
def test_every_door_is_closed_to_a_token_that_does_not_cover_it(server, method, target):
    other = bearer(push=["alice"], poll=["alice"], manage=["alice"])
    answer = server.ask(method, target, "hi" if "push" in target else "", other)
    assert answer.status == 403
    assert "www-authenticate" not in answer.headers
    if method != "HEAD":
        assert kind(answer) == (403, "forbidden")


@pytest.mark.parametrize("target", ["/push/bob", "/register"])
def test_whose_token_does_not_hold_is_told_so_and_nothing_about_the_body(server, target):
    assert kind(server.ask("POST", target, "{", JSON)) == (401, "unauthorized")
    assert kind(server.ask("POST", target, "{", JSON | ALL)) == (400, "bad-body")
    half = bearer(push=["alice"], poll=["alice"])
    assert kind(server.ask("POST", "/push/bob", "{", JSON | half)) == (403, "forbidden")


@pytest.mark.parametrize("claims", [{"sub": 7}, {"sub": None}, {"jti": 7}, {"nbf": STARTED + 9}])
def test_a_token_with_a_number_as_subject_or_a_fast_clock_is_a_good_one(server, claims):
    signed = jwt.api_jws.encode(msgspec.json.encode({"poll": ["bob"], **claims}), SECRET, "HS256")
    assert server.get("/poll/bob?wait=0", {"Authorization": f"Bearer {signed}"}).status == 200


def test_idempotency_keys_of_subjects_that_are_numbers_are_different_keys(server):
    def push(subject: int, body: str) -> Answer:
        claims = msgspec.json.encode({"push": ["bob"], "sub": subject})
        signed = jwt.api_jws.encode(claims, SECRET, "HS256")
        return server.push("/bob", body, {"Authorization": f"Bearer {signed}", "Idempotency-Key": "1"})

    first = push(7, "of 7")
    assert push(8, "of 8").json["id"] != first.json["id"]
    assert push(7, "of 7").json["id"] == first.json["id"]


@pytest.mark.parametrize(
    "target", ["/healthz", "/metrics", "/openapi.json", "/", "/client.js", "/client.d.ts"]
)
def test_what_carries_no_messages_asks_for_no_token(server, target):
    assert server.get(target).status == 200


def test_openapi_says_that_tokens_are_needed(server):
    document = server.get("/openapi.json").json
    assert document["components"]["securitySchemes"].keys() == {"bearer", "token"}


def test_an_empty_mailbox_and_a_full_one_are_refused_alike(server):
    nobody = server.get("/recipients/nobody", bearer(poll=["alice"]))
    server.push("/bob", headers=ALL)
    assert kind(server.get("/recipients/bob", bearer(poll=["alice"]))) == kind(nobody) == (403, "forbidden")


# -- getting through


def test_a_token_lets_push_and_poll_as_its_claims_say(server):
    receipt = server.push("/chat/a", "hi", bearer(push=["chat/*"]))
    assert receipt.status == 202
    assert server.read("/poll/chat/a?after=oldest", bearer(poll=["chat/*"])) == ["hi"]
    assert kind(server.get("/poll/chat/a?wait=0", bearer(push=["chat/*"]))) == (403, "forbidden")
    assert kind(server.ask("POST", "/push/chat/a", "hi", bearer(poll=["**"]))) == (403, "forbidden")


def test_to_delete_is_to_manage(server):
    assert server.ask("DELETE", "/recipients/bob", headers=bearer(push=["**"], poll=["**"])).status == 403
    assert server.ask("DELETE", "/recipients/bob", headers=bearer(manage=["bob"])).status == 204


def test_all_recipients_of_a_request_must_be_covered(server):
    half = bearer(push=["alice"], poll=["alice"])
    for method, target in (
        ("POST", "/push?rcpt=alice&rcpt=bob"),
        ("GET", "/poll?rcpt=alice&rcpt=bob&wait=0"),
        ("GET", "/stream?rcpt=alice&rcpt=bob"),
    ):
        assert kind(server.ask(method, target, "hi", half)) == (403, "forbidden"), target
    assert server.get("/recipients/alice", ALL).json["queued"] == 0


def test_a_token_in_the_query_is_as_good(server):
    assert server.push(f"/bob?token={token(push=['bob'])}").status == 202
    assert server.read(f"/poll/bob?after=oldest&token={token(poll=['bob'])}") == ["hello"]
    stream = Stream(server, f"/stream/bob?token={token(poll=['bob'])}")
    socket = WebSocket(server, f"/ws/bob?token={token(poll=['bob'])}")
    assert stream.status == 200
    assert socket.read() == []
    stream.hang_up()
    socket.hang_up()


def test_the_header_goes_before_the_query(server):
    bad = server.get(f"/poll/bob?wait=0&token={token(poll=['bob'])}", {"Authorization": "Bearer nonsense"})
    assert bad.status == 401


def test_a_token_in_the_query_is_given_once(server):
    good = token(poll=["bob"])
    answer = server.get(f"/poll/bob?wait=0&token={good}&token={good}")
    assert kind(answer) == (400, "bad-parameter")


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer  "])
def test_the_scheme_is_of_any_case(server, scheme):
    headers = {"Authorization": f"{scheme} {token(poll=['bob'])}"}
    assert server.get("/poll/bob?wait=0", headers).status == 200


# -- the battery


def bad_tokens() -> dict[str, str]:
    claims = {"poll": ["**"]}
    header, body, _ = token(poll=["**"]).split(".")
    return {
        "alg none": jwt.encode(claims, None, "none"),
        "another algorithm": jwt.encode(claims, SECRET * 2, "HS512"),
        "another secret": jwt.encode(claims, b"x" * 40, "HS256"),
        "no signature": f"{header}.{body}.",
        "wrong audience": token(poll=["**"], aud="them"),
        "expired": token(-1, poll=["**"]),
        "not yet valid": token(poll=["**"], nbf=STARTED + 60),
        "kid traversal": jwt.encode(claims, b"x" * 40, "HS256", headers={"kid": "../../../dev/null"}),
        "oversized": token(poll=["**"], pad="x" * 7_900),
        "push of text": token(poll=["**"], push="x"),
        "poll of text": token(poll="**"),
        "poll of numbers": token(poll=[1]),
        "manage of an object": token(poll=["**"], manage={}),
        "nonsense": "nonsense",
        "dots": "...",
        "spaces": "a b c",
    }


@pytest.mark.parametrize("name", bad_tokens())
def test_a_bad_token_opens_nothing(server, name):
    answer = server.get("/poll/bob?wait=0", {"Authorization": f"Bearer {bad_tokens()[name]}"})
    assert kind(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic dTpw", "Bearer\xe9", "Token x", "Bearer \xff.\xff.\xff"]
)
def test_a_header_that_is_no_token_opens_nothing(server, value):
    assert kind(server.get("/poll/bob?wait=0", {"Authorization": value})) == (401, "unauthorized")


@pytest.mark.parametrize("query", ["token=", "token", "token=%00", "token=a%2Eb", "token=%F0%9F%92%A9"])
def test_a_query_without_a_token_opens_nothing(server, query):
    assert kind(server.get(f"/poll/bob?wait=0&{query}")) == (401, "unauthorized")


def test_the_public_key_is_no_secret(server, keys):
    keys.write_bytes(PUBLIC)
    server.comet.routes.policy.tokens.reload()
    signed = b".".join(
        base64url_encode(msgspec.json.encode(part))
        for part in ({"alg": "HS256", "typ": "JWT"}, {"poll": ["**"]})
    )
    forged = signed + b"." + base64url_encode(hmac.digest(PUBLIC, signed, hashlib.sha256))
    answer = server.get("/poll/bob?wait=0", {"Authorization": f"Bearer {forged.decode()}"})
    assert kind(answer) == (401, "unauthorized")
    good = jwt.encode({"poll": ["bob"]}, KEY, "RS256")
    assert server.get("/poll/bob?wait=0", {"Authorization": f"Bearer {good}"}).status == 200


@pytest.mark.parametrize(
    ("claim", "target"),
    [
        ("chat/*", "/poll/chat/a/b"),
        ("chat/*", "/poll/chat%2Fa%2Fb"),
        ("chat/*", "/poll/chat/a%2Fb"),
        ("chat/*", "/poll/chat"),
        ("chat/*", "/poll/chat/**?after=oldest"),
        ("chat/*", "/poll/**?after=oldest"),
        ("chat/*", "/poll/*?after=oldest"),
        ("chat/*", "/poll/Chat/a"),
        ("chat/*", "/poll/chats/a"),
        ("chat/*", "/poll/chat%252Fa"),
        ("chat/**", "/poll/chat"),
        ("chat/**", "/poll/chatter/a"),
        ("*", "/poll/a/b"),
        ("*", "/poll/a%2Fb"),
        ("bob", "/poll/BOB"),
        ("bob", "/poll/bob%20"),
        ("bob", "/poll/b%EF%BD%8Fb"),
        ("caf%C3%A9", "/poll/cafe%CC%81"),
        ("fi", "/poll/%EF%AC%81"),
    ],
)
def test_a_claim_does_not_cover_what_only_looks_alike(server, claim, target):
    separator = "&" if "?" in target else "?"
    answer = server.get(f"{target}{separator}wait=0", bearer(poll=[claim.replace("%C3%A9", "\u00e9")]))
    assert kind(answer) == (403, "forbidden")


@pytest.mark.parametrize(
    "target", ["/poll/chat/..", "/poll/chat/../bob", "/poll/chat%2F..%2Fbob", "/poll/chat//bob"]
)
def test_a_name_that_climbs_is_no_name(server, target):
    assert kind(server.get(f"{target}?wait=0", bearer(poll=["chat/**"])))[0] in {400, 403}


def test_where_an_audience_is_asked_for_tokens_must_name_it(server, keys):
    server.comet.routes.policy.tokens = Tokens([keys], audience="us", wall=server.comet.hub.wall)
    assert server.get("/poll/bob?wait=0", bearer(poll=["bob"], aud="us")).status == 200
    for words in ({}, {"aud": "them"}, {"aud": []}):
        assert server.get("/poll/bob?wait=0", bearer(poll=["bob"], **words)).status == 401


def test_the_refusal_tells_nothing_of_the_token(server):
    secret = token(poll=["alice"], sub="Malory")
    answer = server.get("/poll/bob?wait=0", {"Authorization": f"Bearer {secret}"})
    assert secret.encode() not in answer.body
    assert b"alice" not in answer.body
    assert b"Malory" not in answer.body


# -- when the token ends


def test_a_parked_poll_ends_when_its_token_does(server):
    poll = server.park("/poll/bob?after=now&wait=60", bearer(5, poll=["bob"]))
    server.advance(4)
    assert poll.answer is None
    server.advance(1)
    assert (poll.answer.status, poll.answer.json["messages"]) == (200, [])
    assert kind(server.get("/poll/bob?wait=0", bearer(5, poll=["bob"]))) == (401, "unauthorized")


def test_a_parked_take_ends_too_and_takes_nothing_after(server):
    poll = server.park("/poll/bob?wait=60", bearer(5, poll=["bob"]))
    server.advance(5)
    assert poll.answer.json["messages"] == []
    assert server.push("/bob", headers=ALL).json["delivered"] == 0


def test_a_stream_ends_when_its_token_does(server):
    stream = Stream(server, "/stream/bob", bearer(5, poll=["bob"]))
    server.push("/bob", "in time", headers=ALL)
    server.advance(5)
    server.push("/bob", "too late", headers=ALL)
    stream.turn()
    assert stream.data == ["in time"]
    assert stream.ended


def test_a_socket_ends_when_its_token_does(server):
    socket = WebSocket(server, "/ws/bob", bearer(5, poll=["bob"]))
    server.push("/bob", "in time", headers=ALL)
    server.advance(5)
    server.push("/bob", "too late", headers=ALL)
    socket.turn()
    assert socket.data == ["in time"]
    assert socket.goodbye == (1008, "the token has expired")


def test_who_leaves_before_leaves_no_timer(server):
    stream = Stream(server, "/stream/bob", bearer(500, poll=["bob"]))
    socket = WebSocket(server, "/ws/bob", bearer(500, poll=["bob"]))
    for connection in (stream, socket):
        connection.hang_up()
    assert server.parked == 0
    # That no timer is left is what ``serve`` looks for.


def test_a_token_known_to_the_server_expires_as_any(server):
    headers = bearer(5, poll=["bob"])
    assert server.get("/poll/bob?wait=0", headers).status == 200
    server.advance(5)
    assert kind(server.get("/poll/bob?wait=0", headers)) == (401, "unauthorized")


def test_keys_that_are_read_again_close_the_door_to_old_tokens(server, keys):
    assert server.get("/poll/bob?wait=0", ALL).status == 200
    keys.write_bytes(b"another secret of thirty-two bytes")
    server.comet.routes.policy.tokens.reload()
    assert kind(server.get("/poll/bob?wait=0", ALL)) == (401, "unauthorized")


# -- sockets


def test_a_push_over_a_socket_needs_its_own_claim(server):
    socket = WebSocket(server, "/ws/bob", bearer(poll=["bob"], push=["alice"]))
    assert socket.push(push="alice", data="hi", ref=1)["receipt"]["recipients"] == ["alice"]
    refused = socket.push(push="bob", data="hi", ref=2)
    assert (refused["ref"], refused["error"]["status"]) == (2, 403)
    assert socket.push(push=["alice", "bob"], data="hi", ref=3)["error"]["status"] == 403
    assert socket.data == []
    socket.hang_up()


@pytest.mark.parametrize("target", ["/ws/bob", "/stream/bob"])
def test_a_refused_socket_or_stream_is_an_answer_like_any(server, target):
    connection = Connection(server)
    connection.request("GET", target)
    assert connection.status == 401
    assert connection.headers["www-authenticate"] == "Bearer"
    assert connection.problem["type"] == "urn:cometd-lite:problem:unauthorized"


# -- listeners


def register(server, headers, *recipients):
    body = msgspec.json.encode({"recipients": list(recipients)})
    return server.ask("POST", "/register", body, {**JSON, **headers})


def test_who_registers_must_be_allowed_to_poll_all_of_it(server):
    some = bearer(poll=["chat/*"])
    assert register(server, some, "chat/a", "chat/*").status == 201
    assert kind(register(server, some, "chat/a", "bob")) == (403, "forbidden")
    assert kind(register(server, some, "**")) == (403, "forbidden")
    assert kind(register(server, {}, "chat/a")) == (401, "unauthorized")


def test_a_listeners_id_is_not_enough(server):
    some = bearer(poll=["chat/*"])
    listener = register(server, some, "chat/a").json["id"]
    for method, target in (
        ("GET", f"/poll?listener={listener}&wait=0"),
        ("GET", f"/listeners/{listener}"),
        ("PUT", f"/listeners/{listener}"),
        ("DELETE", f"/listeners/{listener}"),
    ):
        assert kind(server.ask(method, target)) == (401, "unauthorized")
        assert kind(server.ask(method, target, headers=bearer(poll=["bob"]))) == (403, "forbidden")
    change = msgspec.json.encode({"recipients": ["bob"]})
    assert kind(server.ask("PUT", f"/listeners/{listener}", change, some)) == (403, "forbidden")
    assert server.get(f"/listeners/{listener}", some).json["recipients"] == ["chat/a"]
    assert server.ask("DELETE", f"/listeners/{listener}", headers=some).status == 204


def test_what_is_pushed_to_all_listeners_needs_the_right_to_read_it(server):
    some, all_ = bearer(poll=["chat/*", "**"]), bearer(poll=["chat/*", "$listeners"])
    reader = register(server, some, "chat/a").json["id"]
    hearer = register(server, all_, "chat/a").json["id"]
    pusher = bearer(push=["**"])
    assert kind(server.ask("POST", "/push?to=listeners", "all", pusher)) == (403, "forbidden")
    assert server.ask("POST", "/push?to=listeners", "all", bearer(push=["$listeners"])).status == 202
    server.push("/chat/a", "one", pusher)
    for listener, headers, heard in ((reader, some, ["one"]), (hearer, all_, ["all", "one"])):
        assert server.read(f"/poll?listener={listener}", headers) == heard


def test_who_may_only_push_hears_nothing_by_a_listener_without_recipients(server):
    some = bearer(push=["bob"])
    listener = register(server, some).json["id"]
    server.ask("POST", "/push?to=listeners", "all", bearer(push=["$listeners"]))
    assert server.read(f"/poll?listener={listener}&wait=0", some) == []


def test_a_listeners_parked_poll_ends_when_its_token_does(server):
    listener = register(server, ALL, "bob").json["id"]
    poll = server.park(f"/poll?listener={listener}&wait=60", bearer(5, poll=["bob"]))
    server.advance(5)
    assert poll.answer.json["messages"] == []


# -- Bayeux


def bayeux(server, headers, *messages):
    answer = server.ask("POST", "/cometd", msgspec.json.encode(messages), {**JSON, **headers})
    assert answer.status == 200
    return answer.json


HANDSHAKE = {
    "channel": "/meta/handshake",
    "version": "1.0",
    "supportedConnectionTypes": ["long-polling"],
    "id": "1",
}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, bearer(-1, poll=["**"])])
def test_a_handshake_needs_a_good_token(server, headers):
    (reply,) = bayeux(server, headers, HANDSHAKE)
    assert reply["successful"] is False
    assert reply["error"].startswith("401:")
    assert "clientId" not in reply


def test_subscriptions_and_publications_need_their_claims(server):
    headers = bearer(poll=["chat/*"], push=["chat/a"])
    (handshake,) = bayeux(server, headers, HANDSHAKE)
    client = {"clientId": handshake["clientId"]}
    for channel, claim in (("/chat/a", True), ("/chat/*", True), ("/chat/**", False), ("/**", False)):
        subscribe = {"channel": "/meta/subscribe", "subscription": channel, **client}
        (reply,) = bayeux(server, headers, subscribe)
        assert reply["successful"] is claim, channel
        assert claim or reply["error"].startswith("403:")
    for channel, claim in (("/chat/a", True), ("/chat/b", False), ("/chat/a/b", False)):
        told = bayeux(server, headers, {"channel": channel, "data": "hi", **client})
        (reply,) = [message for message in told if "successful" in message]
        assert reply["successful"] is claim, channel


# -- an embedding program's own word


@pytest.mark.parametrize("later", [False, True])
def test_an_embedding_program_may_judge_instead(serve, later):
    asked = []

    def authorize(request, action, name) -> bool | Deferred[bool]:
        asked.append((action, name))
        verdict = name != "bob"
        return succeed(verdict) if later else verdict

    server = serve(authorize=authorize)
    assert server.push("?rcpt=alice&rcpt=carol").status == 202
    assert asked == [("push", "alice"), ("push", "carol")]
    assert kind(server.ask("POST", "/push/bob", "hi")) == (403, "forbidden")
    assert kind(server.get("/poll/bob?wait=0")) == (403, "forbidden")


def test_an_embedding_program_judges_what_bayeux_clients_do_too(serve):
    server = serve(authorize=lambda request, action, name: name != "bob")
    (greeted,) = server.ask("POST", "/cometd", msgspec.json.encode([HANDSHAKE]), JSON).json
    assert greeted["successful"] is True
    for channel, is_allowed in (("/alice", True), ("/bob", False)):
        batch = [
            {"channel": "/meta/subscribe", "clientId": greeted["clientId"], "subscription": channel},
            {"channel": channel, "clientId": greeted["clientId"], "data": "hi"},
        ]
        told = server.ask("POST", "/cometd", msgspec.json.encode(batch), JSON).json
        replies = [reply for reply in told if "successful" in reply]
        assert [reply["successful"] for reply in replies] == [is_allowed] * 2


def test_a_judge_that_fails_lets_no_request_in(serve, expected_failures):
    expected_failures.append(ZeroDivisionError)
    server = serve(authorize=lambda request, action, name: fail(ZeroDivisionError()))
    assert server.ask("POST", "/push/bob", "hi").status == 500


def test_the_judge_and_the_token_must_both_agree(serve, keys):
    server = serve(authorize=lambda request, action, name: name == "bob")
    server.comet.routes.policy.tokens = Tokens([keys], wall=server.comet.hub.wall)
    assert server.push("/bob", headers=ALL).status == 202
    assert server.ask("POST", "/push/alice", "hi", ALL).status == 403
    assert server.ask("POST", "/push/bob", "hi", bearer(push=["alice"])).status == 403
    assert server.ask("POST", "/push/bob", "hi").status == 401


def test_a_token_shows_that_no_foreign_page_takes(serve, keys):
    server = serve(hosts=Hosts())
    server.comet.routes.policy.tokens = Tokens([keys], wall=server.comet.hub.wall)
    browser = {"User-Agent": "Mozilla/5.0", "Host": "comet.example"}
    assert server.get(f"/poll/bob?wait=0&token={token(poll=['bob'])}", browser).status == 200
    assert kind(server.get("/poll/bob?wait=0", browser)) == (401, "unauthorized")


@pytest.mark.slow
def test_a_flood_of_long_tokens_that_are_none_keeps_little_memory(server):
    def ask(number: int) -> None:
        answer = server.get("/poll/bob?after=now", {"Authorization": f"Bearer {number:08000d}"})
        assert kind(answer) == (401, "unauthorized")

    ask(0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(600):
        ask(number)
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept < 4_000_000
