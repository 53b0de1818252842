"""The scripts of the verbs: each has what it uses of ``lua/``; what is rare is made at its call."""

from __future__ import annotations

import re

from cometd_lite.limits import Limits
from cometd_lite.stores.redis.script import scripts

MADE = scripts(Limits(capacity=123))


def functions(text: str) -> set[str]:
    return set(re.findall(r"^local function (\w+)", text, re.MULTILINE))


def test_each_verb_has_what_it_uses_and_no_more() -> None:
    assert {"append", "read", "acknowledge", "attach"} <= MADE.keys()
    assert "append" in functions(MADE["append"])
    assert "append" not in functions(MADE["read"])
    assert "count_presence" not in functions(MADE["append"])
    assert "merged" not in functions(MADE["forget"])


def test_constants_and_bounds_stand_in_the_place_of_their_names() -> None:
    assert "capacity = 123," in MADE["append"]
    assert not any(re.search(r"\b[A-Z]{3,}_[A-Z]+\b", text) for text in MADE.values())


def test_what_is_rare_is_made_where_it_is_called() -> None:
    common, _, rare = MADE["append"].partition("function rare()")
    assert "box_from" in functions(common)
    assert "rare().box_of(name)" in common
    assert {"expire", "drop", "remove"} <= functions(rare)
    assert "drop" not in functions(common)
