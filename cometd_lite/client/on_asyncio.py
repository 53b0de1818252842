"""The network of an asyncio loop: its timers and its connections, for treq. No reactor is needed.

A program may have several loops, one after the other or in several threads; each has a network of its own.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import cast

from twisted.internet.base import DelayedCall
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.internet.interfaces import IProtocol, IPushProducer, IReactorTime, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from .network import CONNECT_SECONDS, Network, Transport


def asyncio_network(loop: asyncio.AbstractEventLoop) -> Network:
    """Return a network on a loop."""
    return Network(LoopClock(loop), partial(_connected, loop))


def _connected(
    loop: asyncio.AbstractEventLoop, host: str, port: int, tls: ssl.SSLContext | None, protocol: IProtocol
) -> Deferred[IProtocol]:
    async def connect() -> LoopConnection:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await _connection(loop, host, port, tls, protocol)
        except TimeoutError:
            raise ConnectTimedOut from None

    def over(task: asyncio.Task[LoopConnection]) -> None:
        error = CancelledError() if task.cancelled() else task.exception()
        if deferred.called:  # it was cancelled as the connection was made
            if error is None:
                task.result().abortConnection()
        elif error is not None:
            deferred.errback(error)
        else:
            deferred.callback(protocol)

    def cancel(_: object) -> None:
        task.cancel()

    task = loop.create_task(connect())
    deferred: Deferred[IProtocol] = Deferred(cancel)
    task.add_done_callback(over)
    return deferred


async def _connection(
    loop: asyncio.AbstractEventLoop, host: str, port: int, tls: ssl.SSLContext | None, protocol: IProtocol
) -> LoopConnection:
    """Return a connection to the first address of the host that accepts one."""
    name = None if tls is None else host
    *others, last = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # One by one, because asyncio makes one error of the errors of several addresses, which has no errno.
    for _, _, _, _, address in others:
        with suppress(OSError):
            _, connection = await loop.create_connection(
                lambda: LoopConnection(protocol), *address[:2], ssl=tls, server_hostname=name
            )
            return connection
    _, connection = await loop.create_connection(
        lambda: LoopConnection(protocol), *last[4][:2], ssl=tls, server_hostname=name
    )
    return connection


@implementer(ITransport, IPushProducer)
class LoopConnection(asyncio.Protocol, Transport):
    """A connection of an asyncio loop: asyncio's protocol, and the transport of Twisted's protocol."""

    def __init__(self, protocol: IProtocol) -> None:
        self._protocol = protocol
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods and not the class
        self._protocol.makeConnection(self)

    def data_received(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connectionLost(Failure(ConnectionDone() if exc is None else ConnectionLost(str(exc))))

    def write(self, data: bytes) -> None:
        """Send the bytes; asyncio keeps those that the kernel does not take yet."""
        self._transport.write(data)

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        self._transport.close()

    def abortConnection(self) -> None:  # noqa: N802  Twisted's name
        self._transport.abort()

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        if not self._transport.is_closing():
            self._transport.resume_reading()


@implementer(IReactorTime)
class LoopClock:
    """The timers of an asyncio loop, as Twisted's code asks for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def seconds(self) -> float:
        return self._loop.time()

    def callLater(  # noqa: N802  Twisted's name
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002  Twisted's name
        *args: object,
        **kwargs: object,
    ) -> DelayedCall:
        def plan(call: DelayedCall) -> None:
            call.activate_delay()
            handles.pop().cancel()
            handles.append(self._loop.call_at(call.getTime(), due))

        def due() -> None:
            if call.delayed_time > 0:
                plan(call)  # it was put off meanwhile
            else:
                call.called = 1
                callable(*args, **kwargs)

        now = self.seconds()
        handles = [self._loop.call_at(now + delay, due)]
        call = DelayedCall(
            now + delay, callable, args, kwargs, lambda _: handles[0].cancel(), plan, self.seconds
        )
        return call

    def getDelayedCalls(self) -> Sequence[DelayedCall]:  # noqa: N802  Twisted's name
        """Return nothing: a loop does not list its timers."""
        return ()
