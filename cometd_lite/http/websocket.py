"""WebSockets (RFC 6455): ``accept`` upgrades an exchange, and ``Socket`` is the connection that comes of it.

The frames of the client are parsed by the Sans-I/O ``Protocol`` of the package ``websockets``. Text frames of
the server are made by ``text_frame``: they carry no mask, so that one frame is made for all its readers. What
the messages mean is up to a ``Conversation``: ``pubsub`` at ``/ws``, ``bayeux.socket`` at ``/cometd``.
"""

from __future__ import annotations

import re
from base64 import b64encode
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from hashlib import sha1
from io import StringIO
from typing import Protocol, cast

from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SEND_EOF, Side
from websockets.protocol import Protocol as FrameProtocol

from ..errors import BadRequest, UpgradeRequired
from ..limits import SOCKET_READ_BYTES, SOCKET_SECONDS
from .exchange import Exchange
from .stream import BackpressuredWriter, Heartbeats

NORMAL = 1000
UNSUPPORTED_DATA = 1003
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
"""The server is stopping, and the client may come back (RFC 6455 §7.4.1 and IANA's registry)."""

_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
"""Base64 of 16 bytes (RFC 6455 §4.1)."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What RFC 6455 §1.3 has a server append to the key."""
_CONTROL_BYTES = 125
"""The longest payload of a control frame (RFC 6455 §5.5)."""
_WIDTH = 4
"""The bytes that a character of a text takes, where one of its characters takes as many (PEP 393)."""
_PING = b"\x89\x00"

_utf8_decoder = getincrementaldecoder("utf-8")


class Conversation(Protocol):
    """What is spoken over a socket."""

    def opened(self, socket: Socket) -> None:
        """Begin: texts may be sent from now on."""

    def text_received(self, text: str) -> None:
        """Take in one whole text message."""

    def drained(self) -> None:
        """Go on with a backlog: everything that was written is sent."""

    def beat(self) -> None:
        """Do what is to be done now and then while everything that was written is sent."""

    def disconnected(self) -> None:
        """End: the connection is lost."""


def text_frame(text: bytes) -> bytes:
    """Return one unmasked text frame, as servers send them (RFC 6455 §5.2)."""
    length = len(text)
    if length < 126:
        return b"\x81%c" % length + text
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2) + text
    return b"\x81\x7f" + length.to_bytes(8) + text


def accept(
    exchange: Exchange, converse: Callable[[], Conversation], heartbeats: Heartbeats, max_bytes: int
) -> Socket:
    """Answer an upgrade request with 101; return the socket that the connection has become.

    ``converse`` makes the conversation, and may raise to refuse the upgrade. ``max_bytes`` bounds a message
    of the client. No extension is negotiated: compression takes memory for each connection. Raises
    ``BadRequest`` where the request asks for no WebSocket, ``UpgradeRequired`` for another version.
    """
    key = _checked_key(exchange)
    conversation = converse()
    socket = Socket(conversation, heartbeats, max_bytes, exchange.unsent, exchange.is_sending, exchange.hold)
    token = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    exchange.upgrade(
        socket, b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n" % token
    )
    return socket


def _checked_key(exchange: Exchange) -> bytes:
    """Return the key of an opening handshake that is as RFC 6455 §4.2.1 asks."""
    key = exchange.head.get(b"sec-websocket-key") or b""
    if (
        exchange.method != b"GET"
        or b"websocket" not in _tokens(exchange, b"upgrade")
        or b"upgrade" not in _tokens(exchange, b"connection")
        or not _KEY.fullmatch(key)
    ):
        raise BadRequest(
            "A WebSocket is opened here: by GET with Upgrade: websocket, Connection: Upgrade, "
            "a Sec-WebSocket-Key of 16 bytes in base64, and Sec-WebSocket-Version: 13."
        )
    if exchange.head.get(b"sec-websocket-version") != b"13":
        raise UpgradeRequired("Version 13 of the WebSocket protocol is spoken here; ask for that one.")
    return key


def _tokens(exchange: Exchange, name: bytes) -> list[bytes]:
    """Return the tokens of a header field that is a list, in lower case."""
    return [token.strip().lower() for token in (exchange.head.get(name) or b"").split(b",")]


class _Fragments:
    """The text of a message that comes in fragments. It is decoded as it comes, and joined once."""

    __slots__ = ("_decoder", "_text", "size")

    def __init__(self) -> None:
        self.size = 0
        self._decoder = _utf8_decoder()
        self._text = StringIO()

    def add(self, frame: Frame) -> str | None:
        """Return the text if the fragment is the last one. Raises ``UnicodeDecodeError``."""
        self.size += len(frame.data)
        self._text.write(self._decoder.decode(frame.data, frame.fin))
        return self._text.getvalue() if frame.fin else None


