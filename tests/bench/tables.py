"""``python tests/bench/tables.py``: the tables of docs/performance.md and docs/scale.md.

They are made of ``measured.json``. With ``--measure`` that is made anew first: our costs beside our peers'
(``compare.py``), those of processes on Redis (``two_processes.py``), and those of several Redis
(``shards.py``). That takes some 15 minutes, and wants a machine with nothing else to do: what others took of
it meanwhile is said above the tables. A test holds the pages to the file.

In a page, a table stands between ``<!-- NAME: tests/bench/tables.py -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

import compare  # noqa: E402  they lie beside this file
import scale  # noqa: E402
from scale import Both, Costs, Machines, Workload  # noqa: E402

PARTS = ("compare", "two_processes", "shards")
PAGES = (ROOT / "docs" / "performance.md", ROOT / "docs" / "scale.md")
PERFORMANCE = {
    "mailbox": "mailbox, µs",
    "fanout": "fan-out, µs",
    "parked": "parked, KB",
    "burst": "burst, µs",
    "stream": "streams' fan-out, µs",
}
"""The runs of ``compare.py`` that stand in the table, with their headings."""
GROWTH = {
    "a delivery with 15,000 parked polls, of one with 1,000": ("parked-15000", "parked-1000"),
    "a push with 100,000 mailboxes, of one with 100": ("mailboxes-100000", "mailboxes-100"),
}
PEERS = ("cometd-lite", compare.BY_BAYEUX, "nchan", "aiohttp on uvloop", "Faye", compare.COMETD)
SIMULATED = 40_000
"""Steps of each simulation in a table."""
ROOM = 1_000
"""Readers of the recipient of a fan-out in the table of steps."""
STEPS = {
    "one process in memory": (1, 0),
    "one process on Redis": (1, 1),
    "a machine with 8 cores": (7, 1),
    "10 such machines, one Redis": (79, 1),
    "10 such machines, 4 Redis": (76, 4),
    "100 such machines, 16 Redis": (784, 16),
}
"""How many processes and Redis there are."""
POPULATIONS = (10_000, 100_000, 1_000_000, 10_000_000)
PUSHES_OF_A_CLIENT = 1 / 2_000
"""Pushes a second for each client there is."""
READERS = 200
"""Readers of each recipient in the table of populations: so each client gets a message in ten seconds."""
COMMAND = "--clients 10_000_000 --pushes-per-second 5000 --fan-out 200"
"""The example on the page."""


# -- measuring


def measured_anew(rounds: int, seconds: float, parts: Sequence[str]) -> dict[str, Any]:
    """Measure the parts, and return what ``measured.json`` is to hold."""
    found = json.loads(scale.MEASURED.read_text()) if scale.MEASURED.exists() else {}
    if "compare" in parts:
        found |= compared(rounds, seconds)
    for script in parts:
        if script != "compare":
            with tempfile.TemporaryDirectory() as directory:
                said = Path(directory) / "said.json"
                words = [HERE / f"{script}.py", "--rounds", str(rounds), "--json", said]
                subprocess.run([sys.executable, *words], check=True)
                document = json.loads(said.read_text())
            found |= document if script == "two_processes" else {script: document}
    return found


def compared(rounds: int, seconds: float) -> dict[str, Any]:
    """Measure our costs beside our peers'."""
    peers = [peer for peer in compare.PEERS if peer.name in PEERS and peer.needs() is None]
    runs = [compare.RUNS[name] for name in (*PERFORMANCE, *[run for pair in GROWTH.values() for run in pair])]
    others, began = compare.others_cpu(), time.monotonic()
    measured = compare.compare(peers, runs, rounds, seconds, quiet=False)
    busy = (compare.others_cpu() - others) / (time.monotonic() - began)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": compare.machine(),
        "versions": {peer.name: peer.version() for peer in peers},
        "rounds": rounds,
        "others": round(max(0.0, busy), 2),
        "performance": {
            peer.name: {
                run.name: value for run in runs if (value := measured.median(peer.name, run.name)) is not None
            }
            for peer in peers
        },
        "failures": {f"{peer}/{run}": why for (peer, run), why in measured.failures.items()},
    }


# -- the tables


def rows(heading: Sequence[str], *lines: Sequence[str]) -> str:
    """Return a table as the pages have them."""
    table = [heading, ["---"] * len(heading), *lines]
    return "\n".join([f"| {' | '.join(line)} |".replace("|  |", "| |") for line in table]) + "\n"


def caption(measured: Mapping[str, Any]) -> str:
    """Return when, where and with what it was measured."""
    machine = measured["machine"]
    versions = "; ".join(
        f"{name} ({version})" for name, version in measured["versions"].items() if name != compare.BY_BAYEUX
    )
    date = datetime.fromisoformat(measured["date"]).strftime("%-d %B %Y")
    said = (
        f"Measured {date}, medians of {measured['rounds']}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['system']}, Python {machine['python']}; {versions}."
    )
    if measured["others"] > 0.1:
        said += f" Other processes had {measured['others']:.0%} of a core meanwhile, so all is dearer."
    return said + "\n\n"


