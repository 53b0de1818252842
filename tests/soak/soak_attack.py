"""Attack from one address with all the connections it gets, while 100 honest clients push and poll.

    python tests/soak/soak_attack.py [--seconds 60] [--rate 2000] [--bound 200]

Each honest client has an address of its own, polls its mailbox by cursor, and pushes to it twice a second.
The attacks come one after the other, each after a time of peace: connections on which nothing is sent, on
which a head comes byte by byte, one a second, and on which half a body comes. A connection that is refused or
closed is opened again, ``--rate`` of them a second. The server gives one address ``--bound`` connections. The
attacker runs at the lowest priority, since a real one takes no time of this machine's; where others keep its
processors busy, begin with ``chrt -r 1``, or their turns are measured.

In each attack the honest clients' latencies (of a push's answer, and from the push to the poll's answer) must
be at most twice those in peace at the 99th percentile, none of their requests may be refused, and the
server's memory must stay. Exits 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import socket
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

from server import Broken, Client, Server

from cometd_lite.server import Bounds

ATTACKS = ("nothing", "a byte a second", "half a body")
HEAD = b"POST /push/attack HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
SOCKETS = 2_000
"""Connections that the attacker tries to have at once."""
PAUSE = 0.5
"""Seconds between two pushes of an honest client."""
FLOOR = 0.01
"""A latency of this is none, in seconds: below it, what else a machine does makes more of a difference."""
MEGABYTES = 16
"""Memory that an attack may cost: 200 connections with half a body each take a fraction of one."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


# -- the attacker, a process of its own


@dataclass
class Attacked:
    """What an attacker got: connections opened, refused with a 429, closed otherwise, held at once."""

    opened: int = 0
    refused: int = 0
    closed: int = 0
    held: int = 0


class Attacker:
    """Opens connections as fast as ``rate`` allows, and keeps them for as long as it is let."""

    def __init__(self, port: int, kind: str, rate: float) -> None:
        self.port = port
        self.kind = kind
        self.rate = rate
        self.got = Attacked()
        self.poll = select.epoll()
        self.open: dict[int, tuple[socket.socket, float]] = {}
        self.sent: dict[int, int] = {}

    def run(self, seconds: float) -> Attacked:
        """Attack for so many seconds."""
        began = time.monotonic()
        next_second = began + 1
        while (now := time.monotonic()) < began + seconds:
            while len(self.open) < SOCKETS and self.got.opened < (now - began) * self.rate:
                self.connect(now)
            for descriptor, event in self.poll.poll(0.01):
                self.happened(descriptor, event)
            if now >= next_second:
                next_second += 1
                self.second(now)
        return self.got

    def connect(self, now: float) -> None:
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", self.port))
        self.open[one.fileno()] = (one, now)
        self.poll.register(one.fileno(), select.EPOLLOUT | select.EPOLLIN)
        self.got.opened += 1

    def happened(self, descriptor: int, event: int) -> None:
        one, _ = self.open[descriptor]
        try:
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                told = one.recv(4_096)
                if told.startswith(b"HTTP/1.1 429 "):
                    self.got.refused += 1
                else:
                    self.got.closed += 1
                self.close(descriptor)
            elif event & select.EPOLLOUT:
                self.poll.modify(descriptor, select.EPOLLIN)
                if self.kind == "half a body":
                    one.send(HEAD + b"x" * 500)
        except OSError:
            self.got.closed += 1
            self.close(descriptor)

    def second(self, now: float) -> None:
        """Count what is held, and send the next byte."""
        self.got.held = max(self.got.held, sum(now - since > 1 for _, since in self.open.values()))
        if self.kind == "a byte a second":
            for descriptor, (one, _) in list(self.open.items()):
                at = self.sent.get(descriptor, 0)
                self.sent[descriptor] = at + 1
                try:
                    one.send(HEAD[at : at + 1])
                except OSError:
                    self.got.closed += 1
                    self.close(descriptor)

    def close(self, descriptor: int) -> None:
        one, _ = self.open.pop(descriptor)
        self.sent.pop(descriptor, None)
        one.close()


# -- the honest


@dataclass
class Honest:
    """How the honest fared in one time: latencies in seconds, and what went wrong."""

    latencies: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return quantiles(self.latencies, n=100)[98]


