"""HTTP.md, "Push", over HTTP."""

from __future__ import annotations

import base64
import gzip

import pytest

from cometd_lite.limits import Limits

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def content_type(value):
    return {"Content-Type": value}


def only(server, recipient="bob"):
    """Return the one message that the recipient has, as a poll's JSON shows it."""
    (message,) = server.get(f"/poll/{recipient}?after=oldest&wait=0").json["messages"]
    return message


# -- what it is answered with


def test_a_push_that_no_reader_waits_for_is_202_and_waits_in_the_mailbox(server):
    answer = server.push("/bob")
    assert answer.status == 202
    assert answer.json == {
        "id": answer.json["ids"][-1],
        "ids": [answer.json["id"]],
        "created_at": "2026-11-20T10:15:58.123Z",
        "delivered": 0,
        "recipients": ["bob"],
    }
    assert server.read("/poll/bob") == ["hello"]


def test_a_push_that_a_reader_waits_for_is_201_and_answers_it_at_once(server):
    poll = server.park("/poll/bob?after=now")
    answer = server.push("/bob")
    assert (answer.status, answer.json["delivered"]) == (201, 1)
    server.driver.flush()
    assert [message["data"] for message in poll.answer.json["messages"]] == ["hello"]


def test_delivered_counts_the_readers_that_were_woken(server):
    for _ in range(3):
        server.park("/poll/bob?after=now")
    server.park("/poll/alice?after=now")
    assert server.push("/bob").json["delivered"] == 3
    assert server.push("/bob").json["delivered"] == 0


def test_a_message_that_one_of_two_waiting_takes_got_was_delivered_once(server):
    server.park("/poll/bob")
    server.park("/poll/bob")
    assert server.push("/bob").json["delivered"] == 1


def test_a_reader_that_waits_for_two_recipients_of_a_push_is_woken_once_and_gets_both(server):
    poll = server.park("/poll?rcpt=a&rcpt=b&after=now")
    assert server.push("?rcpt=a&rcpt=b").json["delivered"] == 1
    server.driver.flush()
    assert [message["recipient"] for message in poll.answer.json["messages"]] == ["a", "b"]


def test_the_message_id_is_a_cursor_that_means_everything_after_this_message(server):
    first = server.push("/bob", "one").json["id"]
    server.push("/bob", "two")
    assert server.read(f"/poll/bob?after={first}") == ["two"]


def test_a_push_is_accepted_although_its_sender_leaves_before_the_answer(server):
    # twisted/klein#546: a lost connection cancels the route's Deferred.
    poll = server.park("/poll/bob?after=now")
    server.send("POST", "/push/bob", "hello").hang_up()
    server.driver.flush()
    assert [message["data"] for message in poll.answer.json["messages"]] == ["hello"]


# -- recipients


def test_a_push_names_its_recipients_by_path_or_by_query(server):
    assert server.push("/bob").json["recipients"] == ["bob"]
    assert server.push("?rcpt=bob").json["recipients"] == ["bob"]


def test_a_push_to_several_goes_to_each_of_them(server):
    answer = server.push("?rcpt=a&rcpt=b")
    assert answer.json["recipients"] == ["a", "b"]
    assert len(answer.json["ids"]) == 2
    assert server.read("/poll/a") == ["hello"]
    assert server.read("/poll/b") == ["hello"]


def test_a_recipient_that_is_named_twice_gets_one_message(server):
    assert server.push("?rcpt=bob&rcpt=bob").json["recipients"] == ["bob"]
    assert server.read("/poll/bob") == ["hello"]


def test_a_push_to_several_is_for_all_or_none(serve):
    server = serve(Limits(capacity=1))
    server.push("/full")
    assert server.ask("POST", "/push?rcpt=free&rcpt=full", "hello").status == 503
    assert server.ask("POST", "/push?rcpt=free&rcpt=$bad", "hello").status == 400
    assert server.read("/poll/free?wait=0") == []


