"""The command's arguments: parsed into a namespace, or refused by one sentence and the status 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

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
    "follow": "print messages as they come, until it is ended",
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

_EXAMPLES = {
    "push": """\
  cometd-lite push bob hello there
  cometd-lite push bob --json '{"text": "hi"}'
  echo done | cometd-lite push builds --event finished
  cometd-lite push pictures --file cat.png
  tail -f /var/log/syslog | cometd-lite push logs --lines
  jq -c '.[]' orders.json | cometd-lite push orders --ndjson

Without a message it is read from standard input; text loses its last line break, as in the shell's $(...).
A message that begins with - comes after a --. While the server is away the push is repeated, and counts once:
for --patience, and with --lines and --ndjson without end once a first line was accepted.""",
    "poll": """\
  cometd-lite poll bob
  cometd-lite poll bob --after oldest --wait 0
  cometd-lite poll bob alice --json
  cometd-lite poll pictures --limit 1 --raw > cat.png

Without --after each message goes to one poll only: the server remembers what was read. With it nothing is
taken away.""",
    "take": """\
  cometd-lite take bob --wait 0
  cometd-lite take jobs --lease 30 --exec 'convert - thumbnails/$COMET_ID.png'
  cometd-lite take jobs --lease 5m --json

Each message goes to one reader. With --lease it comes again after so long unless it was acknowledged.
COMMAND is given the message as with follow, and COMET_ATTEMPT. The lease is extended while it runs. Where it
ends with 0 the message is done; else it is given back, and after a pause this goes on.""",
    "follow": """\
  cometd-lite follow logs
  cometd-lite follow 'chat/**' --json --after last:50
  cometd-lite follow builds --count 1
  cometd-lite follow 'chat/*' --format '{created_at} {recipient}  {data[from]}: {data[text]}'
  cometd-lite follow orders --cursor-file orders.cursor --exec 'jq .total >> totals'

FORMAT has the fields id, recipient, created_at, type, event and data; \\n and \\t are a line break and a tab.
It reconnects after lost connections and restarts of the server. With --cursor-file nothing is lost while it
is not running either: the cursor is saved when a message was handled, and loaded at the start. COMMAND
has the message on its standard input, and COMET_ID, COMET_RECIPIENT, COMET_TYPE, COMET_EVENT and
COMET_CREATED_AT in its environment.
Where COMMAND fails, follow ends, and the message comes again the next time.""",
    "listen": """\
  cometd-lite listen
  cometd-lite listen lobby --ttl 1h --json

The listener's id is printed first, on standard error, and with --json as a line of its own: what is pushed to
the id reaches this listener alone. The listener ends with the command.""",
    "info": """\
  cometd-lite info
  cometd-lite info bob alice --json""",
    "ls": """\
  cometd-lite ls
  cometd-lite ls chat/ --json

It lists the mailboxes that hold messages, by name. With a token these are those that it may manage.""",
    "delete": "  cometd-lite delete bob",
    "token": """\
  cometd-lite token --key secret --push 'chat/*' --poll bob --ttl 1h
  cometd-lite token --key private.pem --poll 'chat/**' --sub bob --aud comet
  cometd-lite token --key keys.jwks --kid 2026-11 --push '**' --poll '**' --manage '**' --ttl 15m

