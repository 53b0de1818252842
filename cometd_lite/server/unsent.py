"""What was written and not yet taken by the kernel: a queue for each connection, and a total for all.

A queue holds the buffers that were written and copies none of them, so a response for a thousand readers is
in memory once while they do not read it. The total counts it once as well, and is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

BUFFER_OVERHEAD: Final = 256
"""The memory that a queued buffer takes besides its bytes."""

QUEUE_OVERHEAD: Final = 1024
"""The memory that an empty queue takes."""


class UnsentTotal:
    """The unsent bytes of all connections, with their overhead.

    Above ``bound``, connections are aborted until a quarter of it is free: those first that hold most, as
    Redis does (``maxmemory-clients``). That frees the memory at the cost of the fewest clients, and a client
    that reads its responses holds little. Its share of a buffer is the smaller, the more connections send it.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.size = 0
        self.aborted = 0
        """The connections that were aborted for the bound's sake."""
        self.queues: set[SendQueue] = set()
        self.holders: dict[int, int] = {}
        """The number of queued references to each buffer, by its id."""

    def added(self, data: bytes) -> None:
        """Count a buffer that was put into a queue. May abort any connection that has a queue."""
        holders = self.holders.get(id(data), 0)
        self.holders[id(data)] = holders + 1
        if not holders:
            self.size += len(data) + BUFFER_OVERHEAD
            if self.size > self.bound:
                self._free()

    def removed(self, data: bytes) -> None:
        """Count a buffer that left a queue."""
        holders = self.holders.pop(id(data)) - 1
        if holders:
            self.holders[id(data)] = holders
        else:
            self.size -= len(data) + BUFFER_OVERHEAD

    def _free(self) -> None:
        """Abort the connections that hold most."""
        for queue in sorted(self.queues, key=SendQueue.share, reverse=True):
            if self.size <= self.bound * 3 // 4:
                break
            queue.abort()
            self.aborted += 1


class SendQueue:
    """The unsent bytes of one connection. ``abort`` ends the connection, and with it calls ``clear``."""

    __slots__ = ("_buffers", "_start", "_total", "abort", "size")

    def __init__(self, total: UnsentTotal, abort: Callable[[], None]) -> None:
        self.size = 0
        """The bytes in the queue, shared or not."""
        self.abort = abort
        self._buffers: deque[bytes] = deque()
        self._start = 0
        """How much of the first buffer was sent."""
        self._total = total
        total.queues.add(self)
        total.size += QUEUE_OVERHEAD

    def append(self, data: bytes, start: int = 0) -> None:
        """Add a buffer; where the queue is empty, ``start`` bytes of it were sent already."""
        if start:
            self._start = start
        self._buffers.append(data)
        self.size += len(data) - start
        self._total.added(data)

    def first(self) -> memoryview:
        """Return what is to be sent next."""
        return memoryview(self._buffers[0])[self._start :]

    def sent(self, count: int) -> None:
        """Remove ``count`` bytes of the first buffer."""
        self.size -= count
        self._start += count
        if self._start == len(self._buffers[0]):
            self._start = 0
            self._total.removed(self._buffers.popleft())

    def clear(self) -> None:
        """Remove everything, and leave the total: the queue is used no more."""
        for data in self._buffers:
            self._total.removed(data)
        self._buffers.clear()
        self.size = self._start = 0
        if self in self._total.queues:
            self._total.queues.discard(self)
            self._total.size -= QUEUE_OVERHEAD

    def share(self) -> float:
        """Return the part of the total that this queue is the cause of."""
        holders = self._total.holders
        return sum(len(data) / holders[id(data)] for data in self._buffers)
