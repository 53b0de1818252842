"""The net under every test: a failure that is logged while it runs, or when what it made goes, fails it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from fork_server import ROOT

TESTS = '''
import pytest
from twisted.internet.defer import Deferred, fail

class Holder:
    """A cycle of references around a Deferred, which only the collector ends."""

    def __init__(self, deferred):
        self.itself = self
        self.deferred = deferred

@pytest.fixture
def holder():
    return Holder(fail(ValueError("in a fixture")))

def test_harmless():
    Holder(Deferred())

def test_plain():
    fail(ValueError("plain"))

def test_cycle():
    Holder(fail(ValueError("in a cycle")))

def test_fixture(holder):
    assert holder.itself is holder

def test_callback():
    Deferred().addCallback(lambda _: 1 / 0).callback(None)

def test_expected(expected_failures):
    expected_failures.append(ValueError)
    Holder(fail(ValueError("in a cycle")))

def test_harmless_again():
    pass
'''


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what became of each of the tests above, run under the same ``conftest.py``."""
    path = tmp_path_factory.mktemp("net") / "test_net.py"
    path.write_text(TESTS)
    words = [sys.executable, "-m", "pytest", "--disable-plugin-autoload"]
    done = subprocess.run(
        [*words, "-p", "conftest", "-p", "no:cacheprovider", "-vv", str(path)],
        cwd=path.parent,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^test_net\.py::(\w+) (\w+)", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return dict(found)  # of a test that passed and whose teardown failed, the latter


@pytest.mark.parametrize("name", ["test_plain", "test_cycle", "test_fixture", "test_callback"])
def test_a_deferred_that_fails_unheard_fails_the_test_that_made_it(
    outcomes: dict[str, str], name: str
) -> None:
    assert outcomes[name] == "ERROR"


@pytest.mark.parametrize("name", ["test_harmless", "test_expected", "test_harmless_again"])
def test_other_tests_pass(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name] == "PASSED"
