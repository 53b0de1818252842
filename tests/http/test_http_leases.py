"""HTTP.md, "Leases", over HTTP: takes that are acknowledged, and come again where they are not."""

from __future__ import annotations

import jwt
import pytest
from exchanges import STARTED, Server

from cometd_lite.access.tokens import Tokens
from cometd_lite.limits import LEASES_PER_REQUEST, Limits

SECRET = "a secret of thirty-two bytes or more"


def lease(server: Server, target: str = "/poll/jobs?lease=30"):
    """Return the messages that a worker leases, of which there are some."""
    messages = server.get(target).json["messages"]
    assert messages
    return messages


def ack(server: Server, *leases: str, words: str = "", name: str = "jobs"):
    """Return what became of leases."""
    query = "&".join([*(f"lease={lease}" for lease in leases), *([words] if words else [])])
    return server.ask("POST", f"/ack/{name}?{query}")


def states(answer) -> list[str]:
    return [lease["state"] for lease in answer.json["leases"]]


def waits_no_more(server: Server, target: str = "/poll/jobs?lease=30&wait=0") -> bool:
    return server.get(target).json["messages"] == []


# -- what a worker is given


def test_a_leased_message_has_its_lease_and_its_attempt_and_is_given_to_no_other(server):
    server.push("/jobs", "1")
    answer = server.get("/poll/jobs?lease=30")
    (message,) = answer.json["messages"]
    assert (message["data"], message["attempt"]) == ("1", 1)
    assert message["lease"].startswith(f"{message['id']}.1.")
    assert answer.json["cursor"] == message["id"]
    assert waits_no_more(server)
    assert server.read("/poll/jobs?wait=0") == []
    assert server.read("/poll/jobs?after=oldest") == ["1"]


def test_a_lease_is_of_one_message_unless_it_asks_for_more(server):
    for text in "123":
        server.push("/jobs", text)
    answer = server.get("/poll/jobs?lease=30")
    assert ([one["data"] for one in answer.json["messages"]], answer.json["more"]) == (["1"], True)
    assert [one["data"] for one in lease(server, "/poll/jobs?lease=30&limit=5")] == ["2", "3"]


def test_a_raw_lease_says_it_in_its_head(server):
    server.push("/jobs", "work")
    answer = server.get("/poll/jobs?lease=30&format=raw")
    assert (answer.status, answer.body, answer.headers["comet-attempt"]) == (200, b"work", "1")
    assert states(ack(server, answer.headers["comet-lease"])) == ["done"]


def test_a_parked_worker_is_woken_by_a_push_and_each_message_goes_to_one_of_them(server):
    workers = [server.park("/poll/jobs?lease=30") for _ in range(2)]
    assert server.push("/jobs", "1").json["delivered"] == 1
    server.driver.flush()
    assert workers[0].answer.json["messages"][0]["attempt"] == 1
    assert workers[1].answer is None
    server.advance(25)
    assert workers[1].answer.json["messages"] == []


def test_a_worker_that_left_before_its_answer_leaves_the_message_and_the_attempt_does_not_count(server):
    first, second = server.park("/poll/jobs?lease=30"), server.park("/poll/jobs?lease=30")
    first.hang_up()
    server.push("/jobs", "1")
    server.driver.flush()
    assert second.answer.json["messages"][0]["attempt"] == 1


def test_several_recipients_are_leased_from_in_the_servers_order(server):
    for name, text in (("a", "1"), ("b", "2"), ("a", "3")):
        server.push(f"/{name}", text)
    first, second = lease(server, "/poll?rcpt=b&rcpt=a&lease=30&limit=2")
    assert (first["data"], second["data"]) == ("1", "2")
    assert states(ack(server, first["lease"], name="a")) == ["done"]
    assert ack(server, second["lease"], name="a").status == 410
    assert states(ack(server, second["lease"], name="b")) == ["done"]


# -- what becomes of a lease


def test_an_acknowledged_message_is_done(server):
    server.push("/jobs", "1")
    (message,) = lease(server)
    answer = ack(server, message["lease"])
    assert (answer.status, answer.json) == (200, {"leases": [{"lease": message["lease"], "state": "done"}]})
    server.advance(31)
    assert waits_no_more(server)
    assert server.get("/recipients/jobs").json["queued"] == 0


def test_as_many_leases_as_the_bound_says_are_acknowledged_at_once(server):
    for number in range(LEASES_PER_REQUEST + 1):
        server.push("/jobs", str(number))
    leases = [one["lease"] for one in lease(server, f"/poll/jobs?lease=30&limit={LEASES_PER_REQUEST + 1}")]
    assert ack(server, *leases).status == 400
    assert states(ack(server, *leases[1:])) == ["done"] * LEASES_PER_REQUEST
    assert states(ack(server, leases[0])) == ["done"]


