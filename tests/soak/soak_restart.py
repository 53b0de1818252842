"""Restart the server by SIGTERM under a thousand parked clients; nothing is lost and no client gets an error.

    python tests/soak/soak_restart.py [--restarts 3] [--clients 1000] [--store redis] [--activated]

Every client polls a mailbox of its own by cursor and comes back at once. Pushers push to random ones, each
push with a key that is repeated until it was confirmed. What a client may see besides its messages: a
connection that is closed or refused, and a 503. With ``--store memory`` a mailbox does not outlive the
process: what was confirmed must have been read before the end, and a push that was broken off may come twice.
With ``--activated`` the listening socket is another process's, as systemd does it: then no connection is
refused. Exits 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from counted import CODE, disagreements
from redis_server import RedisServer
from server import Broken, Client, Server

PUSHERS = 8
PAUSE_SECONDS = 0.01
"""Between two pushes of a pusher: all of them together leave the server time for a thousand clients."""
BETWEEN_SECONDS = (1.0, 3.0)
"""How long the server runs once all clients are parked again."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass
class Run:
    """What is common to all clients: what was confirmed for each, what they saw, and when to end."""

    port: int
    confirmed: list[set[str]]
    seen: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    pushing: bool = True
    polling: bool = True

    def fault(self, sentence: str) -> None:
        if len(self.faults) < 20:
            self.faults.append(sentence)

    def broken(self, error: Broken) -> None:
        self.seen["refused" if "Connect call failed" in str(error) else "closed"] += 1


async def push(run: Run, pusher: int) -> None:
    """Push until told to stop, and each push until it is confirmed."""
    client = Client(run.port)
    place = 0
    while run.pushing:
        who = random.randrange(len(run.confirmed))
        text = f"{pusher}.{place}"
        place += 1
        while True:
            try:
                answer = await client.ask(
                    "POST",
                    f"/push/client{who}",
                    text.encode(),
                    Content_Type="text/plain",
                    Idempotency_Key=text,
                )
            except Broken as error:
                run.broken(error)
            else:
                run.seen[f"push {answer.status}"] += 1
                if answer.status in {201, 202}:
                    run.confirmed[who].add(text)
                    break
                if answer.status != 503:
                    run.fault(f"a push was answered {answer.status}: {answer.body!r}")
                    break
            await asyncio.sleep(random.uniform(0.05, 0.2))
        await asyncio.sleep(PAUSE_SECONDS)
    client.close()


async def poll(run: Run, who: int, texts: list[str]) -> None:
    """Poll by cursor until told to stop; ``texts`` is what was read."""
    client = Client(run.port)
    cursor = "oldest"
    while run.polling:
        try:
            answer = await client.ask("GET", f"/poll/client{who}?after={cursor}&wait=20")
        except Broken as error:
            run.broken(error)
            await asyncio.sleep(random.uniform(0.05, 0.5))
            continue
        run.seen[f"poll {answer.status}"] += 1
        if answer.status == 503:
            await asyncio.sleep(random.uniform(0.05, 0.5))
        elif answer.status == 200:
            batch = answer.json
            run.seen["gap"] += batch["gap"]
            texts += [message["data"] for message in batch["messages"]]
            cursor = batch["cursor"]
        else:
            run.fault(f"a poll was answered {answer.status}: {answer.body!r}")
            return
    client.close()


async def parked(server: Server, clients: int) -> float:
    """Wait until all clients wait; return how many seconds that took."""
    began = time.monotonic()
    asking = Client(server.port)
    while True:
        try:
            metrics = (await asking.ask("GET", "/metrics")).body.decode()
            if float(metrics.partition("\ncometd_lite_parked ")[2].split()[0]) >= clients * 0.99:
                asking.close()
                return time.monotonic() - began
        except Broken:
            pass
        assert time.monotonic() - began < 60, "not all clients came back"
        await asyncio.sleep(0.05)


async def soak(restarts: int, clients: int, store: str, activated: bool, directory: Path) -> int:
    """Restart so many times; return the exit code."""
    redis = RedisServer(directory, "--appendonly", "yes") if store == "redis" else None
    if redis is not None:
        redis.start()
        options: tuple[str, ...] = ("--store", redis.address)
    else:
        options = ("--store", "sqlite:comet.db") if store == "sqlite" else ()
    server = Server(directory, *options, code=CODE, activated=activated)
    run = Run(server.port, [set() for _ in range(clients)])
    server.start()
    await server.up()
    read: list[list[str]] = [[] for _ in range(clients)]
    polling = [asyncio.create_task(poll(run, who, texts)) for who, texts in enumerate(read)]
    await parked(server, clients)
    pushing = [asyncio.create_task(push(run, pusher)) for pusher in range(PUSHERS)]
    ends, returns = [], []
    for _ in range(restarts):
        await asyncio.sleep(random.uniform(*BETWEEN_SECONDS))
        began = time.monotonic()
        code = await server.stop()
        ends.append(time.monotonic() - began)
        if code != 0:
            run.fault(f"the server ended with {code}")
        server.start()
        await server.up()
        returns.append(await parked(server, clients))
        for sentence in await asyncio.to_thread(disagreements, directory):
            run.fault(sentence)
    run.pushing = False
    await asyncio.gather(*pushing)
    await asyncio.sleep(1)
    run.polling = False
    code = await server.stop()
    if code != 0:
        run.fault(f"the server ended with {code}")
    server.start()  # for those who come back once more, to learn that it is over
    await server.up()
    for task in polling:
        task.cancel()
    await asyncio.gather(*polling, return_exceptions=True)
    server.kill()
    if redis is not None:
        redis.kill()
    judge(run, read, store, activated=activated)
    for failure in server.failures():
        run.fault(failure)
    say(
        f"{restarts} restarts with {clients} clients and the store {store}: "
        f"{sum(map(len, run.confirmed))} pushes confirmed, {sum(map(len, read))} read; "
        f"stopped in {max(ends):.1f} s at the most, all parked again {max(returns):.1f} s after the start"
    )
    say(", ".join(f"{what}: {times}" for what, times in sorted(run.seen.items())))
    say("\n".join(run.faults) or "Nothing lost, and no client saw more than a closed connection or a 503.")
    return 1 if run.faults else 0


def judge(run: Run, read: list[list[str]], store: str, *, activated: bool) -> None:
    """Compare what was read with what was confirmed."""
    for who, texts in enumerate(read):
        missed = run.confirmed[who].difference(texts)
        if missed:
            run.fault(f"client {who} missed {sorted(missed)}")
        if store != "memory" and len(set(texts)) != len(texts):
            run.fault(f"client {who} read twice {[t for t, n in Counter(texts).items() if n > 1]}")
    if store != "memory" and run.seen["gap"]:
        run.fault(f"{run.seen['gap']} times a gap was told")
    if activated and run.seen["refused"]:
        run.fault(f"{run.seen['refused']} connections were refused")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--store", choices=["sqlite", "redis", "memory"], default="sqlite")
    parser.add_argument("--activated", action="store_true")
    asked = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, asked.clients * 2 + 200)), hard))
    with TemporaryDirectory() as directory:
        return asyncio.run(soak(asked.restarts, asked.clients, asked.store, asked.activated, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
