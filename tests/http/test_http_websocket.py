"""HTTP.md, "WebSocket": the handshake, what is said, and how it ends, over either server."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from wires import ACCEPT, HIGH, UPGRADE, Connection, WebSocket, leave
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

from cometd_lite.http import pubsub as ws
from cometd_lite.http.websocket import text_frame
from cometd_lite.limits import PING_SECONDS, SOCKET_MESSAGE_BYTES_OVER_BODY, Limits


@pytest.fixture(autouse=True)
def everybody_leaves(serve):
    yield
    leave()


def without(name: str, **instead: str) -> dict[str, str]:
    """Return an upgrade's header fields without one of them."""
    return {key: value for key, value in UPGRADE.items() if key != name} | instead


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True) -> bytes:
    """Return a frame as a client sends it; the mask is zero, which changes nothing."""
    length = len(payload)
    size = length if length < 126 else 126 if length < 65536 else 127
    extended = b"" if length < 126 else length.to_bytes(2 if length < 65536 else 8)
    start = bytes([(0x80 if fin else 0) | opcode, (0x80 if mask else 0) | size])
    return start + extended + (b"\0\0\0\0" if mask else b"") + payload


def lose(server, recipient="bob"):
    assert server.ask("DELETE", f"/recipients/{recipient}").status == 204


# -- the handshake


def test_it_is_accepted_as_rfc_6455_says(server):
    socket = WebSocket(server, "/ws/bob")
    status, headers = socket.head()
    assert status == 101
    assert headers["sec-websocket-accept"] == ACCEPT
    assert headers["upgrade"] == "websocket"
    assert headers["connection"] == "Upgrade"
    assert "sec-websocket-extensions" not in headers
    assert "content-length" not in headers
    assert server.parked == 1


def test_compression_is_not_agreed_to(server):
    socket = WebSocket(server, "/ws/bob", {"Sec-WebSocket-Extensions": "permessage-deflate"})
    assert "sec-websocket-extensions" not in socket.headers


@pytest.mark.parametrize(
    "headers",
    [
        without("Upgrade"),
        without("Upgrade", Upgrade="h2c"),
        without("Upgrade", Upgrade="websockets"),
        without("Connection"),
        without("Connection", Connection="keep-alive"),
        without("Sec-WebSocket-Key"),
        without("Sec-WebSocket-Key", **{"Sec-WebSocket-Key": "short"}),
        without("Sec-WebSocket-Key", **{"Sec-WebSocket-Key": "!" * 24}),
    ],
)
def test_what_asks_for_no_websocket_is_a_400_and_holds_nothing(server, headers):
    connection = Connection(server)
    connection.request("GET", "/ws/bob", headers)
    assert connection.status == 400
    assert "Sec-WebSocket-Version: 13" in connection.problem["detail"]
    assert server.parked == 0


@pytest.mark.parametrize("version", [None, "8", "14", "13, 8"])
def test_another_version_is_a_426_that_says_which_one_is_spoken(server, version):
    # RFC 6455 §4.2.2, and RFC 9110 §15.5.22 for Upgrade.
    given = {} if version is None else {"Sec-WebSocket-Version": version}
    connection = Connection(server)
    connection.request("GET", "/ws/bob", without("Sec-WebSocket-Version", **given))
    assert connection.status == 426
    assert connection.headers["sec-websocket-version"] == "13"
    assert connection.headers["upgrade"] == "websocket"
    assert "upgrade" in connection.headers["connection"].lower()
    assert connection.problem["type"].endswith(":upgrade-required")
    assert server.parked == 0


def test_a_browser_that_also_wants_to_keep_alive_is_accepted(server):
    headers = {"Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket"}
    assert WebSocket(server, "/ws/bob", headers).status == 101


def test_head_opens_no_websocket(server):
    connection = Connection(server)
    connection.request("HEAD", "/ws/bob", UPGRADE)
    assert connection.status == 400
    assert server.parked == 0


