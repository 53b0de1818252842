"""A Bayeux batch while it is answered: its messages, their replies, and what completes those to connects."""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct, field

from ..core.message import NOW, Cursor, timestamp
from ..errors import CometError
from ..jsontext import dumps
from .effects import Peer
from .fields import CHANNEL, PATTERN, MessageFailed, argument, is_texts, refused, time_of
from .sessions import BayeuxSession

Reply: TypeAlias = dict[str, Any]

HANDSHAKE = "/meta/handshake"
CONNECT = "/meta/connect"
SUBSCRIBE = "/meta/subscribe"
UNSUBSCRIBE = "/meta/unsubscribe"
DISCONNECT = "/meta/disconnect"

REHANDSHAKE = {"reconnect": "handshake", "interval": 0}
"""What a client is advised that has no session, or no token for it."""


def fail(reply: Reply, error: str) -> None:
    """Make a reply say that the message failed ("The error field")."""
    reply["successful"] = False
    reply["error"] = error


class Connect(Struct, eq=False):
    """A connect that is still to be answered: its reply, and what must be known to complete it."""

    session: BayeuxSession
    reply: Reply
    received_at: float

    def complete(self, place: Cursor, now: float, *, gap: bool) -> None:
        """Complete the reply, which carries, or follows, the session's events up to ``place``.

        ``gap``: some that came before them are no longer kept.
        """
        session = self.session
        ext: Reply = self.reply.get("ext", {})
        if session.ack:
            session.ack_batch += 1
            session.ack_place = None if place == NOW else place
            ext["ack"] = session.ack_batch
        if gap:
            ext["gap"] = True
        if "timesync" in ext:
            ext["timesync"]["p"] = int((now - self.received_at) * 1000)
        if ext:
            self.reply["ext"] = ext


class BatchAnswer(Struct, eq=False):
    """The answer to a batch while it is made, apart from events and from what completes the connects.

    It is a context manager: from ``serve`` to the end of the block, no wake delivers anything to its session,
    because the answer carries what there is. ``wait`` is the seconds that its only connect is to be held, 0
    where the answer is due now. ``cookie`` is the browser's new name.
    """

    replies: list[Reply] = []
    connects: list[Connect] = []
    session: BayeuxSession | None = None
    """The one whose events may travel with it; None after a handshake."""
    greeted: BayeuxSession | None = None
    """The session that shook hands in it."""
    wait: float = 0.0
    cookie: str | None = None
    unreadable: CometError | None = None
    """Why the peer may not get the session's events; None where it may."""

    def serve(self, session: BayeuxSession) -> None:
        """Be the answer to a request of the session, if it is not to one of another session already."""
        if self.session is None:
            self.session = session
            session.answering += 1

    def __enter__(self) -> BatchAnswer:
        return self

    def __exit__(self, *error: object) -> None:
        if self.session is not None:
            self.session.answering -= 1

    @property
    def may_read(self) -> bool:
        """Whether the peer may get the session's events."""
        return self.unreadable is None

    @property
    def may_carry(self) -> bool:
        """Whether events may travel with it: under acknowledgement they do with replies to connects only."""
        session = self.session
        return (
            session is not None
            and self.may_read
            and bool(session.reads)
            and (bool(self.connects) or not session.ack)
        )

    def json(self, events: bytes = b"") -> bytes:
        """Return the answer's array, the events first."""
        return b"[%b%b" % (events, dumps(self.replies)[1:])


class Turn(Struct, eq=False):
    """One message of a batch while it is answered. None of its fields is trusted to be what it should."""

    message: Any
    peer: Peer
    answer: BatchAnswer
    now: float
    ext: dict[str, Any] = {}
    reply: Reply = field(default_factory=lambda: {"channel": "", "successful": True})

    def begin(self, wall: float) -> None:
        """Put into the reply what every reply has. Raises ``MessageFailed`` for what no message may be."""
        message, reply = self.message, self.reply
        if not isinstance(message, dict):
            raise MessageFailed("400::message_invalid")
        channel = message.get("channel")
        if isinstance(channel, str):
            reply["channel"] = channel
        id = message.get("id")  # noqa: A001
        if id is not None:
            if isinstance(id, bool) or not isinstance(id, (str, int, float)):
                raise MessageFailed("405::message_id_invalid")
            reply["id"] = id
        if not isinstance(channel, str):
            raise MessageFailed("400::channel_missing")
        if "timestamp" in message:
            reply["timestamp"] = timestamp(wall)
        ext = message.get("ext")
        if isinstance(ext, dict):
            self.ext = ext
            if channel.startswith("/meta/") and "timesync" in ext:
                self._synchronise(ext["timesync"], int(wall * 1000))
        if "subscription" in message and channel in {SUBSCRIBE, UNSUBSCRIBE}:
            subscription = message["subscription"]
            reply["subscription"] = subscription if is_texts(subscription) else ""

    def refuse(self, error: CometError) -> None:
        """Make the reply say that the peer may not do this, and might after another handshake.

        Where that is not known now, the peer may ask again in a while.
        """
        later = error.retry_after
        self.reply["advice"] = (
            REHANDSHAKE if later is None else {"reconnect": "retry", "interval": later * 1000}
        )
        fail(self.reply, refused(error))

    def subscriptions(self) -> list[str]:
        """Return the channels and patterns of a subscription. Raises ``MessageFailed`` where one is wrong."""
        subscription = self.message.get("subscription")
        if subscription is None:
            raise MessageFailed("403::subscription_missing")
        if not subscription or not is_texts(subscription):
            raise MessageFailed("403::subscription_invalid")
        channels = [subscription] if isinstance(subscription, str) else subscription
        error = None
        for channel in channels:
            if not (CHANNEL.fullmatch(channel) or PATTERN.fullmatch(channel)):
                error = f"405:{argument(channel)}:subscription_invalid"
            elif channel.startswith("/meta/"):
                error = f"403:{argument(channel)}:subscribe_denied"
        if error is not None:
            raise MessageFailed(error)
        return list(channels)

    def _synchronise(self, asked: Any, server_time: int) -> None:
        """Answer the time synchronisation extension (CometD's reference, "Timesync Extension")."""
        if not isinstance(asked, dict):
            return
        client_time, lag, offset = [time_of(asked.get(name)) for name in ("tc", "l", "o")]
        if client_time is None:
            return
        answer: Reply = {"tc": asked["tc"], "ts": server_time, "p": 0}
        if lag is not None and offset is not None:
            answer["a"] = int(client_time + offset + lag - server_time)
        self.reply["ext"] = {"timesync": answer}
