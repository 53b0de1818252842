"""What the commands do: parsed words arrive, a status leaves. All that is sent goes through the client.

Each command is a coroutine over a ``CommandCall``, so that tests run it in memory; ``run`` connects it to
the process: its descriptors, its signals, its reactor.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.python.failure import Failure

from ..client import Client, Following, Listener, NoAnswer, NotComet, Standing
from ..client.following import GOODBYE_SECONDS
from ..core.message import Batch, Cursor, timestamp
from ..core.store import Listing
from ..errors import CometError
from ..http.responses import members_of
from ..jsontext import dumps
from . import status
from .executing import CHILD, CommandFailed, Interrupted, execute, work
from .parser import PATIENCE_SECONDS
from .pushing import CommandCall, push
from .terminal import Input, OutputMonitor, RetryNotes, Terminal, escaped
from .wording import reworded

# -- poll, take, follow, listen


async def poll(call: CommandCall) -> int:
    """Print what was read, taken or leased."""
    given, client = call.arguments, call.client
    words: dict[str, Any] = {"wait": given.wait, "limit": given.limit}
    batch: Batch
    if vars(given).get("after") is not None:
        batch = await client.poll(given.names, _cursor(given.after), ack=not given.no_ack, **words)
    elif vars(given).get("lease") is not None:
        batch = await client.lease(given.names, given.lease, **words)
    else:
        batch = await client.take(given.names, **words)
    if given.json:
        call.terminal.write(call.terminal.json_line(batch.json))
    else:
        if batch.gap:
            call.terminal.report("Messages before these are lost: the server no longer keeps them.")
        for message in batch.messages:
            call.terminal.show(message, form=given.format, raw=given.raw)
    return status.DONE if batch.messages else status.NOTHING


async def take(call: CommandCall) -> int:
    """Print what was taken or leased, or work on one message after the other by a command."""
    given = call.arguments
    return await poll(call) if given.exec is None else await work(given, call.client, call.terminal)


async def follow(call: CommandCall) -> int:
    """Print messages, or give them to a command, until it is ended."""
    given, notes = call.arguments, RetryNotes(call.terminal)
    following = call.client.follow(
        given.names,
        _cursor(given.after),
        cursor_file=given.cursor_file,
        on_gap=partial(_report_gap, call, notes),
        on_retry=notes.on_retry,
        patience=PATIENCE_SECONDS if given.patience is None else given.patience,
        stream=given.stream,
        ack=not given.no_ack,
    )
    return await handle_all(following, call, notes)


async def listen(call: CommandCall) -> int:
    """Register a listener, print its id, and print messages until it is ended."""
    given, terminal, notes = call.arguments, call.terminal, RetryNotes(call.terminal)

    def announce(listener: Listener) -> None:
        if given.json:
            terminal.write(terminal.json_line(dumps({"listener": listener.id})))
        terminal.report(f"Listening as {listener.id}")

    listener: Listener = await call.client.register(given.names, ttl=given.ttl)
    announce(listener)
    following = listener.follow(
        on_gap=partial(_report_gap, call, notes), on_retry=notes.on_retry, on_registered=announce
    )
    try:
        return await handle_all(following, call, notes)
    finally:
        with suppress(CometError):  # the server forgets it anyway, a little later
            await listener.end()


def _report_gap(call: CommandCall, notes: RetryNotes, after: Cursor) -> None:
    if call.arguments.json:
        call.terminal.write(b'{"gap":true}\n')
    notes.on_gap(after)


async def handle_all(following: Following, call: CommandCall, notes: RetryNotes) -> int:
    """Print each message, or give it to the command; the cursor moves once that is done."""
    given, terminal = call.arguments, call.terminal
    handled = 0
    async with following:
        async for message in following:
            notes.recovered()
            if given.exec is None:
                terminal.show(message, json=given.json, form=given.format, raw=given.raw)
            else:
                execute(given.exec, message, terminal, keep_going=given.keep_going)
            handled += 1
            if handled == given.count:
                break
    return status.DONE


def _cursor(text: str) -> Cursor:
    try:
        return Cursor.parse(text)
    except ValueError:
        raise Misused(
            f"--after {text}: it takes a cursor that a server gave out, oldest, now, last:50 or since:600."
        ) from None


class Misused(Exception):
    """An argument was parsed and has a value that is not allowed; the text is a sentence about it."""


# -- info, ls, delete


async def info(call: CommandCall) -> int:
    """Print the state of the server, or of recipients."""
    if not call.arguments.names:
        call.terminal.write(await _server(call))
    for name in call.arguments.names:
        _show_recipient(call, await call.client.describe(name))
    return status.DONE


_FIGURES = {
    "parked": "readers waiting",
    "listeners": "listeners registered",
    "mailboxes": "mailboxes",
    "messages": "messages kept",
    "memory_bytes": "bytes of memory for them",
}


async def _server(call: CommandCall) -> bytes:
    client, terminal = call.client, call.terminal
    health = (await client.request("GET", "healthz")).json()
    try:
        gauges = _gauges((await client.request("GET", "metrics")).body)
    except CometError:
        gauges = {}  # the metrics are turned off, or not for this client
    if call.arguments.json:
        return terminal.json_line(dumps({"url": client.url, **health, **gauges}))
    lines = [f"{client.url}  {terminal.green('takes requests')}\n"]
    for name, words in _FIGURES.items():
        if name in gauges:
            most = gauges.get(f"{name}_max")
            bound = terminal.dim(f" of {most:,}") if most is not None else ""
            lines.append(f"  {gauges[name]:>13,} {words}{bound}\n")
    return "".join(lines).encode()


_NO_GAUGES = ("_total", "_created", "_sum", "_count")


def _gauges(text: bytes) -> dict[str, int]:
    """Return the server's own gauges out of Prometheus' text."""
    gauges = {}
    for line in text.decode().splitlines():
        name, _, number = line.partition(" ")
        if name.startswith("cometd_lite_") and "{" not in name and not name.endswith(_NO_GAUGES):
            with suppress(ValueError):
                gauges[name.removeprefix("cometd_lite_")] = int(float(number))
    return gauges


def _show_recipient(call: CommandCall, standing: Standing) -> None:
    terminal = call.terminal
    if call.arguments.json:
        terminal.write(terminal.json_line(dumps(members_of(standing))))
        return
    online = terminal.green("online") if standing.online else terminal.dim("offline")
    place = "" if standing.newest is None else f", newest {standing.newest}"
    seen = None if standing.waiting else standing.last_seen
    last = "" if seen is None else f", last seen {timestamp(seen)}"
    line = (
        f"{escaped(standing.recipient)}  {online}: {standing.waiting} waiting, "
        f"{standing.queued} queued ({standing.bytes:,} bytes){place}{last}\n"
    )
    terminal.write(line.encode())


async def ls(call: CommandCall) -> int:
    """Print how mailboxes stand, a line for each, by their names."""
    page: Listing[Standing] = await call.client.recipients(call.arguments.prefix)
    while True:
        for standing in page.recipients:
            _show_recipient(call, standing)
        if page.more is None:
            return status.DONE
        page = await call.client.recipients(call.arguments.prefix, after=page.more)


async def delete(call: CommandCall) -> int:
    """Delete what the mailboxes of recipients hold."""
    for name in call.arguments.names:
        await call.client.delete(name)
    return status.DONE


COMMANDS: Mapping[str, Callable[[CommandCall], Coroutine[Any, Any, int]]] = {
    command.__name__: command for command in (push, poll, take, follow, listen, info, ls, delete)
}


# -- the process


_WRONG: tuple[tuple[type[Exception], int], ...] = (
    (NoAnswer, status.NO_ANSWER),
    (NotComet, status.NO_ANSWER),
    (CometError, status.REFUSED),
    (CommandFailed, status.COMMAND_FAILED),
    (Misused, status.USAGE),
    (ValueError, status.USAGE),  # a cursor file of something else, or a message that is none
    (OSError, status.USAGE),  # a file that is not there, or a disk that is full
)
"""The errors that are no fault of the command, and their statuses."""


async def status_of(work: Coroutine[Any, Any, int], terminal: Terminal) -> int:
    """Run a command and return its status; print an error as one sentence."""
    try:
        return await work
    except BrokenPipeError:
        return status.DONE
    except Interrupted:
        return status.INTERRUPTED
    except tuple(kind for kind, _ in _WRONG) as error:
        terminal.report(_sentence(error))
        return next(found for kind, found in _WRONG if isinstance(error, kind))


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error}."
    return reworded(error.detail if isinstance(error, CometError) else str(error))


def run(name: str, arguments: argparse.Namespace) -> int:
    """Run a command in this process, and return its status."""
    terminal = Terminal()
    try:
        client = Client(arguments.url, token=arguments.token)
    except ValueError as error:
        terminal.report(str(error))
        return status.USAGE
    from twisted.internet import reactor  # noqa: PLC0415  importing it installs one

    return Process(reactor, client, terminal).run(name, arguments)


class Process:
    """A command that runs, and its status once it ends: by itself, by a signal, or by a closed output."""

    def __init__(self, reactor: Any, client: Client, terminal: Terminal) -> None:
        self._reactor = reactor
        self._client = client
        self._terminal = terminal
        self._status: int | None = None
        self._asked_to_end: int | None = None
        self._work: Deferred[int] | None = None

    def run(self, name: str, arguments: argparse.Namespace) -> int:
        """Run the reactor for as long as the command takes, and return its status."""
        reactor = self._reactor
        try:
            # Before the signal handlers are set, because opening a named pipe blocks.
            source = self._input(arguments)
        except OSError as error:
            self._terminal.report(_sentence(error))
            return status.USAGE
        terminated = status.DONE if _has_no_end(arguments) else status.TERMINATED
        for number, ends_as in ((signal.SIGINT, status.INTERRUPTED), (signal.SIGTERM, terminated)):
            signal.signal(number, partial(self._on_signal, ends_as))
        call = CommandCall(arguments, self._client, self._terminal, source)
        work = status_of(COMMANDS[name](call), self._terminal)
        reactor.callWhenRunning(self._begin, work)
        # Twisted's own handlers would end the process by the signal, before a listener was ended.
        reactor.run(installSignalHandlers=False)
        return status.DONE if self._status is None else self._status

    def _input(self, arguments: argparse.Namespace) -> Input | None:
        """Return the input of a push whose message is not an argument. Raises ``OSError``."""
        if "words" not in arguments or arguments.words:
            return None
        file = arguments.file
        if file not in {None, "-"}:
            return Input(self._reactor, os.open(file, os.O_RDONLY), file)
        if sys.stdin is None:
            raise OSError(errno.EBADF, "it is closed", _STDIN)
        return Input(self._reactor, sys.stdin.fileno(), _STDIN)

    def _begin(self, work: Coroutine[Any, Any, int]) -> None:
        OutputMonitor(self._reactor, sys.stdout.fileno(), lambda: self._end(status.DONE))
        self._work = Deferred.fromCoroutine(work)
        self._work.addBoth(self._ended)

    def _on_signal(self, ends_as: int, number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
        self._asked_to_end = ends_as
        CHILD.end(number)
        self._reactor.callFromThread(self._end, ends_as)

    def _end(self, ends_as: int) -> None:
        if self._status is None:
            self._status = ends_as
            if self._work is not None:
                # A server that does not answer must not keep the end of a listener waiting.
                self._reactor.callLater(GOODBYE_SECONDS, self._stop)
                self._work.cancel()

    def _ended(self, result: int | Failure) -> None:
        if not isinstance(result, Failure):
            if self._status is None:
                self._status = result if self._asked_to_end is None else self._asked_to_end
        elif self._status is None or not result.check(CancelledError):
            self._terminal.report(f"This is an error of the command itself: {result.getTraceback()}")
            self._status = status.REFUSED
        self._stop()

    def _stop(self) -> None:
        with suppress(ReactorNotRunning):
            self._reactor.stop()


_STDIN = "standard input"


def _has_no_end(arguments: argparse.Namespace) -> bool:
    if "lease" in arguments and arguments.exec is None:
        return False
    if "count" in arguments:
        return arguments.count is None
    return "lines" in arguments and (arguments.lines or arguments.ndjson)
