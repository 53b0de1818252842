"""Park 10,000 polls, reset their clients, and look for what is left of them; then do the same again.

    python tests/soak/soak_parked.py [--polls 10000] [--rounds 2]

Polls by cursor, takes, polls of several recipients and of patterns are parked; their clients leave, most by a
reset, some by closing, some in the middle of a second request. Then the server's process must hold no
Deferred, timer, request or connection of theirs, and after the second round its memory must be back within
10 % of what it was after the first. Exits 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from counted import CODE, counts
from server import Server

PATIENCE = 120.0
TOLERANCE = 1.10
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends an RST."""
SPARE = {"twisted.internet.defer.Deferred": 5, "timers": 2}
"""What the server itself may have a few more of at one moment than at another."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Result:
    """What a soak found, in figures; ``wrong`` are sentences."""

    wrong: list[str]
    megabytes: list[float]
    kilobytes_each: float


def target(number: int) -> str:
    """Return where the poll with this number goes: one of each kind of poll."""
    name = f"reader{number}"
    return (
        f"/poll/{name}?after=now",
        f"/poll/{name}?after=oldest",
        f"/poll/{name}",
        f"/poll?rcpt={name}&rcpt=shared&after=now",
        "/poll/shared?after=now",
        f"/poll/chat/{name}/**?after=now",
    )[number % 6]


def park(port: int, polls: int, living: Callable[[], dict[str, int]]) -> list[socket.socket]:
    """Open so many connections, each with a poll that is held."""
    sockets = []
    for number in range(polls):
        where = target(number)
        query = "&" if "?" in where else "?"
        client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        client.sendall(f"GET {where}{query}wait=120 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        sockets.append(client)
    until(lambda: living()["parked"] == polls, "not all polls are parked")
    return sockets


def leave(sockets: list[socket.socket], seed: int) -> None:
    """Lose all connections, in different ways."""
    chance = random.Random(seed)
    chance.shuffle(sockets)
    for client in sockets:
        way = chance.random()
        if way < 0.1:
            client.sendall(b"GET /poll/pipelined?after=now HTTP/1.1\r\nHo")  # behind the one that is held
        if way < 0.9:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()


def until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def soak(directory: Path, polls: int, rounds: int) -> Result:
    """Park and leave so often."""
    server = Server(directory, "--max-parked", str(polls + 10), code=CODE)
    server.start()
    try:
        asyncio.run(server.up())
        living = lambda: counts(directory)  # noqa: E731
        leave(park(server.port, 100, living), 0)
        until(lambda: living()["parked"] == 0, "polls are parked after their clients left")
        before = living()
        wrong: list[str] = []
        megabytes = [server.memory()]
        each = 0.0
        for number in range(rounds):
            sockets = park(server.port, polls, living)
            full = server.memory()
            each = (full - megabytes[-1]) * 1024 / polls if not number else each
            leave(sockets, number)
            until(lambda: living()["parked"] == 0, "polls are parked after their clients left")
            until(
                lambda: living()["files"] <= before["files"],
                "connections are open after their clients left",
            )
            left = living()
            wrong += [
                f"round {number + 1}: {left[kind]} of {kind}, where there were {before[kind]}"
                for kind in before
                if left[kind] > before[kind] + SPARE.get(kind, 0)
            ]
            megabytes.append(server.memory())
            say(
                f"round {number + 1}: {polls} parked at {full:.1f} MB, gone at {megabytes[-1]:.1f} MB; "
                + ", ".join(f"{count} {kind.rpartition('.')[2]}" for kind, count in left.items())
            )
        if len(megabytes) > 2 and megabytes[-1] > megabytes[1] * TOLERANCE:
            wrong.append(f"memory went from {megabytes[1]:.1f} to {megabytes[-1]:.1f} MB in the last rounds")
        wrong += asyncio.run(server.end())
        return Result(wrong, megabytes, each)
    finally:
        server.discard()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--polls", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        began = time.monotonic()
        result = soak(Path(directory), options.polls, options.rounds)
    say(f"{result.kilobytes_each:.1f} KB for each parked poll; {time.monotonic() - began:.0f} s in all")
    for sentence in result.wrong:
        say(f"WRONG: {sentence}")
    say("nothing is left" if not result.wrong else f"{len(result.wrong)} wrong")
    return bool(result.wrong)


if __name__ == "__main__":
    sys.exit(main())
