"""The command's arguments: parsed into a namespace, or refused by one sentence and the status 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, TypeAlias, TypeVar

from .. import __version__, units
from ..core.recipient import readable
from ..errors import BadRecipient
from ..limits import LEASE_SECONDS
from . import status
from .formats import LineFormat
from .mistakes import CommandParser, check_text, meant_by

T = TypeVar("T")

DEFAULT_URL = "http://localhost:8080"
PATIENCE_SECONDS = 10.0
"""The server has this long until its first answer: a restart takes less, and a person waits no longer."""
TOKEN_SECONDS = 3_600.0
"""How long a token is valid by default: a token that leaks later is of no use."""

TOKEN_SECONDS_MOST = 36_525 * 86_400.0
"""A century, beyond which times are mistakes."""

LISTENERS = "$listeners"
"""The name in a token's claim that allows ``POST /push?to=listeners``."""

COMMANDS = {
    "serve": "serve, in the foreground",
    "push": "push a message, or each line of what is piped in",
    "poll": "wait for the next messages and print them",
    "take": "take messages, or lease them and work on each by a command",
    "follow": "print messages as they come, without end",
    "listen": "register a listener with an address of its own, and follow it",
    "info": "show the state of the server, or of recipients",
    "ls": "list mailboxes: what they hold, and who reads them",
    "delete": "delete what a recipient's mailbox holds",
    "token": "sign a token that says who may push, poll and manage what",
    "bench": "measure a server",
    "completion": "print completion for a shell",
}

ALIASES = {"publish": "push", "subscribe": "follow"}
"""Other names of commands, as other programs have them."""

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
"""The shells that complete arguments; ``completions`` has a script for each."""


