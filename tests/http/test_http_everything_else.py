"""HTTP.md, "Everything else", over HTTP: recipients, health, methods, and how errors look."""

from __future__ import annotations

import gzip

import pytest
from exchanges import TreqDriver
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.server import Site

from cometd_lite import Comet, __version__
from cometd_lite.limits import Limits
from cometd_lite.pages import pages

# -- GET /recipients/{recipient}


def test_an_unknown_recipient_has_nothing_and_is_offline(server):
    answer = server.get("/recipients/bob")
    assert answer.status == 200
    assert answer.json == {
        "recipient": "bob",
        "waiting": 0,
        "queued": 0,
        "bytes": 0,
        "leased": 0,
        "oldest": None,
        "newest": None,
        "last_seen": None,
        "online": False,
    }


def test_a_recipient_says_what_it_holds(server):
    first = server.push("/chat/room1", "12345").json["id"]
    last = server.push("/chat/room1", "67").json["id"]
    standing = server.get("/recipients/chat/room1").json
    assert standing["recipient"] == "chat/room1"
    assert (standing["queued"], standing["bytes"]) == (2, 7)
    assert (standing["oldest"], standing["newest"]) == (first, last)


def test_what_was_acknowledged_or_taken_is_queued_no_more(server):
    first = server.push("/bob", "1").json["id"]
    server.push("/bob", "2")
    server.push("/bob", "3")
    server.get(f"/poll/bob?after={first}")
    assert server.get("/recipients/bob").json["queued"] == 2
    server.get("/poll/bob?limit=2")
    assert server.get("/recipients/bob").json["queued"] == 1


def test_who_waits_is_counted_and_online(server):
    server.park("/poll/bob")
    server.park("/poll?rcpt=alice&rcpt=bob&after=now")
    standing = server.get("/recipients/bob").json
    assert (standing["waiting"], standing["online"]) == (2, True)
    assert standing["last_seen"] == "2026-11-20T10:15:58.123Z"
    assert server.get("/recipients/alice").json["waiting"] == 1


def test_who_polled_within_45_seconds_is_online(server):
    server.get("/poll/bob?wait=0")
    server.advance(44.9)
    standing = server.get("/recipients/bob").json
    assert (standing["online"], standing["last_seen"]) == (True, "2026-11-20T10:15:58.123Z")
    server.advance(0.2)
    standing = server.get("/recipients/bob").json
    assert (standing["online"], standing["last_seen"]) == (False, "2026-11-20T10:15:58.123Z")


def test_a_reader_that_was_held_and_left_was_seen_when_it_left(server):
    poll = server.park("/poll/bob")
    server.advance(10)
    poll.hang_up()
    server.advance(40)
    standing = server.get("/recipients/bob").json
    assert (standing["online"], standing["last_seen"]) == (True, "2026-11-20T10:16:08.123Z")


def test_a_push_makes_no_recipient_online(server):
    server.push("/bob")
    server.get("/recipients/bob")
    standing = server.get("/recipients/bob").json
    assert (standing["online"], standing["last_seen"]) == (False, None)


# -- DELETE /recipients/{recipient}


def test_deleting_a_recipient_loses_its_messages(server):
    server.push("/bob")
    answer = server.ask("DELETE", "/recipients/bob")
    assert (answer.status, answer.body) == (204, b"")
    assert server.read("/poll/bob?after=oldest&wait=0") == []
    assert server.read("/poll/bob?wait=0") == []
    assert server.get("/recipients/bob").json["queued"] == 0


def test_deleting_tells_the_readers_a_gap_once(server):
    before = server.push("/bob", "1").json["id"]
    server.push("/bob", "2")
    server.ask("DELETE", "/recipients/bob")
    answer = server.get(f"/poll/bob?after={before}")
    assert (answer.json["gap"], answer.json["messages"]) == (True, [])
    assert server.get(f"/poll/bob?after={answer.json['cursor']}&wait=0").json["gap"] is False


def test_deleting_what_is_not_there_is_the_same(server):
    assert server.ask("DELETE", "/recipients/nobody").status == 204


def test_deleting_leaves_who_waits_waiting(server):
    poll = server.park("/poll/bob?after=now")
    server.ask("DELETE", "/recipients/bob")
    server.push("/bob")
    server.driver.flush()
    assert [message["data"] for message in poll.answer.json["messages"]] == ["hello"]


# -- GET /healthz


def test_the_server_says_that_it_is_well(server):
    server.advance(90.5)
    answer = server.get("/healthz")
    assert answer.status == 200
    assert answer.json == {"status": "ok", "version": __version__, "uptime": 90.5, "store": "ok"}


def test_a_stopping_server_says_so(server):
    server.stop()
    answer = server.get("/healthz")
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json["status"] == "stopping"
    assert answer.json["version"] == __version__


