"""What the commands do: parsed words arrive, a status leaves. All that is sent goes through the client.

Each command is a coroutine over a ``Terminal`` and a ``Client``, so that tests run it in memory; ``run``
connects it to the process: its descriptors, its signals, its reactor.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.python.failure import Failure

from ..client import Client, Following, Listener, NoAnswer, NotComet, Standing
from ..client.following import GOODBYE_SECONDS
from ..core.message import Batch, Cursor, timestamp
from ..core.store import Listing
from ..errors import CometError
from ..jsontext import dumps
from . import status
from .child import CHILD
from .executing import CommandFailed, Interrupted, execute, work
from .parser import PATIENCE_SECONDS
from .pushing import LineSource, push
from .terminal import Input, OutputMonitor, RetryNotes, Terminal, escaped
from .wording import reworded

# -- poll, follow, listen


async def poll(
    arguments: argparse.Namespace, client: Client, terminal: Terminal, _: LineSource | None
) -> int:
    """Print the answer of one poll or take."""
    words: dict[str, Any] = {"wait": arguments.wait, "limit": arguments.limit}
    batch: Batch
    if arguments.after is None:
        batch = await client.take(arguments.names, **words)
    else:
        batch = await client.poll(arguments.names, _cursor(arguments.after), **words)
    return _print(batch, arguments, terminal)


def _print(batch: Batch, arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.json:
        terminal.write(terminal.json_line(batch.json))
    else:
        if batch.gap:
            terminal.report("Messages before these are lost: the server no longer keeps them.")
        for message in batch.messages:
            terminal.show(message, form=arguments.format, raw=arguments.raw)
    return status.DONE if batch.messages else status.NOTHING


async def take(
    arguments: argparse.Namespace, client: Client, terminal: Terminal, _: LineSource | None
) -> int:
    """Print what was taken or leased, or work on one message after the other by a command."""
    if arguments.exec is not None:
        return await work(arguments, client, terminal)
    words: dict[str, Any] = {"wait": arguments.wait, "limit": arguments.limit}
    batch: Batch
    if arguments.lease is None:
        batch = await client.take(arguments.names, **words)
    else:
        batch = await client.lease(arguments.names, arguments.lease, **words)
    return _print(batch, arguments, terminal)


async def follow(
    arguments: argparse.Namespace, client: Client, terminal: Terminal, _: LineSource | None
) -> int:
    """Print messages, or give them to a command, until it is ended."""
    notes = RetryNotes(terminal)
    following = client.follow(
        arguments.names,
        _cursor(arguments.after),
        cursor_file=arguments.cursor_file,
        on_gap=_on_gap(arguments, terminal, notes),
        on_retry=notes.on_retry,
        patience=PATIENCE_SECONDS if arguments.patience is None else arguments.patience,
        stream=arguments.stream,
    )
    return await handle_all(following, arguments, terminal, notes)


async def listen(
    arguments: argparse.Namespace, client: Client, terminal: Terminal, _: LineSource | None
) -> int:
    """Register a listener, print its id, and print messages until it is ended."""
    notes = RetryNotes(terminal)

    def announce(listener: Listener) -> None:
        if arguments.json:
            terminal.write(terminal.json_line(dumps({"listener": listener.id})))
        terminal.report(f"Listening as {listener.id}")

    listener: Listener = await client.register(arguments.names, ttl=arguments.ttl)
    announce(listener)
    following = listener.follow(
        on_gap=_on_gap(arguments, terminal, notes), on_retry=notes.on_retry, on_registered=announce
    )
    try:
        return await handle_all(following, arguments, terminal, notes)
    finally:
        with suppress(CometError):  # the server forgets it anyway, a little later
            await listener.end()


def _on_gap(arguments: argparse.Namespace, terminal: Terminal, notes: RetryNotes) -> Callable[[Cursor], None]:
    def gap(after: Cursor) -> None:
        if arguments.json:
            terminal.write(b'{"gap":true}\n')
        notes.on_gap(after)

    return gap


async def handle_all(
    following: Following, arguments: argparse.Namespace, terminal: Terminal, notes: RetryNotes
) -> int:
    """Print each message, or give it to the command; the cursor moves once that is done."""
    handled = 0
    async with following:
        async for message in following:
            notes.recovered()
            if arguments.exec is None:
                terminal.show(message, json=arguments.json, form=arguments.format, raw=arguments.raw)
            else:
                execute(arguments.exec, message, terminal, keep_going=arguments.keep_going)
            handled += 1
            if handled == arguments.count:
                break
    return status.DONE


def _cursor(text: str) -> Cursor:
    try:
        return Cursor.parse(text)
    except ValueError:
        raise Misused(
            f"--after {text}: not a cursor that a server gave out, or oldest, now, last:50 or since:600."
        ) from None


class Misused(Exception):
    """An argument was parsed and has a value that is not allowed; the text is a sentence about it."""


# -- info, ls, delete


async def info(
    arguments: argparse.Namespace, client: Client, terminal: Terminal, _: LineSource | None
) -> int:
    """Print the state of the server, or of recipients."""
    if not arguments.names:
        terminal.write(await _server(arguments, client, terminal))
    for name in arguments.names:
        standing: Standing = await client.describe(name)
        terminal.write(_recipient(arguments, standing, terminal))
    return status.DONE


async def _server(arguments: argparse.Namespace, client: Client, terminal: Terminal) -> bytes:
    health = (await client.request("GET", "healthz")).json()
    try:
        gauges = _gauges((await client.request("GET", "metrics")).body)
    except CometError:
        gauges = {}  # the metrics are turned off, or not for this client
    if arguments.json:
        return terminal.json_line(dumps({"url": client.url, **health, **gauges}))
    lines = [f"{client.url}  {terminal.green('takes requests')}"]
    for name, words in (
        ("parked", "readers waiting"),
        ("listeners", "listeners registered"),
        ("mailboxes", "mailboxes"),
        ("messages", "messages kept"),
        ("memory_bytes", "bytes of memory for them"),
    ):
        if name in gauges:
            most = gauges.get(f"{name}_max")
            bound = terminal.dim(f" of {most:,}") if most is not None else ""
            lines.append(f"  {gauges[name]:>13,} {words}{bound}")
    return "".join([f"{line}\n" for line in lines]).encode()


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


def _recipient(arguments: argparse.Namespace, standing: Standing, terminal: Terminal) -> bytes:
    seen = None if standing.last_seen is None else timestamp(standing.last_seen)
    if arguments.json:
        members = {
            "recipient": standing.recipient,
            "waiting": standing.waiting,
            "queued": standing.queued,
            "bytes": standing.bytes,
            "leased": standing.leased,
            "oldest": standing.oldest and str(standing.oldest),
            "newest": standing.newest and str(standing.newest),
            "last_seen": seen,
            "online": standing.online,
        }
        return terminal.json_line(dumps(members))
    online = terminal.green("online") if standing.online else terminal.dim("offline")
    place = "" if standing.newest is None else f", newest {standing.newest}"
    last = "" if seen is None or standing.waiting else f", last seen {seen}"
    return (
        f"{escaped(standing.recipient)}  {online}: {standing.waiting} waiting, "
        f"{standing.queued} queued ({standing.bytes:,} bytes){place}{last}\n"
    ).encode()


async def ls(arguments: argparse.Namespace, client: Client, terminal: Terminal, _: LineSource | None) -> int:
    """Print how mailboxes stand, a line for each, by their names."""
    after = None
    while True:
        page: Listing[Standing] = await client.recipients(arguments.prefix, after=after)
        for presence in page.recipients:
            terminal.write(_recipient(arguments, presence, terminal))
        after = page.more
        if after is None:
            return status.DONE


async def delete(arguments: argparse.Namespace, client: Client, _: Terminal, __: LineSource | None) -> int:
    """Delete what the mailboxes of recipients hold."""
    for name in arguments.names:
        await client.delete(name)
    return status.DONE


Command = Callable[[argparse.Namespace, Client, Terminal, LineSource | None], Coroutine[Any, Any, int]]

COMMANDS: Mapping[str, Command] = {
    "push": push,
    "poll": poll,
    "take": take,
    "follow": follow,
    "listen": listen,
    "info": info,
    "ls": ls,
    "delete": delete,
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

    return Process(reactor, client, terminal).run(COMMANDS[name], arguments)


class Process:
    """A command that runs, and its status once it ends: by itself, by a signal, or by a closed output."""

    def __init__(self, reactor: Any, client: Client, terminal: Terminal) -> None:
        self._reactor = reactor
        self._client = client
        self._terminal = terminal
        self._status: int | None = None
        self._asked_to_end: int | None = None
        self._work: Deferred[int] | None = None

    def run(self, command: Command, arguments: argparse.Namespace) -> int:
        """Run the reactor for as long as the command takes, and return its status."""
        reactor = self._reactor
        try:
            source = self._input(
                arguments
            )  # before the signal handlers are set, because opening a named pipe blocks
        except OSError as error:
            self._terminal.report(_sentence(error))
            return status.USAGE
        terminated = status.DONE if _has_no_end(arguments) else status.TERMINATED
        for number, ends_as in ((signal.SIGINT, status.INTERRUPTED), (signal.SIGTERM, terminated)):
            signal.signal(number, self._on_signal(ends_as))
        work = status_of(command(arguments, self._client, self._terminal, source), self._terminal)
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

    def _on_signal(self, ends_as: int) -> Callable[[int, object], None]:
        def on_signal(number: int, _: object) -> None:
            signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
            self._asked_to_end = ends_as
            CHILD.end(number)
            self._reactor.callFromThread(self._end, ends_as)

        return on_signal

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
    """Return whether a command runs until it is ended."""
    if "lease" in arguments and arguments.exec is None:
        return False
    if "count" in arguments:
        return arguments.count is None
    return "lines" in arguments and (arguments.lines or arguments.ndjson)
