"""The page of troubles quotes the product: a sentence that nothing says any more is of no help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
QUOTED = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)


def said() -> str:
    """Return the product's code with strings that stand beside each other joined."""
    code = "\n".join(path.read_text() for path in sorted((ROOT / "cometd_lite").rglob("*.py")))
    code += "".join(path.read_text() for path in sorted((ROOT / "cometd_lite").rglob("*.lua")))
    return re.sub(r"\"\s*\n\s*f?\"", "", code)


SAID = said()


def test_the_page_quotes_sentences() -> None:
    assert len(QUOTED) == PAGE.count("\n### ") >= 25


@pytest.mark.parametrize("sentence", QUOTED)
def test_a_quoted_sentence_is_one_that_the_product_says(sentence: str) -> None:
    parts = [part.strip() for part in sentence.split("…") if part.strip(" .;:")]
    assert parts
    for part in parts:
        assert part in SAID, part
