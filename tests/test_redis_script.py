"""The scripts of the verbs: each has what it uses of ``script.lua``; what is rare is made at its call."""

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
    assert "local CAPACITY = 123" in MADE["append"].splitlines()
    assert "CAPACITY" not in MADE["acknowledge"]


def test_what_is_rare_is_made_where_it_is_called() -> None:
    common, _, rare = MADE["append"].partition("function rare()")
    assert "box_of" in functions(common)
    assert "rare().expire(box)" in common
    assert {"expire", "drop", "remove"} <= functions(rare)
    assert "drop" not in functions(common)
