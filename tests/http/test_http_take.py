"""HTTP.md, "Poll", over HTTP: takes, which are polls without a cursor."""

from __future__ import annotations

import pytest

from cometd_lite.limits import Limits


def data(exchange):
    return [message["data"] for message in exchange.answer.json["messages"]]


def test_a_take_gets_what_no_take_had_before(server):
    server.push("/bob", "1")
    server.push("/bob", "2")
    assert server.read("/poll/bob?limit=1") == ["1"]
    assert server.read("/poll/bob") == ["2"]
    assert server.read("/poll/bob?wait=0") == []
    server.push("/bob", "3")
    assert server.read("/poll/bob") == ["3"]


def test_what_was_taken_can_still_be_read_by_cursor(server):
    server.push("/bob", "1")
    server.read("/poll/bob")
    assert server.read("/poll/bob?after=oldest") == ["1"]


def test_what_was_read_by_cursor_can_still_be_taken(server):
    place = server.push("/bob", "1").json["id"]
    server.read("/poll/bob?after=oldest")
    server.get(f"/poll/bob?after={place}&wait=0")
    assert server.read("/poll/bob") == ["1"]


def test_a_take_is_held_and_woken_like_a_poll(server):
    take = server.park("/poll/bob")
    assert server.push("/bob").json["delivered"] == 1
    server.driver.flush()
    assert data(take) == ["hello"]
    assert server.read("/poll/bob?wait=0") == []


def test_a_take_that_ends_without_a_message_carries_the_cursor_of_what_comes(server):
    take = server.park("/poll/bob")
    raw = server.park("/poll/bob?format=raw")
    server.advance(25)
    assert (take.answer.status, take.answer.json["messages"]) == (200, [])
    assert (raw.answer.status, raw.answer.body) == (204, b"")
    server.push("/bob")
    assert server.read(f"/poll/bob?after={take.answer.json['cursor']}") == ["hello"]
    assert server.read(f"/poll/bob?after={raw.answer.headers['comet-cursor']}") == ["hello"]


def test_waiting_takes_are_served_in_the_order_in_which_they_came(server):
    takes = [server.park("/poll/bob?format=raw") for _ in range(3)]
    for text in ("1", "2"):
        assert server.push("/bob", text).json["delivered"] == 1
    server.driver.flush()
    assert [take.answer and take.answer.body for take in takes] == [b"1", b"2", None]


def test_waiting_takes_with_a_limit_share_what_one_push_brings(server):
    takes = [server.park("/poll/bob?limit=2") for _ in range(3)]
    answer = server.push("/bob", "1\n2\n3\n", {"Content-Type": "application/x-ndjson"})
    assert answer.json["delivered"] == 2
    server.driver.flush()
    assert [data(take) for take in takes[:2]] == [[1, 2], [3]]
    assert takes[2].answer is None
    assert takes[0].answer.json["more"] is True


def test_a_take_and_a_poll_that_both_wait_both_get_the_message(server):
    take, poll = server.park("/poll/bob"), server.park("/poll/bob?after=now")
    assert server.push("/bob").json["delivered"] == 2
    server.driver.flush()
    assert data(take) == data(poll) == ["hello"]


def test_a_take_of_several_recipients_gets_their_messages_in_the_servers_order(server):
    for name, text in (("a", "1"), ("b", "2"), ("a", "3")):
        server.push(f"/{name}", text)
    assert server.read("/poll?rcpt=b&rcpt=a&limit=2") == ["1", "2"]
    assert server.read("/poll/a") == ["3"]
    assert server.read("/poll?rcpt=b&rcpt=a&wait=0") == []


def test_a_take_that_waits_for_two_recipients_is_woken_by_either(server):
    take = server.park("/poll?rcpt=a&rcpt=b")
    server.push("/b")
    server.driver.flush()
    assert data(take) == ["hello"]
    assert server.get("/recipients/a").json["waiting"] == 0


def test_a_take_that_left_is_passed_over(server):
    first, second = server.park("/poll/bob"), server.park("/poll/bob")
    first.hang_up()
    assert server.push("/bob").json["delivered"] == 1
    server.driver.flush()
    assert data(second) == ["hello"]


def test_a_message_that_was_lost_before_any_take_had_it_is_told_once(server):
    server.push("/bob?ttl=10")
    server.advance(11)
    server.push("/bob", "2")
    answer = server.get("/poll/bob")
    assert (answer.json["gap"], answer.headers["comet-gap"]) == (True, "true")
    server.push("/bob", "3")
    assert server.get("/poll/bob").json["gap"] is False


def test_a_take_is_a_reader_that_makes_room(serve):
    server = serve(Limits(capacity=2))
    for text in ("1", "2"):
        server.push("/bob", text)
    assert server.read("/poll/bob?limit=1") == ["1"]
    server.push("/bob", "3")
    assert server.ask("POST", "/push/bob", "4").status == 503
    assert server.read("/poll/bob") == ["2", "3"]


