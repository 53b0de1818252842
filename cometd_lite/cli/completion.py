"""Completion for shells: the parsers' own options arrive, a script for bash, zsh or fish leaves.

What ``serve`` and ``bench`` take is theirs, and costs a second to import: the shell asks their ``--help``
when somebody presses TAB behind them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass

from .parser import COMMANDS, parser_of

_REPEATED = frozenset({"--rcpt", "--push", "--poll", "--manage"})
_PROGRAMS = frozenset({"--exec"})
_ASKED = ("serve", "bench")


@dataclass(frozen=True)
class Option:
    """One option of a command, as a shell needs to know it."""

    names: tuple[str, ...]
    about: str
    takes: str | None
    """The name of its value; None for a flag."""
    choices: tuple[str, ...]

    @property
    def long(self) -> str:
        """Its name."""
        return self.names[-1]

    @property
    def file(self) -> bool:
        """Whether its value is a file's name."""
        return self.takes == "FILE"


def options(command: str) -> list[Option]:
    """Return the options of a command."""
    return [
        Option(
            names=tuple(action.option_strings),
            about=(action.help or "").partition(";")[0].replace("%%", "%"),
            takes=None if action.nargs == 0 else str(action.metavar or action.dest.upper()),
            choices=tuple(action.choices or ()),
        )
        for action in _actions(command)
        if action.option_strings
    ]


def _values(command: str) -> tuple[str, ...]:
    """Return what the words of a command may be, where they are not free."""
    return tuple(
        choice for action in _actions(command) if not action.option_strings for choice in action.choices or ()
    )


def _actions(command: str) -> Iterable[argparse.Action]:
    return parser_of(command)._actions


def script(shell: str) -> str:
    """Return the script for ``shell``."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _told() -> list[str]:
    return [command for command in COMMANDS if command not in _ASKED]


def _bash() -> str:
    cases = []
    for command in _told():
        words = [name for option in options(command) for name in option.names] + list(_values(command))
        cases.append(f"        {command}) words='{' '.join(words)}' ;;")
    values = []
    for command, option in [(name, option) for name in _told() for option in options(name)]:
        place = f"        '{command} {option.long}')"
        if option.choices:
            values.append(f"{place} words='{' '.join(option.choices)}' ;;")
        elif option.file:
            values.append(f'{place} COMPREPLY=($(compgen -f -- "$word")); return ;;')
        elif option.long in _PROGRAMS:
            values.append(f'{place} COMPREPLY=($(compgen -c -- "$word")); return ;;')
        elif option.takes:
            values.append(f"{place} return ;;")
    newline = "\n"
    return f"""\
# bash completion for cometd-lite:  eval "$(cometd-lite completion bash)"
_cometd_lite() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W '{" ".join(COMMANDS)} --help --version' -- "$word"))
        return
    fi
    case "${{COMP_WORDS[1]}} $before" in
{newline.join(values)}
    esac
    [ -n "$words" ] || case ${{COMP_WORDS[1]}} in
{newline.join(cases)}
        {"|".join(_ASKED)})
            words=$("${{COMP_WORDS[@]:0:2}}" --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]+') ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o filenames -F _cometd_lite cometd-lite
"""


def _zsh() -> str:
    def spec(option: Option) -> str:
        about = _in_zsh(option.about.replace("[", "(").replace("]", ")").replace(":", ","))
        value = ""
        if option.choices:
            value = f":{option.takes}:({' '.join(option.choices)})"
        elif option.file:
            value = f":{option.takes}:_files"
        elif option.long in _PROGRAMS:
            value = f":{option.takes}:_command_names"
        elif option.takes:
            value = f":{option.takes}: "
        repeated = "*" if option.long in _REPEATED else ""
        return " ".join(f"'{repeated}{name}[{about}]{value}'" for name in option.names)

    cases = []
    for command in _told():
        values = _values(command)
        words = f"'1:shell:({' '.join(values)})'" if values else "'*:: :'"
        specs = " \\\n            ".join([*map(spec, options(command)), words])
        cases.append(f"        {command}) _arguments \\\n            {specs} ;;")
    listed = "\n".join(f"        '{name}:{_in_zsh(about)}'" for name, about in COMMANDS.items())
    newline = "\n"
    return f"""\
#compdef cometd-lite
# zsh completion for cometd-lite:  put it as _cometd-lite into a directory of $fpath
_cometd-lite() {{
    local -a commands asked
    commands=(
{listed}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local program=$words[1] command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{newline.join(cases)}
        {"|".join(_ASKED)})
            asked=(${{(f)"$($program $command --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]+')"}})
            compadd -a asked ;;
    esac
}}
if [[ $funcstack[1] == _cometd-lite ]]; then _cometd-lite "$@"; else compdef _cometd-lite cometd-lite; fi
"""


def _in_zsh(text: str) -> str:
    """Return a text as it stands between single quotes."""
    return text.replace("'", "'\\''")


def _fish() -> str:
    lines = [
        "# fish completion for cometd-lite:  put it as cometd-lite.fish into ~/.config/fish/completions",
        "complete -c cometd-lite -f",
    ]
    for name, about in COMMANDS.items():
        lines.append(f"complete -c cometd-lite -n __fish_use_subcommand -a {name} -d {_quoted(about)}")
    for command in _told():
        seen = f"complete -c cometd-lite -n '__fish_seen_subcommand_from {command}'"
        for option in options(command):
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
            )
            value = ""
            if option.choices:
                value = f" -x -a '{' '.join(option.choices)}'"
            elif option.file:
                value = " -r -F"
            elif option.long in _PROGRAMS:
                value = " -x -a '(__fish_complete_command)'"
            elif option.takes:
                value = " -x"
            lines.append(f"{seen} {names}{value} -d {_quoted(option.about)}")
        if _values(command):
            lines.append(f"{seen} -a '{' '.join(_values(command))}'")
    for command in _ASKED:
        asked = f"(cometd-lite {command} --help 2>/dev/null | string match -ra -- '--[a-z][a-z-]+' | sort -u)"
        lines.append(
            f"complete -c cometd-lite -n '__fish_seen_subcommand_from {command}' -a {_quoted(asked)}"
        )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