def test_a_lease_that_ends_brings_its_message_to_the_next_worker_and_the_attempt_is_counted(server):
    server.push("/jobs", "1")
    (first,) = lease(server)
    server.advance(29.9)
    assert waits_no_more(server)
    server.advance(0.2)
    (second,) = lease(server)
    assert (second["id"], second["attempt"]) == (first["id"], 2)
    late = ack(server, first["lease"])
    assert (late.status, states(late)) == (410, ["gone"])
    assert states(ack(server, second["lease"])) == ["done"]


def test_a_lease_that_ended_is_still_acknowledged_as_long_as_no_other_worker_has_the_message(server):
    server.push("/jobs", "1")
    (message,) = lease(server)
    server.advance(31)
    assert states(ack(server, message["lease"])) == ["done"]
    assert waits_no_more(server)


def test_messages_come_back_in_their_order_before_newer_ones(server):
    for text in "123":
        server.push("/jobs", text)
    lease(server, "/poll/jobs?lease=10&limit=2")
    server.push("/jobs", "4")
    server.advance(11)
    again = lease(server, "/poll/jobs?lease=30&limit=10")
    assert [(one["data"], one["attempt"]) for one in again] == [("1", 2), ("2", 2), ("3", 1), ("4", 1)]


def test_a_take_is_given_what_comes_back_too_and_is_done_with_it(server):
    server.push("/jobs", "1")
    (message,) = lease(server)
    server.advance(31)
    assert server.read("/poll/jobs") == ["1"]
    assert ack(server, message["lease"]).status == 410
    assert waits_no_more(server)


def test_a_parked_worker_is_given_what_comes_back(server):
    server.comet.start()
    server.push("/jobs", "1")
    lease(server, "/poll/jobs?lease=5")
    worker, taker = server.park("/poll/jobs?lease=30"), server.park("/poll/jobs")
    for _ in range(7):
        server.advance(1)
    assert worker.answer.json["messages"][0]["attempt"] == 2
    assert taker.answer is None
    ack(server, worker.answer.json["messages"][0]["lease"], words="release=yes")
    server.driver.flush()
    assert taker.answer.json["messages"][0]["data"] == "1"


def test_a_worker_gives_a_message_back_at_once(server):
    server.push("/jobs", "1")
    (message,) = lease(server)
    assert states(ack(server, message["lease"], words="release=yes")) == ["released"]
    (again,) = lease(server)
    assert again["attempt"] == 2
    assert ack(server, message["lease"], words="release=yes").status == 410


def test_a_lease_that_was_given_back_is_not_extended_though_no_other_worker_has_the_message_yet(server):
    server.push("/jobs", "m")
    (message,) = lease(server)
    for _ in range(2):
        assert states(ack(server, message["lease"], words="release=yes")) == ["released"]
        answer = ack(server, message["lease"], words="extend=60")
        assert (answer.status, states(answer)) == (410, ["gone"])
    (again,) = lease(server)
    assert again["attempt"] == 2


def test_a_worker_extends_its_lease_from_now_on(server):
    server.push("/jobs", "1")
    (message,) = lease(server, "/poll/jobs?lease=10")
    server.advance(8)
    assert states(ack(server, message["lease"], words="extend=10")) == ["extended"]
    server.advance(9)
    assert waits_no_more(server)
    server.advance(2)
    assert states(ack(server, message["lease"], words="extend=5")) == ["extended"]
    assert waits_no_more(server)
    server.advance(6)
    assert lease(server)[0]["attempt"] == 2
    assert ack(server, message["lease"], words="extend=5").status == 410


def test_several_leases_are_told_apart_and_the_status_is_200_even_where_all_are_gone(server):
    for text in "12":
        server.push("/jobs", text)
    one, other = lease(server, "/poll/jobs?lease=30&limit=2")
    server.ask("POST", f"/ack/jobs?lease={one['lease']}")
    answer = ack(server, one["lease"], other["lease"])
    assert (answer.status, states(answer)) == (200, ["gone", "done"])
    assert ack(server, one["lease"], other["lease"]).status == 200


@pytest.mark.parametrize("lost", ["deleted", "expired", "dropped"])
def test_the_lease_of_a_message_that_is_no_more_is_gone(serve, lost):
    server = serve(Limits(capacity=1))
    server.push("/jobs?ttl=20", "1")
    (message,) = lease(server)
    if lost == "deleted":
        server.ask("DELETE", "/recipients/jobs")
    elif lost == "dropped":
        server.push("/jobs?overflow=drop-oldest", "2")
    else:
        server.advance(21)
    assert ack(server, message["lease"]).status == 410


