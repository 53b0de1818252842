"""The server as ``twistd cometd-lite`` runs it, and the foreign clients, installed where they are missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from foreign import HERE, Cable, Foreign
from tools import needs, needs_node, needs_package

sys.path.insert(0, str(HERE.parent / "live"))

from program import Program


@pytest.fixture(scope="session", autouse=True)
def clients() -> dict[str, list[str]]:
    """Return the command of each client."""
    needs("curl")
    needs_package("aiocometd")
    node = needs_node(HERE)
    commands = {name: [node, str(HERE / f"{name}_client.mjs")] for name in ("cometd", "eventsource", "faye")}
    return commands | {"aiocometd": [sys.executable, str(HERE / "aiocometd_client.py")]}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Return a function that runs the server with options."""
    programs = []

    def run(*options: str) -> Program:
        programs.append(Program(tmp_path, *options))
        return programs[-1]

    yield run
    for program in programs:
        assert program.stop() == 0
        log = program.log.read_text()
        assert "Traceback" not in log, log


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(
        tmp_path_factory.mktemp("program"), "--bayeux-timeout", "2", "--bayeux-max-interval", "5"
    )
    yield program
    assert program.stop() == 0
    assert "Traceback" not in program.log.read_text()


@pytest.fixture
def foreign(clients: dict[str, list[str]]) -> Iterator[Callable[..., Foreign]]:
    """Return a function that starts a client: its kind, the port of the server, and how it speaks."""
    made: list[Foreign] = []

    def make(kind: str, port: int, transport: str = "", *extensions: str, host: str = "127.0.0.1") -> Foreign:
        url = f"http://{host}:{port}/cometd"
        made.append(Foreign(clients[kind], url, transport, *extensions))
        return made[-1]

    yield make
    for client in made:
        client.end()


@pytest.fixture
def cable() -> Iterator[Callable[[int], Cable]]:
    made: list[Cable] = []

    def make(port: int) -> Cable:
        made.append(Cable(port))
        return made[-1]

    yield make
    for one in made:
        one.close()
