"""The program on a Redis that refuses writes: what is there is delivered by every transport, and it heals."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import msgspec
import pytest
from program import eventually

sys.path.insert(0, str(Path(__file__).parents[1]))

from redis_server import RedisServer

HANDSHAKE = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture
def server(tmp_path):
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


def begin(server, code):
    """Let a Redis refuse writes; return what heals it."""
    if code == "MISCONF":
        place = server.directory / "dump.rdb"
        server.ask("CONFIG", "SET", "save", "3600 1000000")
        place.mkdir()  # a snapshot cannot be put at the place of a directory
        snapshot(server, "err")
        return lambda: (place.rmdir(), snapshot(server, "ok"))
    option, value = ("maxmemory", "1") if code == "OOM" else ("min-replicas-to-write", "1")
    server.ask("CONFIG", "SET", option, value)
    return lambda: server.ask("CONFIG", "SET", option, 0)


def snapshot(server, status):
    server.ask("BGSAVE")
    wanted = f"rdb_last_bgsave_status:{status}".encode()
    eventually(lambda: wanted in server.ask("INFO", "persistence"), "a snapshot")


def say(program, *messages):
    """Send a Bayeux batch; return the replies."""
    answer = program.ask("POST", "/cometd", msgspec.json.encode(messages), Content_Type="application/json")
    assert answer.status == 200, answer
    return answer.json


@pytest.mark.parametrize("code", ["OOM", "MISCONF", "NOREPLICAS"])
def test_what_a_redis_holds_that_refuses_writes_comes_by_every_transport(server, run, code):
    program = run("--store", server.address, "--max-wait", "60")
    eventually(lambda: program.get("/poll/nobody?after=now&wait=0").status == 200, "the store")
    registered = program.ask("POST", "/register", b'{"recipients":["bob"]}').json["id"]
    client = say(program, HANDSHAKE)[0]["clientId"]
    number = itertools.count()

    def bayeux(channel, **fields):
        return {"channel": channel, "clientId": client, "id": str(next(number)), **fields}

    connection = {"connectionType": "long-polling", "advice": {"timeout": 0}}
    say(program, bayeux("/meta/subscribe", subscription="/bob"), bayeux("/meta/connect", **connection))
    ids = [program.push("/bob", body).json["id"] for body in ("one", "two")]
    heal = begin(server, code)
    refused = eventually(lambda: (answer := program.ask("POST", "/push/bob", "x")).status == 503 and answer)
    assert refused.json["type"] == "urn:cometd-lite:problem:store-down"
    after = ids[0]

    assert program.get(f"/poll/bob?after={after}").data == ["two"]
    assert program.get(f"/poll/*?after={after}").data == ["two"]
    with program.connect() as events:
        events.request("GET", f"/stream/bob?after={after}").until(b"data: two\n")
    with program.connect() as lines:
        target = f"/stream/bob?after={after}"
        lines.request("GET", target, Accept="application/x-ndjson").until(b'"data":"two"')
    with program.connect() as socket:
        socket.request("GET", f"/ws/bob?after={after}", **UPGRADE).until(b'"data":"two"')
    assert program.get(f"/poll?listener={registered}").data == ["one", "two"]
    assert program.get(f"/poll?listener={registered}&wait=0").data == []
    told = say(program, bayeux("/meta/connect", **connection))
    assert [event["data"] for event in told if event["channel"] == "/bob"] == ["one", "two"]

    taken = program.connect().request("GET", "/poll/bob?wait=50")
    if code == "OOM":
        assert taken.answer().data == ["one", "two"]
        assert program.ask("DELETE", "/recipients/bob").status == 204
    else:
        assert program.ask("DELETE", "/recipients/bob").status == 503
    parked = program.park("/poll/eve?wait=50", "eve")
    assert [code in line for line in program.log.read_text().splitlines() if "takes no pushes" in line] == [
        True
    ]
    heal()
    if code != "OOM":
        assert taken.answer().data == ["one", "two"]
    eventually(lambda: program.ask("POST", "/push/eve", "three").status == 201, "a push")
    assert parked.answer().data == ["three"]
    eventually(lambda: "takes pushes again" in program.log.read_text(), "the log")
