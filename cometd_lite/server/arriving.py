"""The body of a request while it arrives: whole, by Content-Length, or in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .body import Chunked

if TYPE_CHECKING:
    from .bounds import Bounds
    from .request import Request
    from .router import Target


class ArrivingBody:
    """The body of ``request``, for ``target``, of at most ``most`` bytes. It began to arrive at ``tick``.

    ``most`` is less where the route says so of this request.
    """

    __slots__ = ("_body", "_bounds", "_chunked", "_received", "_tick", "most", "request", "target")

    def __init__(self, request: Request, target: Target, most: int, bounds: Bounds, tick: int) -> None:
        self.request = request
        self.target = target
        if target.route.body_bound is not None:
            most = min(most, target.route.body_bound(request, target.name))
        self.most = most
        self._bounds = bounds
        self._chunked = Chunked(most, bounds) if request.head.chunked else None
        self._body = bytearray()  # and no list: what comes byte by byte would take fifty times as much
        self._received = 0
        self._tick = tick

    def feed(self, data: bytes) -> bytes | None:
        """Take a part of the body; once it is complete, return what follows it.

        Then it is the request's. Raises ``Refused`` 400, and ``TooLarge``.
        """
        self._received += len(data)
        request, chunked = self.request, self._chunked
        if chunked is not None:
            if not chunked.feed(data):
                return None
            request.body = bytes(chunked.content)
            return chunked.rest
        body, length = self._body, request.head.length
        body += data
        if self._received < length:
            return None
        rest = bytes(body[length:])
        del body[length:]
        request.body = bytes(body)
        return rest

    @property
    def size(self) -> int:
        """The bytes that have arrived and are kept."""
        return len(self._body) if self._chunked is None else len(self._chunked.content)

    def is_late(self, tick: int) -> bool:
        """Return whether the body has arrived more slowly than ``Bounds.body_rate``."""
        seconds = tick - self._tick - self._bounds.body_seconds
        return self._received <= seconds * self._bounds.body_rate
