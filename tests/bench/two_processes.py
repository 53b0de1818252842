"""``python tests/bench/two_processes.py``: two processes that serve as one on Redis, beside nchan that does.

Latency: a poll is parked, a push is sent, and the time until the poll is answered is taken: within one
process that keeps its mailboxes in memory, within one on Redis, and from one to the other of two. Rate: 64
pushers, all at one process or half of them at each of two, push to 100 mailboxes as fast as they are
answered; besides, the CPU time that a push costs the servers and Redis, which holds on a machine where all of
them share the cores. At the end stands what a delivery costs both, and what a message and a mailbox take in
Redis. The rounds are
interleaved; what is printed is the median.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "soak")]

from dialects import Nchan  # noqa: E402
from redis_server import RedisServer, free_port  # noqa: E402
from server import Server  # noqa: E402

from cometd_lite.bench import SCENARIOS, CometLite, Dialect, measure  # noqa: E402  they lie above this file
from cometd_lite.bench.measure import allow_files  # noqa: E402  they lie above this file

PUSHERS = 64
MAILBOXES = 100
BODY = b"x" * 100
PARK_SECONDS = 0.01
PARKED = 5_000
DELIVERIES = {"mailbox": 5_000, "fanout": 20}
"""Messages that are pushed in each of these scenarios; a message of the second has a thousand deliveries."""
NGINX = """
load_module {module};
daemon off;
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    upstream kept {{ nchan_redis_server redis://127.0.0.1:{redis}; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        keepalive_requests 1000000000;
        location ~ ^/push/?(.*)$ {{
            nchan_publisher http;
            nchan_channel_id $1$arg_id;
            nchan_message_buffer_length 1000;
            nchan_message_timeout 1h;
            {store}
        }}
        location ~ ^/poll/?(.*)$ {{
            nchan_subscriber longpoll;
            nchan_channel_id $1$arg_id;
            nchan_subscriber_first_message oldest;
            {store}
        }}
    }}
}}
"""
MODULES = ("/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/share/nginx/modules/ngx_nchan_module.so")


class Wire(asyncio.Protocol):
    """A connection on which one request is asked at a time."""

    def __init__(self) -> None:
        self.buffer = b""
        self.answered: asyncio.Future[int] | None = None
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) >= length:
            self.buffer = body[length:]
            answered, self.answered = self.answered, None
            if answered is not None and not answered.done():
                answered.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(error or ConnectionError("closed"))

    def ask(self, request: bytes) -> asyncio.Future[int]:
        assert self.transport is not None
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answered

    def close(self) -> None:
        assert self.transport is not None
        self.transport.close()


async def connect(port: int) -> Wire:
    _, wire = await asyncio.get_running_loop().create_connection(Wire, "127.0.0.1", port)
    return wire


def push_of(name: str) -> bytes:
    head = f"POST /push/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
    return f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY


def poll_of(name: str, query: str) -> bytes:
    return f"GET /poll/{name}{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@dataclass
class Site:
    """What runs: where to push and poll, and which processes are servers or Redis."""

    ports: list[int]
    query: str
    servers: list[int]
    redis: list[int] = field(default_factory=list)


def cpu(pids: list[int]) -> float:
    """Return the seconds of CPU that processes have used."""
    used = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")


# -- what is started


def redis_at(stack: ExitStack, work: Path, *options: str) -> tuple[RedisServer, int]:
    port = free_port()
    directory = work / f"redis{port}"
    directory.mkdir()
    server = RedisServer(directory, *options, port=port).start()
    stack.callback(server.kill)
    return server, port


async def reached(server: Server) -> None:
    """Wait until a server answers, and has reached its store."""
    await server.up()
    wire = await connect(server.port)
    while await wire.ask(poll_of("nobody", "?after=now&wait=0")) != 200:
        await asyncio.sleep(PARK_SECONDS)
    wire.close()


def ours(stack: ExitStack, work: Path, count: int, *options: str) -> Site:
    store: tuple[str, ...] = ()
    pids = []
    if options:
        server, port = redis_at(stack, work, *options)
        assert server.process is not None
        pids = [server.process.pid]
        store = ("--store", f"redis://127.0.0.1:{port}")
    servers = []
    for number in range(count):
        directory = work / f"ours{number}"
        directory.mkdir(exist_ok=True)
        servers.append(Server(directory, *store))
        servers[-1].start()
        stack.callback(servers[-1].kill)
    for one in servers:
        asyncio.run(reached(one))
    running = [one.process.pid for one in servers if one.process is not None]
    return Site([one.port for one in servers], "?after=oldest", running, pids)


def nchan(stack: ExitStack, work: Path, count: int, *options: str) -> Site:
    pids = []
    redis = 1
    if options:
        server, redis = redis_at(stack, work, *options)
        assert server.process is not None
        pids = [server.process.pid]
    module = next(path for path in MODULES if Path(path).exists())
    ports, running = [], []
    for number in range(count):
        directory = work / f"nchan{number}"
        directory.mkdir(exist_ok=True)
        ports.append(free_port())
        words = {"module": module, "work": directory, "port": ports[-1], "redis": redis}
        (directory / "nginx.conf").write_text(
            NGINX.format(**words, store="nchan_redis_pass kept;" if options else "")
        )
        process = subprocess.Popen(["nginx", "-p", directory, "-c", directory / "nginx.conf"])
        stack.callback(process.wait)
        stack.callback(process.terminate)
        running.append(process)
    time.sleep(1.5)  # until it is connected to Redis, of which it tells nobody
    children = [
        int(pid)
        for process in running
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    return Site(ports, "", children, pids)


# -- what is measured


async def latency(site: Site, rounds: int) -> float:
    """Return the median milliseconds from a push at the first to the end of a poll at the last."""
    pusher, poller = await connect(site.ports[0]), await connect(site.ports[-1])
    took = []
    for number in range(rounds):
        parked = poller.ask(poll_of(f"one{number}", site.query))
        await asyncio.sleep(PARK_SECONDS)
        began = time.perf_counter()
        pushed = pusher.ask(push_of(f"one{number}"))
        assert await asyncio.wait_for(parked, 10) == 200
        took.append(time.perf_counter() - began)
        assert await asyncio.wait_for(pushed, 10) in {201, 202}
    pusher.close()
    poller.close()
    return statistics.median(took) * 1000


async def rate(site: Site, pushes: int) -> tuple[float, float, float]:
    """Return pushes a second, and the µs of CPU that each cost the servers and Redis."""
    wires = [await connect(site.ports[number % len(site.ports)]) for number in range(PUSHERS)]
    left = pushes

    async def write(wire: Wire) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            status = await wire.ask(push_of(f"many{left % MAILBOXES}"))
            assert status in {201, 202}, status

    servers, redis = cpu(site.servers), cpu(site.redis)
    began = time.perf_counter()
    await asyncio.gather(*map(write, wires))
    took = time.perf_counter() - began
    spent = (cpu(site.servers) - servers, cpu(site.redis) - redis)
    for wire in wires:
        wire.close()
    return pushes / took, spent[0] / pushes * 1e6, spent[1] / pushes * 1e6


KEPT_NOWHERE = ("--save", "")
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
Start = Callable[..., Site]
SETTINGS: dict[str, tuple[Start, int, tuple[str, ...]]] = {
    "cometd-lite, in memory": (ours, 1, ()),
    "cometd-lite, one on Redis": (ours, 1, KEPT_NOWHERE),
    "cometd-lite, two on Redis": (ours, 2, KEPT_NOWHERE),
    "cometd-lite, two, fsync always": (ours, 2, ALWAYS),
    "nchan, in memory": (nchan, 1, ()),
    "nchan, one on Redis": (nchan, 1, KEPT_NOWHERE),
    "nchan, two on Redis": (nchan, 2, KEPT_NOWHERE),
    "nchan, two, fsync always": (nchan, 2, ALWAYS),
}


def run(setting: str, rounds: int, pushes: int) -> tuple[float, float, float, float]:
    start, count, options = SETTINGS[setting]
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        site = start(stack, work, count, *options)
        return (asyncio.run(latency(site, rounds)), *asyncio.run(rate(site, pushes)))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def resident(pid: int) -> int:
    """Return the bytes of memory that a process takes."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024


