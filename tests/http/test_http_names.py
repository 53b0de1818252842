"""HTTP.md, "Words", over HTTP: which names of recipients a path or a query can say."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

import pytest

GOOD = [
    "bob",
    "chat/room1",
    "a/b/c/d/e",
    "with space",
    " ",
    "grüße",
    "日本/東京",
    "👩\u200d👩\u200d👧",
    "a+b",
    "100%",
    "%41",
    "a?b",
    "a&b=c",
    "a#b",
    "a;b,c",
    '"quoted"',
    "back\\slash",
    "<b>",
    "...",
    ".hidden",
    "a*",
    "***",
    "a..b",
    "costs$",
    "a/$b",
    "push/poll",
    "x" * 256,
    "ü" * 128,
    "x/" * 15 + "xy",
]

BAD = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    "//",
    ".",
    "..",
    "a/./b",
    "a/..",
    "../etc",
    "*",
    "**",
    "a/*",
    "a/**/b",
    "$sys",
    "$",
    "a\x00b",
    "a\nb",
    "\n",
    "a\n",
    "a\rb",
    "a\tb",
    "\x1f",
    "\x7f",
    "a\x85b",
    "x" * 257,
    "ü" * 129,
]

short = lambda name: ascii(name)[:20]  # noqa: E731


@pytest.mark.parametrize("name", GOOD, ids=short)
def test_a_good_name_is_said_by_path_and_by_query_in_any_encoding(server, name):
    every_byte = "".join(f"%{byte:02x}" for byte in name.encode())
    targets = [
        f"/{quote(name, safe='/')}",
        f"/{quote(name, safe='')}",
        f"/{every_byte}",
        f"?rcpt={quote(name, safe='/')}",
        f"?rcpt={quote_plus(name)}",
        f"?rcpt={every_byte.upper()}",
    ]
    for target in targets:
        assert server.push(target, target).json["recipients"] == [name]
    everything = server.get(f"/poll/{quote(name, safe='')}?after=oldest").json
    assert [message["data"] for message in everything["messages"]] == targets
    assert {message["recipient"] for message in everything["messages"]} == {name}
    assert server.read(f"/poll?rcpt={quote_plus(name)}&after=oldest") == targets
    standing = server.get(f"/recipients/{quote(name, safe='/')}").json
    assert (standing["recipient"], standing["queued"]) == (name, len(targets))


@pytest.mark.parametrize("name", BAD, ids=short)
def test_a_bad_name_is_a_400_that_says_what_is_wrong(server, name):
    encoded = quote(name, safe="/")
    for method, target in (
        ("POST", f"/push/{encoded}"),
        ("POST", f"/push/{quote(name, safe='')}"),
        ("POST", f"/push?rcpt={encoded}"),
        ("POST", f"/push?rcpt=good&rcpt={encoded}"),
        ("GET", f"/poll/{encoded}"),
        ("GET", f"/poll?rcpt={encoded}"),
        ("GET", f"/recipients/{encoded}"),
        ("DELETE", f"/recipients/{encoded}"),
    ):
        answer = server.ask(method, target, "hello" if method == "POST" else b"")
        assert (answer.status, answer.json["type"]) == (400, "urn:cometd-lite:problem:bad-recipient"), target
    assert server.get("/recipients/good").json["queued"] == 0


@pytest.mark.parametrize(
    ("name", "word"),
    [("a\nb", "control"), ("$sys", "$"), ("x" * 257, "256"), ("a//b", "empty segment"), ("..", "'..'")],
    ids=short,
)
@pytest.mark.parametrize("target", ["/push/{}", "/push?rcpt={}"])
def test_the_refusal_of_a_name_says_which_rule_it_broke(server, target, name, word):
    answer = server.ask("POST", target.format(quote(name)), "hello")
    assert word in answer.json["detail"]


@pytest.mark.parametrize("name", ["%FF", "a%C3", "%ED%A0%80", "%C0%AF", "%F8%88%80%80%80"])
def test_a_name_that_is_no_utf8_is_a_400(server, name):
    for method, target in (
        ("POST", f"/push/{name}"),
        ("POST", f"/push?rcpt={name}"),
        ("GET", f"/poll/{name}"),
        ("GET", f"/poll?rcpt={name}"),
        ("GET", f"/recipients/{name}"),
    ):
        answer = server.ask(method, target, "hello" if method == "POST" else b"")
        assert answer.status == 400, target
        assert "UTF-8" in answer.json["detail"]


def test_names_are_told_apart_by_case_and_by_every_byte(server):
    server.push("/bob", "1")
    server.push("/Bob", "2")
    server.push("/caf%C3%A9", "composed")
    server.push("/cafe%CC%81", "decomposed")
    assert server.read("/poll/bob") == ["1"]
    assert server.read("/poll/Bob") == ["2"]
    assert server.read("/poll/caf%C3%A9") == ["composed"]


def test_a_slash_in_a_name_may_be_encoded_or_not(server):
    server.push("/chat%2Froom1", "1")
    server.push("/chat/room1", "2")
    assert server.read("/poll/chat/room1?after=oldest") == ["1", "2"]
    assert server.read("/poll?rcpt=chat/room1&after=oldest") == ["1", "2"]
    assert server.read("/poll?rcpt=chat%2Froom1&after=oldest") == ["1", "2"]


def test_a_plus_is_a_space_in_a_query_and_a_plus_in_a_path(server):
    assert server.push("/a+b").json["recipients"] == ["a+b"]
    assert server.push("?rcpt=a+b").json["recipients"] == ["a b"]
    assert server.push("?rcpt=a%2Bb").json["recipients"] == ["a+b"]
