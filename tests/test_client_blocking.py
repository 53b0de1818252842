"""The loop on which ``SyncClient`` waits."""

from __future__ import annotations

import os
import signal

import pytest
from twisted.internet.defer import Deferred

from cometd_lite.client.blocking import BlockingLoop


def test_ctrl_c_while_a_request_begins_is_raised_and_cancels_it() -> None:
    loop = BlockingLoop()
    cancelled: list[Deferred[None]] = []

    async def ask() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await Deferred(cancelled.append)

    with pytest.raises(KeyboardInterrupt):
        loop.run(lambda: Deferred.fromCoroutine(ask()).addErrback(lambda _: None))
    assert len(cancelled) == 1
    loop.close()


def test_ctrl_c_during_a_callback_is_raised_where_the_loop_was_called() -> None:
    # In the callback, Twisted took it for the failure of one request, and the call went on.
    loop = BlockingLoop()
    called = []

    def callback() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        called.append("to its end")

    def begin() -> Deferred[None]:
        loop.clock.callLater(0.0, callback)
        return Deferred()

    with pytest.raises(KeyboardInterrupt):
        loop.run(begin)
    assert called == ["to its end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    loop.close()