class Socket(BackpressuredWriter, TwistedProtocol):
    """The server's end of a WebSocket connection.

    ``unsent`` returns how many bytes the client has not taken yet. While there are any, the socket parses
    nothing, so that a client which does not read its answers cannot ask for more of them.
    """

    def __init__(
        self,
        conversation: Conversation,
        heartbeats: Heartbeats,
        max_bytes: int,
        unsent: Callable[[], int],
        is_sending: Callable[[], bool],
        hold: Callable[[int], object] = lambda _: None,
    ) -> None:
        super().__init__(heartbeats, unsent)
        self._conversation = conversation
        self._max_bytes = max_bytes
        self.is_sending = is_sending
        """Returns whether bytes are on their way to the client; see ``Exchange``."""
        self._hold = hold
        self._held = self._backlog = 0
        # Its bound counts a control frame between two fragments as a part of the message; ours does not.
        self._frames = FrameProtocol(Side.SERVER, max_size=max_bytes + _CONTROL_BYTES)
        self._fragments: _Fragments | None = None
        """The message of which some fragments have come."""
        self._unread = b""
        """What came while the transport had unsent bytes, or the conversation had to wait."""
        self._is_waiting = False
        """Whether the conversation takes no further text now."""
        self._is_alive = True
        """Whether the last ping was answered."""

    def send_text(self, text: bytes) -> None:
        """Send one text message."""
        self.send_frame(text_frame(text))

    def send_frame(self, frame: bytes) -> None:
        """Send a frame that ``text_frame`` made, or several."""
        if self._open and self.transport is not None:
            self.transport.write(frame)

    def hold_backlog(self, size: int) -> None:
        """Count ``size`` bytes that the conversation keeps of what the client has sent."""
        self._backlog = size
        self._count_kept()

    def _count_kept(self) -> None:
        """Count what is kept of messages that are not complete, and of what was not parsed."""
        fragments = 0 if self._fragments is None else self._fragments.size
        held = len(self._unread) + len(self._frames.reader.buffer) + _WIDTH * fragments + self._backlog
        if held != self._held:
            self._held = held
            self._hold(held)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Send a close frame, and close the connection; then only ``disconnected`` is still called."""
        if self._open:
            self._send_last(Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False))

    def wait(self) -> None:
        """Read no further texts until ``go_on``; some that came at the same time are still delivered."""
        self._is_waiting = True

    def go_on(self) -> None:
        """Read on."""
        self._is_waiting = False
        self._read_on()

    def beat(self) -> None:
        """Send a ping; disconnect a client that has not answered the last one, or has stalled."""
        if self._open and self.congested:
            # The answer to a ping would come after it has taken everything before that.
            if self._is_stalled():
                self._abort()
        elif self._open and self._is_alive:
            self._is_alive = False
            self.send_frame(_PING)
            self._conversation.beat()
        else:
            self._abort()  # it is silent, or does not end the connection after the close frame

    # -- what Twisted calls

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        """Begin the conversation."""
        self._open = True
        assert self.transport is not None
        self.transport.unregisterProducer()  # type: ignore[attr-defined]  # the HTTP server had one
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]  # ITransport leaves it out
        self._number = self._heartbeats.add(self)
        self._conversation.opened(self)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        """Parse frames, or parts of them. While bytes are unsent, keep what came, and stop reading.

        What comes at once is parsed for ``SOCKET_SECONDS``, and the rest of it in later turns of the reactor.
        """
        if self._unread:
            data = self._unread + data
        at = 0
        until = self._heartbeats.seconds() + SOCKET_SECONDS
        while at < len(data) and self._open and not (self.congested or self._is_waiting):
            self._parse(data[at : at + SOCKET_READ_BYTES])
            at += SOCKET_READ_BYTES
            if at < len(data) and self._heartbeats.seconds() > until:
                self._heartbeats.call_soon(self._read_on)
                break
        self._unread = data[at:]
        self._count_kept()
        if self._unread and self._open:
            self.transport.pauseProducing()  # type: ignore[union-attr]  # ITransport leaves it out

    def connectionLost(self, reason: Failure | None = None) -> None:  # noqa: ARG002, N802  Twisted's
        """End the conversation."""
        self._open = False
        self._heartbeats.remove(self, self._number)
        self._conversation.disconnected()
        self._hold(0)
        # The parser is a generator that refers to its protocol: a cycle would live until old garbage is
        # collected.
        self._frames.parser.close()

    # -- frames of the client

    def _parse(self, data: bytes) -> None:
        frames = self._frames
        frames.receive_data(data)
        # The pongs that are due, in the order of the pings; then a close frame, if the client has sent one or
        # broken the protocol.
        replies = iter(frames.data_to_send())
        for frame in cast(list[Frame], frames.events_received()):
            self._frame_received(frame, replies)
            if not self._open:
                return
        for reply in replies:
            if reply != SEND_EOF:
                self._send_last(reply)

    def _frame_received(self, frame: Frame, replies: Iterator[bytes]) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.CONT:
            self._text_received(frame)
        elif opcode is Opcode.PING:
            self.send_frame(next(replies))
        elif opcode is Opcode.PONG:
            self._is_alive = True
        elif opcode is Opcode.BINARY:
            self.close(UNSUPPORTED_DATA, "text messages only")

    def _text_received(self, frame: Frame) -> None:
        fragments = self._fragments
        size = len(frame.data) if fragments is None else fragments.size + len(frame.data)
        if size > self._max_bytes:
            self.close(MESSAGE_TOO_BIG, f"a message has at most {self._max_bytes} bytes")
            return
        try:
            if fragments is None and frame.fin:
                text: str | None = str(frame.data, "utf-8")
            else:
                fragments = self._fragments = fragments or _Fragments()
                text = fragments.add(frame)
        except UnicodeDecodeError:
            self.close(INVALID_DATA, "a text message is UTF-8")
            return
        if text is not None:
            self._fragments = None
            self._conversation.text_received(text)

    # -- the end

    def _send_last(self, close_frame: bytes) -> None:
        """Send a close frame, and close the connection without waiting for the client's (RFC 6455 §7.1.1)."""
        self.send_frame(close_frame)
        self._open = False
        if self.transport is not None:
            self.transport.unregisterProducer()  # type: ignore[attr-defined]  # else it is not closed
            self.transport.loseConnection()

    def _abort(self) -> None:
        self._open = False
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]  # ITCPTransport's

    def _resume(self) -> None:
        self._read_on()
        if self._open and not self.congested:
            self._conversation.drained()

    def _read_on(self) -> None:
        if self._unread:
            self.dataReceived(b"")
            if self._open and not self._unread:
                self.transport.resumeProducing()  # type: ignore[union-attr]  # ITransport leaves it out
