"""WebSockets: frames arrive, frames leave (RFC 6455); what is said in them is someone else's.

``accept`` turns a request into a ``Socket``, on ``serving/`` as on twisted.web. A socket gives every whole
text to its ``Conversation``, and bounds what it reads, what it holds, and what it lets pile up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError, generate_accept_token

from ..errors import BadRequest, UpgradeRequired
from .stream import Heartbeats, Paced

NORMAL = 1000
UNSUPPORTED_DATA = 1003
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
"""The server is stopping, and the client may come back (RFC 6455 §7.4.1 and IANA's registry)."""


_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
"""Base64 of 16 bytes (RFC 6455 §4.1)."""


class Conversation(Protocol):
    """What is spoken over a socket."""

    def opened(self, socket: Socket) -> None:
        """Begin: texts may be sent from now on."""

    def text_received(self, text: str) -> None:
        """Take in one whole text message."""

    def drained(self) -> None:
        """Go on with a backlog: the client has taken what was sent."""

    def lost(self) -> None:
        """End: nothing arrives or leaves any more."""


def text_frame(text: bytes) -> bytes:
    """Return one unmasked text frame, as servers send them (RFC 6455 §5.2)."""
    length = len(text)
    if length < 126:
        return b"\x81%c" % length + text
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2) + text
    return b"\x81\x7f" + length.to_bytes(8) + text


def accept(request: Any, converse: Callable[[], Conversation], heartbeats: Heartbeats, most: int) -> Socket:
    """Answer an upgrade request with 101 and return the socket that it became.

    ``converse`` makes its conversation, and may raise to refuse it; ``most`` bounds a message in bytes.
    Raises ``BadRequest`` where the request asks for no WebSocket, ``UpgradeRequired`` for another version.
    """
    token = _checked(request)
    conversation = converse()
    head = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n" % token
    socket = Socket(conversation, heartbeats, most)
    upgrade = getattr(request, "upgrade", None)
    if upgrade is not None:
        upgrade(socket, head)
    else:
        _upgrade_channel(request.channel, socket, head)
    return socket


def _checked(request: Any) -> bytes:
    """Return the token that accepts the handshake (RFC 6455 §4.2)."""
    key = request.getHeader(b"sec-websocket-key") or b""
    if (
        request.method != b"GET"
        or b"websocket" not in _tokens(request, b"upgrade")
        or b"upgrade" not in _tokens(request, b"connection")
        or not _KEY.fullmatch(key)
    ):
        raise BadRequest(
            "A WebSocket is opened here: by GET with Upgrade: websocket, Connection: Upgrade, "
            "a Sec-WebSocket-Key of 16 bytes in base64, and Sec-WebSocket-Version: 13."
        )
    if request.getHeader(b"sec-websocket-version") != b"13":
        raise UpgradeRequired("Version 13 of the WebSocket protocol is spoken here; ask for that one.")
    return generate_accept_token(key)


def _tokens(request: Any, name: bytes) -> list[bytes]:
    """Return the words of a header field, in lower case."""
    return [word.strip().lower() for word in (request.getHeader(name) or b"").split(b",")]


def _upgrade_channel(channel: Any, socket: Socket, head: bytes) -> None:
    # What twisted.web.websocket does too: the channel stays, and hands on what it is given.
    channel.setTimeout(None)
    transport = channel.transport
    channel.dataReceived = socket.dataReceived
    channel.rawDataReceived = socket.dataReceived  # what it was given along with the request
    channel.connectionLost = socket.connectionLost
    transport.write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % head)
    socket.makeConnection(transport)  # type: ignore[no-untyped-call]  # Twisted's
    early, channel._dataBuffer = b"".join(channel._dataBuffer), []
    if early:
        # It came while an embedding program was asked whether the client may come in.
        transport.resumeProducing()
        socket.dataReceived(early)


class Socket(Paced, TwistedProtocol):
    """A WebSocket connection on the server's side. Compression is not agreed to: it costs memory for each."""

    def __init__(self, conversation: Conversation, heartbeats: Heartbeats, most: int) -> None:
        super().__init__()
        self._conversation = conversation
        self._number = 0
        self._heartbeats = heartbeats
        self._most = most
        self._frames = Connection(ConnectionType.SERVER)
        self._text: list[str] = []
        self._size = 0
        self._answered = True

    def send_text(self, text: bytes) -> None:
        """Send one text message."""
        self._write(text_frame(text))

    def send_frame(self, frame: bytes) -> None:
        """Send a frame that was made before, or several; a client that lets too much pile up is cut off."""
        self._write(frame)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Say that this is the end, and end; the conversation hears no more but ``lost``."""
        if self._open:
            self._open = False
            self._end(CloseConnection(code, reason))

    # -- what Twisted calls

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        """Begin the conversation."""
        self._open = True
        assert self.transport is not None
        self.transport.unregisterProducer()  # type: ignore[attr-defined]  # whoever wrote the 101 had its own
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]  # ITransport leaves it out
        self._number = self._heartbeats.add(self)
        self._conversation.opened(self)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Take in frames, or parts of them."""
        if self._frames.state is ConnectionState.CLOSED:
            return
        try:
            self._frames.receive_data(data)
            for event in self._frames.events():
                self._received(event)
        except LocalProtocolError:
            self._abort()

    def connectionLost(self, reason: Failure | None = None) -> None:  # noqa: ARG002, N802  Twisted's
        """End the conversation."""
        self._open = False
        self._heartbeats.remove(self, self._number)
        self._conversation.lost()

    # -- how it is done

    def _received(self, event: object) -> None:
        if isinstance(event, TextMessage):
            self._text_received(event)
        elif isinstance(event, Ping):
            if self._open:
                self._write(self._frames.send(event.response()))
        elif isinstance(event, Pong):
            self._answered = True
        elif isinstance(event, BytesMessage):
            self.close(UNSUPPORTED_DATA, "text messages only")
        elif isinstance(event, CloseConnection):
            if self._frames.state in {ConnectionState.REMOTE_CLOSING, ConnectionState.OPEN}:
                self._open = False
                self._end(event.response())
            else:
                self._lose()

    def _text_received(self, event: TextMessage) -> None:
        if not self._open:
            return
        self._size += len(event.data.encode())
        if self._size > self._most:
            self.close(MESSAGE_TOO_BIG, f"a message has at most {self._most} bytes")
            return
        if event.data:  # else empty fragments without end would be kept
            self._text.append(event.data)
        if event.message_finished:
            text = "".join(self._text)
            self._text.clear()
            self._size = 0
            self._conversation.text_received(text)

    def beat(self) -> None:
        """Ask whether the client lives, or end it where it does not."""
        if self._paused_at is not None and self._open:
            # Its answer to a ping would wait behind all that it has not taken yet.
            if self._has_stalled():
                self._abort()
        elif self._answered and self._open:
            self._answered = False
            self._write(self._frames.send(Ping()))
        else:
            self._abort()  # silent for a whole interval, or told that this is the end

    def _end(self, event: CloseConnection) -> None:
        self._flush()
        self._put(self._frames.send(event))
        # The client's close frame may still come, but nobody needs it: the connection ends with this one.
        self._lose()

    def _lose(self) -> None:
        if self.transport is not None:
            self.transport.unregisterProducer()  # type: ignore[attr-defined]  # else it is not closed
            self.transport.loseConnection()

    # -- what pacing asks for

    def _seconds(self) -> float:
        return self._heartbeats.seconds()

    def _put(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def _abort(self) -> None:
        self._open = False
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]  # ITCPTransport's

    def _caught_up(self) -> None:
        self._conversation.drained()
