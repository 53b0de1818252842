"""``python tests/bench/two_processes.py``: two processes that serve as one on Redis, beside nchan that does.

Latency: a poll is parked, a push is sent, and the time until the poll is answered is taken: within one
process that keeps its mailboxes in memory, within one on Redis, and from one to the other of two. Rate: 64
pushers, all at one process or half of them at each of two, push to 100 mailboxes as fast as they are
answered; besides, the CPU time that a push costs the servers and Redis, which holds on a machine where
all of them share the cores.

At the end stands what each thing that is asked costs a process and Redis, what takes memory, and what a
delivery costs nchan. The rounds are interleaved; what is printed is the median. ``--json FILE`` writes all of
it for ``tables.py`` and ``scale.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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
from processes import Processes  # noqa: E402
from redis_server import RedisServer, free_port  # noqa: E402
from server import Server  # noqa: E402

from cometd_lite.bench import SCENARIOS, CometLite, Dialect, Scenario, measure  # noqa: E402  they lie above this file
from cometd_lite.bench.measure import allow_files  # noqa: E402  they lie above this file

PUSHERS = 64
MAILBOXES = 100
BODY = b"x" * 100
PARK_SECONDS = 0.01
ROOMS = (1, 10, 50)
"""Readers of a recipient, each at any of two processes: the model of ``scale.py`` is compared with these."""
PARKED = 5_000
DELIVERIES = {"mailbox": 5_000, "fanout": 20, "stream": 50}
"""Messages that are pushed in each of these scenarios; one of the latter two has a thousand deliveries."""
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


class Sink(asyncio.Protocol):
    """A connection whose answer is not looked at."""


async def stream_of(name: str, port: int) -> asyncio.BaseTransport:
    """Open a stream of a recipient."""
    transport, _ = await asyncio.get_running_loop().create_connection(Sink, "127.0.0.1", port)
    transport.write(f"GET /stream/{name}?after=now HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return transport


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
    return sum(map(Processes.cpu_of, pids))


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

    before = spent(site)
    began = time.perf_counter()
    await asyncio.gather(*map(write, wires))
    took = time.perf_counter() - began
    own, its = each(site, before, pushes)
    for wire in wires:
        wire.close()
    return pushes / took, own, its


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
    """What each thing that is asked costs one process and its Redis, and what waits takes in memory."""

    def __init__(self, stack: ExitStack) -> None:
        work = Path(stack.enter_context(TemporaryDirectory()))
        self.redis, port = redis_at(stack, work, *KEPT_NOWHERE)
        self.server = Server(work, "--store", f"redis://127.0.0.1:{port}", "--max-memory", "1G")
        self.server.start()
        stack.callback(self.server.kill)
        assert self.server.process is not None
        assert self.redis.process is not None
        self.pids = self.server.process.pid, self.redis.process.pid
        self.site = Site([self.server.port], "", [self.pids[0]], [self.pids[1]])
        self.found: dict[str, tuple[float, float]] = {}
        """µs or bytes of the process, and of Redis."""
        asyncio.run(reached(self.server))
        self.say("a process that nobody asks", "process_bytes", resident(self.pids[0]), self.used())

    def run(self) -> dict[str, tuple[float, float]]:
        """Measure all of it, and return it."""
        for name in DELIVERIES:
            self.found[name] = deliver(name, self.site, CometLite)
        asyncio.run(self.poll(10_000))
        one, more = filled(self.server.port, self.used)
        self.say("a mailbox with one message of 100 bytes", "mailbox_bytes", 0, one)
        self.say("a message of 100 bytes more", "message_bytes", 0, more)
        allow_files(PARKED)
        asyncio.run(self.park(PARKED))
        return self.found

    def say(self, what: str, name: str, own: float, its: float, unit: str = "bytes") -> None:
        """Note what something takes of the process and of Redis, and say it."""
        self.found[name] = own, its
        say(f"{what}: {own:,.0f} {unit}, and {its:,.0f} of Redis")

    def used(self) -> int:
        """Return the bytes that Redis uses."""
        return int(self.redis.ask("INFO", "memory").partition(b"used_memory:")[2].split()[0])

    async def poll(self, times: int) -> None:
        """Say what a poll costs that finds nothing."""
        wires = [await connect(self.server.port) for _ in range(PUSHERS)]

        async def ask(number: int) -> None:
            for _ in range(times // PUSHERS):
                request = poll_of(f"empty{number}", "?after=oldest&wait=0")
                assert await wires[number].ask(request) == 200

        before = spent(self.site)
        await asyncio.gather(*map(ask, range(PUSHERS)))
        self.say("a poll that finds nothing", "poll", *each(self.site, before, times), "µs of CPU")
        for wire in wires:
            wire.close()

    async def park(self, count: int) -> None:
        """Say what a client costs that connects and polls, and what it takes while its poll waits."""
        before, cpu_before = (resident(self.pids[0]), self.used()), spent(self.site)
        kernel = kernel_memory()
        wires = [await connect(self.server.port) for _ in range(count)]
        for number, wire in enumerate(wires):
            wire.ask(poll_of(f"waits{number}", "?after=oldest&wait=100")).add_done_callback(ignored)
        while self.redis.ask("PUBSUB", "NUMSUB", f"cometd-lite:wake:waits{count - 1}")[1] == 0:
            await asyncio.sleep(PARK_SECONDS)
        self.say("a client that connects", "connect", *each(self.site, cpu_before, count), "µs of CPU")
        own, its = [now - then for now, then in pairs((resident(self.pids[0]), self.used()), before)]
        self.say("a poll that waits", "parked_bytes", own / count, its / count)
        if kernel is not None:
            # The client's end is on this machine too, and takes as much.
            self.say("its connection", "kernel_bytes", ((kernel_memory() or 0) - kernel) / count / 2, 0)
        cpu_before, scripts = spent(self.site), self.scripts()
        for kind in ("normal", "pubsub"):
            self.redis.ask("CLIENT", "KILL", "TYPE", kind)
        while self.scripts() - scripts < count:
            await asyncio.sleep(PARK_SECONDS)
        self.say("a reader that looks again", "look", *each(self.site, cpu_before, count), "µs of CPU")
        for wire in wires:
            wire.close()

    def scripts(self) -> int:
        """Return how many scripts Redis has run: a read is one."""
        stats = self.redis.ask("INFO", "commandstats").partition(b"cmdstat_evalsha:calls=")[2]
        return int(stats.partition(b",")[0])


async def fill(port: int, names: int, each: int) -> None:
    """Push so many messages to each of so many mailboxes."""
    wire = await connect(port)
    for number in range(names):
        for _ in range(each):
            assert await wire.ask(push_of(f"{each}.{number}")) == 202
    wire.close()


def filled(port: int, used: Callable[[], int]) -> tuple[float, float]:
    """Return the bytes that a mailbox with one message takes, and each further message."""
    before = used()
    asyncio.run(fill(port, 5_000, 1))
    between = used()
    asyncio.run(fill(port, 100, 500))
    return (between - before) / 5_000, (used() - between) / 50_000


def kept_in_memory() -> dict[str, tuple[float, float]]:
    """Return and say what mailboxes take of a process that keeps them in memory."""
    with ExitStack() as stack:
        site = ours(stack, Path(stack.enter_context(TemporaryDirectory())), 1)
        one, more = filled(site.ports[0], lambda: resident(site.servers[0]))
    say(f"in memory, a mailbox with one message takes {one:,.0f} bytes, and a message more {more:,.0f}")
    return {"memory_mailbox_bytes": (one, 0), "memory_message_bytes": (more, 0)}


def kernel_memory() -> int | None:
    """Return the bytes that the kernel's tables take for sockets and their files, where it says so."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except PermissionError:  # only root may know
        return None
    tables = {"TCP", "TCPv6", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "eventpoll_pwq"}
    fields = [line.split() for line in lines]
    return sum(int(count) * int(size) for name, count, _, size, *_ in fields if name in tables)