def test_a_lease_cannot_be_guessed(server):
    server.push("/jobs", "1")
    (message,) = lease(server)
    stem, _, secret = message["lease"].rpartition(".")
    assert len(secret) == 22
    for guess in (f"{stem}.{'A' * 22}", f"{message['id']}.2.{secret}", f"{'0' * 10}-1.1.{secret}"):
        assert ack(server, guess).status == 410
    assert states(ack(server, message["lease"])) == ["done"]


# -- room


def test_a_leased_message_counts_as_unread_and_only_takes_and_acks_make_room(serve):
    server = serve(Limits(capacity=2))
    for text in "12":
        server.push("/jobs", text)
    (message,) = lease(server)
    end = server.get("/poll/jobs?after=oldest").json["cursor"]
    server.get(f"/poll/jobs?after={end}&wait=0")
    standing = server.get("/recipients/jobs").json
    assert (standing["queued"], standing["bytes"], standing["leased"]) == (2, 2, 1)
    assert server.ask("POST", "/push/jobs", "3").json["type"].endswith("mailbox-full")
    ack(server, message["lease"])
    server.push("/jobs", "3")
    assert server.read("/poll/jobs?limit=1") == ["2"]
    server.push("/jobs", "4")
    assert server.get("/recipients/jobs").json["queued"] == 2


# -- dead letters


def test_a_message_that_was_leased_too_often_goes_to_the_dead_letters(serve):
    server = serve(Limits(max_attempts=2))
    server.comet.start()
    server.push("/jobs?event=order", '{"n": 1}', {"Content-Type": "application/json"})
    for attempt in (1, 2):
        (message,) = lease(server, "/poll/jobs?lease=5")
        assert message["attempt"] == attempt
        server.advance(6)
    assert waits_no_more(server)
    (dead,) = server.get("/poll/$dead/jobs?after=oldest").json["messages"]
    assert (dead["recipient"], dead["event"], dead["data"]) == ("$dead/jobs", "dead", {"n": 1})
    assert ack(server, message["lease"]).status == 410
    assert server.get("/recipients/jobs").json["queued"] == 0
    assert server.read("/poll/$dead/jobs") == [{"n": 1}]


def test_a_reader_of_dead_letters_is_woken(serve):
    server = serve(Limits(max_attempts=1))
    server.comet.start()
    reader = server.park("/poll/$dead/a%2Fjobs?after=now")
    server.push("/a/jobs", "1")
    (message,) = lease(server, "/poll/a/jobs?lease=5")
    assert states(ack(server, message["lease"], words="release=yes", name="a/jobs")) == ["released"]
    server.advance(1)
    assert reader.answer.json["messages"][0]["event"] == "dead"


def test_where_the_dead_letters_are_full_the_message_stays_and_is_no_longer_given_out(serve):
    server = serve(Limits(max_attempts=1, capacity=1))
    server.comet.start()
    for text in "12":
        server.push("/jobs", text)
        (message,) = lease(server, "/poll/jobs?lease=1")
        server.advance(2)
    assert server.read("/poll/$dead/jobs?after=oldest") == ["1"]
    assert waits_no_more(server)
    assert server.get("/recipients/jobs").json["queued"] == 1
    assert "cometd_lite_exhausted 1.0" in server.get("/metrics").body.decode()
    assert server.read("/poll/$dead/jobs") == ["1"]
    server.advance(1)
    assert server.read("/poll/$dead/jobs") == ["2"]
    assert "cometd_lite_dead_letters_total 2.0" in server.get("/metrics").body.decode()
    assert message["data"] == "2"


def test_dead_letters_are_leased_as_often_as_one_likes(serve):
    server = serve(Limits(max_attempts=1))
    server.comet.start()
    server.push("/jobs", "1")
    lease(server, "/poll/jobs?lease=1")
    server.advance(2)
    for attempt in (1, 2, 3):
        (message,) = lease(server, "/poll/$dead/jobs?lease=1")
        assert message["attempt"] == attempt
        server.advance(2)
    assert states(ack(server, message["lease"], name="$dead/jobs")) == ["done"]
    assert server.ask("DELETE", "/recipients/$dead/jobs").status == 204


def test_nothing_is_pushed_to_the_dead_letters_by_clients_and_no_pattern_covers_them(server):
    assert server.ask("POST", "/push/$dead/jobs", "1").status == 400
    assert server.get("/poll/$dead/$dead/jobs?after=now").status == 400
    assert server.get("/poll/$dead/?after=now").status == 400
    assert server.get("/poll/$other/jobs?after=now").status == 400


# -- who may


