"""HTTP.md, "Listeners": who registers is remembered with its place."""

from __future__ import annotations

import re

import msgspec
import pytest
from exchanges import Server, TreqDriver, by_serving
from twisted.internet.defer import succeed
from twisted.web.resource import Resource
from wires import Connection

from cometd_lite.errors import Forbidden
from cometd_lite.limits import LISTENER_SECONDS, LISTENER_SECONDS_MOST, RECIPIENTS_PER_REQUEST, Limits


def register(server, *recipients, **asked):
    """Return a new listener's description."""
    body = msgspec.json.encode({"recipients": list(recipients)} | asked)
    answer = server.ask("POST", "/register", body, {"Content-Type": "application/json"})
    assert answer.status == 201, answer
    return answer.json


def poll(server, listener, rest="&wait=0"):
    return server.get(f"/poll?listener={listener['id']}{rest}")


def data(answer):
    return [message["data"] for message in answer.json["messages"]]


def read(server, listener, rest="&wait=0"):
    answer = poll(server, listener, rest)
    assert answer.status == 200, answer
    return data(answer)


# -- registration


def test_registration_answers_201_with_its_place(server):
    answer = server.ask("POST", "/register", '{"recipients": ["lobby", "bob"], "ttl": 60}')
    assert answer.status == 201
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    shown = answer.json
    assert set(shown) == {"id", "recipients", "expires_in", "cursor"}
    assert shown["recipients"] == ["lobby", "bob"]
    assert shown["expires_in"] == 60
    assert shown["cursor"] == server.get("/poll/x?after=now&wait=0").json["cursor"]
    assert answer.headers["location"] == f"/listeners/{shown['id']}"
    assert server.get(answer.headers["location"]).json == shown


@pytest.mark.parametrize("body", ["", "{}", '{"recipients": []}'])
def test_all_of_it_is_optional_an_empty_body_too(server, body):
    answer = server.ask("POST", "/register", body)
    assert answer.status == 201
    assert answer.json["recipients"] == []
    assert answer.json["expires_in"] == LISTENER_SECONDS


def test_ids_cannot_be_guessed_and_are_all_different(server):
    ids = [register(server)["id"] for _ in range(100)]
    assert len(set(ids)) == 100
    for name in ids:
        assert len(re.sub("[^0-9a-f]", "", name)) * 4 >= 128


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "[]",
        '"bob"',
        '{"recipients": "bob"}',
        '{"recipients": [7]}',
        '{"recipients": ["$server"]}',
        '{"recipients": ["a//b"]}',
        msgspec.json.encode({"recipients": [f"r{n}" for n in range(101)]}),
        '{"ttl": 0}',
        '{"ttl": -1}',
        '{"ttl": "60"}',
        '{"ttl": true}',
        '{"ttl": null}',
        msgspec.json.encode({"ttl": LISTENER_SECONDS_MOST + 1}),
        '{"tll": 60}',
    ],
)
def test_what_cannot_be_registered_is_a_400(server, body):
    answer = server.ask("POST", "/register", body)
    assert answer.status == 400
    assert answer.json["detail"]


def test_as_many_recipients_as_the_bound_says_can_be_registered(server):
    names = [f"room{number}" for number in range(RECIPIENTS_PER_REQUEST)]
    assert register(server, *names)["recipients"] == names
    body = msgspec.json.encode({"recipients": [*names, "one more"]})
    assert server.ask("POST", "/register", body).status == 400


def test_a_body_over_the_bound_is_a_413(serve):
    server = serve(Limits(max_body=1_000))
    body = msgspec.json.encode({"recipients": ["x" * 1_000]})
    assert server.ask("POST", "/register", body).status == 413
    path = f"/listeners/{register(server)['id']}"
    assert server.ask("PUT", path, body).status == 413


def test_more_listeners_than_the_bound_are_a_503(serve):
    server = serve(Limits(max_sessions=2))
    register(server)
    register(server)
    refused = server.ask("POST", "/register")
    assert refused.status == 503
    assert "retry-after" in refused.headers


@pytest.mark.parametrize(("method", "path"), [("POST", "/register"), ("PUT", None), ("DELETE", None)])
def test_a_page_of_a_foreign_origin_may_neither_register_nor_change_nor_end(server, method, path):
    listener = f"/listeners/{register(server)['id']}"
    headers = {"Origin": "https://evil.example"}
    assert server.ask(method, path or listener, "{}", headers).status == 403
    assert server.get(listener).status == 200