def test_a_push_to_no_recipient_is_a_400_that_says_how_to_name_one(server):
    for target in ("/push", "/push/", "/push?rcpt="):
        answer = server.ask("POST", target, "hello")
        assert answer.status == 400
        assert answer.json["type"].endswith("bad-recipient")
        assert "recipient" in answer.json["detail"]


def test_a_push_names_recipients_in_one_way_only(server):
    answer = server.ask("POST", "/push/bob?rcpt=alice", "hello")
    assert answer.status == 400
    assert "not by both" in answer.json["detail"]


def test_a_push_has_a_bound_on_its_recipients(server):
    assert server.push("?" + "&".join(f"rcpt={n}" for n in range(100))).status == 202
    assert server.ask("POST", "/push?" + "&".join(f"rcpt={n}" for n in range(101)), "x").status == 400


def test_as_many_recipients_as_may_be_fit_into_a_target_with_long_names(server):
    # They were allowed and then a 414.
    named = "&".join(f"rcpt={number:0110}" for number in range(100))
    assert len(server.push(f"?{named}", "x").json["recipients"]) == 100
    assert len(server.get(f"/poll?{named}&after=oldest&limit=1000").json["messages"]) == 100


# -- bodies and their types


@pytest.mark.parametrize(
    ("media_type", "body", "shown"),
    [
        ("application/json", b'{"text": "hi"}', {"data": {"text": "hi"}}),
        ("application/json", b" null\n", {"data": None}),
        ("application/json; charset=utf-8", b"[1,\r\n 2]", {"data": [1, 2]}),
        ("application/problem+json", b'"x"', {"data": "x"}),
        ("APPLICATION/JSON", b"1e4", {"data": 1e4}),
        ("text/plain", b"hi", {"data": "hi"}),
        ("text/plain; charset=utf-8", "grüße\r\n\u2028".encode(), {"data": "grüße\r\n\u2028"}),
        ("text/html", b"<b>hi</b>", {"data": "<b>hi</b>"}),
        ("Text/X-Whatever", b"hi", {"data": "hi"}),
        ("application/octet-stream", b"hi", {"data_base64": "aGk="}),
        ("image/png", b"\x89PNG\x00\xff", {"data_base64": base64.b64encode(b"\x89PNG\x00\xff").decode()}),
        ("application/xml", b"<a/>", {"data_base64": "PGEvPg=="}),
    ],
)
def test_the_content_type_is_the_media_type(server, media_type, body, shown):
    server.push("/bob", body, content_type(media_type))
    message = only(server)
    assert {name: message[name] for name in shown} == shown
    assert message["type"] == media_type
    assert len({"data", "data_base64"} & message.keys()) == 1
    raw = server.get("/poll/bob?format=raw&after=oldest")
    assert raw.body == body
    assert raw.headers["content-type"].startswith(media_type)


@pytest.mark.parametrize("media_type", [None, "application/x-www-form-urlencoded"])
def test_what_curl_sends_and_no_type_at_all_are_text_where_they_are_utf8(server, media_type):
    headers = {} if media_type is None else content_type(media_type)
    server.push("/bob", "grüße=%20+", headers)
    message = only(server)
    assert (message["type"], message["data"]) == ("text/plain; charset=utf-8", "grüße=%20+")


@pytest.mark.parametrize("media_type", [None, "application/x-www-form-urlencoded; charset=x"])
def test_what_curl_sends_and_no_type_at_all_are_octets_where_they_are_not_utf8(server, media_type):
    headers = {} if media_type is None else content_type(media_type)
    server.push("/bob", b"\xff\xfe", headers)
    message = only(server)
    assert (message["type"], message["data_base64"]) == ("application/octet-stream", "//4=")


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"{'a': 1}"),
        ("application/json", b"1 2"),
        ("application/json", b"NaN"),
        ("application/json", b'"\xff"'),
        ("application/json", b"[" * 60_000),
        ("application/vnd.api+json", b"{"),
        ("application/x-ndjson", b'{"a": 1}\n{'),
        ("application/x-ndjson", b"1 2\n"),
        ("text/plain", b"\xff"),
        ("text/plain; charset=iso-8859-1", b"\xfc"),
        ("text/html", b"\xc3"),
        ("text/plain", b"\xed\xa0\x80"),
    ],
)
def test_a_body_that_is_not_what_its_type_says_is_a_400(server, media_type, body):
    answer = server.ask("POST", "/push/bob", body, content_type(media_type))
    assert answer.status == 400
    assert answer.json["type"].endswith("bad-body")
    assert server.get("/recipients/bob").json["queued"] == 0


