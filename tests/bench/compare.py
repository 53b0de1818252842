"""``python tests/bench/compare.py``: ours and its peers start in turn, one table with ratios leaves.

Everybody runs on this machine, on one core and on 127.0.0.1 only, with keep-alive connections and logs off,
under the same load generator (``cometd_lite.bench``) on another core. Each measurement has a fresh server.
They are interleaved, A B A B, and a ratio is the median of the ratios within the rounds: what disturbs the
machine disturbs both. What is compared is the CPU time of the server's processes per delivery, which holds
even where the generator is slower than the server.

A peer that is not installed is left out of the table, which says how to get it::

    pip install -e '.[dev]' aiohttp uvloop tornado     the frameworks, beside ours
    apt-get install nginx libnginx-mod-nchan           nchan
    npm install --prefix tests/bench/peers             Faye and cometd-nodejs-server

The exit status is 0 where every measurement could be taken and every bound holds, else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEERS_DIR = HERE / "peers"
sys.path.insert(0, str(ROOT))

# What is imported from here on lies beside this file and above it.
from dialects import Bayeux, Nchan, Toy  # noqa: E402
from processes import Processes  # noqa: E402

import cometd_lite  # noqa: E402
from cometd_lite.bench import (  # noqa: E402
    SCENARIOS,
    BenchError,
    CometLite,
    Dialect,
    Result,
    Scenario,
    Site,
    measure,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

START_SECONDS = 20.0
"""A server that does not listen by then will not."""

STOP_SECONDS = 5.0
"""A server that still runs so long after SIGTERM is killed."""


# What is measured.


@dataclass(frozen=True, slots=True)
class Run:
    """One column of the table, or one side of a check."""

    name: str
    heading: str
    scenario: Scenario
    parked: int = 0
    messages: int | None = None
    seconds: float | None = None
    """None: what the command says."""
    ours_only: bool = False

    def value(self, result: Result) -> float:
        """Return what is compared: µs of CPU per delivery, or KB per parked poll or open stream."""
        found = result.kb_per_reader if self.scenario.name in {"parked", "streams"} else result.cpu_us
        if found is None:
            raise BenchError(f"{self.name} has nothing to compare.")
        return found


def _push(mailboxes: int) -> Scenario:
    return SCENARIOS["push"].sized(None, None, mailboxes)


RUNS = {
    run.name: run
    for run in (
        Run("mailbox", "mailbox, µs", SCENARIOS["mailbox"]),
        Run("fanout", "fan-out, µs", SCENARIOS["fanout"]),
        Run("parked", "parked, KB", SCENARIOS["parked"], seconds=1.0),
        Run("burst", "burst, µs", SCENARIOS["burst"]),
        Run("stream", "stream, µs", SCENARIOS["stream"]),
        Run("streams", "streams, KB", SCENARIOS["streams"], seconds=1.0),
        Run("parked-1000", "mailbox, 1,000 parked", SCENARIOS["mailbox"], parked=800, ours_only=True),
        Run("parked-15000", "mailbox, 15,000 parked", SCENARIOS["mailbox"], parked=14_800, ours_only=True),
        Run("mailboxes-100", "push, 100 mailboxes", _push(100), messages=50_000, ours_only=True),
        Run("mailboxes-100000", "push, 100,000 mailboxes", _push(100_000), messages=50_000, ours_only=True),
    )
}


@dataclass(frozen=True, slots=True)
class Check:
    """A ratio that must not be above ``bound``: our cost in one run to somebody's in another."""

    text: str
    run: str
    peer: str | None
    """None: ours."""
    peer_run: str
    bound: float
    goal: float | None = None
    ours: str | None = None
    """Whose cost of ours; None: that of whom the table compares the others with."""


BY_BAYEUX = "cometd-lite by Bayeux"
COMETD = "cometd-nodejs-server"

