"""``python tests/completions.py``: write the scripts that ``cometd-lite completion`` prints, by shtab.

The scripts lie in the package, so that neither the command nor a build needs shtab; a test holds them to the
options.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import shtab

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# What is imported from here on lies above this file.
from cometd_lite.bench.command import parser as bench_parser  # noqa: E402
from cometd_lite.cli.parser import COMMANDS, SHELLS, parser_of  # noqa: E402
from cometd_lite.options import Options  # noqa: E402

SCRIPTS = ROOT / "cometd_lite" / "cli" / "completions"

PROGRAM = {
    "bash": "_cometd_lite_compgen_programs",
    "zsh": "_command_names",
    "fish": "(__fish_complete_command)",
    "tcsh": "c",
    "powershell": "_cometd_lite_programs",
    "preamble": {
        "bash": "_cometd_lite_compgen_programs() {\n  compgen -c -- $1\n}",
        "powershell": "function _cometd_lite_programs {\n"
        "  param([string]$WordToComplete)\n"
        '  (Get-Command -Name "$WordToComplete*" -CommandType Application).Name\n'
        "}",
    },
}
"""What completes the name of a program, as shtab wants it."""


def serve_parser() -> argparse.ArgumentParser:
    """Return the options of ``serve``, which are twistd's, as a parser."""
    options: Any = Options()
    parser = argparse.ArgumentParser()
    for name in options.longOpt:
        about = options.docs.get(name.rstrip("="), "").replace("%", "%%")
        if name.endswith("="):
            metavar = "FILE" if name in {"key=", "access-log="} else name.rstrip("=").upper()
            parser.add_argument(f"--{name.rstrip('=')}", metavar=metavar, help=about)
        elif name != "help":
            parser.add_argument(f"--{name}", action="store_true", help=about)
    return parser


def command() -> argparse.ArgumentParser:
    """Return one parser of all commands."""
    own = {"serve": serve_parser, "bench": bench_parser}
    parser = argparse.ArgumentParser(prog="cometd-lite")
    parser.add_argument("--version", action="version", version="")
    commands = parser.add_subparsers()
    for name, about in COMMANDS.items():
        words = own[name]() if name in own else parser_of(name)
        for action in words._actions:
            if action.metavar == "FILE":
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's
            elif action.dest == "exec":
                action.complete = PROGRAM  # type: ignore[attr-defined]  # shtab's
        commands.add_parser(name, help=about, parents=[words], add_help=False)
    return parser


def script(shell: str) -> str:
    """Return the script for a shell."""
    return shtab.complete(command(), shell).rstrip() + "\n"


if __name__ == "__main__":
    for name in SHELLS:
        (SCRIPTS / name).write_text(script(name))
