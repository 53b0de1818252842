"""The listing of mailboxes: how those stand whose names begin with a prefix, a page at a time.

A store finds the names; each is then described as ``Hub.describe`` does. Both take as many turns of the
reactor as they need.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ..deferreds import gathered, value_of
from ..limits import DESCRIBED_AT_ONCE
from .hub import Hub, Standing
from .store import Listing, Shows


async def listing(hub: Hub, prefix: str, after: str, limit: int, shows: Shows) -> Listing[Standing]:
    """Return up to ``limit`` mailboxes after a name that begin with a prefix, of those ``shows`` lets in.

    Fails with ``StoreDown``.
    """
    found: list[Standing] = []
    while True:
        wanted = limit + 1 - len(found)  # one more shows whether there is another page
        names = await value_of(hub.store.names(prefix, after, wanted, shows))
        for start in range(0, len(names), DESCRIBED_AT_ONCE):
            if start:
                await deferLater(hub.clock, 0)
            some = names[start : start + DESCRIBED_AT_ONCE]
            described = await gathered([Deferred.fromCoroutine(_described(hub, name)) for name in some])
            found += [standing for standing in described if standing.newest is not None]
        if len(found) > limit:
            return Listing(tuple(found[:limit]), found[limit - 1].recipient)
        if len(names) < wanted:
            return Listing(tuple(found), None)
        after = names[-1]  # some were deleted while they were described


async def _described(hub: Hub, name: str) -> Standing:
    return await value_of(hub.describe(name))
