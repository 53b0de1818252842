"""What was pushed, as Bayeux events ("Delivery"): messages arrive, JSON leaves, made once for all readers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.message import Batch, Message, rendered_once
from ..core.recipient import READABLE
from ..jsontext import dumps
from ..memos import memo
from .sessions import PRIVATE, BayeuxSession

BINARY_TYPE = "application/vnd.cometd.binary+json"
"""The type of what a client's binary extension has made JSON of; readers that have it must know.

Nothing else of a publication's ``ext`` is delivered to others: it is between the client and the server, and
may well be a password.
"""


def events_of(batch: Batch, session: BayeuxSession) -> bytes:
    """Return what a batch delivers to a session: Bayeux messages, each with a comma behind it.

    What all get who read the same is rendered once.
    """
    if session.since:
        return _events([message for message in batch.messages if session.wants(message)])
    messages = batch.messages
    if len(messages) == 1:
        return event(messages[0])
    return batch.once("bayeux", lambda batch: _events(batch.messages))


def _events(messages: Iterable[Message]) -> bytes:
    return b"".join([event(message) for message in messages])


@rendered_once
def event(message: Message) -> bytes:
    """Return a message as a Bayeux event and a comma; nothing for one that must not become an event.

    JSON comes as it is, text as a string, and other types as an object with ``data_base64`` and ``type``. The
    name of the event, where it has one, is ``event`` in ``ext``. It has no id, because clients would take it
    for a reply (BAYEUX.md, rule 4).
    """
    name = message.recipient
    content = message.content
    if name.startswith("$") and not name.startswith(READABLE):
        return content.body + b"," if name.startswith(PRIVATE) else b""
    channel = _quoted_channel(name)
    data = content.data()
    if content.form == "octets":
        data = b'{"data_base64":%b,"type":%b}' % (data, dumps(content.type))
    ext: dict[str, Any] = {} if content.type != BINARY_TYPE else {"binary": {}}
    if message.event is not None:
        ext["event"] = message.event
    if ext:
        data += b',"ext":' + dumps(ext)
    return channel and b'{"channel":%b,"data":%b},' % (channel, data)


@memo(4_096)
def _quoted_channel(name: str) -> bytes:
    # A client that may push over HTTP must not forge the protocol's own messages.
    if name.startswith(("meta/", "service/")):
        return b""
    return dumps("/" + name)
