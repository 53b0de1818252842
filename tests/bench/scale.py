"""``python tests/bench/scale.py --clients 10_000_000``: how many processes and Redis so many clients need.

A model from measured costs (``measured.json``, which ``tables.py`` writes), in the standard library alone.

The plan is closed formulas. A process and a Redis have one core each. What is pushed, delivered and polled in
vain in a second takes so many seconds of each of them, and none may be busier than ``--busy``. A push costs
the process that takes it and one Redis, and more for each process at which readers of its recipient stand;
what a further reader at a process costs, only the process pays.

The simulation sends pushes through the queues: to a process, to a Redis, then to each process that has
readers, and takes the time until each reader is answered. Pushes come at random (Poisson), each step takes
what was measured, and what waits is served in turn: a Redis is an M/D/1 queue, and a process nearly one.
Networks, slow clients and load balancers are not in it.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import ceil, inf, log
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

MEASURED = Path(__file__).with_name("measured.json")
GIB = 1024**3
EVENTS = 200_000
"""About so many steps are simulated."""


class Both(NamedTuple):
    """What something takes of processes and of Redis: seconds or bytes."""

    own: float
    redis: float = 0.0

    def plus(self, other: Both) -> Both:
        return Both(self.own + other.own, self.redis + other.redis)

    def minus(self, other: Both) -> Both:
        return Both(self.own - other.own, self.redis - other.redis)

    def times(self, number: float) -> Both:
        return Both(self.own * number, self.redis * number)


@dataclass(frozen=True)
class Costs:
    """What each thing takes: in seconds, and in bytes where it says so."""

    push: Both
    first_stream: Both
    """What a push takes more for each process at which a stream of its recipient is open."""
    first_poll: Both
    """The same where a poll waits, with its answer and the next poll."""
    stream: Both
    """One more stream of the recipient at the same process."""
    poll: Both
    empty_poll: Both
    """A poll that ends without a message, and the next one."""
    connect: Both
    look: Both
    """A reader that looks again, because Redis was away."""
    client: Both
    """Bytes of a client that waits, with the kernel's for its connection."""
    mailbox: Both
    """Bytes of a mailbox with one message of 100 bytes."""
    message: Both
    """Bytes of each further one."""
    process: Both
    """Bytes of a process without clients."""

    @classmethod
    def on_redis(cls, measured: dict[str, Any]) -> Costs:
        """Return the costs of one of several processes on Redis."""
        found = {name: Both(*pair) for name, pair in measured["costs"].items()}
        seconds = {name: both.times(1e-6) for name, both in found.items()}
        alone, push = [
            Both(*measured["settings"][f"cometd-lite, {number} on Redis"][2:]).times(1e-6)
            for number in ("one", "two")
        ]
        across = seconds["wake_there"].minus(seconds["wake_here"])
        return cls(
            push=push,
            first_stream=seconds["wake_there"],
            first_poll=seconds["mailbox"].minus(alone).plus(across),
            # What a push costs Redis does not depend on how many readers a process has.
            stream=Both(seconds["stream"].own),
            poll=Both(seconds["fanout"].own),
            empty_poll=seconds["poll"],
            connect=seconds["connect"],
            look=seconds["look"],
            client=found["parked_bytes"].plus(found.get("kernel_bytes", Both(0))),  # only root may read it
            mailbox=found["mailbox_bytes"],
            message=found["message_bytes"],
            process=Both(found["process_bytes"].own),
        )

    @classmethod
    def in_memory(cls, measured: dict[str, Any]) -> Costs:
        """Return the costs of one process that keeps its mailboxes in memory."""
        ours = {name: Both(value * 1e-6) for name, value in measured["performance"]["cometd-lite"].items()}
        push = Both(measured["settings"]["cometd-lite, in memory"][2] * 1e-6)
        shared = cls.on_redis(measured)
        return replace(
            shared,
            push=push,
            first_stream=ours["mailbox"].minus(push),
            first_poll=ours["mailbox"].minus(push),
            stream=ours["stream"],
            poll=ours["fanout"],
            empty_poll=Both(shared.empty_poll.own),
            connect=Both(shared.connect.own),
            client=Both(shared.client.own),
            mailbox=Both(*measured["costs"]["memory_mailbox_bytes"]),
            message=Both(*measured["costs"]["memory_message_bytes"]),
        )


