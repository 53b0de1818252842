"""The client: pushes Python values, and reads messages, each once and in order.

    async with Client("http://localhost:8080") as client:
        receipt = await client.push("bob", {"text": "hi"})
        async for message in client.follow("bob", after="oldest"):
            print(message.data)

Two rules hold it together. A reader keeps one cursor, which moves only past messages that were handled. After
a lost connection or a restart of the server it asks again after that cursor. A push that got no answer is
sent again under its idempotency key, and so counts once.

Each request returns a ``Reply``: a Deferred, which coroutines of Twisted and of asyncio await alike. The
messages, batches, receipts and errors are those of the server's ``Comet``, so that a program can use either.
``SyncClient`` does the same by plain calls that return when they are answered.

Read ``client`` first, then ``listener``, ``working``, ``streams``, ``following``, ``codec``, ``remote`` and
``replies``; ``network``, ``on_asyncio`` and ``blocking`` say how requests are sent; ``sync`` comes last.
"""

from ..core.hub import Standing
from ..core.present import Present, PresentMember
from ..deferreds import Reply
from ..outgoing.http import WholeBody
from .client import Client
from .following import CursorFile, Following
from .listener import Listener
from .network import Treq
from .remote import Answer, NoAnswer, NotComet, is_passing
from .sync import SyncClient, SyncFollowing, SyncWorking
from .working import Working

__all__ = [
    "Answer",
    "Client",
    "CursorFile",
    "Following",
    "Listener",
    "NoAnswer",
    "NotComet",
    "Present",
    "PresentMember",
    "Reply",
    "Standing",
    "SyncClient",
    "SyncFollowing",
    "SyncWorking",
    "Treq",
    "WholeBody",
    "Working",
    "is_passing",
]