def test_a_page_of_a_foreign_origin_is_refused_before_the_upgrade(server):
    connection = Connection(server)
    connection.request("GET", "/ws/bob", UPGRADE | {"Origin": "https://evil.example"})
    assert connection.status == 403
    assert connection.headers["content-type"] == "application/problem+json"
    assert server.parked == 0


def test_the_servers_own_origin_and_an_allowed_one_may_open_it(serve):
    server = serve(origins=("https://app.example",))
    for origin in ("http://localhost:8080", "https://app.example"):
        assert WebSocket(server, "/ws/bob", {"Origin": origin}).status == 101


@pytest.mark.parametrize("target", ["/ws", "/ws/$x", "/ws/a//b", "/ws/bob?after=x", "/ws/bob?rcpt=a"])
def test_a_bad_question_is_a_400_before_the_upgrade(server, target):
    connection = Connection(server)
    connection.request("GET", target, UPGRADE)
    assert connection.status == 400
    assert server.parked == 0


def test_at_the_bound_it_is_refused_before_the_upgrade(serve):
    server = serve(Limits(max_parked=1))
    WebSocket(server, "/ws/bob")
    refused = Connection(server)
    refused.request("GET", "/ws/bob", UPGRADE)
    assert refused.status == 503
    assert "retry-after" in refused.headers


def test_what_comes_in_one_packet_with_the_request_is_heard(server):
    pushed = msgspec.json.encode({"push": "alice", "data": "early", "ref": 1})
    socket = WebSocket(server, "/ws/bob", after=frame(1, pushed))
    socket.turn()
    assert socket.texts[0]["ref"] == 1
    assert server.read("/poll/alice?after=oldest") == ["early"]


def test_a_twisted_without_the_private_name_of_what_came_early_opens_it_all_the_same(serve):
    def lose_the_name(request, action, name):
        getattr(getattr(request, "channel", None), "__dict__", {}).pop("_dataBuffer", None)
        return True

    server = serve(authorize=lose_the_name)
    socket = WebSocket(server, "/ws/bob")
    assert socket.push(push="alice", data="hi", ref=1)["ref"] == 1
    assert server.read("/poll/alice?after=oldest") == ["hi"]


def test_what_comes_while_an_embedding_program_thinks_it_over_is_heard(serve):
    verdict: Deferred[bool] = Deferred()
    verdicts = iter([verdict])
    server = serve(authorize=lambda request, action, name: next(verdicts, True))
    big = msgspec.json.encode({"push": "alice", "data": "x" * 40_000, "ref": 1})
    socket = Connection(server)
    socket.__class__ = WebSocket
    socket.request("GET", "/ws/bob", UPGRADE, frame(1, big))
    socket.send(frame(1, b'{"push": "alice", "data": "two", "ref": 2}'))
    assert socket.bytes == b""
    verdict.callback(True)
    socket.turn()
    assert socket.bytes.count(b'"receipt"') == 2
    assert socket.socket.reading
    assert [len(data) for data in server.read("/poll/alice?after=oldest")] == [40_000, 3]


def test_who_leaves_while_an_embedding_program_thinks_it_over_is_not_held(serve):
    verdict: Deferred[bool] = Deferred()
    server = serve(authorize=lambda request, action, name: verdict)
    connection = Connection(server)
    connection.request("GET", "/ws/bob", UPGRADE)
    connection.hang_up()
    if not verdict.called:
        verdict.callback(True)
    assert server.parked == 0


# -- what the server says


def test_a_text_is_one_message_object_as_in_a_poll(server):
    socket = WebSocket(server, "/ws/bob?after=oldest")
    server.push("/bob?event=e", '{"a":\n1}', {"Content-Type": "application/json"})
    server.push("/bob", "hi\nthere")
    server.push("/bob", b"\xff", {"Content-Type": "application/octet-stream"})
    assert socket.texts == server.get("/poll/bob?after=oldest").json["messages"]


