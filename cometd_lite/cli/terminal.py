"""The ends of the command: bytes arrive on a descriptor, messages and sentences leave on two.

A message is written at once, and whole. What others wrote is shown on a terminal without what would command
the terminal. The reader of our output may close it; that is noticed at once, and not only at the next
message.
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
"""What goes wrong again and again in the same way is told this often."""

READ_BYTES = 64 * 1024
"""One read; a pipe holds as much."""

_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_C1 = re.compile(r"[\x7f-\x9f]")
"""The control characters that JSON allows in a string as they are."""
_RED, _GREEN, _DIM, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[2m", "\x1b[0m"


class Terminal:
    """Standard output and standard error, and whether they are a terminal."""

    def __init__(self, out: BinaryIO | None = None) -> None:
        self._out = out or sys.stdout.buffer
        self.looked_at = self._out.isatty()
        self._line_is_open = False
        self._colours = _colours()

    def write(self, data: bytes) -> None:
        """Write and flush. Raises ``BrokenPipeError`` where the reader has closed it."""
        self._out.write(data)
        self._out.flush()

    def json_line(self, document: bytes) -> bytes:
        """Return a JSON text as a line; for a terminal with its C1 control characters escaped."""
        if self.looked_at:
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
            self.write((harmless(text) if self.looked_at else text).encode(errors="replace") + b"\n")
            return
        if content.form == "octets" and self.looked_at:
            line = f"({len(content.body):,} bytes of {harmless(content.type)})".encode()
        else:
            line = content.data() if content.form == "json" else content.body
            if self.looked_at:
                line = harmless(line.decode()).encode()
        begin = b"\n" if self._line_is_open else b""
        ends = line.endswith(b"\n")
        self._line_is_open = content.form == "octets" and not ends and not self.looked_at
        self.write(begin + line + (b"" if ends or self._line_is_open else b"\n"))

    def say(self, text: str) -> None:
        """Tell a sentence on standard error."""
        name = f"{_RED}cometd-lite:{_PLAIN}" if self._colours and sys.stderr.isatty() else "cometd-lite:"
        sys.stderr.write(f"{name} {harmless(text)}\n")
        sys.stderr.flush()

    def green(self, text: str) -> str:
        """Return a text in green, where it will be seen."""
        return f"{_GREEN}{text}{_PLAIN}" if self._colours and self.looked_at else text

    def dim(self, text: str) -> str:
        """Return a text in grey, where it will be seen."""
        return f"{_DIM}{text}{_PLAIN}" if self._colours and self.looked_at else text


def _fields(message: Message) -> dict[str, Any]:
    """Return what ``--format`` may show of a message."""
    content = message.content
    return {
        "id": message.id,
        "recipient": message.recipient,
        "created_at": timestamp(message.created_at),
        "type": content.type,
        "event": message.event,
        "data": b64encode(content.body).decode() if content.form == "octets" else message.data,
    }


class Notes:
    """Tells what is being tried again: once for each trouble, not for each try."""

    def __init__(self, terminal: Terminal, seconds: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._seconds = seconds
        self._last: str | None = None
        self._told_at = 0.0

    def retry(self, error: CometError, delay: float) -> None:
        """Tell that something went wrong, and is tried again after ``delay`` seconds."""
        del delay  # each is longer than the last; who reads wants to know why, not when
        now = self._seconds()
        why = reworded(error.detail)
        if why != self._last or now - self._told_at >= NOTE_SECONDS:
            self._last, self._told_at = why, now
            self._terminal.say(f"{why} Trying again.")

    def gap(self, after: Cursor) -> None:
        """Tell that messages are lost."""
        self._terminal.say(f"Messages after {after} are lost: the server no longer keeps them.")

    def well(self) -> None:
        """Note that what went wrong is over."""
        self._last = None


def harmless(text: str) -> str:
    """Return a text with what would command a terminal made visible; line breaks and tabs stay."""
    return _COMMANDS.sub(lambda found: repr(found[0])[1:-1], text)


def _colours() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@implementer(IReadDescriptor)
class Input:
    """A descriptor that is read on request, and never made non-blocking: others may share it.

    ``name`` is what an error calls it.
    """

    def __init__(self, reactor: Any, descriptor: int, name: str) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._name = name
        self._waiting: Deferred[bytes] | None = None

    def chunk(self) -> Deferred[bytes]:
        """Return a Deferred of the bytes that come next; empty ones at the end. Fails with ``OSError``."""
        self._waiting = Deferred(lambda _: self._reactor.removeReader(self))
        self._reactor.addReader(self)
        return self._waiting

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def doRead(self) -> None:  # noqa: N802  Twisted's name
        """Read what is there."""
        read: bytes | Failure
        try:
            read = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return  # another process has read it
        except OSError as error:
            read = Failure(OSError(error.errno, error.strerror, self._name))
        self._reactor.removeReader(self)
        self._tell(read)

    def connectionLost(self, reason: Failure) -> None:  # noqa: ARG002, N802  Twisted's name
        """Note the end of a pipe whose other end was closed."""
        self._tell(b"")

    def logPrefix(self) -> str:  # noqa: N802  Twisted's name
        """Return the name for Twisted's log."""
        return "input"

    def _tell(self, data: bytes | Failure) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(data)


@implementer(IReadDescriptor)
class ReaderOfOurs:
    """The reader of our output: ``gone`` is called when it closes, also while there is nothing to write.

    Without it ``cometd-lite follow builds | grep -m1 done`` would end one message too late.
    """

    def __init__(self, reactor: Any, descriptor: int, gone: Callable[[], object]) -> None:
        self._descriptor = descriptor
        self._gone = gone
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(kind):  # the writing end is never readable: an event upon it is its end
            reactor.addReader(self)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def doRead(self) -> None:  # noqa: N802  Twisted's name
        """Nothing is read from where we write."""

    def connectionLost(self, reason: Failure) -> None:  # noqa: ARG002, N802  Twisted's name
        """Tell that the reader is gone."""
        self._gone()

    def logPrefix(self) -> str:  # noqa: N802  Twisted's name
        """Return the name for Twisted's log."""
        return "output"
