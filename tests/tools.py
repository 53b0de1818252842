"""What tests use besides Python. A test that lacks it is skipped; in CI (``CI=true``) it fails."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

NODE = 20
"""The oldest major version of Node that CometD's client runs on."""
INSTALL_SECONDS = 600


def unavailable(reason: str) -> NoReturn:
    """Skip the test; in CI, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def needs(tool: str, package: str = "") -> str:
    """Return the path of a program that a package of Debian has; without a package, the one of its name."""
    found = shutil.which(tool)
    if found is None:
        unavailable(f"{tool} is missing: apt-get install {package or tool}")
    return found


def needs_chromium() -> str:
    """Return the path of Chromium; ``CHROMIUM`` in the environment names another than the one in PATH."""
    return os.environ.get("CHROMIUM") or needs("chromium")


def needs_node(directory: Path) -> str:
    """Return the path of Node, once the packages that ``package-lock.json`` lists are in the directory."""
    needs("npm")
    node = needs("node", "nodejs")
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < NODE:
        unavailable(f"Node {NODE} or later is needed; this is {version}")
    with _alone(directory):
        if not _is_newer(directory / "node_modules" / ".package-lock.json", directory / "package-lock.json"):
            _run(directory, "npm", "ci", "--silent", "--no-audit", "--no-fund")
    return node


def needs_python(directory: Path) -> str:
    """Return the path of a Python of its own, with the packages that ``requirements.txt`` lists."""
    venv = directory / ".venv"
    python, installed = venv / "bin" / "python", venv / "installed"
    with _alone(directory):
        if not _is_newer(installed, directory / "requirements.txt"):
            _run(directory, sys.executable, "-m", "venv", "--clear", str(venv))
            _run(directory, str(python), "-m", "pip", "install", "-q", "-r", "requirements.txt")
            installed.touch()
    return str(python)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Wait until no other test process installs into the directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_newer(made: Path, source: Path) -> bool:
    return made.exists() and made.stat().st_mtime >= source.stat().st_mtime


def _run(directory: Path, *command: str) -> None:
    subprocess.run(command, cwd=directory, check=True, stdout=sys.stderr, timeout=INSTALL_SECONDS)
