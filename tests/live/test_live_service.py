"""The program as a process: how it starts, refuses to, and ends."""

from __future__ import annotations

import re
import signal
import socket

import jwt
import msgspec
import pytest
from program import PATIENCE, Connection, eventually, ran

from cometd_lite import __version__


def refused(directory, *options, fresh=False):
    """Run the program with options that it refuses; return what it said, and that alone."""
    said, code = ran(directory, *options, fresh=fresh)
    assert code > 0
    return said


# -- starting


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--capacity", "many"], "--capacity many"), (["--no-such-option"], "no-such-option")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_one_sentence_and_a_failure(tmp_path, options, named):
    said = refused(tmp_path, *options, fresh=True)
    assert said.startswith("cometd-lite: ")
    assert named in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_a_taken_port_is_one_sentence_and_a_failure(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        said = refused(tmp_path, "--listen", endpoint, fresh=True)
    # twistd's log has begun by then, so the sentence comes as its last line.
    assert said.endswith(f" cometd-lite: cannot listen on {endpoint}: Address already in use.\n")
    assert "Traceback" not in said


def test_if_one_of_two_ports_is_taken_neither_is_served(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        said = refused(tmp_path, "--listen", "tcp:0:interface=127.0.0.1", "--listen", endpoint)
    assert f"cannot listen on {endpoint}" in said


def test_the_help_is_worth_reading(tmp_path):
    said, code = ran(tmp_path, "--help")
    assert code == 0
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
        "access-log",
        "access-log-format",
    ):
        assert f"--{option}" in said
    assert "tcp:8080:interface=127.0.0.1" in said
    assert max(map(len, said.splitlines())) <= 100


def test_the_version_is_told(tmp_path):
    said, code = ran(tmp_path, "--version")
    assert (said, code) == (f"cometd-lite {__version__}\n", 0)


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
    program = run(fresh=True)
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
    program.begin_stop(number)
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
    program.begin_stop()
    assert [poll.answer().status for poll in polls] == [200] * len(polls)
    for poll in polls:
        poll.close()
    assert program.process.wait(PATIENCE) == 0


def test_a_second_signal_changes_nothing(run):
    program = run()
    with program.frozen():  # so that both are there before the first has ended it
        program.begin_stop(signal.SIGTERM)
        program.begin_stop(signal.SIGINT)
    assert program.process.wait(PATIENCE) == 0


def test_after_the_end_nothing_listens(run):
    program = run()
    assert program.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        Connection(program.port)


# -- logs, and what SIGHUP does


def test_sighup_reads_the_keys_again(run, tmp_path):
    (tmp_path / "key").write_bytes(b"a secret of at least thirty-two bytes")
    program = run("--key", str(tmp_path / "key"))

    def status(secret):
        token = jwt.encode({"poll": ["bob"]}, secret, "HS256")
        return program.get("/poll/bob?wait=0", Authorization=f"Bearer {token}").status

    other = b"another secret of at least thirty-two bytes"
    assert (status((tmp_path / "key").read_bytes()), status(other)) == (200, 401)
    old = (tmp_path / "key").read_bytes()
    (tmp_path / "key").write_bytes(other)
    program.process.send_signal(signal.SIGHUP)
    eventually(lambda: status(other) == 200, "the new key")
    assert status(old) == 401
    (tmp_path / "key").write_bytes(b"too short")
    program.process.send_signal(signal.SIGHUP)
    eventually(lambda: "The keys stay as they were" in program.log.read_text(), "the refusal of a wrong key")
    assert status(other) == 200


def test_sighup_begins_a_new_access_log_and_no_line_is_lost(run, tmp_path):
    log, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    program = run("--access-log", str(log), "--access-log-format", "json")

    def targets(file):
        return [msgspec.json.decode(line)["target"] for line in file.read_text().splitlines()]

    program.get("/poll/before?wait=0&token=SECRET")
    log.rename(rotated)
    program.get("/poll/between?wait=0")
    program.process.send_signal(signal.SIGHUP)
    eventually(log.exists, "the new log")
    program.get("/poll/after?wait=0")
    eventually(log.read_text, "a line")
    assert targets(rotated) == ["/", "/poll/before?wait=0&token=-", "/poll/between?wait=0"]
    assert targets(log) == ["/poll/after?wait=0"]
    program.park("/poll/parked", "parked").close()
    assert program.stop() == 0
    assert "/poll/parked" in targets(log)


def test_an_access_log_that_cannot_be_written_is_one_sentence_and_a_failure(tmp_path):
    said = refused(tmp_path, "--access-log", str(tmp_path / "no" / "such"))
    assert said.endswith(
        f" cometd-lite: the access log {tmp_path}/no/such cannot be written: No such file or directory.\n"
    )
    assert "Traceback" not in said


def test_begin_end_and_refusals_are_a_line_each(run):
    program = run()
    for _ in range(5):
        program.get("/poll/bob?wait=x")
    eventually(lambda: "bad-parameter" in program.log.read_text(), "the refusal")
    program.park("/poll/bob", "bob")
    assert program.stop() == 0
    log = program.log.read_text()
    for line in ("cometd-lite 0", "Stopping; readers that are parked: 1", "Stopped"):
        assert log.count(line) == 1
    told = sum(int(number) for number in re.findall(r"Refused (\d+): bad-parameter", log))
    assert told == 5


def test_the_process_is_felt(run):
    program = run()

    def counted(name):
        match = re.search(rf"^cometd_lite_{name} (\S+)$", program.get("/metrics").body.decode(), re.MULTILINE)
        return float(match[1])

    eventually(lambda: counted("reactor_lag_seconds_count") > 1, "looks at the reactor")
    assert counted("connections") >= 1