@pytest.mark.parametrize(
    "media_type", [None, "text/plain", "application/json", "image/png", "application/x-ndjson"]
)
def test_an_empty_body_is_a_400(server, media_type):
    headers = {} if media_type is None else content_type(media_type)
    answer = server.ask("POST", "/push/bob", b"", headers)
    assert answer.status == 400
    assert "empty" in answer.json["detail"]


@pytest.mark.parametrize(
    "media_type", ["text", "text/", "/plain", "text plain", "a/b/c", "text/plain\x01", "x/" + "y" * 254]
)
def test_a_content_type_that_is_no_media_type_is_a_400(server, media_type):
    answer = server.ask("POST", "/push/bob", "hello", content_type(media_type))
    assert answer.status == 400


def test_a_type_that_is_not_known_is_kept_as_octets_and_given_back_as_it_came(server):
    server.push("/bob", b"\x00\x01", content_type("application/vnd.thing; v=1"))
    raw = server.get("/poll/bob?format=raw")
    assert (raw.body, raw.headers["content-type"]) == (b"\x00\x01", "application/vnd.thing; v=1")


# -- NDJSON


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "GZIP"])
def test_a_compressed_body_is_a_415_and_is_not_kept(server, coding):
    answer = server.ask("POST", "/push/bob", "hello", {"Content-Encoding": coding})
    assert answer.status == 415
    assert answer.json["type"] == "urn:cometd-lite:problem:unsupported-encoding"
    assert server.read("/poll/bob?after=oldest&wait=0") == []


@pytest.mark.parametrize(
    ("method", "target"), [("POST", "/register"), ("PUT", "/listeners/x"), ("POST", "/cometd")]
)
def test_no_other_body_may_be_compressed_either(server, method, target):
    # It was refused as bad JSON, which tells its client nothing.
    if method == "PUT":
        target = server.ask("POST", "/register", "").headers["location"]
    answer = server.ask(method, target, gzip.compress(b"[]"), {"Content-Encoding": "gzip"} | JSON)
    assert answer.status == 415
    assert b"without Content-Encoding" in answer.body


@pytest.mark.parametrize("coding", ["identity", "Identity", "identity, identity"])
def test_a_body_that_says_that_it_is_not_compressed_is_taken(server, coding):
    server.push("/bob", "hello", {"Content-Encoding": coding})
    assert server.read("/poll/bob?after=oldest") == ["hello"]


def test_ndjson_is_one_message_a_line_in_order(server):
    answer = server.push("/bob", b'{"n": 1}\n2\r\n\n "three" \n[4]', NDJSON)
    assert len(answer.json["ids"]) == 4
    assert answer.json["id"] == answer.json["ids"][-1]
    messages = server.get("/poll/bob?after=oldest").json["messages"]
    assert [message["data"] for message in messages] == [{"n": 1}, 2, "three", [4]]
    assert [message["id"] for message in messages] == answer.json["ids"]
    assert {message["type"] for message in messages} == {"application/json"}


def test_ndjson_is_all_of_its_lines_or_none(serve):
    server = serve(Limits(capacity=3))
    answer = server.ask("POST", "/push/bob", b"1\n2\nthree\n", NDJSON)
    assert answer.status == 400
    assert answer.json["detail"].startswith("Line 3: ")
    assert server.ask("POST", "/push/bob", b"1\n2\n3\n4\n", NDJSON).status == 503
    server.push("/bob", b"1\n2", NDJSON)
    assert server.ask("POST", "/push/bob", b"3\n4\n", NDJSON).status == 503
    assert server.read("/poll/bob?after=oldest") == [1, 2]


