"""The replies and pushes of Redis as they come on a connection, one by one, and a filter that loses some."""

from __future__ import annotations

from random import Random


class NotComplete(Exception):
    """There is not a whole frame yet."""


def end_of(data: bytes, at: int) -> int:
    """Return where the frame that begins at a place ends (RESP3); raise ``NotComplete`` where it has not."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        raise NotComplete
    kind, rest, end = data[at : at + 1], data[at + 1 : line_end], line_end + 2
    if kind in b"$!=":
        if rest != b"-1":
            end += int(rest) + 2
        if end > len(data):
            raise NotComplete
    elif kind in b"*~>%|":
        for _ in range(int(rest) * (2 if kind in b"%|" else 1)):
            end = end_of(data, end)
    return end


class LosesWakes:
    """Takes the bytes of one connection, and returns them without some of what was published to readers.

    Each publication whose channel begins with ``prefix`` is lost with the probability ``share``.
    """

    def __init__(self, prefix: str, random: Random, share: float) -> None:
        self.lost = 0
        self._channel = b"%bwake:" % prefix.encode()
        self._random = random
        self.share = share
        self._data = b""

    def __call__(self, data: bytes) -> bytes:
        self._data += data
        at, kept = 0, []
        while at < len(self._data):
            try:
                end = end_of(self._data, at)
            except NotComplete:
                break
            frame = self._data[at:end]
            if self._is_wake(frame) and self._random.random() < self.share:
                self.lost += 1
            else:
                kept.append(frame)
            at = end
        self._data = self._data[at:]
        return b"".join(kept)

    def _is_wake(self, frame: bytes) -> bool:
        return (
            frame[:1] == b">"
            and b"message\r\n" in frame[:24]
            and self._channel in frame[: 40 + len(self._channel)]
        )
