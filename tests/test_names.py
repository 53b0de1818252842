from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cometd_lite.core.recipient import covering
from cometd_lite.stores.names import SortedNames

LISTENER = "~" + "0a" * 20
SEGMENTS = ("a", "b", "a-", "a0", "~", "ä", "\U0001f600")
names_of_mailboxes = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map("/".join)
PATTERNS = ("*", "**", "a/*", "a/**", "a/a/*", "a/a/**", "a-/**", "\U0001f600/*", "b/b/b/**")


def sorted_names(*names: str) -> SortedNames:
    made = SortedNames()
    for name in names:
        made.add(name)
    return made


@given(st.sets(names_of_mailboxes, max_size=60), st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3))
def test_the_names_that_patterns_cover_are_found(names: set[str], patterns: list[str]) -> None:
    hidden = {"$listeners", "$bayeux/x", LISTENER}
    made = sorted_names(*names, *hidden)
    made.check_invariants()
    expected = {name for name in names if not set(covering(name)[1:]).isdisjoint(patterns)}
    assert made.covered(patterns, 1_000) == expected
    assert made.covered([*patterns, LISTENER], 1_000) == expected | {LISTENER}


def test_no_more_names_are_looked_at_than_is_said() -> None:
    made = sorted_names(*[f"a/{number}" for number in range(100)])
    assert made.covered(("a/*",), 99) is None
    assert len(made.covered(("a/*",), 100) or ()) == 100
    assert made.covered(("b/*", "aa/**"), 0) == set()


def test_what_lies_below_a_child_is_skipped() -> None:
    made = sorted_names(*[f"a/b/{number}" for number in range(5_000)], "a/c")
    assert made.covered(("a/*",), 2) == {"a/c"}
    assert made.covered(("a/b/*",), 2) is None


def test_names_come_and_go_in_any_order() -> None:
    random = Random(1)
    names = [f"{number:05}" for number in range(5_000)]
    random.shuffle(names)
    made = sorted_names(*names)
    made.check_invariants()
    random.shuffle(names)
    for name in names[:4_000]:
        made.remove(name)
    made.check_invariants()
    assert list(made) == sorted(names[4_000:])
    for name in names[4_000:]:
        made.remove(name)
    assert list(made) == []
    made.add("again")
    assert list(made) == ["again"]