def usage(words: list[str]) -> int:
    """Handle arguments that do not begin with a command: print help, the version, or an error."""
    listed = "\n".join(f"  {name:<11} {about}" for name, about in COMMANDS.items())
    parser = CommandParser(
        prog="cometd-lite",
        usage="cometd-lite COMMAND ...",
        description=f"A comet server, and commands that push to it and read from it.\n\n{listed}\n\n"
        "publish is another name of push, and subscribe of follow.\n"
        "cometd-lite COMMAND --help shows a command's options, with examples.",
        epilog=status.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cometd-lite {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    known, _ = parser.parse_known_args(words[:1])
    if known.command is None:
        if words:
            parser.error(f"{words[0]} comes after a command, as in: cometd-lite push bob hello.")
        parser.print_help(sys.stderr)
    else:
        meant = meant_by(known.command, [*COMMANDS, *ALIASES])
        hint = f"there are {', '.join(COMMANDS)}." if meant is None else f"did you mean {meant}?"
        parser.error(f"there is no command {known.command!r}; {hint}")
    return status.USAGE


def parse(name: str, words: list[str]) -> argparse.Namespace:
    """Return the parsed arguments of a command. Exits as argparse does."""
    parser = parser_of(name)
    arguments = parser.parse_intermixed_args(_marked(words))
    for option, value in vars(arguments).items():
        given = value if isinstance(value, list) else [value]
        marked = [word for word in given if isinstance(word, str) and word.startswith(_MARK)]
        if marked and option not in _POSITIONAL:
            parser.error(f"--{option} and its value come before the --.")
        if marked:
            words = [word.removeprefix(_MARK) for word in given]
            setattr(arguments, option, words if isinstance(value, list) else words[0])
    check_text(parser, arguments)
    sentence = _CHECKS[name](arguments) if name in _CHECKS else None
    if sentence is not None:
        parser.error(sentence)
    return arguments


_MARK = "\0"
"""Marks the arguments after a ``--`` while they are parsed: no argument of a process has a NUL."""


_POSITIONAL = frozenset({"name", "names", "prefix", "words", "shell"})


def _marked(words: list[str]) -> list[str]:
    """Return the arguments without their first ``--``; those after it are marked, and are no options.

    argparse itself refuses some of them, and which ones depends on its version.
    """
    if "--" not in words:
        return words
    at = words.index("--")
    return words[:at] + [_MARK + word for word in words[at + 1 :]]


def parser_of(name: str) -> CommandParser:
    """Return the parser of one command's arguments; ``serve`` and ``bench`` have parsers of their own."""
    examples = files(__package__).joinpath("examples", f"{name}.txt")
    parser = CommandParser(
        prog=f"cometd-lite {name}",
        description=COMMANDS[name].capitalize() + ".",
        epilog=f"examples:\n{examples.read_text('utf-8')}\n{status.HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    server = () if name in _WITHOUT_SERVER else _server()
    for named, about, more in (*_OPTIONS[name], *server):
        option, _, metavar = named.partition(" ")
        words: Mapping[str, Any] = {"metavar": metavar} if metavar else {"action": "store_true"}
        parser.add_argument(option, help=about, **(more if "choices" in more else {**words, **more}))
    return parser


def _claim(text: str) -> str:
    try:
        return text if text == LISTENERS else readable(text)
    except BadRecipient as error:
        raise ValueError(f"{text!r} is no recipient or pattern: {error.detail}") from None


def _checked(read: Callable[[str], T]) -> Callable[[str], T]:
    """Let argparse show the sentence of a ``ValueError``."""

    def checked(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _url(text: str) -> str:
    return text if "://" in text else f"http://{text}"


Option: TypeAlias = tuple[str, str, Mapping[str, Any]]
"""An option or argument with the name of its value, what it is for, and what else ``add_argument`` takes."""

_COUNT = {"type": units.for_argparse(units.count)}
_SPAN = {"type": units.for_argparse(units.span)}
_REPEATED = {"action": "append", "default": []}

_RECIPIENTS: Option = ("names NAME", "a recipient", {"nargs": "+"})
_ANSWER: Option = ("--json", "print the server's whole answer, as JSON", {})
_OBJECTS: Option = ("--json", "print it as JSON, an object a line", {})
_NO_ACK: Option = ("--no-ack", "only watch: what is read makes no room in a full mailbox", {})
_WAIT: Option = ("--wait TIME", "how long to wait for a message; default: 25 s", _SPAN)
_AT_MOST = "at most so many messages; default: "
_PATIENCE: Option = (
    "--patience TIME",
    f"how long the server may take until its first answer; default: {PATIENCE_SECONDS:g} s",
    _SPAN,
)
_PRINTING: tuple[Option, ...] = (
    (
        "--format FORMAT",
        "print a line of this form for each message, as in '{recipient}: {data}' or '{data[text]}'",
        {"type": _checked(LineFormat)},
    ),
    ("--raw", "print the bytes of each message as they are, and nothing besides", {}),
)
_HANDLING: tuple[Option, ...] = (
    ("--json", "print whole message objects, one a line", {}),
    *_PRINTING,
    ("--exec COMMAND", "give each message to a shell command, in the place of printing it", {}),
    ("--keep-going", "with --exec: go on where COMMAND failed", {}),
    ("--count N", "end after so many messages", _COUNT),
)
_ALLOWED = ": a recipient, or a pattern as in 'chat/*'; may be repeated"
_CLAIM = {**_REPEATED, "type": _checked(_claim)}

_OPTIONS: Mapping[str, tuple[Option, ...]] = {
    "push": (
        ("name NAME", "the recipient", {}),
        ("words MESSAGE", "the message; several words are joined by spaces", {"nargs": "*"}),
        ("--rcpt NAME", "a further recipient; may be repeated", _REPEATED),
        ("--file FILE", "the message is in this file; - is standard input", {}),
        ("--lines", "each line that comes in is a message, as it comes", {}),
        ("--ndjson", "each line that comes in is a message of JSON, as it comes", {}),
        ("--type TYPE", "the media type; else by the file's name, else text, else octets", {}),
        ("--json", "the same as --type application/json", {}),
        ("--event EVENT", "an event name, 1 to 64 bytes", {}),
        ("--ttl TIME", "how long it is kept at most, as in 90s, 15m, 12h or 7d", _SPAN),
        ("--no-queue", "only for readers that wait now: the message is not kept", {}),
        (
            "--overflow",
            "what a full mailbox does; default: the server's",
            {"choices": ("reject", "drop-oldest")},
        ),
        ("--key KEY", "an idempotency key: a repeated push with the same key adds nothing", {}),
        ("--receipt", "print what the server answers, as JSON, a line for each push", {}),
        _PATIENCE,
    ),
    "poll": (
        ("names NAME", "a recipient, or a pattern as in 'chat/**' with --after", {"nargs": "+"}),
        (
            "--after CURSOR",
            "what came after a cursor, oldest, now, last:50 or since:600; without it, a take",
            {},
        ),
        _NO_ACK,
        _WAIT,
        ("--limit N", f"{_AT_MOST}100", {**_COUNT, "default": 100}),
        _ANSWER,
        *_PRINTING,
    ),
    "take": (
        _RECIPIENTS,
        ("--lease TIME", "how long they are reserved for you, from 1s to 1h", _SPAN),
        ("--exec COMMAND", "give one message after the other to a shell command", {}),
        ("--count N", "with --exec: end after so many messages", _COUNT),
        _WAIT,
        ("--limit N", f"{_AT_MOST}1", {**_COUNT, "default": 1}),
        _ANSWER,
        *_PRINTING,
    ),
    "follow": (
        ("names NAME", "a recipient, or a pattern as in 'chat/**'", {"nargs": "+"}),
        (
            "--after CURSOR",
            "begin after a cursor, oldest, now, last:50 or since:600; default: now",
            {"default": "now"},
        ),
        ("--cursor-file FILE", "keep the cursor in this file, and begin at the one that it holds", {}),
        ("--stream", "read one stream in the place of polls, for much traffic", {}),
        _NO_ACK,
        _PATIENCE,
        *_HANDLING,
    ),
    "listen": (
        ("names NAME", "a recipient or pattern to read besides", {"nargs": "*"}),
        ("--ttl TIME", "how long it is remembered between two polls; default: 5m", _SPAN),
        *_HANDLING,
    ),
    "info": (("names NAME", "a recipient; without any, the server", {"nargs": "*"}), _OBJECTS),
    "ls": (
        ("prefix PREFIX", "how the names begin; default: all mailboxes", {"nargs": "?", "default": ""}),
        _OBJECTS,
    ),
    "delete": (_RECIPIENTS,),
    "token": (
        ("--key FILE", "signs: a secret, a PEM private key or a JWKS with one", {"required": True}),
        ("--push NAME", f"what it may push to{_ALLOWED}", _CLAIM),
        ("--poll NAME", f"what it may read{_ALLOWED}", _CLAIM),
        ("--manage NAME", f"what it may delete{_ALLOWED}", _CLAIM),
        (
            "--ttl TIME",
            f"how long it holds, as in 90s, 15m, 12h or 7d; default: {TOKEN_SECONDS / 3600:g}h",
            {**_SPAN, "default": TOKEN_SECONDS},
        ),
        ("--aud NAME", "the audience: what the server's --audience says", {}),
        ("--sub NAME", "the subject: the user or program that gets the token", {}),
        ("--kid ID", "the key's id: which of several signs, and what the token calls it", {}),
    ),
    "completion": (("shell", "the shell that is to complete", {"choices": SHELLS}),),
}
"""What each command takes, besides the server."""


def _server() -> tuple[Option, ...]:
    url = os.environ.get("COMETD_LITE_URL") or DEFAULT_URL
    token = os.environ.get("COMETD_LITE_TOKEN") or None
    hidden = "a JSON Web Token; or $COMETD_LITE_TOKEN, which is hidden from other users of this machine"
    return (
        (
            "--url URL",
            f"the server; or $COMETD_LITE_URL; default: {DEFAULT_URL}",
            {"type": _url, "default": _url(url)},
        ),
        ("--token TOKEN", hidden, {"default": token}),
    )


_WITHOUT_SERVER = frozenset({"token", "completion"})
"""The commands that send no request."""


def _one_output(given: argparse.Namespace) -> str | None:
    """Return the sentence where two options each say what becomes of a message."""
    outputs = [
        name for name in ("json", "format", "raw", "exec") if vars(given).get(name) not in {None, False}
    ]
    if len(outputs) < 2:
        return None
    return f"--{outputs[0]} and --{outputs[1]} each say what becomes of a message; one of them is enough."


def _wrong_push(given: argparse.Namespace) -> str | None:
    if given.words and (given.file or given.lines or given.ndjson):
        return "the message is given in words, or comes from a file or a pipe, not both."
    kinds = [given.lines, given.ndjson, given.json, given.type is not None]
    if sum(kinds) > 1 and kinds != [True, False, False, True]:
        return "--lines, --ndjson, --json and --type each say what the message is; one of them is enough."
    if given.key is not None and (given.lines or given.ndjson):
        return "a --key is for one push; the lines have keys of their own."
    return None


def _wrong_poll(given: argparse.Namespace) -> str | None:
    if given.no_ack and given.after is None:
        return "--no-ack reads by cursor, as in --after oldest; without one this takes messages."
    return _one_output(given)


def _wrong_take(given: argparse.Namespace) -> str | None:
    least, most = LEASE_SECONDS
    if given.lease is not None and not least <= given.lease <= most:
        return f"--lease is a time from {least:g}s to {most / 3600:g}h."
    if given.exec is None:
        return _one_output(given) if given.count is None else "--count goes with --exec."
    if given.lease is None:
        return "--exec needs --lease: without it a message would be lost where COMMAND fails."
    if given.wait is not None or given.limit != 1:
        return "--exec works on one message after the other: leave out --wait and --limit."
    return _one_output(given)


def _wrong_following(given: argparse.Namespace) -> str | None:
    return "--keep-going goes with --exec." if given.keep_going and given.exec is None else _one_output(given)


def _wrong_token(given: argparse.Namespace) -> str | None:
    if not (given.push or given.poll or given.manage):
        return "the token would allow nothing; name recipients by --push, --poll or --manage."
    if not 0 < given.ttl <= TOKEN_SECONDS_MOST:
        return f"--ttl is a time above 0 and at most {TOKEN_SECONDS_MOST / 86_400:g}d."
    return None


_CHECKS: Mapping[str, Callable[[argparse.Namespace], str | None]] = {
    "push": _wrong_push,
    "poll": _wrong_poll,
    "take": _wrong_take,
    "follow": _wrong_following,
    "listen": _wrong_following,
    "token": _wrong_token,
}
"""What is wrong with the options of a command together, as a sentence."""
