"""HTTP.md, "Poll", "Stream" and "WebSocket" with patterns: many recipients, one cursor, one order."""

from __future__ import annotations

import pytest
from helpers import check_empty
from wires import Stream, WebSocket, leave

from cometd_lite.limits import Limits

NAMES = ["chat", "chat/a", "chat/a/b", "chat/a/b/c", "chats/a", "news/a", "bob"]


@pytest.fixture(autouse=True)
def everybody_leaves(serve):
    yield
    leave()


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("chat/*", ["chat/a"]),
        ("chat/**", ["chat/a", "chat/a/b", "chat/a/b/c"]),
        ("chat/a/*", ["chat/a/b"]),
        ("*", ["chat", "bob"]),
        ("**", NAMES),
    ],
)
class TestAPattern:
    """What a pattern covers, by each of the ways to read."""

    def test_is_read_by_a_poll(self, server, pattern, covered):
        for name in NAMES:
            server.push(f"/{name}", name)
        assert server.read(f"/poll/{pattern}?after=oldest") == covered

    def test_wakes_a_poll(self, server, pattern, covered):
        for name in NAMES:
            poll = server.send("GET", f"/poll/{pattern}?after=now")
            delivered = server.push(f"/{name}", name).json["delivered"]
            server.driver.flush()
            assert (poll.answer is not None) == (name in covered) == (delivered == 1)
            if poll.answer is None:
                poll.hang_up()

    def test_is_told_by_a_stream(self, server, pattern, covered):
        stream = Stream(server, f"/stream/{pattern}")
        for name in NAMES:
            server.push(f"/{name}", name)
        assert stream.data == covered
        assert Stream(server, f"/stream/{pattern}?after=oldest").data == covered

    def test_is_told_by_a_socket(self, server, pattern, covered):
        socket = WebSocket(server, f"/ws/{pattern}")
        for name in NAMES:
            server.push(f"/{name}", name)
        assert socket.data == covered
        assert [text["recipient"] for text in socket.texts] == covered

    def test_is_read_by_a_listener(self, server, pattern, covered):
        listener = server.ask("POST", "/register", f'{{"recipients": ["{pattern}"]}}').json["id"]
        for name in NAMES:
            server.push(f"/{name}", name)
        assert server.read(f"/poll?listener={listener}") == covered

    def test_is_forgotten_with_its_reader(self, server, pattern, covered):
        stream, socket = Stream(server, f"/stream/{pattern}"), WebSocket(server, f"/ws/{pattern}")
        assert server.parked == 2
        stream.hang_up()
        socket.hang_up()
        check_empty(server.comet.hub)
        assert server.clock.getDelayedCalls() == []


@pytest.mark.parametrize("how", ["/poll", "/stream"])
@pytest.mark.parametrize("name", ["a*", "*/a", "a/**/b", "**/a", "a/*b", "a/***"])
def test_a_star_elsewhere_is_a_part_of_a_name_or_not_allowed(server, how, name):
    segments = name.split("/")
    reader = Stream(server, f"{how}/{name}?after=now&wait=0")
    allowed = not {"*", "**"}.intersection(segments)
    assert reader.status == (200 if allowed else 400)


def test_a_pattern_cannot_be_pushed_to_nor_taken_from(server):
    assert server.ask("POST", "/push/chat/*", "hi").status == 400
    assert server.get("/poll/chat/*?wait=0").status == 400


def test_names_and_patterns_are_one_order_with_one_cursor(server):
    pushed = ["bob", "chat/a", "news", "bob", "chat/b", "chat/a/b"]
    ids = [server.push(f"/{name}", name).json["id"] for name in pushed]
    target = "rcpt=bob&rcpt=chat/*&rcpt=chat/a"
    assert server.read(f"/poll?{target}&after=oldest") == ["bob", "chat/a", "bob", "chat/b"]
    # Any id is a place for any set of recipients.
    for at, place in enumerate(ids):
        rest = [name for name in pushed[at + 1 :] if name not in {"news", "chat/a/b"}]
        assert server.read(f"/poll?{target}&after={place}&wait=0") == rest
        assert Stream(server, f"/stream?{target}&after={place}").data == rest


