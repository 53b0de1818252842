"""One port for several processes, and one socket for a process and the next one."""

from __future__ import annotations

import socket

import pytest
from program import ON_LOOPBACK, TWISTD, Connection, Program, eventually

ACTIVATED = (
    "import os; os.dup2(LISTEN_FD, 3, inheritable=False); "
    "os.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES='comet', LISTEN_PID=str(os.getpid())); "
)
"""What systemd does before it starts a program (sd_listen_fds(3))."""


def epoch(port):
    """Return the name of the log of whoever answers at a port."""
    connection = Connection(port)
    found = connection.ask("GET", "/poll/nobody?after=now&wait=0").json["cursor"].partition("-")[0]
    connection.close()
    return found


def test_two_processes_share_a_port(tmp_path, run):
    first = run("--reuse-port", "--listen", ON_LOOPBACK)
    second = Program(tmp_path, "--reuse-port", "--listen", f"tcp:{first.port}:interface=127.0.0.1")
    seen = set()
    eventually(lambda: seen.add(epoch(first.port)) or len(seen) == 2, "both have answered")
    assert second.stop() == 0
    assert len({epoch(first.port) for _ in range(20)}) == 1


def activated(directory, listening, *options):
    """Run the program as systemd does, which holds its listening socket."""
    number = listening.fileno()
    code = f"LISTEN_FD = {number}; {ACTIVATED}{TWISTD}"
    words = ("--listen", "systemd:domain=INET:index=0", *options)
    return Program(directory, *words, code=code, pass_fds=(number,), fresh=True)  # Twisted looks but once


def test_two_processes_share_a_socket_of_systemds(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        first, second = [activated(tmp_path, listening) for _ in range(2)]
        seen = set()
        eventually(lambda: seen.add(epoch(first.port)) or len(seen) == 2, "both have answered")
        assert first.stop() == 0
        assert len({epoch(second.port) for _ in range(20)}) == 1
        assert second.stop() == 0


@pytest.mark.parametrize("names", [(), ("--host", "comet.example")])
def test_behind_a_socket_of_systemds_on_loopback_the_host_is_looked_at(tmp_path, names):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        program = activated(tmp_path, listening, *names)
        for host, status in (
            ("localhost", 200),
            ("comet.example", 200 if names else 421),
            ("evil.example", 421),
        ):
            assert program.get("/poll/bob?wait=0", Host=host).status == status
        assert program.stop() == 0


def test_a_restart_with_a_socket_of_systemds_loses_no_connection(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        store = ("--store", "sqlite:comet.db")
        before = activated(tmp_path, listening, *store)
        cursor = before.push("/bob", "1").json["id"]
        assert before.stop() == 0
        port = listening.getsockname()[1]
        waiting = [Connection(port).request("GET", f"/poll/bob?after={cursor}") for _ in range(20)]
        pushing = Connection(port).request("POST", "/push/bob", "2")
        after = activated(tmp_path, listening, *store)
        assert pushing.answer().status in {201, 202}
        assert [poll.answer().data for poll in waiting] == [["2"]] * 20
        for connection in (*waiting, pushing):
            connection.close()
        assert after.stop() == 0
