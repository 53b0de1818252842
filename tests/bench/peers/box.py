"""What the small Python peers share: bodies arrive, and leave as the JSON of the polls that come after.

No more than a mailbox must be: numbered messages, bounded, rendered once. How a poll is held is each
framework's own affair.
"""

from __future__ import annotations

import json
import time
from collections import deque

CAPACITY = 1_000


class Mailbox:
    """The last messages of one recipient, and whoever waits for the next."""

    __slots__ = ("last", "messages", "name", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.last = 0
        self.messages: deque[tuple[int, bytes]] = deque(maxlen=CAPACITY)
        self.waiting: set = set()

    def append(self, body: bytes, media_type: str) -> None:
        """Append the message, or one for each line of NDJSON. Raises ValueError for what is not JSON."""
        bodies = body.splitlines() if media_type == "application/x-ndjson" else [body]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for data in bodies:
            json.loads(data)
        for data in bodies:
            self.last += 1
            head = f'{{"id":"{self.last}","recipient":"{self.name}","created_at":"{now}","data":'
            self.messages.append((self.last, head.encode() + data + b"}"))

    def after(self, cursor: int) -> list[bytes]:
        """Return the messages after ``cursor``, rendered."""
        found = []
        for number, rendered in reversed(self.messages):
            if number <= cursor:
                break
            found.append(rendered)
        found.reverse()
        return found

    def answer(self, messages: list[bytes]) -> bytes:
        """Return a poll's body."""
        return b'{"messages":[%s],"cursor":"%d"}' % (b",".join(messages), self.last)

    def receipt(self, woken: int) -> bytes:
        """Return a push's body."""
        return b'{"id":"%d","delivered":%d}' % (self.last, woken)
