"""How near two names are: it distinguishes a mistyped parameter from an unknown one."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a name was probably meant to be; None where none is near."""
    near = [(_distance(name, right), right) for right in known if _is_near(name, right)]
    return min(near)[1] if near else None


def _is_near(name: str, known: str) -> bool:
    """Return whether a name is one letter away from a known one, or two where that has more than three."""
    most = 1 if len(known) < 4 else 2
    return abs(len(name) - len(known)) <= most and _distance(name, known) <= most


def _distance(one: str, other: str) -> int:
    """Return how many letters are to be added, left out, changed or swapped with the next, in any case."""
    one, other = one.lower(), other.lower()
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, right in enumerate(other, 1):
            steps = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != right))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == right:
                steps = min(steps, before[j - 2] + 1)
            row.append(steps)
        before, last = last, row
    return last[-1]