def test_who_is_named_twice_is_told_once(server):
    stream = Stream(server, "/stream?rcpt=chat/a&rcpt=chat/*&rcpt=**&rcpt=chat/a")
    assert server.push("/chat/a", "once").json["delivered"] == 1
    assert stream.data == ["once"]


def test_the_cursor_of_a_patterns_reader_goes_on_over_what_others_were_pushed(server):
    poll = server.park("/poll/chat/*?after=now&wait=10")
    for number in range(5):
        last = server.push("/bob", str(number)).json["id"]
    server.advance(10)
    place = poll.answer.json["cursor"]
    server.push("/chat/a", "hi")
    assert server.read(f"/poll/chat/*?after={place}") == ["hi"]
    assert server.read(f"/poll/chat/*?after={last}") == ["hi"]


def test_a_stream_of_a_pattern_goes_on_where_it_stood(server):
    stream = Stream(server, "/stream/chat/**")
    server.push("/chat/a", "1")
    stream.hang_up()
    server.push("/chat/b/c", "2")
    server.push("/bob", "x")
    assert Stream(server, "/stream/chat/**", {"Last-Event-ID": stream.place}).data == ["2"]


# -- gaps


def lose(server, recipient):
    assert server.ask("DELETE", f"/recipients/{recipient}").status == 204


@pytest.mark.parametrize("pattern", ["chat/*", "chat/**", "*", "**"])
def test_what_is_lost_below_a_pattern_is_a_gap(server, pattern):
    name = "a" if pattern == "*" else "chat/a"
    place = server.push(f"/{name}", "1").json["id"]
    server.push(f"/{name}", "lost")
    lose(server, name)
    server.push(f"/{name}", "3")
    answer = server.get(f"/poll/{pattern}?after={place}").json
    assert answer["gap"] is True
    assert [message["data"] for message in answer["messages"]] == ["3"]
    assert [event.type for event in Stream(server, f"/stream/{pattern}?after={place}").told] == [
        "gap",
        "message",
    ]
    assert WebSocket(server, f"/ws/{pattern}?after={place}").texts[0] == {"gap": True}


def test_what_is_lost_elsewhere_is_no_gap(server):
    place = server.push("/chat/a", "1").json["id"]
    server.push("/bob", "lost")
    lose(server, "bob")
    server.push("/chat/a", "2")
    assert server.get(f"/poll/chat/*?after={place}").json["gap"] is False


def test_what_expired_below_a_pattern_is_a_gap(server):
    place = server.push("/chat/a", "1").json["id"]
    server.push("/chat/b?ttl=5", "expires")
    server.advance(6)
    assert server.get(f"/poll/chat/*?after={place}&wait=0").json["gap"] is True


def test_what_was_dropped_below_a_pattern_is_a_gap(serve):
    server = serve(Limits(capacity=2))
    place = server.push("/chat/a", "0").json["id"]
    for number in range(1, 5):
        server.push("/chat/a?overflow=drop-oldest", str(number))
    answer = server.get(f"/poll/chat/**?after={place}").json
    assert answer["gap"] is True
    assert [message["data"] for message in answer["messages"]] == ["3", "4"]


def test_a_reader_of_a_pattern_makes_room_by_coming_back(serve):
    server = serve(Limits(capacity=2))
    server.push("/chat/a", "1")
    place = server.push("/chat/a", "2").json["id"]
    assert server.ask("POST", "/push/chat/a", "3").status == 503
    server.get(f"/poll/chat/*?after={place}&wait=0")
    assert server.ask("POST", "/push/chat/a", "3").status in {201, 202}


def test_a_push_to_a_deep_name_wakes_every_pattern_above_it(server):
    name = "/".join("abcdefgh")
    patterns = [name, "**", *(f"{name[: 2 * depth - 1]}/**" for depth in range(1, 8)), f"{name[:-2]}/*"]
    streams = [Stream(server, f"/stream/{pattern}") for pattern in patterns]
    assert server.push(f"/{name}", "hi").json["delivered"] == len(patterns) == 10
    assert all(stream.data == ["hi"] for stream in streams)