def test_it_begins_now_or_after_a_cursor(server):
    first = server.push("/bob", "1").json["id"]
    server.push("/bob", "2")
    assert WebSocket(server, "/ws/bob").data == []
    assert WebSocket(server, "/ws/bob?after=oldest").data == ["1", "2"]
    assert WebSocket(server, f"/ws/bob?after={first}").data == ["2"]


def test_several_recipients_come_in_one_order(server):
    socket = WebSocket(server, "/ws?rcpt=a&rcpt=b")
    for name in "abbca":
        server.push(f"/{name}", name)
    assert socket.data == ["a", "b", "b", "a"]


def test_a_gap_is_told_before_the_messages(server):
    place = server.push("/bob", "1").json["id"]
    server.push("/bob", "lost")
    lose(server)
    server.push("/bob", "3")
    gap, message = WebSocket(server, f"/ws/bob?after={place}").texts
    assert gap == {"gap": True}
    assert message["data"] == "3"


@pytest.mark.parametrize("size", [1, 125, 126, 200, 65_000])
def test_messages_of_all_lengths_are_framed(server, size):
    socket = WebSocket(server, "/ws/bob")
    server.push("/bob", "x" * size)
    assert socket.data == ["x" * size]


def test_a_push_over_http_is_delivered_to_sockets(server):
    WebSocket(server, "/ws/bob")
    answer = server.ask("POST", "/push/bob", "hi")
    assert (answer.status, answer.json["delivered"]) == (201, 1)


def test_a_fan_out_frames_each_message_once(server, monkeypatch):
    framed = []
    monkeypatch.setattr(ws, "text_frame", lambda text: framed.append(text) or text_frame(text))
    sockets = [WebSocket(server, "/ws/bob?after=now") for _ in range(20)]
    server.push("/bob", "hi")
    assert all(socket.data == ["hi"] for socket in sockets)
    assert len(framed) == 1


# -- what the client says


def test_a_push_is_answered_with_a_receipt_and_its_ref(server):
    reader = server.park("/poll/alice?after=now")
    socket = WebSocket(server, "/ws/bob")
    answer = socket.push(push="alice", data={"text": "hi"}, ref=7)
    server.driver.flush()
    message = reader.answer.json["messages"][0]
    assert message["data"] == {"text": "hi"}
    assert answer["ref"] == 7
    assert answer["receipt"] == {
        "id": message["id"],
        "ids": [message["id"]],
        "created_at": message["created_at"],
        "delivered": 1,
        "recipients": ["alice"],
    }


def test_a_push_to_oneself_comes_back_as_a_message_too(server):
    socket = WebSocket(server, "/ws/bob")
    socket.push(push="bob", data="hi", event="e", ref="r")
    message, answer = socket.texts
    assert (message["data"], message["event"]) == ("hi", "e")
    assert answer["ref"] == "r"


@pytest.mark.parametrize("ref", [7, -1, 1.5, "r", "☃", True, None, 2**63, "x" * 1000])
def test_a_ref_comes_back_as_it_is(server, ref):
    assert WebSocket(server, "/ws/bob").push(push="alice", data="hi", ref=ref)["ref"] == ref


def test_without_a_ref_the_answer_has_none(server):
    assert WebSocket(server, "/ws/bob").push(push="alice", data="hi")["ref"] is None


