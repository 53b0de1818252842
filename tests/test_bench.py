"""The load generator: what it reads from servers, what it counts, and that it sees every fault of theirs.

Dialects, parsers and statistics are tested without I/O. The loop is tested against a mailbox server of
few lines in a thread, which answers at once: nothing here waits for time to pass, but for one run whose
patience is cut to a moment.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import compare
import dialects
import load as load_with_costs
from dialects import Bayeux, Nchan
from processes import Processes

from cometd_lite.bench import (
    SCENARIOS,
    BenchError,
    CometLite,
    Lost,
    NotThere,
    Result,
    Scenario,
    Site,
    UnexpectedAnswer,
    answers,
    command,
    dialect,
    load,
    main,
    measure,
)
from cometd_lite.bench.answers import cut, field, unchunked
from cometd_lite.bench.dialect import EventStream
from cometd_lite.bench.measure import allow_files
from cometd_lite.bench.results import Latencies

SITE = Site("localhost:8080")


def response(body: bytes, status: int = 200, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d Any\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body)


def document(value: Any, status: int = 200, headers: bytes = b"") -> bytes:
    return response(json.dumps(value).encode(), status, headers)


def batch(*messages: Any, cursor: str = "e-1", gap: bool = False) -> bytes:
    return document({"messages": [{"data": data} for data in messages], "cursor": cursor, "gap": gap})


def body_of(request: bytes) -> Any:
    return json.loads(request.partition(b"\r\n\r\n")[2])


# Answers.


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi"),
        (b"HTTP/1.1 201 Created\r\nContent-Length:2\r\nX: y\r\n\r\nhi", 201, b"hi"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304, b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\n\r\n",
            200,
            b"hi",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nT: 1\r\n\r\n", 200, b"hi"),
    ],
)
def test_an_answer_is_cut_out_when_all_of_it_is_there_and_never_before(
    raw: bytes, status: int, body: bytes
) -> None:
    for end in range(len(raw)):
        assert cut(raw[:end]) is None
    answer = cut(raw + b"more")
    assert answer is not None
    assert (answer.status, answer.body, answer.end) == (status, body, len(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
    ],
)
def test_what_cannot_be_an_answer_on_a_kept_connection_is_refused(raw: bytes) -> None:
    with pytest.raises(UnexpectedAnswer):
        cut(raw)


def test_an_answer_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ANSWER_BYTES", 100)
    with pytest.raises(UnexpectedAnswer, match="head does not end"):
        cut(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20)
    with pytest.raises(UnexpectedAnswer, match="body does not end"):
        cut(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 20)


def test_a_header_is_found_whatever_its_case_and_only_as_a_whole_name() -> None:
    head = b"HTTP/1.1 200 OK\r\nX-ETag: no\r\nEtag:  0 \r\n"
    assert field(head, b"etag") == b"0"
    assert field(head, b"last-modified") is None
    assert field(b"HTTP/1.1 200 OK\r\nETag: last", b"etag") == b"last"


def test_a_chunked_body_says_where_it_ended() -> None:
    assert unchunked(b"--3\r\nabc\r\n0\r\n\r\nrest", 2) == (b"abc", 15)


# Our own dialect.


def test_a_poller_first_asks_at_once_and_then_waits_after_each_cursor() -> None:
    poll = CometLite(SITE).poller("bob")
    opening = b"GET /poll/bob?after=oldest&wait=0 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
    assert poll.opening() == opening
    assert not poll.is_parked
    request, messages = poll.received(batch(cursor="e-0"))
    assert request == b"GET /poll/bob?after=e-0&wait=120 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
    assert messages == []
    assert poll.is_parked
    request, messages = poll.received(batch({"n": 1}, "text", cursor="e 2"))
    assert request is not None
    assert b"after=e%202&" in request
    assert messages == [{"n": 1}, "text"]


def test_a_poller_that_has_half_an_answer_says_nothing() -> None:
    poll = CometLite(SITE).poller("bob")
    whole = batch({"n": 1})
    assert poll.received(whole[:20]) == (b"", [])
    assert not poll.whole
    assert poll.received(whole[20:])[1] == [{"n": 1}]
    assert poll.whole


def test_a_poller_takes_no_gap_and_no_error() -> None:
    with pytest.raises(Lost, match="gap"):
        CometLite(SITE).poller("bob").received(batch(gap=True))
    with pytest.raises(UnexpectedAnswer, match="503: full up"):
        CometLite(SITE).poller("bob").received(response(b"full\n up", 503))
    with pytest.raises(UnexpectedAnswer, match="more than was asked for"):
        CometLite(SITE).poller("bob").received(batch() + batch())


def test_a_pusher_sends_one_message_as_json_and_several_as_ndjson() -> None:
    push = CometLite(Site("h", "/comet", "t.o.k")).pusher()
    assert push.opening() == b""
    head = b"POST /comet/push/bob HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer t.o.k\r\n"
    assert push.push("bob", [b"{}"]) == [
        head + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    ]
    assert push.push("bob", [b"1", b"2"]) == [
        head + b"Content-Type: application/x-ndjson\r\nContent-Length: 4\r\n\r\n1\n2\n"
    ]


def test_a_push_that_is_not_accepted_is_an_error() -> None:
    push = CometLite(SITE).pusher()
    assert push.received(response(b"{}", 201)) is True
    assert push.received(response(b"{}", 202)[:10]) is False
    with pytest.raises(UnexpectedAnswer, match="503: an empty body"):
        CometLite(SITE).pusher().received(response(b"", 503))


# Streams.

EVENTS = b': hello\nretry: 3000\n\nid: e-1\ndata: {"n":\ndata: 1}\n\n:\n\ndata:2\n\n'


def chunks(body: bytes, size: int) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(EVENTS, 7),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(EVENTS, 500),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + EVENTS.replace(b"\n", b"\r\n"),
    ],
)
def test_a_stream_gives_the_same_messages_however_it_is_cut(raw: bytes) -> None:
    for size in range(1, len(raw) + 1):
        stream = EventStream(b"GET")
        pieces = [stream.received(raw[at : at + size]) for at in range(0, len(raw), size)]
        assert [message for _, messages in pieces for message in messages] == [{"n": 1}, 2]
        assert all(request == b"" for request, _ in pieces)
        assert stream.is_parked
        assert stream.whole


def test_a_stream_that_is_refused_or_ends_or_has_a_gap_is_an_error() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with pytest.raises(UnexpectedAnswer, match="503"):
        EventStream(b"GET").received(response(b"no", 503))
    with pytest.raises(Lost, match="ended"):
        EventStream(b"GET").received(head + b"0\r\n\r\n")
    with pytest.raises(Lost, match="gap"):
        EventStream(b"GET").received(head + chunks(b"event: gap\ndata: {}\n\n", 99))


def test_an_event_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "ANSWER_BYTES", 100)
    stream = EventStream(b"GET")
    stream.received(b"HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(UnexpectedAnswer, match="does not end"):
        stream.received(b"data: " + b"x" * 100)


# Bayeux.

SHAKEN = {"channel": "/meta/handshake", "successful": True, "clientId": "c1"}


def test_a_bayeux_reader_shakes_hands_subscribes_and_waits_from_its_second_connect_on() -> None:
    reader = Bayeux(Site("h", "/cometd")).poller("room")
    assert reader.opening().startswith(b"POST /cometd HTTP/1.1\r\n")
    assert body_of(reader.opening())[0]["supportedConnectionTypes"] == ["long-polling"]
    request, _ = reader.received(document([SHAKEN], headers=b"Set-Cookie: BAYEUX_BROWSER=b1; HttpOnly\r\n"))
    assert request is not None
    assert b"\r\nCookie: BAYEUX_BROWSER=b1\r\n" in request
    [subscribe] = body_of(request)
    assert (subscribe["channel"], subscribe["subscription"]) == ("/meta/subscribe", "/room")
    assert subscribe["clientId"] == "c1"
    request, _ = reader.received(document([{"channel": "/meta/subscribe", "successful": True}]))
    assert request is not None
    assert body_of(request)[0]["advice"] == {"timeout": 0}
    assert not reader.is_parked
    connected = {"channel": "/meta/connect", "successful": True}
    request, _ = reader.received(document([connected]))
    assert reader.is_parked
    assert request is not None
    assert "advice" not in body_of(request)[0]
    event = {"channel": "/room", "data": {"n": 1}}
    assert reader.received(document([event, {**event, "data": {"n": 2}}, connected])) == (
        request,
        [{"n": 1}, {"n": 2}],
    )


def test_a_bayeux_reply_that_failed_is_an_error() -> None:
    failed = {"channel": "/meta/connect", "successful": False, "error": "402::session_unknown"}
    with pytest.raises(UnexpectedAnswer, match="session_unknown"):
        Bayeux(SITE).poller("room").received(document([failed]))


def test_a_bayeux_pusher_keeps_its_session_alive_between_its_pushes() -> None:
    now = 1_000.0
    push = dialects._BayeuxPublish(SITE, clock=lambda: now)
    push.opening()
    push.received(document([SHAKEN]))
    alive, publish = push.push("room", [b"1", b"2"])
    assert body_of(alive)[0]["advice"] == {"timeout": 0}
    assert [message["data"] for message in body_of(publish)] == [1, 2]
    now += 3.9
    assert len(push.push("room", [b"1"])) == 1
    now += 0.1
    assert len(push.push("room", [b"1"])) == 2


# nchan.


def test_an_nchan_reader_keeps_its_place_in_two_headers_and_asks_again_when_a_wait_is_over() -> None:
    reader = Nchan(SITE).poller("bob")
    assert reader.opening().startswith(b"GET /push?id=bob ")
    request, _ = reader.received(response(b"", 404))
    assert request == b"GET /poll?id=bob HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
    request, messages = reader.received(response(b"7", 200, b"Last-Modified: then\r\nEtag: 3\r\n"))
    assert messages == [7]
    assert request is not None
    assert request.endswith(b"\r\nIf-Modified-Since: then\r\nIf-None-Match: 3\r\n\r\n")
    assert reader.received(response(b"", 408)) == (None, [])


# Numbers.


def test_quantiles_are_exact_to_the_microsecond_and_know_the_slow_ones() -> None:
    latencies = Latencies()
    assert latencies.quantiles(0.5, 1.0) == [0.0, 0.0]
    for microseconds in range(1, 100):
        latencies.add(microseconds / 1e6 + 1e-9)
    latencies.add(2.5)
    assert latencies.quantiles(0.5, 0.99, 1.0) == [0.05, 0.099, 2500.0]


def test_a_scenario_takes_other_numbers_where_they_mean_something() -> None:
    assert SCENARIOS["mailbox"].sized(7, 3, None).readers == 7
    assert SCENARIOS["mailbox"].sized(7, 3, None).pushers == 3
    assert SCENARIOS["fanout"].sized(9, None, None).recipients == 1
    assert SCENARIOS["fanout"].sized(9, None, None).readers == 9
    assert SCENARIOS["push"].sized(9, None, 5).recipients == 5
    assert SCENARIOS["push"].sized(9, None, 5).readers == 0
    assert SCENARIOS["burst"].sized(None, None, None) is SCENARIOS["burst"]


def test_a_process_is_measured_together_with_those_below_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        processes = Processes([os.getpid()])
        assert {os.getpid(), child.pid} <= set(processes.pids())
        alone = Processes([child.pid])
        assert alone.pids() == [child.pid]
        assert 0 <= alone.cpu() < processes.cpu()
        assert 0 < alone.memory() < processes.memory()
        child.communicate(b"\n")
    with pytest.raises(NotThere, match="no process"):
        Processes([child.pid])


def test_more_connections_than_may_be_open_are_refused_before_any_is_made() -> None:
    with pytest.raises(BenchError, match="ulimit"):
        allow_files(1 << 40)


# The loop, against a mailbox server of few lines whose faults can be chosen.


class Server:
    """Answers pushes, polls and streams as HTTP.md has them; ``fault`` may change what a reader gets."""

    def __init__(self) -> None:
        self.boxes: dict[str, list[Any]] = {}
        self.fault: Callable[[list[Any]], list[Any]] = lambda messages: messages
        self.push_status = 201
        self.connections = 0
        self.asked: set[tuple[str, str]] = set()
        """Each verb, and the URL at which it was asked for."""
        self.loop = asyncio.new_event_loop()
        self.started = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        self.started.wait()

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.serve())
        self.loop.close()

    async def serve(self) -> None:
        self.arrived = asyncio.Condition()
        self.stopped = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            tasks.add(self.loop.create_task(self.connection(reader, writer)))

        servers = [await asyncio.start_server(accepted, "127.0.0.1", 0) for _ in range(2)]
        self.urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
        self.url = self.urls[0]
        self.started.set()
        await self.stopped.wait()
        for server in servers:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(field(head[:-2], b"content-length") or 0))
                target = urlsplit(head.split()[1].decode())
                query = {name: values[0] for name, values in parse_qs(target.query).items()}
                _, verb, name = target.path.split("/")
                self.asked.add((verb, f"http://{(field(head[:-2], b'host') or b'').decode()}"))
                await getattr(self, verb)(writer, self.boxes.setdefault(name, []), query, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def push(self, writer: Any, box: list[Any], query: dict[str, str], body: bytes) -> None:
        async with self.arrived:
            box += [json.loads(line) for line in body.splitlines()]
            self.arrived.notify_all()
        writer.write(document({}, self.push_status))

    async def poll(self, writer: Any, box: list[Any], query: dict[str, str], body: bytes) -> None:
        after = 0 if query["after"] == "oldest" else int(query["after"])
        if query["wait"] != "0":
            async with self.arrived:
                await self.arrived.wait_for(lambda: len(box) > after)
        found = box[after : after + 100]
        writer.write(batch(*(self.fault(found) if found else []), cursor=str(after + len(found))))

    async def stream(self, writer: Any, box: list[Any], query: dict[str, str], body: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(b":\n\n", 9))
        sent = 0
        while True:
            async with self.arrived:
                await self.arrived.wait_for(lambda sent=sent: len(box) > sent)
            for message in self.fault(box[sent:]):
                writer.write(chunks(b"data: %s\n\n" % json.dumps(message).encode(), 1000))
            sent = len(box)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def run(server: Server, scenario: Scenario, messages: int = 20, **options: Any) -> Result:
    return measure(server.url, scenario, seconds=None, messages=messages, warm_up=0, **options)


def few(name: str, readers: int = 3) -> Scenario:
    return SCENARIOS[name].sized(readers, 2, 5)


@pytest.mark.parametrize(
    ("name", "deliveries", "connections"), [("mailbox", 20, 5), ("fanout", 60, 5), ("stream", 60, 5)]
)
def test_every_message_is_delivered_to_every_reader_and_counted(
    server: Server, name: str, deliveries: int, connections: int
) -> None:
    result = run(server, few(name))
    assert (result.messages, result.deliveries) == (20, deliveries)
    assert sum(map(len, server.boxes.values())) == 20
    assert server.connections == connections + 1  # And the one that looked whether anybody is there.
    assert 0 < result.p50_ms <= result.p99_ms <= result.max_ms
    assert result.per_second > 0
    assert result.cpu_us is None


@pytest.mark.parametrize(
    ("name", "verbs"), [("mailbox", "push poll"), ("fanout", "poll"), ("stream", "stream"), ("push", "push")]
)
def test_readers_and_pushers_spread_over_all_addresses_of_a_server(
    server: Server, name: str, verbs: str
) -> None:
    result = measure(server.urls, few(name), seconds=None, messages=20, warm_up=0)
    assert result.url == ", ".join(server.urls)
    assert result.messages == 20
    assert {(verb, url) for verb in verbs.split() for url in server.urls} <= server.asked


def test_an_address_at_which_nothing_answers_is_named() -> None:
    nowhere = f"http://127.0.0.1:{compare.free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(NotThere, match=f"Nothing answers at {nowhere}"):
            measure([there, nowhere], few("mailbox"), messages=1)


def test_a_burst_goes_out_as_one_request_and_comes_back_in_order(server: Server) -> None:
    result = run(server, few("burst"), messages=600)
    assert (result.messages, result.deliveries) == (600, 600)


def test_parked_polls_stay_parked_and_get_nothing(server: Server) -> None:
    result = run(server, few("mailbox"), parked=10)
    assert (result.parked, result.deliveries) == (10, 20)
    assert server.connections == 16


def test_what_is_pushed_without_readers_is_read_back(server: Server) -> None:
    result = run(server, few("push"), messages=50)
    assert (result.messages, result.deliveries) == (50, 0)
    # One each before the measured ones; then the recipient whose push was answered first is the next.
    assert len(server.boxes) == 5
    assert sum(map(len, server.boxes.values())) == 5 + 50


def test_the_servers_cpu_time_is_given_per_delivery_when_its_process_is_known(server: Server) -> None:
    result = run(server, few("mailbox"), costs=Processes([os.getpid()]))
    assert result.cpu_us is not None
    assert result.cpu_us > 0


@pytest.mark.parametrize("name", ["mailbox", "fanout", "stream", "push", "burst"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda messages: [*messages, messages[-1]], id="doubled"),
        pytest.param(lambda messages: [{**messages[0], "text": ""}, *messages[1:]], id="changed"),
        pytest.param(lambda messages: [{**messages[0], "n": -1}, *messages[1:]], id="of another"),
    ],
)
def test_a_fault_in_what_is_delivered_ends_the_run(
    server: Server, name: str, fault: Callable[[list[Any]], list[Any]]
) -> None:
    server.fault = fault
    with pytest.raises(Lost):
        run(server, few(name), messages=200)


def test_messages_out_of_order_end_the_run(server: Server) -> None:
    server.fault = lambda messages: messages[::-1]
    with pytest.raises(Lost, match="in the place of"):
        run(server, few("burst"), messages=200)


def test_a_message_that_does_not_come_is_lost(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(messages: list[Any]) -> list[Any]:
        monkeypatch.setattr(load, "PATIENCE_SECONDS", 0.0)  # Now that all are connected.
        return []

    server.fault = lose
    with pytest.raises(Lost, match="answers are missing"):
        run(server, few("mailbox"))


def test_a_push_that_is_refused_ends_the_run(server: Server) -> None:
    server.push_status = 503
    with pytest.raises(UnexpectedAnswer, match="503"):
        run(server, few("mailbox"))


def test_a_dialect_that_keeps_nothing_is_not_asked_to_read_back(server: Server) -> None:
    with pytest.raises(BenchError, match="keeps nothing"):
        measure(server.url, few("push"), Bayeux, messages=1)


# The command.


def test_the_command_prints_json_for_programs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "fanout",
        "--url",
        server.url,
        "--readers",
        "3",
        "--messages",
        "5",
        "--warm-up",
        "0",
        "--json",
    ]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["scenario"], printed["deliveries"], printed["readers"]) == ("fanout", 15, 3)


def test_the_command_prints_lines_for_people(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    urls = [word for url in server.urls for word in ("--url", f"{url}/")]
    assert main([*urls, "--readers", "3", "--messages", "5"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"mailbox at {', '.join(server.urls)} (cometd-lite): 3 readers, 16 pushing, ")
    assert "latency" in printed


def test_what_the_servers_process_takes_is_told_where_it_is_given(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--url", server.url, "--readers", "3", "--messages", "5"]
    assert load_with_costs.main([*arguments, "--pid", str(os.getpid())]) == 0
    assert "for each delivery" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        load_with_costs.main([*arguments, "--pid", str(2**30)])
    assert "There is no process" in capsys.readouterr().err


def test_a_generator_that_was_the_limit_says_so(server: Server) -> None:
    result = run(server, few("mailbox"))
    said = command.report(replace(result, own_cpu=0.97))
    assert "The generator's own CPU was full (97%)" in said
    assert "was full" not in command.report(replace(result, own_cpu=0.4))


def test_the_command_says_in_a_sentence_that_nothing_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    port = compare.free_port()
    assert main(["--url", f"http://127.0.0.1:{port}"]) == 2
    said = f"cometd-lite bench: Nothing answers at http://127.0.0.1:{port}: Connection refused.\n"
    assert capsys.readouterr().err == said


def test_a_lost_message_is_the_commands_exit_status(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fault = lambda messages: [*messages, *messages]
    assert main(["--url", server.url, "--readers", "3", "--messages", "5"]) == 1
    assert capsys.readouterr().err.startswith("cometd-lite bench: A message arrived that was not pushed")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "https://localhost"],
        ["--url", "http://localhost?x"],
        ["--readers", "0"],
        ["--readers", "many"],
        ["--seconds", "1", "--messages", "1"],
        ["dance"],
    ],
)
def test_wrong_arguments_are_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert "error: " in capsys.readouterr().err


# The comparison.


def test_a_ratio_is_the_median_of_the_rounds_that_have_both() -> None:
    assert compare.median_ratio([10.0, 12.0, None, 50.0], [5.0, 4.0, 1.0, 50.0]) == 2.0
    assert compare.median_ratio([None], [1.0]) is None
    assert compare.median_ratio([1.0], []) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are given out by Linux")
def test_each_server_has_a_core_of_its_own_not_only_the_first_one() -> None:
    allowed = os.sched_getaffinity(0)

    def command(port: int, work: Path) -> list[str | Path]:
        return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", work, str(port)]

    peer = replace(compare.PEERS[0], command=command)
    for _ in range(2):
        with compare.running(peer) as (_, pid):
            mine, its = compare.cores(allowed)
            assert (os.sched_getaffinity(0), os.sched_getaffinity(pid)) == (mine, its)
        assert os.sched_getaffinity(0) == allowed


def result_of(**numbers: Any) -> Result:
    unmeasured = dict.fromkeys(Result.__dataclass_fields__, 0)
    return Result(**{**unmeasured, **numbers})


def test_a_check_passes_up_to_its_bound_and_is_left_open_without_its_peer() -> None:
    measured = compare.Measured()
    measured.results["cometd-lite", "fanout"] = [result_of(cpu_us=17.0)]
    measured.results["nchan", "fanout"] = [result_of(cpu_us=10.0)]
    measured.results["Faye", "fanout"] = [result_of(cpu_us=20.0)]
    measured.results["cometd-lite by Bayeux", "fanout"] = [result_of(cpu_us=12.0)]
    found = {
        check["text"]: check["passed"]
        for check in compare.verdicts(measured, [compare.RUNS["fanout"]], "cometd-lite")
    }
    assert found == {
        "fan-out, against nchan": True,
        "fan-out, against aiohttp on uvloop": None,
        "fan-out, against Faye": False,
        "fan-out spoken as Bayeux, against Faye": True,
        "fan-out spoken as Bayeux, against CometD's": None,
    }


def test_the_table_says_what_is_not_installed_and_what_failed() -> None:
    measured = compare.Measured()
    run = compare.RUNS["mailbox"]
    measured.results["cometd-lite", "mailbox"] = [result_of(cpu_us=30.0)]
    measured.results["nchan", "mailbox"] = [result_of(cpu_us=20.0)]
    measured.failures["Faye", "mailbox"] = "It fell over."
    ours, _, nchan, aiohttp, faye, *_ = compare.PEERS
    here, gone = (lambda: None), (lambda: "pip install aiohttp")
    peers = [
        replace(peer, needs=needs)
        for peer, needs in ((ours, here), (nchan, here), (aiohttp, gone), (faye, here))
    ]
    assert compare.table(peers, [run], measured, "cometd-lite") == (
        "| server            | mailbox, µs | ours is |\n"
        "| ----------------- | ----------: | ------: |\n"
        "| cometd-lite       |        30.0 |         |\n"
        "| nchan             |        20.0 |  1.50 x |\n"
        "| aiohttp on uvloop | not installed: pip install aiohttp |         |\n"
        "| Faye              |      failed |         |\n"
    )


def test_peers_are_chosen_by_the_beginnings_of_their_names_and_ours_always_runs() -> None:
    assert [peer.name for peer in compare.chosen(["NCH"], [], "cometd-lite")] == ["cometd-lite", "nchan"]
    variants = compare.chosen(["nchan"], ["big=--max-parked 20000", "old=@HEAD~3 --ttl 9"], "cometd-lite")
    assert [peer.name for peer in variants] == ["cometd-lite", "big", "old", "nchan"]
    assert list(variants[1].command(1, Path("/tmp")))[-2:] == ["--max-parked", "20000"]
    assert (variants[1].commit, variants[2].commit) == (None, "HEAD~3")
    assert list(variants[2].command(1, Path("/tmp")))[-2:] == ["--ttl", "9"]
    assert len(compare.chosen([], [], "cometd-lite")) == len(compare.PEERS)
