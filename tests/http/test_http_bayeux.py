"""HTTP.md, "Bayeux", over HTTP and WebSocket: what the routes at /cometd let in, and what they answer."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import jwt
import msgspec
import pytest
from exchanges import STARTED, Server
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from wires import WebSocket, leave

from cometd_lite.access.tokens import Tokens
from cometd_lite.bayeux import BayeuxOptions, Call
from cometd_lite.bayeux.transport import BayeuxTransport
from cometd_lite.comet import Comet
from cometd_lite.limits import Limits
from cometd_lite.server import Bounds, HTTPFactory

JSON = {"Content-Type": "application/json"}
HANDSHAKE = {
    "channel": "/meta/handshake",
    "version": "1.0",
    "supportedConnectionTypes": ["long-polling", "callback-polling", "websocket"],
    "id": "1",
}


@pytest.fixture(autouse=True)
def everybody_leaves(serve):
    yield
    leave()


class Client:
    """A session, spoken for by single requests."""

    def __init__(self, server: Server, headers: dict[str, str] | None = None) -> None:
        self.server = server
        self.headers = JSON | (headers or {})
        (reply,) = self.say(HANDSHAKE)
        self.id = reply["clientId"]
        self.say(self.connection())

    def message(self, channel: str, **fields: Any) -> dict[str, Any]:
        return {"channel": channel, "clientId": self.id, "id": "9", **fields}

    def connection(self, **fields: Any) -> dict[str, Any]:
        return self.message("/meta/connect", connectionType="long-polling", **fields)

    def subscribe(self, channel: str) -> Any:
        return self.say(self.message("/meta/subscribe", subscription=channel))

    def post(self, *messages: Any, target: str = "/cometd") -> Any:
        return self.server.send("POST", target, msgspec.json.encode(messages), self.headers)

    def say(self, *messages: Any, target: str = "/cometd") -> Any:
        answer = self.post(*messages, target=target).answer
        assert answer is not None, "it is held"
        assert answer.status == 200, answer
        return answer.json


# -- long-polling


@pytest.mark.parametrize(
    "target", ["/cometd", "/cometd/", "/cometd/handshake", "/cometd/connect", "/cometd/a/b", "/cometd?x=1"]
)
def test_messages_are_taken_at_cometd_and_everything_below(server, target):
    answer = server.ask("POST", target, msgspec.json.encode([HANDSHAKE]), JSON)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json[0]["successful"] is True
    assert "BAYEUX_BROWSER=" in answer.headers["set-cookie"]


def test_a_connect_is_held_and_answered_with_what_is_pushed(server):
    client = Client(server)
    client.subscribe("/chat/**")
    held = client.post(client.connection(), target="/cometd/connect")
    assert held.answer is None
    server.push("/chat/room1", "hello")
    server.driver.flush()
    assert held.answer.json == [
        {"channel": "/chat/room1", "data": "hello"},
        {"channel": "/meta/connect", "successful": True, "id": "9"},
    ]


def test_a_publication_is_answered_to_a_poll_that_waits(server):
    poll = server.park("/poll/chat/room1")
    client = Client(server)
    assert client.say(client.message("/chat/room1", data={"text": "hi"}))[0]["successful"] is True
    server.driver.flush()
    (message,) = poll.answer.json["messages"]
    assert (message["type"], message["data"]) == ("application/json", {"text": "hi"})


def test_a_client_that_hangs_up_finds_its_events_when_it_comes_back(server):
    client = Client(server)
    client.subscribe("/a")
    held = client.post(client.connection())
    held.hang_up()
    server.push("/a", "kept")
    server.advance(9.0)
    assert client.say(client.connection())[0] == {"channel": "/a", "data": "kept"}


def test_a_client_that_stays_away_is_forgotten_by_the_sweep(server):
    server.comet.start()
    client = Client(server)
    client.subscribe("/a")
    client.post(client.connection()).hang_up()
    server.advance(9.0)
    assert b"cometd_lite_bayeux_sessions 1.0" in server.get("/metrics").body
    server.advance(2.0)
    assert b"cometd_lite_bayeux_sessions 0.0" in server.get("/metrics").body
    (reply,) = client.say(client.connection())
    assert reply["error"] == "402::session_unknown"
    assert reply["advice"] == {"reconnect": "handshake", "interval": 0}


def test_a_replaced_connect_ends_with_409_and_no_json(server):
    client = Client(server)
    first = client.post(client.connection())
    second = client.post(client.connection())
    server.driver.flush()
    assert first.answer.status == 409
    assert first.answer.headers["content-type"] == "text/plain"
    assert second.answer is None


def test_a_form_with_a_message_is_taken(server):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = "message=" + quote(msgspec.json.encode([HANDSHAKE]).decode())
    assert server.ask("POST", "/cometd", body, form).json[0]["successful"] is True


def test_what_curl_sends_without_a_type_is_taken(server):
    assert server.ask("POST", "/cometd", msgspec.json.encode(HANDSHAKE)).json[0]["successful"] is True


def test_when_the_server_stops_held_connects_are_answered(server):
    client = Client(server)
    held = client.post(client.connection())
    server.stop()
    assert held.answer.json[0]["successful"] is True


def test_a_connect_beyond_the_bound_is_refused_like_a_poll(serve):
    server = serve(Limits(max_parked=1))
    server.park("/poll/bob")
    client = Client(server)
    answer = client.post(client.connection()).answer
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert is_a_sentence(answer)


def test_a_publication_to_a_full_mailbox_drops_the_oldest_and_a_poll_is_told_the_gap(serve):
    server = serve(Limits(capacity=2))
    client = Client(server)
    first = server.push("/a", "first").json["id"]
    for number in range(3):
        assert client.say(client.message("/a", data=number))[0]["successful"] is True
    answer = server.get(f"/poll/a?after={first}&wait=0").json
    assert [message["data"] for message in answer["messages"]] == [1, 2]
    assert answer["gap"] is True
    assert server.ask("POST", "/push/a", "one more").status == 503  # HTTP's own pushes are refused, as ever


def test_a_later_client_of_a_browser_is_told_that_there_are_several(server):
    answer = server.ask("POST", "/cometd", msgspec.json.encode([HANDSHAKE]), JSON)
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(attributes)
    first, second = (Client(server, {"Cookie": cookie}) for _ in range(2))
    held = first.post(first.connection())
    assert held.answer is None
    (reply,) = second.say(second.connection())
    assert reply["advice"]["multiple-clients"] is True
    assert reply["advice"]["interval"] == 2_000


def test_the_sessions_of_one_browser_are_bounded_by_an_option(serve):
    server = serve(bayeux=BayeuxOptions(browser_sessions=2))
    jar = {"Cookie": "BAYEUX_BROWSER=abcdefgh"}
    first, _ = Client(server, jar), Client(server, jar)
    batch = msgspec.json.encode([HANDSHAKE])
    (reply,) = server.ask("POST", "/cometd", batch, JSON | jar).json
    assert reply["error"] == "503:bayeux-browser-sessions:server-full"
    assert reply["advice"]["reconnect"] == "handshake"
    assert server.ask("POST", "/cometd", batch, JSON | {"Cookie": "BAYEUX_BROWSER=other678"}).json[0][
        "successful"
    ]
    first.say(first.message("/meta/disconnect"))
    assert server.ask("POST", "/cometd", batch, JSON | jar).json[0]["successful"] is True


def test_only_a_browser_without_a_name_is_given_one(server):
    named = server.ask(
        "POST", "/cometd", msgspec.json.encode([HANDSHAKE]), JSON | {"Cookie": "BAYEUX_BROWSER=abcdefgh"}
    )
    assert "set-cookie" not in named.headers


def test_without_a_session_nothing_is_published_unless_that_is_allowed(serve):
    message = msgspec.json.encode({"channel": "/a", "data": "hi", "id": "1"})
    closed, opened = serve(), serve(bayeux=BayeuxOptions(anonymous_publish=True))
    assert closed.ask("POST", "/cometd", message, JSON).json[0]["error"] == "401::client_id_missing"
    assert closed.read("/poll/a?after=oldest&wait=0") == []
    assert opened.ask("POST", "/cometd", message, JSON).json == [
        {"channel": "/a", "successful": True, "id": "1"}
    ]
    assert opened.read("/poll/a?after=oldest&wait=0") == ["hi"]


def test_a_session_goes_on_whichever_transport_it_changes_to(server):
    client = Client(server)
    client.subscribe("/a")
    held = client.post(client.connection())
    script = server.send("GET", asked(client.connection(), jsonp="cb"))
    server.driver.flush()
    assert held.answer.status == 409
    assert script.answer is None
    socket = WebSocket(server, "/cometd")
    assert hear(socket, client.connection()) == []
    server.driver.flush()
    assert script.answer.status == 409
    server.push("/a", "1")
    assert socket.texts[-1] == [{"channel": "/a", "data": "1"}]
    held = client.post(client.connection())
    assert socket.texts[-1][0]["error"] == "409::connect_replaced"
    server.push("/a", "2")
    server.driver.flush()
    assert held.answer.json[0] == {"channel": "/a", "data": "2"}


# -- what is no batch


def is_a_sentence(answer: Any) -> bool:
    """Whether a refusal is nothing that Faye or aiocometd takes for Bayeux messages."""
    text = answer.body.decode()
    return (
        answer.headers["content-type"].startswith("text/plain") and text.endswith(".\n") and "{" not in text
    )


@pytest.mark.parametrize("body", ["", "[", "17", '"x"', "nul", "[" * 3_000, "\xff"])
def test_what_is_no_batch_is_a_bad_request(server, body):
    answer = server.ask("POST", "/cometd", body.encode("latin-1"), JSON)
    assert answer.status == 400
    assert is_a_sentence(answer)


def test_a_path_below_it_that_is_no_text_is_refused_by_a_sentence(server):
    answer = server.ask("POST", "/cometd/%ff", "[]", JSON)
    assert answer.status == 400
    assert is_a_sentence(answer)


MALFORMED = [
    b"POST /cometd HTTP/1.1\r\nHost: localhost:8080\r\nbad field\r\n\r\n",
    b"POST /cometd/connect?x HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: x\r\n\r\n",
    b"POST /cometd HTTP/1.1\r\nHost: localhost:8080\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    b"POST /cometd/ HTTP/3.0\r\nHost: localhost:8080\r\n\r\n",
    b"GET /cometd?" + b"x" * 100_000 + b" HTTP/1.1\r\n",
]


@pytest.mark.parametrize("data", MALFORMED)
@pytest.mark.parametrize("mount", ["", "/comet"])
def test_what_is_no_request_is_refused_by_a_sentence(clock, data, mount):
    comet = Comet(clock=clock)
    factory = HTTPFactory(comet.routes, clock=clock, bounds=Bounds(), prefix=mount.encode())
    for path, is_plain in ((b"/cometd", True), (b"/poll/cometd", False), (b"/cometdx", False)):
        connection = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 9))
        transport = StringTransport()
        connection.makeConnection(transport)
        connection.dataReceived(data.replace(b"/cometd", mount.encode() + path, 1))
        head, _, body = transport.value().partition(b"\r\n\r\n")
        assert head[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 414", b"HTTP/1.1 505", b"HTTP/1.1 431"}
        assert (b"Content-Type: text/plain" in head) is is_plain
        assert body.endswith(b".\n") is is_plain
        connection.connectionLost(Failure(ConnectionDone()))


def test_a_body_that_does_not_arrive_is_refused_by_a_sentence(clock):
    comet = Comet(clock=clock)
    factory = HTTPFactory(comet.routes, clock=clock, bounds=Bounds())
    connection = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 9))
    transport = StringTransport()
    connection.makeConnection(transport)
    connection.dataReceived(b"POST /cometd HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n[")
    for _ in range(200):
        clock.advance(1)
    assert transport.value().startswith(b"HTTP/1.1 408")
    assert b"Content-Type: text/plain" in transport.value()
    connection.connectionLost(Failure(ConnectionDone()))


def test_a_server_that_fails_says_so_by_a_sentence(server, monkeypatch, expected_failures):
    expected_failures.append(ZeroDivisionError)

    def fail(*given: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(BayeuxTransport, "post", fail)
    answer = server.ask("POST", "/cometd/connect", "[]", JSON)
    assert answer.status == 500
    assert is_a_sentence(answer)


@pytest.mark.parametrize("body", ["[]", " [ ] "])
def test_an_empty_batch_is_answered_with_an_empty_array(server, body):
    # Faye posts one beside large publications.
    answer = server.ask("POST", "/cometd", body, JSON)
    assert (answer.status, answer.json) == (200, [])
    socket = WebSocket(server, "/cometd")
    socket.text(body)
    assert socket.texts == [[]]


@pytest.mark.parametrize(("max_body", "bound"), [(1_000, 1024 * 1024), (600 * 1024, 1_200 * 1024)])
def test_a_batch_has_a_bound_of_its_own(serve, max_body, bound):
    server = serve(Limits(max_body=max_body))
    answer = server.ask("POST", "/cometd", b"[%b]" % (b" " * (bound - 2)), JSON)
    assert (answer.status, answer.json) == (200, [])
    answer = server.ask("POST", "/cometd", b"[%b]" % (b" " * (bound - 1)), JSON)
    assert answer.status == 413
    assert is_a_sentence(answer)


@pytest.mark.parametrize("channel", ["/a", "/service/a"])
def test_the_bound_of_a_body_is_that_of_one_messages_data(serve, channel):
    server = serve(Limits(max_body=1_000))
    client = Client(server)
    large = client.message(channel, data="x" * 998)
    larger = client.message(channel, data="x" * 999)
    told = client.say(large, larger, large)
    assert [reply["successful"] for reply in told] == [True, False, True]
    assert told[1]["error"] == f"413:{channel}:body-too-large"
    assert told[1]["id"] == "9"
    assert client.say(larger)[0]["error"] == f"413:{channel}:body-too-large"
    told = hear(WebSocket(server, "/cometd"), large, larger, large)
    assert [reply["successful"] for reply in told] == [True, False, True]


def test_a_batch_of_ordinary_publications_may_be_larger_than_one_body(server):
    client = Client(server)
    told = client.say(*[client.message("/a", data="x" * 4_000) for _ in range(20)])
    assert [reply["successful"] for reply in told] == [True] * 20


def test_a_batch_of_too_many_messages_is_too_large(server):
    assert server.ask("POST", "/cometd", b"[" + b"1," * 1_000 + b"1]", JSON).status == 413


LONE_SURROGATE = '{"channel":"/a","clientId":"%s","id":"1","data":"x\\ud83c"}'


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_a_lone_surrogate_is_delivered_as_a_replacement_beside_its_neighbours(server, transport):
    client = Client(server)
    neighbour = msgspec.json.encode(client.message("/a", data="y")).decode()
    body = f"[{neighbour},{LONE_SURROGATE % client.id},{neighbour}]"
    if transport == "http":
        told = server.ask("POST", "/cometd", body, JSON).json
    else:
        socket = WebSocket(server, "/cometd")
        socket.text(body)
        told = socket.texts[0]
    assert [(reply["successful"], reply["id"]) for reply in told] == [(True, "9"), (True, "1"), (True, "9")]
    assert server.read("/poll/a?after=oldest&wait=0") == ["y", "x\ufffd", "y"]


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_whatever_fails_the_server(server, body):
    assert server.ask("POST", "/cometd", body, JSON).status in {200, 400}


WRONG = st.sampled_from(
    [
        "null", "17", "true", '"x"', "[]", "{}", "-1", "1e300", "123456789012345678901234567890", '""',
        '"/a"', '"/a/*"', '"/meta/connect"', '["/a",7]', '{"timeout":-1}', '{"timeout":1e308}',
        '{"ack":1e300}', '{"timesync":{"tc":1e300}}', '{"ack":{"enabled":1}}', '"\\u0000"',
        '"\\ud83d"', '{"\\udc00":"\\ud83d"}', "1e999", "-1E999", '{"a":[1e999]}',
        '"\\ud83d\\ude00"', "[" * 200 + "]" * 200, "[" * 900 + "]" * 900, '{"a":' * 300 + "1" + "}" * 300,
    ]
)  # fmt: skip
NAMES = st.sampled_from(
    [
        "channel", "clientId", "connectionType", "subscription", "data", "id", "ext", "advice", "timestamp",
        "version", "minimumVersion", "supportedConnectionTypes", "successful", "error", "\\u0061",
    ]
)  # fmt: skip
CHANNELS = st.sampled_from(
    ["connect", "subscribe", "unsubscribe", "disconnect", "publish", "", "unsuccessful"]
).map("/meta/{}".format) | st.sampled_from(
    ["/a", "/a/*", "/service/x", "a", "", "/$x", "/..", "/" + "a" * 300]
)
NO_JSON = st.sampled_from(
    [
        "{", '{"a" 1}', '{"a":1,}', "[1e]", '{"data":NaN}', "nul", "'x'", "\x00",
        "", "[" * 1_100 + "]" * 1_100,
    ]
)  # fmt: skip


@st.composite
def malformed(draw: Any) -> str:
    """Draw the JSON of a message whose fields are wrong in every way; some are there twice."""
    fields = draw(st.lists(st.tuples(NAMES, WRONG), max_size=6))
    channel = draw(st.none() | CHANNELS)
    if channel is not None:
        fields.append(("channel", f'"{channel}"'))
    if draw(st.booleans()):
        fields.append(("clientId", '"ME"'))
    written = ",".join([f'"{name}":{value}' for name, value in draw(st.permutations(fields))])
    return draw(st.just("{" + written + "}") | WRONG)


def sent_by_post(server: Server, body: str) -> tuple[int, Any]:
    answer = server.ask("POST", "/cometd", body.encode(), JSON)
    return answer.status, answer.json if answer.status == 200 else None


def sent_by_form(server: Server, body: str) -> tuple[int, Any]:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = server.ask("POST", "/cometd", f"message={quote(body)}", form)
    return answer.status, answer.json if answer.status == 200 else None


def sent_by_script(server: Server, body: str) -> tuple[int, Any]:
    assume(len(quote(body)) < 7_000)  # else no address has room for it
    answer = server.get(f"/cometd?jsonp=cb&message={quote(body)}")
    script = answer.status == 200
    return answer.status, msgspec.json.decode(
        answer.body.removeprefix(b"/**/cb(").removesuffix(b");")
    ) if script else None


def sent_by_socket(server: Server, body: str) -> tuple[int, Any]:
    socket = WebSocket(server, "/cometd")
    socket.text(body)
    told = [message for text in socket.texts for message in text]
    assert socket.goodbye is None
    socket.hang_up()
    return (400 if [reply.get("error") for reply in told] == ["400::bad-body"] else 200), told


@pytest.mark.parametrize("sent", [sent_by_post, sent_by_form, sent_by_script, sent_by_socket])
@given(before=st.lists(malformed(), max_size=3), after=st.lists(malformed(), max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_no_message_costs_its_neighbours_anything(server, sent, before, after):
    client, other = Client(server), Client(server)
    neighbour = msgspec.json.encode(other.message("/neighbour", data="hi")).decode()
    batch = [message.replace("ME", client.id) for message in (*before, neighbour, *after)]
    status, told = sent(server, f"[{','.join(batch)}]")
    assert status == 200
    replies = [reply for reply in told if "data" not in reply]
    assert len(replies) == len(batch)
    assert replies[len(before)] == {"channel": "/neighbour", "successful": True, "id": "9"}
    assert all(reply["successful"] or reply["error"][:3].isdigit() for reply in replies)
    assert server.read("/poll/neighbour?after=oldest&wait=0")[-1] == "hi"
    server.ask("DELETE", "/recipients/neighbour")
    for one in (client, other):
        one.say(one.message("/meta/disconnect"))


@pytest.mark.parametrize("sent", [sent_by_post, sent_by_form, sent_by_script, sent_by_socket])
@given(wrong=NO_JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_batch_that_is_no_json_is_refused_as_a_whole(server, sent, wrong):
    other = Client(server)
    neighbour = msgspec.json.encode(other.message("/neighbour", data="hi")).decode()
    assert sent(server, f"[{neighbour},{wrong}]")[0] == 400
    assert server.read("/poll/neighbour?after=oldest&wait=0") == []


# -- callback-polling


def asked(*messages: Any, **query: str) -> str:
    query = {"message": msgspec.json.encode(messages).decode(), **query}
    return "/cometd?" + "&".join(f"{name}={quote(value)}" for name, value in query.items())


def test_a_script_is_answered_with_the_callback_and_nosniff(server):
    answer = server.get(asked(HANDSHAKE, jsonp="my.call"))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.body.startswith(b"/**/my.call([{")
    assert answer.body.endswith(b"}]);")


@pytest.mark.parametrize("name", ["alert(1)", "a;b", "<script>", ""])
def test_a_callback_that_is_no_name_is_refused(server, name):
    answer = server.get(asked(HANDSHAKE, jsonp=name))
    assert answer.status == 400
    assert is_a_sentence(answer)


@pytest.mark.parametrize("target", ["/cometd", "/cometd/", "/cometd/connect", "/cometd?message=x"])
def test_a_get_that_asks_for_nothing_is_a_bad_request(server, target):
    assert server.get(target).status == 400


SCRIPT_OF_ANOTHER_PAGE = [
    {"Referer": "https://evil.example/page"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"},
    {"Referer": "https://evil.example/", "Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", SCRIPT_OF_ANOTHER_PAGE)
def test_a_script_of_a_foreign_page_gets_nothing(server, headers):
    # A script is loaded without an Origin: any page could shake hands, and read and push everything.
    answer = server.get(asked(HANDSHAKE), headers)
    assert answer.status == 403
    assert is_a_sentence(answer)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Referer": "http://localhost:8080/page"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Referer": "https://app.example/", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_script_of_ones_own_or_an_allowed_page_is_answered(serve, headers):
    server = serve(origins=("https://app.example",))
    assert server.get(asked(HANDSHAKE), headers).status == 200


# -- who comes in


def test_a_page_of_a_foreign_origin_gets_nothing(server):
    answer = server.ask(
        "POST", "/cometd", msgspec.json.encode([HANDSHAKE]), JSON | {"Origin": "https://evil.example"}
    )
    assert answer.status == 403
    assert b"cometd_lite_bayeux_sessions 0.0" in server.get("/metrics").body


def test_a_page_of_an_allowed_origin_may_read_the_answer(serve):
    server = serve(origins=("https://app.example",))
    origin = {"Origin": "https://app.example"}
    answer = server.ask("POST", "/cometd/handshake", msgspec.json.encode([HANDSHAKE]), JSON | origin)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    preflight = server.ask("OPTIONS", "/cometd/connect", "", origin)
    assert preflight.status == 204
    allowed = preflight.headers["access-control-allow-headers"].lower().split(", ")
    assert {"content-type", "pragma"} <= set(allowed)


def test_another_host_is_misdirected(server):
    assert (
        server.ask(
            "POST", "/cometd", msgspec.json.encode([HANDSHAKE]), JSON | {"Host": "evil.example"}
        ).status
        == 421
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "https://evil.example"}, 403), ({"Host": "evil.example"}, 421)],
)
def test_origin_and_host_are_looked_at_with_each_message_and_not_only_at_the_handshake(
    server, headers, status
):
    client = Client(server)
    client.subscribe("/a")
    held = client.post(client.connection())
    client.headers = client.headers | headers
    for message in (
        HANDSHAKE,
        client.message("/meta/subscribe", subscription="/b"),
        client.message("/meta/unsubscribe", subscription="/a"),
        client.message("/a", data=1),
        client.message("/service/x", data=1),
        client.connection(),
        client.message("/meta/disconnect"),
    ):
        assert client.post(message).answer.status == status
    assert held.answer is None
    server.push("/b", "not subscribed to")
    server.push("/a", "first")
    server.driver.flush()
    assert held.answer.json[0] == {"channel": "/a", "data": "first"}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("target", ["/cometd", "/cometd/", "/cometd/connect"])
def test_other_methods_are_told_which_there_are(server, method, target):
    answer = server.ask(method, target)
    assert answer.status == 405
    assert is_a_sentence(answer)
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


def test_bayeux_can_be_turned_off(serve):
    server = serve(bayeux=None)
    assert server.ask("POST", "/cometd", msgspec.json.encode([HANDSHAKE]), JSON).status == 404
    assert server.get(asked(HANDSHAKE)).status == 404
    assert b"cometd_lite_bayeux_sessions 0.0" in server.get("/metrics").body
    with pytest.raises(ValueError, match="no Bayeux"):
        server.comet.service("/service/x", lambda _: None)


def test_the_options_are_what_clients_are_advised(serve):
    server = serve(bayeux=BayeuxOptions(timeout=12.0, interval=500, max_interval=7.0))
    (reply,) = server.ask("POST", "/cometd", msgspec.json.encode([HANDSHAKE]), JSON).json
    assert reply["advice"] == {
        "reconnect": "retry",
        "interval": 500,
        "timeout": 12_000,
        "maxInterval": 7_000,
    }


# -- tokens

SECRET = b"a secret of at least thirty-two bytes"


@pytest.fixture
def guarded(serve, tmp_path) -> Server:
    """Return a server that asks for tokens."""
    file = tmp_path / "key"
    file.write_bytes(SECRET)
    server: Server = serve()
    server.comet.routes.policy.tokens = Tokens([file], wall=server.comet.hub.wall)
    return server


def bearer(seconds: float = 1_000.0, **claims: Any) -> dict[str, str]:
    token = jwt.encode({"exp": STARTED + seconds, **claims}, SECRET, "HS256")
    return {"Authorization": f"Bearer {token}"}


def test_a_token_is_asked_for_with_each_message_and_not_only_at_the_handshake(guarded):
    (refused,) = guarded.ask("POST", "/cometd", msgspec.json.encode([HANDSHAKE]), JSON).json
    assert refused["error"] == "401::unauthorized"
    assert refused["advice"] == {"reconnect": "none"}
    client = Client(guarded, bearer(poll=["a"], push=["b"]))
    allowed = client.headers
    subscription = client.message("/meta/subscribe", subscription="/a")
    publication, call = client.message("/b", data=1), client.message("/service/x", data=1)
    for headers, error in ((JSON, "401"), (JSON | bearer(poll=["x"], push=["x"]), "403")):
        client.headers = headers
        told = client.say(subscription, publication, call)
        assert [reply["error"][:3] for reply in told] == [error] * 3
    client.headers = allowed
    told = client.say(subscription, publication)
    assert [reply["successful"] for reply in told] == [True, True]
    assert guarded.read("/poll/b?after=oldest&wait=0", bearer(poll=["b"])) == [1]


def test_a_token_may_come_in_the_address_for_scripts_and_sockets(guarded):
    token = bearer(poll=["a"])["Authorization"].removeprefix("Bearer ")
    answer = guarded.get(asked(HANDSHAKE, jsonp="cb", token=token))
    assert b'"successful":true' in answer.body
    socket = WebSocket(guarded, f"/cometd?token={token}")
    assert hear(socket, HANDSHAKE)[0]["successful"] is True


def test_a_held_connect_ends_when_its_token_does(guarded):
    client = Client(guarded, bearer(20.0, poll=["a"]))
    client.subscribe("/a")
    held = client.post(client.connection())
    guarded.advance(20.0)
    assert held.answer.json[0]["successful"] is True
    (reply,) = client.say(client.connection())
    assert reply["error"] == "401::unauthorized"
    assert reply["advice"]["reconnect"] == "handshake"


def test_a_session_reads_only_what_the_token_of_each_request_covers(guarded):
    client = Client(guarded, bearer(poll=["a", "b"]))
    client.subscribe("/a")
    client.headers |= bearer(poll=["b"])
    assert client.say(client.connection())[0]["error"] == "403::forbidden"


def test_a_socket_needs_a_token_and_is_told_to_shake_hands_when_it_expires(guarded):
    refused = guarded.get("/cometd", {"Upgrade": "websocket", "Connection": "Upgrade"})
    assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert is_a_sentence(refused)
    socket = WebSocket(guarded, "/cometd", bearer(30.0, poll=["a"], push=["b"]))
    client_id = hear(socket, HANDSHAKE)[0]["clientId"]
    told = hear(
        socket,
        {"channel": "/meta/subscribe", "clientId": client_id, "subscription": "/a"},
        {"channel": "/meta/subscribe", "clientId": client_id, "subscription": "/b"},
        {"channel": "/b", "clientId": client_id, "data": 1},
        {"channel": "/a", "clientId": client_id, "data": 1},
    )
    assert [reply["successful"] for reply in told] == [True, False, True, False]
    connection = {"channel": "/meta/connect", "clientId": client_id, "connectionType": "websocket", "id": "7"}
    hear(socket, connection)
    guarded.advance(30.0)
    guarded.push("/a", "secret", bearer(push=["a"]))
    for message in (connection, {"channel": "/b", "clientId": client_id, "data": 1, "id": "7"}, HANDSHAKE):
        (reply,) = hear(socket, message)
        assert (reply["error"], reply["id"]) == ("401::unauthorized", message["id"])
        assert reply["advice"] == {"reconnect": "handshake", "interval": 0}
    assert not any("secret" in str(text) for text in socket.texts)
    assert socket.goodbye is None


def test_an_upgrade_with_an_expired_token_is_answered_by_what_clients_act_on(guarded):
    client = Client(guarded, bearer(poll=["a"]))
    client.subscribe("/a")
    guarded.push("/a", "secret", bearer(push=["a"]))
    socket = WebSocket(guarded, "/cometd", bearer(-1.0, poll=["a"]))
    (reply,) = hear(socket, client.connection())
    assert (reply["error"], reply["advice"]["reconnect"]) == ("401::unauthorized", "handshake")
    assert hear(socket, HANDSHAKE)[0]["advice"]["reconnect"] == "handshake"
    assert socket.goodbye is None
    forged = {"Authorization": "Bearer " + jwt.encode({"exp": STARTED - 1}, b"another" * 9, "HS256")}
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert guarded.get("/cometd", upgrade | forged).status == 401


NO_RIGHT_TO_READ = [{}, bearer(-1.0, poll=["**"], push=["**"]), bearer(push=["**"])]


@pytest.mark.parametrize("headers", NO_RIGHT_TO_READ)
@pytest.mark.parametrize(
    ("channel", "fields"),
    [
        ("/meta/connect", {"connectionType": "long-polling", "advice": {"timeout": 0}}),
        ("/meta/subscribe", {"subscription": "/a"}),
        ("/meta/subscribe", {"subscription": "/service/a"}),
        ("/meta/subscribe", {}),
        ("/meta/unsubscribe", {"subscription": "/unknown"}),
        ("/meta/unheard-of", {}),
        ("/b", {"data": 1}),
        ("/b", {}),
        ("/service/b", {"data": 1}),
    ],
)
def test_who_may_not_read_is_told_no_event_with_any_reply(guarded, headers, channel, fields):
    client = Client(guarded, bearer(poll=["a"]))
    client.subscribe("/a")
    guarded.push("/a", "secret", bearer(push=["a"]))
    allowed, client.headers = client.headers, JSON | headers
    message = client.message(channel, **fields)
    replies = client.say(message, client.message("/meta/unsubscribe", subscription="/unknown"))
    assert len(replies) == 2
    if headers:  # without a token no socket is opened
        socket = WebSocket(guarded, "/cometd", headers)
        assert len(hear(socket, message)) == 1
        guarded.push("/a", "another", bearer(push=["a"]))
        assert len(socket.texts) == 1
    client.headers = allowed
    assert client.say(client.connection())[0]["data"] == "secret"


def test_a_session_is_ended_by_no_one_without_a_token(guarded):
    client = Client(guarded, bearer(poll=["a"]))
    allowed, client.headers = client.headers, JSON
    assert client.say(client.message("/meta/disconnect"))[0]["error"] == "401::unauthorized"
    client.headers = allowed
    assert client.subscribe("/a")[0]["successful"] is True


def test_a_token_may_come_as_oauth_to_bayeux_and_nowhere_else(guarded):
    scheme = {"Authorization": bearer(poll=["a"])["Authorization"].replace("Bearer", "OAuth")}
    client = Client(guarded, scheme)
    assert client.subscribe("/a")[0]["successful"] is True
    socket = WebSocket(guarded, "/cometd", scheme)
    assert hear(socket, HANDSHAKE)[0]["successful"] is True
    assert guarded.get("/poll/a?wait=0", scheme).status == 401


# -- sockets


def hear(socket: WebSocket, *messages: Any) -> list[Any]:
    """Say something, and return the messages that come at once."""
    before = len(socket.texts)
    socket.text(msgspec.json.encode(messages))
    return [message for text in socket.texts[before:] for message in text]


def test_a_socket_shakes_hands_is_told_events_and_publishes(server):
    socket = WebSocket(server, "/cometd")
    (reply,) = hear(socket, HANDSHAKE)
    client_id = reply["clientId"]
    connection = {"channel": "/meta/connect", "clientId": client_id, "connectionType": "websocket", "id": "2"}
    assert hear(socket, connection)[0]["successful"] is True
    hear(socket, {"channel": "/meta/subscribe", "clientId": client_id, "subscription": "/chat/*", "id": "3"})
    assert hear(socket, {**connection, "id": "4"}) == []
    server.push("/chat/room1", "hello")
    assert socket.texts[-1] == [{"channel": "/chat/room1", "data": "hello"}]
    hear(socket, {"channel": "/chat/room2", "clientId": client_id, "data": [1], "id": "5"})
    assert server.read("/poll/chat/room2?after=oldest&wait=0") == [[1]]
    server.advance(30.0)
    assert socket.texts[-1] == [{"channel": "/meta/connect", "successful": True, "id": "4"}]


def test_a_socket_agrees_to_no_subprotocol_and_needs_no_cookie(server):
    # Faye opens its socket before it shakes hands (BAYEUX.md, rule 3).
    socket = WebSocket(server, "/cometd", {"Sec-WebSocket-Protocol": "bayeux"})
    assert "sec-websocket-protocol" not in socket.headers
    assert hear(socket, HANDSHAKE)[0]["successful"] is True


def test_a_batch_of_too_many_messages_is_too_large_for_a_socket_too(server):
    socket = WebSocket(server, "/cometd")
    (reply,) = hear(socket, *([1] * 1_001))
    assert reply["error"] == "413::body-too-large"
    assert hear(socket, HANDSHAKE)[0]["successful"] is True


def test_a_socket_of_a_foreign_origin_is_not_opened(server):
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Origin": "https://evil.example"}
    assert server.get("/cometd", upgrade).status == 403


def test_a_socket_is_told_when_the_server_stops(server):
    socket = WebSocket(server, "/cometd")
    hear(socket, HANDSHAKE)
    server.stop()
    assert socket.goodbye[0] == 1012


def test_a_text_over_the_bound_closes_the_socket(serve):
    server = serve(Limits(max_body=1_000))
    socket = WebSocket(server, "/cometd")
    socket.text("[" + " " * (1024 * 1024 - 2) + "]")
    assert socket.texts == [[]]
    socket.text("[" + " " * (1024 * 1024 - 1) + "]")
    assert socket.goodbye[0] == 1009


# -- for embedding programs


def test_a_program_answers_services_and_delivers_to_one_session(server):
    calls: list[Call] = []

    def echo(call: Call) -> Any:
        calls.append(call)
        return call.data

    server.comet.service("/service/*", echo)
    client = Client(server)
    told = client.say(client.message("/service/echo", data="hi"))
    assert {"channel": "/service/echo", "data": "hi", "id": "9"} in told
    held = client.post(client.connection())
    delivered: list[bool] = []
    server.comet.deliver(client.id, "/private", 1).addCallback(delivered.append)
    server.driver.flush()
    assert held.answer.json[0] == {"channel": "/private", "data": 1}
    assert calls[0].client_id == client.id
    assert delivered == [True]
