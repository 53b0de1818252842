"""The client: Python values leave as requests, and messages arrive, each once and in order.

    async with Client("http://localhost:8080") as client:
        receipt = await client.push("bob", {"text": "hi"})
        async for message in client.follow("bob", after="oldest"):
            print(message.data)

Two rules hold it together. A reader keeps one cursor, and whatever happened, a lost connection or a restart
of the server, asking again after that cursor is the remedy; it moves only past messages that were handled.
A push that got no answer is sent again under its idempotency key, and so counts once.

What waits is a ``Reply``: a Deferred, which coroutines of Twisted and of asyncio await alike. Messages,
batches, receipts and errors are those of the server's ``Comet``, so that a program can talk to either.

The modules, in the order of a request's road: ``client``, ``following``, ``words``, ``remote``, ``replies``.
"""

from .client import Client, Listener
from .following import CursorFile, Following
from .remote import Answer, NoAnswer, NotComet, Treq, WholeBody, is_passing
from .replies import Reply
from .words import Presence

__all__ = [
    "Answer",
    "Client",
    "CursorFile",
    "Following",
    "Listener",
    "NoAnswer",
    "NotComet",
    "Presence",
    "Reply",
    "Treq",
    "WholeBody",
    "is_passing",
]
