"""A quiet client beside others: a process that asks one thing after the other, and says how long it waited.

    python quiet.py PORT SERVER_PID

It asks at least once, and until its standard input ends. Then it prints the longest wait in seconds and the
number of requests. On a busy machine much of a wait is no work of the server. So no wait counts for longer
than the server's thread has run meanwhile (the first number of /proc/PID/schedstat).
"""

from __future__ import annotations

import select
import socket
import sys
import time
from pathlib import Path

PAUSE = 0.003
ASKED = (
    b"GET /poll/quiet?after=now&wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /push/quiet?overflow=drop-oldest&ttl=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
)


def ran(pid: int) -> float:
    """Return for how many seconds the first thread of a process has run."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def main(port: int, server: int) -> None:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    longest, count = 0.0, 0
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    has_ended = False
    while not has_ended:
        before, began = ran(server), time.perf_counter()
        connection.sendall(ASKED[count % len(ASKED)])
        connection.recv(65_536)
        waited = time.perf_counter() - began
        longest = max(longest, min(waited, ran(server) - before))
        count += 1
        has_ended = bool(select.select([sys.stdin], [], [], PAUSE)[0])
    sys.stdout.write(f"{longest} {count}\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