def test_a_waiting_reader_gets_all_lines_of_an_ndjson_push_in_one_answer(server):
    poll = server.park("/poll/bob?after=now")
    assert server.push("/bob", b"1\n2\n3", NDJSON).json["delivered"] == 1
    server.driver.flush()
    assert [message["data"] for message in poll.answer.json["messages"]] == [1, 2, 3]


def test_ndjson_to_several_recipients_gives_each_of_them_every_line(server):
    answer = server.push("?rcpt=a&rcpt=b", b"1\n2\n", NDJSON)
    assert len(answer.json["ids"]) == 4
    assert server.read("/poll/a?after=oldest") == [1, 2]
    assert server.read("/poll/b?after=oldest") == [1, 2]


# -- the parameters


def test_an_event_name_is_kept_with_the_message(server):
    server.push("/bob?event=joined")
    assert only(server)["event"] == "joined"


def test_a_message_without_an_event_name_has_none(server):
    server.push("/bob")
    assert "event" not in only(server)


@pytest.mark.parametrize(
    "event", ["x", "x" * 64, "a%20b", "%F0%9F%91%A9%E2%80%8D%F0%9F%91%A7", "%C3%BC" * 32, "a%C2%A0b"]
)
def test_an_event_name_is_anything_of_1_to_64_bytes(server, event):
    assert server.push(f"/bob?event={event}").status == 202


@pytest.mark.parametrize(
    "event", ["", "x" * 65, "%C3%BC" * 33, "a%0Ab", "a%0Db", "a%00b", "a%09b", "%7F", "%C2%85", "%FF"]
)
def test_an_event_name_with_a_control_character_or_of_a_wrong_length_is_a_400(server, event):
    answer = server.ask("POST", f"/push/bob?event={event}", "hello")
    assert answer.status == 400
    assert answer.json["type"].endswith("bad-parameter")


def test_a_message_is_kept_for_its_ttl(server):
    server.push("/bob?ttl=10", "short")
    server.push("/bob?ttl=20.5", "long")
    server.advance(9.9)
    assert server.read("/poll/bob?after=oldest&wait=0") == ["short", "long"]
    server.advance(0.2)
    assert server.read("/poll/bob?after=oldest&wait=0") == ["long"]
    server.advance(10.5)
    assert server.read("/poll/bob?after=oldest&wait=0") == []


@pytest.mark.parametrize("ttl", ["61", "999999999999", "1" * 400])
def test_the_servers_own_bound_is_the_most_that_a_message_is_kept(serve, ttl):
    server = serve(Limits(ttl=60))
    server.push(f"/bob?ttl={ttl}")
    server.advance(59.9)
    assert server.read("/poll/bob?after=oldest&wait=0") == ["hello"]
    server.advance(0.2)
    assert server.read("/poll/bob?after=oldest&wait=0") == []


@pytest.mark.parametrize("ttl", ["0", "0.0", "-1", "abc", "", "nan", "inf", "1s", "%D9%A1", "+1"])
def test_a_ttl_that_is_no_time_is_a_400(server, ttl):
    answer = server.ask("POST", f"/push/bob?ttl={ttl}", "hello")
    assert answer.status == 400
    assert "ttl" in answer.json["detail"]


def test_queue_no_is_for_waiting_readers_and_is_not_kept(server):
    poll = server.park("/poll/bob?after=now")
    answer = server.push("/bob?queue=no")
    assert (answer.status, answer.json["delivered"]) == (201, 1)
    server.driver.flush()
    assert [message["data"] for message in poll.answer.json["messages"]] == ["hello"]
    again = server.get(f"/poll/bob?after={poll.answer.json['cursor']}&wait=0").json
    assert (again["messages"], again["gap"]) == ([], False)
    assert server.read("/poll/bob?after=oldest&wait=0") == []


