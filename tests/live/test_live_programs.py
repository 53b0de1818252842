"""The programs in ``embedding/``, run as they say, and talked to by the command's client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chromium import window
from fork_server import ROOT
from program import PATIENCE, TWISTD, Answer, Connection, Program, eventually
from tools import needs, needs_package

PROGRAMS = ROOT / "tests" / "embedding"

Start = Callable[..., int]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that runs a program, and returns the port that it listens on."""
    running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(*words: str) -> int:
        with socket.create_server(("127.0.0.1", 0)) as found:
            port: int = found.getsockname()[1]
        listen = f"tcp:{port}:interface=127.0.0.1"
        log = tmp_path / f"log-{len(running)}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *[word.replace("LISTEN", listen) for word in words]],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(ROOT), "LISTEN": listen},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        running.append((process, log))

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            with suppress(OSError), Connection(port) as connection:
                return connection.ask("GET", "/comet/healthz").status > 0
            return False

        eventually(listens, "an answer")
        return port

    yield start
    for process, log in running:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        assert "Traceback" not in log.read_text()


def ask(port: int, method: str, target: str, body: bytes | str = b"", **headers: str) -> Answer:
    with Connection(port) as connection:
        return connection.ask(method, target, body, **headers)


def unframed(port: int, method: str, target: str, body: bytes = b"") -> bytes:
    """Return all that an answer consists of, however it is framed: it is the last on its connection."""
    with Connection(port) as connection:
        connection.request(method, target, body, Connection="close")
        return b"".join(iter(connection.more, b""))


def park(port: int, name: str) -> Connection:
    connection = Connection(port).request("GET", f"/comet/poll/{name}?after=now")
    eventually(lambda: ask(port, "GET", f"/comet/recipients/{name}").json["waiting"] == 1, "parked")
    return connection


def test_a_site(start: Start) -> None:
    port = start(str(PROGRAMS / "in_a_site.py"), "LISTEN")
    assert b'from "/comet/client.js"' in ask(port, "GET", "/").body
    with park(port, "news") as poll:
        assert ask(port, "POST", "/comet/push/news", "hello").status == 201
        assert poll.answer().data == ["hello"]


def test_a_klein_application(start: Start) -> None:
    port = start(str(PROGRAMS / "in_klein.py"), "LISTEN")
    with park(port, "orders/7") as poll:
        assert b"1 got it at once\n" in unframed(port, "POST", "/orders/7/paid")
        assert poll.answer().data == [{"state": "paid"}]


def test_a_service(start: Start) -> None:
    port = start("-c", TWISTD, "-noy", str(PROGRAMS / "under_a_service.py"), "--pidfile=")
    assert ask(port, "GET", "/poll/ticks?after=oldest").data[0] == 0


def test_beside_flask(start: Start) -> None:
    needs_package("flask")
    port = start(str(PROGRAMS / "beside_flask.py"), "LISTEN")
    with park(port, "chat/lobby") as poll:
        assert b"1 got it at once\n" in unframed(port, "POST", "/say/lobby", b"hello")
        assert poll.answer().data == ["hello"]


def test_beside_django(start: Start) -> None:
    needs_package("django")
    port = start(str(PROGRAMS / "beside_django.py"), "LISTEN")
    with window() as browser:
        page = browser.open(f"http://127.0.0.1:{port}/jobs/six")
        page.until("document.title === 'Job' && bar.value === 100")
    assert b'<progress id="bar"' in unframed(port, "GET", "/jobs/seven")

    def done() -> Any:
        messages = ask(port, "GET", "/comet/poll/jobs/seven?after=oldest").data
        return [message["done"] for message in messages] == list(range(10, 101, 10))

    eventually(done, "the whole job")


def test_a_bot(program: Program, tmp_path: Path) -> None:
    place = tmp_path / "place"
    bot = subprocess.Popen(
        [sys.executable, str(PROGRAMS / "chat_bot.py"), f"http://localhost:{program.port}", str(place)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        eventually(place.exists, "the bot's place")
        program.push("/chat/lobby", '{"from": "ann", "text": "hello"}', Content_Type="application/json")

        def answers() -> list[Any]:
            said = program.get("/poll/chat/lobby?after=oldest").data
            return [message for message in said if message["from"] == "bot"]

        assert eventually(answers, "an answer") == [{"from": "bot", "text": "hello, ann!"}]
    finally:
        bot.terminate()
        bot.wait(PATIENCE)


def test_a_script_that_waits_for_a_build(program: Program, tmp_path: Path) -> None:
    needs("jq")
    command = tmp_path / "cometd-lite"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cometd_lite "$@"\n')
    command.chmod(0o755)
    program.push("/builds/7", "compiling")
    with subprocess.Popen(
        [str(PROGRAMS / "wait_for_build.sh"), "7"],
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        | {"COMETD_LITE_URL": f"http://localhost:{program.port}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as script:
        eventually(lambda: program.waiting("builds/7") == 1, "the script waits")
        program.push("/builds/7", "testing")
        program.push("/builds/7", '{"done":true,"status":2,"took":"3m"}', Content_Type="application/json")
        said, progress = script.communicate(timeout=PATIENCE)
    assert said == "build 7 took 3m\n"
    assert progress == "build 7: compiling\nbuild 7: testing\n"
    assert script.returncode == 2, "as the build ended"