CHECKS = (
    Check("fan-out, against nchan", "fanout", "nchan", "fanout", 1.7, 1.0),
    Check("mailbox, against nchan", "mailbox", "nchan", "mailbox", 2.5, 1.0),
    Check("fan-out, against aiohttp on uvloop", "fanout", "aiohttp on uvloop", "fanout", 0.6),
    Check("mailbox, against aiohttp on uvloop", "mailbox", "aiohttp on uvloop", "mailbox", 0.6),
    Check("fan-out, against Faye", "fanout", "Faye", "fanout", 0.6),
    Check("mailbox, against Faye", "mailbox", "Faye", "mailbox", 0.6),
    Check("fan-out spoken as Bayeux, against Faye", "fanout", "Faye", "fanout", 0.6, ours=BY_BAYEUX),
    Check("mailbox spoken as Bayeux, against Faye", "mailbox", "Faye", "mailbox", 0.5, ours=BY_BAYEUX),
    Check("fan-out spoken as Bayeux, against CometD's", "fanout", COMETD, "fanout", 0.7, ours=BY_BAYEUX),
    Check("mailbox spoken as Bayeux, against CometD's", "mailbox", COMETD, "mailbox", 0.5, ours=BY_BAYEUX),
    Check("memory per parked poll, 10,000 parked, against nchan", "parked", "nchan", "parked", 0.5),
    Check("fan-out to streams, against polls", "stream", None, "fanout", 0.7),
    Check("memory per stream, 10,000 of them, against parked polls", "streams", None, "parked", 1.2),
    Check("a burst's message, against nchan's one per poll", "burst", "nchan", "burst", 0.5),
    Check("a delivery with 15,000 parked, against 1,000", "parked-15000", None, "parked-1000", 1.2),
    Check("a push with 100,000 mailboxes, against 100", "mailboxes-100000", None, "mailboxes-100", 1.2),
)


# Who is measured.


@dataclass(frozen=True)
class Peer:
    """A server: how it is started, spoken to, and got."""

    name: str
    dialect: Callable[[Site], Dialect]
    command: Callable[[int, Path], Sequence[str | Path]]
    """Of the port and a directory for its files."""
    needs: Callable[[], str | None]
    """Returns how to install what is missing, or None."""
    version: Callable[[], str]
    path: str = ""
    lacks: frozenset[str] = field(default_factory=frozenset)
    """Runs that it cannot do."""
    ours: bool = False
    commit: str | None = None
    """What of ours to run; None: what lies above this file."""


def _modules(*names: str) -> Callable[[], str | None]:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return lambda: f"pip install {' '.join(missing)}" if missing else None


def _versions(*names: str) -> Callable[[], str]:
    return lambda: ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _script(name: str) -> Callable[[int, Path], Sequence[str | Path]]:
    return lambda port, work: [sys.executable, PEERS_DIR / name, str(port)]


def _twistd(*options: str, uvloop: bool = False) -> Callable[[int, Path], Sequence[str | Path]]:
    plain = ["-c", "from twisted.scripts.twistd import run; run()"]  # What the command twistd does.
    runner = [PEERS_DIR / "twistd_uvloop.py"] if uvloop else plain
    return lambda port, work: [
        sys.executable,
        *runner,
        "--nodaemon",
        "--pidfile=",
        f"--logfile={work}/twistd.log",
        "cometd-lite",
        f"--listen=tcp:{port}:interface=127.0.0.1:backlog=4096",
        *options,
    ]