# -- what it reads


def test_it_reads_what_it_named_from_its_registration_on(server):
    server.push("/bob", "before")
    listener = register(server, "lobby", "bob")
    server.push("/lobby", "1")
    server.push("/bob", "2")
    server.push("/alice", "not for it")
    assert read(server, listener) == ["1", "2"]


def test_its_own_id_is_a_recipient(server):
    listener = register(server, "lobby")
    server.push(f"/{listener['id']}", "for you alone")
    answer = poll(server, listener)
    assert data(answer) == ["for you alone"]
    assert answer.json["messages"][0]["recipient"] == listener["id"]


@pytest.mark.parametrize("pattern", ["*", "**"])
def test_its_own_id_is_in_no_pattern_for_it_is_a_secret(server, pattern):
    listener = register(server)
    other = register(server, pattern)
    server.push(f"/{listener['id']}", "for you alone")
    server.push("?to=listeners", "for all of you")
    assert server.read(f"/poll/{pattern}?after=oldest&wait=0") == []
    assert read(server, other) == ["for all of you"]
    assert read(server, listener) == ["for you alone", "for all of you"]


def test_it_may_name_patterns(server):
    listener = register(server, "chat/*", "news/**")
    for name in ("chat/a", "chat/a/b", "news/x/y", "other"):
        server.push(f"/{name}", name)
    assert read(server, listener) == ["chat/a", "news/x/y"]


def test_a_push_to_listeners_reaches_every_one(server):
    listeners = [register(server, "bob"), register(server)]
    parked = server.park(f"/poll?listener={listeners[0]['id']}")
    answer = server.push("?to=listeners", "hear, hear")
    server.driver.flush()
    assert (answer.status, answer.json["delivered"]) == (201, 1)
    assert data(parked.answer) == ["hear, hear"]
    assert read(server, listeners[1]) == ["hear, hear"]
    assert read(server, register(server)) == []


def test_a_push_to_listeners_is_not_kept_where_there_are_none(serve):
    server = serve(Limits(capacity=2))
    before = server.get("/poll/bob?after=now&wait=0").json["cursor"]
    for _ in range(5):
        answer = server.push("?to=listeners", "hear, hear")
        assert (answer.status, answer.json["delivered"]) == (202, 0)
        assert answer.json["ids"] == [answer.json["id"]]
        assert server.get(f"/poll/bob?after={answer.json['id']}&wait=0").json["gap"] is False
    assert server.get("/poll/bob?after=now&wait=0").json["cursor"] == before
    assert server.comet.hub.store.usage().messages == 0


def test_a_push_to_the_listeners_that_wait_is_a_503_where_there_are_none(server):
    assert server.ask("POST", "/push?to=listeners&queue=no", "hi").status == 503


def test_a_push_to_listeners_that_cannot_be_read_is_refused_as_any_other(server):
    json = {"Content-Type": "application/json"}
    assert server.ask("POST", "/push?to=listeners", "{", json).status == 400
    assert server.ask("POST", "/push?to=listeners", "").status == 400


@pytest.mark.parametrize("target", ["?to=all", "/bob?to=listeners", "?to=listeners&rcpt=bob"])
def test_to_is_for_all_listeners_alone(server, target):
    assert server.ask("POST", f"/push{target}", "hi").status == 400


def test_a_poll_of_a_listener_is_held_until_there_is_a_message(server):
    listener = register(server, "bob")
    exchange = server.park(f"/poll?listener={listener['id']}&wait=20")
    server.push("/bob", "hi")
    server.driver.flush()
    assert data(exchange.answer) == ["hi"]


def test_a_poll_of_a_listener_that_ends_empty_is_a_200_with_its_place(server):
    listener = register(server, "bob")
    exchange = server.park(f"/poll?listener={listener['id']}&wait=20")
    server.advance(20)
    assert exchange.answer.json["messages"] == []
    assert exchange.answer.json["cursor"] == listener["cursor"]