def test_a_push_to_several_goes_to_each(server):
    answer = WebSocket(server, "/ws/bob").push(push=["a", "b", "a"], data="hi", ref=1)
    assert answer["receipt"]["recipients"] == ["a", "b"]
    assert len(answer["receipt"]["ids"]) == 2


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"push": "alice"}, "bad-body"),
        ({"data": "hi"}, "bad-body"),
        ({"push": 7, "data": "hi"}, "bad-body"),
        ({"push": [], "data": "hi"}, "bad-recipient"),
        ({"push": ["a", 7], "data": "hi"}, "bad-body"),
        ({"push": "", "data": "hi"}, "bad-recipient"),
        ({"push": "chat/*", "data": "hi"}, "bad-recipient"),
        ({"push": "$listeners", "data": "hi"}, "bad-recipient"),
        ({"push": [f"r{n}" for n in range(101)], "data": "hi"}, "bad-recipient"),
        ({"push": "alice", "data": ""}, "bad-body"),
        ({"push": "alice", "data": "hi", "event": 7}, "bad-body"),
        ({"push": "alice", "data": "hi", "event": "a\nb"}, "bad-parameter"),
        ({"push": "alice", "data": "x" * 65_537}, "body-too-large"),
    ],
)
def test_a_push_that_cannot_be_made_is_answered_with_a_problem_and_its_ref(server, asked, kind):
    socket = WebSocket(server, "/ws/bob")
    answer = socket.push(**asked, ref=7)
    assert answer["ref"] == 7
    assert answer["error"]["type"] == f"urn:cometd-lite:problem:{kind}"
    assert answer["error"]["status"] >= 400
    assert answer["error"]["detail"]
    assert socket.push(push="alice", data="on it goes", ref=8)["receipt"]


@pytest.mark.parametrize("text", ["", "hi", "[]", "7", "null", "{", '{"a":1}x', "[" * 2000])
def test_a_text_that_is_no_json_object_is_answered_with_a_problem(server, text):
    socket = WebSocket(server, "/ws/bob")
    socket.text(text)
    (answer,) = socket.texts
    assert answer["ref"] is None
    assert answer["error"]["status"] == 400
    assert not socket.closed


@pytest.mark.parametrize("ref", ["[" * 300 + "]" * 300, '{"a":1}'])
def test_a_ref_that_is_not_needed_is_refused(server, ref):
    socket = WebSocket(server, "/ws/bob")
    socket.text(f'{{"push": "alice", "data": "hi", "ref": {ref}}}')
    (answer,) = socket.texts
    assert answer["error"]["status"] == 400
    assert server.read("/poll/alice?after=oldest&wait=0") == []


def test_a_full_mailbox_is_an_error_that_says_so(serve):
    server = serve(Limits(capacity=1))
    socket = WebSocket(server, "/ws/bob")
    assert "receipt" in socket.push(push="alice", data="1", ref=1)
    answer = socket.push(push="alice", data="2", ref=2)
    assert (answer["ref"], answer["error"]["status"]) == (2, 503)


def test_an_embedding_program_is_asked_whether_a_push_is_allowed(serve):
    asked = []

    def authorize(request: Any, action: str, name: str) -> bool:
        asked.append((action, name))
        return name != "secret"

    server = serve(authorize=authorize)
    socket = WebSocket(server, "/ws/bob")
    answer = socket.push(push="secret", data="hi", ref=1)
    assert (answer["ref"], answer["error"]["status"]) == (1, 403)
    assert "receipt" in socket.push(push="alice", data="hi", ref=2)
    assert asked == [("poll", "bob"), ("push", "secret"), ("push", "alice")]


def test_an_embedding_program_may_take_its_time_to_allow_a_push(serve):
    verdict: Deferred[bool] = Deferred()
    server = serve(authorize=lambda request, action, name: action == "poll" or verdict)
    socket = WebSocket(server, "/ws/bob")
    assert socket.push(push="alice", data="hi", ref=1) is None
    verdict.callback(True)
    assert socket.texts[0]["ref"] == 1


# -- frames


def test_a_text_may_come_in_fragments_and_a_ping_between_them(server):
    socket = WebSocket(server, "/ws/bob")
    text = msgspec.json.encode({"push": "alice", "data": "grüße", "ref": 1})
    for at in range(0, len(text), 5):
        socket.send(frame(1 if at == 0 else 0, text[at : at + 5], fin=at + 5 >= len(text)))
        socket.send(frame(9, b"p"))
    assert [event for event in socket.read() if isinstance(event, Pong)]
    assert socket.texts[-1]["receipt"]
    assert server.read("/poll/alice?after=oldest") == ["grüße"]