async def live(port: int, number: int, honest: Honest, until: float) -> None:
    """Push, and poll what was pushed."""
    name, address = f"honest{number}", f"127.0.1.{number + 1}"
    pusher, poller = Client(port, address), Client(port, address)
    try:
        begun = await poller.ask("GET", f"/poll/{name}?after=now&wait=0")
        cursor = begun.json["cursor"]
        await asyncio.sleep(PAUSE * number / 100)
        for turn in count():
            if time.monotonic() > until:
                break
            poll = asyncio.create_task(poller.ask("GET", f"/poll/{name}?after={cursor}&wait=25"))
            await asyncio.sleep(PAUSE)
            pushed_at = time.monotonic()
            pushed = await pusher.ask("POST", f"/push/{name}", b"%d" % turn)
            honest.latencies.append(time.monotonic() - pushed_at)
            polled = await poll
            honest.latencies.append(time.monotonic() - pushed_at)
            statuses = pushed.status, polled.status
            if statuses != (201, 200):
                honest.wrong.append(f"{name} was answered {statuses}")
            else:
                cursor = polled.json["cursor"]
    except Broken as broken:
        honest.wrong.append(f"{name} lost its connection: {broken}")
    finally:
        pusher.close()
        poller.close()


async def fare(port: int, clients: int, seconds: float) -> Honest:
    """Let the honest live for so many seconds."""
    honest = Honest()
    until = time.monotonic() + seconds
    await asyncio.gather(*[live(port, number, honest, until) for number in range(clients)])
    return honest


# -- the soak


async def attacked(
    server: Server, kind: str, clients: int, seconds: float, rate: float
) -> tuple[Honest, Attacked]:
    attack = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--attack", kind, "--port", str(server.port)),
        *("--seconds", str(seconds), "--rate", str(rate)),
        stdout=asyncio.subprocess.PIPE,
    )
    honest = await fare(server.port, clients, seconds)
    told, _ = await attack.communicate()
    return honest, Attacked(**json.loads(told))


async def soak(
    directory: Path, clients: int, seconds: float, rate: float, bound: int, floor: float = FLOOR
) -> list[str]:
    """Attack in each way; return what went wrong. Latencies below ``floor`` are as good as none."""
    server = Server(directory, "--client-connections", str(bound), "--capacity", "20")
    server.start()
    try:
        await server.up()
        wrong = (await fare(server.port, clients, min(seconds, 3))).wrong  # so that all is warm
        before = server.memory()
        for kind in ATTACKS:
            peace = await fare(server.port, clients, seconds)
            wrong += peace.wrong
            say(f"peace: p99 {peace.p99 * 1e3:.1f} ms of {len(peace.latencies)}, {server.memory():.1f} MB")
            honest, got = await attacked(server, kind, clients, seconds, rate)
            after = server.memory()
            say(
                f"{kind}: p99 {honest.p99 * 1e3:.1f} ms of {len(honest.latencies)}, {after:.1f} MB; "
                f"{got.opened} opened, {got.refused} refused, {got.closed} closed, {got.held} held"
            )
            wrong += [f"{kind}: {sentence}" for sentence in honest.wrong]
            if honest.p99 > max(2 * peace.p99, floor):
                wrong.append(f"{kind}: the p99 went from {peace.p99 * 1e3:.1f} to {honest.p99 * 1e3:.1f} ms")
            # Those beyond the bound that have not yet asked anything are refused once they do, or soon.
            most = bound + Bounds().refused
            if not 0 < got.held <= most:
                wrong.append(f"{kind}: {got.held} connections were held, and {most} are the bound")
            if got.opened <= bound:
                wrong.append(f"{kind}: the attacker opened {got.opened} connections only")
            if after > before + MEGABYTES:
                wrong.append(f"{kind}: memory went from {before:.1f} to {after:.1f} MB")
        return wrong + await server.end()
    finally:
        server.discard()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rate", type=float, default=2_000)
    parser.add_argument("--bound", type=int, default=200)
    parser.add_argument("--attack", choices=ATTACKS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.nice(19)
        got = Attacker(options.port, options.attack, options.rate).run(options.seconds)
        say(json.dumps(vars(got)))
        return 0
    with TemporaryDirectory() as directory:
        wrong = asyncio.run(
            soak(Path(directory), options.clients, options.seconds, options.rate, options.bound)
        )
    for sentence in wrong:
        say(f"WRONG: {sentence}")
    say("the honest were served" if not wrong else f"{len(wrong)} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
