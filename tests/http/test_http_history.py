"""HTTP.md, "Poll": ``after=last:50`` and ``after=since:600``, on polls, streams, sockets and listeners."""

from __future__ import annotations

import pytest
from wires import Stream, WebSocket, leave

from cometd_lite.limits import Limits

READERS = ["/chat/a?", "/chat/*?", "?rcpt=chat/a&rcpt=bob&", "?rcpt=bob&rcpt=**&"]
NDJSON = {"Accept": "application/x-ndjson"}


@pytest.fixture(autouse=True)
def everyone_leaves(serve):
    yield
    leave()


def push_over_time(server, *texts: str) -> None:
    """Push one message every 10 seconds, the last one at this moment."""
    for number, text in enumerate(texts):
        if number:
            server.advance(10)
        server.push("/chat/a", text)


def data(lines) -> list[str]:
    return [line["data"] for line in lines if "data" in line]


# -- polls


@pytest.mark.parametrize("recipients", READERS)
def test_a_poll_begins_with_the_newest_messages(server, recipients):
    push_over_time(server, "1", "2", "3")
    assert server.read(f"/poll{recipients}after=last:2") == ["2", "3"]
    assert server.read(f"/poll{recipients}after=last:1000") == ["1", "2", "3"]
    assert server.read(f"/poll{recipients}after=last%3A1") == ["3"]


@pytest.mark.parametrize("recipients", READERS)
def test_a_poll_begins_with_what_was_accepted_in_the_last_seconds(server, recipients):
    push_over_time(server, "1", "2", "3")
    assert server.read(f"/poll{recipients}after=since:10") == ["2", "3"]
    assert server.read(f"/poll{recipients}after=since:9.999") == ["3"]
    assert server.read(f"/poll{recipients}after=since:99999999") == ["1", "2", "3"]
    server.advance(0.5)
    assert server.read(f"/poll{recipients}after=since:0&wait=0") == []


def test_the_cursor_of_the_answer_is_an_ordinary_one(server):
    push_over_time(server, "1", "2", "3")
    answer = server.get("/poll/chat/a?after=last:2&limit=1")
    assert answer.json["cursor"] == answer.json["messages"][-1]["id"]
    assert answer.json["more"] is True
    assert server.read(f"/poll/chat/a?after={answer.json['cursor']}") == ["3"]
    raw = server.get("/poll/chat/a?after=last:2&format=raw")
    assert (raw.body, raw.headers["comet-cursor"]) == (b"2", raw.headers["comet-id"])


def test_a_history_is_not_a_gap_and_what_is_lost_later_is(serve):
    server = serve(Limits(capacity=3), overflow="drop-oldest")
    for number in range(5):
        server.push("/bob", str(number))
    answer = server.get("/poll/bob?after=last:2")
    assert answer.json["gap"] is False
    assert "comet-gap" not in answer.headers
    server.ask("DELETE", "/recipients/bob")
    first = answer.json["messages"][0]["id"]
    assert server.get(f"/poll/bob?after={first}&wait=0").json["gap"] is True
    assert server.get("/poll/bob?after=last:2&wait=0").json["gap"] is False


@pytest.mark.parametrize("after", ["last:5", "since:60"])
def test_a_poll_for_which_there_is_no_history_waits_for_what_comes(server, after):
    server.push("/eve", "no")
    poll = server.park(f"/poll/bob?after={after}")
    server.push("/bob", "1")
    assert data(poll.answer.json["messages"]) == ["1"]
    ended = server.get(f"/poll/bob?after={after.replace('5', '1').replace('60', '0')}&wait=0").json
    assert ended["cursor"] == poll.answer.json["cursor"]


def test_the_wait_of_such_a_poll_ends_with_an_ordinary_cursor(server):
    poll = server.park("/poll/bob?after=last:5&wait=1")
    server.advance(2)
    assert poll.answer.json["messages"] == []
    server.push("/bob", "1")
    assert server.read(f"/poll/bob?after={poll.answer.json['cursor']}") == ["1"]


