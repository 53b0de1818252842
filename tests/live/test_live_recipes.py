"""The four systems that others wrote about, driven as their texts do, and as docs/howto/recipes.md does."""

from __future__ import annotations

import json
import time
from random import Random

from program import eventually

JSON = "application/json"


# -- (a) push to a named recipient


def test_a_message_is_delivered_at_once_to_who_waits_for_it(program):
    poll = program.park("/poll/a-bob", "a-bob")
    pushed = time.monotonic()
    answer = program.push("/a-bob", "hello")
    assert (answer.status, answer.json["delivered"]) == (201, 1)
    assert poll.answer().data == ["hello"]
    assert time.monotonic() - pushed < 2


def test_messages_for_a_reader_that_is_away_are_queued_for_its_next_poll(program):
    for text in ("one", "two"):
        answer = program.push("/a-away", text)
        assert (answer.status, answer.json["delivered"]) == (202, 0)
    assert program.get("/poll/a-away").data == ["one", "two"]
    assert program.get("/poll/a-away?wait=0").data == []


def test_a_push_for_no_recipient_is_refused(program):
    answer = program.ask("POST", "/push", "hello")
    assert answer.status == 400
    assert "recipient" in answer.json["detail"]


def test_a_full_mailbox_is_unavailable_until_someone_reads_it(run):
    program = run("--capacity", "3")
    for n in range(3):
        program.push("/bob", str(n))
    full = program.ask("POST", "/push/bob", "3")
    assert full.status == 503
    assert int(full.headers["retry-after"]) > 0
    assert program.get("/poll/bob").data == ["0", "1", "2"]
    assert program.push("/bob", "3").status == 202


def test_a_push_that_must_not_be_queued_is_unavailable_where_no_reader_listens(program):
    refused = program.ask("POST", "/push/a-live?queue=no", "hello")
    assert refused.status == 503
    assert refused.json["type"].endswith("nobody-waits")
    poll = program.park("/poll/a-live", "a-live")
    assert program.push("/a-live?queue=no", "hello").status == 201
    assert poll.answer().data == ["hello"]


def test_a_poll_ends_by_time(program):
    begun = time.monotonic()
    answer = program.get("/poll/a-nobody?wait=0.5")
    assert (answer.status, answer.data) == (200, [])
    assert 0.4 < time.monotonic() - begun < 5
    assert program.get("/poll/a-nobody?wait=0.1", Accept="text/plain").status == 204


def test_a_client_that_leaves_is_forgotten_at_once(program):
    poll = program.park("/poll/a-leaver?wait=120", "a-leaver")
    poll.close()
    eventually(lambda: program.waiting("a-leaver") == 0)
    answer = program.push("/a-leaver", "for later")
    assert (answer.status, answer.json["delivered"]) == (202, 0)
    assert program.get("/poll/a-leaver").data == ["for later"]


# -- (b) a chat page that polls with If-None-Match


def test_a_chat_page_polls_with_the_etag_it_was_given_and_a_304_means_nothing_new(program):
    page = program.connect()
    first = page.ask("GET", "/poll/b-room?after=now&wait=0")
    etag = first.headers["etag"]
    unchanged = page.ask("GET", "/poll/b-room?wait=0.2", If_None_Match=etag)
    assert (unchanged.status, unchanged.headers["etag"], unchanged.body) == (304, etag, b"")

    page.request("GET", "/poll/b-room", If_None_Match=etag)
    eventually(lambda: program.waiting("b-room") == 1)
    said = json.dumps({"from": "alice", "text": "hi"})
    program.push("/b-room", said, Content_Type=JSON)
    heard = page.answer()
    assert heard.data == [{"from": "alice", "text": "hi"}]
    assert heard.headers["etag"] != etag

    # What is said before the page asks again is there when it does.
    program.push("/b-room", '{"from": "alice", "text": "still there?"}', Content_Type=JSON)
    again = page.ask("GET", "/poll/b-room", If_None_Match=heard.headers["etag"])
    assert [message["text"] for message in again.data] == ["still there?"]
    assert page.ask("GET", "/poll/b-room?wait=0.1", If_None_Match=again.headers["etag"]).status == 304


def test_every_page_in_the_chat_hears_the_same(program):
    pages = [program.park("/poll/b-many?after=now", "b-many") for _ in range(5)]
    assert program.push("/b-many", "to all").json["delivered"] == 5
    assert [page.answer().data for page in pages] == [["to all"]] * 5


# -- (c) two messages around the answer of a poll


