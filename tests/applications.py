"""An application in memory that is asked who may do what: a test answers its questions, now or later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from cometd_lite.outgoing import NoReply, PostReply


class FakeApplication:
    """Keeps each question in ``asked``, and its Deferred in ``pending`` until it is answered.

    ``answer`` is called with each question, and returns what is replied at once; None for later.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], PostReply | None] = lambda _: None) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.pending: list[Deferred[PostReply]] = []
        self.cancelled = 0

    def __call__(self, body: bytes, headers: Mapping[str, str] | None = None) -> Deferred[PostReply]:
        question = msgspec.json.decode(body)
        self.asked.append(question)
        reply: Deferred[PostReply] = Deferred(self._cancel)
        now = self.answer(question)
        if now is None:
            self.pending.append(reply)
        else:
            reply.callback(now)
        return reply

    def _cancel(self, _: object) -> None:
        self.cancelled += 1

    def reply(self, reply: PostReply) -> None:
        """Answer the oldest question that has no answer."""
        self.pending.pop(0).callback(reply)

    def fail(self, sentence: str = "It did not answer in time.") -> None:
        """Give the oldest question no answer."""
        self.pending.pop(0).errback(NoReply(sentence))


def said(status: int = 200, **words: Any) -> PostReply:
    """Return a reply whose JSON says ``words``; an empty one without any."""
    return PostReply(status, "application/json", msgspec.json.encode(words) if words else b"")
