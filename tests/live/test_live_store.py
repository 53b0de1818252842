"""The program with its mailboxes in SQLite: stopped, killed, without room, and with files it cannot open."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from fork_server import ROOT
from helpers import Inline
from program import ON_LOOPBACK, PATIENCE, TWISTD, Program, eventually, ran
from tools import unavailable

from cometd_lite.stores.sqlite import SQLiteStore

STORE = ("--store", "sqlite:comet.db")


@pytest.fixture
def kept(run):
    """Return a function that runs the program on the test's file."""
    return lambda *options: run(*STORE, *options)


def kill(program):
    """Kill the program, and check the invariants of what it has left in its file."""
    program.process.kill()
    program.process.wait(PATIENCE)
    copy = program.log.parent / "copy.db"
    for suffix in ("", "-wal"):
        if (left := program.log.parent / f"comet.db{suffix}").exists():
            shutil.copy(left, f"{copy}{suffix}")
    store = SQLiteStore(copy, worker=Inline())
    store.open(0.0)
    store.check_invariants()
    store.close()


def refusal(directory, *options):
    """Return the one sentence with which the program ends, having failed."""
    said, code = ran(directory, *options)
    assert code > 0
    assert "Traceback" not in said
    return said.splitlines()[-1]


# -- what outlives the process


@pytest.mark.parametrize("sync", ["full", "normal"])
def test_what_was_confirmed_is_there_after_the_process_was_killed(tmp_path, kept, sync):
    before = Program(tmp_path, *STORE, "--sync", sync)
    pushed = [before.push("/bob", f"{number}").json["id"] for number in range(5)]
    kill(before)
    after = kept("--sync", sync)
    found = after.get(f"/poll/bob?after={pushed[1]}").json
    assert [message["data"] for message in found["messages"]] == ["2", "3", "4"]
    assert [message["id"] for message in found["messages"]] == pushed[2:]
    assert found["gap"] is False
    assert after.push("/bob").json["id"] > pushed[-1]


def test_what_was_taken_and_who_listens_is_there_after_a_stop(tmp_path, kept):
    before = Program(tmp_path, *STORE)
    before.push("/bob", "1")
    before.push("/bob", "2")
    assert before.get("/poll/bob?limit=1").data == ["1"]
    registered = before.ask("POST", "/register", b'{"recipients":["bob"]}').json
    keyed = before.push("/bob", "3", Idempotency_Key="k").json
    assert before.stop() == 0
    after = kept()
    assert after.get("/poll/bob").data == ["2", "3"]
    assert after.get(f"/poll?listener={registered['id']}").data == ["3"]
    assert after.push("/bob", "3", Idempotency_Key="k").json == keyed


def test_a_parked_poll_is_woken_after_the_commit(kept):
    program = kept()
    parked = program.park("/poll/bob", "bob")
    assert program.push("/bob").status == 201
    assert parked.answer().data == ["hello"]


# -- a disk without room


def test_a_full_disk_refuses_pushes_until_there_is_room(tmp_path, kept):
    program = kept()
    program.push("/bob", "before")
    files = [tmp_path / "comet.db", tmp_path / "comet.db-wal"]
    size = max(file.stat().st_size for file in files)
    pid = program.process.pid
    # A limit on the size of files is a disk that has no more room, and one that can be lifted.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    refused = program.ask("POST", "/push/bob", "x" * 20_000)
    assert refused.status == 503
    assert refused.json["type"] == "urn:cometd-lite:problem:store-down"
    assert int(refused.headers["retry-after"]) >= 1
    assert program.get("/poll/bob?after=oldest").data == ["before"]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    program.push("/bob", "after")
    assert program.get("/poll/bob?after=oldest").data == ["before", "after"]
    log = program.log.read_text()
    assert log.count("cannot be written") == log.count("can be written again") == 1
    kill(program)
    again = Program(tmp_path, *STORE)
    assert again.get("/poll/bob?after=oldest").data == ["before", "after"]
    assert again.stop() == 0
    program.process.returncode = 0  # it was killed here, and not by a fault


