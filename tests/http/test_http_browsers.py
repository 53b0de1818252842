"""HTTP.md's rules for browsers: Origins, Hosts, and what CORS lets a page read."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from cometd_lite.access.origins import Hosts
from cometd_lite.limits import Limits

ALLOWED = {"Origin": "https://app.example"}
OWN = {"Origin": "http://localhost:8080"}
FOREIGN = {"Origin": "https://evil.example"}

CHANGES = [
    ("POST", "/push/bob", "hello"),
    ("POST", "/push?rcpt=bob", "hello"),
    ("DELETE", "/recipients/bob", ""),
]


@pytest.fixture
def server(serve):
    return serve(origins=("https://app.example",))


def lets_read(answer, origin):
    """Whether a page of ``origin`` that sent its credentials may read the answer."""
    return (
        answer.headers.get("access-control-allow-origin") == origin
        and answer.headers.get("access-control-allow-credentials") == "true"
        and "origin" in answer.headers["vary"].lower()
    )


# -- Origins


@pytest.mark.parametrize(("method", "target", "body"), CHANGES)
def test_a_page_of_a_foreign_origin_may_not_change_anything(server, method, target, body):
    server.push("/bob", "kept")
    answer = server.ask(method, target, body, FOREIGN)
    assert answer.status == 403
    assert answer.json["type"].endswith("forbidden-origin")
    assert "https://evil.example" in answer.json["detail"]
    assert server.read("/poll/bob?after=oldest") == ["kept"]


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://localhost",
        "http://localhost:8081",
        "http://localhost:8080.evil.example",
        "http://evil.example:8080",
        "https://app.example.evil.example",
        "https://app.example:8443",
        "http://app.example",
        "ftp://localhost:8080",
        "\xff",
        "https://app.example, http://localhost:8080",
    ],
)
def test_only_the_exact_origin_is_ones_own_or_allowed(server, origin):
    assert server.ask("POST", "/push/bob", "x", {"Origin": origin}).status == 403


@pytest.mark.parametrize("headers", [{}, OWN, ALLOWED, {"Origin": "https://localhost:8080"}])
@pytest.mark.parametrize(("method", "target", "body"), CHANGES)
def test_ones_own_pages_allowed_ones_and_whatever_is_no_browser_may(server, method, target, body, headers):
    assert server.ask(method, target, body, headers).status in {202, 204}


def test_every_page_may_where_every_origin_is_allowed(serve):
    server = serve(origins=("*",))
    answer = server.ask("POST", "/push/bob", "x", FOREIGN)
    assert answer.status == 202
    assert lets_read(answer, "https://evil.example"), "never * with credentials"


def test_a_foreign_page_may_ask_but_not_read(server):
    server.push("/bob")
    for target in ("/poll/bob?after=oldest", "/recipients/bob", "/healthz", "/nowhere"):
        answer = server.get(target, FOREIGN)
        assert answer.status in {200, 404}
        assert not [name for name in answer.headers if name.startswith("access-control-")]


# -- CORS


def test_an_allowed_page_may_read_every_kind_of_answer(serve):
    # slact/nchan#139: the answer of an ended wait lacked the header, and browsers saw an error.
    server = serve(Limits(capacity=1, max_parked=1, max_body=10), origins=("https://app.example",))
    place = server.get("/poll/bob?after=now&wait=0").json["cursor"]
    server.park("/poll/someone?after=now")
    statuses = []
    for method, target, body, headers in (
        ("POST", "/push/bob", "1", {}),
        ("POST", "/push/someone", "1", {}),
        ("GET", "/poll/bob?after=oldest", "", {}),
        ("GET", "/poll/bob?after=oldest&format=raw", "", {}),
        ("GET", "/poll/bob?after=now&wait=0", "", {}),
        ("GET", "/poll/alice?wait=0&format=raw", "", {}),
        ("GET", "/poll/alice?wait=0", "", {"If-None-Match": f'"{place}"'}),
        ("GET", "/poll/bob?after=x", "", {}),
        ("POST", "/push/bob", "x" * 11, {}),
        ("POST", "/push/bob", "2", {}),
        ("POST", "/push/alice?queue=no", "2", {}),
        ("GET", "/nowhere", "", {}),
        ("GET", "/push/bob", "", {}),
        ("DELETE", "/recipients/bob", "", {}),
        ("GET", "/healthz", "", {}),
        ("OPTIONS", "/push/bob", "", {}),
        ("HEAD", "/poll/bob", "", {}),
        ("GET", "/%FF", "", {}),
    ):
        answer = server.ask(method, target, body, headers | ALLOWED)
        assert lets_read(answer, "https://app.example"), (method, target, answer)
        statuses.append(answer.status)
    assert {200, 201, 202, 204, 304, 400, 404, 405, 413, 503} <= set(statuses)
    server.stop()
    for method, target in (("GET", "/poll/bob"), ("GET", "/healthz"), ("POST", "/push/bob")):
        assert lets_read(
            server.ask(method, target, "x" if method == "POST" else "", ALLOWED), "https://app.example"
        )


def test_an_allowed_page_may_read_the_end_of_its_wait(server):
    place = server.get("/poll/bob?after=now&wait=0").json["cursor"]
    polls = [
        server.park("/poll/bob", ALLOWED),
        server.park("/poll/bob?format=raw", ALLOWED),
        server.park("/poll/bob", ALLOWED | {"If-None-Match": place}),
    ]
    server.advance(25)
    assert [poll.answer.status for poll in polls] == [200, 204, 304]
    for poll in polls:
        assert lets_read(poll.answer, "https://app.example")


def test_the_headers_of_the_interface_are_exposed(server):
    answer = server.get("/poll/bob?wait=0", ALLOWED)
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert exposed >= {
        "comet-cursor",
        "comet-gap",
        "comet-id",
        "comet-recipient",
        "comet-created-at",
        "etag",
        "location",
        "preference-applied",
        "retry-after",
    }


def test_a_preflight_allows_what_the_interface_is_asked_with(server):
    answer = server.ask(
        "OPTIONS",
        "/push/bob",
        headers=ALLOWED
        | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, idempotency-key",
        },
    )
    assert answer.status == 204
    assert lets_read(answer, "https://app.example")
    methods = {name.strip() for name in answer.headers["access-control-allow-methods"].split(",")}
    assert methods >= {"GET", "POST", "PUT", "DELETE"}
    headers = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    # dunglas/mercure#535: clients over fetch preflight Last-Event-ID, which EventSource does not.
    assert headers >= {
        "authorization",
        "cache-control",
        "content-type",
        "idempotency-key",
        "if-modified-since",
        "if-none-match",
        "last-event-id",
        "pragma",  # Salesforce's and other old clients of Bayeux send it
        "prefer",
        "x-requested-with",
    }
    assert int(answer.headers["access-control-max-age"]) > 0


def test_a_preflight_of_a_foreign_page_allows_nothing(server):
    answer = server.ask("OPTIONS", "/push/bob", headers=FOREIGN | {"Access-Control-Request-Method": "POST"})
    assert answer.status == 204
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_an_origin_is_answered_with_nothing_but_itself(server):
    answer = server.get("/healthz", {"Origin": "https://app.example"})
    assert "\r" not in answer.headers["access-control-allow-origin"]
    assert "access-control-allow-origin" not in server.get("/healthz").headers


# -- Hosts


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LOCALHOST:1",
        "localhost.",
        "app.localhost",
        "a.b.localhost:80",
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.1.2.3",
        "[::1]",
        "[::1]:8080",
        "comet.example",
        "Comet.Example:80",
    ],
)
def test_a_server_on_loopback_answers_to_its_own_names(serve, host):
    server = serve(hosts=Hosts(frozenset({"comet.example"}), loopback_only=True))
    assert server.get("/healthz", {"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "localhostevil",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "127.evil.example",
        "192.168.1.1",
        "0.0.0.0",
        "[::2]:80",
        "[2001:db8::1]",
        "localhost@evil.example",
        "",
    ],
)
def test_a_server_on_loopback_answers_to_no_other_name(serve, host):
    # DNS rebinding: the page's own name, pointed at the reader's machine.
    server = serve(hosts=Hosts(frozenset({"comet.example"}), loopback_only=True))
    for method, target in (
        ("GET", "/healthz"),
        ("GET", "/poll/bob"),
        ("POST", "/push/bob"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/push/bob"),
        ("PUT", "/push/bob"),
    ):
        answer = server.ask(
            method, target, "x" if method == "POST" else "", {"Host": host, "Origin": f"http://{host}"}
        )
        assert answer.status in {421, 400}, (method, target)
        assert answer.status == 421 or host in {"", "localhost@evil.example"}
        if answer.status == 421:
            assert answer.json["type"].endswith("misdirected")
            assert "--host" in answer.json["detail"]
    assert server.get("/recipients/bob").json["queued"] == 0


def test_a_server_with_names_answers_to_probes_by_address_and_to_nothing_else(serve):
    server = serve(hosts=Hosts(frozenset({"comet.example"})))
    address = {"Host": "192.0.2.1:8080"}
    for target, status in (("/healthz", 200), ("/metrics", 200), ("/poll/bob?wait=0", 421), ("/", 421)):
        assert server.get(target, address).status == status
        assert server.get(target, {"Host": "comet.example"}).status == 200
    assert server.ask("POST", "/push/bob", "x", address).status == 421
    assert server.get("/healthz", address).status == 200
    assert server.get("/poll/bob?wait=0", address).status == 421


def test_a_server_that_others_can_reach_answers_to_every_name(serve):
    server = serve(hosts=Hosts())
    assert server.get("/healthz", {"Host": "comet.example"}).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_foreign_page_may_not_take_by_an_image(server, site):
    # Such a request has no Origin; the browser says by itself where it comes from.
    server.push("/bob", "for bob")
    refused = server.get("/poll/bob?wait=0", {"Sec-Fetch-Site": site})
    assert (refused.status, refused.json["type"]) == (403, "urn:cometd-lite:problem:forbidden-origin")
    assert server.get("/poll/bob?after=oldest", {"Sec-Fetch-Site": site}).status == 200
    assert server.read("/poll/bob") == ["for bob"]


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_ones_own_page_and_the_address_bar_may_take(server, site):
    server.push("/bob", "for bob")
    assert server.get("/poll/bob?wait=0", {"Sec-Fetch-Site": site}).json["messages"] != []


def test_a_page_of_an_allowed_origin_may_take(serve):
    server = serve(origins=["https://friend.example"])
    server.push("/bob", "for bob")
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://friend.example"}
    assert server.get("/poll/bob?wait=0", headers).json["messages"] != []


# -- a GET that changes something, of a page that hides where it is: no Origin, Referer or Fetch Metadata

BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
NAMED = {"Host": "comet.example"}
BAYEUX = "/cometd?jsonp=cb&message=" + quote(
    '[{"channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["callback-polling"]}]'
)


@pytest.fixture
def public(serve):
    """Return a server that is reached by plain HTTP under a name, and a listener of it."""
    server = serve(hosts=Hosts())
    listener = server.send("POST", "/register", b'{"recipients": ["bob"]}', NAMED).answer.json["id"]
    server.push("/bob", "for bob", NAMED)
    return server, [
        "/poll/bob?wait=0",
        f"/poll?listener={listener}&wait=0",
        BAYEUX,
        BAYEUX.replace("/cometd", "/cometd/handshake"),
    ]


def test_a_page_that_hides_where_it_is_may_not_change_anything(public):
    server, targets = public
    for target in targets:
        refused = server.get(target, BROWSER | NAMED)
        assert refused.status == 403, target
        assert b"?after=oldest" in refused.body
    assert server.get("/poll/bob?after=oldest", BROWSER | NAMED).status == 200
    assert [message["data"] for message in server.get("/poll/bob?wait=0", NAMED).json["messages"]] == [
        "for bob"
    ]


@pytest.mark.parametrize(
    "shown",
    [
        {"Referer": "http://comet.example/page"},
        {"Origin": "http://comet.example"},
        {"X-Requested-With": "cometd-lite"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Host": "localhost:8080"},
        {"Host": "127.0.0.1:8080"},
        {"User-Agent": "curl/8.5.0"},
        {"User-Agent": ""},
    ],
)
def test_a_page_that_shows_that_it_is_no_foreign_one_may(public, shown):
    server, targets = public
    for target in targets:
        assert server.get(target, BROWSER | NAMED | shown).status == 200, target


@pytest.mark.parametrize(
    "shown",
    [
        {"Referer": "http://evil.example/page"},
        {"Referer": "http://["},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Referer": "http://evil.example/", "X-Requested-With": "x"},
    ],
)
@pytest.mark.parametrize("agent", [BROWSER, {}])
def test_a_page_that_shows_that_it_is_a_foreign_one_may_not(public, agent, shown):
    server, targets = public
    for target in targets:
        assert server.get(target, agent | NAMED | shown).status == 403, target


def test_a_page_of_an_allowed_origin_may_by_its_referer(serve):
    server = serve(hosts=Hosts(), origins=["https://friend.example"])
    server.push("/bob", "for bob", NAMED)
    friend = {"Referer": "https://friend.example/page", "Sec-Fetch-Site": "cross-site"}
    for headers in (friend, {"Referer": "https://friend.example/page"}):
        assert server.get("/poll/bob?wait=0", BROWSER | NAMED | headers).status == 200


def test_plain_clients_take_as_ever(public):
    server, targets = public
    for target in targets:
        assert server.get(target, NAMED).status == 200
