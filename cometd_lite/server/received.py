"""What clients have sent and connections keep: one total for all, and who is disconnected when it is full.

Counted are heads and bodies that are not complete, requests that arrived ahead, large requests that are
parked, and what a protocol keeps that a connection was given to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .wire import Wire


class Keeper(Protocol):
    """A connection of which something is kept."""

    wire: Wire


class ReceivedTotal:
    """The bytes that all connections keep of what arrived.

    Above ``bound``, connections are aborted until a quarter of it is free, those first that keep most.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.size = 0
        self.aborted = 0
        """The connections that were aborted for the bound's sake."""
        self._sizes: dict[Keeper, int] = {}

    def set(self, connection: Keeper, size: int) -> None:
        """Set what a connection keeps. May abort any connection, this one too."""
        before = self._sizes.pop(connection, 0)
        if size:
            self._sizes[connection] = size
        elif before and not self._sizes:
            self._sizes.clear()  # else the table stays as large as it was
        self.size += size - before
        if self.size > self.bound:
            self._free()

    def _free(self) -> None:
        """Abort the connections that keep most."""
        for connection in sorted(self._sizes, key=self._sizes.__getitem__, reverse=True):
            if self.size <= self.bound * 3 // 4:
                break
            self.size -= self._sizes.pop(connection, 0)
            self.aborted += 1
            connection.wire.abortConnection()
