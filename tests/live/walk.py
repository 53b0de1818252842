"""The documentation as walks: the code blocks of a section in order, each block run as a reader would run it.

The pages are the README and everything in ``docs/``. A walk has a directory, in which the commands that the
README installs are found, and ports of its own: where a block says 8080, a free port stands in its place, the
same for the whole section.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fork_server import ROOT, forking_script
from markdown_it import MarkdownIt
from program import COMETD_LITE, PATIENCE, TWISTD, eventually

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
"""The text of each page, by its path in the repository."""

SHELL = "sh"
"""The language of a block of commands; an indented block is one."""

DIRECTIVES = {"{toctree}", "{eval-rst}"}
"""What stands in a fence and is no code block: Sphinx makes the page of it, and fails where it cannot."""

LISTEN = "tcp:8080:interface=127.0.0.1"
"""Where a server listens unless it is told: on another port here."""

TWISTD_COMMAND = ".venv/bin/twistd -n --pidfile= cometd-lite"
"""The command that serves, as the pages have it."""

_PORT = re.compile(r"(?<=[:= ])(80\d\d)\b")
_FORKED = {"cometd-lite": COMETD_LITE, "twistd": TWISTD}
_OTHERS = {"gunicorn": "-m gunicorn", "python": "", "uvicorn": "-m uvicorn"}
"""What ``pip install`` puts into ``.venv/bin``: what a fork runs, and words of Python."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Section:
    """What lies under one heading of a page."""

    page: str
    heading: str

    def __str__(self) -> str:
        return f"{self.page}: {self.heading}"


def sections(page: str, text: str) -> dict[Section, list[Block]]:
    """Return the code blocks under each heading of a page that has some, in order."""
    found: dict[Section, list[Block]] = {}
    heading = ""
    tokens = MarkdownIt().parse(text)
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            heading = token.content
        elif token.type in {"fence", "code_block"}:
            assert token.map is not None
            language = SHELL if token.type == "code_block" else token.info.strip()
            if language not in DIRECTIVES:
                block = Block(language, token.content, token.map[0] + 1)
                found.setdefault(Section(page, heading), []).append(block)
    return found


class Running:
    """What a block has started and what does not end by itself; ``said`` is what it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self.output = output

    @property
    def said(self) -> str:
        return self.output.read_text()

    def says(self, text: str) -> None:
        """Wait until it has printed the text."""

        def holds() -> bool:
            assert text in self.said or self.process.poll() is None, self.said
            return text in self.said

        eventually(holds, f"{text!r}; it said {self.said!r}")

    def stop(self) -> None:
        """End it, and all that it has started; it must not have failed. What has ended already stays so."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise
        assert "Traceback" not in self.said, self.said


class Walk:
    """One section's blocks, to be run one after the other.

    ``installed`` is a virtual environment with the package, as the README's first command makes it. Without
    one the commands that it would have run this checkout, and nothing is to be installed. It is on the PATH
    where it is ``activated``; elsewhere the blocks name it.
    """

    def __init__(
        self,
        directory: Path,
        blocks: Sequence[Block],
        installed: Path | None = None,
        *,
        activated: bool = False,
    ) -> None:
        self.directory = directory
        self.installed = installed
        self.blocks = iter(blocks)
        self.ports: dict[str, int] = {}
        self.running: list[Running] = []
        self.environment = os.environ | {
            "COMETD_LITE_URL": f"http://localhost:{self.port('8080')}",
        }
        if activated:
            self.environment["PATH"] = f"{directory}/.venv/bin:{os.environ['PATH']}"
        if installed is not None:
            self.environment.pop("PYTHONPATH", None)
            (directory / ".venv").symlink_to(installed)
            return
        self.environment["PYTHONPATH"] = str(ROOT)
        scripts = {name: forking_script(code) for name, code in _FORKED.items()}
        for name, words in _OTHERS.items():
            scripts[name] = f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n'
        commands = directory / ".venv" / "bin"
        commands.mkdir(parents=True)
        for name, text in scripts.items():
            command = commands / name
            command.write_text(text)
            command.chmod(0o755)

    def port(self, written: str) -> int:
        """Return the port that stands in the place of the one that is written."""
        if written not in self.ports:
            with socket.create_server(("127.0.0.1", 0)) as found:
                self.ports[written] = found.getsockname()[1]
        return self.ports[written]

    def next(self, language: str) -> str:
        """Return the text of the next block, which must be in the language."""
        block = next(self.blocks)
        assert block.language == language, f"line {block.line} is {block.language}, not {language}"
        return self.here(block.text)

    def here(self, text: str) -> str:
        """Return a text with this walk's ports."""
        return _PORT.sub(lambda match: str(self.port(match[1])), text)

    def rest(self) -> list[Block]:
        """Return the blocks that nobody has run."""
        return list(self.blocks)

    # -- shells

    def shell(self, *shows: str, status: int = 0) -> str:
        """Run the next block to its end; it must show the texts, in that order. Return all that it shows."""
        return self.run(self.next(SHELL), *shows, status=status)

    def run(self, script: str, *shows: str, status: int = 0) -> str:
        """Run a script as ``shell`` runs a block."""
        done = subprocess.run(
            ["bash", "-uo", "pipefail", "-c", self.here(script)],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=2 * PATIENCE,
            check=False,
        )
        said = done.stdout.decode()
        assert done.returncode == status, said
        in_order(said, shows)
        return said

    def serve(self, script: str | None = None, *, port: str = "8080") -> Running:
        """Start the next block, which serves on the port until the section's end."""
        running = self.start(self.next(SHELL) if script is None else script)

        def listens() -> bool:
            assert running.process.poll() is None, running.said
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port(port))):
                return True
            return False

        eventually(listens, f"somebody at {port}")
        return running

    def start(self, script: str | None = None) -> Running:
        """Start the next block, which does not end by itself."""
        script = self.next(SHELL) if script is None else script
        output = self.directory / f"output-{len(self.running)}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-uo", "pipefail", "-c", self.here(script)],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(Running(process, output))
        return self.running[-1]

    def server(self, options: str = "") -> Running:
        """Start the server as the README does, with more options."""
        return self.serve(f"exec {TWISTD_COMMAND} --listen {LISTEN} {options}")

    # -- Python and other files

    def python(self, *shows: str, name: str = "program.py") -> str:
        """Run the next block as a program to its end."""
        self.write(name, self.next("python"))
        return self.run(f".venv/bin/python {name}", *shows)

    def program_that_serves(self, name: str, port: str = "8000") -> Running:
        """Start the next block as a program, which serves on the port."""
        self.write(name, self.next("python"))
        return self.serve(f"exec .venv/bin/python {name}", port=port)

    def write(self, name: str, text: str) -> Path:
        """Write a file into the directory."""
        path = self.directory / name
        path.write_text(text)
        return path

    def stop(self) -> None:
        """End whatever is still running, the last one first; none of it must have failed."""
        with ExitStack() as ends:
            for running in self.running:
                ends.callback(running.stop)


def in_order(said: str, shows: Sequence[str]) -> None:
    """Assert that the texts are in what was said, one after the other."""
    rest = said
    for text in shows:
        assert text in rest, f"{text!r} is not, or not there, in:\n{said}"
        rest = rest.partition(text)[2]


def walked(
    directory: Path, blocks: Sequence[Block], installed: Path | None = None, *, activated: bool = False
) -> Iterator[Walk]:
    """Yield a walk, and end what it has started."""
    walk = Walk(directory, blocks, installed, activated=activated)
    try:
        yield walk
    finally:
        walk.stop()