def test_a_history_acknowledges_nothing(server):
    push_over_time(server, "1", "2", "3")
    server.get("/poll/chat/a?after=last:1")
    server.get("/poll/chat/a?after=since:60")
    assert server.get("/recipients/chat/a").json["queued"] == 3
    assert server.ask("HEAD", "/poll/chat/a?after=last:1").headers["comet-cursor"]


@pytest.mark.parametrize(
    "after",
    [
        *("last", "last:", "last:0", "last:01", "last:1001", "last:-1", "last:1.5", "last:1e2", "LAST:5"),
        *("last:+5", "since", "since:", "since:-1", "since:1e2", "since:100000000", "since:1.2345"),
        *("since:10m", "accepted:5"),
    ],
)
def test_a_history_that_is_none_is_a_400_that_says_what_is_one(server, after):
    answer = server.get(f"/poll/bob?after={after}")
    assert answer.status == 400
    assert answer.json["type"].endswith("bad-cursor")
    assert "last:50" in answer.json["detail"]
    assert "since:600" in answer.json["detail"]


@pytest.mark.parametrize("field", ["If-None-Match", "Last-Event-ID"])
@pytest.mark.parametrize("asked", ["last:5", "since:5"])
def test_only_after_asks_for_a_history(server, field, asked):
    answer = server.get("/poll/bob", {field: asked})
    assert answer.status == 400
    assert answer.json["detail"] == f"{field} is a cursor that this server gave out, or oldest, or now."


# -- streams and sockets


@pytest.mark.parametrize("after", ["last:2", "since:10"])
def test_a_stream_begins_with_a_history_and_goes_on(server, after):
    push_over_time(server, "1", "2", "3")
    stream = Stream(server, f"/stream/chat/a?after={after}", NDJSON)
    server.push("/chat/a", "4")
    assert data(stream.lines) == ["2", "3", "4"]
    assert {"gap": True} not in stream.lines


def test_an_event_source_that_comes_back_goes_on_where_it_was(server):
    push_over_time(server, "1", "2", "3")
    events = Stream(server, "/stream/chat/a?after=last:2").parse().events
    assert [event.data for event in events] == ["2", "3"]
    again = Stream(server, "/stream/chat/a?after=last:2", {"Last-Event-ID": events[0].id})
    assert [event.data for event in again.parse().events] == ["3"]


def test_a_stream_without_a_history_has_a_place(server):
    server.push("/eve")
    place = server.get("/poll/eve?after=now&wait=0").json["cursor"]
    assert Stream(server, "/stream/bob?after=last:5").place == place


def test_a_history_longer_than_one_read_comes_whole(server):
    body = "\n".join(str(number) for number in range(700))
    server.push("/bob", body, {"Content-Type": "application/x-ndjson"})
    stream = Stream(server, "/stream/bob?after=last:650", NDJSON)
    while len(data(stream.lines)) < 650:
        server.advance(0)
    assert data(stream.lines) == list(range(50, 700))


def test_a_socket_begins_with_a_history(server):
    push_over_time(server, "1", "2", "3")
    socket = WebSocket(server, "/ws/chat/*?after=last:2")
    server.push("/chat/b", "4")
    assert data(socket.texts) == ["2", "3", "4"]


# -- listeners


def test_a_listener_may_go_back_to_the_newest_messages(server):
    listener = server.ask("POST", "/register", '{"recipients": ["chat/a"]}').json["id"]
    push_over_time(server, "1", "2", "3")
    assert server.read(f"/poll?listener={listener}") == ["1", "2", "3"]
    assert server.read(f"/poll?listener={listener}&after=last:2") == ["2", "3"]
    assert server.read(f"/poll?listener={listener}&after=since:10") == ["2", "3"]
    server.push("/chat/a", "4")
    assert server.read(f"/poll?listener={listener}") == ["4"]


def test_what_a_listener_was_not_sent_of_a_history_is_sent_again(server):
    listener = server.ask("POST", "/register", '{"recipients": ["bob"]}').json["id"]
    server.push("/bob", "1")
    server.get(f"/poll?listener={listener}")
    server.advance(1)
    lost = server.park(f"/poll?listener={listener}&after=since:0")
    lost.hang_up()
    server.push("/bob", "2")
    assert server.read(f"/poll?listener={listener}") == ["2"]
