"""The foreign clients, installed where they are missing, and the program that they follow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "live"))

from program import Program

HERE = Path(__file__).parent
IN_CI = os.environ.get("CI") == "true"


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
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing and IN_CI:
        pytest.fail(f"{' and '.join(missing)} missing, and this is CI: apt-get install nodejs npm")
    if missing:
        pytest.skip(f"{' and '.join(missing)} missing: apt-get install nodejs npm")
    installed = HERE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (HERE / "package-lock.json").stat().st_mtime:
        _run("npm", "ci", "--silent", "--no-audit", "--no-fund")
    return ["node", str(HERE / "eventsource_client.mjs")]


@pytest.fixture(scope="session")
def websockets() -> list[str]:
    """Return the command of the client by the package ``websockets``."""
    return [sys.executable, str(HERE / "websockets_client.py")]


def _run(*command: str) -> None:
    subprocess.run(command, cwd=HERE, check=True, stdout=sys.stderr, timeout=600)
