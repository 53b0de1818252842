"""One request holds up no other: beside each row of work a quiet client asks, and its longest wait counts.

The bounds are the server's defaults. The work is what grows with what is stored, with how many wait, or with
what one client may send at once.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filling import Clients, Pipeline, deep, request
from program import PATIENCE, Connection, Program, Run, eventually

pytestmark = pytest.mark.slow

WAIT = 0.05
"""The longest that a request of the quiet client waits, in seconds: in most of five runs."""
WORST = 0.1
"""In the worst of five runs on a busy machine."""
RUNS = 5
NUMBERS = "\n".join(map(str, range(1_000)))
LINES = "Content-Type: application/x-ndjson"
JSON = "Content-Type: application/json"
numbers = itertools.count()


class Waits:
    """What the quiet client has waited for at the longest, in each run."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.longest: list[float] = []

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Let the quiet client ask while something else is done."""
        words = [
            sys.executable, str(Path(__file__).with_name("quiet.py")), str(self.program.port),
            str(self.program.process.pid),
        ]  # fmt: skip
        quiet = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert quiet.stdout is not None
        assert quiet.stdout.readline() == "ready\n"
        yield
        said, _ = quiet.communicate("", timeout=PATIENCE)
        longest, count = said.split()
        assert int(count) > 0
        self.longest.append(float(longest))

    def check(self) -> None:
        assert max(self.longest) < WORST, self.longest
        assert sorted(self.longest)[len(self.longest) // 2] < WAIT, self.longest


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("stalls"), fresh=True)
    yield program
    program.leave()
    assert program.stop() == 0


@pytest.fixture
def waits(server: Program) -> Iterator[Waits]:
    """Return the waits of a row; what it has left is deleted."""
    waits = Waits(server)
    yield waits
    waits.check()


@pytest.fixture(scope="module")
def log(server: Program) -> Iterator[str]:
    """Return a prefix below which 400,000 messages are kept, in a log with as many holes."""
    pushes = (request("POST", f"/push/log/{number}", NUMBERS, LINES) for number in range(500))
    assert set(Pipeline(server).ask(pushes)) == {202}
    deletes = (request("DELETE", f"/recipients/log/{number}") for number in range(0, 500, 5))
    assert set(Pipeline(server).ask(deletes)) == {204}
    yield "log"
    deletes = (request("DELETE", f"/recipients/log/{number}") for number in range(500))
    assert set(Pipeline(server).ask(deletes)) == {204}


def test_patterns_that_catch_up_over_a_long_log_hold_up_no_request(
    server: Program, waits: Waits, log: str
) -> None:
    for _ in range(RUNS):
        with waits.measured():
            for target in ("/poll/nosuch/*", f"/poll/{log}/**", "/poll/**") * 10:
                answer = server.get(f"{target}?after=oldest&wait=0&limit=1000")
                assert len(answer.data) == (0 if "nosuch" in target else 1_000)


def test_pattern_streams_that_come_back_at_once_hold_up_no_request(
    server: Program, waits: Waits, log: str
) -> None:
    for _ in range(RUNS):
        streams = []
        with waits.measured():
            for number in range(60):
                pattern = "**" if number % 2 else f"{log}/nosuch{number}/**"
                streams.append(server.connect().request("GET", f"/stream/{pattern}?after=oldest"))
            for stream in streams:
                stream.until(b"retry")
            time.sleep(0.5)
        for stream in streams:
            stream.close()


def test_mailboxes_of_deep_names_are_read_by_patterns_and_expire_without_holding_up_a_request(
    server: Program, waits: Waits
) -> None:
    count = 10_000
    for run in range(RUNS):
        with waits.measured():
            pushes = (
                request("POST", f"/push/{deep(run * count + number, 'abc')}?ttl=4", "x")
                for number in range(count)
            )
            assert set(Pipeline(server).ask(pushes)) == {202}
            for number in range(20):
                server.get(f"/poll/{run * count + number:07}/**?after=oldest&wait=0")
            eventually(lambda: mailboxes(server) < 1_000, "they expire")


def mailboxes(server: Program) -> int:
    page = server.get("/metrics").body.decode()
    (line,) = [line for line in page.splitlines() if line.startswith("cometd_lite_mailboxes ")]
    return int(float(line.split()[1]))


def test_a_large_mailbox_is_deleted_without_holding_up_a_request(server: Program, waits: Waits) -> None:
    for _ in range(RUNS):
        for number in range(20):
            server.push(f"/large{number}", NUMBERS, Content_Type="application/x-ndjson")
        with waits.measured():
            deletes = (request("DELETE", f"/recipients/large{number}") for number in range(20))
            assert set(Pipeline(server).ask(deletes)) == {204}


def test_a_push_of_many_lines_to_many_recipients_holds_up_no_request(server: Program, waits: Waits) -> None:
    lines = "\n".join(map(str, range(100)))
    names = "&rcpt=".join([f"many{number}" for number in range(100)])
    for _ in range(RUNS):
        with waits.measured():
            push = request("POST", f"/push?overflow=drop-oldest&rcpt={names}", lines, LINES)
            assert Pipeline(server).ask([push]) == [202]
    Pipeline(server).ask(request("DELETE", f"/recipients/many{number}") for number in range(100))


def test_a_fan_out_to_many_polls_holds_up_no_request(server: Program, waits: Waits) -> None:
    crowd = Clients(server)
    poll = request("GET", "/poll/crowd?after=now&wait=60")
    for _ in range(4_000):
        crowd.send(poll)
    for run in range(RUNS):
        eventually(lambda: server.waiting("crowd") == 4_000, "all are parked")
        with waits.measured():
            server.push("/crowd", str(run))
            for one in crowd.sockets:
                one.recv(4_096)
                one.sendall(poll)
    crowd.leave()


def test_much_on_one_connection_holds_up_no_request(server: Program, waits: Waits) -> None:
    many = request("GET", "/poll/nosuch?after=oldest&wait=0") * 5_000
    text = b'{"push":"burst","data":1}'
    frames = (b"\x81" + bytes([0x80 | len(text)]) + b"\0\0\0\0" + text) * 5_000
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for _ in range(RUNS):
        socket = server.connect().request("GET", "/ws/burst", **upgrade)
        socket.until(b"\r\n\r\n")
        with waits.measured():
            drain(server.connect(), many, b"HTTP/1.1 200", 5_000)
            drain(socket, frames, b'"receipt"', 1_000)
        socket.close()
        server.ask("DELETE", "/recipients/burst")


def drain(connection: Connection, data: bytes, mark: bytes, count: int) -> None:
    """Send much, and read until something has come so often."""
    came = 0
    for start in range(0, len(data), 50_000):
        connection.send(data[start : start + 50_000])
        came += connection.more().count(mark)
    while came < count:
        came += connection.more().count(mark)


def test_a_large_bayeux_batch_holds_up_no_request(server: Program, waits: Waits) -> None:
    pipeline = Pipeline(server)
    shake = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    for _ in range(RUNS):
        (greeted,) = pipeline.tell(request("POST", "/cometd", json.dumps([shake]), JSON))
        client_id = greeted["clientId"]
        publishes = [{"channel": f"/batch/{n}", "clientId": client_id, "data": n} for n in range(1_000)]
        channels = [f"/{deep(number, 'abcd')}" for number in range(200)]
        subscribe = {"channel": "/meta/subscribe", "clientId": client_id, "subscription": channels}
        brackets = {"channel": "/brackets", "clientId": client_id, "data": [[]] * 15_000}
        with waits.measured():
            for batch in ([subscribe], publishes, [brackets] * 17):
                replies = pipeline.tell(request("POST", "/cometd", json.dumps(batch), JSON))
                assert all(reply["successful"] for reply in replies)


def test_listeners_that_expire_at_one_moment_hold_up_no_request(server: Program, waits: Waits) -> None:
    body = json.dumps({"recipients": ["lobby"], "ttl": 2})
    for _ in range(3):
        with waits.measured():
            asked = Pipeline(server).ask(request("POST", "/register", body) for _ in range(20_000))
            assert set(asked) == {201}
            eventually(lambda: b"cometd_lite_listeners 0.0" in server.get("/metrics").body, "they expire")


def test_many_clients_that_leave_at_once_hold_up_no_request(server: Program, waits: Waits) -> None:
    for _ in range(RUNS):
        crowd = Clients(server)
        for number in range(4_000):
            crowd.send(request("GET", f"/poll/leaving{number}?after=now&wait=60&rcpt=a&rcpt=b"))
        server.get("/healthz")
        with waits.measured():
            with server.frozen():
                crowd.leave()
            eventually(lambda: server.waiting("a") == 0, "all have left")


def test_mailboxes_that_come_and_go_hold_up_no_request(server: Program, waits: Waits) -> None:
    # What was to expire, and was deleted before, is cleared away: of 100,000 mailboxes that took 40 ms.
    count = 50_000
    pipeline = Pipeline(server)
    assert set(pipeline.ask(request("POST", f"/push/stays/{number}", "x") for number in range(count))) == {
        202
    }
    for run in range(3):
        with waits.measured():
            names = [f"goes/{number}" for number in range(run * count, run * count + 40_000)]
            assert set(pipeline.ask(request("POST", f"/push/{name}", "x") for name in names)) == {202}
            assert set(pipeline.ask(request("DELETE", f"/recipients/{name}") for name in names)) == {204}
            listed = server.get("/recipients?prefix=stays/&limit=1000")
            assert len(listed.json["recipients"]) == 1_000
    pipeline.ask(request("DELETE", f"/recipients/stays/{number}") for number in range(count))


LINES_OF_ALL = [
    ("GET", "/poll/x?wait=0&after=now"),
    ("POST", "/push/x"),
    ("POST", "/cometd"),
    ("GET", "/stream/x"),
]
HEADERS = [
    f"Accept: text/plain;{' ' * 15_000}",
    f"Accept: {'text/plain;q=0,' * 900}",
    f"Prefer: wait={' ' * 15_000}",
    f"Prefer: {'wait=x,' * 2_000}",
    f'If-None-Match: "{"x" * 15_000}',
    "If-None-Match: " + 'W/"",' * 3_000,
    f"Cookie: {'BAYEUX_BROWSER=' * 1_000}",
    f"Cookie: ;{' ' * 15_000}",
    f"Authorization: Bearer {'a.' * 7_000}",
    f"Origin: http://{'a.' * 7_000}",
    f"Last-Event-ID: {'9' * 15_000}",
    f"Referer: http://{'a' * 15_000}",
    f"Accept-Encoding: {'gzip;q=0,' * 1_500}",
    f"Content-Type: text/plain{' ' * 230}",
    f"Content-Encoding: {',' * 15_000}",
]
BODIES = [
    "[" * 60_000,
    '{"a":' * 12_000,
    '"' + "\\ud83d" * 10_000 + '"',
    "1" * 60_000,
    "[" + "1e9999," * 49_000 + "1]",
]
HUGE = f'"ext":[{",".join(["1e9999"] * 19_000)}]'
BATCHES = [
    f'[{{"channel":"/a",{HUGE},"data":[{"[],{}," * 150_000}0]}}]',
    f'[{{"channel":"/a",{HUGE},"data":[{("[" * 90 + "]" * 90 + ",") * 4_900}0]}}]',
]
QUERIES = [
    "&" * 8_000,
    "a=1&" * 1_900,
    "after=" + "9" * 8_000,
    "%" * 2_600,
    "+" * 8_000,
    "wait=" + "1" * 8_000,
]


def test_the_worst_heads_and_bodies_hold_up_no_request(server: Program, waits: Waits) -> None:
    requests = [
        *(request(*line, "", field) for line in LINES_OF_ALL for field in HEADERS),
        *(
            request("POST", target, body, JSON)
            for target in ("/push/x", "/register", "/cometd")
            for body in BODIES
        ),
        *(
            request("POST", "/cometd", f"[{','.join([element] * (1_000_000 // len(element)))}]", JSON)
            for element in ("1e9999", "1", "{}", "[]")
        ),
        *(
            request("POST", "/cometd", f'[{{"channel":"/a","{field}":[{values}]}}]', JSON)
            for field in ("ext", "data")
            for value in ("1e9999", "1", "{}", "[]", '"\\ud83d"', '"\\ud83d\\ude00"', "1" * 4_000)
            for values in (",".join([value] * (1_000_000 // (len(value) + 1))),)
        ),
        *(request("POST", "/cometd", batch, JSON) for batch in BATCHES),
        *(
            request("GET", f"{target}?wait=0&{query}")
            for target in ("/poll/x", "/poll", "/stream/x")
            for query in QUERIES
        ),
        request("GET", "/poll/x?wait=0&after=now&" + "&".join([f"waitx{number}=1" for number in range(50)])),
    ]
    for _ in range(RUNS):
        with waits.measured():
            for one in requests:
                with server.connect() as connection:
                    assert connection.send(one).more().startswith(b"HTTP/1.1 ")


def test_a_full_server_makes_room_without_holding_up_a_request(run: Run) -> None:
    server = run("--max-memory=64M", fresh=True)
    waits = Waits(server)
    pipeline = Pipeline(server)
    for _ in range(RUNS):
        pushes = (request("POST", f"/push/full/{next(numbers)}", "x" * 900) for _ in range(60_000))
        assert 503 in pipeline.ask(pushes, until=503)
        with waits.measured():
            cursor = server.get("/poll/full/**?after=now&wait=0").json["cursor"]
            server.get(f"/poll/full/**?after={cursor}&wait=0")
            large = (request("POST", f"/push/full/{next(numbers)}", "y" * 60_000) for _ in range(500))
            assert set(pipeline.ask(large)) == {202}
            pipeline.ask([request("GET", f"/poll/full/**?after={cursor}&wait=0")])
        server.get("/poll/full/**?after=now&wait=0")
    waits.check()


def test_memory_between_many_small_messages_is_given_back_without_holding_up_a_request(run: Run) -> None:
    # To count what was free took 40 ms: that goes along all free blocks, however small they are.
    server = run(fresh=True)
    waits = Waits(server)
    pipeline = Pipeline(server)
    names = (f"{number % 2}/{number // 200}" for number in itertools.count())
    pushes = (request("POST", f"/push/{name}", "x" * 600) for name in names)
    count = pipeline.ask(pushes, until=503).count(202)
    assert count > 150_000
    deletes = (request("DELETE", f"/recipients/1/{number}") for number in range(count // 200 + 1))
    assert set(pipeline.ask(deletes)) == {204}
    large = [request("POST", f"/push/large/{number}", "y" * 60_000) for number in range(1_900)]
    smaller = [request("DELETE", f"/recipients/large/{number}") for number in range(1_900)]
    for _ in range(RUNS):
        with waits.measured():
            assert set(pipeline.ask(large)) == {202}
            full = server.resident()
            assert set(pipeline.ask(smaller[::2])) == {204}
            eventually(lambda full=full: server.resident() < full - 8_000_000, "the memory goes back")
            assert set(pipeline.ask(smaller[1::2])) == {204}
    waits.check()
