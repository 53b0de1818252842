"""The foreign clients, installed where they are missing, and the program that they follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "live"))

from program import Program
from tools import needs_node, needs_python

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("program"), "--capacity", "100000")
    yield program
    assert program.stop() == 0
    log = program.log.read_text()
    assert "Traceback" not in log, log
    assert "Unhandled" not in log, log


@pytest.fixture(scope="session")
def eventsource() -> list[str]:
    """Return the command of the client by the npm package ``eventsource``."""
    return [needs_node(HERE), str(HERE / "eventsource_client.mjs")]


@pytest.fixture(scope="session")
def websockets() -> list[str]:
    """Return the command of the client by the package ``websockets``."""
    return [needs_python(HERE), str(HERE / "websockets_client.py")]
