"""One message of a Bayeux batch while it is answered: what may stand in it, and what its reply says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..core.message import timestamp
from ..errors import CometError
from .answers import BatchAnswer, Reply
from .effects import Peer
from .fields import CHANNEL, PATTERN, MessageFailed, argument, is_texts, refused, time_of

HANDSHAKE = "/meta/handshake"
CONNECT = "/meta/connect"
SUBSCRIBE = "/meta/subscribe"
UNSUBSCRIBE = "/meta/unsubscribe"
DISCONNECT = "/meta/disconnect"

REHANDSHAKE = {"reconnect": "handshake", "interval": 0}
"""What a client is advised that has no session, or no token for it."""


@dataclass(slots=True, eq=False)
class Turn:
    """One message of a batch while it is answered. None of its fields is trusted to be what it should."""

    message: Any
    peer: Peer
    answer: BatchAnswer
    now: float
    ext: dict[str, Any] = field(default_factory=dict)
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

    def fail(self, error: str) -> None:
        """Make the reply say that the message failed ("The error field")."""
        self.reply["successful"] = False
        self.reply["error"] = error

    def refuse(self, error: CometError) -> None:
        """Make the reply say that the peer may not do this, and might after another handshake.

        Where that is not known now, the peer may ask again in a while.
        """
        later = error.retry_after
        self.reply["advice"] = (
            REHANDSHAKE if later is None else {"reconnect": "retry", "interval": later * 1000}
        )
        self.fail(refused(error))

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