# -- methods


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/push", {"POST", "OPTIONS"}),
        ("/push/bob", {"POST", "OPTIONS"}),
        ("/poll", {"GET", "HEAD", "OPTIONS"}),
        ("/poll/chat/room1", {"GET", "HEAD", "OPTIONS"}),
        ("/recipients/bob", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("/healthz", {"GET", "HEAD", "OPTIONS"}),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
def test_a_known_path_with_another_method_is_a_405_that_says_which(server, target, allowed, method):
    if method in allowed:
        return
    answer = server.ask(method, target, b"")
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == allowed
    if method != "HEAD":
        assert answer.json["type"].endswith("method-not-allowed")
        assert "GET" in answer.json["detail"] or "POST" in answer.json["detail"]


@pytest.mark.parametrize(
    "target",
    ["/push", "/push/bob", "/poll/bob", "/recipients/bob", "/healthz", "/nowhere/at/all", "/push//x"],
)
def test_options_anywhere_is_a_204(server, target):
    answer = server.ask("OPTIONS", target)
    assert (answer.status, answer.body) == (204, b"")


def test_options_says_what_a_path_allows(server):
    assert server.ask("OPTIONS", "/push/bob").headers["allow"] == "OPTIONS, POST"


@pytest.mark.parametrize("target", ["/poll/bob?after=oldest", "/recipients/bob", "/healthz"])
def test_head_answers_as_get_without_the_body(server, target):
    server.push("/bob")
    get, head = server.get(target), server.ask("HEAD", target)
    assert (head.status, head.body) == (get.status, b"")
    for name in ("content-type", "etag", "comet-cursor", "cache-control"):
        assert head.headers.get(name) == get.headers.get(name)
    assert head.headers["content-length"] == str(len(get.body))


def test_a_head_of_a_poll_is_never_held(server):
    place = server.get("/poll/bob?after=now&wait=0").json["cursor"]
    assert server.ask("HEAD", "/poll/bob?wait=100").status == 200
    assert server.ask("HEAD", "/poll/bob?format=raw").status == 204
    assert server.ask("HEAD", "/poll/bob", headers={"If-None-Match": f'"{place}"'}).status == 304


def test_a_head_of_what_is_wrong_has_the_status_alone(server):
    answer = server.ask("HEAD", "/poll/bob?after=x")
    assert (answer.status, answer.body) == (400, b"")


# -- errors


@pytest.mark.parametrize(
    "target",
    [
        "/nowhere",
        "/push2/bob",
        "/PUSH/bob",
        "/polls",
        "/recipient",
        "/healthz/",
        "/healthz/x",
        "/client%2Ejs",
        "/%2Fmetrics",
        "//metrics",
        "//register",
        "/poll%2Fbob",
    ],
)
def test_an_unknown_path_is_a_404(server, target):
    for method in ("GET", "POST", "DELETE"):
        answer = server.ask(method, target)
        assert answer.status == 404
        assert answer.json["type"].endswith("not-found")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("delete /recipients/bob", 405),
        ("post /push/bob", 405),
        ("Get /poll/bob?wait=0&after=now", 405),
        ("get /nowhere", 404),
        ("GET /healthz", 200),
    ],
)
def test_a_site_takes_a_method_as_it_came(line, status):
    # Werkzeug takes delete for DELETE, and a proxy that refuses DELETE does not.
    transport = StringTransport()
    connection = Site(Comet(clock=Clock()).resource()).buildProtocol(IPv4Address("TCP", "127.0.0.1", 9))
    connection.makeConnection(transport)
    connection.dataReceived(f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, _, _ = transport.value().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (b"Allow: " in head) is (status == 405)
    connection.connectionLost(Failure(ConnectionDone()))


def test_a_slash_in_the_place_of_a_page_is_a_404(server):
    # Werkzeug takes it for the root; it was a 500, because there is no page of this name.
    assert server.get("/%2F").status == 404


def test_every_error_is_a_problem_that_says_what_was_wrong(serve):
    server = serve(Limits(capacity=1, max_parked=1, max_body=10))
    server.push("/full")
    server.park("/poll/someone?after=now")
    server.push("/key", "1", {"Idempotency-Key": "k"})
    seen = {}
    for method, target, body, headers in (
        ("POST", "/push", "x", {}),
        ("POST", "/push/bob?ttl=x", "x", {}),
        ("POST", "/push/bob", "", {}),
        ("POST", "/push/bob", "x" * 11, {}),
        ("POST", "/push/full", "x", {}),
        ("POST", "/push/bob?queue=no", "x", {}),
        ("POST", "/push/key", "2", {"Idempotency-Key": "k"}),
        ("POST", "/push/bob", "x", {"Origin": "https://evil.example"}),
        ("GET", "/poll/bob?after=x", "", {}),
        ("GET", "/poll/bob", "", {}),
        ("GET", "/nowhere", "", {}),
        ("GET", "/healthz", "", {"Host": "evil.example"}),
        ("PUT", "/push/bob", "x", {}),
    ):
        answer = server.ask(method, target, body, headers)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json
        assert set(problem) == {"type", "title", "status", "detail"}
        assert problem["status"] == answer.status >= 400
        assert problem["detail"].endswith(".")
        assert ("retry-after" in answer.headers) == (answer.status in {429, 503})
        assert answer.headers["cache-control"] == "no-store"
        seen.setdefault(problem["type"], set()).add(problem["title"])
    assert len(seen) == 13, "each kind of error has its own type"
    assert all(len(titles) == 1 for titles in seen.values())


def test_retry_after_differs_so_that_clients_do_not_come_back_together(serve):
    # binwiederhier/ntfy#1173: a 429 without it, and clients hammered.
    server = serve()
    seen = {server.ask("POST", "/push/bob?queue=no", "x").headers["retry-after"] for _ in range(60)}
    assert seen == {"1", "2", "3", "4", "5"}


@pytest.mark.parametrize(
    "target",
    [
        "/poll/bob?%FF",
        "/poll/bob?after=%FF",
        "/poll/bob?%FF=1",
        "/push/bob?event=%C3",
        "/%FF",
        "/%FF/%FF",
        "/push/%FF",
        "/nowhere/%00",
    ],
)
def test_what_cannot_be_decoded_is_never_a_fault_of_the_server(server, target):
    for method in ("GET", "POST", "DELETE", "OPTIONS", "HEAD"):
        answer = server.ask(method, target, b"x" if method == "POST" else b"")
        assert answer.status in {200, 204, 400, 404, 405}, (method, answer)
        if method not in {"HEAD", "OPTIONS"}:
            assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "query", ["%zz", "%", "&&&", "=", "=x", "wait", "x" * 5_000, "a=1&" * 1_000, "wait=%20"]
)
def test_odd_queries_are_taken_as_they_are_or_refused(server, query):
    answer = server.get(f"/poll/bob?after=now&wait=0&{query}")
    assert answer.status in {200, 400}