@pytest.fixture
def disk(tmp_path):
    """Return a directory that is a disk of its own, of 100 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    tmpfs = ["mount", "-t", "tmpfs", "-o", f"size=100m,mode=777,uid={os.getuid()}", "tmpfs", str(disk)]
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if as_root and shutil.which("sudo") is None:
        unavailable("only root can mount a disk")
    mounted = subprocess.run([*as_root, *tmpfs], capture_output=True, check=False)
    if mounted.returncode != 0:
        unavailable("a disk cannot be mounted here")
    yield disk
    subprocess.run([*as_root, "umount", "--lazy", str(disk)], check=True)


ON_DISK = ("--store", "sqlite:disk/comet.db", "--ttl", "7d")


def fill(program):
    """Push to 100 mailboxes in turn until the server refuses; return how many pushes it took."""
    body = "x" * 60_000
    for number in range(2_000):
        answer = program.ask("POST", f"/push/box{number % 100}", body)
        if answer.status == 503:
            assert answer.json["type"] == "urn:cometd-lite:problem:store-down"
            return number
        assert answer.status == 202
    raise AssertionError("the disk is not full")


def test_what_was_deleted_makes_room_on_a_full_disk(tmp_path, disk, run):
    program = run(*ON_DISK)
    filled = fill(program)
    assert filled > 200
    assert program.get("/healthz").json["store"] == "down"
    for number in range(60):
        assert program.ask("DELETE", f"/recipients/box{number}").status == 204
    assert fill(program) > filled // 2
    assert len(program.get("/poll/box99?after=oldest&wait=0").data) >= filled // 100
    for _ in range(2):
        assert program.stop() == 0
        program = run(*ON_DISK)
        assert len(program.get("/poll/box99?after=oldest&wait=0").data) >= filled // 100


def test_a_server_starts_on_a_disk_without_any_room(tmp_path, disk, run):
    program = run(*ON_DISK)
    for number in range(20):
        program.push("/bob", f"{number}")
    program.process.kill()
    program.process.wait(PATIENCE)
    program.process.returncode = 0  # it was killed here, and not by a fault
    with (disk / "others").open("wb", buffering=0) as others, suppress(OSError):
        while True:
            others.write(bytes(4096))
    for _ in range(3):
        program = run(*ON_DISK)
        assert program.ask("POST", "/push/bob", "x").status == 503
        assert len(program.get("/poll/bob?after=oldest&wait=0").data) == 20
        assert program.stop() == 0
    (disk / "others").unlink()
    program = run(*ON_DISK)
    program.push("/bob", "20")
    assert program.get("/poll/bob").data == [f"{number}" for number in range(21)]


def test_pushes_are_refused_once_the_file_was_deleted(tmp_path, kept):
    program = kept()
    program.push("/bob", "before")
    (tmp_path / "comet.db").rename(tmp_path / "aside.db")
    assert program.ask("POST", "/push/bob", "lost").status == 503
    assert program.ask("DELETE", "/recipients/bob").status == 503
    assert program.get("/poll/bob?after=oldest").data == ["before"]
    assert "deleted or replaced" in program.log.read_text()
    (tmp_path / "aside.db").rename(tmp_path / "comet.db")
    program.push("/bob", "after")
    assert program.get("/poll/bob?after=oldest").data == ["before", "after"]


# -- files that cannot be opened


def test_a_file_in_use_is_one_sentence_and_a_failure(tmp_path, kept):
    kept()
    assert refusal(tmp_path, *STORE).endswith(
        f"cometd-lite: The store {tmp_path}/comet.db is in use by another process."
    )


def test_a_file_of_a_newer_version_is_one_sentence_and_a_failure(tmp_path):
    assert Program(tmp_path, *STORE).stop() == 0
    connection = sqlite3.connect(tmp_path / "comet.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "was written by a newer cometd-lite: it has version 99" in refusal(tmp_path, *STORE)


def test_a_damaged_file_is_one_sentence_and_a_failure(tmp_path):
    (tmp_path / "comet.db").write_bytes(b"\0" * 8192)
    assert "is no database, or a damaged one" in refusal(tmp_path, *STORE)


def test_a_daemon_that_cannot_begin_says_so_to_its_shell(tmp_path):
    # SystemExit in twistd's child left its parent waiting for ever.
    (tmp_path / "comet.db").write_bytes(b"\0" * 8192)
    words = [sys.executable, "-c", TWISTD, "--logfile=log", "--pidfile=pid", "cometd-lite", *STORE]
    shell = subprocess.run(
        [*words, "--listen", ON_LOOPBACK],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert shell.returncode == 1
    assert b"The store" in shell.stdout + shell.stderr
    # The shell is told first, and the log then.
    eventually(lambda: "is no database, or a damaged one" in (tmp_path / "log").read_text())


@pytest.mark.parametrize("store", ["sqlite", "sqlite:", "postgres:x", "Memory"])
def test_a_store_that_is_not_known_is_one_sentence_and_a_failure(tmp_path, store):
    assert refusal(tmp_path, "--store", store).startswith(f"cometd-lite: --store {store}: it takes memory, ")


# -- stopping


def test_it_ends_in_its_time_though_a_client_does_not_leave(run):
    program = run("--drain", "1")
    staying = program.connect().send(
        "POST /push/bob HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"
    )
    streaming = program.connect().request("GET", "/stream/bob")
    eventually(lambda: program.waiting("bob") == 1)
    began = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - began < 3
    staying.close()
    streaming.close()


def test_it_says_that_it_stops_while_it_does(run):
    program = run()
    connection = program.connect()
    assert connection.ask("GET", "/healthz").status == 200
    parked = program.park("/poll/bob", "bob")
    program.begin_stop()
    assert parked.answer().json["messages"] == []
    answer = connection.ask("GET", "/healthz")
    assert (answer.status, answer.json["status"]) == (503, "stopping")


def test_who_is_between_two_polls_when_it_stops_is_told_the_rest(run):
    program = run()
    reader = program.connect()
    cursor = reader.ask("GET", "/poll/bob?after=now&wait=0").json["cursor"]
    program.push("/bob", "queued")
    waiting = program.park("/poll/eve", "eve")
    program.begin_stop()
    assert waiting.answer().status == 200
    answer = reader.ask("GET", f"/poll/bob?after={cursor}")
    assert answer.data == ["queued"]
    assert answer.headers["connection"] == "close"