def test_queue_no_reaches_a_waiting_take(server):
    take = server.park("/poll/bob")
    assert server.push("/bob?queue=no").json["delivered"] == 1
    server.driver.flush()
    assert [message["data"] for message in take.answer.json["messages"]] == ["hello"]


def test_queue_no_without_a_reader_is_a_503_that_leaves_nothing(server):
    answer = server.ask("POST", "/push/bob?queue=no", "hello")
    assert answer.status == 503
    assert answer.json["type"].endswith("nobody-waits")
    assert int(answer.headers["retry-after"]) >= 1
    before = server.get("/poll/bob?after=oldest&wait=0").json
    assert (before["messages"], before["gap"]) == ([], False)


def test_queue_no_to_several_reaches_those_who_wait(server):
    server.park("/poll/a?after=now")
    answer = server.push("?rcpt=a&rcpt=b&queue=no")
    assert (answer.status, answer.json["delivered"]) == (201, 1)
    assert server.read("/poll/b?after=oldest&wait=0") == []


def test_queue_no_reaches_the_reader_of_a_full_mailbox_and_makes_no_room(serve):
    server = serve(Limits(capacity=1))
    last = server.push("/bob", "kept").json["id"]
    poll = server.park(f"/poll/bob?after={last}")
    assert server.push("/bob?queue=no", "now").status == 201
    server.driver.flush()
    assert [message["data"] for message in poll.answer.json["messages"]] == ["now"]
    assert server.read("/poll/bob?after=oldest&wait=0") == ["kept"]


@pytest.mark.parametrize(
    "query",
    [
        "queue=maybe",
        "queue=",
        "overflow=drop",
        "overflow=",
        "queue=no&queue=no",
        "event=a&event=b",
        "ttl=1&ttl=2",
    ],
)
def test_a_parameter_with_another_value_or_given_twice_is_a_400_that_says_which(server, query):
    answer = server.ask("POST", f"/push/bob?{query}", "hello")
    assert answer.status == 400
    assert answer.json["type"].endswith("bad-parameter")
    assert query.partition("=")[0] in answer.json["detail"]


# -- full mailboxes


def test_a_full_mailbox_that_no_reader_has_fetched_refuses_the_push(serve):
    server = serve(Limits(capacity=2))
    server.push("/bob", "1")
    server.push("/bob", "2")
    answer = server.ask("POST", "/push/bob", "3")
    assert answer.status == 503
    assert answer.json["type"].endswith("mailbox-full")
    assert int(answer.headers["retry-after"]) >= 1
    assert server.read("/poll/bob?after=oldest") == ["1", "2"]
    server.push("/alice", "others are not full")


def test_a_mailbox_is_also_full_by_its_bytes(serve):
    server = serve(Limits(capacity_bytes=10))
    server.push("/bob", "x" * 6)
    assert server.ask("POST", "/push/bob", "x" * 5).status == 503
    server.push("/bob", "x" * 4)


def test_overflow_drop_oldest_makes_room_and_its_reader_is_told(serve):
    server = serve(Limits(capacity=2))
    before = server.get("/poll/bob?after=now&wait=0").json["cursor"]
    for text in ("1", "2"):
        server.push("/bob", text)
    server.push("/bob?overflow=drop-oldest", "3")
    answer = server.get(f"/poll/bob?after={before}")
    assert [message["data"] for message in answer.json["messages"]] == ["2", "3"]
    assert answer.json["gap"] is True
    assert answer.headers["comet-gap"] == "true"


def test_the_servers_default_may_be_to_drop_the_oldest_and_a_push_may_say_otherwise(serve):
    server = serve(Limits(capacity=1), overflow="drop-oldest")
    server.push("/bob", "1")
    server.push("/bob", "2")
    assert server.ask("POST", "/push/bob?overflow=reject", "3").status == 503
    assert server.read("/poll/bob?after=oldest") == ["2"]


