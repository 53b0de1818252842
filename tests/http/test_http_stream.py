"""HTTP.md, "Stream": Server-Sent Events and NDJSON, over either server, byte for byte."""

from __future__ import annotations

import base64
import sys
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wires import HIGH, Connection, EventSource, Stream

from cometd_lite.core.message import Batch, Content, Cursor, Message
from cometd_lite.http import sse
from cometd_lite.limits import HEARTBEAT_SECONDS, STREAM_MESSAGES, Limits

NDJSON = {"Accept": "application/x-ndjson"}
OCTETS = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}


def now(server, recipient="bob"):
    """Return the cursor of this moment."""
    return server.get(f"/poll/{recipient}?after=now&wait=0").json["cursor"]


# -- how it begins


def test_it_is_a_stream_of_events_unless_ndjson_is_accepted(server):
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "text/event-stream"}):
        assert (
            Stream(server, "/stream/bob", headers).headers["content-type"]
            == "text/event-stream; charset=utf-8"
        )
    for accept in ("application/x-ndjson", "Application/X-NDJSON;q=0.9"):
        stream = Stream(server, "/stream/bob", {"Accept": accept})
        assert stream.headers["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_its_head_lets_no_proxy_store_or_buffer_it_and_says_what_it_depends_on(server, accept):
    status, headers = Stream(server, "/stream/bob", {"Accept": accept}).head()
    assert status == 200
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"
    assert set(headers["vary"].split(", ")) == {"Accept", "Origin"}
    assert "content-length" not in headers
    assert "content-encoding" not in headers


def test_the_head_a_comment_and_a_retry_go_out_at_once(server):
    stream = Stream(server, "/stream/bob")
    assert stream.body.startswith(b":")
    parsed = stream.parse()
    assert parsed.comments
    assert len(parsed.retry) == 1
    assert 1_000 <= parsed.retry[0] <= 3_000
    assert parsed.events == []


def test_retries_have_jitter(server):
    assert len({Stream(server, "/stream/bob").parse().retry[0] for _ in range(20)}) > 10


def test_ndjson_begins_at_once_too(server):
    assert Stream(server, "/stream/bob", NDJSON).lines[0] == {"heartbeat": True}


def test_a_reader_has_its_place_before_any_message(server):
    server.push("/bob")
    place = now(server)
    assert Stream(server, "/stream/bob").place == place
    assert Stream(server, "/stream/bob", NDJSON).lines[-1] == {"heartbeat": True, "cursor": place}


def test_who_was_cut_off_before_the_first_message_misses_nothing(server):
    stream = Stream(server, "/stream/bob")
    place = stream.place
    stream.hang_up()
    server.push("/bob", "while away")
    assert Stream(server, "/stream/bob", {"Last-Event-ID": place}).data == ["while away"]


def test_a_reader_that_has_messages_to_read_is_not_told_a_place_before_them(server):
    first = server.push("/bob", "1").json["id"]
    server.push("/bob", "2")
    body = Stream(server, f"/stream/bob?after={first}").body
    assert body.count(b"id: ") == 1


def test_head_is_answered_like_get_but_holds_nothing_and_has_no_length(server):
    connection = Connection(server)
    connection.request("HEAD", "/stream/bob")
    status, headers = connection.head()
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers
    assert connection.bytes.endswith(b"\r\n\r\n")
    assert server.parked == 0


def test_a_page_of_an_allowed_origin_may_read_it(serve):
    server = serve(origins=("https://app.example",))
    headers = Stream(server, "/stream/bob", {"Origin": "https://app.example"}).headers
    assert headers["access-control-allow-origin"] == "https://app.example"
    assert headers["access-control-allow-credentials"] == "true"
    assert "access-control-expose-headers" in headers
    foreign = Stream(server, "/stream/bob", {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize(
    "target",
    ["/stream", "/stream/", "/stream/a//b", "/stream/$x", "/stream/bob?after=x", "/stream/bob?rcpt=alice"],
)
def test_a_bad_question_is_answered_with_a_problem_and_nothing_is_held(server, target):
    connection = Stream(server, target)
    assert connection.status == 400
    assert connection.headers["content-type"] == "application/problem+json"
    assert server.parked == 0


def test_a_malformed_last_event_id_is_a_400(server):
    assert Stream(server, "/stream/bob", {"Last-Event-ID": "x"}).status == 400


# -- where it begins


def test_without_a_cursor_it_begins_now(server):
    server.push("/bob", "before")
    stream = Stream(server, "/stream/bob")
    server.push("/bob", "after")
    assert stream.data == ["after"]


def test_it_begins_after_a_cursor_at_the_oldest_or_now(server):
    first = server.push("/bob", "1").json["id"]
    server.push("/bob", "2")
    assert Stream(server, "/stream/bob?after=oldest").data == ["1", "2"]
    assert Stream(server, f"/stream/bob?after={first}").data == ["2"]
    assert Stream(server, "/stream/bob?after=now").data == []
    assert Stream(server, "/stream/bob", {"Last-Event-ID": first}).data == ["2"]
    assert Stream(server, "/stream/bob", {"If-None-Match": f'"{first}"'}).data == ["2"]


@pytest.mark.parametrize("after", ["oldest", "now", "cursor"])
def test_an_event_source_that_reconnects_as_it_was_made_goes_on_where_it_stood(server, after):
    # It sends the URL that it was given, with the after in it, and Last-Event-ID besides.
    target = f"/stream/bob?after={now(server) if after == 'cursor' else after}"
    stream = Stream(server, target)
    server.push("/bob", "1")
    assert stream.data == ["1"]
    stream.hang_up()
    server.push("/bob", "2")
    assert Stream(server, target, {"Last-Event-ID": stream.place}).data == ["2"]


@pytest.mark.parametrize("name", ["lastEventId", "Last-Event-ID"])
def test_a_polyfill_that_cannot_set_headers_says_its_place_in_the_query(server, name):
    first = server.push("/bob", "1").json["id"]
    server.push("/bob", "2")
    assert Stream(server, f"/stream/bob?{name}={first}").data == ["2"]
    assert Stream(server, f"/stream/bob?after=oldest&{name}={first}").data == ["2"]
    assert Stream(server, f"/stream/bob?{name}=x").status == 400


def test_the_header_wins_over_the_query_because_it_is_the_newer_place(server):
    first = server.push("/bob", "1").json["id"]
    second = server.push("/bob", "2").json["id"]
    server.push("/bob", "3")
    assert Stream(server, f"/stream/bob?lastEventId={first}", {"Last-Event-ID": second}).data == ["3"]


def test_several_recipients_are_one_stream_in_one_order_with_one_cursor(server):
    start = now(server)
    stream = Stream(server, f"/stream?rcpt=a&rcpt=b&after={start}")
    for name in "abba":
        server.push(f"/{name}", name)
    server.push("/c", "c")
    assert stream.data == ["a", "b", "b", "a"]
    ids = [event.id for event in stream.told]
    assert Stream(server, f"/stream?rcpt=a&rcpt=b&after={ids[1]}").data == ["b", "a"]


# -- how messages look


def test_an_event_has_the_id_the_event_name_and_the_data(server):
    stream = Stream(server, "/stream/bob")
    pushed = server.push("/bob?event=greeting", "hi").json["id"]
    (event,) = stream.told
    assert (event.id, event.type, event.data) == (pushed, "greeting", "hi")
    assert f"id: {pushed}\nevent: greeting\ndata: hi\n\n".encode() in stream.body


def test_without_an_event_name_it_is_a_message(server):
    stream = Stream(server, "/stream/bob")
    server.push("/bob", "hi")
    assert stream.told[0].type == "message"
    assert b"event:" not in stream.body


def test_data_is_the_text_the_json_or_base64(server):
    stream = Stream(server, "/stream/bob")
    server.push("/bob", "grüße ☃")
    server.push("/bob", '{"a": [1,\n2]}', JSON)
    server.push("/bob", b"\x00\xff\r\n", OCTETS)
    server.push("/bob", b"\x89PNG", {"Content-Type": "image/png"})
    text, json, octets, image = stream.data
    assert text == "grüße ☃"
    assert msgspec.json.decode(json) == {"a": [1, 2]}
    assert base64.b64decode(octets) == b"\x00\xff\r\n"
    assert base64.b64decode(image) == b"\x89PNG"


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_no_line_end_in_a_payload_forges_a_field(server, end):
    stream = Stream(server, "/stream/bob")
    server.push("/bob", f"one{end}id: forged{end}event: gap{end}{end}data: two{end}retry: 0")
    (event,) = stream.told
    assert event.data.split("\n") == ["one", "id: forged", "event: gap", "", "data: two", "retry: 0"]
    assert event.type == "message"
    assert event.id != "forged"


@given(st.text(alphabet=st.sampled_from("ab:\r\n \0\ufeff☃"), min_size=1))
def test_whatever_text_is_pushed_arrives_with_its_lines(text):
    content = Content.of(text)
    message = Message(Cursor("epoch00000", 7), "bob", content, 0.0, 1.0)
    parsed = EventSource(sse.render(Batch((message,), message.cursor)))
    (event,) = parsed.events
    assert event.data == text.replace("\r\n", "\n").replace("\r", "\n")
    assert event.id == message.id == parsed.last_event_id
    assert parsed.retry == []


def test_a_line_of_ndjson_is_the_message_object_of_a_poll(server):
    stream = Stream(server, "/stream/bob?after=oldest", NDJSON)
    server.push("/bob?event=e", '{"a":\n1}', JSON)
    server.push("/bob", "two\nlines")
    server.push("/bob", b"\xff", OCTETS)
    polled = server.get("/poll/bob?after=oldest").json["messages"]
    assert [line for line in stream.lines if "id" in line] == polled
    assert stream.lines[-1]["data_base64"] == "/w=="


# -- gaps


def lose(server, recipient="bob"):
    assert server.ask("DELETE", f"/recipients/{recipient}").status == 204


def test_a_gap_comes_as_an_event_before_the_messages(server):
    place = server.push("/bob", "1").json["id"]
    server.push("/bob", "lost")
    lose(server)
    last = server.push("/bob", "3").json["id"]
    stream = Stream(server, f"/stream/bob?after={place}")
    gap, message = stream.told
    assert gap.type == "gap"
    assert msgspec.json.decode(gap.data)["gap"] is True
    assert (message.data, message.id) == ("3", last)


def test_who_is_cut_off_between_a_gap_and_its_messages_does_not_miss_them(server):
    place = server.push("/bob", "1").json["id"]
    server.push("/bob", "lost")
    lose(server)
    server.push("/bob", "3")
    body = Stream(server, "/stream/bob", {"Last-Event-ID": place}).body
    cut = body.index(b"\n\n", body.index(b"event: gap")) + 2
    parsed = EventSource(body[:cut])
    assert [event.type for event in parsed.events] == ["gap"]
    assert parsed.last_event_id == ""  # a browser goes on saying what it said before
    assert b"cursor" not in body[body.index(b"event: gap") : cut]


def test_a_gap_with_nothing_behind_it_is_told_once(server):
    place = server.push("/bob", "1").json["id"]
    server.push("/bob", "lost")
    lose(server)
    stream = Stream(server, "/stream/bob", {"Last-Event-ID": place})
    assert [event.type for event in stream.told] == ["gap"]
    again = Stream(server, "/stream/bob", {"Last-Event-ID": stream.place})
    assert again.told == []


def test_what_is_lost_while_a_stream_is_behind_is_told_as_a_gap_between_the_messages(server):
    backlog = [server.push("/bob", f"{number} {'.' * 1_000}") for number in range(STREAM_MESSAGES + 1)]
    stream = Stream(server, "/stream/bob?after=oldest", room=1_000)
    lose(server)
    server.push("/bob", "later")
    stream.take()
    *messages, gap, later = stream.told
    assert (gap.type, later.data) == ("gap", "later")
    assert 1 < len(messages) < len(backlog)
    assert [event.id for event in messages] == [pushed.json["id"] for pushed in backlog[: len(messages)]]


def test_what_is_deleted_when_a_stream_was_told_all_of_it_is_no_gap(server):
    stream = Stream(server, "/stream/bob?after=oldest")
    server.push("/bob", "1")
    stream.socket.room = 0
    server.push("/bob", "2")
    lose(server)
    stream.take()
    server.push("/bob", "3")
    assert stream.data == ["1", "2", "3"]


def test_ndjson_tells_a_gap_in_a_line_of_its_own(server):
    place = server.push("/bob", "1").json["id"]
    server.push("/bob", "lost")
    lose(server)
    nothing = Stream(server, f"/stream/bob?after={place}", NDJSON).lines
    assert {"gap": True} in nothing
    assert nothing[-1]["cursor"] == now(server)
    server.push("/bob", "3")
    gap, message = Stream(server, f"/stream/bob?after={place}", NDJSON).lines[-2:]
    assert gap == {"gap": True}
    assert message["data"] == "3"


@pytest.mark.parametrize("cursor", ["zzzzzzzzzz-1", "future"])
def test_a_cursor_of_another_life_or_of_the_future_is_the_oldest_with_a_gap(server, cursor):
    pushed = server.push("/bob", "1").json["id"]
    if cursor == "future":
        cursor = pushed.partition("-")[0] + "-999999"
    stream = Stream(server, "/stream/bob", {"Last-Event-ID": cursor})
    assert [event.type for event in stream.told] == ["gap", "message"]


# -- heartbeats


def test_a_comment_comes_every_15_seconds(server):
    stream = Stream(server, "/stream/bob")
    before = len(stream.parse().comments)
    for beats in range(1, 9):
        server.advance(15)
        assert len(stream.parse().comments) == before + beats
    assert stream.told == []


def test_no_two_heartbeats_are_further_apart_than_15_seconds_whenever_the_reader_came(server):
    random = Random(7)
    streams = []
    for _ in range(20):
        server.advance(random.random() * 3)
        streams.append(Stream(server, "/stream/bob"))
    for stream in streams:
        before = len(stream.body)
        since = server.clock.seconds()
        while len(stream.body) == before:
            server.advance(0.25)
        assert server.clock.seconds() - since <= 15.25


def test_ndjson_has_a_line_as_heartbeat(server):
    stream = Stream(server, "/stream/bob", NDJSON)
    before = len(stream.lines)
    server.advance(15)
    assert stream.lines[before:] == [{"heartbeat": True}]


def test_a_heartbeat_does_not_change_the_place(server):
    server.push("/bob")
    stream = Stream(server, "/stream/bob?after=oldest")
    place = stream.place
    server.advance(45)
    assert stream.place == place


def test_heartbeats_of_all_streams_are_one_timer_which_ends_with_the_last(server):
    streams = [Stream(server, "/stream/bob") for _ in range(50)]
    assert len(server.clock.getDelayedCalls()) == 1
    for stream in streams:
        stream.hang_up()
    assert server.clock.getDelayedCalls() == []


# -- readers who are slow, or leave


def test_who_leaves_is_forgotten_with_everything_that_was_held(server):
    streams = [Stream(server, f"/stream/bob{n}?after=oldest") for n in range(5)]
    assert server.parked == 5
    for stream in streams:
        stream.hang_up()
    assert server.parked == 0
    assert server.clock.getDelayedCalls() == []
    assert server.comet.hub.counts.streams == 0
    server.push("/bob1")  # and nothing is written to nobody


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_a_reader_that_does_not_read_waits_at_its_cursor_and_costs_one_write(serve, accept):
    server = serve(Limits(capacity_bytes=4 * 1024 * 1024))
    stream = Stream(server, "/stream/bob?after=oldest", {"Accept": accept}, room=100_000)
    sent = [f"{number} ".ljust(60_000, ".") for number in range(35)]
    for number, body in enumerate(sent):
        waited = server.push("/bob", body).json["delivered"] == 0
        assert waited == (number >= 3)
        assert len(stream.socket.unsent) <= HIGH + 61_000
    assert not stream.closed
    stream.take()
    told = stream.data if accept == "text/event-stream" else [line["data"] for line in stream.lines[2:]]
    assert told == sent


def test_a_reader_that_was_disconnected_because_it_did_not_read_comes_back_with_its_cursor(serve):
    server = serve(Limits(capacity_bytes=4 * 1024 * 1024))
    stream = Stream(server, "/stream/bob?after=oldest", room=100_000)
    sent = [f"{number} ".ljust(60_000, ".") for number in range(35)]
    for body in sent:
        server.push("/bob", body)
    for _ in range(5):
        assert not stream.closed
        server.advance(15)
    assert stream.aborted
    assert server.parked == 0
    # It knows the messages that it has whole; it reads the others now, the one that was cut off among them.
    known = len(stream.data)
    assert stream.data == sent[:known]
    again = Stream(server, "/stream/bob", {"Last-Event-ID": stream.place})
    assert again.data == sent[known:]


@pytest.mark.parametrize("payload", ["plain", "newlines", "octets"])
@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_a_backlog_larger_than_the_buffer_is_paced_and_never_disconnects(serve, payload, accept):
    server = serve(Limits(capacity_bytes=4 * 1024 * 1024))
    bodies = {"plain": b"x" * 65_000, "newlines": b"\n" * 65_000, "octets": b"\xff" * 65_000}
    ids = [
        server.push("/bob", bodies[payload], OCTETS if payload == "octets" else {}).json["id"]
        for _ in range(9 if payload == "newlines" else 30)
    ]
    stream = Stream(server, "/stream/bob?after=oldest", {"Accept": accept}, room=1_000)
    one = 7 * 65_000 if payload == "newlines" else 90_000
    while stream.socket.unsent:
        assert not stream.closed
        assert len(stream.socket.unsent) <= HIGH + one + 1_000
        stream.take(100_000)
        stream.socket.room = 0
    if accept == "text/event-stream":
        assert [event.id for event in stream.told] == ids
    else:
        assert [line["id"] for line in stream.lines if "id" in line] == ids
    assert server.parked == 1


def test_a_message_larger_than_the_buffer_reaches_a_slow_reader(serve):
    server = serve(Limits(max_body=3_000_000, capacity_bytes=4_000_000))
    stream = Stream(server, "/stream/bob", room=1_000)
    server.push("/bob", "x" * 3_000_000)
    server.push("/bob", "next")
    while stream.socket.unsent and not stream.closed:
        stream.take(100_000)
        stream.socket.room = 0
    assert [len(data) for data in stream.data] == [3_000_000, 4]


def test_a_heartbeat_never_falls_into_the_middle_of_an_event(serve):
    server = serve(Limits(max_body=500_000))
    stream = Stream(server, "/stream/bob", room=1_000)
    body = "0123456789" * 50_000
    server.push("/bob", body)
    server.advance(15)
    server.push("/bob", "next")
    server.advance(15)
    stream.take()
    server.advance(15)
    assert stream.data == [body, "next"]
    assert len(stream.parse().comments) == 2  # at the beginning, and when it kept up again


def test_a_reader_that_takes_nothing_for_a_minute_is_disconnected(server):
    stream = Stream(server, "/stream/bob", room=100)
    for _ in range(4):
        server.push("/bob", "x" * 60_000)
    for _ in range(4):
        server.advance(15)
        assert not stream.closed
    server.advance(15)
    assert stream.aborted
    assert server.parked == 0


def test_a_slow_reader_keeps_no_other_reader_waiting(server):
    slow = Stream(server, "/stream/bob", room=0)
    quick = Stream(server, "/stream/bob")
    for number in range(5):
        server.push("/bob", str(number))
    assert quick.data == ["0", "1", "2", "3", "4"]
    slow.take()
    assert slow.data == ["0", "1", "2", "3", "4"]


def test_a_reset_in_the_middle_of_a_fan_out_harms_no_client(server):
    streams = [Stream(server, "/stream/bob") for _ in range(3)]
    server.push("/bob", "1")
    streams[1].hang_up()
    assert server.push("/bob", "2").json["delivered"] == 2
    assert streams[0].data == streams[2].data == ["1", "2"]


# -- bounds, the end, and what it costs


def test_at_the_bound_a_stream_is_refused_before_anything_is_written(serve):
    server = serve(Limits(max_parked=2))
    Stream(server, "/stream/bob")
    server.park("/poll/bob?after=now")
    refused = Stream(server, "/stream/bob")
    assert refused.status == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) >= 1
    assert server.parked == 2


def test_when_the_server_stops_streams_end_whole_with_a_new_retry(server):
    stream = Stream(server, "/stream/bob")
    server.push("/bob", "1")
    server.stop()
    assert stream.data == ["1"]
    assert stream.ended
    retries = stream.parse().retry
    assert len(retries) == 2
    assert all(1_000 <= retry <= 3_000 for retry in retries)
    assert server.parked == 0
    assert server.clock.getDelayedCalls() == []


def test_when_the_server_stops_what_was_half_told_is_told_to_its_end(serve):
    server = serve(Limits(max_body=500_000))
    stream = Stream(server, "/stream/bob", room=1_000)
    server.push("/bob", "x" * 500_000)
    server.stop()
    stream.take()
    assert [len(data) for data in stream.data] == [500_000]
    assert len(stream.parse().retry) == 2


def test_a_server_that_stops_begins_no_stream(server):
    server.stop()
    refused = Stream(server, "/stream/bob")
    assert refused.status == 503
    assert "retry-after" in refused.headers


def test_a_push_is_delivered_to_as_many_as_stream_it(server):
    for _ in range(3):
        Stream(server, "/stream/bob")
    assert server.ask("POST", "/push/bob", "hi").status == 201
    assert server.push("/bob").json["delivered"] == 3
    assert server.push("/bob?queue=no").json["delivered"] == 3


def test_who_streams_is_online(server):
    stream = Stream(server, "/stream/bob")
    assert server.get("/recipients/bob").json["waiting"] == 1
    assert server.get("/recipients/bob").json["online"] is True
    stream.hang_up()
    assert server.get("/recipients/bob").json["waiting"] == 0


def test_a_fan_out_renders_each_message_once(server):
    def rendered(name, readers):
        """Return how many functions are called to render what is pushed to so many readers."""
        calls = []

        def profile(frame, event, _):
            if event == "call" and frame.f_code.co_filename == sse.__file__:
                calls.append(frame.f_code.co_name)

        streams = [Stream(server, f"/stream/{name}") for _ in range(readers)]
        sys.setprofile(profile)
        try:
            for number in range(3):
                server.push(f"/{name}", str(number))
        finally:
            sys.setprofile(None)
        assert all(stream.data == ["0", "1", "2"] for stream in streams)
        return calls

    one = rendered("eve", 1)
    assert rendered("bob", 50) == one != []


def test_streams_and_polls_of_one_recipient_get_the_same(server):
    poll = server.park("/poll/bob?after=now")
    stream = Stream(server, "/stream/bob")
    ndjson = Stream(server, "/stream/bob", NDJSON)
    server.push("/bob", "hi")
    server.driver.flush()
    assert poll.answer.json["messages"][0]["data"] == "hi"
    assert stream.data == ["hi"]
    assert ndjson.lines[-1]["data"] == "hi"


def test_a_stream_over_http_1_0_ends_with_its_connection(server):
    connection = Connection(server)
    connection.send(b"GET /stream/bob HTTP/1.0\r\nHost: localhost\r\n\r\n")
    server.push("/bob", "hi")
    body = connection.bytes.partition(b"\r\n\r\n")[2]
    assert [event.data for event in EventSource(body).events] == ["hi"]
    assert b"chunked" not in connection.bytes
    connection.hang_up()


def test_a_request_behind_a_stream_waits_until_the_stream_has_ended(server):
    stream = Stream(server, "/stream/bob")
    stream.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    server.push("/bob", "hi")
    assert stream.data == ["hi"]
    stream.hang_up()
    assert server.parked == 0


@pytest.mark.parametrize(("ack", "status"), [("no", 503), ("yes", 202)])
def test_a_stream_that_only_watches_makes_no_room(serve, ack, status):
    server = serve(Limits(capacity=1))
    first = server.push("/bob", "1").json["id"]
    Stream(server, f"/stream/bob?after={first}&ack={ack}").hang_up()
    assert server.ask("POST", "/push/bob", "2").status == status


def test_what_a_stream_was_sent_makes_room_for_the_next_push(serve):
    server = serve(Limits(capacity=3))
    stream = Stream(server, "/stream/bob")
    assert (
        server.ask("POST", "/push/bob", "1\n2\n3\n", {"Content-Type": "application/x-ndjson"}).status == 201
    )
    assert server.ask("POST", "/push/bob", "4", JSON).status == 201
    assert stream.data == ["1", "2", "3", "4"]


def test_a_stream_makes_no_room_where_it_was_sent_nothing(serve):
    server = serve(Limits(capacity=1))
    server.push("/bob", "1")
    Stream(server, "/stream/bob")
    assert server.ask("POST", "/push/bob", "2").status == 503
    server.advance(HEARTBEAT_SECONDS)
    assert server.get("/recipients/bob").json["queued"] == 1


def test_what_a_stream_was_sent_counts_as_fetched_at_its_next_heartbeat(server):
    Stream(server, "/stream/bob")
    server.push("/bob", "1")
    server.advance(HEARTBEAT_SECONDS)
    assert server.get("/recipients/bob").json["queued"] == 0


def test_what_a_stream_that_only_watches_was_sent_makes_no_room_later_either(serve):
    server = serve(Limits(capacity=1))
    Stream(server, "/stream/bob?ack=no")
    server.push("/bob", "1")
    server.advance(HEARTBEAT_SECONDS)
    assert server.get("/recipients/bob").json["queued"] == 1
    assert server.ask("POST", "/push/bob", "2").status == 503
