"""The running program: one for all tests of the defaults, and fresh ones for those that want another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Program, Run


def check(program: Program) -> None:
    """End a program; it must go well, and must not have logged a failure."""
    program.leave()  # it gives clients that stay the time of --drain
    assert program.stop() == 0
    log = program.log.read_text()
    assert "Traceback" not in log, log
    assert "Unhandled" not in log, log


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Return the program behind an ``ssl:`` endpoint."""
    program = Program(tmp_path_factory.mktemp("secured"), tls=True)
    yield program
    check(program)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("program"))
    yield program
    check(program)


@pytest.fixture
def program(shared: Program) -> Program:
    """Return the program with the defaults; tests share it, and each uses names of its own."""
    assert shared.process.poll() is None, "an earlier test has ended it"
    return shared


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs the program with other options."""
    programs = []

    def run(*options: str, **started: object) -> Program:
        programs.append(Program(tmp_path, *options, **started))
        return programs[-1]

    yield run
    for program in programs:
        check(program)