async def across(pushes: int, site: Site, reader: int | None) -> tuple[float, float]:
    """Return what a push costs where a stream reads each mailbox at that process, or where none does."""
    names = [f"many{number}" for number in range(MAILBOXES)] if reader is not None else []
    streams = [await stream_of(name, site.ports[reader or 0]) for name in names]
    await asyncio.sleep(50 * PARK_SECONDS)  # until all listen
    _, *costs = await rate(Site(site.ports[:1], site.query, site.servers, site.redis), pushes)
    for stream in streams:
        stream.close()
    return costs[0], costs[1]


def wakes(pushes: int) -> dict[str, tuple[float, float]]:
    """Return what a push costs more where a stream reads at its process, and where one reads at another."""
    with ExitStack() as stack:
        site = ours(stack, Path(stack.enter_context(TemporaryDirectory())), 2, *KEPT_NOWHERE)
        alone, here, there = [asyncio.run(across(pushes, site, reader)) for reader in (None, 0, 1)]
    found = {}
    for name, costs in (("here", here), ("there", there)):
        found[f"wake_{name}"] = own, its = costs[0] - alone[0], costs[1] - alone[1]
        say(f"a stream that reads {name}: {own:.0f} µs of CPU for a push more, and {its:.0f} of Redis")
    return found