class Workload(NamedTuple):
    """What is asked of all: clients that wait, and pushes to recipients with ``fan_out`` readers each."""

    clients: int
    pushes: float = 0.0
    """In a second."""
    fan_out: int = 1
    wait: float = 0.0
    """For how many seconds polls wait; 0 where clients read streams or sockets."""
    kept: int = 1
    """Messages of 100 bytes in a mailbox of each client."""
    by_recipient: bool = False
    """Whether the load balancer sends all readers of a recipient to one process."""


class Machines(NamedTuple):
    """What it runs on."""

    cores: int = 8
    memory: float = 32 * GIB
    """Bytes of each machine."""
    redis_memory: float = 16 * GIB
    """Bytes that one Redis may take."""
    max_parked: int = 100_000
    """Clients of one process."""
    busy: float = 2 / 3
    """The part of its time that a process or a Redis may work."""
    back_within: float = 60.0
    """Seconds in which all clients must be served again after everything has stopped."""


# -- formulas


def processes_hit(processes: int, workload: Workload) -> float:
    """Return at how many processes the readers of a recipient stand, where each is at any of them."""
    return 1.0 if workload.by_recipient else processes * (1 - (1 - 1 / processes) ** workload.fan_out)


def per_reader(costs: Costs, workload: Workload) -> tuple[Both, Both]:
    """Return what a push takes for the first reader at a process, and for each further one there."""
    return (costs.first_poll, costs.poll) if workload.wait else (costs.first_stream, costs.stream)


def parts(costs: Costs, workload: Workload, processes: int) -> dict[str, Both]:
    """Return what a second of the workload takes of all processes and all Redis, by what it is for."""
    polls = workload.wait > 0
    hit = processes_hit(processes, workload)
    first, more = per_reader(costs, workload)
    return {
        "pushes": costs.push.times(workload.pushes),
        "wakes of processes": first.times(workload.pushes * hit),
        "deliveries": more.times(workload.pushes * max(0.0, workload.fan_out - hit)),
        "polls that end with nothing": costs.empty_poll.times(
            workload.clients / workload.wait if polls else 0
        ),
    }


def in_a_second(costs: Costs, workload: Workload, processes: int) -> Both:
    """Return what a second of the workload takes of all processes and all Redis."""
    own, redis = zip(*parts(costs, workload, processes).values(), strict=True)
    return Both(sum(own), sum(redis))


def waiting(load: Iterable[tuple[float, float]]) -> float:
    """Return how long anything waits on average where so many a second come that take so many seconds each.

    The formula of Pollaczek and Khinchine; where all take the same, it is that of M/D/1.
    """
    kinds = list(load)
    used = sum(rate * seconds for rate, seconds in kinds)
    return sum(rate * seconds**2 for rate, seconds in kinds) / (2 * (1 - used)) if used < 1 else inf


# -- the plan


