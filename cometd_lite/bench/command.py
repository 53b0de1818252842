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
from .errors import BenchError
from .load import MESSAGES_MOST, READ_BACK, SECONDS_MOST
from .measure import Costs, measure
from .results import Result
from .scenarios import SCENARIOS


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


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    scenarios = "\n".join(f"  {name:<8} {scenario.about}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="cometd-lite bench",
        description="Push messages to a running server, read them over parked polls, check each of them,\n"
        "and print the rate and the latency.\n\n"
        f"scenarios:\n{scenarios}",
        epilog="Where the generator's own CPU was full, a line says so: the rate is then its limit.\n\n"
        "exit status: 0 all delivered; 1 a message lost or refused; 2 no server, or used wrongly\n\n"
        "  cometd-lite bench fanout\n"
        "  cometd-lite bench mailbox --parked 10000 --seconds 20 --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count = _between(1, 1_000_000, units.count)
    add = parser.add_argument
    add(
        "scenario",
        nargs="?",
        default="mailbox",
        choices=tuple(SCENARIOS),
        metavar="SCENARIO",
        help="default: mailbox",
    )
    add(
        "--url",
        type=_url,
        action="append",
        help="the server; may be repeated, for several processes that are one server; "
        "default: http://localhost:8080",
    )
    phase = parser.add_mutually_exclusive_group()
    phase.add_argument(
        "--seconds",
        type=_between(0.1, SECONDS_MOST, units.span),
        help="how long to push and measure; default: 5",
    )
    phase.add_argument(
        "--messages",
        type=_between(1, MESSAGES_MOST, units.count),
        help="how many messages to push and measure",
    )
    add("--readers", type=count, help="how many read, in the place of the scenario's number")
    add("--pushers", type=count, help="how many push at once")
    add(
        "--parked",
        type=_between(0, 1_000_000, units.whole),
        default=0,
        help="more polls that wait all the time",
    )
    add("--mailboxes", type=count, help="how many mailboxes the scenario push has")
    add(
        "--size",
        type=_between(1, 10_000_000, units.size),
        default=100,
        help="bytes of a message; default: %(default)s",
    )
    add("--warm-up", type=_between(0, 600, units.span), default=1.0, help="time before measuring; default: 1")
    add(
        "--wait",
        type=_between(1, 3_600, units.span),
        default=120.0,
        help="how long polls ask to be held; default: 120",
    )
    add("--token", help="a JSON Web Token to send with every request")
    add("--json", action="store_true", help="print the result as JSON")
    add("--quiet", action="store_true", help="no progress line")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(parser().parse_args(argv))


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
    progress = _Progress() if sys.stderr.isatty() and not arguments.quiet else None
    try:
        result = measure(
            [url.rstrip("/") for url in arguments.url or ["http://localhost:8080"]],
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
        if progress is not None:
            progress.clear()
        sys.stderr.write(f"cometd-lite bench: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if progress is not None:
        progress.clear()
    document = {**asdict(result), "own_cpu_full": result.own_cpu_full}
    sys.stdout.write(dumps(document).decode() + "\n" if arguments.json else shown(result))
    return 0


class _Progress:
    """One line on a terminal, written over and over."""

    def __call__(self, line: str) -> None:
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()
