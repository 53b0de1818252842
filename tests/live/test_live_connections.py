"""Connections to the running server: how requests arrive, in what pieces, and how their senders leave."""

from __future__ import annotations

import re
import socket
import time

import pytest
from program import ON_LOOPBACK, TWISTD, Connection, Program, eventually

HOST = " HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = "POST /push/{}" + HOST + "Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=["shared", "secured"], ids=["tcp", "ssl"])
def program(request: pytest.FixtureRequest) -> Program:
    """Return the program, once as it listens by itself and once behind TLS."""
    found: Program = request.getfixturevalue(request.param)
    return found


# -- one connection, many requests


def test_a_connection_carries_one_request_after_another(program):
    with program.connect() as connection:
        for n in range(3):
            assert connection.ask("POST", "/push/keep-alive", str(n)).status == 202
        assert connection.ask("GET", "/poll/keep-alive").data == ["0", "1", "2"]
        ended = connection.ask("GET", "/poll/keep-alive?wait=0.2")
        assert ended.data == []
        assert connection.ask("POST", "/push/keep-alive", "3").status == 202


def test_pipelined_requests_are_answered_in_order(program):
    with program.connect() as connection:
        for n in range(20):
            connection.request("POST", "/push/pipelined", str(n))
        connection.request("GET", "/poll/pipelined")
        connection.request("GET", "/nowhere")
        assert [connection.answer().status for _ in range(20)] == [202] * 20
        assert connection.answer().data == [str(n) for n in range(20)]
        assert connection.answer().status == 404


def test_what_is_pipelined_behind_a_parked_poll_waits_for_it(program):
    connection = program.park("/poll/behind?after=now", "behind")
    connection.request("GET", "/healthz")
    connection.request("POST", "/push/behind", "second")
    assert program.push("/behind", "first").json["delivered"] == 1
    assert connection.answer().data == ["first"]
    assert connection.answer().json["status"] == "ok"
    assert connection.answer().status == 202


def test_a_connection_is_closed_after_an_answer_where_the_client_asks_for_it(program):
    connection = program.connect()
    answer = connection.ask("GET", "/healthz", Connection="close")
    assert answer.headers["connection"] == "close"
    assert connection.ended()


def test_http_1_0_is_answered_and_closed(program):
    connection = program.connect().send("GET /healthz HTTP/1.0\r\n\r\n")
    assert connection.answer().status == 200
    assert connection.ended()


