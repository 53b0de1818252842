"""The loop on which ``SyncClient`` waits."""

from __future__ import annotations

import os
import signal
import socket
from threading import Thread

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from cometd_lite.client.blocking import BlockingConnection, BlockingLoop


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


def test_a_connection_that_another_one_closes_as_both_have_input_is_not_waited_for() -> None:
    loop = BlockingLoop()
    pairs = [socket.socketpair() for _ in range(2)]
    connections: list[BlockingConnection] = []
    arrived: Deferred[bytes] = Deferred()

    class ClosesOther(Protocol):
        def dataReceived(self, data: bytes) -> None:
            connections[1].loseConnection()
            arrived.callback(data)

    for (near, far), protocol in zip(pairs, (ClosesOther(), Protocol()), strict=True):
        connections.append(BlockingConnection(loop, near, protocol))
        far.send(b"x")
    found: list[bytes] = []
    thread = Thread(target=lambda: found.append(loop.run(lambda: arrived)), daemon=True)
    thread.start()
    thread.join(5.0)
    assert found == [b"x"]
    for _, far in pairs:
        far.close()
    loop.close()


def test_ctrl_c_while_a_request_begins_is_raised_and_the_request_fails_unnoticed() -> None:
    loop = BlockingLoop()
    requests: list[Deferred[None]] = []

    def begin() -> Deferred[None]:
        os.kill(os.getpid(), signal.SIGINT)
        requests.append(Deferred())
        return requests[0]

    with pytest.raises(KeyboardInterrupt):
        loop.run(begin)
    assert requests[0].called
    assert requests[0].result is None, "its failure was handled, and is not logged"
    loop.close()
