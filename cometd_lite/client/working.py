"""Leases from the side of a worker: messages are leased, extended while they are worked on, and acknowledged.

A settlement that gets no answer is sent again. Where the first one had arrived, the answer to the second is
``gone``, and means no harm: the message is done, or free for others.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias
from urllib.parse import quote

from twisted.internet.task import LoopingCall

from ..core.leases import LeaseState, Settlement
from ..core.message import LeasedMessage
from ..errors import CometError
from . import codec
from .following import MessageLoop, poll
from .remote import PAUSE_FIRST, PAUSE_MOST, OnRetry, Query, Remote
from .replies import CancellableCall, reply, replying

EXTENDED_PER_LEASE = 3
"""A lease is extended so often while it lasts: two answers may be lost."""

OnGone: TypeAlias = Callable[[LeasedMessage], object]
"""Called with a message whose lease had ended: another worker has it, or it is no more."""


async def settle(
    remote: Remote, message: LeasedMessage, settlement: Settlement, seconds: float, patience: float
) -> LeaseState:
    """Return what became of a lease. It is asked again for ``patience`` seconds where no answer comes."""
    query = codec.given(
        lease=message.lease,
        release="yes" if settlement == "released" else None,
        extend=seconds if settlement == "extended" else None,
    )
    ask = partial(remote.ask, "POST", f"ack/{quote(message.recipient)}", query, answers=(410,))
    return codec.settled(await remote.insist(ask, patience))


class Working(MessageLoop[LeasedMessage]):
    """The messages that a worker leases, one after the other, made by ``Client.work``, for ``async for``.

    A message is acknowledged when the next one is asked for, or released by ``release``. Its lease is
    extended until then. Where an ``async with`` ends without an error, the last message is acknowledged, and
    where it ends with one, it is released.
    """

    def __init__(
        self,
        remote: Remote,
        query: Query,
        seconds: float,
        *,
        patience: float,
        on_gone: OnGone | None = None,
        on_retry: OnRetry | None = None,
    ) -> None:
        super().__init__(remote, on_retry)
        self._query = [*query, *codec.given(lease=seconds)]
        self._seconds = seconds
        self._patience = patience
        self._on_gone = on_gone
        self._current: LeasedMessage | None = None
        self._extending: LoopingCall | None = None
        self._released = 0
        """How many messages in a row were released: what fails now may do so again in a moment."""

    @replying
    async def release(self) -> None:
        """Give the present message back: others may have it at once. The next one is leased after a pause."""
        self._released += 1
        await self._settle("released")

    def end(self) -> None:
        """End it now, and let the lease of the present message end by itself."""
        self._current = None
        self._stop_extending()
        super().end()

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            await reply(self._settle("done" if kind is None else "released"))
        except CometError:
            if kind is None:
                raise
        finally:
            self.end()

    async def _next(self, call: CancellableCall[LeasedMessage]) -> LeasedMessage:
        if self._current is not None:
            self._released = 0
            await self._settle("done")
        if self._released:
            pause = min(PAUSE_MOST, PAUSE_FIRST * 2.0 ** min(self._released - 1, 16))
            await self._remote.pause(pause * self._remote.random.uniform(0.5, 1.0))
        self._failures = 0
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            try:
                batch = await poll(self._remote, self._query, None, None, 1)
            except CometError as error:
                await self._retry(call, error)
            else:
                self._failures = 0
                self._messages.extend(batch.leased)
        message = self._current = self._messages.popleft()
        self._extending = LoopingCall(self._extend, message)
        self._extending.clock = self._remote.clock
        self._extending.start(self._seconds / EXTENDED_PER_LEASE, now=False)
        return message

    async def _settle(self, settlement: Settlement) -> None:
        message, self._current = self._current, None
        if message is None:
            return
        if settlement == "released":
            self._stop_extending()  # it may be given back though no answer has come
        try:
            state = await settle(self._remote, message, settlement, 0.0, self._patience)
        finally:
            self._stop_extending()
        if state == "gone" and self._on_gone is not None:
            self._on_gone(message)

    async def _extend(self, message: LeasedMessage) -> None:
        with suppress(CometError):  # the next one comes before the lease ends
            await settle(self._remote, message, "extended", self._seconds, 0.0)

    def _stop_extending(self) -> None:
        extending, self._extending = self._extending, None
        if extending is not None and extending.running:
            extending.stop()
