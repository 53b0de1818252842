"""The conversation at ``/ws``: a client reads its recipients, and pushes (HTTP.md, "WebSocket").

Each text from the server is a message object, ``{"gap": true}``, or the answer to a push. Each text from the
client is a push.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from sys import getsizeof
from typing import Any, Generic, TypeVar

from msgspec import Raw, Struct
from msgspec.json import Decoder
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..core.hub import Hub
from ..core.message import JSON_TYPE, Batch, Content, Cursor, Push, Receipt
from ..core.readers import Follower
from ..core.recipient import recipient
from ..deferreds import MaybeDeferred, is_pending
from ..errors import BadBody, BadRecipient, CometError, InternalError
from ..jsontext import decode, dumps, parse
from ..limits import RECIPIENTS_PER_REQUEST
from .websocket import INTERNAL_ERROR, POLICY_VIOLATION, SERVICE_RESTART, Socket, text_frame

G = TypeVar("G")

_GAP = text_frame(b'{"gap":true}')
_NO_REF = b"null"


class _Asked(Struct):
    """A text of a client's. ``ref`` and ``data`` are kept as they came."""

    push: Any = None
    data: Raw = Raw()
    event: Any = None
    ref: Raw = Raw(_NO_REF)


_ASKED = Decoder(_Asked)


