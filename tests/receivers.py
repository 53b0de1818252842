"""An application in memory that is told of events: it verifies signatures, and answers as a test says."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from standardwebhooks import Webhook
from twisted.internet.defer import Deferred, succeed

from cometd_lite.outgoing import NoReply, PostReply

KEY = "whsec_" + b64encode(bytes(range(32))).decode()
OTHER_KEY = "whsec_" + b64encode(bytes(range(1, 33))).decode()


class FakeReceiver:
    """Keeps each attempt in ``attempts``, by its id and its events.

    ``answer`` returns the status of the next answer; None where none comes, and "later" where it comes when
    ``reply`` is called.
    """

    def __init__(self, answer: Callable[[], int | str | None] = lambda: 204, key: str = KEY) -> None:
        self.answer = answer
        self.webhook = Webhook(key)
        self.attempts: list[tuple[str, list[dict[str, Any]]]] = []
        self.taken: list[dict[str, Any]] = []
        """The events of attempts that were answered with 2xx, in order."""
        self.pending: list[Deferred[PostReply]] = []
        self.cancelled = 0

    shown = "http://app.example"

    def __call__(self, body: bytes, headers: Mapping[str, str] | None = None) -> Deferred[PostReply]:
        fields = dict(headers or {})
        events = self._verified(body, fields)
        self.attempts.append((fields["webhook-id"], events))
        reply: Deferred[PostReply] = Deferred(self._cancel)
        answer = self.answer()
        if answer == "later":
            self.pending.append(reply)
        elif isinstance(answer, int):
            self._reply(reply, answer)
        else:
            reply.errback(NoReply("It did not answer in time."))
        return reply

    def _verified(self, body: bytes, fields: dict[str, str]) -> list[dict[str, Any]]:
        """Return the events, whose time need not be that of this machine."""
        at = datetime.fromtimestamp(int(fields["webhook-timestamp"]), UTC)
        signed = self.webhook.sign(fields["webhook-id"], at, body.decode())
        assert signed in fields["webhook-signature"].split(" ")
        events: list[dict[str, Any]] = msgspec.json.decode(body)
        return events

    def _cancel(self, _: object) -> None:
        self.cancelled += 1

    def _reply(self, reply: Deferred[PostReply], status: int) -> None:
        if 200 <= status < 300:
            self.taken += self.attempts[-1][1]
        reply.callback(PostReply(status, "", b""))

    def reply(self, status: int) -> None:
        """Answer the attempt that has no answer."""
        self._reply(self.pending.pop(0), status)

    def close(self) -> Deferred[None]:
        return succeed(None)