def test_with_tokens_a_worker_needs_the_right_to_poll_and_reads_the_dead_letters_of_what_it_polls(
    serve, tmp_path
):
    file = tmp_path / "secret"
    file.write_text(SECRET)
    server = serve(Limits(max_attempts=1), tokens=Tokens([file], wall=lambda: STARTED))
    server.comet.start()
    headers = {
        name: {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}
        for name, claims in (("pusher", {"push": ["jobs"]}), ("worker", {"poll": ["jobs"]}))
    }
    server.push("/jobs", "1", headers["pusher"])
    assert server.get("/poll/jobs?lease=1", headers["pusher"]).status == 403
    (message,) = server.get("/poll/jobs?lease=1", headers["worker"]).json["messages"]
    target = f"/ack/jobs?lease={message['lease']}&release=yes"
    assert server.ask("POST", target, headers=headers["pusher"]).status == 403
    assert server.ask("POST", target).status == 401
    assert server.ask("POST", target, headers=headers["worker"]).status == 200
    server.advance(1)
    assert server.read("/poll/$dead/jobs?after=oldest", headers["worker"]) == ["1"]
    assert server.get("/poll/$dead/jobs?after=oldest", headers["pusher"]).status == 403


def test_pages_of_other_origins_neither_lease_nor_acknowledge(server):
    server.push("/jobs", "1")
    assert server.get("/poll/jobs?lease=30", {"Sec-Fetch-Site": "cross-site"}).status == 403
    assert server.get("/poll/jobs?lease=30", {"Sec-Purpose": "prefetch"}).status == 403
    (message,) = lease(server)
    origin = {"Origin": "https://evil.example"}
    assert server.ask("POST", f"/ack/jobs?lease={message['lease']}", headers=origin).status == 403
    assert states(ack(server, message["lease"])) == ["done"]


# -- what is refused


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("/poll/jobs?lease=0.5", "from 1 to 3600"),
        ("/poll/jobs?lease=3601", "from 1 to 3600"),
        ("/poll/jobs?lease=soon", "from 1 to 3600"),
        ("/poll/jobs?lease=30&lease=30", "given once"),
        ("/poll/jobs?lease=30&after=oldest", "no cursor"),
        ("/poll/jobs?lease=30&ack=no", "ack=no"),
        ("/poll/jobs/*?lease=30", "needs names"),
        ("/poll?listener=~0000000000000000000000000000000000000000&lease=30", "listener"),
        ("/poll/jobs?leas=30", "lease"),
        ("/stream/jobs?lease=30", "has no leases"),
        ("/ws/jobs?lease=30", "has no leases"),
    ],
)
def test_a_lease_that_cannot_be_is_a_400_with_a_sentence(server, target, sentence):
    server.push("/jobs", "1")
    answer = server.get(target)
    assert answer.status == 400
    assert sentence in answer.json["detail"]
    assert server.read("/poll/jobs") == ["1"]


@pytest.mark.parametrize("field", ["If-None-Match", "Last-Event-ID"])
def test_a_lease_has_no_cursor_in_a_field_either(server, field):
    place = server.push("/jobs", "1").json["id"]
    assert server.get("/poll/jobs?lease=30", {field: place}).status == 400


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "lease"),
        ("lease=", "id that came with"),
        ("lease=nonsense", "id that came with"),
        ("lease=abcdefghij-1.1.short", "id that came with"),
        ("lease={id}&extend=0", "from 1 to 3600"),
        ("lease={id}&extend=4000", "from 1 to 3600"),
        ("lease={id}&extend=5&release=yes", "not both"),
        ("lease={id}&release=maybe", "yes or no"),
        ("lease={id}&relase=yes", "release"),
        ("lease={id}&exetnd=5", "extend"),
    ],
)
def test_an_ack_that_cannot_be_is_a_400_with_a_sentence_and_changes_nothing(server, query, sentence):
    server.push("/jobs", "1")
    (message,) = lease(server)
    answer = server.ask("POST", f"/ack/jobs?{query.format(id=message['lease'])}")
    assert answer.status == 400
    assert sentence in answer.json["detail"]
    assert states(ack(server, message["lease"])) == ["done"]


def test_an_ack_names_a_recipient_and_is_a_post(server):
    assert server.get("/ack/jobs").status == 405
    assert server.ask("POST", "/ack").status == 404
    query = "&".join(f"lease=abcdefghij-{number}.1.{'A' * 22}" for number in range(1, 102))
    assert "1 to 100 leases" in server.ask("POST", f"/ack/jobs?{query}").json["detail"]


def test_looking_at_a_queue_by_head_leases_nothing(server):
    server.push("/jobs", "1")
    assert server.ask("HEAD", "/poll/jobs?lease=30").status == 200
    assert lease(server)[0]["attempt"] == 1
