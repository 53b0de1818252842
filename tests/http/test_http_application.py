"""HTTP.md, "Your application's word", over HTTP: what each route asks, and what comes of the answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from applications import FakeApplication, said
from exchanges import Server
from wires import Stream, WebSocket, leave

from cometd_lite.access.application import Authorizer
from cometd_lite.access.origins import Hosts
from cometd_lite.access.tokens import Tokens
from cometd_lite.limits import APPLICATION_QUESTIONS, APPLICATION_QUESTIONS_SHARE, Limits

SECRET = b"a secret of at least thirty-two bytes"
COOKIE = {"Cookie": "session=alice"}
JSON = {"Content-Type": "application/json"}
HANDSHAKE = {
    "channel": "/meta/handshake",
    "version": "1.0",
    "supportedConnectionTypes": ["long-polling", "websocket"],
}


@pytest.fixture(autouse=True)
def everybody_leaves(serve: Any) -> Iterator[None]:
    yield
    leave()


def asking(server: Server, answer: Any = None) -> FakeApplication:
    """Let a server ask an application, which answers each question by what ``answer`` makes of it."""
    application = FakeApplication(answer or (lambda _: said()))
    server.comet.routes.policy.application = Authorizer(application, "http://app.example", server.clock)
    return application


@pytest.fixture
def server(serve: Any) -> Server:
    made: Server = serve(presence=True)
    return made


def kind(answer: Any) -> tuple[int, str]:
    return answer.status, answer.json["type"].rpartition(":")[2]


ROUTES = [
    ("POST", "/push/bob", "push", ["bob"]),
    ("POST", "/push?rcpt=bob&rcpt=carol", "push", ["bob", "carol"]),
    ("POST", "/push?to=listeners", "push", ["$listeners"]),
    ("GET", "/poll/bob?wait=0", "poll", ["bob"]),
    ("HEAD", "/poll/bob", "poll", ["bob"]),
    ("GET", "/poll?rcpt=bob&rcpt=chat/*&after=oldest&wait=0", "poll", ["bob", "chat/*"]),
    ("GET", "/poll?rcpt=bob&rcpt=$presence/bob&after=oldest&wait=0", "poll", ["bob"]),
    ("GET", "/stream/bob", "poll", ["bob"]),
    ("GET", "/ws/bob", "poll", ["bob"]),
    ("POST", "/register", "poll", []),
    ("GET", "/recipients/bob", "poll", ["bob"]),
    ("DELETE", "/recipients/bob", "manage", ["bob"]),
    ("GET", "/recipients?prefix=chat/", "manage", ["chat/**"]),
    ("GET", "/presence/bob", "poll", ["bob"]),
    ("DELETE", "/presence/bob?as=alice", "poll", ["bob"]),
    ("GET", "/poll/$presence/bob?after=oldest&wait=0", "poll", ["bob"]),
    ("GET", "/recipients?prefix=chat/lo", "manage", ["chat/**"]),
]
routes = pytest.mark.parametrize(("method", "target", "action", "names"), ROUTES)


@routes
@pytest.mark.parametrize(("status", "problem"), [(401, "unauthorized"), (403, "forbidden")])
def test_each_route_asks_and_is_refused_with_the_same_status(
    server: Server, method: str, target: str, action: str, names: list[str], status: int, problem: str
) -> None:
    application = asking(server, lambda _: said(status))
    answer = server.ask(method, target, "hi" if "push" in target else "", COOKIE)
    assert answer.status == status
    if method != "HEAD":
        assert kind(answer) == (status, problem)
    (asked,) = application.asked
    assert (asked["action"], asked["recipients"], asked["cookie"]) == (action, names, "session=alice")
    assert asked["address"]


@routes
def test_without_an_answer_each_route_is_closed(
    server: Server, method: str, target: str, action: str, names: list[str]
) -> None:
    application = asking(server, lambda _: None)
    exchange = server.send(method, target, "hi" if "push" in target else "", COOKIE)
    assert exchange.answer is None
    application.fail()
    server.advance(0)
    assert exchange.answer is not None
    assert exchange.answer.status == 503
    assert int(exchange.answer.headers["retry-after"]) >= 1
    if method != "HEAD":
        assert kind(exchange.answer) == (503, "application-down")


def test_what_is_asked_for_happens_once_it_is_allowed_and_not_before(server: Server) -> None:
    application = asking(server, lambda _: None)
    push = server.send("POST", "/push/bob", "hi")
    assert server.comet.hub.store.usage().messages == 0
    application.reply(said())
    server.advance(0)
    assert push.answer.status == 202
    poll = server.send("GET", "/poll/bob?wait=60")
    assert server.parked == 0
    application.reply(said())
    server.advance(0)
    assert poll.answer.json["messages"][0]["data"] == "hi"


def test_a_client_that_disconnects_while_it_is_asked_about_does_nothing(server: Server) -> None:
    application = asking(server, lambda _: None)
    push, poll = server.send("POST", "/push/bob", "hi"), server.send("GET", "/poll/bob?wait=60")
    push.hang_up()
    poll.hang_up()
    application.reply(said())
    application.reply(said())
    server.advance(0)
    assert (server.comet.hub.store.usage().messages, server.parked) == (0, 0)


def test_a_poll_comes_and_goes_by_an_answer_that_is_remembered(server: Server) -> None:
    application = asking(server, lambda _: said(expires_in=60))
    for number in range(5):
        poll = server.park(f"/poll/bob?after=now&wait={10 + number}", COOKIE)
        server.push("/bob", headers=COOKIE)
        server.advance(0)
        assert poll.answer.status == 200
    assert [asked["action"] for asked in application.asked] == ["poll", "push"]


def test_a_slow_application_holds_up_those_who_need_its_answer_and_no_others(server: Server) -> None:
    application = asking(server, lambda _: said(expires_in=300))
    server.get("/poll/bob?wait=0", COOKIE)
    application.answer = lambda _: None
    share = round(APPLICATION_QUESTIONS * APPLICATION_QUESTIONS_SHARE)
    attack = [server.send("GET", "/poll/bob?wait=0", b"", {"Cookie": f"{i}"}) for i in range(share + 20)]
    refused = [each.answer for each in attack if each.answer is not None]
    assert len(refused) == 20
    assert {kind(answer) for answer in refused} == {(503, "server-full")}
    assert all("retry-after" in answer.headers for answer in refused)
    assert server.get("/poll/bob?wait=0", COOKIE).status == 200
    assert server.get("/healthz").status == 200
    for _ in range(share):
        application.fail()
    server.advance(0)
    assert all(each.answer is not None and each.answer.status == 503 for each in attack)


def test_unknown_parameters_reach_the_application(server: Server) -> None:
    application = asking(
        server, lambda asked: said(200 if "room=9" in asked["query"] else 403, expires_in=60)
    )
    assert server.get("/poll/bob?after=oldest&wait=0&room=9", COOKIE).status == 200
    assert server.get("/poll/bob?after=oldest&wait=0", COOKIE).status == 403
    assert application.asked[0]["path"] == "/poll/bob"


# -- beside tokens and the embedding program


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_bytes(SECRET)
    return file


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


def test_a_valid_token_decides_alone(server: Server, keys: Path) -> None:
    application = asking(server)
    server.comet.routes.policy.tokens = Tokens([keys], wall=server.comet.hub.wall)
    assert server.get("/poll/bob?wait=0", bearer(poll=["bob"])).status == 200
    assert kind(server.get("/poll/carol?wait=0", bearer(poll=["bob"]))) == (403, "forbidden")
    assert application.asked == []


@pytest.mark.parametrize(
    "headers", [{}, COOKIE, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic eDp5"}, "expired"]
)
def test_without_a_valid_token_the_application_is_asked(
    server: Server, keys: Path, headers: dict[str, str] | str
) -> None:
    application = asking(server)
    server.comet.routes.policy.tokens = Tokens([keys], wall=server.comet.hub.wall)
    given = bearer(poll=["bob"], exp=1) if isinstance(headers, str) else headers
    assert server.get("/poll/bob?wait=0", given).status == 200
    assert application.asked[0]["authorization"] == given.get("Authorization")


def test_a_foreign_page_does_not_take_by_a_cookie_where_tokens_are_there_too(serve: Any, keys: Path) -> None:
    server = serve(hosts=Hosts())
    asking(server)
    server.comet.routes.policy.tokens = Tokens([keys], wall=server.comet.hub.wall)
    browser = {"User-Agent": "Mozilla/5.0", "Host": "comet.example"}
    assert kind(server.get("/poll/bob?wait=0", {**browser, **COOKIE})) == (403, "forbidden-origin")
    assert server.get("/poll/bob?wait=0", {**browser, **bearer(poll=["bob"])}).status == 200


def test_the_embedding_program_is_asked_besides(serve: Any) -> None:
    server = serve(authorize=lambda request, action, name: name == "bob")
    application = asking(server, lambda asked: said(200 if asked["cookie"] else 401))
    assert server.get("/poll/bob?wait=0", COOKIE).status == 200
    assert server.get("/poll/carol?wait=0", COOKIE).status == 403
    assert server.get("/poll/bob?wait=0").status == 401
    assert len(application.asked) == 3


# -- the subject


def test_the_subject_is_the_client_that_quotas_count(serve: Any) -> None:
    server = serve(limits=Limits(client_parked=1))
    asking(server, lambda asked: said(subject=asked["cookie"]))
    server.park("/poll/bob?wait=60", {"Cookie": "alice"})
    assert kind(server.get("/poll/bob?wait=60", {"Cookie": "alice"})) == (429, "too-many-requests")
    server.park("/poll/bob?wait=60", {"Cookie": "carol"})


def test_idempotency_keys_of_different_subjects_are_different_keys(server: Server) -> None:
    asking(server, lambda asked: said(subject=asked["cookie"]))
    one, other = [
        server.push("/bob", name, {"Cookie": name, "Idempotency-Key": "1"}).json["id"]
        for name in ("alice", "carol")
    ]
    again = server.push("/bob", "alice", {"Cookie": "alice", "Idempotency-Key": "1"}).json["id"]
    assert (again == one, other == one) == (True, False)


def test_a_reader_is_present_under_the_subject_or_under_the_name_that_the_application_has_seen(
    server: Server,
) -> None:
    application = asking(server, lambda asked: said(**({"subject": "alice"} if asked["cookie"] else {})))
    server.park("/poll/lobby?after=now&wait=60&as=root", COOKIE)
    server.park("/poll/lobby?after=now&wait=60&as=bob")
    assert "as=bob" in application.asked[-1]["query"]
    members = server.get("/presence/lobby").json["members"]
    assert [member["name"] for member in members] == ["alice", "bob"]


def test_an_ack_is_asked_about_as_a_poll_is(server: Server) -> None:
    application = asking(server)
    server.push("/jobs")
    (message,) = server.get("/poll/jobs?lease=30").json["messages"]
    application.answer = lambda _: said(403)
    assert server.ask("POST", f"/ack/jobs?lease={message['lease']}").status == 403
    asked = application.asked[-1]
    assert (asked["action"], asked["recipients"]) == ("poll", ["jobs"])


# -- readers


def pass_by(server: Server, seconds: int) -> None:
    for _ in range(seconds * 2):
        server.advance(0.5)


def test_a_parked_poll_is_asked_about_again_and_ends_where_it_is_refused(server: Server) -> None:
    application = asking(server, lambda _: said(expires_in=10))
    poll = server.park("/poll/bob?after=now&wait=60", COOKIE)
    pass_by(server, 11)
    assert poll.answer is None
    assert len(application.asked) == 2
    application.answer = lambda _: said(403)
    pass_by(server, 11)
    assert (poll.answer.status, poll.answer.json["messages"]) == (200, [])
    assert server.get("/poll/bob?after=now", COOKIE).status == 403


def test_a_parked_take_that_is_refused_takes_nothing_after(server: Server) -> None:
    application = asking(server, lambda _: said(expires_in=10))
    poll = server.park("/poll/bob?wait=60", COOKIE)
    application.answer = lambda asked: said(200 if asked["action"] == "push" else 403)
    pass_by(server, 11)
    assert poll.answer.json["messages"] == []
    assert server.push("/bob").json["delivered"] == 0


def test_a_stream_is_asked_about_again_and_ends_where_it_is_refused(server: Server) -> None:
    application = asking(server, lambda _: said(expires_in=10))
    stream = Stream(server, "/stream/bob", COOKIE)
    pass_by(server, 11)
    server.push("/bob", "one")
    stream.turn()
    assert (stream.data, stream.ended) == (["one"], False)
    application.answer = lambda asked: said(200 if asked["action"] == "push" else 401)
    pass_by(server, 11)
    server.push("/bob", "two")
    stream.turn()
    assert (stream.data, stream.ended) == (["one"], True)


def test_a_socket_is_asked_about_again_and_is_closed_where_it_is_refused(server: Server) -> None:
    application = asking(server, lambda _: said(expires_in=10))
    socket = WebSocket(server, "/ws/bob", COOKIE)
    pass_by(server, 11)
    server.push("/bob", "one")
    socket.turn()
    application.answer = lambda asked: said(200 if asked["action"] == "push" else 503)
    pass_by(server, 11)
    server.push("/bob", "two")
    socket.turn()
    assert socket.data == ["one"]
    assert socket.goodbye == (1008, "reading is refused now: 503 application-down")


def test_a_listener_asks_for_what_it_reads(server: Server) -> None:
    def answer(asked: dict[str, Any]) -> Any:
        return said(403 if (asked["action"], asked["recipients"]) == ("poll", ["$listeners"]) else 200)

    application = asking(server, answer)
    listener = server.ask("POST", "/register", '{"recipients": ["bob"]}', {**JSON, **COOKIE}).json
    poll = server.park(f"/poll?listener={listener['id']}&wait=60", COOKIE)
    assert [asked["recipients"] for asked in application.asked] == [[], ["bob"], ["bob"], ["$listeners"]]
    server.push("?to=listeners")
    server.advance(0)
    assert poll.answer is None, "it may not read what all listeners read"
    server.push("/bob")
    server.advance(0)
    assert [message["data"] for message in poll.answer.json["messages"]] == ["hello"]


# -- pushes over a socket


def test_each_push_over_a_socket_is_asked_about(server: Server) -> None:
    application = asking(server, lambda asked: said(403 if asked["recipients"] == ["carol"] else 200))
    socket = WebSocket(server, "/ws/alice", COOKIE)
    socket.text('{"push": "bob", "data": 1, "ref": 1}')
    socket.text('{"push": "carol", "data": 1, "ref": 2}')
    answers = [(text["ref"], text.get("error", {}).get("status")) for text in socket.texts]
    assert answers == [(1, None), (2, 403)]
    assert [asked["action"] for asked in application.asked] == ["poll", "push", "push"]


def test_pushes_over_a_socket_stay_in_order_behind_a_slow_answer(server: Server) -> None:
    application = asking(server, lambda asked: None if asked["recipients"] == ["bob", "carol"] else said())
    socket = WebSocket(server, "/ws/alice", COOKIE)
    socket.text('{"push": ["bob", "carol"], "data": "first", "ref": 1}')
    socket.text('{"push": "bob", "data": "second", "ref": 2}')
    assert socket.texts == []
    application.reply(said())
    socket.turn()
    assert [text["ref"] for text in socket.texts] == [1, 2]
    assert server.read("/poll/bob?after=oldest&wait=0") == ["first", "second"]


def test_a_socket_that_waits_for_an_answer_is_not_read(server: Server) -> None:
    application = asking(server, lambda asked: said() if asked["action"] == "poll" else None)
    socket = WebSocket(server, "/ws/alice", COOKIE)
    for number in range(40):
        socket.text(msgspec.json.encode({"push": "bob", "data": "x" * 1_000, "ref": number}))
    assert socket.socket.reading is False
    application.answer = lambda _: said()
    application.reply(said())
    socket.turn()
    assert [text["ref"] for text in socket.texts] == list(range(40))
    assert socket.socket.reading is True


def test_a_socket_that_disconnects_pushes_nothing_more(server: Server) -> None:
    application = asking(server, lambda asked: said() if asked["action"] == "poll" else None)
    socket = WebSocket(server, "/ws/alice", COOKIE)
    socket.text('{"push": "bob", "data": 1}')
    socket.text('{"push": "carol", "data": 1}')
    socket.hang_up()
    application.answer = lambda _: said()
    application.reply(said())
    server.advance(0)
    assert server.comet.hub.store.usage().messages == 0


# -- Bayeux


class Session:
    """A Bayeux client over HTTP, which has shaken hands, connected and subscribed to /bob."""

    def __init__(self, server: Server) -> None:
        self.server = server
        (reply,) = self.say(HANDSHAKE)
        self.id = reply["clientId"]
        self.say(self.connect)
        self.say({"channel": "/meta/subscribe", "clientId": self.id, "subscription": "/bob"})

    @property
    def connect(self) -> dict[str, Any]:
        return {"channel": "/meta/connect", "clientId": self.id, "connectionType": "long-polling"}

    def send(self, *messages: Any) -> Any:
        return self.server.send("POST", "/cometd", msgspec.json.encode(messages), {**JSON, **COOKIE})

    def say(self, *messages: Any) -> Any:
        return self.send(*messages).answer.json


def test_a_bayeux_client_is_asked_about_message_by_message(server: Server) -> None:
    def answer(asked: dict[str, Any]) -> Any:
        return said(403 if asked["recipients"] == ["secret"] else 200)

    application = asking(server, answer)
    session = Session(server)
    told = session.say(
        {"channel": "/meta/subscribe", "clientId": session.id, "subscription": "/secret"},
        {"channel": "/bob", "clientId": session.id, "data": 1},
        {"channel": "/secret", "clientId": session.id, "data": 1},
    )
    replies = [message for message in told if "successful" in message]
    assert [reply["successful"] for reply in replies] == [False, True, False]
    asked = [(asked["action"], asked["recipients"]) for asked in application.asked]
    assert {("poll", ()), ("poll", ("secret",)), ("push", ("bob",)), ("push", ("secret",))} <= {
        (action, tuple(names)) for action, names in asked
    }
    assert {asked["path"] for asked in application.asked} == {"/cometd"}


def test_a_bayeux_handshake_that_is_refused_begins_no_session(server: Server) -> None:
    asking(server, lambda _: said(403))
    (reply,) = server.ask("POST", "/cometd", msgspec.json.encode([HANDSHAKE]), JSON).json
    assert (reply["successful"], reply["advice"]) == (False, {"reconnect": "none"})
    assert reply["error"].startswith("403:")


def test_a_bayeux_client_is_told_to_wait_while_the_application_is_down(server: Server) -> None:
    application = asking(server, lambda _: said())
    session = Session(server)
    application.answer = lambda _: said(500)
    (reply,) = session.say(session.connect)
    assert (reply["successful"], reply["advice"]["reconnect"]) == (False, "retry")
    assert reply["advice"]["interval"] >= 1_000
    assert reply["error"].startswith("503:")
    application.answer = lambda _: said()
    server.push("/bob")
    told = session.say(session.connect)
    assert [message["data"] for message in told if message["channel"] == "/bob"] == ["hello"]


def test_a_held_bayeux_connect_is_asked_about_again(server: Server) -> None:
    application = asking(server, lambda _: said(expires_in=10))
    session = Session(server)
    connect = session.send(session.connect)
    application.answer = lambda _: said(403)
    assert connect.answer is None
    pass_by(server, 11)
    assert connect.answer.json == [{"channel": "/meta/connect", "successful": True}]
    (reply,) = session.say(session.connect)
    assert (reply["successful"], reply["advice"]["reconnect"]) == (False, "handshake")


def test_a_bayeux_socket_that_is_refused_is_told_no_more_and_may_shake_hands_again(server: Server) -> None:
    application = asking(server, lambda _: said(expires_in=10))
    socket = WebSocket(server, "/cometd", COOKIE)

    def hear(*messages: Any) -> list[Any]:
        before = len(socket.texts)
        socket.text(msgspec.json.encode(messages))
        return [message for text in socket.texts[before:] for message in text]

    def converse() -> None:
        (reply,) = hear(HANDSHAKE)
        client_id = reply["clientId"]
        connect = {"channel": "/meta/connect", "clientId": client_id, "connectionType": "websocket"}
        hear(connect)
        hear({"channel": "/meta/subscribe", "clientId": client_id, "subscription": "/bob"})
        assert hear(connect) == []

    converse()
    server.push("/bob", "one")
    socket.turn()
    assert socket.texts[-1] == [{"channel": "/bob", "data": "one"}]
    application.answer = lambda asked: said(403 if asked["recipients"] == ["bob"] else 200)
    pass_by(server, 11)
    reply = socket.texts[-1][0]
    assert (reply["successful"], reply["advice"]["reconnect"]) == (False, "handshake")
    assert reply["error"].startswith("403:")
    application.answer = lambda _: said()
    server.push("/bob", "two")
    socket.turn()
    assert socket.texts[-1] == [reply]
    converse()
    server.push("/bob", "three")
    socket.turn()
    assert socket.texts[-1] == [{"channel": "/bob", "data": "three"}]


# -- what is shown


def test_the_answers_are_counted_and_shown(server: Server) -> None:
    application = asking(server, lambda _: said(expires_in=60))
    assert server.comet.routes.policy.application is not None
    server.comet.metrics.application = server.comet.routes.policy.application.counts
    server.get("/poll/bob?wait=0", COOKIE)
    server.get("/poll/bob?wait=0", COOKIE)
    application.answer = lambda _: said(403)
    server.get("/poll/carol?wait=0", COOKIE)
    application.answer = lambda _: said(500)
    server.get("/poll/carol?wait=0", COOKIE)
    shown = server.get("/metrics").body.decode()
    for outcome in ("allowed", "refused", "failed", "remembered"):
        assert f'cometd_lite_application_answers_total{{outcome="{outcome}"}} 1.0' in shown
    assert "cometd_lite_application_answer_seconds_count 3.0" in shown
    assert f"cometd_lite_application_questions_max {APPLICATION_QUESTIONS}.0" in shown


def test_the_description_says_that_requests_may_be_refused(server: Server) -> None:
    before = server.get("/openapi.json").json["paths"]["/poll/{recipient}"]["get"]["responses"]
    asking(server)
    after = server.get("/openapi.json").json["paths"]["/poll/{recipient}"]["get"]["responses"]
    assert {*after} - {*before} == {"401"}
    assert {"401", "403", "503"} <= {*after}
