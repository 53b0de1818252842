"""Schemathesis against the running program: what /openapi.json says is what the program does.

A short run, of some hundred cases with every check. It is one file of settings and one of hooks, so the long
run of more than 20,000 cases, of about a quarter of an hour, is the same by hand::

    twistd -n cometd-lite --max-wait 0.05 --bayeux-timeout 0.1 &
    SCHEMATHESIS_HOOKS=tests/live/schemathesis_hooks.py \\
    schemathesis --config-file tests/live/schemathesis.toml run http://127.0.0.1:8080/openapi.json \\
        --max-examples 360 --no-shrink --request-timeout 5 --exclude-path-regex '^/stream' \\
        --continue-on-failure

and for the streams, each of which is read for a second, with ``--include-path-regex '^/stream'`` and
``--request-timeout 1``, the server with ``--presence``. All checks are what it does unless told otherwise;
``--checks all`` would also switch on those that the settings switch off for some operations.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tools import needs_package

HERE = Path(__file__).parent
SECONDS = 120
"""Many times what it takes: a machine may be busy."""

pytestmark = pytest.mark.slow


@pytest.fixture
def impatient(run):
    """Return the program with waits so short that a case does not take a second."""
    needs_package("schemathesis", "ci")
    return run("--max-wait", "0.05", "--bayeux-timeout", "0.1")


@pytest.fixture
def present(run):
    """Return the program with presence: else a stream of ``$presence/NAME`` is a 404."""
    needs_package("schemathesis", "ci")
    return run("--presence")


def schemathesis(program, *options: str) -> str:
    """Run Schemathesis with every check; return what it said. It must have found nothing."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
        *("run", f"http://127.0.0.1:{program.port}/openapi.json", "--no-color"),
        *("--continue-on-failure", "--seed", "1", *options),
    ]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=program.log.parent,
        env=os.environ | {"SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")},
        timeout=SECONDS,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def cases(said: str) -> int:
    found = re.search(r"(\d+) generated", said)
    assert found is not None, said
    return int(found[1])


def test_the_program_does_what_its_document_says(impatient):
    said = schemathesis(
        impatient,
        *("--phases", "examples,coverage", "--request-timeout", "5", "--exclude-path-regex", "^/stream"),
    )
    assert cases(said) > 500
    assert "Traceback" not in impatient.log.read_text()


def test_streams_begin_as_the_document_says(present):
    said = schemathesis(
        present,
        *("--phases", "fuzzing", "--max-examples", "3", "--request-timeout", "0.3"),
        *("--include-path-regex", "^/stream"),
    )
    assert cases(said) >= 10
