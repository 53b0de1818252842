"""SHIM: what ``Stream`` and ``websocket.accept`` use of an Exchange, over the requests of today's routes.

To remove it, delete this file and the lines that are marked SHIM in ``stream`` and ``websocket``, and pass
Exchanges to both.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IPushProducer

from .exchange import Exchange


def exchange_of(request: Any) -> Exchange:
    """Return an Exchange as it is, and wrap a request of ``server`` or twisted.web."""
    return cast(Exchange, request if hasattr(request, "register_producer") else _RequestExchange(request))


class _RequestExchange:
    def __init__(self, request: Any) -> None:
        self._request = request
        self.method = request.method

    @property
    def head(self) -> _RequestExchange:
        return self  # by name, because a cycle would live until old garbage is collected

    def get(self, name: bytes) -> bytes | None:
        value: bytes | None = self._request.getHeader(name)
        return value

    def write(self, data: bytes) -> None:
        self._request.write(data)

    def abort(self) -> None:
        self._request.transport.abortConnection()

    def unsent(self) -> int:
        buffered = getattr(self._request, "buffered", None)
        return 0 if buffered is None else buffered()

    def register_producer(self, producer: IPushProducer) -> None:
        self._request.registerProducer(producer, True)

    def unregister_producer(self) -> None:
        self._request.unregisterProducer()

    def upgrade(self, protocol: Any, head: bytes) -> None:
        if hasattr(self._request, "upgrade"):
            self._request.upgrade(protocol, head)
        else:
            _upgrade_channel(self._request.channel, protocol, head)


def _upgrade_channel(channel: Any, protocol: Any, head: bytes) -> None:
    # As twisted.web.websocket does: the channel stays, and forwards what it receives.
    channel.setTimeout(None)
    transport = channel.transport
    channel.dataReceived = protocol.dataReceived
    channel.rawDataReceived = protocol.dataReceived  # what it has received along with the request
    channel.connectionLost = protocol.connectionLost
    transport.write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % head)
    protocol.makeConnection(transport)
    early, channel._dataBuffer = b"".join(channel._dataBuffer), []
    if early:
        # It came while an embedding program was asked whether the client may connect.
        transport.resumeProducing()
        protocol.dataReceived(early)
