"""Foreign Bayeux clients as processes, told what to do by lines; and a cable to the server to cut."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

HERE = Path(__file__).parent
PATIENCE = 20.0
"""Seconds until what should come is given up: clients wait, back off and try again."""


class Failed(Exception):
    """The client said that what it was told to do failed."""


class Foreign:
    """A foreign client in a process of its own, and what it has heard."""

    def __init__(self, program: list[str], url: str, transport: str, *extensions: str) -> None:
        self.transport = transport
        self.heard: Queue[tuple[str, Any]] = Queue()
        self.notes: Queue[str] = Queue()
        self.answers: dict[int, Any] = {}
        self.answered = threading.Condition()
        self.number = 0
        self.process = subprocess.Popen(
            [*program, url, transport, *extensions],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def tell(self, deed: str, *given: Any) -> int:
        """Tell it to do something; return the number by which ``answer`` is asked for."""
        self.number += 1
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"n": self.number, "do": deed, "with": given}) + "\n")
        self.process.stdin.flush()
        return self.number

    def answer(self, number: int) -> Any:
        """Return what came of what it was told. Raises ``Failed``."""
        with self.answered:
            assert self.answered.wait_for(lambda: number in self.answers, PATIENCE), "it says nothing"
            answer = self.answers.pop(number)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["ok"]

    def do(self, deed: str, *given: Any) -> Any:
        return self.answer(self.tell(deed, *given))

    def hears(self, count: int) -> list[tuple[str, Any]]:
        """Return the next so many events."""
        return [self.next(self.heard) for _ in range(count)]

    def notices(self, note: str) -> None:
        """Wait until it says that it noticed something."""
        while self.next(self.notes) != note:
            pass

    def end(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @staticmethod
    def next(queue: Queue[Any]) -> Any:
        try:
            return queue.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError("nothing came") from None

    def listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if "event" in said:
                self.heard.put((said["event"]["channel"], said["event"]["data"]))
            elif "note" in said:
                self.notes.put(said["note"])
            else:
                with self.answered:
                    self.answers[said["n"]] = said
                    self.answered.notify_all()


Make = Callable[..., Foreign]


class Cable:
    """A TCP relay on a port of its own, which a test cuts as a bad network does.

    ``spoil``, if it is set, is given each piece that comes from the server, and tells whether it still gets
    through, and whether the connection is then cut.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.spoil: Callable[[bytes], tuple[bool, bool]] | None = None
        self.cuts = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.listener.getsockname()[1]
        self.pairs: set[tuple[socket.socket, socket.socket]] = set()
        self.lock = threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all connections."""
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            self.end(pair)

    def close(self) -> None:
        self.listener.close()
        self.cut()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            pair = (client, server)
            with self.lock:
                self.pairs.add(pair)
            for source, sink, from_server in ((client, server, False), (server, client, True)):
                threading.Thread(
                    target=self.relay, args=(pair, source, sink, from_server), daemon=True
                ).start()

    def relay(
        self,
        pair: tuple[socket.socket, socket.socket],
        source: socket.socket,
        sink: socket.socket,
        from_server: bool,
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                through, cut = (True, False)
                if from_server and self.spoil is not None:
                    through, cut = self.spoil(data)
                if through:
                    sink.sendall(data)
                if cut:
                    self.cuts += 1
                    break
        self.end(pair)

    def end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self.lock:
            self.pairs.discard(pair)
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def curl(port: int, channel: str, data: Any) -> None:
    """Push JSON as one does from a shell."""
    said = ["-H", "Content-Type: application/json", "-d", json.dumps(data)]
    subprocess.run(
        ["curl", "-sS", "--fail", *said, f"http://127.0.0.1:{port}/push{channel}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def eventually(holds: Callable[[], Any], what: str) -> Any:
    """Return what ``holds`` returns, as soon as it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (result := holds()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)
    return result