No server is asked: the token is printed, and holds at each server that knows the key. FILE is what serve
--key takes, except for public keys: a secret of 32 bytes or more (openssl rand -hex 32), a PEM private key
(openssl genpkey -algorithm ed25519; its public part by openssl pkey -pubout), or a JWKS with private keys.
A client with the token may do what it allows until it expires. Only another key revokes it.""",
    "completion": """\
  bash:  eval "$(cometd-lite completion bash)"                 in ~/.bashrc
  zsh:   cometd-lite completion zsh > ~/.zfunc/_cometd-lite    in a directory of $fpath
  fish:  cometd-lite completion fish > ~/.config/fish/completions/cometd-lite.fish
  tcsh:  cometd-lite completion tcsh > ~/.cometd-lite.csh      and source it in ~/.tcshrc
  powershell:  cometd-lite completion powershell | Out-String | Invoke-Expression    in $PROFILE""",
}


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
            parser.error(f"--{option} comes before the --, and its value with it.")
        if marked:
            words = [word.removeprefix(_MARK) for word in given]
            setattr(arguments, option, words if isinstance(value, list) else words[0])
    check_text(parser, arguments)
    for check in _CHECKS.get(name, ()):
        sentence = check(arguments)
        if sentence:
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
    parser = CommandParser(
        prog=f"cometd-lite {name}",
        description=COMMANDS[name].capitalize() + ".",
        epilog=f"examples:\n{_EXAMPLES.get(name, '')}\n\n{status.HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if name in _OPTIONS:
        _OPTIONS[name](parser.add_argument)
    if name not in _WITHOUT_SERVER:
        _add_server(parser.add_argument)
    return parser


Add = Callable[..., Any]


_count = units.for_argparse(units.count)
_span = units.for_argparse(units.span)


def _add_server(add: Add) -> None:
    url = os.environ.get("COMETD_LITE_URL") or DEFAULT_URL
    add(
        "--url",
        type=_url,
        default=_url(url),
        help=f"the server; or $COMETD_LITE_URL; default: {DEFAULT_URL}",
    )
    add(
        "--token",
        default=os.environ.get("COMETD_LITE_TOKEN") or None,
        help="a JSON Web Token; or $COMETD_LITE_TOKEN, which is hidden from other users of this machine",
    )


def _push(add: Add) -> None:
    add("name", metavar="NAME", help="the recipient")
    add("words", metavar="MESSAGE", nargs="*", help="the message; several words are joined by spaces")
    add("--rcpt", metavar="NAME", action="append", default=[], help="a further recipient; may be repeated")
    add("--file", metavar="FILE", help="the message is in this file; - is standard input")
    add("--lines", action="store_true", help="each line that comes in is a message, as it comes")
    add("--ndjson", action="store_true", help="each line that comes in is a message of JSON, as it comes")
    add("--type", metavar="TYPE", help="the media type; else by the file's name, else text, else octets")
    add("--json", action="store_true", help="the same as --type application/json")
    add("--event", metavar="EVENT", help="an event name, 1 to 64 bytes")
    add("--ttl", metavar="TIME", type=_span, help="how long it is kept at most, as in 90s, 15m, 12h or 7d")
    add(
        "--no-queue",
        action="store_true",
        help="only for readers that wait now: the message is not kept",
    )
    add(
        "--overflow",
        choices=("reject", "drop-oldest"),
        help="what a full mailbox does; default: the server's",
    )
    add("--key", metavar="KEY", help="an idempotency key: a repeated push with the same key adds nothing")
    add("--receipt", action="store_true", help="print what the server answers, as JSON, a line for each push")
    _add_patience(add)


def _poll(add: Add) -> None:
    add("names", metavar="NAME", nargs="+", help="a recipient, or a pattern as in 'chat/**' with --after")
    add(
        "--after",
        metavar="CURSOR",
        help="what came after a cursor, oldest, now, last:50 or since:600; without it, a take",
    )
    add("--wait", metavar="TIME", type=_span, help="how long to wait for a message; default: 25 s")
    add("--limit", metavar="N", type=_count, default=100, help="at most so many messages; default: 100")
    add("--json", action="store_true", help="print the server's whole answer, as JSON")
    _add_printing(add)


def _take(add: Add) -> None:
    add("names", metavar="NAME", nargs="+", help="a recipient")
    add("--lease", metavar="TIME", type=_span, help="how long they are reserved for you, from 1s to 1h")
    add("--exec", metavar="COMMAND", help="work on one message after the other by a shell command")
    add("--count", metavar="N", type=_count, help="with --exec: end after so many messages")
    add("--wait", metavar="TIME", type=_span, help="how long to wait for something; default: 25 s")
    add("--limit", metavar="N", type=_count, default=1, help="at most so many messages; default: 1")
    add("--json", action="store_true", help="print the server's whole answer, as JSON")
    _add_printing(add)


def _follow(add: Add) -> None:
    add("names", metavar="NAME", nargs="+", help="a recipient, or a pattern as in 'chat/**'")
    add(
        "--after",
        metavar="CURSOR",
        default="now",
        help="begin after a cursor, oldest, now, last:50 or since:600; default: now",
    )
    add(
        "--cursor-file",
        metavar="FILE",
        help="keep the cursor in this file, and begin at the one that it holds",
    )
    add("--stream", action="store_true", help="read one stream in the place of polls, for much traffic")
    _add_patience(add)
    _add_handling(add)


def _listen(add: Add) -> None:
    add("names", metavar="NAME", nargs="*", help="a recipient or pattern to read besides")
    add("--ttl", metavar="TIME", type=_span, help="how long it is remembered between two polls; default: 5m")
    _add_handling(add)


def _add_handling(add: Add) -> None:
    add("--json", action="store_true", help="print whole message objects, one a line")
    _add_printing(add)
    add("--exec", metavar="COMMAND", help="give each message to a shell command, in the place of printing it")
    add("--keep-going", action="store_true", help="with --exec: go on where COMMAND failed")
    add("--count", metavar="N", type=_count, help="end after so many messages")


def _add_printing(add: Add) -> None:
    add(
        "--format",
        metavar="FORMAT",
        type=format_,
        help="print a line of this form for each message, as in '{recipient}: {data}' or '{data[text]}'",
    )
    add("--raw", action="store_true", help="print the bytes of each message as they are, and nothing besides")


def _add_patience(add: Add) -> None:
    add(
        "--patience",
        metavar="TIME",
        type=_span,
        help=f"how long the server may take until its first answer; default: {PATIENCE_SECONDS:g} s",
    )


def _info(add: Add) -> None:
    add("names", metavar="NAME", nargs="*", help="a recipient; without any, the server")
    add("--json", action="store_true", help="print it as JSON, an object a line")


def _ls(add: Add) -> None:
    add("prefix", metavar="PREFIX", nargs="?", default="", help="how the names begin; default: all mailboxes")
    add("--json", action="store_true", help="print it as JSON, an object a line")


def _delete(add: Add) -> None:
    add("names", metavar="NAME", nargs="+", help="a recipient")


def _token(add: Add) -> None:
    add("--key", metavar="FILE", required=True, help="signs: a secret, a PEM private key or a JWKS with one")
    for action, about in (
        ("push", "what it may push to"),
        ("poll", "what it may read"),
        ("manage", "what it may delete"),
    ):
        add(
            f"--{action}",
            metavar="NAME",
            action="append",
            default=[],
            type=claim,
            help=f"{about}: a recipient, or a pattern as in 'chat/*'; may be repeated",
        )
    add(
        "--ttl",
        metavar="TIME",
        type=_span,
        default=TOKEN_SECONDS,
        help=f"how long it holds, as in 90s, 15m, 12h or 7d; default: {TOKEN_SECONDS / 3600:g}h",
    )
    add("--aud", metavar="NAME", help="the audience: what the server's --audience says")
    add("--sub", metavar="NAME", help="the subject: for whom it is")
    add("--kid", metavar="ID", help="the key's id: which of several signs, and what the token calls it")


def _completion(add: Add) -> None:
    add("shell", choices=SHELLS, help="the shell that is to complete")


_OPTIONS: dict[str, Callable[[Add], None]] = {
    "push": _push,
    "poll": _poll,
    "take": _take,
    "follow": _follow,
    "listen": _listen,
    "info": _info,
    "ls": _ls,
    "delete": _delete,
    "token": _token,
    "completion": _completion,
}

_WITHOUT_SERVER = frozenset({"token", "completion"})
"""The commands that send no request."""


def _one_source(arguments: argparse.Namespace) -> str | None:
    if arguments.words and (arguments.file or arguments.lines or arguments.ndjson):
        return "the message is given in words, or comes from a file or a pipe, not both."
    return None


def _one_type(arguments: argparse.Namespace) -> str | None:
    given = [arguments.lines, arguments.ndjson, arguments.json, arguments.type is not None]
    if sum(given) > 1 and given != [True, False, False, True]:
        return "--lines, --ndjson, --json and --type each say what the message is; one of them is enough."
    return None


def _one_key(arguments: argparse.Namespace) -> str | None:
    if arguments.key is not None and (arguments.lines or arguments.ndjson):
        return "a --key is for one push; the lines have keys of their own."
    return None


def _one_output(arguments: argparse.Namespace) -> str | None:
    given = [
        name for name in ("json", "format", "raw", "exec") if vars(arguments).get(name) not in {None, False}
    ]
    if len(given) > 1:
        return f"--{given[0]} and --{given[1]} each say what becomes of a message; one of them is enough."
    return None


def _goes_on(arguments: argparse.Namespace) -> str | None:
    if arguments.keep_going and arguments.exec is None:
        return "--keep-going goes with --exec."
    return None


def _works(arguments: argparse.Namespace) -> str | None:
    least, most = LEASE_SECONDS
    if arguments.lease is not None and not least <= arguments.lease <= most:
        return f"--lease is a time from {least:g}s to {most / 3600:g}h."
    if arguments.exec is None:
        return None if arguments.count is None else "--count goes with --exec."
    if arguments.lease is None:
        return "--exec needs --lease: without it a message would be lost where COMMAND fails."
    if arguments.wait is not None or arguments.limit != 1:
        return "--exec works on one message after the other: leave out --wait and --limit."
    return None


def _allows_something(arguments: argparse.Namespace) -> str | None:
    if not (arguments.push or arguments.poll or arguments.manage):
        return "the token would allow nothing; name recipients by --push, --poll or --manage."
    return None


def _holds_for_a_while(arguments: argparse.Namespace) -> str | None:
    if not 0 < arguments.ttl <= TOKEN_SECONDS_MOST:
        return f"--ttl is a time above 0 and at most {TOKEN_SECONDS_MOST / 86_400:g}d."
    return None


_CHECKS: dict[str, tuple[Callable[[argparse.Namespace], str | None], ...]] = {
    "push": (_one_source, _one_type, _one_key),
    "poll": (_one_output,),
    "take": (_one_output, _works),
    "follow": (_one_output, _goes_on),
    "listen": (_one_output, _goes_on),
    "token": (_allows_something, _holds_for_a_while),
}


def claim(text: str) -> str:
    """Return a recipient or pattern as a token may name it."""
    try:
        return text if text == LISTENERS else readable(text)
    except BadRecipient as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no recipient or pattern: {error.detail}") from None


def format_(text: str) -> LineFormat:
    """Return what ``--format`` writes."""
    try:
        return LineFormat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _url(text: str) -> str:
    return text if "://" in text else f"http://{text}"