@pytest.mark.parametrize("target", ["/poll/bob", "/poll/bob?format=raw"])
def test_looking_at_a_mailbox_by_head_takes_nothing_and_waits_for_nothing(server, target):
    empty = server.ask("HEAD", target)
    assert empty.status in {200, 204}
    server.push("/bob")
    answer = server.ask("HEAD", target)
    assert (answer.status, answer.body) == (200, b"")
    full = server.get(target)
    assert b"hello" in full.body
    assert answer.headers["content-length"] == str(len(full.body))
    assert answer.headers["content-type"] == full.headers["content-type"]


def test_a_take_of_a_pattern_is_refused_because_it_would_wait_for_nothing(server):
    for name in ("chat/*", "chat/**", "*", "**"):
        answer = server.get(f"/poll/{name}")
        assert answer.status == 400
        assert answer.json["type"].endswith("bad-recipient")


# -- a take that was not meant


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("afer=oldest", "after"),
        ("aftre=oldest", "after"),
        ("After=oldest", "after"),
        ("atr=oldest", "after"),
        ("after=oldest&limt=3", "limit"),
        ("after=oldest&wiat=3", "wait"),
        ("after=oldest&wxxt=3", "wait"),
        ("after=oldest&fromat=raw", "format"),
        ("listner=x", "listener"),
    ],
)
def test_a_mistyped_parameter_is_a_400_that_names_both(server, query, meant):
    server.push("/bob", "1")
    answer = server.get(f"/poll/bob?{query}")
    typo = query.replace("=", "&").split("&")[-2]
    assert answer.status == 400
    assert typo in answer.json["detail"]
    assert meant in answer.json["detail"]
    assert server.read("/poll/bob") == ["1"]


@pytest.mark.parametrize("name", ["x", "callback", "lastEventId", "%20", "fatxx"])
def test_a_take_with_an_unknown_parameter_is_a_400_and_a_poll_by_cursor_is_not(server, name):
    server.push("/bob", "1")
    assert server.get(f"/poll/bob?{name}=1").status == 400
    assert server.read(f"/poll/bob?{name}=1&after=oldest") == ["1"]
    assert server.read("/poll/bob") == ["1"]


@pytest.mark.parametrize("query", ["_=1795169758123", "_t", "", "&", "&wait=0&"])
def test_names_that_begin_with_an_underscore_and_empty_ones_pass(server, query):
    server.push("/bob", "1")
    assert server.read(f"/poll/bob?{query}") == ["1"]


def test_what_the_operator_allows_passes_even_if_it_looks_mistyped(serve):
    server = serve(allow_parameters=["afer", "user"])
    server.push("/bob?user=x", "1")
    assert server.read("/poll/bob?user=x&afer=1") == ["1"]
    assert server.get("/poll/bob?users=x").status == 400


def test_a_query_has_a_bound_on_parameters_that_are_not_known(server):
    query = "&".join(f"parameter{number}=1" for number in range(51))
    assert server.get(f"/poll/bob?after=oldest&wait=0&{query}").status == 400
    assert server.get(f"/poll/bob?after=oldest&wait=0&{query.partition('&')[2]}").status == 200


@pytest.mark.parametrize(
    ("method", "target", "meant"),
    [
        ("POST", "/push/bob?evnt=x", "event"),
        ("POST", "/push/bob?ttll=3", "ttl"),
        ("POST", "/push/bob?tlt=3", "ttl"),
        ("POST", "/push?ot=listeners", "to"),
        ("POST", "/push/bob?ovreflow=reject", "overflow"),
        ("POST", "/push?rctp=bob", "rcpt"),
        ("GET", "/stream/bob?afer=oldest", "after"),
        ("GET", "/stream/bob?lastEventID=x", "lastEventId"),
        ("GET", "/ws/bob?aftr=oldest", "after"),
    ],
)
def test_a_mistyped_parameter_is_a_400_on_every_route_that_has_parameters(server, method, target, meant):
    answer = server.ask(method, target, "hello" if method == "POST" else "")
    assert answer.status == 400
    assert meant in answer.json["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Purpose": "prefetch"},
        {"Sec-Purpose": "prefetch;prerender"},
        {"Purpose": "Prefetch"},
    ],
)
def test_a_prefetch_takes_nothing_and_may_read_by_cursor(server, headers):
    server.push("/bob", "1")
    answer = server.get("/poll/bob", headers)
    assert answer.status == 403
    assert "after=oldest" in answer.json["detail"]
    assert server.read("/poll/bob?after=oldest", headers) == ["1"]
    assert server.read("/poll/bob") == ["1"]
