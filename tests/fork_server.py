"""Processes for tests, forked from one that has imported the server already.

``python -c CODE`` takes most of a second to import Twisted and ``cometd_lite``. ``fork`` runs the same
code in a fork of a process that has imported both, which takes a twentieth of that. ``spawn`` runs any
program. ``forked.py`` is a command that does what ``fork`` does, for a shell.

This file is both sides. The tests import it; the fork server is ``python fork_server.py LISTENING ADDRESS``,
started at the first use. Each process has its connection to the fork server (``forked.ask``): the process is
killed when that is closed. When the tests end, or are killed, the standard input of the fork server ends: it
kills all that it has started, and ends too.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import pkgutil
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple, NoReturn

from forked import NUMBER, ask, number

ROOT = Path(__file__).resolve().parents[1]
EXECUTE = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"

_MOST_FILES = 64
"""Files that one process can be given."""
_ASIDE = 300
"""Above the descriptors of the fork server: files wait there until their own places are free."""


class Process:
    """A process of the fork server, with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, args: Sequence[str], connection: socket.socket) -> None:
        self.args = args
        self.returncode: int | None = None
        self.connection = connection
        self.pid = number(connection)

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
            self.connection.settimeout(timeout)
            try:
                self.returncode = number(self.connection)
            except (TimeoutError, BlockingIOError):
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout) from None
            self.connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _ForkServer:
    """The fork server as the tests see it."""

    def __init__(self) -> None:
        self.address = str(Path(tempfile.mkdtemp(prefix="fork-")) / "socket")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.address)
            listening.listen()
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(listening.fileno()), self.address],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                pass_fds=[listening.fileno()],
            )
        atexit.register(self.stop)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@cache
def _fork_server() -> _ForkServer:
    return _ForkServer()


def fork(
    code: str,
    *words: str,
    cwd: Path,
    stdout: IO[bytes],
    pass_fds: Sequence[int] = (),
) -> Process:
    """Run Python code as ``python -c CODE WORDS`` does, with the server imported.

    Its standard output and error go to ``stdout``, and its standard input is empty. It has ``pass_fds`` open
    by the same numbers.
    """
    request = {
        "code": code,
        "argv": ["-c", *words],
        "cwd": str(cwd),
        "env": os.environ | {"PYTHONPATH": str(ROOT)},
        "files": [0, 1, 2, *pass_fds],
        "ignored": [],
    }
    with Path(os.devnull).open("rb") as nothing:
        standard = (nothing.fileno(), stdout.fileno(), stdout.fileno())
        return Process(request["argv"], ask(_fork_server().address, request, [*standard, *pass_fds]))


def forking_script(code: str) -> str:
    """Return a shell script that does what ``python -c CODE`` does with its words, in a fork."""
    program = Path(__file__).with_name("forked.py")
    words = shlex.join([sys.executable, "-S", str(program), _fork_server().address, code])
    return f'#!/bin/sh\nexec {words} "$@"\n'


def spawn(*command: str, cwd: Path, stdout: IO[bytes] | None = None, pass_fds: Sequence[int] = ()) -> Process:
    """Run a program as ``fork`` runs code; without ``stdout`` its output is dropped."""
    with ExitStack() as stack:
        output = stdout or stack.enter_context(Path(os.devnull).open("wb"))
        return fork(EXECUTE, *command, cwd=cwd, stdout=output, pass_fds=pass_fds)


# -- the other side


class _Request(NamedTuple):
    words: dict[str, Any]
    files: list[int]


def _serve(listening: socket.socket) -> str:
    """Fork for each request, and report what has ended. Returns, in each fork, the code that it is to run."""
    ended, waker = socket.socketpair()
    for end in (ended, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the tests end the processes
    running: dict[socket.socket, int] = {}
    while True:
        ready, _, _ = select.select([0, listening, ended, *running], [], [])
        if 0 in ready:
            _end(running)
        if ended in ready:
            ended.recv(4_096)
            _report(running)
        for connection in running.keys() & ready:
            os.kill(running[connection], signal.SIGKILL)  # nothing is sent: it has been closed
        if listening in ready:
            connection = listening.accept()[0]
            request = _receive(connection)
            if request is not None and not _fork(request, connection, running):
                signal.set_wakeup_fd(-1)
                for end in (listening, ended, waker, connection, *running):
                    end.close()
                return _become(request)


def _fork(request: _Request, connection: socket.socket, running: dict[socket.socket, int]) -> bool:
    """Fork, and note the process among those that run; return False in the fork."""
    if request.words["code"] != EXECUTE:
        _preload()
    pid = os.fork()
    if pid == 0:
        return False
    running[connection] = pid
    _send(connection, pid)
    for file in request.files:
        os.close(file)
    return True


def _end(running: dict[socket.socket, int]) -> NoReturn:
    for pid in running.values():
        os.kill(pid, signal.SIGKILL)
    sys.exit()


def _receive(connection: socket.socket) -> _Request | None:
    """Return the request on a connection; None where it was closed before."""
    data, files, _, _ = socket.recv_fds(connection, 65_536, _MOST_FILES)
    while data and not data.endswith(b"\n"):
        more = connection.recv(65_536)
        data = data + more if more else b""
    return _Request(json.loads(data), files) if data else None


def _report(running: dict[socket.socket, int]) -> None:
    """Write the exit codes of the processes that have ended."""
    for connection, pid in list(running.items()):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            del running[connection]
            _send(connection, os.waitstatus_to_exitcode(status))
            connection.close()


def _send(connection: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # who asked has ended
        connection.sendall(NUMBER.pack(number))


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
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all pages


def _become(request: _Request) -> str:
    """Let this fork be the process that was asked for; return the code that it is to run."""
    code: str = request.words["code"]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for ignored in request.words["ignored"]:
        signal.signal(ignored, signal.SIG_IGN)
    if code == EXECUTE:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # only Python ignores it
    aside = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _ASIDE) for file in request.files]
    os.closerange(0, _ASIDE)
    for file, place in zip(aside, request.words["files"], strict=True):
        os.dup2(file, place)
        os.close(file)
    for place, name in enumerate(("stdin", "stdout", "stderr")):
        if place not in request.words["files"]:
            setattr(sys, name, None)
    os.chdir(request.words["cwd"])
    os.environ.clear()
    os.environ.update(request.words["env"])
    sys.argv = request.words["argv"]
    sys.path[0] = ""
    return code


def _run(code: str) -> NoReturn:
    """Run the code, and end as Python does, but without a teardown of modules, which would copy them all."""
    try:
        exec(code, {"__name__": "__main__"})
        status: Any = 0
    except SystemExit as exit_:
        status = exit_.code or 0
        if not isinstance(status, int):
            sys.stderr.write(f"{status}\n")
            status = 1
    except BaseException as error:  # noqa: BLE001  a KeyboardInterrupt is no Exception
        sys.excepthook(type(error), error, error.__traceback__)
        status = None if isinstance(error, KeyboardInterrupt) else 1
    gc.collect()  # a Deferred logs its failure when it is collected
    threading._shutdown()  # type: ignore[attr-defined]  # it waits for threads
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        with suppress(AttributeError, BrokenPipeError, ValueError):  # there is none, or it was closed
            file.flush()
    if status is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    descriptor, address = sys.argv[1:]
    try:
        code = _serve(socket.socket(fileno=int(descriptor)))
    except SystemExit:
        shutil.rmtree(Path(address).parent)
        raise
    _run(code)
