"""The program with its mailboxes in Redis: two of them serve as one, through failures and failovers."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from fork_server import spawn
from program import PATIENCE, Program, eventually, ran

sys.path.insert(0, str(Path(__file__).parents[1]))

from redis_recount import Recount
from redis_server import RedisServer, ask, free_port

from cometd_lite.stores.redis.connection import PREFIX

RECIPIENTS = b'{"recipients":["bob"]}'


@pytest.fixture
def kept(tmp_path):
    """A Redis that keeps everything."""
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always")
    yield server.start()
    Recount(server, PREFIX)  # the programs have ended; what they have left agrees
    server.kill()


@pytest.fixture
def pair(kept, run):
    """Two programs at one Redis."""
    programs = run("--store", kept.address), run("--store", kept.address)
    for program in programs:
        reached(program)
    return programs


def reached(program):
    """Wait until a program has reached its store."""
    eventually(lambda: program.get("/poll/nobody?after=now&wait=0").status == 200, "the store")


def push(program, target, body="hello", **headers):
    """Push until that is confirmed."""
    return eventually(
        lambda: (answer := program.ask("POST", f"/push{target}", body, **headers)).status < 300 and answer
    )


def test_a_push_at_one_wakes_a_poll_at_the_other(pair):
    here, there = pair
    parked = there.park("/poll/bob", "bob")
    answer = here.push("/bob")
    assert (answer.status, answer.json["delivered"]) == (201, 1)
    assert parked.answer().data == ["hello"]
    assert here.push("/bob", "2").status == 202
    assert there.get("/poll/bob").data == ["2"]


def test_one_cursor_serves_both(pair):
    ids = [pair[number % 2].push("/bob", f"{number}").json["id"] for number in range(6)]
    for program in pair:
        found = program.get(f"/poll/bob?after={ids[2]}").json
        assert [message["data"] for message in found["messages"]] == ["3", "4", "5"]
        assert found["gap"] is False


def test_a_stream_at_one_tells_what_is_pushed_at_the_other(pair):
    here, there = pair
    stream = there.connect().request("GET", "/stream/bob", Accept="application/x-ndjson")
    eventually(lambda: there.waiting("bob") == 1)
    assert here.push("/bob").status == 201
    assert b'"recipient":"bob"' in stream.until(b'"data":"hello"')


def test_only_for_waiting_readers_counts_those_of_both(pair):
    here, there = pair
    assert here.ask("POST", "/push/bob?queue=no", "x").status == 503
    parked = there.park("/poll/bob", "bob")
    assert here.push("/bob?queue=no").status == 201
    assert parked.answer().data == ["hello"]
    assert here.get("/poll/bob?after=oldest&wait=0").data == []


def test_a_listener_and_a_key_are_known_to_both(pair):
    here, there = pair
    registered = here.ask("POST", "/register", b'{"recipients":["bob"]}').json
    first = here.push("/bob", "1", Idempotency_Key="k")
    assert there.push("/bob", "1", Idempotency_Key="k").json == first.json
    assert there.get(f"/poll?listener={registered['id']}").data == ["1"]
    assert here.get(f"/poll?listener={registered['id']}&wait=0").data == []
    assert there.ask("DELETE", f"/listeners/{registered['id']}").status == 204
    assert here.get(f"/poll?listener={registered['id']}").status == 410


@pytest.mark.slow
def test_a_listener_that_was_ended_at_one_is_gone_at_the_other_at_once_and_stays_so(pair):
    here, there = pair
    with here.connect() as ending, there.connect() as polling, there.connect() as holding:
        for number in range(300):
            target = f"/listeners/{ending.ask('POST', '/register', RECIPIENTS).json['id']}"
            if number % 3:
                # A poll is on its way to the other process, or is held there, when the listener is ended.
                holding.request("GET", f"/poll?listener={target[11:]}&wait={number % 3 - 1}")
            assert ending.ask("DELETE", target).status == 204
            assert polling.ask("GET", f"/poll?listener={target[11:]}&wait=0").status == 410, number
            if number % 3:
                assert holding.answer().status in {200, 410}
                assert ending.ask("GET", target).status == 410, number


def test_while_redis_is_away_polls_wait_and_pushes_are_refused(kept, pair):
    here, there = pair
    parked = there.park("/poll/bob", "bob")
    kept.kill()
    refused = eventually(lambda: (answer := here.ask("POST", "/push/bob", "x")).status == 503 and answer)
    assert refused.json["type"] == "urn:cometd-lite:problem:store-down"
    assert int(refused.headers["retry-after"]) >= 1
    late = there.connect().request("GET", "/poll/bob?after=oldest")
    assert there.get("/poll/bob?after=oldest&wait=0").status == 503
    kept.start()
    push(here, "/bob")
    assert parked.answer().data == late.answer().data == ["hello"]
    assert here.log.read_text().count("is not reached; pushes are refused") == 1


def test_a_program_starts_before_its_redis(kept, run):
    kept.kill()
    program = run("--store", kept.address)
    assert program.get("/poll/bob?wait=0").status == 503
    kept.start()
    push(program, "/bob")
    assert program.get("/poll/bob").data == ["hello"]


@pytest.mark.parametrize("options", [("--requirepass", "x"), ("--rename-command", "HELLO", "")])
def test_a_redis_that_cannot_be_used_is_one_sentence_and_a_failure(tmp_path, options):
    # A Redis before version 6 knows no HELLO.
    server = RedisServer(tmp_path, *options).start()
    said, code = ran(tmp_path, "--store", server.address)
    server.kill()
    assert code == 1
    assert f"The store unix:{server.socket} cannot be used: " in said
    assert "Traceback" not in said


def test_a_password_and_tls_lead_to_redis(tmp_path, run):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*words.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    port = free_port()
    tls = (
        "--tls-port",
        port,
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-auth-clients",
        "no",
    )
    server = RedisServer(tmp_path, *map(str, tls), "--requirepass", "secret")
    server.start()
    program = run("--store", f"rediss://:secret@localhost:{port}/1?ca={certificate}")
    push(program, "/bob")
    assert program.get("/poll/bob").data == ["hello"]
    assert "secret" not in program.log.read_text()
    server.kill()


def knows_a_replica(sentinel):
    """Whether a Sentinel has heard of a replica that hears its master, though it asks only now and then."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", sentinel), timeout=5) as connection:
        replicas = ask(connection, "SENTINEL", "REPLICAS", "comet")
        return any(b"ok" in fields[fields.index(b"master-link-status") + 1] for fields in replicas)
    return False


