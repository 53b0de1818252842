"""The README's first command, the quickstart and the how-tos, by the letter, where nothing is installed yet.

``test_live_docs.py`` runs the same blocks with the commands of this checkout.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from fork_server import ROOT
from rules import RULES
from test_live_docs import SECTIONS
from walk import PAGES, SHELL, Section, walked

QUICKSTART = "docs/quickstart.md"
HOW_TOS = ("bell", "chat", "device", "django", "fastapi", "flask", "progress", "worker")
"""A word of the name of each how-to that is followed."""

INSTALL_SECONDS = 600


def clone(directory: Path) -> Path:
    """Copy what a clone of this checkout has."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    return directory


@pytest.mark.slow
def test_a_newcomer_comes_from_a_clone_to_pages_that_work(tmp_path: Path) -> None:
    how_tos = [page for page in PAGES if page.startswith("docs/howto/")]
    pages = [QUICKSTART, *(page for page in how_tos if any(word in page for word in HOW_TOS))]
    assert len(pages) == 1 + len(HOW_TOS)
    sections = [section for section in SECTIONS if section.page in pages]
    first = SECTIONS[Section(QUICKSTART, "Start the server")][0]
    assert first.language == SHELL
    cloned = clone(tmp_path / "clone")
    subprocess.run(["bash", "-c", first.text], cwd=cloned, check=True, timeout=INSTALL_SECONDS)
    for number, section in enumerate(sections):
        directory = tmp_path / str(number)
        directory.mkdir()
        try:
            with contextmanager(walked)(directory, SECTIONS[section], cloned / ".venv") as walk:
                RULES[section](walk)
                assert walk.rest() == []
        except BaseException as error:
            error.add_note(str(section))
            raise