def test_bytes_may_come_one_by_one(server):
    socket = WebSocket(server, "/ws/bob")
    for byte in socket.frames.send(TextMessage('{"push": "alice", "data": "hi", "ref": 1}')):
        socket.send(bytes([byte]))
    assert socket.texts[-1]["receipt"]


def test_a_message_at_the_bound_is_taken_and_one_above_it_is_1009(serve):
    server = serve(Limits(max_body=1_000))
    socket = WebSocket(server, "/ws/bob")
    assert "receipt" in socket.push(push="alice", data="x" * 1_000, ref=1)
    socket.text("x" * 10_000)
    assert socket.goodbye[0] == 1009
    assert socket.closed
    assert server.parked == 0


def test_a_message_too_large_in_fragments_is_1009_before_it_is_all_there(serve):
    server = serve(Limits(max_body=1_000))
    socket = WebSocket(server, "/ws/bob")
    socket.send(frame(1, b"x" * 1_000, fin=False))
    for _ in range(10):
        if socket.closed:
            break
        socket.send(frame(0, b"x" * 1_000, fin=False))
    assert socket.goodbye[0] == 1009
    assert server.parked == 0


def test_a_frame_that_says_it_is_huge_is_1009_as_soon_as_too_much_of_it_came(serve):
    server = serve(Limits(max_body=1_000))
    socket = WebSocket(server, "/ws/bob")
    socket.send(b"\x81\xff" + (2**40).to_bytes(8) + b"\0\0\0\0")
    for _ in range(10):
        if socket.closed:
            break
        socket.send(b"x" * 1_000)
    assert socket.goodbye[0] == 1009


def test_fragments_without_end_and_without_content_are_not_kept(server):
    socket = WebSocket(server, "/ws/bob")
    socket.send(frame(1, b"", fin=False))
    many = frame(0, b"", fin=False) * 3_000
    tracemalloc.start()
    try:
        socket.send(many)
        before, _ = tracemalloc.get_traced_memory()
        socket.send(many)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10_000
    socket.send(frame(0, b'{"push":"a","data":"hi"}'))
    assert socket.texts[-1]["receipt"]


def test_a_message_in_fragments_of_one_byte_takes_memory_and_time_in_proportion(server):
    socket = WebSocket(server, "/ws/bob")
    text = msgspec.json.encode({"push": "alice", "data": "ü" * 8_000, "ref": 1})
    pieces = [text[at : at + 1] for at in range(len(text))]
    fragments = [frame(0, piece, fin=False) for piece in pieces[1:]]
    socket.send(frame(1, pieces[0], fin=False))
    tracemalloc.start()
    try:
        socket.send(b"".join(fragments))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 5 * len(text)
    socket.send(frame(0))
    assert socket.texts[-1]["receipt"]


def test_text_that_is_not_utf_8_is_1007_before_its_message_is_all_there(server):
    # RFC 6455 §8.1: as soon as it is found.
    socket = WebSocket(server, "/ws/bob")
    socket.send(frame(1, b"\xc3", fin=False) + frame(0, b"\xbc", fin=False))
    assert not socket.closed
    socket.send(frame(0, b"\xff", fin=False))
    assert socket.goodbye[0] == 1007
    assert server.parked == 0


def test_a_message_that_ends_inside_a_character_is_1007(server):
    socket = WebSocket(server, "/ws/bob")
    socket.send(frame(1, b"\xc3", fin=False) + frame(0))
    assert socket.goodbye[0] == 1007


def test_a_ping_between_the_fragments_of_a_message_at_the_bound_is_answered(serve):
    server = serve(Limits(max_body=1_000))
    socket = WebSocket(server, "/ws/bob")
    most = 1_000 + SOCKET_MESSAGE_BYTES_OVER_BODY
    socket.send(frame(1, b"x" * most, fin=False) + frame(9, b"y" * 125) + frame(0))
    assert [event.payload for event in socket.read() if isinstance(event, Pong)] == [b"y" * 125]
    assert socket.texts[-1]["error"]["status"] == 400
    socket.send(frame(1, b"x" * most, fin=False) + frame(0, b"x"))
    assert socket.goodbye[0] == 1009