def test_limit_raw_and_more_work_as_in_a_poll(server):
    listener = register(server, "bob")
    for number in range(3):
        server.push("/bob", str(number))
    first = poll(server, listener, "&wait=0&limit=1").json
    assert first["more"] is True
    assert poll(server, listener, "&wait=0&format=raw").body == b"1"
    assert read(server, listener) == ["2"]


def test_a_gap_is_told(server):
    listener = register(server, "bob")
    server.push("/bob", "lost")
    server.ask("DELETE", "/recipients/bob")
    assert poll(server, listener).json["gap"] is True
    assert poll(server, listener).json["gap"] is False


@pytest.mark.parametrize("rest", ["&rcpt=bob", "&after=x", "&wait=x"])
def test_a_bad_poll_of_a_listener_is_a_400(server, rest):
    assert poll(server, register(server, "bob"), rest).status == 400


# -- from where it goes on


def test_what_an_answer_carried_counts_as_read_once_the_next_poll_comes(server):
    listener = register(server, "bob")
    server.push("/bob", "1")
    assert read(server, listener) == ["1"]
    assert server.get(f"/listeners/{listener['id']}").json["cursor"] == listener["cursor"]
    assert read(server, listener) == []
    assert server.get(f"/listeners/{listener['id']}").json["cursor"] != listener["cursor"]


def test_it_is_sent_again_where_the_poll_says_an_earlier_cursor(server):
    listener = register(server, "bob")
    server.push("/bob", "1")
    server.push("/bob", "2")
    first = poll(server, listener).json
    assert read(server, listener, f"&wait=0&after={listener['cursor']}") == ["1", "2"]
    assert read(server, listener, f"&wait=0&after={first['messages'][0]['id']}") == ["2"]
    assert read(server, listener) == []


def test_it_is_sent_again_where_the_client_was_gone_before_the_answer(server):
    listener = register(server, "bob")
    exchange = server.park(f"/poll?listener={listener['id']}")
    exchange.hang_up()
    server.push("/bob", "1")
    assert read(server, listener) == ["1"]


def test_it_is_sent_again_where_the_answer_could_not_be_written(server):
    listener = register(server, "bob")
    connection = Connection(server)
    connection.request("GET", f"/poll?listener={listener['id']}")
    with connection.close_unnoticed():
        server.push("/bob", "1")
        connection.hang_up()
    assert read(server, listener) == ["1"]


def test_nothing_is_missed_between_two_polls(server):
    listener = register(server, "bob")
    sent, got = [], []
    for number in range(30):
        exchange = server.send("GET", f"/poll?listener={listener['id']}&wait=5")
        for _ in range(number % 3):
            sent.append(str(len(sent)))
            server.push("/bob", sent[-1])
        server.advance(number % 7)
        if exchange.answer is None:
            exchange.hang_up()
        else:
            got += data(exchange.answer)
        if number % 4 == 0:
            sent.append(str(len(sent)))
            server.push("/bob", sent[-1])
    got += read(server, listener)
    assert got == sent


def test_after_now_is_a_place_that_is_remembered_even_if_the_answer_is_lost(server):
    listener = register(server, "bob")
    server.push("/bob", "skipped")
    exchange = server.park(f"/poll?listener={listener['id']}&after=now")
    exchange.hang_up()
    server.push("/bob", "not to be missed")
    assert read(server, listener) == ["not to be missed"]


def test_head_acknowledges_nothing(server):
    listener = register(server, "bob")
    server.push("/bob", "1")
    poll(server, listener)
    assert server.ask("HEAD", f"/poll?listener={listener['id']}").status == 200
    assert server.get(f"/listeners/{listener['id']}").json["cursor"] == listener["cursor"]


# -- two polls at once


def test_of_two_polls_the_newer_wins_and_the_older_ends_at_once_without_messages(server):
    listener = register(server, "bob")
    older = server.park(f"/poll?listener={listener['id']}")
    newer = server.park(f"/poll?listener={listener['id']}")
    server.driver.flush()
    assert older.answer.status == 200
    assert older.answer.json["messages"] == []
    assert server.parked == 1
    server.push("/bob", "1")
    server.driver.flush()
    assert data(newer.answer) == ["1"]
    assert read(server, listener) == []