def _nginx() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _nchan_module() -> Path | None:
    homes = map(Path, ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"))
    return next((found for home in homes if (found := home / "ngx_nchan_module.so").exists()), None)


def _nchan_needs() -> str | None:
    return None if _nginx() and _nchan_module() else "apt-get install nginx libnginx-mod-nchan"


def _nchan_command(port: int, work: Path) -> Sequence[str | Path]:
    template = (PEERS_DIR / "nginx.conf").read_text()
    config = work / "nginx.conf"
    config.write_text(template.format(port=port, module=_nchan_module(), work=work))
    return [_nginx() or "nginx", "-p", work, "-c", config]


def _said(*command: str) -> str:
    """Return what ``command`` prints; nothing where there is no such command."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _nchan_version() -> str:
    nginx = _said(_nginx() or "nginx", "-v").removeprefix("nginx version: ")
    return f"{nginx}, nchan {_said('dpkg-query', '-W', '-f', '${Version}', 'libnginx-mod-nchan')}"


def _npm_needs(package: str) -> Callable[[], str | None]:
    def needs() -> str | None:
        if shutil.which("node") is None:
            return "apt-get install nodejs npm"
        there = (PEERS_DIR / "node_modules" / package).exists()
        return None if there else "npm install --prefix tests/bench/peers"

    return needs


def _npm_version(package: str) -> Callable[[], str]:
    def version() -> str:
        described = json.loads((PEERS_DIR / "node_modules" / package / "package.json").read_text())
        return f"{package} {described['version']}, node {_said('node', '--version')}"

    return version


def _node(name: str) -> Callable[[int, Path], Sequence[str | Path]]:
    return lambda port, work: ["node", PEERS_DIR / name, str(port)]


def _ours_version() -> str:
    commit = _said("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return f"{cometd_lite.__version__} {commit}".strip()


NO_STREAM = frozenset({"stream", "streams"})

PEERS = (
    Peer("cometd-lite", CometLite, _twistd(), _modules("twisted", "klein"), _ours_version, ours=True),
    Peer(
        "cometd-lite on uvloop",
        CometLite,
        _twistd(uvloop=True),
        _modules("twisted", "klein", "uvloop"),
        _ours_version,
        ours=True,
    ),
    Peer("nchan", Nchan, _nchan_command, _nchan_needs, _nchan_version),
    Peer(
        "aiohttp on uvloop",
        Toy,
        _script("aiohttp_peer.py"),
        _modules("aiohttp", "uvloop"),
        _versions("aiohttp", "uvloop"),
    ),
    Peer(
        "Faye",
        Bayeux,
        _node("faye_peer.js"),
        _npm_needs("faye"),
        _npm_version("faye"),
        path="/faye",
        lacks=NO_STREAM,
    ),
    Peer(
        COMETD,
        Bayeux,
        _node("cometd_peer.js"),
        _npm_needs(COMETD),
        _npm_version(COMETD),
        path="/cometd",
        lacks=NO_STREAM,
    ),
    Peer(
        BY_BAYEUX,
        Bayeux,
        _twistd("--bayeux-timeout=120"),
        _modules("twisted", "klein"),
        _ours_version,
        path="/cometd",
        lacks=NO_STREAM,
    ),
    Peer(
        "Klein on twisted.web",
        Toy,
        _script("klein_peer.py"),
        _modules("klein"),
        _versions("klein", "twisted"),
        lacks=NO_STREAM,
    ),
    Peer(
        "Tornado", Toy, _script("tornado_peer.py"), _modules("tornado"), _versions("tornado"), lacks=NO_STREAM
    ),
)


# Starting and stopping them.


def cores(allowed: set[int]) -> tuple[set[int], set[int]]:
    """Return the cores for the generator and for the server: one for each, where there are two."""
    return {min(allowed)}, {max(allowed)}


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(peer: Peer) -> Iterator[tuple[str, int]]:
    """Start ``peer``; yield its URL and its process; stop it, and all that it started, however this ends."""
    allowed = os.sched_getaffinity(0)
    mine, its = cores(allowed)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as work, (Path(work) / "output").open("w+b") as output:
        root = ROOT if peer.commit is None else _checked_out(peer.commit, Path(work) / "root")
        os.sched_setaffinity(0, its)  # What is started here inherits it.
        try:
            process = subprocess.Popen(
                [str(word) for word in peer.command(port, Path(work))],
                cwd=work,
                env={**os.environ, "PYTHONPATH": str(root)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.sched_setaffinity(0, mine)
        try:
            _await_listening(process, port, output)
            yield f"http://127.0.0.1:{port}{peer.path}", process.pid
        finally:
            _stop(process)
            os.sched_setaffinity(0, allowed)  # Else the next server would have to share the generator's core.


def _checked_out(commit: str, root: Path) -> Path:
    """Return ``root``, with what ``commit`` has in it: the tree above this file may be changing."""
    root.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False)
    if archive.returncode:
        raise BenchError(archive.stderr.decode().strip())
    subprocess.run(["tar", "-x", "-C", str(root)], input=archive.stdout, check=True)
    return root


def _await_listening(process: subprocess.Popen[bytes], port: int, output: Any) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            output.seek(0)
            said = output.read().decode("utf-8", "replace").strip().splitlines()
            raise BenchError(f"It ended with {process.returncode}: {said[-1] if said else 'no word'}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise BenchError(f"It did not listen within {START_SECONDS:.0f} s.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, then end what is left of its session: that holds nobody else."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# Comparing.


@dataclass
class Measured:
    """What was measured so far: for each peer and run, one result a round, None where it failed."""

    results: dict[tuple[str, str], list[Result | None]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def values(self, peer: str, run: str) -> list[float | None]:
        """Return what was compared in each round."""
        found = self.results.get((peer, run), [])
        return [None if result is None else RUNS[run].value(result) for result in found]

    def median(self, peer: str, run: str) -> float | None:
        """Return the median over the rounds."""
        values = [value for value in self.values(peer, run) if value is not None]
        return statistics.median(values) if values else None

    def ratio(self, peer: str, run: str, other: str, other_run: str) -> float | None:
        """Return the median of the rounds' ratios of the first to the second."""
        return median_ratio(self.values(peer, run), self.values(other, other_run))


def median_ratio(above: Iterable[float | None], below: Iterable[float | None]) -> float | None:
    """Return the median of the ratios within each round; None where no round has both."""
    pairs = zip(above, below, strict=False)
    ratios = [a / b for a, b in pairs if a is not None and b is not None and b > 0]
    return statistics.median(ratios) if ratios else None


def compare(
    peers: Sequence[Peer], runs: Sequence[Run], rounds: int, seconds: float, *, quiet: bool
) -> Measured:
    """Measure every run of every peer ``rounds`` times, one beside the other."""
    measured = Measured()
    for number in range(1, rounds + 1):
        for run in runs:
            # Every other round goes backwards, so that nobody always comes after the same one.
            for peer in peers if number % 2 else tuple(reversed(peers)):
                if run.name in peer.lacks or (run.ours_only and not peer.ours):
                    continue
                key = (peer.name, run.name)
                try:
                    result = _once(peer, run, seconds)
                    said = f"{run.value(result):.1f}"
                except (BenchError, OSError) as error:
                    result = None
                    said = measured.failures[key] = str(error)
                measured.results.setdefault(key, []).append(result)
                if not quiet:
                    sys.stderr.write(f"{number}/{rounds}  {run.heading:<24} {peer.name:<24} {said}\n")
    return measured


def _once(peer: Peer, run: Run, seconds: float) -> Result:
    with running(peer) as (url, pid):
        return measure(
            url,
            run.scenario,
            peer.dialect,
            costs=Processes([pid]),
            seconds=None if run.messages else run.seconds or seconds,
            messages=run.messages,
            parked=run.parked,
        )


# Saying it.


def table(peers: Sequence[Peer], runs: Sequence[Run], measured: Measured, ours: str) -> str:
    """Return the table, as Markdown: costs, and ``ours`` as a multiple of each; if any was run."""
    columns = [run for run in runs if not run.ours_only]
    if not columns:
        return ""
    rows = [["server", *(heading for run in columns for heading in (run.heading, "ours is"))]]
    for peer in peers:
        missing = peer.needs()
        if missing:
            rows.append([peer.name, f"not installed: {missing}"] + [""] * (2 * len(columns) - 1))
            continue
        cells = [peer.name]
        for run in columns:
            ratio = None if peer.name == ours else measured.ratio(ours, run.name, peer.name, run.name)
            cells += [_cell(measured, peer, run), "" if ratio is None else f"{ratio:.2f} x"]
        rows.append(cells)
    return markdown(rows)


def _cell(measured: Measured, peer: Peer, run: Run) -> str:
    value = measured.median(peer.name, run.name)
    if value is not None:
        return f"{value:.1f}"
    return "failed" if (peer.name, run.name) in measured.failures else "-"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return ``rows`` as a table whose columns are aligned; the first row is its heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    # A sentence in the place of a number may run over the columns that it leaves empty.
    for row in rows:
        if row[1].startswith("not installed"):
            widths[1] = max(len(other[1]) for other in rows if not other[1].startswith("not installed"))
    lines = []
    for number, row in enumerate(rows):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        if number == 0:
            rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            lines.append(f"|{'|'.join(f' {rule} ' for rule in rules)}|")
    return "\n".join(lines) + "\n"


def verdicts(measured: Measured, runs: Sequence[Run], ours: str) -> list[dict[str, Any]]:
    """Return the checks of ``runs``: ratio, and whether it holds; None without one of its sides."""
    names = {run.name for run in runs}
    found = []
    for check in CHECKS:
        if not names >= {check.run, check.peer_run}:
            continue
        ratio = measured.ratio(check.ours or ours, check.run, check.peer or ours, check.peer_run)
        found.append(
            {**asdict(check), "ratio": ratio, "passed": None if ratio is None else ratio <= check.bound}
        )
    return found


def checks_table(found: Iterable[dict[str, Any]]) -> str:
    """Return the checks as a table."""
    rows = [["CPU per delivery unless it says otherwise", "measured", "at most", "goal", ""]]
    for check in found:
        passed = check["passed"]
        rows.append(
            [
                check["text"],
                "-" if check["ratio"] is None else f"{check['ratio']:.2f} x",
                f"{check['bound']:.1f} x",
                "" if check["goal"] is None else f"{check['goal']:.1f} x",
                "not measured" if passed is None else "PASS" if passed else "FAIL",
            ]
        )
    return markdown(rows)


def others_cpu() -> float:
    """Return the CPU seconds that everything on the machine has had, without this process and its servers."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq")
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    ticks = dict(zip(names, map(int, first), strict=False))
    busy = sum(ticks[name] for name in names if name not in {"idle", "iowait"}) / os.sysconf("SC_CLK_TCK")
    times = os.times()
    return busy - (times.user + times.system + times.children_user + times.children_system)


def machine() -> dict[str, Any]:
    """Return what the numbers depend on besides the servers."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


# The command.


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        prog="compare.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"runs:  {', '.join(RUNS)}\npeers: {', '.join(peer.name for peer in PEERS)}",
    )
    add = parser.add_argument
    add("--runs", nargs="+", choices=RUNS, metavar="RUN", default=list(RUNS), help="what to measure; all")
    add(
        "--peers",
        nargs="+",
        metavar="PEER",
        default=[],
        help="whom, by the beginnings of their names; all",
    )
    add("--rounds", type=int, default=3, help="how often each is measured; %(default)s")
    add(
        "--seconds",
        type=float,
        default=3.0,
        help="of each measurement, after one of warm-up; %(default)s",
    )
    add(
        "--ours", default="cometd-lite", metavar="PEER", help="whom the others are compared with; %(default)s"
    )
    add(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=[@COMMIT] [OPTIONS]",
        help="one more of ours: as it is in a commit, with options for `twistd cometd-lite`; may be repeated",
    )
    add("--json", type=Path, metavar="FILE", help="write every result there, as JSON")
    add("--quiet", action="store_true", help="no line for each measurement")
    return parser


