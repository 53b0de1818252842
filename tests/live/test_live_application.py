"""HTTP.md, "Your application's word", over sockets: the application is slow, down, wrong, lying or huge."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from misbehaving import BEHAVIOURS, Application, application
from program import Program, Run, ran

from cometd_lite.limits import APPLICATION_SECONDS

SLOW = {"silent", "short and open"}
REFUSED = {"no": 403}
ALLOWED = {"ok", "once"}


@pytest.fixture
def asked() -> Iterator[Application]:
    with application() as made:
        yield made


@pytest.fixture
def asking(asked: Application, run: Run) -> Program:
    """Return a server that asks the application about every request."""
    return run("--authorize-url", asked.url)


def status(program: Program, behaviour: str) -> int:
    """Push as a client whose cookie tells the application how to behave."""
    return program.ask("POST", "/push/bob", "hi", Cookie=behaviour).status


def test_it_lets_in_what_the_application_allows(asking: Program, asked: Application) -> None:
    assert [status(asking, "ok") for _ in range(3)] == [202] * 3
    assert asking.get("/poll/bob?wait=0", Cookie="ok").data == ["hi"] * 3
    assert [(question["action"], question["recipients"]) for question in asked.asked] == [
        ("push", ["bob"]),
        ("poll", ["bob"]),
    ]
    assert asked.asked[0]["address"] == "127.0.0.1"
    assert all(head.startswith(b"POST /may?key=1 HTTP/1.1\r\n") for head in asked.heads)
    assert not any(b"cookie:" in head.lower() for head in asked.heads), "what it set for one is no other's"


@pytest.mark.parametrize("behaviour", sorted(BEHAVIOURS.keys() - SLOW - ALLOWED))
def test_it_lets_nothing_in_that_the_application_does_not_allow(
    asking: Program, asked: Application, behaviour: str
) -> None:
    began = time.monotonic()
    answer = asking.ask("POST", "/push/bob", "hi", Cookie=behaviour)
    assert answer.status == REFUSED.get(behaviour, 503)
    assert time.monotonic() - began < APPLICATION_SECONDS
    assert asking.get("/poll/bob?wait=0&after=oldest", Cookie="ok").data == []
    assert asking.resident() < 200 * 1024 * 1024


def test_an_application_that_ends_each_connection_is_asked_on_another(
    asking: Program, asked: Application
) -> None:
    assert [status(asking, "once") for _ in range(5)] == [202] * 5
    assert len(asked.asked) == 5


def test_an_application_that_is_down_lets_nothing_in_and_is_asked_again(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = run("--authorize-url", f"http://127.0.0.1:{port}/may?key=secret")
    answer = program.ask("POST", "/push/bob", "hi")
    assert (answer.status, answer.json["type"]) == (503, "urn:cometd-lite:problem:application-down")
    assert "retry-after" in answer.headers
    log = program.log.read_text()
    assert f"The application at http://127.0.0.1:{port}/may did not decide" in log
    assert "The connection was refused" in log.replace("the connection", "The connection")
    assert "secret" not in log


@pytest.mark.slow
def test_an_application_that_is_slow_is_waited_for_in_bounds_and_holds_up_no_others(
    asking: Program, asked: Application
) -> None:
    assert status(asking, "ok") == 202
    began = time.monotonic()
    waiting = [
        asking.connect().request("POST", "/push/bob", "hi", Cookie=behaviour) for behaviour in sorted(SLOW)
    ]
    for _ in range(100):
        assert status(asking, "ok") == 202
    assert time.monotonic() - began < APPLICATION_SECONDS
    assert [connection.answer().status for connection in waiting] == [503, 503]
    assert APPLICATION_SECONDS - 0.5 < time.monotonic() - began < APPLICATION_SECONDS + 2


@pytest.mark.parametrize(
    "url",
    ["app.example/may", "ftp://app.example", "http://", "http://me:pw@app.example", "http://app.example:x/"],
)
def test_a_url_to_which_nothing_can_be_posted_is_refused_at_the_start(tmp_path, url: str) -> None:
    said, code = ran(tmp_path, "--authorize-url", url)
    assert code > 0
    assert said.startswith(f"cometd-lite: --authorize-url {url}: it takes the URL of an application")
    assert said.count("\n") == 1
