"""Applications that take webhooks, in memory and at a port: they verify signatures, and answer as told."""

from __future__ import annotations

import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from standardwebhooks import Webhook
from twisted.internet.defer import Deferred, succeed

from cometd_lite.outgoing import NoReply, PostReply

KEY = "whsec_" + b64encode(bytes(range(32))).decode()
OTHER_KEY = "whsec_" + b64encode(bytes(range(1, 33))).decode()


class FakeReceiver:
    """Keeps each attempt in ``attempts``, by its id and its events.

    ``answer`` returns the status of the next answer; None where none comes, and "later" where it comes when
    ``reply`` is called.
    """

    def __init__(self, answer: Callable[[], int | str | None] = lambda: 204, key: str = KEY) -> None:
        self.answer = answer
        self.webhook = Webhook(key)
        self.attempts: list[tuple[str, list[dict[str, Any]]]] = []
        self.taken: list[dict[str, Any]] = []
        """The events of attempts that were answered with 2xx, in order."""
        self.pending: list[Deferred[PostReply]] = []
        self.cancelled = 0

    shown = "http://app.example"

    def __call__(self, body: bytes, headers: Mapping[str, str] | None = None) -> Deferred[PostReply]:
        fields = dict(headers or {})
        events = self._verified(body, fields)
        self.attempts.append((fields["webhook-id"], events))
        reply: Deferred[PostReply] = Deferred(self._cancel)
        answer = self.answer()
        if answer == "later":
            self.pending.append(reply)
        elif isinstance(answer, int):
            self._reply(reply, answer)
        else:
            reply.errback(NoReply("It did not answer in time."))
        return reply

    def _verified(self, body: bytes, fields: dict[str, str]) -> list[dict[str, Any]]:
        """Return the events, whose time need not be that of this machine."""
        at = datetime.fromtimestamp(int(fields["webhook-timestamp"]), UTC)
        signed = self.webhook.sign(fields["webhook-id"], at, body.decode())
        assert signed in fields["webhook-signature"].split(" ")
        events: list[dict[str, Any]] = msgspec.json.decode(body)
        return events

    def _cancel(self, _: object) -> None:
        self.cancelled += 1

    def _reply(self, reply: Deferred[PostReply], status: int) -> None:
        if 200 <= status < 300:
            self.taken += self.attempts[-1][1]
        reply.callback(PostReply(status, "", b""))

    def reply(self, status: int) -> None:
        """Answer the attempt that has no answer."""
        self._reply(self.pending.pop(0), status)

    def close(self) -> Deferred[None]:
        return succeed(None)


class HTTPReceiver:
    """The same at a port of this machine, with the times of this machine.

    ``answer`` returns the status of the next answer, and after how many seconds it comes. ``events`` are
    those of requests that were answered with 2xx, in order; ``attempts`` counts all requests by their status.
    """

    def __init__(self, port: int = 0, answer: Callable[[], tuple[int, float]] = lambda: (204, 0.0)) -> None:
        self.port = port
        self.answer = answer
        self.webhook = Webhook(KEY)
        self.events: list[dict[str, Any]] = []
        self.attempts: list[int] = []
        self.start()

    @property
    def options(self) -> tuple[str, str]:
        return ("--notify-url", f"http://127.0.0.1:{self.port}/events")

    def start(self) -> None:
        """Listen, again at the same port."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fields = {name.lower(): value for name, value in self.headers.items()}
                events = receiver.webhook.verify(body, fields)
                status, seconds = receiver.answer()
                receiver.attempts.append(status)
                if status < 300:
                    receiver.events += events
                time.sleep(seconds)
                with suppress(OSError):  # it was not waited for
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