class Plan(NamedTuple):
    """What a workload needs."""

    workload: Workload
    machine: Machines
    costs: Costs
    processes: int
    redis: int
    """0 where one process keeps all in memory."""
    limits: dict[str, int]
    """How many processes each limit asks for."""
    redis_limits: dict[str, int]
    """How many Redis."""

    @property
    def machines(self) -> int:
        """How many machines, where each process and each Redis has a core."""
        by_cores = ceil((self.processes + self.redis) / self.machine.cores)
        return max(by_cores, ceil((self.memory + self.redis_memory) / self.machine.memory))

    @property
    def load(self) -> Both:
        """How busy each process and each Redis is, from 0 to 1."""
        used = in_a_second(self.costs, self.workload, self.processes)
        return Both(used.own / self.processes, used.redis / max(1, self.redis))

    @property
    def waits(self) -> Both:
        """Seconds for which what comes waits on average until a process, and a Redis, begins with it."""
        costs, workload = self.costs, self.workload
        first, more = per_reader(costs, workload)
        hit = processes_hit(self.processes, workload)
        pushes = workload.pushes
        ended = workload.clients / workload.wait if workload.wait else 0.0
        own = [
            (pushes, costs.push.own),
            (pushes * hit, first.own + (workload.fan_out / hit - 1) * more.own),
            (ended, costs.empty_poll.own),
        ]
        redis = [
            (pushes, costs.push.redis + hit * first.redis / 2),
            (pushes * hit, first.redis / 2),
            (ended, costs.empty_poll.redis),
        ]
        return Both(
            waiting([(rate / self.processes, seconds) for rate, seconds in own]),
            waiting([(rate / self.redis, seconds) for rate, seconds in redis]) if self.redis else 0.0,
        )

    @property
    def memory(self) -> float:
        """Bytes of all processes, and of the kernel for their connections."""
        return self.processes * self.costs.process.own + kept(self.costs, self.workload).own

    @property
    def redis_memory(self) -> float:
        """Bytes of all Redis."""
        return kept(self.costs, self.workload).redis

    def storm(self, clients: float, processes: int, each: Both) -> float:
        """Return the seconds until so many processes have served so many clients besides all the rest."""
        own = clients / processes * each.own / (1 - self.load.own)
        return max(own, clients / self.redis * each.redis / (1 - self.load.redis)) if self.redis else own

    @property
    def process_ends(self) -> float:
        """Seconds until the clients of a process that has ended are back, at the others if there are any."""
        return self.storm(
            self.workload.clients / self.processes, max(1, self.processes - 1), self.costs.connect
        )

    @property
    def redis_restarts(self) -> float:
        """Seconds until all readers have looked again."""
        return self.storm(self.workload.clients, self.processes, self.costs.look)

    @property
    def all_connect(self) -> float:
        """Seconds until all clients have connected."""
        return self.storm(self.workload.clients, self.processes, self.costs.connect)


def kept(costs: Costs, workload: Workload) -> Both:
    """Return the bytes that the clients and their mailboxes take of processes and of Redis."""
    boxes = costs.mailbox.plus(costs.message.times(workload.kept - 1)) if workload.kept else Both(0)
    return costs.client.plus(boxes).times(workload.clients)


def least(holds: Callable[[int], bool]) -> int:
    """Return the least number from 1 on for which something holds that holds for all above."""
    low, high = 0, 1
    while not holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def process_limits(costs: Costs, workload: Workload, machine: Machines, room: float) -> dict[str, int]:
    """Return how many processes each limit asks for, where each may take so many bytes."""
    coming = workload.clients * max(costs.connect.own, costs.look.own) / machine.back_within
    return {
        "CPU": least(lambda number: in_a_second(costs, workload, number).own <= machine.busy * number),
        "memory": ceil(kept(costs, workload).own / max(1.0, room - costs.process.own)),
        "--max-parked": ceil(workload.clients / machine.max_parked),
        "reconnecting": least(lambda number: in_a_second(costs, workload, number).own + coming <= number),
    }


def plan(
    measured: dict[str, Any], workload: Workload, machine: Machines | None = None, redis: int = 0
) -> Plan:
    """Return what a workload needs: one process in memory if that is enough, else processes on Redis.

    With ``redis`` there are at least so many of them.
    """
    machine = machine or Machines()
    alone, shared = Costs.in_memory(measured), Costs.on_redis(measured)
    limits = process_limits(alone, workload, machine, machine.memory)
    if max(limits.values()) == 1 and not redis:
        return Plan(workload, machine, alone, 1, 0, limits, {})
    limits = process_limits(shared, workload, machine, machine.memory / machine.cores)
    processes = max(limits.values())
    used = in_a_second(shared, workload, processes).redis
    coming = workload.clients * max(shared.connect.redis, shared.look.redis)
    redis_limits = {
        "CPU": ceil(used / machine.busy),
        "memory": ceil(kept(shared, workload).redis / machine.redis_memory),
        "reconnecting": ceil(used + coming / machine.back_within),
    }
    return Plan(
        workload, machine, shared, processes, max(redis, *redis_limits.values()), limits, redis_limits
    )


# -- the simulation


class Queues:
    """Servers, each of which does one thing at a time, in the order in which they come."""

    def __init__(self, servers: int) -> None:
        self.free_at = [0.0] * servers
        self._events: list[tuple[float, int, int, float, Callable[[float], object]]] = []
        self._order = count()

    def arrive(self, now: float, server: int, seconds: float, done: Callable[[float], object]) -> None:
        """Let something arrive that takes so long; ``done`` is called with its end."""
        heapq.heappush(self._events, (now, next(self._order), server, seconds, done))

    def run(self) -> None:
        """Serve until nothing is left."""
        while self._events:
            now, _, server, seconds, done = heapq.heappop(self._events)
            self.free_at[server] = ends = max(now, self.free_at[server]) + seconds
            done(ends)


