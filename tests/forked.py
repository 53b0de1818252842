"""A command that runs Python code in a fork of a process that has imported the server, in its own place.

    python -S forked.py SOCKET CODE WORD…

It does what ``python -c CODE WORD…`` does, some 0.6 s sooner. The new process has this one's open files,
directory and environment. This one passes signals on to it, and ends as it ends. SOCKET is the address of a
fork server (``fork_server.py``), which ends the new process where this one is killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

NUMBER = struct.Struct("i")
PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def ask(address: str, request: dict[str, Any], files: Sequence[int]) -> socket.socket:
    """Ask for a process that has the files; return the connection that tells of it.

    The request is a line of JSON, and the files are sent beside it (SCM_RIGHTS). The answer is two numbers:
    the id of the process, and its exit code once it has ended.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    data = json.dumps(request).encode() + b"\n"
    sent = socket.send_fds(connection, [data], files)
    if sent < len(data):  # to send nothing fails where the process has ended already
        connection.sendall(data[sent:])
    return connection


def number(connection: socket.socket) -> int:
    """Return the next number of an answer."""
    data = connection.recv(NUMBER.size)
    if not data:
        raise ConnectionError("the fork server has ended")
    read: int = NUMBER.unpack(data)[0]
    return read


def is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def main(address: str, code: str, *words: str) -> int:
    files = [file for file in map(int, os.listdir("/dev/fd")) if is_open(file)]  # noqa: PTH208  see below
    request = {
        "code": code,
        "argv": ["-c", *words],
        "cwd": os.getcwd(),  # noqa: PTH109  pathlib takes longer to import than all of this takes
        "env": dict(os.environ),
        "files": files,
        "ignored": [name for name in PASSED_ON if signal.getsignal(name) is signal.SIG_IGN],
    }
    connection = ask(address, request, files)
    pid = number(connection)

    def pass_on(name: int, _: object) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, name)

    for name in PASSED_ON:
        signal.signal(name, pass_on)
    status = number(connection)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
