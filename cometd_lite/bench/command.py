"""``cometd-lite bench``: parses arguments, runs a scenario, and prints its result as lines or JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from .. import units
from ..jsontext import dumps
from .dialect import CometLite, Dialect, Site
from .load import MESSAGES_MOST, READ_BACK, SECONDS_MOST
from .measure import Costs, measure
from .results import BenchError, Result
from .scenarios import SCENARIOS

_URL = "http://localhost:8080"


def report(result: Result) -> str:
    """Return a result as lines for people."""
    read = result.deliveries > 0
    people = f"{result.readers:,} readers" if read else f"{result.mailboxes:,} mailboxes"
    more = f", {result.parked:,} more polls parked" if result.parked else ""
    checked = (
        "each compared with what was pushed" if read else f"read back from up to {READ_BACK:,} mailboxes"
    )
    lines = [
        f"{result.scenario} at {result.url} ({result.dialect}): {people}{more}, "
        f"{result.pushers} pushing, {result.seconds:.1f} s",
        f"  {'deliveries' if read else 'pushes':<12} {result.deliveries or result.messages:,}, "
        f"{result.per_second:,.0f}/s; {checked}",
        f"  latency      p50 {result.p50_ms:.2f}   p99 {result.p99_ms:.2f}   max {result.max_ms:.2f} ms",
    ]
    if result.own_cpu_full:
        lines.append(
            f"  The generator's own CPU was full ({result.own_cpu:.0%}): rate and latency are its limit, "
            "not the server's."
        )
    return "\n".join(lines) + "\n"


def _between(low: float, high: float, read: Callable[[str], float]) -> Callable[[str], Any]:
    """Return a function for argparse that reads a number and lets it through within bounds."""
    convert = units.for_argparse(read)

    def bounded(text: str) -> float:
        number = convert(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:,} and {high:,}")
        return number

    return bounded


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{text} is not like http://localhost:8080 (TLS is not spoken)")
    return text


_COUNT = _between(1, 1_000_000, units.count)
_OPTIONS = (
    ("--readers", _COUNT, None, "how many read, in the place of the scenario's number"),
    ("--pushers", _COUNT, None, "how many push at once"),
    ("--parked", _between(0, 1_000_000, units.whole), 0, "more polls that wait all the time"),
    ("--mailboxes", _COUNT, None, "how many mailboxes the scenario push has"),
    ("--size", _between(1, 10_000_000, units.size), 100, "bytes of a message; default: 100"),
    ("--warm-up", _between(0, 600, units.span), 1.0, "time before measuring; default: 1"),
    ("--wait", _between(1, 3_600, units.span), 120.0, "how long polls ask to be held; default: 120"),
    ("--token", str, None, "a JSON Web Token to send with every request"),
)


def parser(kind: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the command's parser."""
    scenarios = "\n".join(f"  {name:<8} {scenario.about}" for name, scenario in SCENARIOS.items())
    parser = kind(
        prog="cometd-lite bench",
        description="Push messages to a running server, read them over parked polls, check each of them,\n"
        f"and print the rate and the latency.\n\nscenarios:\n{scenarios}",
        epilog="Where the generator's own CPU was full, a line says so: the rate is then its limit.\n\n"
        "exit status: 0 all delivered; 1 a message lost or refused; 2 no server, or used wrongly\n\n"
        "  cometd-lite bench fanout\n"
        "  cometd-lite bench mailbox --parked 10000 --seconds 20 --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = tuple(SCENARIOS)
    add("scenario", nargs="?", default=names[0], choices=names, metavar="SCENARIO", help="default: mailbox")
    several = f"the server; may be repeated, for several processes that are one server; default: {_URL}"
    add("--url", type=_url, action="append", help=several)
    phase = parser.add_mutually_exclusive_group().add_argument
    seconds, messages = (_between(0.1, SECONDS_MOST, units.span), _between(1, MESSAGES_MOST, units.count))
    phase("--seconds", type=seconds, help="how long to push and measure; default: 5")
    phase("--messages", type=messages, help="how many messages to push and measure")
    for option, read, default, about in _OPTIONS:
        add(option, type=read, default=default, help=about)
    add("--json", action="store_true", help="print the result as JSON")
    add("--quiet", action="store_true", help="no progress line")
    return parser


def main(
    argv: Sequence[str] | None = None, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> int:
    """Run the command and return its exit status."""
    return run(parser(kind).parse_args(argv))


def run(
    arguments: argparse.Namespace,
    make_dialect: Callable[[Site], Dialect] = CometLite,
    costs: Costs | None = None,
    shown: Callable[[Result], str] = report,
) -> int:
    """Measure as the arguments say, print the result, and return the exit status."""
    scenario = SCENARIOS[arguments.scenario]
    messages, seconds = arguments.messages, arguments.seconds
    if seconds is None and messages is None:
        if scenario.name == "push":
            messages = 50_000  # more would fill the hundred mailboxes, which is another measurement
        else:
            seconds = 5.0
    progress = _show_progress if sys.stderr.isatty() and not arguments.quiet else lambda _: None
    try:
        result = measure(
            [url.rstrip("/") for url in arguments.url or [_URL]],
            scenario.sized(arguments.readers, arguments.pushers, arguments.mailboxes),
            make_dialect,
            costs=costs,
            seconds=seconds,
            messages=messages,
            warm_up=arguments.warm_up,
            parked=arguments.parked,
            size=arguments.size,
            token=arguments.token,
            wait=arguments.wait,
            on_progress=progress,
        )
    except BenchError as error:
        progress("")
        sys.stderr.write(f"cometd-lite bench: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    progress("")
    document = {**asdict(result), "own_cpu_full": result.own_cpu_full}
    sys.stdout.write(dumps(document).decode() + "\n" if arguments.json else shown(result))
    return 0


def _show_progress(line: str) -> None:
    """Write a line of a terminal in the place of the one before."""
    sys.stderr.write(f"\r\033[K{line}")
    sys.stderr.flush()