class Simulation:
    """Pushes on their way through the queues of a plan, and the polls that end with nothing meanwhile.

    ``took`` is how many seconds after each push the last reader of each process was answered.
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan = plan
        self.random = Random(seed)
        self.queues = Queues(plan.processes + max(1, plan.redis))
        self.first, self.more = per_reader(plan.costs, plan.workload)
        self.took: list[float] = []

    def push(self, now: float, *, counts: bool) -> None:
        """Let a push come; ``counts``: note how long it took."""
        readers = self._readers()
        first, more = self.first, self.more

        def accepted(ends: float) -> None:
            self._ask_redis(ends, self.plan.costs.push.redis + len(readers) * first.redis / 2, kept)

        def kept(ends: float) -> None:
            for process, number in readers.items():
                self.queues.arrive(ends, process, first.own + (number - 1) * more.own, answered)

        def answered(ends: float) -> None:
            if counts:
                self.took.append(ends - now)
            self._ask_redis(ends, first.redis / 2)  # the process reports how many it woke

        self.queues.arrive(now, self._process(), self.plan.costs.push.own, accepted)

    def poll(self, now: float) -> None:
        """Let a poll end with nothing, and come back."""
        cost = self.plan.costs.empty_poll
        self.queues.arrive(now, self._process(), cost.own, lambda ends: self._ask_redis(ends, cost.redis))

    def _process(self) -> int:
        return int(self.random.random() * self.plan.processes)

    def _readers(self) -> dict[int, int]:
        """Return how many readers of a recipient stand at each process that has any."""
        processes, readers = self.plan.processes, self.plan.workload.fan_out
        if self.plan.workload.by_recipient:
            return {self._process(): readers}
        if readers > 20 * processes:  # then each has about as many
            return dict.fromkeys(range(processes), round(readers / processes))
        return Counter([self._process() for _ in range(readers)])

    def _ask_redis(self, now: float, seconds: float, then: Callable[[float], object] = abs) -> None:
        if self.plan.redis:
            server = self.plan.processes + int(self.random.random() * self.plan.redis)
            self.queues.arrive(now, server, seconds, then)
        else:
            then(now)


def simulate(plan: Plan, seed: int = 1, events: int = EVENTS) -> list[float]:
    """Return what a simulation with about so many steps took, in order, see ``Simulation``.

    The first tenth of the pushes is left out: they found all queues empty.
    """
    workload = plan.workload
    if not workload.pushes:
        return []
    polls = workload.clients / workload.wait / workload.pushes if workload.wait else 0.0
    steps = 2 + 2 * processes_hit(plan.processes, workload) + 2 * polls
    pushes = max(50, min(10_000, round(events / steps)))
    simulation = Simulation(plan, seed)
    random, now = Random(seed + 1), 0.0
    for number in range(pushes):
        gap = -log(1 - random.random()) / workload.pushes
        for _ in range(int(polls + random.random())):
            simulation.poll(now + gap * random.random())
        now += gap
        simulation.push(now, counts=number >= pushes / 10)
    simulation.queues.run()
    return sorted(simulation.took)


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value below which that part of sorted values lies."""
    return values[min(len(values) - 1, int(part * len(values)))] if values else 0.0


# -- what is said


