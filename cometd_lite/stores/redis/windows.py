"""What a process knows of the newest messages of the keys that it listens to, from what was published.

A push publishes its messages with the number that the mailbox's newest message had before. So a process that
has read a mailbox once, while it listened, knows whether it has missed a publication: a number that does
not follow the last one closes the window, and so does every other doubt. A reader whose cursor lies in an
open window is answered without Redis. Where it reads several mailboxes, a window only answers that there is
nothing: a message of one of them could else take it past what was missed of another.

A window is a hint and never the truth, which is the mailbox in Redis. A reader reads that at the end of every
wait, and the keys at which readers stand are compared with it now and then (``Wakes.look_for_lost``): so a
publication that was lost, and that none followed, costs a wait at most, and a stream ``REDIS_CHECK_SECONDS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...core.message import Message
from ...limits import MESSAGE_OVERHEAD, REDIS_WINDOW_MESSAGES, REDIS_WINDOWS_BYTES


class Window:
    """What is known of one key: everything behind ``floor``, as long as it is open.

    ``asked_at`` is when the key was last asked for. ``last`` is the number of the mailbox's newest message,
    ``notified`` that of the newest one for which all readers at the key are known to have been woken.
    ``messages`` are those behind the floor, the oldest first.
    """

    __slots__ = ("acknowledged", "asked_at", "floor", "is_open", "last", "messages", "notified")

    def __init__(self, asked_at: float) -> None:
        self.asked_at = asked_at
        self.is_open = False
        self.floor = 0
        self.last = 0
        self.notified = 0
        self.acknowledged = 0
        """Up to where readers of this process have acknowledged since the window was opened."""
        self.messages: list[Message] = []

    def after(self, number: int, now: float) -> Sequence[Message] | None:
        """Return the messages after a number; None where that is not known, or one of them has expired."""
        if not self.is_open or number < self.floor:
            return None
        messages = self.messages
        if not messages or messages[-1].sequence <= number:
            return ()
        first = len(messages) - 1
        while first and messages[first - 1].sequence > number:
            first -= 1
        found = messages[first:]
        for message in found:
            if message.expires_at <= now:
                return None
        return found


class Windows:
    """All windows of a process, which share one bound in bytes: beyond it the oldest messages go."""

    def __init__(self) -> None:
        self._kept: dict[int, Window] = {}
        """The windows in which messages are kept, by the number of each, the oldest first."""
        self._size = 0

    def check_invariants(self, windows: Iterable[Window]) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold. For tests."""
        kept = {message.sequence: window for window in windows for message in window.messages}
        assert kept == self._kept, "each message is counted"
        assert self._size == sum([_size(one) for window in set(kept.values()) for one in window.messages])
        assert self._size <= REDIS_WINDOWS_BYTES, "the windows stay within their bound"
        for window in kept.values():
            numbers = [message.sequence for message in window.messages]
            assert numbers == sorted(numbers), "messages are in order"
            assert window.is_open, "a window that is closed keeps nothing"
            assert window.floor < numbers[0], "what is kept lies behind the floor"
            assert numbers[-1] <= window.last, "the last number is known"

    def confirm(self, window: Window, newest: int, lost: int) -> None:
        """Take in what a read has found: the numbers of the newest message, and of the last one that is lost.

        The window is opened where it was closed, or has missed something.
        """
        if window.is_open and window.last == newest:
            self._raise_floor(window, lost)
            return
        self.close(window)
        window.is_open = True
        window.floor = max(newest, lost)
        window.last = newest
        window.acknowledged = 0

    def extend(self, window: Window, before: int, lost: int, messages: Sequence[Message]) -> None:
        """Take in what was pushed where the newest message had the number ``before``.

        ``messages`` are empty where the publication did not carry them.
        """
        if not window.is_open:
            return
        if not messages:
            self.close(window)
            return
        newest = window.notified = messages[-1].sequence
        if newest <= window.last:
            return
        if before != window.last:
            self.close(window)
            return
        window.last = newest
        window.messages += messages
        for message in messages:
            self._kept[message.sequence] = window
            self._size += _size(message)
        self._raise_floor(window, lost)
        while len(window.messages) > REDIS_WINDOW_MESSAGES:
            self._forget_oldest(window)
        while self._size > REDIS_WINDOWS_BYTES:
            self._forget_oldest(next(iter(self._kept.values())))

    def drop(self, window: Window, lost: int) -> None:
        """Take in that messages were lost, up to a number."""
        if window.is_open:
            self._raise_floor(window, lost)

    def close(self, window: Window) -> None:
        """Know nothing until the next read."""
        window.is_open = False
        while window.messages:
            self._forget_oldest(window)

    def _raise_floor(self, window: Window, lost: int) -> None:
        while window.messages and window.messages[0].sequence <= lost:
            self._forget_oldest(window)
        window.floor = max(window.floor, lost)

    def _forget_oldest(self, window: Window) -> None:
        message = window.messages.pop(0)
        window.floor = message.sequence
        del self._kept[message.sequence]
        self._size -= _size(message)


def _size(message: Message) -> int:
    return MESSAGE_OVERHEAD + len(message.content.body)
