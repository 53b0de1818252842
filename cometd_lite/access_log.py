"""The access log, with a line for each request that is over, and the log of refusals.

A log is read by more people than a key. So no line has a token, the id of a listener, or a body: of the
target only what is known to be harmless is shown, and of a ``Referer`` no query.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.http import datetimeToLogString

from .core.message import timestamp
from .jsontext import dumps
from .limits import FAILURES_LOGGED_SECONDS, LOG_FIELD_BYTES, LOG_LINES, LOG_SECONDS

if TYPE_CHECKING:
    from .server import Request

FORMATS = ("combined", "json")
MODE = 0o640
"""Addresses and recipients are private: other users may not read the file."""

_HARMLESS = frozenset(
    {b"rcpt", b"after", b"wait", b"limit", b"format", b"event", b"ttl", b"queue", b"overflow", b"to"}
)
"""Parameters that are shown with their values."""
_SECRET = frozenset({b"token", b"listener", b"lease", b"as", b"message", b"jsonp"})
"""Those that are shown without. Of any other not even the name is: it may be a token in the wrong place."""
_ID = re.compile(rb"(?<=/)~[^/]*|(?<=/listeners/).+", re.DOTALL)
"""Where a path names a listener: its id alone lets a client read what the listener reads."""
_AND = re.compile(rb"[&;]")
_AFTER_PATH = re.compile(rb"[?#]")
_ESCAPED = re.compile(rb'["\\\x00-\x1f\x7f-\xff]')
_CLIENT = re.compile(rb'["\\\x00-\x20\x7f-\xff]')
"""As ``_ESCAPED``, and the space that ends the first field of a line."""
_CONTROLS = re.compile("[\x7f-\x9f]")
"""What JSON lets through, and a terminal may obey."""


def shown_target(uri: bytes) -> bytes:
    """Return a request's target as a log may have it."""
    path, mark, query = uri.partition(b"?")
    path = _shown_path(path)
    return path + mark + b"&".join(map(_shown_pair, _AND.split(query))) if mark else path


def _shown_path(path: bytes) -> bytes:
    decoded = unquote_to_bytes(path)  # as it is routed: a listener hides behind no %7E
    shown = _ID.sub(b"~", decoded)
    return path if shown == decoded else quote_from_bytes(shown, safe="/~:").encode()


def _shown_pair(pair: bytes) -> bytes:
    name, _, value = pair.partition(b"=")
    known = unquote_to_bytes(name)
    if known in _SECRET or (known in _HARMLESS and unquote_to_bytes(value).startswith(b"~")):
        return known + b"=-"
    return pair if known in _HARMLESS or not pair else b"-"


def _shown_referer(referer: bytes) -> bytes:
    return _shown_path(_AFTER_PATH.split(referer, maxsplit=1)[0]) if referer else b""


class AccessLog:
    """Writes a line for each request that is over, in the ``combined`` format or as ``json``.

    Lines are gathered for up to a second. What cannot be written is lost, which is logged once; requests do
    not wait for the log.
    """

    log = Logger()

    def __init__(
        self, file: Path, form: str, clock: IReactorTime, wall: Callable[[], float] = time.time
    ) -> None:
        self._file = file
        self._clock = clock
        self._wall = wall
        self._line = {"combined": self._combined, "json": self._json}[form]
        self._lines: list[bytes] = []
        self._descriptor = -1
        self._timer: Any = None
        self._failing = False

    def open(self) -> None:
        """Open the file, or open it again where it was renamed meanwhile. Raises ``OSError``.

        Where that fails, the one that was open stays.
        """
        opened = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        self.close()
        self._descriptor = opened

    def close(self) -> None:
        """Write what was gathered, and close the file."""
        self._write()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def add(self, request: Request) -> None:
        """Write a line, within a second."""
        self._lines.append(self._line(request))
        if self._timer is None:
            self._timer = self._clock.callLater(LOG_SECONDS, self._write)
        if len(self._lines) >= LOG_LINES:
            self._write()

    def _write(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        data, self._lines = b"".join(self._lines), []
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            if not self._failing:
                self.log.error(  # noqa: TRY400  all is said
                    "The access log {file} cannot be written, and lines are lost: {error}.",
                    file=str(self._file),
                    error=error.strerror,
                )
            self._failing = True
        else:
            self._failing = False

    def _combined(self, request: Request) -> bytes:
        line = b"%b %b HTTP/1.%d" % (request.method, shown_target(request.uri), request.minor)
        return b'%b - - %b "%b" %d %d "%b" "%b"\n' % (
            _CLIENT.sub(_hexadecimal, (request.client or "-").encode("utf-8", "replace")),
            _moment(int(self._wall())),
            _escaped(line) if request.method else b"-",
            request.code,
            request.sent,
            _escaped(_shown_referer(_field(request, b"referer"))) or b"-",
            _escaped(_field(request, b"user-agent")) or b"-",
        )

    def _json(self, request: Request) -> bytes:
        line = dumps(
            {
                "time": timestamp(self._wall()),
                "client": _text((request.client or "").encode("utf-8", "replace")),
                "method": _text(request.method),
                "target": _text(shown_target(request.uri)),
                "version": f"1.{request.minor}",
                "status": request.code,
                "bytes": request.sent,
                "seconds": round(request.age(), 6),
                "referer": _text(_shown_referer(_field(request, b"referer"))),
                "agent": _text(_field(request, b"user-agent")),
            }
        )
        return line + b"\n"


@lru_cache(maxsize=4)
def _moment(seconds: int) -> bytes:
    shown: str = datetimeToLogString(seconds)
    return shown.encode()


def _field(request: Request, name: bytes) -> bytes:
    value: bytes = request.head.get(name) or b""
    return value[:LOG_FIELD_BYTES]


def _escaped(text: bytes) -> bytes:
    r"""Return a text as it may stand between quotes on a line, others as nginx has them: ``\x22``."""
    return _ESCAPED.sub(_hexadecimal, text)


def _hexadecimal(found: re.Match[bytes]) -> bytes:
    return b"\\x%02X" % ord(found[0])


def _text(text: bytes) -> str:
    return _CONTROLS.sub("\ufffd", text.decode("utf-8", "replace"))


class Refusals:
    """Writes the refusals that ``counts`` counts by kind to the program's log.

    The first refusal of a kind is logged within a second, and the number of those that follow once a minute:
    many bad requests do not fill the disk. Nothing else of them is logged, for any of it may be secret.
    """

    log = Logger()

    def __init__(self, counts: Mapping[str, int], clock: IReactorTime) -> None:
        self._counts = counts
        self._clock = clock
        self._logged = dict(counts)
        self._quiet_until: dict[str, float] = {}
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def start(self) -> None:
        """Begin to look at the counts, every second."""
        self._looking.start(1.0, now=False)

    def stop(self) -> None:
        """Log what was not logged yet, and end."""
        with suppress(AssertionError):  # it was not started
            self._looking.stop()
        self._quiet_until.clear()
        self._look()

    def _look(self) -> None:
        now = self._clock.seconds()
        for kind, count in self._counts.items():
            if now < self._quiet_until.get(kind, now):
                continue
            self._quiet_until.pop(kind, None)
            new = count - self._logged.get(kind, 0)
            self._logged[kind] = count
            if new:
                self._quiet_until[kind] = now + FAILURES_LOGGED_SECONDS
                self.log.info("Refused {new}: {kind}", new=new, kind=kind)
