"""The names of mailboxes in Redis, for listings: found by going through all of them, in steps.

An index by names would take memory of each mailbox, and a listing is seldom asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from heapq import nsmallest
from typing import Any

from twisted.internet.defer import Deferred

from ...core.store import Shows
from ...deferreds import MaybeDeferred
from ...limits import NAMES_LOOK
from .link import RedisLink

_GLOB = re.compile(r"[][*?^\\]")
"""What stands for other characters in a pattern of Redis."""


def listed(link: RedisLink, prefix: str, after: str, most: int, shows: Shows) -> Deferred[Sequence[str]]:
    """Return the names of a listing; see ``Store.names``."""
    pattern = _GLOB.sub(r"\\\g<0>", prefix) + "*"
    found: set[str] = set()  # a step may return again what an earlier one has returned

    def look(cursor: bytes | str) -> Deferred[Sequence[str]]:
        words = (cursor, "MATCH", pattern, "COUNT", NAMES_LOOK)
        return link.ask("ZSCAN", f"{link.prefix}expiries", *words).addCallback(looked)

    def looked(reply: list[Any]) -> MaybeDeferred[Sequence[str]]:
        nonlocal found
        cursor, entries = reply
        names = [name.decode() for name in entries[::2]]
        found.update([name for name in names if name > after and shows(name)])
        if len(found) > most:
            found = set(nsmallest(most, found))
        return sorted(found) if int(cursor) == 0 else look(cursor)

    return look("0")