def test_the_second_of_two_messages_around_an_answer_is_not_missed(program):
    cursor = program.get("/poll/c-carol?after=now&wait=0").json["cursor"]
    poll = program.park(f"/poll/c-carol?after={cursor}", "c-carol")
    pusher = program.connect()
    pusher.request("POST", "/push/c-carol", "first").request("POST", "/push/c-carol", "second")
    got = []
    answer = poll.answer()
    while True:
        got += answer.data
        if len(got) == 2:
            break
        answer = poll.ask("GET", f"/poll/c-carol?after={answer.json['cursor']}")
    assert got == ["first", "second"]
    assert poll.ask("GET", f"/poll/c-carol?wait=0.1&after={answer.json['cursor']}").data == []


def test_messages_at_every_moment_around_the_ends_of_waits_all_come_once_and_in_order(program):
    cursor = program.get("/poll/c-storm?after=now&wait=0").json["cursor"]
    poller, pusher = program.connect(), program.connect()
    random = Random(20261120)
    got, pushed = [], 0
    while len(got) < 200:
        # A wait about as short as a push takes: some pushes come before the poll, some within, some after.
        poller.request("GET", f"/poll/c-storm?wait=0.002&after={cursor}")
        for _ in range(min(random.randrange(4), 200 - pushed)):
            pusher.request("POST", "/push/c-storm", str(pushed))
            pushed += 1
        answer = poller.answer()
        assert answer.json["gap"] is False
        got += answer.data
        cursor = answer.json["cursor"]
    assert got == [str(n) for n in range(200)]


def registered(program, *recipients, **asked):
    """Return the path at which a new listener polls."""
    answer = program.ask("POST", "/register", json.dumps({"recipients": recipients} | asked))
    assert answer.status == 201
    return f"/poll?listener={answer.json['id']}"


def test_a_registered_listener_misses_neither_of_two_messages_around_an_answer(program):
    target = registered(program, "c-dave")
    poll = program.park(target, "c-dave")
    pusher = program.connect()
    pusher.request("POST", "/push/c-dave", "first").request("POST", "/push/c-dave", "second")
    got = poll.answer().data
    while len(got) < 2:
        got += poll.ask("GET", target).data
    assert got == ["first", "second"]
    assert poll.ask("GET", f"{target}&wait=0.1").data == []


def test_a_push_to_listeners_reaches_who_waits_and_who_is_between_two_polls(program):
    waits, is_away, has_left = (registered(program, f"c-listener{number}") for number in range(3))
    listener = has_left.rpartition("=")[2]
    assert program.ask("DELETE", f"/listeners/{listener}").status == 204
    poll = program.park(waits, "c-listener0")
    assert program.push("?to=listeners", "to all").json["delivered"] == 1
    assert poll.answer().data == ["to all"]
    assert program.get(is_away).data == ["to all"]
    assert program.get(has_left).status == 410


def test_a_listener_that_does_not_come_back_in_time_is_gone_and_may_register_again(program):
    target = registered(program, "c-late", ttl=0.2)
    listener = target.rpartition("=")[2]
    eventually(lambda: program.get(f"/listeners/{listener}").status == 410)
    assert program.get(target).status == 410
    again = registered(program, "c-late")
    program.push("/c-late", "welcome back")
    assert program.get(again).data == ["welcome back"]


# -- (d) POST /push/messages, GET /poll/messages?after=…


def test_messages_are_posted_as_json_and_listed_after_the_last_one_known(run):
    program = run("--max-body", "10000")
    ids = []
    for n in range(3):
        answer = program.push("/messages", json.dumps({"n": n}), Content_Type=JSON)
        ids.append(answer.json["id"])
    everything = program.get("/poll/messages?after=oldest").json["messages"]
    assert [message["data"] for message in everything] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [message["id"] for message in everything] == ids
    assert program.get(f"/poll/messages?after={ids[0]}").data == [{"n": 1}, {"n": 2}]

    nothing = program.get(f"/poll/messages?after={ids[2]}&wait=0.2")
    assert (nothing.status, nothing.json["messages"]) == (200, [])

    poll = program.park(f"/poll/messages?after={ids[2]}", "messages")
    program.push("/messages", '{"n": 3}', Content_Type=JSON)
    assert poll.answer().data == [{"n": 3}]


def test_a_message_has_at_most_the_bytes_that_the_option_says(run):
    program = run("--max-body", "10000")
    most = json.dumps("x" * 9_998)
    assert len(most) == 10_000
    assert program.push("/messages", most, Content_Type=JSON).status == 202
    refused = program.ask("POST", "/push/messages", most + " ", Content_Type=JSON)
    assert refused.status == 413
    assert "10000" in refused.json["detail"]
    broken = program.ask("POST", "/push/messages", '{"n": ', Content_Type=JSON)
    assert broken.status == 400
