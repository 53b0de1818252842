"""What tests use besides ``.[test]``. A test that lacks it is skipped, and fails in CI (``CI=true``)."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
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


def needs_package(name: str, extra: str = "dev") -> None:
    """Skip the test without a package of Python; where ``REQUIRE_DEV`` is set, fail it."""
    if find_spec(name) is None:
        reason = f"{name} is missing: pip install -e '.[{extra}]'"
        if os.environ.get("REQUIRE_DEV"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


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
    listed, installed = directory / "package-lock.json", directory / "node_modules" / ".package-lock.json"
    with _alone(directory):
        if not installed.exists() or installed.stat().st_mtime < listed.stat().st_mtime:
            command = ("npm", "ci", "--silent", "--no-audit", "--no-fund")
            subprocess.run(command, cwd=directory, check=True, stdout=sys.stderr, timeout=INSTALL_SECONDS)
    return node


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Wait until no other test process installs into the directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