def test_what_came_before_a_bad_frame_in_the_same_packet_is_answered_in_order(server):
    socket = WebSocket(server, "/ws/bob")
    push = frame(1, b'{"push":"a","data":"hi"}')
    socket.send(frame(9, b"1") + push + frame(9, b"2") + push + frame(3) + push + frame(9, b"3"))
    kinds = [type(event).__name__ for event in socket.read()]
    assert kinds == ["Pong", "TextMessage", "Pong", "TextMessage", "CloseConnection"]
    assert socket.goodbye[0] == 1002


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(2, b"binary"), 1003),
        (frame(1, b"\xff\xfe"), 1007),
        (frame(1, b"hi", mask=False), 1002),
        (frame(3, b"reserved"), 1002),
        (b"\xf1\x80\0\0\0\0", 1002),
        (frame(0, b"continues nothing"), 1002),
        (frame(9, b"x" * 126), 1002),
        (frame(9, b"x", fin=False), 1002),
        (frame(8, b"\0"), 1002),
        (frame(8, struct.pack(">H", 999)), 1002),
        (frame(1, b"a", fin=False) + frame(1, b"b"), 1002),
    ],
    ids=str,
)
def test_a_bad_frame_is_answered_with_a_code_and_ends_the_connection(server, data, code):
    socket = WebSocket(server, "/ws/bob")
    socket.send(data)
    assert socket.goodbye[0] == code
    assert socket.closed
    assert not socket.aborted
    assert server.parked == 0
    assert server.clock.getDelayedCalls() == []


def test_a_ping_is_answered_with_its_payload(server):
    socket = WebSocket(server, "/ws/bob")
    socket.say(Ping(b"abc"))
    assert [event.payload for event in socket.read() if isinstance(event, Pong)] == [b"abc"]


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999, None])
def test_a_close_is_answered_with_the_same_and_ends_the_connection(server, code):
    socket = WebSocket(server, "/ws/bob")
    socket.send(frame(8, b"" if code is None else struct.pack(">H", code) + b"bye"))
    assert socket.goodbye == ((1005, "") if code is None else (code, "bye"))
    assert socket.closed
    assert not socket.aborted
    assert server.parked == 0
    assert server.clock.getDelayedCalls() == []


def test_what_comes_after_the_close_is_not_heard(server):
    socket = WebSocket(server, "/ws/bob")
    late = frame(1, b'{"push": "alice", "data": "late"}')
    socket.send(frame(8, struct.pack(">H", 1000)) + late + frame(9, b"late"))
    assert server.read("/poll/alice?after=oldest&wait=0") == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_are_a_fault_of_the_server(serve, data):
    server = serve()
    socket = WebSocket(server, "/ws/bob?after=oldest")
    good = frame(1, b'{"push": "bob", "data": "hi", "ref": 1}')
    pieces = st.one_of(
        st.binary(max_size=20),
        st.just(good),
        st.builds(frame, st.integers(0, 15), st.binary(max_size=130), fin=st.booleans(), mask=st.booleans()),
    )
    for piece in data.draw(st.lists(pieces, max_size=8)):
        if not socket.closed:
            socket.send(piece)
    socket.read()
    if not socket.closed:
        socket.hang_up()
    assert server.parked == 0
    assert server.clock.getDelayedCalls() == []


# -- silence, slowness, and the end


def test_a_ping_comes_every_25_seconds_and_who_answers_lives(server):
    socket = WebSocket(server, "/ws/bob")
    for count in range(1, 6):
        server.advance(25)
        assert len(socket.pings) == count
        socket.pong()
    assert not socket.closed
    server.push("/bob", "hi")
    assert socket.data == ["hi"]