@pytest.mark.slow
def test_after_a_failover_everyone_goes_on_at_the_new_master(tmp_path, run):
    ports = [free_port() for _ in range(3)]
    with ExitStack() as stack:
        servers = []
        for number, name in enumerate(("one", "two")):
            (tmp_path / name).mkdir()
            follows = ("--replicaof", "127.0.0.1", str(ports[0])) if number else ()
            servers.append(RedisServer(tmp_path / name, *follows, port=ports[number]).start())
            stack.callback(servers[-1].kill)
        (tmp_path / "sentinel.conf").write_text(
            f"port {ports[2]}\nsentinel monitor comet 127.0.0.1 {ports[0]} 1\n"
            "sentinel down-after-milliseconds comet 500\nsentinel failover-timeout comet 2000\n"
        )
        sentinel = spawn(servers[0].program, str(tmp_path / "sentinel.conf"), "--sentinel", cwd=tmp_path)
        stack.callback(sentinel.wait)
        stack.callback(sentinel.kill)
        eventually(lambda: b"master_link_status:up" in servers[1].ask("INFO", "replication"))
        eventually(lambda: knows_a_replica(ports[2]), "the Sentinel knows whom to promote")
        store = f"redis+sentinel://127.0.0.1:{ports[2]}/comet"
        here, there = run("--store", store), run("--store", store)
        for program in (here, there):
            reached(program)
        first = push(here, "/bob", "1").json["id"]
        parked = there.park(f"/poll/bob?after={first}&wait=100", "bob")
        eventually(lambda: servers[0].ask("WAIT", 1, 1_000) == 1, "the replica has all")
        servers[0].kill()
        push(here, "/bob", "2")
        answer = parked.answer().json
        assert [message["data"] for message in answer["messages"]] == ["2"]
        assert answer["gap"] is False