def spent(site: Site) -> tuple[float, float]:
    """Return the seconds of CPU of the processes and of Redis."""
    return cpu(site.servers), cpu(site.redis)


def each(site: Site, before: tuple[float, float], count: int) -> list[float]:
    """Return the µs of CPU since then that each of so many has cost the processes and Redis."""
    return [(now - then) / count * 1e6 for now, then in pairs(spent(site), before)]


class Spending:
    """The CPU time of a site, for the load generator: it asks at the beginning and the end of what counts."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.redis: list[float] = []

    def cpu(self) -> float:
        own, its = spent(self.site)
        self.redis.append(its)
        return own

    def idle_memory(self) -> int:
        return 0


def deliver(name: str, site: Site, dialect: type[Dialect]) -> tuple[float, float]:
    """Return and say what a delivery costs a server and its Redis in a scenario of the load generator."""
    own, its, each = run_scenario(SCENARIOS[name], site, dialect, DELIVERIES[name])
    own, its = own / each, its / each
    say(f"{dialect.__name__}, {name}: {own:.0f} µs of CPU for a delivery, and {its:.0f} of Redis")
    return own, its


def run_scenario(
    scenario: Scenario, site: Site, dialect: Callable[[Any], Dialect], messages: int
) -> tuple[float, float, float]:
    """Return the µs of servers and of Redis for each message of a scenario, and its deliveries."""
    costs = Spending(site)
    urls = [f"http://localhost:{port}" for port in site.ports]
    result = measure(urls, scenario, dialect, costs=costs, messages=messages, warm_up=0.1)
    assert result.cpu_us is not None
    each = result.deliveries / result.messages
    return result.cpu_us * each, (costs.redis[-1] - costs.redis[0]) / result.messages * 1e6, each


def rooms(site: Site) -> dict[str, tuple[float, float]]:
    """Return and say what a push costs to recipients whose readers are at all processes."""
    found = {}
    for by in ("streams", "polls"):
        for readers in ROOMS:
            scenario = Scenario("rooms", "", 20, readers, 1, 16, streams=by == "streams")
            own, its, _ = run_scenario(scenario, site, CometLite, 40_000 // (readers + 20))
            found[f"push to {readers} {by}"] = own, its
            say(f"a push to {readers} {by} at two processes: {own:.0f} µs of CPU, and {its:.0f} of Redis")
    return found


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
    parser.add_argument("--json", type=Path, help="write what was found there")
    asked = parser.parse_args()
    settings = [name for name in SETTINGS if not name.startswith("nchan") or shutil.which("nginx")]
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in settings}
    for _ in range(asked.rounds):
        for name in settings:
            found[name].append(run(name, asked.latencies, asked.pushes))
    say(f"{'':<32} {'p50, ms':>8} {'pushes/s':>9} {'CPU, µs':>8} {'of Redis, µs':>13}")
    settings_found = {}
    for name, runs in found.items():
        settings_found[name] = medians = [statistics.median(values) for values in zip(*runs, strict=True)]
        latency_ms, pushes, servers, redis = medians
        say(f"{name:<32} {latency_ms:8.2f} {pushes:9,.0f} {servers:8.0f} {redis:13.0f}")
    several = [costs(asked.pushes) for _ in range(asked.rounds)]
    medians_of = {
        name: [statistics.median([one[name][part] for one in several if name in one]) for part in (0, 1)]
        for name in several[0]
    }
    if asked.json is not None:
        document = {"settings": settings_found, "costs": medians_of}
        asked.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def costs(pushes: int) -> dict[str, tuple[float, float]]:
    """Measure what each thing costs, once."""
    with ExitStack() as stack:
        found = Costs(stack).run()
    found |= kept_in_memory() | wakes(pushes)
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        two = ours(stack, work, 2, *KEPT_NOWHERE)
        found["mailbox_two"] = deliver("mailbox", two, CometLite)
        found |= rooms(two)
    if shutil.which("nginx"):
        with ExitStack() as stack:
            work = Path(stack.enter_context(TemporaryDirectory()))
            for name, count in (("nchan", 1), ("nchan_two", 2)):
                found[name] = deliver("mailbox", nchan(stack, work, count, *KEPT_NOWHERE), Nchan)
    return found


if __name__ == "__main__":
    sys.exit(main())
