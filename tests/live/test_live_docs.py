"""Every code block of the README and of ``docs/``, run as a reader would run it, and what it must show.

A section's blocks are run by the function for its heading, one after the other (``rules.py``). A heading with
blocks but no function fails, and so does a block that its function does not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import rules_chat  # noqa: F401  it has rules
import rules_deploy  # noqa: F401  it has rules
import rules_history  # noqa: F401  it has rules
import rules_howto  # noqa: F401  it has rules
import rules_programs  # noqa: F401  it has rules
import rules_queue  # noqa: F401  it has rules
import rules_start  # noqa: F401  it has rules
from rules import RULES
from walk import PAGES, SHELL, Block, Section, Walk, sections, walked

from cometd_lite.service import Options

SECTIONS = {
    section: blocks for page, text in PAGES.items() for section, blocks in sections(page, text).items()
}


ACTIVATED = {f"docs/{name}.md" for name in ("cli", "monitoring", "performance", "scale")}
"""The pages that are read with the virtual environment on the PATH; the others name it."""


@pytest.fixture
def walk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Walk]:
    section = request.param
    yield from walked(tmp_path, SECTIONS[section], activated=section.page in ACTIVATED)


@pytest.mark.parametrize(
    ("walk", "section"),
    [(section, section) for section in SECTIONS],
    indirect=["walk"],
    ids=map(str, SECTIONS),
)
def test_the_blocks_do_what_the_page_says(walk: Walk, section: Section) -> None:
    assert section in RULES, f"nobody runs the blocks of {section}"
    RULES[section](walk)
    assert walk.rest() == [], "a block that nobody runs"


def test_every_rule_is_for_a_section_that_there_is() -> None:
    assert set(RULES) == set(SECTIONS)


def test_a_block_is_found_where_it_is_and_its_language_is_known() -> None:
    text = "# One\n\ntext\n\n    sleep 1\n\n    sleep 2\n\n## Two `x`\n\n```python\npass\n```\n"
    assert sections("a.md", text) == {
        Section("a.md", "One"): [Block(SHELL, "sleep 1\n\nsleep 2\n", 5)],
        Section("a.md", "Two `x`"): [Block("python", "pass\n", 11)],
    }


def test_what_sphinx_makes_of_a_directive_holds_no_block_that_no_test_runs() -> None:
    for text in PAGES.values():
        for directive in re.findall(r"^```\{eval-rst\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            assert re.fullmatch(r"(?:(?:\.\. auto\w+:: [\w.]+|   :[\w-]+:.*)?\n)*", directive), directive
        assert "<pre" not in text


def test_the_readme_is_short() -> None:
    assert PAGES["README.md"].count("\n") <= 150


def test_the_options_in_the_documentation_are_those_that_there_are() -> None:
    named = set(re.findall(r"`--([a-z-]+)`", PAGES["docs/options.md"]))
    there = {option.rstrip("=") for option in Options().longOpt} - {"version", "help"}
    assert named == there