def test_who_is_silent_for_an_interval_after_a_ping_is_gone(server):
    socket = WebSocket(server, "/ws/bob")
    server.advance(25)
    assert not socket.closed
    server.advance(25)
    assert socket.aborted
    assert server.parked == 0
    assert server.clock.getDelayedCalls() == []
    assert server.comet.hub.counts.sockets == 0


def test_who_was_told_the_end_and_does_not_go_is_cut_off(server):
    socket = WebSocket(server, "/ws/bob", room=200)
    for _ in range(3):
        server.push("/bob", "x" * 60_000)
    server.stop()
    assert not socket.closed  # it is told when it has taken what came before
    server.advance(25)
    assert socket.aborted
    assert server.parked == 0


def test_a_reset_forgets_everything(server):
    sockets = [WebSocket(server, f"/ws/bob{n}") for n in range(3)]
    assert server.comet.hub.counts.sockets == 3
    for socket in sockets:
        socket.hang_up()
    assert server.parked == 0
    assert server.comet.hub.counts.sockets == 0
    assert server.clock.getDelayedCalls() == []


def test_a_client_that_does_not_read_waits_at_its_cursor_and_costs_one_write(serve):
    server = serve(Limits(capacity_bytes=4 * 1024 * 1024))
    socket = WebSocket(server, "/ws/bob", room=100_000)
    sent = [f"{number} ".ljust(60_000, ".") for number in range(35)]
    for body in sent:
        server.push("/bob", body)
        assert len(socket.socket.unsent) <= HIGH + 61_000
    assert not socket.closed
    socket.take()
    assert socket.data == sent


def test_a_client_that_takes_nothing_for_a_minute_is_disconnected(server):
    socket = WebSocket(server, "/ws/bob", room=200)
    for _ in range(3):
        server.push("/bob", "x" * 60_000)
    server.advance(25)
    server.advance(25)
    assert not socket.closed
    server.advance(25)
    assert socket.aborted
    assert server.parked == 0


def test_a_client_that_does_not_read_its_receipts_is_read_no_more_until_it_does(serve):
    server = serve()
    socket = WebSocket(server, "/ws/bob", room=200)
    asked = 0
    while socket.socket.reading:
        socket.send(frame(1, b'{"push":"alice","data":"x"}') * 100)
        asked += 100
        assert asked < 1_000
    assert len(socket.socket.unsent) < 2 * HIGH
    while not socket.socket.reading:
        socket.take(50_000)
        socket.socket.room = 0
    socket.take()
    assert len([text for text in socket.texts if "receipt" in text]) == asked
    socket.say(Ping(b"still there"))
    assert socket.read()[-1].payload == b"still there"


def test_a_backlog_larger_than_the_buffer_is_paced(serve):
    server = serve(Limits(capacity_bytes=8 * 1024 * 1024))
    for _ in range(40):
        server.push("/bob", "\n" * 60_000)
    socket = WebSocket(server, "/ws/bob?after=oldest", room=1_000)
    while socket.socket.unsent and not socket.closed:
        assert len(socket.socket.unsent) <= 256 * 1024
        socket.take(100_000)
        socket.socket.room = 0
    assert [len(data) for data in socket.data] == [60_000] * 40


def test_nothing_falls_into_the_middle_of_a_frame(serve):
    server = serve(Limits(max_body=500_000))
    socket = WebSocket(server, "/ws/bob", room=1_000)
    server.push("/bob", "x" * 500_000)
    socket.text('{"push": "alice", "data": "hi", "ref": 1}')
    socket.say(Ping(b"between"))
    server.advance(25)
    server.push("/bob", "next")
    socket.take(600_000)
    socket.socket.room = 1_000
    server.push("/bob", "x" * 500_000)
    server.push("/bob", "last")  # for when it comes back with its cursor
    server.stop()
    socket.take()
    assert [len(data) for data in socket.data] == [500_000, 4, 500_000]
    assert [text["ref"] for text in socket.texts if "ref" in text] == [1]
    assert [event.payload for event in socket.read() if isinstance(event, Pong)] == [b"between"]
    assert socket.goodbye[0] == 1012
    assert socket.closed