# -- Bayeux


class Client:
    """A Bayeux client of several programs: each request goes to the next of them."""

    def __init__(self, *programs):
        self.programs = itertools.cycle(programs)
        self.id = None

    def send(self, channel, **words):
        """Send one message, without waiting for the answer."""
        message = {"channel": channel, **words}
        if self.id is not None:
            message["clientId"] = self.id
        connection = next(self.programs).connect()
        return connection.request(
            "POST", "/cometd", msgspec.json.encode([message]), Content_Type="application/json"
        )

    def ask(self, channel, **words):
        """Send one message; return its reply, and what came with it."""
        connection = self.send(channel, **words)
        *events, reply = connection.answer().json
        connection.close()
        assert reply["channel"] == channel
        return reply, events

    def begin(self):
        words = {"version": "1.0", "supportedConnectionTypes": ["long-polling"]}
        reply, _ = self.ask("/meta/handshake", **words)
        self.id = reply["clientId"]
        self.connect()
        return self

    def connect(self):
        return self.ask("/meta/connect", connectionType="long-polling")


def test_a_bayeux_client_may_send_each_request_to_another_process(pair):
    here, there = pair
    client = Client(*pair).begin()
    for room in ("/chat/a", "/chat/b"):
        assert client.ask("/meta/subscribe", subscription=room)[0]["successful"]
    for program in (here, there, there):
        held = client.send("/meta/connect", connectionType="long-polling")
        next(client.programs)  # so that the two take turns differently
        eventually(lambda: here.waiting("chat/a") == there.waiting("chat/a") == 1)
        assert program.push("/chat/a", "hello").status == 201
        *events, reply = held.answer().json
        held.close()
        assert [event["data"] for event in events] == ["hello"]
        assert reply["successful"]
    published, _ = client.ask("/chat/b", data={"n": 1})
    assert published["successful"]
    assert there.get("/poll/chat/b").data == [{"n": 1}]
    assert client.ask("/meta/disconnect")[0]["successful"]
    assert client.connect()[0]["error"].startswith("402")


def test_a_bayeux_client_that_polls_by_callback_may_ask_any_process(pair):
    here, there = pair
    client = Client(here).begin()
    message = [{"channel": "/meta/subscribe", "subscription": "/chat/a", "clientId": client.id}]
    said = quote(msgspec.json.encode(message))
    answer = there.get(f"/cometd?jsonp=told&message={said}")
    assert answer.status == 200
    assert b"told([{" in answer.body
    assert b'"successful":true' in answer.body


def test_a_bayeux_client_that_leaves_is_known_to_have_left_by_the_process_that_holds_it(pair):
    here, there = pair
    client = Client(*pair).begin()
    client.ask("/meta/subscribe", subscription="/chat/a")
    for _ in range(2):  # once at the process that knows it, once at the other
        held = client.send("/meta/connect", connectionType="long-polling")
        eventually(lambda: here.waiting("chat/a") == there.waiting("chat/a") == 1)
        held.close()
        eventually(lambda: here.waiting("chat/a") == there.waiting("chat/a") == 0)
    here.push("/chat/a", "kept")
    assert [event["data"] for event in client.connect()[1]] == ["kept"]


def test_a_bayeux_client_is_told_to_shake_hands_where_its_process_is_no_more(tmp_path, kept, run):
    gone = Program(tmp_path, "--store", kept.address)
    there = run("--store", kept.address)
    for program in (gone, there):
        reached(program)
    client = Client(gone).begin()
    assert gone.process.poll() is None
    client.programs = itertools.cycle([there])
    client.ask("/meta/subscribe", subscription="/chat/a")
    held = client.send("/meta/connect", connectionType="long-polling")
    eventually(lambda: gone.waiting("chat/a") == 1)
    gone.process.kill()
    gone.process.wait(PATIENCE)
    (reply,) = held.answer().json
    held.close()
    assert (reply["error"], reply["advice"]["reconnect"]) == ("402::session_unknown", "handshake")
    assert client.begin().ask("/meta/subscribe", subscription="/chat/a")[0]["successful"]