def test_http_1_0_may_keep_its_connection(program):
    with program.connect() as connection:
        for _ in range(2):
            connection.send("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            answer = connection.answer()
            assert answer.headers["connection"].lower() == "keep-alive"


def test_a_poll_in_http_1_0_is_held_and_answered(program):
    connection = program.connect().send("GET /poll/one-oh?after=now HTTP/1.0\r\nHost: localhost\r\n\r\n")
    eventually(lambda: program.waiting("one-oh") == 1)
    program.push("/one-oh")
    assert connection.answer().data == ["hello"]
    assert connection.ended()


def test_a_request_may_come_byte_by_byte(program):
    with program.connect() as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"POST /push/bytes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi":
            connection.send(bytes([byte]))
        assert connection.answer().status == 202


# -- bodies


def test_a_client_that_asks_first_is_told_to_go_on(program):
    with program.connect() as connection:
        connection.send(
            "POST /push/asks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.answer().status == 100
        connection.send("hello")
        assert connection.answer().status == 202


def test_a_client_that_asks_first_with_too_large_a_body_need_not_send_it(program):
    connection = program.connect().send(
        "POST /push/asks-much" + HOST + "Content-Length: 70000\r\nExpect: 100-continue\r\n\r\n"
    )
    answer = connection.answer()
    assert answer.status == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_over_the_bound_is_refused_by_its_length_before_it_is_read(program):
    connection = program.connect().send(
        "POST /push/large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"
    )
    answer = connection.answer()
    assert answer.status == 413
    assert answer.json["type"].endswith("body-too-large")
    assert "65536" in answer.json["detail"]


def test_a_chunked_body_is_put_together(program):
    with program.connect() as connection:
        connection.send(CHUNKED.format("chunked"))
        for piece in ("4\r", "\nhe", "ll\r\n", "1;ext=x\r\no", "\r\n0\r\n", "Trailer: x\r\n\r\n"):
            connection.send(piece)
        assert connection.answer().status == 202
        assert connection.ask("GET", "/poll/chunked").data == ["hello"]


def test_a_chunked_body_is_refused_as_soon_as_it_passes_the_bound(program):
    connection = program.connect().send(CHUNKED.format("chunked-large"))
    connection.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
    connection.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
    assert connection.quiet()
    connection.send(b"1\r\nx\r\n")
    answer = connection.answer()
    assert answer.status == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert program.get("/recipients/chunked-large").json["queued"] == 0


def test_what_follows_a_refused_body_is_not_taken_for_a_request(program):
    connection = program.connect()
    smuggled = b"POST /push/smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    connection.request("POST", "/push/refused", smuggled * 1_000)
    assert connection.answer().status == 413
    assert connection.ended()
    assert program.get("/recipients/smuggled").json["queued"] == 0


# -- what is no request


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n", 400),
        (b"POST /push/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (
            CHUNKED.format("x").encode()[:-2] + b"Content-Length: 1\r\n\r\n",
            400,
        ),
        (CHUNKED.format("x").encode() + b"zz\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
    ],
    ids=lambda value: None if isinstance(value, int) else ascii(value[:40]),
)
def test_what_is_no_request_gets_a_problem_and_the_end_of_its_connection(program, data, status):
    connection = program.connect().send(data)
    answer = connection.answer()
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["detail"].endswith(".")
    assert answer.headers["connection"] == "close"
    assert connection.ended()


def test_options_may_be_asked_of_the_server_as_a_whole(program):
    with program.connect() as connection:
        assert connection.ask("OPTIONS", "*").status == 204


# -- clients that leave


def test_a_parked_poll_that_leaves_is_forgotten_at_once(program):
    for leave in ("close", "reset"):
        for target in ("/poll/leaves?after=now&wait=120", "/poll/leaves?wait=120", "/poll/leaves?format=raw"):
            connection = program.park(target, "leaves")
            getattr(connection, leave)()
            eventually(lambda: program.waiting("leaves") == 0, f"{target} forgotten after {leave}")
    assert program.push("/leaves").status == 202


def test_clients_may_be_reset_in_every_state_and_leave_nothing_behind(program):
    # twisted/twisted#8692: a release once forgot to tell of lost connections. So real resets are tried.
    program.push("/resets", "x" * 60_000)
    before = program.files()
    beginnings = [
        "",
        "G",
        "GET /poll/resets",
        "GET /poll/resets?after=oldest HTTP/1.1\r\nHost: loc",
        "GET /poll/resets?after=now HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /poll/resets?after=oldest HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20,
        "GET /poll/resets?after=now" + HOST + "\r\nGET /healthz" + HOST + "\r\n",
        "GET /poll/resets2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /push/resets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf",
        "POST /push/resets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n",
        CHUNKED.format("resets"),
        CHUNKED.format("resets") + "5\r\nhel",
        CHUNKED.format("resets") + "5\r\nhello\r\n0\r\n",
        "POST /push/resets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\nxxx",
        "nonsense\r\n\r\n",
    ]
    for beginning in beginnings:
        for leave in ("reset", "close"):
            for wait in (False, True):
                connection = program.connect().send(beginning)
                if wait:
                    program.get("/healthz")  # by now the server has read it
                getattr(connection, leave)()
    eventually(lambda: program.waiting("resets") == 0 == program.waiting("resets2"), "all forgotten")
    eventually(lambda: program.files() <= before, "all sockets closed")
    assert program.get("/recipients/resets").json["queued"] == 1, "no half body was pushed"


def test_a_push_is_not_undone_because_its_sender_was_reset(program):
    # twisted/klein#546: a lost connection cancels the route's Deferred in the middle of its work.
    poll = program.park("/poll/shielded?after=now", "shielded")
    sender = program.connect()
    assert sender.ask("GET", "/healthz").status == 200  # so that TLS is ready, whatever becomes of the rest
    sender.request("POST", "/push/shielded", "hello").reset()
    assert poll.answer().data == ["hello"]


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("leaves_first", [True, False])
def test_a_take_whose_client_left_unnoticed_leaves_its_message_where_it_was(run, leave, leaves_first):
    # faye/faye#251: a message written to a dead socket was gone. While the server stands still, the taker
    # leaves and a push comes; it then meets both in one turn of its loop, in either order.
    program = run()
    taker = program.park("/poll/bob?wait=120", "bob")
    pusher = program.connect()
    assert pusher.ask("GET", "/healthz").status == 200
    with program.frozen():
        if leaves_first:
            getattr(taker, leave)()
        pusher.request("POST", "/push/bob", "precious")
        if not leaves_first:
            getattr(taker, leave)()
    answer = pusher.answer()
    assert (answer.status, answer.json["delivered"]) == (202, 0)
    assert program.get("/recipients/bob").json["queued"] == 1
    assert program.get("/poll/bob?wait=0").data == ["precious"]


def test_the_next_take_gets_what_the_one_before_it_left(run):
    program = run()
    first = program.park("/poll/bob?wait=120", "bob")
    second = program.park("/poll/bob?wait=120", "bob")
    pusher = program.connect()
    assert pusher.ask("GET", "/healthz").status == 200
    with program.frozen():
        pusher.request("POST", "/push/bob", "precious")
        first.close()
    assert second.answer().data == ["precious"]
    assert pusher.answer().json["delivered"] == 1


# -- more clients than there may be


def test_more_connections_than_files_do_not_wedge_the_server(run):
    # matrix-org/synapse#1723: EMFILE, and accept was tried again at once, forever, at 100 % CPU.
    few_files = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    program = run(code=f"{few_files}; {TWISTD}")
    kept = program.park("/poll/kept?wait=120", "kept")
    crowd = [program.connect() for _ in range(100)]
    eventually(lambda: program.files() > 50, "the crowd accepted")
    assert program.files() < 64
    begun, used = time.monotonic(), program.cpu()
    eventually(lambda: time.monotonic() - begun > 0.5)
    assert program.cpu() - used < 0.3
    for connection in crowd:
        connection.close()
    eventually(lambda: program.files() < 30, "the crowd forgotten")
    assert program.push("/kept").json["delivered"] == 1
    assert kept.answer().data == ["hello"]
    log = program.log.read_text()
    assert "40 connections may be open, not 20000" in log
    assert "EMFILE" not in log


def served(program: Program) -> Connection | None:
    """Return a new connection, None where there is no room for it yet."""
    connection = program.connect()
    return connection if connection.ask("GET", "/healthz").status == 200 else None


def test_over_the_bound_a_connection_is_answered_and_ended_while_the_others_go_on(run):
    program = run("--max-connections", "3")
    kept = [program.park(f"/poll/{name}?wait=120", name) for name in ("a", "b")]
    third = eventually(lambda: served(program), "those that asked while it started have left")
    refused = program.connect().request("GET", "/poll/c")
    answer = refused.answer()
    assert (answer.status, answer.json["type"]) == (503, "urn:cometd-lite:problem:server-full")
    assert int(answer.headers["retry-after"]) >= 1
    assert refused.ended()
    assert third.ask("POST", "/push/a", "hello").json["delivered"] == 1
    assert kept[0].answer().data == ["hello"]
    third.close()
    eventually(lambda: program.connect().ask("GET", "/healthz").status == 200)


def test_one_address_has_so_many_connections_and_another_is_served(run):
    program = run("--client-connections", "2", "--proxied", "127.0.0.3")
    eventually(lambda: program.files() < 20)
    kept = [program.park(f"/poll/{name}?wait=120", name) for name in ("a",)]
    kept.append(program.connect().request("GET", "/poll/b?wait=120"))
    answer = program.connect().ask("GET", "/poll/c")
    assert (answer.status, answer.json["type"]) == (429, "urn:cometd-lite:problem:too-many-requests")
    assert int(answer.headers["retry-after"]) >= 1
    others = [program.connect("127.0.0.2") for _ in range(2)]
    assert others[0].ask("POST", "/push/a", "hello").json["delivered"] == 1
    trusted = [program.connect("127.0.0.3") for _ in range(5)]
    assert all(one.ask("GET", "/healthz").status == 200 for one in trusted)
    kept[0].reset()
    eventually(lambda: others[1].ask("GET", "/recipients/a").json["waiting"] == 0)
    assert program.connect().ask("GET", "/healthz").status == 200


def test_a_proxy_tells_by_the_proxy_protocol_whom_it_speaks_for(run):
    by_proxy = "haproxy:tcp:0:interface=127.0.0.1"
    program = run("--listen", ON_LOOPBACK, "--listen", by_proxy, "--client-parked", "1")
    _, port = re.findall(r"starting on (\d+)", program.log.read_text())

    def speak_for(address: str) -> Connection:
        connection = Connection(int(port))
        return connection.send(f"PROXY TCP4 {address} 192.0.2.9 5555 80\r\n")

    with speak_for("192.0.2.1") as first, speak_for("192.0.2.1") as again, speak_for("192.0.2.2") as other:
        first.request("GET", "/poll/a?after=now&wait=120")
        eventually(lambda: program.waiting("a") == 1)
        assert again.ask("GET", "/poll/a?after=now").status == 429
        assert other.ask("GET", "/poll/a?after=now&wait=0.1").status == 200
        assert other.ask("POST", "/push/a", "hello").json["delivered"] == 1
        assert first.answer().data == ["hello"]
    with Connection(int(port)) as stranger:
        assert stranger.request("GET", "/healthz").ended()


def test_more_polls_than_may_be_parked_are_told_to_come_back(run):
    program = run("--max-parked", "2")
    parked = [program.park(f"/poll/{name}?wait=120", name) for name in ("a", "b")]
    answer = program.get("/poll/c")
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    parked[0].reset()
    eventually(lambda: program.waiting("a") == 0)
    assert program.get("/poll/c?wait=0.1").status == 200
