"""The program as a process: how it starts, refuses to, and ends."""

from __future__ import annotations

import signal
import socket
import subprocess

import pytest
from program import PATIENCE, Connection, start


def refused(directory, *options):
    """Run the program with options that it refuses; return what it said, and that alone."""
    process = start(directory, *options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode not in {0, None}
    return said.decode()


# -- starting


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--capacity", "many"], "--capacity many"), (["--no-such-option"], "no-such-option")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_one_sentence_and_a_failure(tmp_path, options, named):
    said = refused(tmp_path, *options)
    assert said.startswith("cometd-lite: ")
    assert named in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_a_taken_port_is_one_sentence_and_a_failure(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        said = refused(tmp_path, "--listen", endpoint)
    # twistd's log has begun by then, so the sentence comes as its last line.
    assert said.endswith(f" cometd-lite: cannot listen on {endpoint}: Address already in use.\n")
    assert "Traceback" not in said


def test_if_one_of_two_ports_is_taken_neither_is_served(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        said = refused(tmp_path, "--listen", "tcp:0:interface=127.0.0.1", "--listen", endpoint)
    assert f"cannot listen on {endpoint}" in said


def test_the_help_is_worth_reading(tmp_path):
    process = start(tmp_path, "--help", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.communicate(timeout=PATIENCE)[0].decode()
    assert process.returncode == 0
    assert "curl localhost:8080/poll/bob" in said
    for option in (
        "listen",
        "capacity",
        "capacity-bytes",
        "ttl",
        "max-body",
        "max-wait",
        "max-parked",
        "max-recipients",
        "max-memory",
        "overflow",
        "allow-origin",
        "host",
        "mount",
        "store",
    ):
        assert f"--{option}" in said
    assert "tcp:8080:interface=127.0.0.1" in said
    assert max(map(len, said.splitlines())) <= 100


def test_the_version_is_told(tmp_path):
    process = start(tmp_path, "--version", stdout=subprocess.PIPE)
    assert process.communicate(timeout=PATIENCE)[0].startswith(b"cometd-lite ")
    assert process.returncode == 0


# -- options that are served


def test_several_endpoints_serve_the_same_mailboxes(run, tmp_path):
    program = run("--listen", "tcp:0:interface=127.0.0.1", "--listen", f"unix:{tmp_path}/comet.sock")
    program.push("/bob")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(f"{tmp_path}/comet.sock")
        client.sendall(b"GET /poll/bob HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        said = b"".join(iter(lambda: client.recv(65_536), b""))
    assert b'"data":"hello"' in said


def test_the_interface_may_lie_under_a_path(run):
    program = run("--mount", "/comet/")
    answer = program.ask("POST", "/comet/push/chat/room%201", "hello")
    assert (answer.status, answer.json["recipients"]) == (202, ["chat/room 1"])
    assert program.get("/comet/poll/chat/room%201").data == ["hello"]
    assert program.get("/comet/poll/").status == 400
    assert program.ask("PUT", "/comet/push/x").headers["allow"] == "OPTIONS, POST"
    for outside in ("/push/bob", "/cometpush/bob", "/"):
        answer = program.get(outside)
        assert answer.status == 404
        assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_bounded_by_options_is_bounded(run):
    program = run("--capacity", "1", "--max-body", "10", "--max-wait", "1s", "--overflow", "drop-oldest")
    program.push("/bob", "1")
    program.push("/bob", "2")
    assert program.get("/poll/bob?after=oldest").data == ["2"]
    assert program.ask("POST", "/push/bob?overflow=reject", "3").status == 503
    assert program.ask("POST", "/push/bob", "x" * 11).status == 413
    assert program.get("/poll/bob?wait=2").status == 400
    assert program.get("/poll/nobody").data == []


def test_a_server_on_loopback_answers_to_its_own_names_and_to_those_it_is_told(run):
    program = run("--host", "comet.example", "--allow-origin", "https://app.example")
    for host, status in (
        ("localhost", 200),
        ("127.0.0.1", 200),
        ("comet.example", 200),
        ("evil.example", 421),
    ):
        assert program.get("/healthz", Host=host).status == status
    for origin, status in (("https://app.example", 202), ("https://evil.example", 403)):
        assert program.ask("POST", "/push/bob", "x", Origin=origin).status == status


def test_a_server_that_others_can_reach_answers_to_every_name(run):
    program = run("--listen", "tcp:0")
    assert program.get("/healthz", Host="comet.example").status == 200


# -- ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_every_parked_poll_with_its_place_and_exits_well(run, number):
    # slact/nchan#290: a restart dropped connections, and what they had missed.
    program = run()
    place = program.get("/poll/bob?after=now&wait=0").json["cursor"]
    program.push("/alice")
    polls = [
        program.park(f"/poll/bob?after={place}", "bob"),
        program.park("/poll/bob", "bob", If_None_Match=f'"{place}"'),
        program.park(f"/poll/bob?after={place}&format=raw", "bob"),
        program.park("/poll/bob", "bob"),
    ]
    idle = program.connect()
    assert idle.ask("GET", "/healthz").status == 200
    program.process.send_signal(number)
    answers = [poll.answer() for poll in polls]
    assert [answer.status for answer in answers] == [200, 304, 204, 200]
    for answer in answers:
        assert answer.headers["connection"] == "close"
    assert {answer.headers["comet-cursor"] for answer in answers[:3]} == {place}
    assert all(poll.ended() for poll in polls)
    assert idle.ended()
    assert program.process.wait(PATIENCE) == 0


def test_every_one_of_many_parked_polls_is_answered_at_the_end(run):
    program = run("--listen", "tcp:0:interface=127.0.0.1:backlog=300")
    polls = [Connection(program.port).request("GET", "/poll/many?wait=120") for _ in range(300)]
    with program.connect() as connection:
        while connection.ask("GET", "/recipients/many").json["waiting"] < len(polls):
            pass
    program.process.send_signal(signal.SIGTERM)
    assert [poll.answer().status for poll in polls] == [200] * len(polls)
    for poll in polls:
        poll.close()
    assert program.process.wait(PATIENCE) == 0


def test_a_second_signal_changes_nothing(run):
    program = run()
    program.process.send_signal(signal.SIGTERM)
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait(PATIENCE) == 0


def test_after_the_end_nobody_listens(run):
    program = run()
    assert program.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        Connection(program.port)
