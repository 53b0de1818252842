"""The real program over real sockets: ``twistd cometd-lite`` as a process, and a client that sends bytes.

Programs are forks of a process that has imported the server (``fork_server.py``), but for those that are
``fresh``: they are started as a shell starts them.

Only here does time pass. Nothing sleeps for a fixed time: each wait is for a condition, with a deadline.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
from fork_server import Process, fork, spawn
from tls import certificate, client_context

PATIENCE = 20.0
"""Seconds until a condition that should hold is given up."""
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
COMETD_LITE = "import sys; from cometd_lite.cli import main; sys.argv[0] = 'cometd-lite'; sys.exit(main())"
ON_LOOPBACK = "tcp:0:interface=127.0.0.1"


def eventually(holds: Callable[[], Any], what: str = "") -> Any:
    """Return what ``holds`` returns, as soon as it is true."""
    deadline = time.monotonic() + PATIENCE
    while True:
        result = holds()
        if result:
            return result
        assert time.monotonic() < deadline, f"never came: {what or holds}"
        time.sleep(0.005)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def data(self) -> list[Any]:
        """The data of the messages in a poll's answer."""
        return [message["data"] for message in self.json["messages"]]


class Connection:
    """A socket that speaks HTTP by hand."""

    def __init__(self, port: int, address: str | None = None, *, tls: bool = False) -> None:
        source = None if address is None else (address, 0)
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE, source_address=source)
        if tls:
            self.socket = client_context().wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes | str) -> Connection:
        self.socket.sendall(data.encode() if isinstance(data, str) else data)
        return self

    def request(self, method: str, target: str, body: bytes | str = b"", **headers: str) -> Connection:
        """Send a whole request; an underscore in a header's name stands for a hyphen."""
        payload = body.encode() if isinstance(body, str) else body
        fields = {"Host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if payload or method == "POST":
            fields.setdefault("Content-Length", str(len(payload)))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields.items())
        return self.send(head.encode() + b"\r\n" + payload)

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer, as it was framed."""
        head = self.until(b"\r\n\r\n").decode("latin-1")
        line, *lines = head.split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if method == "HEAD" or status in {"204", "304"} or status.startswith("1"):
            return Answer(int(status), headers, b"")
        return Answer(int(status), headers, self.exactly(int(headers["content-length"])))

    def ask(self, method: str, target: str, body: bytes | str = b"", **headers: str) -> Answer:
        return self.request(method, target, body, **headers).answer(method)

    def ended(self) -> bool:
        """Send no more, and wait for the server to close; return whether no further byte came before.

        A server that is not told that no more comes lingers for what it is still to drop.
        """
        try:
            if isinstance(self.socket, ssl.SSLSocket):
                self.socket = self.socket.unwrap()  # fails if anything but the end of TLS comes
            else:
                self.socket.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # it has closed already
        return self.buffer == b"" and self.more() == b""

    def quiet(self) -> bool:
        """Whether nothing is there to be read at this moment."""
        self.socket.setblocking(False)
        try:
            self.buffer += self.socket.recv(65_536)
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self.socket.settimeout(PATIENCE)
        return self.buffer == b""

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close so that the peer gets an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def more(self) -> bytes:
        try:
            return self.socket.recv(65_536)
        except (ConnectionResetError, ssl.SSLEOFError):
            return b""

    def until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            data = self.more()
            assert data, f"closed in the middle of {self.buffer!r}"
            self.buffer += data
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def exactly(self, length: int) -> bytes:
        while len(self.buffer) < length:
            data = self.more()
            assert data, f"closed in the middle of {self.buffer!r}"
            self.buffer += data
        found, self.buffer = self.buffer[:length], self.buffer[length:]
        return found


class Program:
    """One run of ``twistd cometd-lite``, on a free port; ``started`` is what ``start`` takes."""

    def __init__(self, directory: Path, *options: str, tls: bool = False, **started: Any) -> None:
        self.tls = tls
        if tls:
            pem = directory / "certificate.pem"
            pem.write_bytes(certificate())
            options = (*options, f"--listen=ssl:0:interface=127.0.0.1:privateKey={pem}:certKey={pem}")
        self.log = directory / f"twistd-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = start(directory, *options, output=log, **started)
        self.port = int(eventually(self.listening, "the port in the log"))
        self.connections: list[Connection] = []
        self.stopping = False
        self.get("/")  # whatever it says: its reactor is running, and so it takes signals

    def listening(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        match = re.search(r"starting on (\d+)", self.log.read_text())
        return match and match[1]

    def connect(self, address: str | None = None) -> Connection:
        """Open a connection, from a given address where there is one."""
        connection = Connection(self.port, address, tls=self.tls)
        self.connections.append(connection)
        return connection

    def ask(self, method: str, target: str, body: bytes | str = b"", **headers: str) -> Answer:
        """Send one request on a connection of its own."""
        with self.connect() as connection:
            return connection.ask(method, target, body, **headers)

    def push(self, target: str, body: bytes | str = "hello", **headers: str) -> Answer:
        answer = self.ask("POST", f"/push{target}", body, **headers)
        assert answer.status in {201, 202}, answer
        return answer

    def get(self, target: str, **headers: str) -> Answer:
        return self.ask("GET", target, **headers)

    def waiting(self, name: str) -> int:
        return self.get(f"/recipients/{name}").json["waiting"]

    def park(self, target: str, name: str, **headers: str) -> Connection:
        """Send a poll, and return once the server holds it."""
        before = self.waiting(name)
        connection = self.connect().request("GET", target, **headers)
        eventually(lambda: self.waiting(name) == before + 1, f"{target} parked")
        return connection

    def files(self) -> int:
        """Count the files that the process has open, sockets among them."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208  entries, not paths

    def cpu(self) -> float:
        """Return the seconds of CPU time that the process has used."""
        fields = self.stat()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        """Return the bytes of memory that the process has."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the process stand still; what is sent to it meanwhile, it meets in one turn of its loop."""
        self.process.send_signal(signal.SIGSTOP)
        eventually(lambda: self.stat()[0] == "T", "standing still")
        yield
        self.process.send_signal(signal.SIGCONT)

    def stat(self) -> list[str]:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()

    def begin_stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal that ends the program."""
        self.stopping = True
        self.process.send_signal(number)

    def stop(self) -> int:
        """End the program; return its exit code.

        No second signal is sent: it would kill a program whose reactor has ended, and its handlers with it.
        """
        if not self.stopping:
            self.begin_stop()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.leave()

    def leave(self) -> None:
        """Close all connections."""
        for connection in self.connections:
            connection.close()


def start(
    directory: Path,
    *options: str,
    output: IO[bytes],
    code: str = TWISTD,
    fresh: bool = False,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start ``twistd -n cometd-lite``, on a free port unless the options say otherwise; or other ``code``."""
    listens = any(option.startswith("--listen") for option in options)
    given = options if listens else (*options, "--listen", ON_LOOPBACK)
    words = (code, "-n", "--pidfile=", "cometd-lite", *given)
    if fresh:
        words = (sys.executable, "-u", "-c", *words)
    return (spawn if fresh else fork)(*words, cwd=directory, stdout=output, pass_fds=pass_fds)


def ran(directory: Path, *options: str, fresh: bool = False) -> tuple[str, int]:
    """Run the program to its end; return what it said, and its exit code."""
    log = directory / f"ran-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = start(directory, *options, output=output, fresh=fresh)
    code = process.wait(PATIENCE)
    return log.read_text(), code


Run = Callable[..., Program]
"""Starts a program with options; it is ended when the test is."""