def test_who_floods_with_pings_and_takes_nothing_is_cut_off(server):
    socket = WebSocket(server, "/ws/bob", room=200)
    sent = 0
    while socket.socket.reading:
        socket.send(frame(9, b"x" * 125) * 10)
        sent += 1
        assert sent < 100
    assert len(socket.socket.unsent) < 2 * HIGH
    server.advance(25)
    server.advance(25)
    assert not socket.closed
    server.advance(25)
    assert socket.aborted


def test_a_slow_client_with_much_to_take_is_not_taken_for_silent(serve):
    server = serve(Limits(capacity_bytes=4 * 1024 * 1024))
    socket = WebSocket(server, "/ws/bob?after=oldest")
    server.advance(20)
    socket.socket.room = 1_000
    for _ in range(10):
        server.push("/bob", "x" * 60_000)
    for _ in range(12):
        server.advance(5)
        socket.take(10_000)
        socket.socket.room = 0
    assert not socket.closed
    socket.take()
    assert len(socket.data) == 10


def test_the_server_closes_with_1012_when_it_stops(server):
    socket = WebSocket(server, "/ws/bob")
    server.push("/bob", "last")
    server.stop()
    assert socket.data == ["last"]
    assert socket.goodbye[0] == 1012
    assert socket.closed
    assert not socket.aborted
    assert server.parked == 0
    assert server.clock.getDelayedCalls() == []


def test_a_server_that_stops_opens_no_socket(server):
    server.stop()
    refused = Connection(server)
    refused.request("GET", "/ws/bob", UPGRADE)
    assert refused.status == 503


def test_a_ping_just_before_the_end_does_not_make_it_a_reset(server):
    socket = WebSocket(server, "/ws/bob")
    socket.send(frame(2, b"binary") + frame(9, b"late"))
    assert socket.goodbye[0] == 1003
    assert not socket.aborted


def test_an_open_socket_is_not_ended_by_the_idle_timer_of_its_server(server, monkeypatch):
    monkeypatch.setattr(Connection, "idle", 60)
    socket = WebSocket(server, "/ws/bob")
    for _ in range(20):
        server.advance(25)
        if socket.clock is not server.clock:
            socket.clock.advance(25)
        socket.pong()
    assert not socket.closed


def test_after_the_close_a_socket_says_no_more(server):
    socket = WebSocket(server, "/ws/bob")
    socket.say(CloseConnection(1000))
    server.push("/bob", "late")
    assert socket.data == []


@pytest.mark.parametrize(("ack", "status"), [("no", 503), ("yes", 202)])
def test_a_socket_that_only_watches_makes_no_room(serve, ack, status):
    server = serve(Limits(capacity=1))
    first = server.push("/bob", "1").json["id"]
    WebSocket(server, f"/ws/bob?after={first}&ack={ack}").hang_up()
    assert server.ask("POST", "/push/bob", "2").status == status


def test_what_a_socket_was_sent_makes_room_for_the_next_push(serve):
    server = serve(Limits(capacity=2))
    socket = WebSocket(server, "/ws/bob")
    assert server.ask("POST", "/push/bob", "1\n2\n", {"Content-Type": "application/x-ndjson"}).status == 201
    assert server.ask("POST", "/push/bob", "3", {"Content-Type": "application/json"}).status == 201
    assert [text["data"] for text in socket.texts] == [1, 2, 3]


def test_what_a_socket_was_sent_counts_as_fetched_at_its_next_ping(server):
    WebSocket(server, "/ws/bob")
    server.push("/bob", "1")
    server.advance(PING_SECONDS)
    assert server.get("/recipients/bob").json["queued"] == 0