def performance(measured: Mapping[str, Any]) -> str:
    """Return what a delivery costs, ours beside our peers'."""
    found = measured["performance"]
    lines = []
    for name in PEERS:
        if name in found:
            values = [found[name].get(run) for run in PERFORMANCE]
            lines.append([name, *["" if value is None else f"{value:.1f}" for value in values]])
    ours, nchan = found["cometd-lite"], found.get("nchan", {})
    ratios = [f"{ours[run] / nchan[run]:.2f}" if run in nchan else "" for run in PERFORMANCE]
    lines.append(["cometd-lite, of nchan", *ratios])
    return caption(measured) + rows(["server", *PERFORMANCE.values()], *lines)


def growth(measured: Mapping[str, Any]) -> str:
    """Return what more parked polls and mailboxes cost."""
    ours = measured["performance"]["cometd-lite"]
    ratios = [[what, f"{ours[many] / ours[few]:.2f}"] for what, (many, few) in GROWTH.items()]
    return rows(["CPU time", "times"], *ratios)


def cluster(measured: Mapping[str, Any]) -> str:
    """Return latency, rate and cost of pushes, ours beside nchan's."""
    lines = [
        [name, f"{latency:.2f}", f"{rate:,.0f}", f"{own:.0f}", f"{redis:.0f}" if redis else ""]
        for name, (latency, rate, own, redis) in measured["settings"].items()
    ]
    heading = ["", "p50, ms", "pushes/s", "CPU for a push, µs", "of Redis, µs"]
    return caption(measured) + rows(heading, *lines)


WHAT_COSTS = {
    "mailbox": "a message to one poll that waits, and the next poll",
    "mailbox_two": "the same where readers and pushers are at any of two processes",
    "nchan": "the first of nchan",
    "nchan_two": "the second of nchan",
    "fanout": "a delivery of 1,000 to polls, and the next poll",
    "stream": "a delivery of 1,000 to streams",
    "wake_here": "what a push costs more where a stream reads at its process",
    "wake_there": "what it costs more where one reads at another process",
    "poll": "a poll that ends with nothing, and the next",
    "connect": "a client that connects and polls",
    "look": "a reader that looks again, because Redis was away",
}
WHAT_TAKES = {
    "process_bytes": "a process without clients",
    "parked_bytes": "a poll that waits",
    "kernel_bytes": "its connection, in the kernel",
    "mailbox_bytes": "a mailbox with its first message of 100 bytes",
    "message_bytes": "each further message",
    "memory_mailbox_bytes": "a mailbox with its first message, in memory",
    "memory_message_bytes": "each further message, in memory",
}


def costs(measured: Mapping[str, Any]) -> str:
    """Return what each thing costs a process and its Redis."""
    found = measured["costs"]
    cpu = [[what, *map(_whole, found[name])] for name, what in WHAT_COSTS.items() if name in found]
    memory = [[what, *map(_whole, found[name])] for name, what in WHAT_TAKES.items() if name in found]
    return (
        rows(["CPU time", "of a process, µs", "of Redis, µs"], *cpu)
        + "\n"
        + rows(["memory", "of a process, bytes", "of Redis, bytes"], *memory)
    )


def _whole(number: float) -> str:
    return f"{number:,.0f}" if number >= 0.5 else ""


def model(measured: dict[str, Any]) -> str:
    """Return what pushes to readers at two processes cost, by measurement and by the model."""
    of = Costs.on_redis(measured)
    lines = []
    for name, (own, redis) in measured["costs"].items():
        found = re.fullmatch(r"push to (\d+) (streams|polls)", name)
        if found is not None:
            workload = Workload(1, 1, int(found[1]), 0 if found[2] == "streams" else 1e12)
            its = scale.in_a_second(of, workload, 2).times(1e6)
            readers = f"{found[1]} {found[2] if found[1] != '1' else found[2][:-1]}"
            lines.append(
                [f"a push to {readers}", f"{own:.0f} + {redis:.0f}", f"{its.own:.0f} + {its.redis:.0f}"]
            )
    return rows(["CPU time of processes and of Redis, µs", "measured", "by the model"], *lines)


def steps(measured: dict[str, Any]) -> str:
    """Return how far each step reaches, and what ends it."""
    lines = []
    for name, (processes, redis) in STEPS.items():
        of = Costs.on_redis(measured) if redis else Costs.in_memory(measured)
        lines.append([name, *_reach(of, processes, redis)])
    heading = [
        "",
        "clients that wait",
        "that come back within a minute",
        "clients that poll, 120 s each",
        "pushes/s",
        "messages/s to one stream each",
        f"deliveries/s to {ROOM:,} streams each",
        "which are at one process",
    ]
    return rows(heading, *lines)


