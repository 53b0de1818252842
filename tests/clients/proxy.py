"""A TCP proxy that resets its connections, each after so many bytes of the server's, wherever that is."""

from __future__ import annotations

import re
import socket
import struct
import threading
from contextlib import suppress
from random import Random

_RESET = struct.pack("ii", 1, 0)
_RETRY = re.compile(rb"retry: \d{4}")


class Proxy:
    """Forwards to ``target``, and resets ``cuts`` connections before it lets one live.

    ``hasty`` has readers of streams come back at once, where the server asks for a second or more.
    """

    def __init__(self, target: int, cuts: int, most: int, *, hasty: bool = False) -> None:
        self.cuts = 0
        self.target = target
        self.most_cuts = cuts
        self.most = most
        self.hasty = hasty
        self.random = Random(11)
        self.lock = threading.Lock()
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self) -> None:
        for end in (self.listener, *self.sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # a close alone would wait for the thread that reads from it
            end.close()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self.sockets += [client, server]
                threading.Thread(target=self.forward, args=(client, server), daemon=True).start()
                threading.Thread(target=self.back, args=(server, client), daemon=True).start()

    def forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def back(self, server: socket.socket, client: socket.socket) -> None:
        with self.lock:
            doomed = self.cuts < self.most_cuts
            left = self.random.randrange(self.most) if doomed else None
        with suppress(OSError):
            while data := server.recv(4_096):
                if self.hasty:
                    data = _RETRY.sub(b"retry: 0005", data)
                if left is not None:
                    data = data[:left]
                    left -= len(data)
                client.sendall(data)
                if left == 0:
                    break
        if left == 0:
            with self.lock:
                self.cuts += 1
        for end in (client, server):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RD)  # as in close
            end.close()
