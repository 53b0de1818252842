"""``cometd-lite``, the command: it reads arguments, prints messages, and returns a documented status.

    cometd-lite push bob hello
    tail -f log | cometd-lite push logs --lines
    cometd-lite follow logs

Arguments are parsed without Twisted, so that ``--help`` and completion answer at once; ``commands`` is
imported when a command runs. Every status is in ``status``, every option in ``parser``. Read ``parser`` and
``commands`` first, then ``pushing`` and ``terminal``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, those of the process unless given, and return its status."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, as by >&-
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  it is open until the process ends
    try:
        return _do(words)
    except SystemExit as exit_:  # argparse has printed its sentence; twistd's is still to be printed
        if isinstance(exit_.code, str):
            sys.stderr.write(f"{exit_.code}\n")
            return status.REFUSED
        return exit_.code or status.DONE
    except KeyboardInterrupt:
        return status.INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return status.DONE


def _do(words: list[str]) -> int:
    from .parser import ALIASES, COMMANDS, parse, usage  # noqa: PLC0415  programs that embed the package need no argparse

    name, rest = words[0] if words else "", words[1:]
    name = ALIASES.get(name, name)
    if name in _OWN:
        return _OWN[name](rest)
    if name not in COMMANDS:
        return usage(words)
    arguments = parse(name, rest)
    if name == "completion":
        from importlib.resources import files  # noqa: PLC0415  as above

        sys.stdout.write(files(__name__).joinpath("completions", arguments.shell).read_text("utf-8"))
        return status.DONE
    if name == "token":
        from .signing import token  # noqa: PLC0415  imports the libraries that sign

        return token(arguments)
    from .commands import run  # noqa: PLC0415  imports Twisted

    done = run(name, arguments)
    sys.stdout.flush()
    return done


def _serve(words: list[str]) -> int:
    from twisted.scripts.twistd import run  # noqa: PLC0415  as above

    from ..options import SERVE, WrongOption  # noqa: PLC0415  as above

    sys.argv = [SERVE, "--nodaemon", "--pidfile=", "cometd-lite", *words]
    try:
        run()
    except WrongOption as error:
        sys.stderr.write(f"{error}\n")
        return status.USAGE
    return status.DONE


def _bench(words: list[str]) -> int:
    from ..bench import main as bench  # noqa: PLC0415  as above
    from .mistakes import CommandParser  # noqa: PLC0415  as above

    for option, variable in (("--url", "COMETD_LITE_URL"), ("--token", "COMETD_LITE_TOKEN")):
        if variable in os.environ and not any(word.partition("=")[0] == option for word in words):
            words = [option, os.environ[variable], *words]
    return bench(words, CommandParser)


_OWN = {"serve": _serve, "bench": _bench}
"""The commands that parse their arguments themselves."""


def _forget_stdout() -> None:
    """Discard what the interpreter flushes at its end: the reader has closed the pipe of standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
