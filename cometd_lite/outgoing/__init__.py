"""What cometd-lite asks of other programs over HTTP: bytes are posted, and a bounded reply comes back.

``http`` does it by treq.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred


class PostReply(NamedTuple):
    """A whole reply. ``media_type`` has no parameters and is in lower case, empty where there is none."""

    status: int
    media_type: str
    body: bytes


class NoReply(Exception):
    """No whole reply came in time and within its bound; the text says why, as a sentence."""


class Post(Protocol):
    """Posts JSON to one URL."""

    def __call__(self, body: bytes, headers: Mapping[str, str] | None = None) -> Deferred[PostReply]:
        """Return the reply. Fails with ``NoReply``. Cancelling the Deferred closes the connection."""


class Posting(Post, Protocol):
    """A ``Post`` over connections that are to be closed."""

    @property
    def shown(self) -> str:
        """The URL as a log may show it: without its query, which may be secret."""

    def close(self) -> Deferred[None]:
        """Close the connections that are idle."""


def post_to(url: str, seconds: float) -> Posting:
    """Return what posts to a URL, and has a whole reply within so many seconds. Raises ``ValueError``."""
    # Neither treq, which takes a tenth of a second, nor a reactor is imported where nothing is posted.
    from twisted.internet import reactor  # noqa: PLC0415

    from .http import HTTPPost  # noqa: PLC0415

    return HTTPPost(url, reactor, seconds)
