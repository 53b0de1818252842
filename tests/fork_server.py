"""Processes for tests, forked from one that has imported the server already.

``python -u -c CODE`` takes most of a second to import Twisted and ``cometd_lite``. ``fork`` runs the same
code in a fork of a process that has imported both, which takes a twentieth of that. ``spawn`` runs any
program.

This file is both sides. The tests import it; the fork server is ``python fork_server.py FD``, started at the
first use. A request is a line of JSON on a socket, with open files beside it (SCM_RIGHTS): the status of the
new process, its standard files, and those that it inherits. The fork server writes the id of the process to
the status, and its exit code when it has ended. When the tests end, or are killed, the socket is closed:
the fork server then kills all that it has started, and ends.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
NUMBER = struct.Struct("i")
EXECUTE = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"

_MOST_FILES = 64
"""Files that one process can be given."""
_ASIDE = 300
"""Above the descriptors of the fork server: files wait there until their own places are free."""


class Process:
    """A process of the fork server, with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, args: Sequence[str], status: socket.socket) -> None:
        self.args = args
        self.returncode: int | None = None
        self.status = status
        self.pid = self.read(None)

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, or the negative number of the signal that ended the process.

        Raises ``subprocess.TimeoutExpired``.
        """
        if self.returncode is None:
            self.returncode = self.read(timeout)
            self.status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def read(self, timeout: float | None) -> int:
        self.status.settimeout(timeout)
        try:
            data = self.status.recv(NUMBER.size)
        except (TimeoutError, BlockingIOError):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout) from None
        assert data, "the fork server has ended"
        number: int = NUMBER.unpack(data)[0]
        return number


class _ForkServer:
    """The fork server as the tests see it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-u", __file__, str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.stop)

    def start(self, request: dict[str, Any], files: Sequence[int]) -> Process:
        ours, theirs = socket.socketpair()
        with theirs:
            data = json.dumps(request).encode() + b"\n"
            sent = socket.send_fds(self.socket, [data], [theirs.fileno(), *files])
            self.socket.sendall(data[sent:])
        return Process(request["argv"], ours)

    def stop(self) -> None:
        self.socket.close()
        self.process.wait()


@cache
def _fork_server() -> _ForkServer:
    return _ForkServer()


def fork(
    code: str,
    *words: str,
    cwd: Path,
    stdout: IO[bytes],
    preload: bool = True,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Run Python code as ``python -u -c CODE WORDS`` does, with the server imported.

    Its standard output and error go to ``stdout``, and its standard input is empty. It has ``pass_fds`` open
    by the same numbers.
    """
    request = {
        "code": code,
        "argv": ["-c", *words],
        "cwd": str(cwd),
        "env": os.environ | {"PYTHONPATH": str(ROOT)},
        "preload": preload,
        "pass_fds": list(pass_fds),
    }
    with Path(os.devnull).open("rb") as nothing:
        standard = (nothing.fileno(), stdout.fileno(), stdout.fileno())
        return _fork_server().start(request, [*standard, *pass_fds])


def spawn(*command: str, cwd: Path, stdout: IO[bytes] | None = None, pass_fds: Sequence[int] = ()) -> Process:
    """Run a program as ``fork`` runs code; without ``stdout`` its output is dropped."""
    with ExitStack() as stack:
        output = stdout or stack.enter_context(Path(os.devnull).open("wb"))
        return fork(EXECUTE, *command, cwd=cwd, stdout=output, preload=False, pass_fds=pass_fds)


# -- the other side


class _Request(NamedTuple):
    words: dict[str, Any]
    files: list[int]


def _serve(control: socket.socket) -> str:
    """Fork for each request, and report what has ended. Returns, in each fork, the code that it is to run."""
    ended, waker = socket.socketpair()
    for end in (ended, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the tests end the processes
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control, ended], [], [])
        if ended in ready:
            ended.recv(4_096)
            _report(running)
        if control not in ready:
            continue
        request = _receive(control)
        if request is None:
            _end(running)
        elif not _fork(request, running):
            signal.set_wakeup_fd(-1)
            for end in (control, ended, waker):
                end.close()
            return _become(request)


def _fork(request: _Request, running: dict[int, int]) -> bool:
    """Fork, and note the process among those that run; return False in the fork."""
    if request.words["preload"]:
        _preload()
    pid = os.fork()
    if pid == 0:
        return False
    status, *others = request.files
    running[pid] = status
    os.write(status, NUMBER.pack(pid))
    for file in others:
        os.close(file)
    return True


def _end(running: dict[int, int]) -> NoReturn:
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    sys.exit()


def _receive(control: socket.socket) -> _Request | None:
    """Return the next request; None where the tests have ended."""
    data, files, _, _ = socket.recv_fds(control, 65_536, _MOST_FILES)
    while data and not data.endswith(b"\n"):
        data += control.recv(65_536)
    return _Request(json.loads(data), files) if data else None


def _report(running: dict[int, int]) -> None:
    """Write the exit codes of the processes that have ended."""
    for pid in list(running):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            told = running.pop(pid)
            with suppress(BrokenPipeError):  # the test that started it has ended
                os.write(told, NUMBER.pack(os.waitstatus_to_exitcode(status)))
            os.close(told)


@cache
def _preload() -> None:
    """Import what the server imports, but no reactor: forks would share the epoll descriptor of that one.

    Klein imports one for ``Klein.run``, which is not used. Modules that need one are left to the forks.
    """
    reactor = "twisted.internet.reactor"
    sys.modules[reactor] = ModuleType(reactor)
    for name in ("klein", "twisted.scripts.twistd", "twisted.internet.default", "twisted.protocols.haproxy"):
        import_module(name)
    sys.modules[reactor] = None  # type: ignore[assignment]  # from here its import fails
    package = import_module("cometd_lite")
    for module in pkgutil.walk_packages(package.__path__, "cometd_lite.", onerror=lambda name: None):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):
                import_module(module.name)
    del sys.modules[reactor]


def _become(request: _Request) -> str:
    """Let this fork be the process that was asked for; return the code that it is to run."""
    code: str = request.words["code"]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if code == EXECUTE:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # only Python ignores it
    aside = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _ASIDE) for file in request.files[1:]]
    os.closerange(3, _ASIDE)
    for file, place in zip(aside, (0, 1, 2, *request.words["pass_fds"]), strict=True):
        os.dup2(file, place)
        os.close(file)
    os.chdir(request.words["cwd"])
    os.environ.clear()
    os.environ.update(request.words["env"])
    sys.argv = request.words["argv"]
    sys.path[0] = ""
    return code


if __name__ == "__main__":
    exec(_serve(socket.socket(fileno=int(sys.argv[1]))), {"__name__": "__main__"})