def test_messages_that_a_reader_acknowledged_by_its_cursor_make_room(serve):
    server = serve(Limits(capacity=2))
    first = server.push("/bob", "1").json["id"]
    server.push("/bob", "2")
    server.get("/poll/bob?after=oldest")
    assert server.ask("POST", "/push/bob", "3").status == 503, "reading alone acknowledges nothing"
    server.get(f"/poll/bob?after={first}")
    server.push("/bob", "3")
    assert server.ask("POST", "/push/bob", "4").status == 503
    assert server.read("/poll/bob?after=oldest") == ["2", "3"]


def test_messages_that_were_taken_make_room(serve):
    server = serve(Limits(capacity=1))
    server.push("/bob", "1")
    assert server.read("/poll/bob") == ["1"]
    server.push("/bob", "2")
    assert server.read("/poll/bob") == ["2"]


def test_a_push_to_the_bound_on_mailboxes_is_a_503(serve):
    server = serve(Limits(max_recipients=2))
    server.push("/a")
    server.push("/b")
    answer = server.ask("POST", "/push/c", "hello")
    assert answer.status == 503
    assert answer.json["type"].endswith("server-full")
    assert int(answer.headers["retry-after"]) >= 1
    server.push("/a")


def test_a_push_over_the_servers_memory_is_a_503(serve):
    server = serve(Limits(max_memory=18_000))
    server.push("/a", "x" * 9_000)
    answer = server.ask("POST", "/push/b", "x" * 9_000)
    assert answer.status == 503
    assert answer.json["type"].endswith("server-full")
    assert "retry-after" in answer.headers


# -- bodies that are too large


def test_a_body_over_the_bound_is_a_413_and_one_at_the_bound_is_not(serve):
    server = serve(Limits(max_body=10_000))
    server.push("/messages", "x" * 10_000)
    answer = server.ask("POST", "/push/messages", "x" * 10_001)
    assert answer.status == 413
    assert answer.json["type"].endswith("body-too-large")
    assert "10000" in answer.json["detail"]


def test_the_bound_on_bodies_is_64_kib_unless_set(server):
    server.push("/bob", "x" * 65_536)
    assert server.ask("POST", "/push/bob", "x" * 65_537).status == 413


# -- Idempotency-Key


def test_a_repeat_with_the_same_key_gets_the_first_answer_and_adds_nothing(server):
    key = {"Idempotency-Key": "5f0c"}
    first = server.push("/bob", "hello", key)
    again = server.push("/bob", "hello", key)
    assert (again.status, again.json) == (first.status, first.json)
    assert server.read("/poll/bob?after=oldest") == ["hello"]


def test_the_first_answer_is_repeated_although_the_reader_has_left_since(server):
    key = {"Idempotency-Key": "5f0c"}
    server.park("/poll/bob?after=now")
    assert server.push("/bob", "hello", key).status == 201
    again = server.push("/bob", "hello", key)
    assert (again.status, again.json["delivered"]) == (201, 1)


def test_a_key_with_another_body_is_a_422(server):
    key = {"Idempotency-Key": "5f0c"}
    server.push("/bob", "hello", key)
    answer = server.ask("POST", "/push/bob", "goodbye", key)
    assert answer.status == 422
    assert answer.json["type"].endswith("idempotency-key-reused")
    assert server.read("/poll/bob?after=oldest") == ["hello"]


def test_a_push_that_was_refused_may_be_tried_again_with_its_key(serve):
    server = serve(Limits(capacity=1))
    server.push("/bob", "1")
    key = {"Idempotency-Key": "5f0c"}
    assert server.ask("POST", "/push/bob", "2", key).status == 503
    assert server.read("/poll/bob") == ["1"]
    server.push("/bob", "2", key)
    assert server.read("/poll/bob") == ["2"]


def test_an_idempotency_key_has_1_to_255_bytes(server):
    server.push("/bob", "hello", {"Idempotency-Key": "k" * 255})
    for key in ("", "k" * 256):
        answer = server.ask("POST", "/push/bob", "hello", {"Idempotency-Key": key})
        assert answer.status == 400
        assert "Idempotency-Key" in answer.json["detail"]
