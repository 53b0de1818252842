"""The command's input and outputs: standard input or a file, standard output, and standard error.

A message is written at once, and whole. On a terminal, control characters in messages are escaped. Where the
reader of standard output closes it, the command ends at once, and not only at the next message.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any, BinaryIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ..core.message import Cursor, Message, timestamp
from ..errors import CometError
from .formats import LineFormat
from .wording import reworded

NOTE_SECONDS = 60.0
"""An error that is repeated is reported this often."""

READ_BYTES = 64 * 1024
"""The size of one read: what a pipe holds."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_C1 = re.compile(r"[\x7f-\x9f]")
"""The control characters that JSON allows in a string as they are."""
_RED, _GREEN, _DIM, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[2m", "\x1b[0m"


class Terminal:
    """Standard output and standard error; ``is_terminal`` says whether standard output is a terminal."""

    def __init__(self, out: BinaryIO | None = None) -> None:
        self._out = out or sys.stdout.buffer
        self.is_terminal = self._out.isatty()
        self._line_is_open = False
        self._colours = _colours()

    def write(self, data: bytes) -> None:
        """Write and flush. Raises ``BrokenPipeError`` where the reader has closed it."""
        self._out.write(data)
        self._out.flush()

    def json_line(self, document: bytes) -> bytes:
        """Return a JSON text as a line; for a terminal with its C1 control characters escaped."""
        if self.is_terminal:
            document = _C1.sub(lambda found: f"\\u{ord(found[0]):04x}", document.decode()).encode()
        return document.removesuffix(b"\n") + b"\n"

    def show(
        self, message: Message, *, json: bool = False, form: LineFormat | None = None, raw: bool = False
    ) -> None:
        """Write a message on a line: its text, its JSON, or its bytes; with ``json`` the whole of it.

        ``form`` is the form of the line, and ``raw`` writes the bytes of the message and nothing besides. The
        line of octets ends when the next message comes: one file that is read alone is not changed.
        """
        content = message.content
        if json:
            self.write(self.json_line(message.json))
            return
        if raw:
            self.write(content.body)
            return
        if form is not None:
            text = form.line(_fields(message))
            self.write((escaped(text) if self.is_terminal else text).encode(errors="replace") + b"\n")
            return
        if content.form == "octets" and self.is_terminal:
            line = f"({len(content.body):,} bytes of {escaped(content.type)})".encode()
        else:
            line = content.data() if content.form == "json" else content.body
            if self.is_terminal:
                line = escaped(line.decode()).encode()
        begin = b"\n" if self._line_is_open else b""
        ends = line.endswith(b"\n")
        self._line_is_open = content.form == "octets" and not ends and not self.is_terminal
        self.write(begin + line + (b"" if ends or self._line_is_open else b"\n"))

    def report(self, text: str) -> None:
        """Write a sentence to standard error."""
        name = f"{_RED}cometd-lite:{_PLAIN}" if self._colours and sys.stderr.isatty() else "cometd-lite:"
        sys.stderr.write(f"{name} {escaped(text)}\n")
        sys.stderr.flush()

    def green(self, text: str) -> str:
        """Return a text in green, where standard output shows colours."""
        return f"{_GREEN}{text}{_PLAIN}" if self._colours and self.is_terminal else text

    def dim(self, text: str) -> str:
        """Return a text in grey, where standard output shows colours."""
        return f"{_DIM}{text}{_PLAIN}" if self._colours and self.is_terminal else text


def _fields(message: Message) -> dict[str, Any]:
    content = message.content
    return {
        "id": message.id,
        "recipient": message.recipient,
        "created_at": timestamp(message.created_at),
        "type": content.type,
        "event": message.event,
        "data": b64encode(content.body).decode() if content.form == "octets" else message.data,
    }


class RetryNotes:
    """Reports what is retried: once for each error, not for each attempt."""

    def __init__(self, terminal: Terminal, seconds: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._seconds = seconds
        self._last: str | None = None
        self._told_at = 0.0

    def on_retry(self, error: CometError, delay: float) -> None:
        """Report an error after which a request is retried."""
        del delay  # each is longer than the last; the reason matters to a user, and not the time
        now = self._seconds()
        why = reworded(error.detail)
        if why != self._last or now - self._told_at >= NOTE_SECONDS:
            self._last, self._told_at = why, now
            self._terminal.report(f"{why} Trying again.")

    def on_gap(self, after: Cursor) -> None:
        """Report that messages are lost."""
        self._terminal.report(f"Messages after {after} are lost: the server no longer keeps them.")

    def recovered(self) -> None:
        """Note that a request was answered: the next error is reported even if it is the same."""
        self._last = None


def escaped(text: str) -> str:
    """Return a text whose control characters are escaped, except for line breaks and tabs."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _colours() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Descriptor:
    """A descriptor of this process, in the reactor. ``name`` is its name in errors and in Twisted's log."""

    def __init__(self, reactor: Any, descriptor: int, name: str) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._name = name

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:  # noqa: N802  Twisted's name
        return self._name


@implementer(IReadDescriptor)
class Input(Descriptor):
    """A descriptor that is read on request. It stays blocking, because other processes may share it."""

    def __init__(self, reactor: Any, descriptor: int, name: str) -> None:
        super().__init__(reactor, descriptor, name)
        self._waiting: Deferred[bytes] | None = None

    def chunk(self) -> Deferred[bytes]:
        """Return a Deferred of the next bytes, which are empty at the end. Fails with ``OSError``."""
        self._waiting = Deferred(lambda _: self._reactor.removeReader(self))
        self._reactor.addReader(self)
        return self._waiting

    def doRead(self) -> None:  # noqa: N802  Twisted's name
        read: bytes | Failure
        try:
            read = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return  # another process has read it
        except OSError as error:
            read = Failure(OSError(error.errno, error.strerror, self._name))
        self._reactor.removeReader(self)
        self._deliver(read)

    def connectionLost(self, reason: Failure) -> None:  # noqa: ARG002, N802  Twisted's name
        self._deliver(b"")

    def _deliver(self, data: bytes | Failure) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(data)


@implementer(IReadDescriptor)
class OutputMonitor(Descriptor):
    """Calls ``on_closed`` when the reader of a pipe closes it, even while there is nothing to write.

    Without it ``cometd-lite follow builds | grep -m1 done`` would end one message too late.
    """

    def __init__(self, reactor: Any, descriptor: int, on_closed: Callable[[], object]) -> None:
        super().__init__(reactor, descriptor, "standard output")
        self._on_closed = on_closed
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(kind):  # a writing end is never readable: an event on it is its end
            reactor.addReader(self)

    def doRead(self) -> None:  # noqa: N802  Twisted's name
        """Do nothing: nothing is read from an output."""

    def connectionLost(self, reason: Failure) -> None:  # noqa: ARG002, N802  Twisted's name
        self._on_closed()
