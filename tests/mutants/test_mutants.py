"""What is changed in a module, what of it is chosen, and that equivalents name mutants that there are."""

from __future__ import annotations

import json
from pathlib import Path

import mutate
import pytest

SOURCE = '''
"""A module."""

LIMIT = 5

def f(a, b=1):
    """A docstring."""
    assert a is not None
    if a < b and not LIMIT:
        self.log.info("not changed", a=3)
        return a + 1
    for one in a[1:]:
        one.call()
    raise ValueError("a sentence")
'''

CHANGES = [
    "1 -> 2",
    "a < b and not LIMIT -> True",
    "a < b and not LIMIT -> False",
    "a < b and not LIMIT -> (a < b or not LIMIT)",
    "a < b and not LIMIT -> (not LIMIT)",
    "a < b and not LIMIT -> (a < b)",
    "a < b -> (a <= b)",
    "not LIMIT -> (LIMIT)",
    "return a + 1 -> return None",
    "a + 1 -> (a - 1)",
    "1 -> 2",
    "a[1:] -> (a[:])",
    "1 -> 2",
    "one.call() -> pass",
    'raise ValueError("a sentence") -> pass',
]


def test_what_may_be_changed_is_found_and_what_says_nothing_is_left_alone() -> None:
    found = mutate.Mutator("core/f.py", SOURCE).found
    assert [f"{mutant.before} -> {mutant.after}" for mutant in found] == CHANGES
    assert {mutant.function for mutant in found} == {"", "f"}
    for mutant in found:
        changed = mutant.source(SOURCE.encode()).decode()
        assert changed != SOURCE
        assert mutant.after in changed


def test_a_change_elsewhere_keeps_the_choice(tmp_path: Path) -> None:
    (tmp_path / mutate.PACKAGE).mkdir()

    def some(source: str) -> list[str]:
        (tmp_path / mutate.PACKAGE / "f.py").write_text(source)
        return [one.name for one in mutate.chosen(mutate.Mutator("f.py", source).found, 1, 5, tmp_path)]

    assert len(set(some(SOURCE))) == 5
    assert some(SOURCE) == some(SOURCE.replace("LIMIT = 5", "LIMIT = 7\nOTHER = 8\n"))


def test_each_equivalent_names_a_mutant_there_is_and_gives_its_reason() -> None:
    names = {mutant.name for mutant in mutate.mutants(mutate.ROOT)}
    reasons = mutate.equivalents()
    assert set(reasons) <= names
    assert all(len(reason) > 20 for reason in reasons.values())


@pytest.mark.slow
def test_a_few_mutants_are_made_and_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = tmp_path / "notes.json"
    words = ["--count", "5", "--module", "core/mailbox.py", "--quick", "--notes", str(notes)]
    assert mutate.main([*words, "--at-least", "80", "--tests", "tests/test_mailbox.py"]) == 0
    said = capsys.readouterr().out
    assert "5 of " in said
    assert "killed" in said
    assert len(json.loads(notes.read_text())) > 20