def _reach(costs: Costs, processes: int, redis: int) -> list[str]:
    """Return how much of each thing so many processes and Redis can do, and what is in the way of more."""
    machine = Machines()
    cores = processes + redis
    room = machine.memory * max(1, cores / machine.cores) / processes - costs.process.own
    spare = Both(processes * machine.busy, redis * machine.busy)

    def most(each: Both, of: Both = spare, what: str = "CPU") -> dict[str, float]:
        bounds = {what: of.own / each.own}
        if redis and each.redis > 0:
            bounds["Redis"] = of.redis / each.redis
        return bounds

    waiting = {
        **most(
            scale.kept(costs, Workload(1)), Both(processes * room, redis * machine.redis_memory), "memory"
        ),
        "`--max-parked`": float(processes * machine.max_parked),
    }
    coming = Both(max(costs.connect.own, costs.look.own), max(costs.connect.redis, costs.look.redis))
    back = most(coming, Both(60.0 * processes, 60.0 * redis))
    polls = most(costs.empty_poll.times(1 / 120)) | waiting
    one = scale.in_a_second(costs, Workload(1, 1, 1), processes)
    rooms = [
        scale.in_a_second(costs, Workload(1, 1, ROOM, by_recipient=together), processes).times(1 / ROOM)
        for together in (False, True)
    ]
    return [_bound(of) for of in (waiting, back, polls, most(costs.push), most(one), *map(most, rooms))]


def _bound(bounds: Mapping[str, float]) -> str:
    name = min(bounds, key=bounds.__getitem__)
    return f"{scale.rounded(bounds[name])} ({name})"


def populations(measured: dict[str, Any]) -> str:
    """Return what so many clients need."""
    lines = []
    for clients in POPULATIONS:
        for wait, how in ((0.0, "streams"), (120.0, "polls of 120 s")):
            workload = Workload(clients, clients * PUSHES_OF_A_CLIENT, READERS, wait)
            found = scale.plan(measured, workload)
            took = scale.simulate(found, events=SIMULATED)
            limits = {f"{name} of processes": number for name, number in found.limits.items()}
            redis = {f"{name} of Redis": number for name, number in found.redis_limits.items()}
            firsts = [max(these, key=these.__getitem__) for these in (limits, redis) if these]
            lines.append(
                [
                    f"{clients:,}",
                    how,
                    f"{found.processes:,}",
                    f"{found.redis:,}" if found.redis else "none",
                    f"{found.machines:,}",
                    scale.size(found.memory + found.redis_memory),
                    " and ".join(firsts).replace("--max-parked of processes", "`--max-parked`")
                    if found.redis
                    else "",
                    f"{scale.span(scale.quantile(took, 0.5))}, {scale.span(scale.quantile(took, 0.99))}",
                    scale.span(found.redis_restarts if found.redis else found.all_connect),
                ]
            )
    heading = ["clients", "by", "processes", "Redis", "machines", "memory", "what asks for that many"]
    return rows([*heading, "p50, p99", "all are back within"], *lines)


def shards(measured: Mapping[str, Any]) -> str:
    """Return what the prototype of several Redis costs."""
    what = {
        "push": "a push",
        "one": "a message read, from one mailbox",
        "ten": "a message read, from ten at once",
        "nothing": "a read of ten that finds nothing",
        "pattern": "a message read, by a pattern",
    }
    lines = []
    for phase, said in what.items():
        cells = [
            f"{own:.0f} + {redis:.0f} ({busiest:.0f})"
            for own, redis, busiest in [of[phase] for of in measured["shards"].values()]
        ]
        lines.append([said, *cells])
    return rows(["CPU time, µs", *[f"{number} Redis" for number in measured["shards"]]], *lines)


def example(measured: dict[str, Any]) -> str:
    """Return the example's command and what it prints."""
    said = io.StringIO()
    with redirect_stdout(said):
        scale.main(COMMAND.split())
    return f"```sh\npython tests/bench/scale.py {COMMAND}\n```\n\n```text\n{said.getvalue()}```\n"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    table.__name__: table
    for table in (performance, growth, cluster, costs, model, steps, populations, shards, example)
}
_PLACE = re.compile(r"(<!-- (\w+): tests/bench/tables\.py -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


def written(page: str, measured: dict[str, Any]) -> str:
    """Return a page with its tables as they are to be."""
    return _PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]](measured)}\n{place[4]}", page)


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--measure",
        nargs="*",
        choices=PARTS,
        metavar="PART",
        help=f"measure first: {', '.join(PARTS)}; or all",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement; %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of compare.py; %(default)s")
    asked = parser.parse_args()
    if asked.measure is not None:
        found = measured_anew(asked.rounds, asked.seconds, asked.measure or PARTS)
        scale.MEASURED.write_text(json.dumps(found, indent=1) + "\n")
    measured = json.loads(scale.MEASURED.read_text())
    for page in PAGES:
        page.write_text(written(page.read_text(), measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
