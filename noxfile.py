"""The tests that start no server, on every Python and with the lowest versions of what they use.

``nox`` runs all of it, on the Pythons that are here, and ``nox -s tests-3.13`` on one of them. What is
behind ``--`` goes to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import nox

PYTHONS = ("3.11", "3.12", "3.13", "3.14")

nox.options.default_venv_backend = "uv|venv"
nox.options.error_on_missing_interpreters = False

if shutil.which("pyenv") and "PYENV_VERSION" not in os.environ:
    # The names that pyenv puts on PATH lead to the versions that are chosen; here that is all of them.
    found = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True).stdout
    os.environ["PYENV_VERSION"] = ":".join(found.split())


def run(session: nox.Session) -> None:
    """Run the tests; those of what only ``.[dev]`` has are skipped."""
    words = session.posargs or ["-m", "not live"]
    session.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, env={"REQUIRE_DEV": ""})


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on one Python."""
    session.install(".[all,test]")
    run(session)


@nox.session(venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows."""
    session.install("--resolution", "lowest-direct", ".[all,test]")
    session.run("uv", "pip", "list", external=True)
    run(session)
