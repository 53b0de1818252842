"""HTTP.md, "Everything else": ``GET /recipients``, the mailboxes that exist, a page at a time."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from cometd_lite.access.tokens import Tokens
from cometd_lite.core.message import Content, Push

SECRET = b"0123456789abcdef0123456789abcdef"


def listed(server, query: str = "", headers=None) -> list[str]:
    """Return the names of all pages."""
    found: list[str] = []
    after = ""
    while True:
        answer = server.get(f"/recipients?{query}{after}", headers)
        assert answer.status == 200, answer
        assert set(answer.json) == {"recipients", "more"}
        found += [one["recipient"] for one in answer.json["recipients"]]
        if answer.json["more"] is None:
            return found
        assert answer.json["more"] == found[-1]
        after = f"&after={answer.json['more']}"


def bearer(**claims) -> dict[str, str]:
    return {"Authorization": "Bearer " + jwt.encode({"exp": 2_000_000_000, **claims}, SECRET)}


@pytest.fixture
def guarded(serve, tmp_path: Path):
    """Return a server that asks for tokens, with some mailboxes."""
    (tmp_path / "key").write_bytes(SECRET)
    server = serve()
    for name in ("bob", "chat/a", "chat/a/b", "chat/c", "team/a"):
        server.push(f"/{name}")
    server.comet.routes.policy.tokens = Tokens([tmp_path / "key"], wall=server.comet.hub.wall)
    return server


def test_each_mailbox_stands_in_the_list_as_it_is_shown_alone(server):
    server.push("/chat/b", "12345")
    server.push("/chat/a")
    server.push("/bob")
    server.park("/poll/chat/b?after=now")
    answer = server.get("/recipients?prefix=chat/")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json == {
        "recipients": [server.get(f"/recipients/chat/{name}").json for name in "ab"],
        "more": None,
    }
    assert [one["waiting"] for one in answer.json["recipients"]] == [0, 1]


def test_a_server_without_mailboxes_lists_none(server):
    assert server.get("/recipients").json == {"recipients": [], "more": None}
    server.push("/bob")
    server.ask("DELETE", "/recipients/bob")
    assert server.get("/recipients?prefix=b").json == {"recipients": [], "more": None}


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
def test_the_pages_together_have_each_mailbox_once(server, limit):
    names = ["a", "chat", "chat-a", "chat/a", "chat/b", "chat0"]
    for name in reversed(names):
        server.push(f"/{name}")
    assert listed(server, f"limit={limit}") == names
    assert listed(server, f"limit={limit}&prefix=chat/") == ["chat/a", "chat/b"]
    page = server.get(f"/recipients?limit={limit}").json
    assert len(page["recipients"]) == min(limit, len(names))


def test_mailboxes_of_the_server_and_of_listeners_are_not_listed(server):
    listener = server.ask("POST", "/register", '{"recipients": ["bob"]}').json["id"]
    server.push(f"/{listener}")
    server.push("?to=listeners")
    server.push("/bob")
    assert listed(server) == ["bob"]
    assert listed(server, "prefix=$") == listed(server, "prefix=~") == []


def test_dead_letters_are_listed_where_they_are_asked_for(server):
    for name in ("jobs", "other/jobs"):
        server.comet.hub.push(Push((f"$dead/{name}",), (Content.of("dead"),)))
    assert listed(server) == listed(server, "prefix=$") == listed(server, "prefix=$dead") == []
    assert listed(server, "prefix=$dead/") == ["$dead/jobs", "$dead/other/jobs"]
    assert listed(server, "prefix=$dead/j") == ["$dead/jobs"]


def test_dead_letters_of_the_longest_names_are_listed_page_by_page(server):
    names = ["$dead/" + letter * 256 for letter in "ab"]
    for name in names:
        server.comet.hub.push(Push((name,), (Content.of("dead"),)))
    assert listed(server, "prefix=$dead/&limit=1") == names
    assert server.get("/recipients?prefix=$dead/" + "a" * 257).status == 400


def test_many_mailboxes_are_listed_in_several_turns(server):
    for part in range(30):
        names = "&".join(f"rcpt=room/{part:02}-{number:02}" for number in range(100))
        server.push(f"?{names}")
    exchange = server.send("GET", "/recipients?limit=1000")
    for _ in range(1_000):
        if exchange.answer is not None:
            break
        server.advance(0)
    found = exchange.answer.json
    assert len(found["recipients"]) == 1_000
    assert found["more"] == "room/09-99"


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=1001", "limit=x", "limit=-1", "limit=1&limit=2", "prefix=a&prefix=b"),
        *("prefix=%01", "prefix=/a", "prefix=a//b", "after=%FF", "prefx=a", "limt=5"),
        "prefix=" + "x" * 257,
    ],
)
def test_what_makes_no_sense_is_a_400_that_says_so(server, query):
    answer = server.get(f"/recipients?{query}")
    assert answer.status == 400
    assert answer.json["type"].endswith("bad-parameter")
    assert answer.json["detail"]


def test_other_methods_are_not_allowed(server):
    for method in ("POST", "DELETE", "PUT"):
        answer = server.ask(method, "/recipients")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


# -- who may


@pytest.mark.parametrize(
    ("manage", "prefix", "expected"),
    [
        (["**"], "", ["bob", "chat/a", "chat/a/b", "chat/c", "team/a"]),
        (["chat/**"], "chat/", ["chat/a", "chat/a/b", "chat/c"]),
        (["chat/**"], "", ["chat/a", "chat/a/b", "chat/c"]),
        (["chat/*"], "chat/", ["chat/a", "chat/c"]),
        (["chat/*", "bob"], "", ["bob", "chat/a", "chat/c"]),
        (["chat/**"], "chat/a", ["chat/a", "chat/a/b"]),
        (["chat/a/**"], "c", ["chat/a/b"]),
        (["bob", "nobody"], "", ["bob"]),
    ],
)
def test_a_token_lists_what_it_may_manage(guarded, manage, prefix, expected):
    token = bearer(manage=manage)
    assert listed(guarded, f"prefix={prefix}", token) == expected
    assert listed(guarded, f"prefix={prefix}&limit=1", token) == expected


@pytest.mark.parametrize(
    ("claims", "prefix"),
    [
        ({"push": ["**"], "poll": ["**"]}, ""),
        ({"manage": []}, ""),
        ({"manage": ["chat/**"]}, "team/"),
        ({"manage": ["chat/*"]}, "chat/a/"),
        ({"manage": ["bob"]}, "bobby"),
    ],
)
def test_a_token_that_manages_nothing_of_it_is_refused(guarded, claims, prefix):
    answer = guarded.get(f"/recipients?prefix={prefix}", bearer(**claims))
    assert (answer.status, answer.json["type"]) == (403, "urn:cometd-lite:problem:forbidden")


def test_a_token_lists_the_dead_letters_of_what_it_may_manage(guarded):
    for name in ("bob", "chat/a", "chat/a/b"):
        guarded.comet.hub.push(Push((f"$dead/{name}",), (Content.of("dead"),)))
    assert listed(guarded, "prefix=$dead/", bearer(manage=["chat/*"])) == ["$dead/chat/a"]
    assert listed(guarded, "prefix=$dead/chat/", bearer(manage=["**"])) == ["$dead/chat/a", "$dead/chat/a/b"]
    assert guarded.get("/recipients?prefix=$dead/b", bearer(manage=["chat/*"])).status == 403


def test_without_a_token_nothing_is_listed_where_one_is_needed(guarded):
    assert guarded.get("/recipients").status == 401


def test_the_program_is_asked_about_everything_that_may_be_listed(serve):
    asked = []

    def authorize(_, action, name):
        asked.append((action, name))
        return name == "chat/**"

    server = serve(authorize=authorize)
    for prefix, status, name in (("chat/", 200, "chat/**"), ("chat/a", 200, "chat/**"), ("cha", 403, "**")):
        assert server.get(f"/recipients?prefix={prefix}").status == status
        assert asked.pop() == ("manage", name)