class Costs:
    """What deliveries, polls, messages, mailboxes and waiting readers cost one process and its Redis."""

    def __init__(self, stack: ExitStack) -> None:
        work = Path(stack.enter_context(TemporaryDirectory()))
        self.redis, port = redis_at(stack, work, *KEPT_NOWHERE)
        self.server = Server(work, "--store", f"redis://127.0.0.1:{port}", "--max-memory", "1G")
        self.server.start()
        stack.callback(self.server.kill)
        assert self.server.process is not None
        assert self.redis.process is not None
        self.pids = self.server.process.pid, self.redis.process.pid
        asyncio.run(reached(self.server))

    def run(self) -> None:
        """Say all of it."""
        for name in DELIVERIES:
            self.deliver(name)
        asyncio.run(self.poll(10_000))
        before = self.used()
        asyncio.run(self.fill(5_000, 1))
        between = self.used()
        asyncio.run(self.fill(100, 500))
        behind = self.used()
        say(f"a mailbox with one message of {len(BODY)} bytes: {(between - before) / 5_000:,.0f} of Redis")
        say(f"a message of {len(BODY)} bytes more: {(behind - between) / 50_000:,.0f} of Redis")
        allow_files(PARKED)
        asyncio.run(self.park(PARKED))

    def used(self) -> int:
        """Return the bytes that Redis uses."""
        return int(self.redis.ask("INFO", "memory").partition(b"used_memory:")[2].split()[0])

    def spent(self) -> tuple[float, float]:
        """Return the seconds of CPU of the process and of Redis."""
        return cpu([self.pids[0]]), cpu([self.pids[1]])

    def deliver(self, name: str) -> None:
        """Say what a delivery costs in a scenario of the load generator."""
        deliver(name, Site([self.server.port], "", [self.pids[0]], [self.pids[1]]), CometLite)

    async def poll(self, times: int) -> None:
        """Say what a poll costs that finds nothing."""
        wires = [await connect(self.server.port) for _ in range(PUSHERS)]

        async def ask(number: int) -> None:
            for _ in range(times // PUSHERS):
                request = poll_of(f"empty{number}", "?after=oldest&wait=0")
                assert await wires[number].ask(request) == 200

        before = self.spent()
        await asyncio.gather(*map(ask, range(PUSHERS)))
        own, its = [(now - then) / times * 1e6 for now, then in pairs(self.spent(), before)]
        say(f"a poll that finds nothing: {own:.0f} µs of CPU, and {its:.0f} of Redis")
        for wire in wires:
            wire.close()

    async def fill(self, names: int, each: int) -> None:
        """Push so many messages to each of so many mailboxes."""
        wire = await connect(self.server.port)
        for number in range(names):
            for _ in range(each):
                assert await wire.ask(push_of(f"{each}.{number}")) == 202
        wire.close()

    async def park(self, count: int) -> None:
        """Say what a poll takes that waits."""
        before = resident(self.pids[0]), self.used()
        wires = [await connect(self.server.port) for _ in range(count)]
        for number, wire in enumerate(wires):
            wire.ask(poll_of(f"waits{number}", "?after=oldest&wait=100")).add_done_callback(ignored)
        while self.redis.ask("PUBSUB", "NUMSUB", f"cometd-lite:wake:waits{count - 1}")[1] == 0:
            await asyncio.sleep(PARK_SECONDS)
        grown = [(now - then) / count for now, then in pairs((resident(self.pids[0]), self.used()), before)]
        say(f"a poll that waits: {grown[0]:,.0f} bytes, and {grown[1]:,.0f} of Redis")
        for wire in wires:
            wire.close()


def deliver(name: str, site: Site, dialect: Callable[[Any], Dialect]) -> None:
    """Say what a delivery costs a server and its Redis in a scenario of the load generator."""
    before = cpu(site.servers), cpu(site.redis)
    url = f"http://localhost:{site.ports[0]}"
    result = measure(url, SCENARIOS[name], dialect, messages=DELIVERIES[name], warm_up=0)
    now = cpu(site.servers), cpu(site.redis)
    own, its = [(there - then) / result.deliveries * 1e6 for there, then in pairs(now, before)]
    say(f"{result.dialect}, {name}: {own:.0f} µs of CPU for a delivery, and {its:.0f} of Redis")


def pairs(now: tuple[float, float], then: tuple[float, float]) -> list[tuple[float, float]]:
    """Return what there is now and was then of the process, and of Redis."""
    return [(now[0], then[0]), (now[1], then[1])]


def ignored(answered: asyncio.Future[int]) -> None:
    """Take what became of an answer that nobody waits for."""
    answered.exception()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latencies", type=int, default=200)
    parser.add_argument("--pushes", type=int, default=10_000)
    asked = parser.parse_args()
    settings = [name for name in SETTINGS if not name.startswith("nchan") or shutil.which("nginx")]
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in settings}
    for _ in range(asked.rounds):
        for name in settings:
            found[name].append(run(name, asked.latencies, asked.pushes))
    say(f"{'':<32} {'p50, ms':>8} {'pushes/s':>9} {'CPU, µs':>8} {'of Redis, µs':>13}")
    for name, runs in found.items():
        latency_ms, pushes, servers, redis = [statistics.median(values) for values in zip(*runs, strict=True)]
        say(f"{name:<32} {latency_ms:8.2f} {pushes:9,.0f} {servers:8.0f} {redis:13.0f}")
    with ExitStack() as stack:
        Costs(stack).run()
    if shutil.which("nginx"):
        with ExitStack() as stack:
            work = Path(stack.enter_context(TemporaryDirectory()))
            deliver("mailbox", nchan(stack, work, 1, *KEPT_NOWHERE), Nchan)
    return 0


if __name__ == "__main__":
    sys.exit(main())
