"""What was typed wrongly, in a sentence: options and words that there are not, with those that were meant."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable
from typing import NoReturn

from ..http.spelling import nearest
from . import status

_CHOICE = re.compile(r"argument ([^:]*): invalid choice: '(.*)' \(choose from (.*)\)")

_BYTES = frozenset({"words", "file", "cursor_file", "exec"})
"""The arguments that may be bytes of any kind, which Python has as surrogates."""


def meant_by(word: str, known: Iterable[str]) -> str | None:
    """Return the one known word that a wrong one is near to, or begins; None where there is none."""
    words = sorted(known)
    begun = [right for right in words if len(word) > 1 and right.startswith(word)]
    return begun[0] if len(begun) == 1 else nearest(word, words)


class CommandParser(argparse.ArgumentParser):
    """argparse, whose errors are a sentence and where to read on, without all of the usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with the status of a wrong use."""
        help_ = f"{self.prog} --help says what it takes."
        self.exit(status.USAGE, f"cometd-lite: {self._sentence(message)}\n{help_}\n")

    def _sentence(self, message: str) -> str:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message and not unknown.startswith("-"):
            return f"{unknown.split()[0]} is a word too many."
        if unknown != message:
            option = unknown.split()[0].partition("=")[0]
            known = [name[2:] for name in self._option_string_actions if name.startswith("--")]
            meant = meant_by(option.removeprefix("--"), known)
            return f"there is no option {option}{'.' if meant is None else f'; did you mean --{meant}?'}"
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            return f"{missing.removesuffix(', MESSAGE')} is missing."
        choice = _CHOICE.fullmatch(message)
        if choice is not None:
            known = re.findall(r"[\w-]+", choice[3])
            return f"{choice[1]}: there is no {choice[2]}; there are {', '.join(known)}."
        return message.removeprefix("argument ").removesuffix(".") + "."


def check_text(parser: CommandParser, arguments: argparse.Namespace) -> None:
    """Refuse bytes that are no text, and empty names; a message and a file may be any bytes."""
    for option, value in vars(arguments).items():
        if option in _BYTES:
            continue
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and _is_no_text(word):
                parser.error(f"{os.fsencode(word)!r} is not UTF-8; names and options are.")
            if word == "" and option in {"name", "names", "rcpt"}:
                parser.error("a NAME is empty; it has 1 to 256 bytes of UTF-8, as in bob or chat/lobby.")


def _is_no_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return True
    return False