def test_the_older_poll_ends_even_if_the_newer_is_answered_at_once(server):
    listener = register(server, "bob")
    older = server.park(f"/poll?listener={listener['id']}")
    assert read(server, listener) == []
    server.driver.flush()
    assert older.answer.json["messages"] == []
    assert server.parked == 0


def test_the_end_of_an_older_poll_does_not_end_the_newer(server):
    listener = register(server, "bob")
    server.park(f"/poll?listener={listener['id']}").hang_up()
    older = server.park(f"/poll?listener={listener['id']}&wait=5")
    newer = server.park(f"/poll?listener={listener['id']}&wait=60")
    older.hang_up()
    server.advance(10)
    server.push("/bob", "1")
    server.driver.flush()
    assert data(newer.answer) == ["1"]


def test_polls_of_different_listeners_do_not_end_each_other(server):
    listeners = [register(server, "bob") for _ in range(3)]
    polls = [server.park(f"/poll?listener={listener['id']}") for listener in listeners]
    assert server.push("/bob", "1").json["delivered"] == 3
    server.driver.flush()
    assert [data(exchange.answer) for exchange in polls] == [["1"]] * 3


def test_at_the_bound_a_poll_is_a_503_and_the_listener_lives(serve):
    server = serve(Limits(max_parked=1))
    listener = register(server, "bob")
    parked = server.park("/poll/alice?after=now")
    assert poll(server, listener, "").status == 503
    parked.hang_up()
    server.push("/bob", "1")
    assert read(server, listener) == ["1"]


# -- its life


def test_put_sets_the_recipients(server):
    listener = register(server, "bob")
    answer = server.ask("PUT", f"/listeners/{listener['id']}", '{"recipients": ["alice", "alice", "chat/*"]}')
    assert answer.status == 200
    assert answer.json == listener | {"recipients": ["alice", "chat/*"]}
    server.push("/bob", "no more")
    server.push("/alice", "1")
    server.push("/chat/a", "2")
    server.push(f"/{listener['id']}", "3")
    assert read(server, listener) == ["1", "2", "3"]


def test_put_ends_a_parked_poll_so_that_the_next_one_reads_the_new_recipients(server):
    listener = register(server, "bob")
    parked = server.park(f"/poll?listener={listener['id']}")
    server.ask("PUT", f"/listeners/{listener['id']}", '{"recipients": ["alice"]}')
    server.driver.flush()
    assert parked.answer.json["messages"] == []
    next_one = server.park(f"/poll?listener={listener['id']}")
    server.push("/alice", "1")
    server.driver.flush()
    assert data(next_one.answer) == ["1"]


@pytest.mark.parametrize("body", ["no json", '{"recipients": "bob"}', '{"recipients": ["$x"]}', '{"ttl": 5}'])
def test_a_bad_put_is_a_400_and_changes_nothing(server, body):
    listener = register(server, "bob")
    assert server.ask("PUT", f"/listeners/{listener['id']}", body).status == 400
    assert server.get(f"/listeners/{listener['id']}").json == listener


def test_delete_ends_it(server):
    listener = register(server, "bob")
    parked = server.park(f"/poll?listener={listener['id']}")
    server.push("/alice", "other")
    answer = server.ask("DELETE", f"/listeners/{listener['id']}")
    assert (answer.status, answer.body) == (204, b"")
    server.driver.flush()
    assert parked.answer.status == 410
    assert server.parked == 0
    for method, target in (
        ("GET", f"/poll?listener={listener['id']}"),
        ("GET", f"/listeners/{listener['id']}"),
        ("PUT", f"/listeners/{listener['id']}"),
        ("DELETE", f"/listeners/{listener['id']}"),
    ):
        gone = server.ask(method, target)
        assert gone.status == 410
        assert gone.headers["content-type"] == "application/problem+json"


def test_delete_lets_its_own_mailbox_go(server):
    listener = register(server)
    server.push(f"/{listener['id']}", "1")
    server.ask("DELETE", f"/listeners/{listener['id']}")
    assert server.get(f"/recipients/{listener['id']}").json["queued"] == 0


@pytest.mark.parametrize("stranger", ["nobody", "~" + "0" * 40, "a/b"])
def test_who_was_never_registered_is_a_410(server, stranger):
    assert server.get(f"/poll?listener={stranger}").status == 410
    assert server.get(f"/listeners/{stranger}").status == 410


