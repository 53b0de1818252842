"""The COMMAND of ``--exec``, which is given a message; signals that end the program end it as well."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping


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
