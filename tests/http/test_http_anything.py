"""HTTP.md's last sentence: nothing in a request gets a 500, a traceback, or a hung connection. And a soak."""

from __future__ import annotations

from random import Random
from urllib.parse import quote

import pytest
from exchanges import DRIVERS, Server, TreqDriver
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from cometd_lite.access.origins import Hosts
from cometd_lite.comet import Comet
from cometd_lite.limits import Limits

words = st.sampled_from(
    [
        *(
            "bob",
            "chat/room1",
            "",
            ".",
            "*",
            "**",
            "$sys",
            "a//b",
            "%FF",
            "%00",
            "%2F",
            "%0A",
            "%zz",
            "ü",
            "now",
        ),
        *("oldest", "abcdefghij-1", "0", "1", "-1", "25", "1e9", "nan", "raw", "json", "no", "yes", "reject"),
        *(
            "drop-oldest",
            "listeners",
            "x" * 300,
            "wait=1",
            "text/plain",
            "application/json",
            "*/*",
            '"a-1"',
            "W/",
        ),
        *(
            "null",
            "https://evil.example",
            "http://localhost:8080",
            "localhost",
            "evil.example",
            "[::1",
            "q=0",
        ),
    ]
)
junk = st.one_of(words, st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20))
paths = st.one_of(
    st.builds(
        "/{}/{}".format,
        st.sampled_from(["push", "poll", "recipients", "healthz", "nowhere", "listeners", ""]),
        junk.map(lambda text: quote(text, safe="/%*$")),
    ),
    st.sampled_from(
        ["/", "/push", "/poll", "/recipients", "/register", "/healthz", "/metrics", "//", "/%FF"]
    ),
)
names = [
    "rcpt",
    "after",
    "wait",
    "limit",
    "format",
    "event",
    "ttl",
    "queue",
    "overflow",
    "to",
    "listener",
    "token",
]
queries = st.lists(
    st.builds("{}={}".format, st.sampled_from(names), junk.map(lambda text: quote(text, safe="%*$/+"))),
    max_size=4,
).map("&".join)
headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("Accept", "Content-Type", "Prefer", "If-None-Match", "Last-Event-ID", "Idempotency-Key"),
                *("Origin", "Authorization", "X-Forwarded-For"),
            ]
        ),
        # Twisted's own parsing of a Content-Type fails at U+0085, before any resource is asked.
        junk.map(str.strip).filter(lambda text: "\x7f" not in text and "\x85" not in text),
    ),
    max_size=4,
)
bodies = st.one_of(
    st.binary(max_size=40), st.sampled_from([b'{"a": 1}', b"1\n2\n", b"{", b"\xff", b"x" * 200])
)
methods = st.sampled_from(["GET", "POST", "GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])


@pytest.mark.parametrize("transport", list(DRIVERS))
@given(st.lists(st.tuples(methods, paths, queries, headers, bodies), min_size=1, max_size=5))
def test_no_request_is_a_fault_of_the_server(transport, requests):
    clock = Clock()
    comet = Comet(limits=Limits(max_body=100, capacity=3), hosts=Hosts(loopback_only=True), clock=clock)
    server = Server(comet, clock, DRIVERS[transport](comet))
    exchanges = []
    for method, path, query, fields, body in requests:
        target = f"{path}?{query}" if query else path
        ascii_target = target.encode("ascii", "ignore").decode().replace("#", "").replace(" ", "")
        if isinstance(server.driver, TreqDriver) and "//" in ascii_target[:2]:
            continue  # its URL would begin with another host
        exchanges.append((method, server.send(method, ascii_target, body, fields)))
    server.advance(Limits().max_wait)
    for method, exchange in exchanges:
        answer = exchange.answer
        assert answer is not None, "still held, though its wait is over"
        assert answer.status < 500 or answer.status == 503
        if answer.status >= 400 and method != "HEAD":
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json["status"] == answer.status
        assert ("retry-after" in answer.headers) == (answer.status in {429, 503})
    assert server.parked == 0
    comet.stop()
    assert clock.getDelayedCalls() == []


class Reader:
    """One who follows some rooms by polls with a cursor, and leaves and comes back as it happens."""

    def __init__(self, server, rooms, place, random):
        self.server = server
        self.rooms = rooms
        self.place = place
        self.random = random
        self.got = []
        self.poll = None

    def target(self, **words):
        rooms = "&".join(f"rcpt={room}" for room in self.rooms)
        return f"/poll?{rooms}&after={self.place}&" + "&".join(
            f"{name}={word}" for name, word in words.items()
        )

    def ask(self):
        if self.poll is None:
            limit, wait = self.random.choice([1, 2, 100]), self.random.choice([0, 0.5, 3, 25])
            self.poll = self.server.send("GET", self.target(limit=limit, wait=wait))

    def settle(self):
        answer = self.poll and self.poll.answer
        if answer:
            assert answer.json["gap"] is False
            self.got += [message["data"] for message in answer.json["messages"]]
            self.place, self.poll = answer.json["cursor"], None

    def leave(self):
        if self.poll is not None:
            self.poll.hang_up()  # perhaps with an answer on its way, which it will ask for again
            self.poll = None


@pytest.mark.parametrize("seed", range(5))
def test_pushes_polls_ends_of_waits_and_hang_ups_in_any_order_lose_nothing(serve, seed):
    # slact/nchan#367: a reader not woken, or deaf after a timeout and a reconnect.
    random = Random(seed)
    server = serve(Limits(capacity=10_000))
    place = server.get("/poll/x?after=now&wait=0").json["cursor"]
    rooms = ["a", "b", "c/d"]
    readers = [Reader(server, rooms[: n % 3 + 1], place, random) for n in range(9)]
    pushed = []
    for step in range(600):
        what, reader = random.random(), random.choice(readers)
        if what < 0.35:
            room = random.choice(rooms)
            waiting = server.get(f"/recipients/{room}").json["waiting"]
            answer = server.push(f"/{room}", str(step))
            assert answer.json["delivered"] == waiting
            assert answer.status == (201 if waiting else 202)
            pushed.append((room, str(step)))
            server.driver.flush()
        elif what < 0.45:
            server.advance(random.choice([0, 0.1, 0.5, 1, 3]))
        elif what < 0.5:
            reader.leave()
        else:
            reader.ask()
        for each in random.sample(readers, 6):
            each.settle()
    server.advance(25)
    for reader in readers:
        reader.settle()
        got = reader.got + server.read(reader.target(limit=1000, wait=0))
        assert got == [text for room, text in pushed if room in reader.rooms]
    assert server.parked == 0
