"""Rules: how the blocks under each heading of the documentation are run, and what they must show.

``rules_start``, ``rules_chat``, ``rules_howto``, ``rules_history``, ``rules_queue``, ``rules_programs`` and
``rules_deploy`` have a function for each heading with blocks.
"""

from __future__ import annotations

from collections.abc import Callable

from walk import Section, Walk

Rule = Callable[[Walk], None]

RULES: dict[Section, Rule] = {}


def under(page: str, heading: str) -> Callable[[Rule], Rule]:
    """Say that a function runs the blocks under a heading of a page."""

    def note(run: Rule) -> Rule:
        section = Section(page, heading)
        assert section not in RULES, f"two functions run the blocks of {section}"
        RULES[section] = run
        return run

    return note
