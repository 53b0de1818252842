"""HTTP.md, "Presence": who reads a recipient, by name, over either server."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import msgspec
import pytest
from exchanges import STARTED, Answer, Server
from helpers import now
from wires import Stream, WebSocket, leave

from cometd_lite.access.tokens import Tokens
from cometd_lite.core.message import timestamp
from cometd_lite.core.namespaces import Namespace
from cometd_lite.errors import BadParameter, NotFound
from cometd_lite.limits import ONLINE_SECONDS, PRESENCE_COUNT_SECONDS, PRESENCE_MEMBERS, PRESENCE_NAME_BYTES

SECRET = b"a secret of at least thirty-two bytes"
JSON = {"Content-Type": "application/json"}
GRACE = ONLINE_SECONDS + 1  # the table is swept every second


@pytest.fixture(autouse=True)
def everybody_leaves(serve):
    yield
    leave()


@pytest.fixture
def server(serve) -> Server:
    made: Server = serve(presence=True)
    return made


def present(server: Server, recipient: str = "lobby") -> dict[str, int]:
    """Return the members of a recipient, each with its readers."""
    answer = server.get(f"/presence/{recipient}")
    assert answer.status == 200, answer
    return {member["name"]: member["readers"] for member in answer.json["members"]}


def readers(server: Server, recipient: str = "lobby") -> int:
    found: int = server.get(f"/presence/{recipient}").json["readers"]
    return found


def told(server: Server, recipient: str = "lobby") -> list[tuple[str, str, int]]:
    """Return what was told of a recipient: the event, the name, and how many readers there were then."""
    server.advance(0)
    answer = server.get(f"/poll/$presence/{recipient}?after=oldest&wait=0&limit=1000")
    return [
        (message["event"], message["data"].get("name"), message["data"]["readers"])
        for message in answer.json["messages"]
    ]


def token(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


@pytest.fixture
def guarded(server: Server, tmp_path: Path) -> Server:
    """Return a server that asks for tokens."""
    file = tmp_path / "key"
    file.write_bytes(SECRET)
    server.comet.routes.policy.tokens = Tokens([file], wall=server.comet.hub.wall)
    return server


# -- what is shown


def test_it_is_off_unless_asked_for(serve):
    server = serve()
    server.park("/poll/lobby?after=now&as=alice")
    for method in ("GET", "DELETE"):
        answer = server.ask(method, "/presence/lobby?as=alice")
        assert (answer.status, answer.json["type"]) == (404, "urn:cometd-lite:problem:not-found")
        assert "--presence" in answer.json["detail"]


def test_a_namespace_says_of_which_recipients_it_is_on(serve):
    on, off = Namespace(presence=True), Namespace(presence=False)
    for default in (True, False):
        server = serve(presence=default, namespaces={"chat/**": on, "chat/quiet": off, "x": Namespace(ttl=9)})
        for name in ("chat/a", "chat/quiet", "x", "*"):
            server.park(f"/poll/{name}?after=now&as=alice")
        assert present(server, "chat/a") == {"alice": 1}
        assert server.get("/presence/chat/quiet").status == 404
        assert server.get("/presence/x").status == (200 if default else 404)


def test_the_state_of_the_server_says_whether_it_is_kept(serve):
    assert serve(presence=True).get("/healthz").json["presence"] is True
    assert "presence" not in serve().get("/healthz").json


def test_who_reads_is_shown_by_name_with_its_readers(server):
    server.park("/poll/chat/lobby?after=now&as=alice")
    server.advance(5)
    server.park("/poll/chat/lobby?as=alice")
    server.park("/poll?rcpt=chat/lobby&rcpt=bob&after=now&as=bob")
    server.park("/poll/chat/lobby")
    answer = server.get("/presence/chat/lobby")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json == {
        "recipient": "chat/lobby",
        "readers": 4,
        "members": [
            {"name": "alice", "since": timestamp(STARTED), "readers": 2},
            {"name": "bob", "since": timestamp(STARTED + 5), "readers": 1},
        ],
    }
    assert present(server, "bob") == {"bob": 1}


def test_a_recipient_that_is_not_read_has_no_members(server):
    assert server.get("/presence/lobby").json == {"recipient": "lobby", "readers": 0, "members": []}


def test_a_reader_of_a_pattern_is_only_counted(server):
    server.park("/poll/chat/*?after=now&as=alice")
    server.park("/poll/chat/lobby?after=now&as=bob")
    assert (present(server, "chat/lobby"), readers(server, "chat/lobby")) == ({"bob": 1}, 2)
    assert readers(server, "chat/empty") == 1
    assert told(server, "chat/lobby") == [("join", "bob", 2)]


def test_streams_and_sockets_have_names_too(server):
    Stream(server, "/stream/lobby?as=alice")
    Stream(server, "/stream/lobby?as=bob", {"Accept": "application/x-ndjson"})
    WebSocket(server, "/ws/lobby?as=eve")
    assert present(server) == {"alice": 1, "bob": 1, "eve": 1}


def test_a_poll_that_is_answered_at_once_is_present_afterwards(server):
    server.push("/lobby")
    server.get("/poll/lobby?after=oldest&as=alice")
    server.get("/poll/lobby?as=bob")
    server.get("/poll/lobby?after=now&wait=0")
    assert (present(server), readers(server)) == ({"alice": 1, "bob": 1}, 3)


def test_a_listener_polls_under_a_name(server):
    listener = server.ask("POST", "/register", '{"recipients": ["lobby"]}', JSON).json["id"]
    server.park(f"/poll?listener={listener}&as=alice")
    assert present(server) == {"alice": 1}
    assert server.get(f"/presence/{listener}").json["readers"] == 0  # it is a secret, and its own alone


@pytest.mark.parametrize(
    "name", ["alice", "Zoë & Bob", "a/b", "日本", "x" * PRESENCE_NAME_BYTES, "as=as", "100%"]
)
def test_a_name_is_any_text_of_64_bytes(server, name):
    for _ in range(2):
        server.park(f"/poll/lobby?after=now&as={quote(name, safe='')}")
    server.park(f"/poll/lobby?as={quote(name, safe='')}&after=now")
    assert present(server) == {name: 3}


@pytest.mark.parametrize(
    "name", ["", "x" * (PRESENCE_NAME_BYTES + 1), "é" * 33, "a%00b", "a%0Ab", "%C2%85", "%ff"]
)
@pytest.mark.parametrize("path", ["/poll/lobby?after=now&as=", "/stream/lobby?as=", "/presence/lobby?as="])
def test_what_is_no_name_is_a_400(server, path, name):
    method = "DELETE" if path.startswith("/presence") else "GET"
    answer = server.ask(method, path + (name if "%" in name else quote(name)))
    assert answer.status == 400
    assert answer.json["detail"]


@pytest.mark.parametrize(
    "query", ["as=a&as=b", "as=a&after=now&as=b", "as=a&%61s=b", "%61s=b&after=now&as=a"]
)
def test_a_name_is_given_once(server, query):
    for _ in range(2):
        answer = server.get(f"/poll/lobby?wait=0&{query}")
        assert (answer.status, answer.json["detail"]) == (400, "as is given once.")


def test_polls_that_differ_in_the_name_only_are_told_apart(server):
    cursor = server.push("/x").json["id"]
    for name in ("alice", "bob", "eve", "bob"):
        server.park(f"/poll/lobby?after={cursor}&as={name}")
    server.park(f"/poll/lobby?after={cursor}")
    server.park(f"/poll/lobby?after={cursor}&%61s=zo%C3%AB")
    server.park(f"/poll/lobby?after={cursor}&%61s=zo%C3%AB")
    assert present(server) == {"alice": 1, "bob": 2, "eve": 1, "zoë": 2}
    assert readers(server) == 7


def test_a_wrong_name_of_a_recipient_is_a_400(server):
    for method in ("GET", "DELETE"):
        assert server.ask(method, "/presence/a//b?as=alice").status == 400
        assert server.ask(method, "/presence/$presence/x?as=alice").status == 400


# -- the grace


def test_a_poller_stays_present_between_its_polls(server):
    for _ in range(5):
        polling = server.park("/poll/lobby?after=now&as=alice&wait=20")
        assert present(server) == {"alice": 1}
        server.advance(20)
        assert polling.answer.status == 200
        server.advance(ONLINE_SECONDS - 1)
        assert (present(server), readers(server)) == ({"alice": 1}, 1)
    assert told(server) == []  # it joined more than 60 s ago, and has not left


def test_a_poller_that_does_not_come_back_leaves_after_45_s(server):
    polling = server.park("/poll/lobby?after=now&as=alice")
    server.advance(3)
    polling.hang_up()
    assert present(server) == {"alice": 1}
    server.advance(ONLINE_SECONDS - 1)
    assert present(server) == {"alice": 1}
    server.advance(2)
    assert (present(server), readers(server)) == ({}, 0)
    assert told(server) == [("join", "alice", 1), ("leave", "alice", 0)]


def test_a_stream_that_reconnects_has_not_left(server):
    Stream(server, "/stream/lobby?as=alice").hang_up()
    server.advance(10)
    Stream(server, "/stream/lobby?as=alice")
    server.advance(3 * GRACE)
    assert present(server) == {"alice": 1}
    assert told(server) == []


def test_one_of_two_tabs_that_is_closed_is_counted_for_45_s(server):
    server.park("/poll/lobby?after=now&as=alice&wait=100")
    assert told(server) == [("join", "alice", 1)]
    server.park("/poll/lobby?after=now&as=alice&wait=100").hang_up()
    assert present(server) == {"alice": 2}
    server.advance(GRACE)
    assert present(server) == {"alice": 1}
    assert [event for event, _, _ in told(server)] == ["join"]


def test_the_tab_that_stays_does_not_prolong_the_one_that_is_closed(server):
    closed = server.park("/poll/lobby?after=now&as=alice")
    staying = server.park("/poll/lobby?after=now&as=alice")
    closed.hang_up()
    for _ in range(4):
        server.advance(11)
        assert present(server) == {"alice": 2}
        staying.hang_up()
        staying = server.park("/poll/lobby?after=now&as=alice")
    server.advance(3)
    assert present(server) == {"alice": 1}


# -- to leave


def test_who_says_so_leaves_at_once(server):
    server.park("/poll/lobby?after=now&as=alice").hang_up()
    assert server.ask("DELETE", "/presence/lobby?as=alice").status == 204
    assert present(server) == {}
    server.park("/poll/lobby?after=now&as=alice")
    assert present(server) == {"alice": 1}


def test_a_name_does_not_leave_that_is_still_held(server):
    server.park("/poll/lobby?after=now&as=alice").hang_up()
    server.park("/poll/lobby?after=now&as=alice")
    server.park("/poll/lobby?after=now&as=alice").hang_up()
    assert server.ask("DELETE", "/presence/lobby?as=alice").status == 204
    assert present(server) == {"alice": 1}
    assert told(server) == [("join", "alice", 1)]


def test_a_connection_that_is_lost_just_after_its_client_has_left_leaves_at_once(server):
    polling = server.park("/poll/lobby?after=now&as=alice")
    server.ask("DELETE", "/presence/lobby?as=alice")
    assert present(server) == {"alice": 1}
    server.advance(1)
    polling.hang_up()
    assert present(server) == {}
    assert told(server) == [("join", "alice", 1), ("leave", "alice", 0)]


def test_a_tab_that_is_closed_takes_no_other_one_with_it(server):
    staying = server.park("/poll/lobby?after=now&as=alice")
    server.park("/poll/lobby?after=now&as=alice").hang_up()
    server.ask("DELETE", "/presence/lobby?as=alice")
    server.advance(1)
    staying.hang_up()
    assert present(server) == {"alice": 1}
    server.park("/poll/lobby?after=now&as=alice")
    assert [event for event, _, _ in told(server)] == ["join"]


def test_a_poll_that_ends_much_later_is_not_the_one_that_said_so(server):
    polling = server.park("/poll/lobby?after=now&as=alice")
    server.ask("DELETE", "/presence/lobby?as=alice")
    server.advance(10)
    polling.hang_up()
    assert present(server) == {"alice": 1}


def test_who_was_never_there_leaves_without_a_word(server):
    assert server.ask("DELETE", "/presence/lobby?as=alice").status == 204
    assert told(server) == []


def test_to_leave_needs_a_name_and_tells_a_mistyped_parameter(server):
    answer = server.ask("DELETE", "/presence/lobby")
    assert (answer.status, "?as=" in answer.json["detail"]) == (400, True)
    assert "did you mean" in server.ask("DELETE", "/presence/lobby?az=alice").json["detail"]


def test_a_foreign_page_lets_no_name_leave(server):
    server.park("/poll/lobby?after=now&as=alice").hang_up()
    foreign = {"Origin": "https://evil.example"}
    assert server.ask("DELETE", "/presence/lobby?as=alice", b"", foreign).status == 403
    assert present(server) == {"alice": 1}


# -- what is told


def test_joins_and_leaves_are_messages_that_wake_who_waits_for_them(server):
    watching = server.park("/poll/$presence/lobby?after=now")
    cursor = server.get("/presence/lobby").headers["comet-cursor"]
    server.park("/poll/lobby?after=now&as=alice")
    server.park("/poll/lobby?after=now")
    server.advance(0)
    (message,) = watching.answer.json["messages"]
    assert message["recipient"] == "$presence/lobby"
    assert (message["event"], message["type"]) == ("join", "application/json")
    assert message["data"] == {"name": "alice", "readers": 2}
    answer = server.get(f"/poll/%24presence/lobby?after={cursor}&wait=0")
    assert answer.json["messages"] == [message]


def test_what_is_told_is_an_event_of_a_stream_and_a_text_of_a_socket(server):
    stream = Stream(server, "/stream/$presence/lobby")
    socket = WebSocket(server, "/ws/$presence/lobby")
    server.park("/poll/lobby?after=now&as=alice")
    server.advance(0)
    stream.turn()
    (event,) = stream.parse().events
    assert (event.type, msgspec.json.decode(event.data)) == ("join", {"name": "alice", "readers": 1})
    socket.turn()
    (text,) = socket.texts
    assert text["data"] == {"name": "alice", "readers": 1}


def test_each_join_is_followed_by_one_leave(server):
    for _ in range(3):
        server.park("/poll/lobby?after=now&as=alice").hang_up()
        server.advance(0)
        server.ask("DELETE", "/presence/lobby?as=alice")
        server.advance(0)
    assert [event for event, _, _ in told(server)] == ["join", "leave"] * 3


def test_who_came_and_left_before_it_could_be_told_is_not_told(server):
    server.park("/poll/lobby?after=now&as=alice").hang_up()
    server.ask("DELETE", "/presence/lobby?as=alice")
    assert told(server) == []


def test_what_is_told_is_kept_for_a_minute(server):
    server.park("/poll/lobby?after=now&as=alice&wait=100")
    server.advance(0)
    server.advance(59)
    assert told(server) == [("join", "alice", 1)]
    server.advance(2)
    assert told(server) == []


def test_a_full_mailbox_drops_the_oldest_of_it(serve):
    from cometd_lite.limits import Limits  # noqa: PLC0415

    server = serve(Limits(capacity=3), presence=True)
    for name in "abcde":
        server.park(f"/poll/lobby?after=now&as={name}")
    assert [name for _, name, _ in told(server)] == ["c", "d", "e"]


def test_no_client_pushes_what_is_published_and_no_pattern_reads_it(server):
    assert server.ask("POST", "/push/$presence/lobby", "join").status == 400
    server.park("/poll/lobby?after=now&as=alice")
    assert told(server) == [("join", "alice", 1)]
    assert server.read("/poll/**?after=oldest&wait=0") == []
    for wrong in ("$presence/*", "$presence/a//b", "$presence/", "$presence", "$presence/$presence/lobby"):
        assert server.get(f"/poll/{wrong}?after=now&wait=0").status == 400


def test_a_bayeux_client_is_told_of_joins_and_leaves(server):
    def say(**message: object) -> list[dict]:
        return server.ask("POST", "/cometd", msgspec.json.encode([message]), JSON).json

    words = {"version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    client = say(channel="/meta/handshake", **words)[0]["clientId"]
    say(channel="/meta/connect", clientId=client, connectionType="long-polling")
    (reply,) = say(channel="/meta/subscribe", clientId=client, subscription="/$presence/chat/lobby")
    assert reply["successful"]
    server.get("/poll/chat/lobby?after=now&wait=0&as=alice")
    server.advance(0)
    server.ask("DELETE", "/presence/chat/lobby?as=alice")
    server.advance(0)
    said = say(channel="/meta/connect", clientId=client, connectionType="long-polling")
    assert [(one["channel"], one["data"], one["ext"]) for one in said if "data" in one] == [
        ("/$presence/chat/lobby", {"name": "alice", "readers": 1}, {"event": "join"}),
        ("/$presence/chat/lobby", {"name": "alice", "readers": 0}, {"event": "leave"}),
    ]


@pytest.mark.parametrize(
    "words", [{}, {"presence": True, "namespaces": {"chat/**": Namespace(presence=False)}}]
)
def test_where_presence_is_not_kept_its_messages_cannot_be_read(serve, words):
    server = serve(**words)
    name = "$presence/chat/lobby"
    listener = server.ask("POST", "/register", "", JSON).json["id"]
    listed = msgspec.json.encode({"recipients": ["bob", name]})
    for answer in (
        server.get(f"/poll/{name}?after=now"),
        server.get(f"/poll?rcpt=bob&rcpt={name}"),
        server.get(f"/stream/{name}"),
        server.get(f"/ws/{name}"),
        server.ask("POST", "/register", listed, JSON),
        server.ask("PUT", f"/listeners/{listener}", listed, JSON),
    ):
        assert (answer.status, answer.json["type"]) == (404, "urn:cometd-lite:problem:not-found")
        assert "'chat/lobby': start the server with --presence" in answer.json["detail"]
    for read in (server.comet.poll(name, "now"), server.comet.take(name)):
        with pytest.raises(NotFound, match="Presence is not kept for"):
            now(read)
    message = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    (reply,) = server.ask("POST", "/cometd", msgspec.json.encode([message]), JSON).json
    message = {"channel": "/meta/subscribe", "clientId": reply["clientId"], "subscription": f"/{name}"}
    (reply,) = server.ask("POST", "/cometd", msgspec.json.encode([message]), JSON).json
    assert reply["error"].startswith("404:")


def test_who_only_reads_what_is_told_is_not_present(server):
    server.park("/poll/$presence/lobby?after=now&as=alice")
    assert (present(server), readers(server)) == ({}, 0)


def test_a_crowd_is_listed_in_part_and_told_by_its_count(server):
    most = PRESENCE_MEMBERS
    for number in range(most + 3):
        server.get(f"/poll/lobby?after=now&wait=0&as=name{number}")
    shown = server.get("/presence/lobby").json
    assert (shown["readers"], len(shown["members"]), shown["more"]) == (most + 3, most, True)
    server.advance(0)
    assert len(told(server)) <= most
    server.advance(PRESENCE_COUNT_SECONDS)
    counts = [one for one in told(server) if one[0] == "count"]
    assert counts == [("count", None, most + 3)]
    for number in range(10):
        server.ask("DELETE", f"/presence/lobby?as=name{number}")
    server.advance(PRESENCE_COUNT_SECONDS)
    assert "more" not in server.get("/presence/lobby").json
    assert told(server)[-1][0::2] == ("leave", most - 7)
    for number in range(20):
        server.get(f"/poll/lobby?after=now&wait=0&as=name{number}")
    server.advance(0)
    server.advance(PRESENCE_COUNT_SECONDS)
    assert told(server)[-1] == ("count", None, most + 3)


# -- who may


def ask(server: Server, target: str, **claims: Any) -> Answer:
    return server.get(target, token(**claims))


def test_the_subject_of_a_token_is_the_name(guarded):
    for _ in range(2):
        guarded.park("/poll/lobby?after=now&as=eve", token(sub="alice", poll=["lobby"]))
    guarded.park("/poll/lobby?after=now", token(sub=7, poll=["lobby"]))
    shown = ask(guarded, "/presence/lobby", poll=["lobby"]).json
    assert (shown["readers"], [one["name"] for one in shown["members"]]) == (3, ["alice"])


def test_to_name_oneself_needs_the_claim(guarded):
    for target in ("/poll/lobby?after=now&wait=0", "/stream/lobby?x=1", "/presence/lobby?x=1"):
        method = "DELETE" if target.startswith("/presence") else "GET"
        for claims in ({}, {"as": False}, {"as": "alice"}, {"sub": 7}):
            answer = guarded.ask(method, f"{target}&as=alice", b"", token(poll=["lobby"], **claims))
            assert answer.status == 403
            assert "claim" in answer.json["detail"]
    guarded.park("/poll/lobby?after=now&as=alice", token(poll=["lobby"], **{"as": True}))
    shown = ask(guarded, "/presence/lobby", poll=["lobby"]).json
    assert [one["name"] for one in shown["members"]] == ["alice"]


def test_a_subject_leaves_without_saying_its_name(guarded):
    alice = token(sub="alice", poll=["lobby"])
    guarded.park("/poll/lobby?after=now", alice).hang_up()
    assert guarded.ask("DELETE", "/presence/lobby", b"", alice).status == 204
    assert ask(guarded, "/presence/lobby", poll=["lobby"]).json["readers"] == 0


def test_a_subject_that_cannot_be_shown_is_shown_without_what_cannot(guarded):
    guarded.park("/poll/lobby?after=now", token(sub="a\ud83d\nb", poll=["lobby"]))
    guarded.park("/poll/lobby?after=now", token(sub="", poll=["lobby"]))
    shown = ask(guarded, "/presence/lobby", poll=["lobby"]).json
    assert (shown["readers"], [one["name"] for one in shown["members"]]) == (2, ["a\ufffd\ufffdb"])


@pytest.mark.parametrize("poll", [["chat/lobby"], ["chat/*"], ["chat/**"], ["**"]])
def test_who_may_poll_a_recipient_may_see_who_reads_it(guarded, poll):
    assert ask(guarded, "/presence/chat/lobby", poll=poll).status == 200
    assert ask(guarded, "/poll/$presence/chat/lobby?after=now&wait=0", poll=poll).status == 200


def test_who_may_not_poll_a_recipient_may_not_see_who_reads_it(guarded):
    for target in ("/presence/chat/lobby", "/poll/$presence/chat/lobby?after=now&wait=0"):
        assert guarded.get(target).status == 401
        assert ask(guarded, target, poll=["chat/other"], push=["**"], manage=["**"]).status == 403
        assert ask(guarded, target, poll=["$presence/*"]).status == 403


def test_a_program_is_asked_about_the_recipient(serve):
    asked = []

    def authorize(_: Any, action: str, recipient: str) -> bool:
        asked.append((action, recipient))
        return True

    server = serve(presence=True, authorize=authorize)
    server.get("/poll/$presence/lobby?after=now&wait=0")
    server.get("/presence/lobby")
    server.ask("DELETE", "/presence/lobby?as=alice")
    assert asked == [("poll", "lobby")] * 3


# -- Bayeux


def test_a_subscriber_is_present_under_its_tokens_subject(guarded):
    headers = JSON | token(sub="alice", poll=["chat/*"])
    handshake = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    (reply,) = guarded.ask("POST", "/cometd", msgspec.json.encode([handshake]), headers).json
    client = {"clientId": reply["clientId"], "connectionType": "long-polling"}
    connect = msgspec.json.encode([{"channel": "/meta/connect", **client}])
    guarded.ask("POST", "/cometd", connect, headers)
    subscribe = {"channel": "/meta/subscribe", "subscription": "/chat/lobby", **client}
    guarded.ask("POST", "/cometd", msgspec.json.encode([subscribe]), headers)
    held = guarded.send("POST", "/cometd", connect, headers)
    assert held.answer is None
    shown = ask(guarded, "/presence/chat/lobby", poll=["**"]).json
    assert [(one["name"], one["readers"]) for one in shown["members"]] == [("alice", 1)]
    guarded.advance(30)
    assert held.answer is not None
    assert ask(guarded, "/presence/chat/lobby", poll=["**"]).json["readers"] == 1
    guarded.advance(GRACE)
    assert ask(guarded, "/presence/chat/lobby", poll=["**"]).json["readers"] == 0


# -- from Python


def test_a_program_reads_under_a_name_and_asks_who_reads(server):
    server.comet.poll("lobby", "now", name="bot")
    assert present(server) == {"bot": 1}
    shown = now(server.comet.presence("lobby"))
    assert (shown.readers, [(one.name, one.readers) for one in shown.members]) == (1, [("bot", 1)])
    with pytest.raises(BadParameter):
        now(server.comet.poll("lobby", "now", name=""))


@pytest.mark.parametrize(("claims", "status"), [(None, 401), ({"poll": ["bob"]}, 403)])
def test_a_client_without_the_right_to_poll_does_not_learn_whether_presence_is_kept(
    serve, tmp_path, claims, status
):
    server = serve()
    file = tmp_path / "key"
    file.write_bytes(SECRET)
    server.comet.routes.policy.tokens = Tokens([file], wall=server.comet.hub.wall)
    head = {} if claims is None else token(**claims)
    name = "$presence/chat/lobby"
    listed = msgspec.json.encode({"recipients": [name]})
    for answer in (
        server.get(f"/poll/{name}?after=now", head),
        server.get(f"/stream/{name}", head),
        server.get(f"/ws/{name}", head),
        server.ask("POST", "/register", listed, {**JSON, **head}),
        server.get("/presence/chat/lobby", head),
        server.ask("DELETE", "/presence/chat/lobby", "", head),
    ):
        assert answer.status == status


def test_a_program_is_told_where_presence_is_off(serve):
    with pytest.raises(ValueError, match="presence=True"):
        now(serve().comet.presence("lobby"))


def test_the_servers_own_messages_about_presence_are_no_pushes_of_others(serve):
    heard = []
    server = serve(presence=True, on_push=lambda message: heard.append(message.recipient))
    server.park("/poll/lobby?after=now&as=alice")
    assert told(server) == [("join", "alice", 1)]
    server.push("/lobby")
    server.advance(0)
    assert heard == ["lobby"]