def test_not_polled_for_its_ttl_it_is_gone(server):
    listener = register(server, "bob", ttl=60)
    server.advance(59.9)
    assert poll(server, listener).status == 200
    server.advance(59.9)
    assert server.get(f"/listeners/{listener['id']}").status == 200
    server.advance(0.1)
    assert poll(server, listener).status == 410
    server.comet.routes.listeners.sweep()
    assert len(server.comet.routes.listeners) == 0


def test_only_polls_keep_it_alive(server):
    listener = register(server, "bob", ttl=60)
    server.advance(59)
    server.get(f"/listeners/{listener['id']}")
    server.push(f"/{listener['id']}", "hi")
    server.advance(1)
    assert server.get(f"/listeners/{listener['id']}").status == 410


def test_while_a_poll_is_held_its_time_does_not_pass(server):
    listener = register(server, "bob", ttl=10)
    exchange = server.park(f"/poll?listener={listener['id']}&wait=100")
    for _ in range(8):
        server.advance(10)
        server.comet.routes.listeners.sweep()
    server.push("/bob", "1")
    server.driver.flush()
    assert data(exchange.answer) == ["1"]
    server.advance(9.9)
    server.comet.routes.listeners.sweep()
    assert poll(server, listener).status == 200
    server.advance(10)
    assert poll(server, listener).status == 410


def test_a_poll_that_was_lost_lets_its_time_begin_anew(server):
    listener = register(server, "bob", ttl=10)
    exchange = server.park(f"/poll?listener={listener['id']}&wait=100")
    server.advance(50)
    exchange.hang_up()
    server.advance(9)
    assert poll(server, listener).status == 200


def test_a_fraction_of_a_second_is_a_ttl_too(server):
    assert register(server, ttl=0.5)["expires_in"] == 0.5


def test_when_the_server_stops_a_held_poll_ends_as_at_the_end_of_a_wait(server):
    listener = register(server, "bob")
    exchange = server.park(f"/poll?listener={listener['id']}")
    server.stop()
    assert exchange.answer.status == 200
    assert exchange.answer.json["messages"] == []
    if not isinstance(server.driver, TreqDriver):  # treq does not show it
        assert exchange.answer.headers["connection"] == "close"


def test_other_methods_are_a_405(server):
    assert server.ask("GET", "/register").status == 405
    assert server.ask("POST", f"/listeners/{register(server)['id']}", "{}").status == 405


def test_a_location_is_where_the_listener_is_even_below_another_path(server):
    if isinstance(server.driver, TreqDriver):
        root = Resource()
        root.putChild(b"comet", server.comet.resource())
        driver = TreqDriver(root)
    else:
        driver = by_serving(server.comet, prefix=b"/comet")
    below = Server(server.comet, server.clock, driver)
    location = below.ask("POST", "/comet/register").headers["location"]
    assert location.startswith("/comet/listeners/")
    assert below.get(location).status == 200


@pytest.mark.parametrize("later", [False, True])
def test_a_program_is_asked_whether_a_listener_may_read_what_is_pushed_to_all(serve, later):
    asked = []

    def authorize(request, action, name):
        asked.append((action, name))
        allowed = name != "$listeners" or action == "push" or request.getHeader(b"x-may") is not None
        return succeed(allowed) if later else allowed

    server = serve(authorize=authorize)
    listener = server.send("POST", "/register", b'{"recipients": ["bob"]}', {}).answer.json["id"]
    server.push("?to=listeners", "for all of you")
    server.push("/bob", "for bob")
    target = f"/poll?listener={listener}&wait=0"
    assert [message["data"] for message in server.get(target).json["messages"]] == ["for bob"]
    assert ("poll", "$listeners") in asked
    server.push("?to=listeners", "again")
    assert [message["data"] for message in server.get(target, {"X-May": "1"}).json["messages"]] == ["again"]


def test_a_program_that_fails_at_the_question_refuses_the_poll(serve):
    def authorize(request, action, name):
        if (action, name) == ("poll", "$listeners"):
            raise Forbidden("not today")
        return True

    server = serve(authorize=authorize)
    listener = server.send("POST", "/register", b"{}", {}).answer.json["id"]
    assert server.get(f"/poll?listener={listener}&wait=0").status == 403