def chosen(names: Sequence[str], variants: Sequence[str], ours: str) -> list[Peer]:
    """Return the variants, and the peers whose names begin with one of ``names`` or, without any, all."""
    added = []
    for variant in variants:
        name, _, said = variant.partition("=")
        options = shlex.split(said)
        commit = options.pop(0)[1:] if said.startswith("@") else None
        command, needs = _twistd(*options), _modules("twisted", "klein")
        added.append(Peer(name, CometLite, command, needs, said.strip, ours=True, commit=commit))
    everyone = [*PEERS[:2], *added, *PEERS[2:]]
    wanted = [name.lower() for name in names]
    return [
        peer
        for peer in everyone
        if not wanted or peer.name == ours or peer in added or peer.name.lower().startswith(tuple(wanted))
    ]


def main() -> int:
    """Run the command and return its exit status."""
    arguments = parser().parse_args()
    peers = chosen(arguments.peers, arguments.variant, arguments.ours)
    installed = [peer for peer in peers if peer.needs() is None]
    runs = [RUNS[name] for name in arguments.runs]
    # So that a plain `kill` cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The servers inherit it; each of them needs a file for each connection.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    about = machine()
    others, start = others_cpu(), time.monotonic()
    try:
        measured = compare(installed, runs, arguments.rounds, arguments.seconds, quiet=arguments.quiet)
    except KeyboardInterrupt:
        return 130
    about["others"] = max(0.0, others_cpu() - others) / (time.monotonic() - start)
    found = verdicts(measured, runs, arguments.ours)
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    versions = {peer.name: peer.version() for peer in installed}
    out = sys.stdout
    out.write(
        f"{date}, {about['cpu']}, {about['cores']} cores, {about['system']}, Python {about['python']}\n"
    )
    out.writelines(f"{name}: {version}\n" for name, version in versions.items())
    out.write(
        f"\nMedians of {arguments.rounds} x {arguments.seconds:g} s. µs: the server's CPU time per delivery, "
        "its push included. KB: memory per parked poll or stream.\n"
    )
    if about["others"] > 0.1:
        out.write(f"Other processes had {about['others']:.0%} of a core meanwhile, so all is dearer.\n")
    out.write("\n")
    out.write(table(peers, runs, measured, arguments.ours) + "\n" + (checks_table(found) if found else ""))
    out.writelines(f"{peer}, {run}: {why}\n" for (peer, run), why in measured.failures.items())
    if arguments.json is not None:
        document = {
            "date": date,
            "machine": about,
            "versions": versions,
            "results": {
                f"{peer}/{run}": [result and asdict(result) for result in results]
                for (peer, run), results in measured.results.items()
            },
            "checks": found,
            "failures": {f"{peer}/{run}": why for (peer, run), why in measured.failures.items()},
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if measured.failures or any(check["passed"] is False for check in found) else 0


if __name__ == "__main__":
    sys.exit(main())
