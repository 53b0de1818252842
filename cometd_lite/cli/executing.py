"""The COMMAND of ``--exec``: what it gets of a message, what its end means, and the signals that end it."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
from collections.abc import Mapping

from twisted.internet.threads import deferToThread

from ..client import Client
from ..core.message import LeasedMessage, Message, timestamp
from . import status
from .terminal import RetryNotes, Terminal

VARIABLE_CHARACTERS = 25_000
"""Characters of an environment variable for COMMAND: Linux takes 128 KiB of each, in UTF-8."""


class Child:
    """Runs one shell command at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._signal: int | None = None

    def run(self, command: str, data: bytes, environment: Mapping[str, str | bytes]) -> int:
        """Give a command its input, wait for its end, and return its status; below 0 it is a signal."""
        # It blocks, and is meant to: nothing else is under way, and the next message waits for its end.
        with subprocess.Popen(  # noqa: S602  the user who gave the command runs it; the message is its input
            command, shell=True, stdin=subprocess.PIPE, env=environment
        ) as process:
            self._process = process
            if self._signal is not None:  # it came while the command was being started
                process.send_signal(self._signal)
            try:
                process.communicate(data)
            finally:
                self._process = None
        return process.returncode

    @property
    def is_ending(self) -> bool:
        """Whether a signal has ended the command, or will end the next one."""
        return self._signal is not None

    def end(self, number: int) -> None:
        """Pass a signal on to the command that runs, if one does; a signal handler may call this."""
        self._signal = number
        if self._process is not None:
            self._process.send_signal(number)


CHILD = Child()
"""A process has one, as it has one set of signal handlers."""


class CommandFailed(Exception):
    """The COMMAND of ``--exec`` did not end with 0."""


class Interrupted(Exception):
    """The COMMAND of ``--exec`` was ended by a signal that ends this program too."""


def execute(command: str, message: Message, terminal: Terminal, *, keep_going: bool) -> None:
    """Give a message to a shell command and wait for its end.

    Raises ``CommandFailed``, unless it is to ``keep_going``, and ``Interrupted``.
    """
    # It blocks, and is meant to: the next message waits for its end.
    failure = _failure(CHILD.run(command, message.content.body, _environment(message, terminal)))
    if failure is None:
        return
    if not keep_going:
        raise CommandFailed(f"The command {failure} for message {message.id}, which counts as not handled.")
    terminal.report(f"The command {failure} for message {message.id}.")


async def work(arguments: argparse.Namespace, client: Client, terminal: Terminal) -> int:
    """Lease messages, and give each to a command, which ends with 0 where the message is done."""
    notes = RetryNotes(terminal)
    worked = 0

    def on_gone(message: LeasedMessage) -> None:
        terminal.report(
            f"The lease of message {message.id} had ended: another worker has it, or it is no more."
        )

    working = client.work(arguments.names, arguments.lease, on_gone=on_gone, on_retry=notes.on_retry)
    async with working:
        async for message in working:
            notes.recovered()
            environment = _environment(message, terminal)
            # In a thread, because the reactor extends the lease meanwhile.
            running = deferToThread(CHILD.run, arguments.exec, message.content.body, environment)
            failure = _failure(await running)
            if failure is not None:
                terminal.report(f"The command {failure} for message {message.id}, attempt {message.attempt}.")
                await working.release()
            worked += 1
            if worked == arguments.count:
                break
    return status.DONE


def _failure(ended_with: int) -> str | None:
    """Return how a command has failed; None where it ended with 0. Raises ``Interrupted``."""
    if CHILD.is_ending or ended_with in {-signal.SIGINT, 128 + signal.SIGINT}:
        raise Interrupted
    if ended_with == 0:
        return None
    return f"ended with {ended_with}" if ended_with > 0 else f"was ended by signal {-ended_with}"


def _environment(message: Message, terminal: Terminal) -> dict[str, str | bytes]:
    variables = {
        "COMET_ID": message.id,
        "COMET_RECIPIENT": message.recipient,
        "COMET_TYPE": message.content.type,
        "COMET_EVENT": message.event or "",
        "COMET_CREATED_AT": timestamp(message.created_at),
    }
    if isinstance(message, LeasedMessage):
        variables["COMET_ATTEMPT"] = str(message.attempt)
    environment: dict[str, str | bytes] = {**os.environ}
    for name, value in variables.items():
        fitting = value.replace("\0", "\ufffd")[:VARIABLE_CHARACTERS].encode(errors="replace")
        if fitting != value.encode(errors="surrogatepass"):
            terminal.report(f"{name} is cut for message {message.id}: no variable can hold all of it.")
        # In bytes, because the system's encoding may lack a character. Windows takes no bytes.
        environment[name] = fitting if os.supports_bytes_environ else fitting.decode()
    return environment