def span(seconds: float) -> str:
    """Return seconds as people say them."""
    for most, unit, name in ((0.1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min")):
        if seconds < most:
            number = seconds / unit
            return f"{number:.{2 if number < 1 else 1 if number < 10 else 0}f} {name}"
    return f"{seconds / 3600:.1f} h"


def size(of: float) -> str:
    """Return bytes as people say them."""
    return f"{of / GIB:.1f} GB" if of >= GIB else f"{of / 1024**2:.0f} MB"


def rounded(number: float) -> str:
    """Return a number with two digits that say something."""
    digits = len(str(int(number))) - 2
    return f"{int(round(number, -digits)):,}"


def report(found: Plan, took: Sequence[float]) -> str:
    """Return a plan and what its simulation has found as lines for people."""
    workload, machine, load = found.workload, found.machine, found.load
    how = f"poll, {workload.wait:g} s each" if workload.wait else "read streams"
    readers = "1 reader" if workload.fan_out == 1 else f"{workload.fan_out:,} readers"
    lines = [
        f"{workload.clients:,} clients {how}; {workload.pushes:,.0f} pushes/s to {readers} each: "
        f"{workload.pushes * workload.fan_out:,.0f} deliveries/s",
        "",
        f"  processes   {found.processes:,}, {load.own:.0%} busy, {size(found.memory)} in all",
    ]
    if found.redis:
        busy = f"{load.redis:.0%} busy, {size(found.redis_memory)} in all"
        lines.append(f"  Redis       {found.redis:,}, {busy}{DESIGN if found.redis > 1 else ''}")
    else:
        lines.append("  Redis       none: one process is enough, with its mailboxes in memory or SQLite")
    lines += [
        f"  machines    {found.machines:,} with {machine.cores} cores and {size(machine.memory)}",
        "",
        "What each limit asks for, of processes and of Redis:",
        *[
            f"  {name:<28} {number:>8,} {found.redis_limits.get(name, ''):>8}"
            for name, number in found.limits.items()
        ],
        "",
        "What a second of it takes, in seconds of processes and of Redis:",
    ]
    for name, both in parts(found.costs, workload, found.processes).items():
        lines.append(f"  {name:<28} {both.own:8.2f} {both.redis:8.2f}")
    lines += [
        "",
        "Until all are served again:",
        f"  a process ends              {span(found.process_ends)}",
        *([f"  Redis restarts              {span(found.redis_restarts)}"] if found.redis else []),
        f"  all clients connect at once {span(found.all_connect)}",
    ]
    own, redis = map(span, found.waits)
    lines += [
        "",
        f"What comes to a process waits {own} on average, and what comes to Redis {redis}, by formula",
    ]
    if took:
        said = ", ".join([f"{name} {span(quantile(took, part))}" for name, part in QUANTILES.items()])
        lines += [f"From a push to its readers, simulated: {said}"]
    return "\n".join([line.rstrip() for line in lines]) + "\n"


DESIGN = "; more than one is a design as yet: divide recipients among several servers"
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return value


def _part(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    of = Machines()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clients", type=_count, default=1_000_000, help="that wait all the time; %(default)s")
    add("--pushes-per-second", type=_number, default=1_000, help="%(default)s")
    add("--fan-out", type=_count, default=1, help="readers of a recipient that is pushed to; %(default)s")
    add(
        "--poll",
        type=_number,
        default=0,
        metavar="SECONDS",
        help="clients poll, each time for so long; else they read streams",
    )
    add(
        "--kept", type=int, default=1, help="messages of 100 bytes in the mailbox of each client; %(default)s"
    )
    add("--by-recipient", action="store_true", help="the readers of a recipient are all at one process")
    add("--redis", type=int, default=0, help="at least so many")
    add("--busy", type=_part, default=of.busy, help="the most of its time that anything works; 2/3")
    add("--max-parked", type=_count, default=of.max_parked, help="clients of a process; %(default)s")
    add("--back-within", type=_count, default=60, metavar="SECONDS", help="all are served again; %(default)s")
    add("--cores", type=_count, default=of.cores, help="of a machine; %(default)s")
    add("--memory", type=_count, default=32, metavar="GB", help="of a machine; %(default)s")
    add("--redis-memory", type=_count, default=16, metavar="GB", help="of a Redis; %(default)s")
    add("--costs", type=Path, default=MEASURED, help="what was measured; measured.json beside this file")
    add("--seed", type=int, default=1, help="of the simulation; %(default)s")
    asked = parser.parse_args(argv)
    machine = Machines(
        asked.cores,
        asked.memory * GIB,
        asked.redis_memory * GIB,
        asked.max_parked,
        asked.busy,
        asked.back_within,
    )
    workload = Workload(
        asked.clients, asked.pushes_per_second, asked.fan_out, asked.poll, asked.kept, asked.by_recipient
    )
    found = plan(json.loads(asked.costs.read_text()), workload, machine, asked.redis)
    sys.stdout.write(report(found, simulate(found, asked.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