def test_unknown_parameters_are_passed_over(server):
    server.push("/bob?utm_source=x&_=123")
    assert server.read("/poll/bob?_=456&after=oldest") == ["hello"]


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a" * 64 + ".example",
        "exa mple",
        "\xff",
        "xn--",
        "..",
        "[::1",
        "[zz]",
        "localhost:99999",
        "-",
        "a..b",
        "%41",
        "localhost:x",
        "ü.example",
    ],
)
def test_no_host_however_odd_makes_the_server_fail(server, host):
    answer = server.ask("GET", "/healthz", headers={"Host": host})
    assert answer.status in {200, 400, 421}, answer
    if not isinstance(server.driver, TreqDriver):
        assert answer.status == 200 or answer.headers["content-type"] == "application/problem+json"


def test_a_failure_of_the_server_tells_nothing_of_it(server, expected_failures):
    expected_failures.append(ZeroDivisionError)

    def broken(*_):
        raise ZeroDivisionError("secret")

    server.comet.hub.store.describe = broken
    answer = server.get("/recipients/bob")
    assert answer.status == 500
    assert answer.json["type"].endswith("internal-error")
    assert b"secret" not in answer.body
    assert b"Zero" not in answer.body


def test_json_ends_with_the_end_of_its_line_for_terminals(server):
    for target in ("/poll/bob?wait=0", "/recipients/bob", "/healthz", "/nothing"):
        assert server.get(target).body.endswith(b"}\n")
    assert server.push("/bob").body.endswith(b"}\n")


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        (None, False),
        ("identity", False),
        ("gzip", True),
        ("br;q=1.0, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("deflate, GZIP ; q=0.0", False),
    ],
)
def test_a_page_is_compressed_where_the_client_takes_gzip(server, accepted, is_compressed):
    if isinstance(server.driver, TreqDriver):
        return  # treq says by itself that it takes gzip
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    page = pages()["client.js"]
    answer = server.ask("GET", "/client.js", headers=headers)
    assert answer.status == 200
    assert answer.headers["etag"] == (page.gzipped.etag if is_compressed else page.etag)
    assert "Accept-Encoding" in answer.headers["vary"]
    assert answer.headers.get("content-encoding") == ("gzip" if is_compressed else None)
    assert (gzip.decompress(answer.body) if is_compressed else answer.body) == page.body
    conditional = {**headers, "If-None-Match": answer.headers["etag"]}
    again = server.ask("GET", "/client.js", headers=conditional)
    assert (again.status, again.body) == (304, b"")