class PubSubSocket(Generic[G]):
    """One client at ``/ws``: it follows its recipients from a cursor on, and pushes.

    ``admit`` returns what a push is granted, and ``push`` makes it; both may raise what it is refused with.
    While a push waits for what it is granted, the texts behind it wait too: pushes stay in their order.
    ``name`` is that under which the client is present. The constructor parks the reader, and raises
    ``ServerFull`` or ``Stopping``.
    """

    log = Logger()

    def __init__(
        self,
        hub: Hub,
        recipients: tuple[str, ...],
        after: Cursor,
        admit: Callable[[Push], MaybeDeferred[G]],
        push: Callable[[G, Push], MaybeDeferred[Receipt]],
        acks: bool = True,
        name: str | None = None,
    ) -> None:
        self._hub = hub
        self._admit = admit
        self._push = push
        self._is_admitting = False
        self._texts: deque[str] = deque()
        """Texts behind a push that waits for what it is granted: those of one read."""
        self._held = 0
        self._socket: Socket | None = None
        self.reader: Follower | None = hub.follow(recipients, after, self._deliver, acks=acks, name=name)
        """The parked reader. It fires when the server ends it, and is cancelled at a disconnect."""
        self.reader.addCallbacks(self._server_stopping, self._failed)

    def opened(self, socket: Socket) -> None:
        """Begin to deliver messages."""
        self._hub.counts.sockets += 1
        self._socket = socket
        self.drained()

    def drained(self) -> None:
        """Deliver what has come while the client did not keep up."""
        if self.reader is not None:
            self.reader.go_on()

    def beat(self) -> None:
        """Acknowledge what was sent."""
        if self.reader is not None:
            self.reader.come_back()

    def disconnected(self) -> None:
        """Forget the reader."""
        self._hub.counts.sockets -= 1
        # Both refer to this object: a cycle would live until old garbage is collected.
        follower, self.reader, self._socket = self.reader, None, None
        self._texts.clear()
        if follower is not None:
            follower.cancel()

    def token_expired(self) -> None:
        """Close the socket: its token has expired."""
        if self._socket is not None:
            self._socket.close(POLICY_VIOLATION, "the token has expired")

    def refused(self, error: CometError) -> None:
        """Close the socket: its client may read no more."""
        if self._socket is not None:
            self._socket.close(POLICY_VIOLATION, f"reading is refused now: {error.status} {error.kind}")

    def text_received(self, text: str) -> None:
        """Make the push that a text asks for, and answer with its ``ref``."""
        if not self._is_admitting:
            self._take_in(text)
            return
        self._texts.append(text)
        self._hold(self._held + getsizeof(text))

    def _hold(self, size: int) -> None:
        """Count what is kept of the client's pushes, in bytes."""
        self._held = size
        if self._socket is not None:
            self._socket.hold_backlog(size)

    def _take_in(self, text: str) -> None:
        ref = _NO_REF
        try:
            try:
                asked = decode(text.encode(), _ASKED)
            except ValueError as error:
                raise BadBody(
                    f'A text is one JSON object, as in {{"push": "alice", "data": "hi", "ref": 7}}: {error}.'
                ) from None
            if bytes(asked.ref)[:1] in {b"[", b"{"}:
                raise BadBody("ref is a string, a number, true, false or null; it comes back as it is.")
            ref = bytes(asked.ref)
            push = _push(asked)
            grant = self._admit(push)
            if is_pending(grant):
                self._wait_for(grant, push, ref)
            else:
                self._make(grant, push, ref)
        except CometError as error:
            self._refuse(ref, error)

    def _wait_for(self, grant: Deferred[G], push: Push, ref: bytes) -> None:
        """Make the push once it is granted, and take in the texts behind it after that."""
        self._is_admitting = True
        self._hold(sum([getsizeof(content.body) for content in push.contents]))
        if self._socket is not None:
            self._socket.wait()

        def granted(granted: G) -> None:
            if self._socket is not None:  # else its client has disconnected, and the push is not accepted
                self._make(granted, push, ref)

        def go_on(_: object) -> None:
            self._is_admitting = False
            self._hold(sum(map(getsizeof, self._texts)))
            while self._texts and not self._is_admitting:
                self._take_in(self._texts.popleft())
            if self._socket is not None and not self._is_admitting:
                self._hold(0)
                self._socket.go_on()

        grant.addCallback(granted).addErrback(self._push_failed, ref).addCallback(go_on)

    def _make(self, grant: G, push: Push, ref: bytes) -> None:
        receipt = self._push(grant, push)
        if isinstance(receipt, Deferred):
            receipt.addCallbacks(self._confirm, self._push_failed, callbackArgs=(ref,), errbackArgs=(ref,))
        else:
            self._confirm(receipt, ref)

    def _deliver(self, batch: Batch) -> bool:
        """Send a batch; return whether the next one may be sent at once."""
        assert self._socket is not None, "a follower delivers nothing before its first go_on"
        self._socket.send_frame(batch.once("ws", frames))
        return not self._socket.congested

    def _server_stopping(self, _: None) -> None:
        if self._socket is not None:
            self._socket.close(SERVICE_RESTART, "the server is stopping")

    def _failed(self, failure: Failure) -> None:
        """Close the socket where the store failed before it had found the place of the reader."""
        if not failure.check(CancelledError):
            self._hub.store_failed(failure)
            if self._socket is not None:
                self._socket.close(INTERNAL_ERROR, "the server failed; come back")

    def _confirm(self, receipt: Receipt, ref: bytes) -> None:
        self._answer(b'{"ref":%b,"receipt":%b}' % (ref, receipt.json))

    def _push_failed(self, failure: Failure, ref: bytes) -> None:
        error = failure.value
        if not isinstance(error, CometError):
            self.log.failure("A push over a WebSocket failed", failure)
            error = InternalError("The server failed to handle this push; its log says why.")
        self._refuse(ref, error)

    def _refuse(self, ref: bytes, error: CometError) -> None:
        self._hub.counts.refusals[error.kind] += 1
        self._answer(b'{"ref":%b,"error":%b}' % (ref, dumps(error.problem())))

    def _answer(self, text: bytes) -> None:
        if self._socket is not None:
            self._socket.send_text(text)


def _push(asked: _Asked) -> Push:
    names = asked.push
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadBody("push names a recipient, or a list of them.")
    if not 0 < len(names) <= RECIPIENTS_PER_REQUEST:
        raise BadRecipient(f"A push names from 1 to {RECIPIENTS_PER_REQUEST} recipients.")
    data = bytes(asked.data)
    if not data:
        raise BadBody("data is missing: it is the message, a string or any other JSON.")
    event = asked.event
    if event is not None and not isinstance(event, str):
        raise BadBody("event is a string.")
    try:
        content = Content.of(parse(data)) if data[:1] == b'"' else Content.parse(data, JSON_TYPE)
    except ValueError as error:
        raise BadBody(str(error)) from None
    return Push(tuple(dict.fromkeys(map(recipient, names))), (content,), event)


def frames(batch: Batch) -> bytes:
    """Return the frames of a batch, after the frame of a gap where messages are no longer kept."""
    texts = b"".join([text_frame(message.json) for message in batch.messages])
    return _GAP + texts if batch.gap else texts
