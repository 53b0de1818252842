"""The load generator: a URL and a scenario arrive, pushes and polls go out, a ``Result`` leaves.

It is one process and one epoll loop over plain sockets, because whatever it spends per delivery is time in
which the server idles. Four rules hold it together:

1. The unit is a *round*: some messages are pushed to one recipient, and the round is over when each of its
   readers has each of them and the push was answered. Scenarios differ only in how many recipients there are,
   how many readers each has, how many messages a round has, and how many rounds are under way at once.
2. Every delivery is compared with what was pushed, in its order. A message that is lost, doubled, changed or
   out of place ends the run with an error; so does an answer that the contract does not have.
3. Phases are drained. Warm-up ends when all of it was delivered, then the clocks are read, and read again
   when all of the measured phase was delivered: no request is counted in part.
4. How to speak to a server is a ``Dialect``. Ours and Bayeux are here; ``tests/bench`` adds its peers'.

Times are in seconds and sizes in bytes unless a name says otherwise.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import math
import os
import resource
import secrets
import select
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

# Bounds, each with its reason.

READ_BYTES = 64 * 1024
"""One read; a burst's answer of 100 messages fits."""

ANSWER_BYTES = 16 * 1024 * 1024
"""An answer that goes on longer than this is not one that the generator asked for."""

EVENTS_AT_ONCE = 512
"""Sockets looked at between two looks at the clock."""

OPENING_AT_ONCE = 32
"""Connections that are being opened: below the backlog of 50 that Twisted listens with by default."""

PATIENCE_SECONDS = 20.0
"""What did not arrive by then is lost."""

FINE_MICROSECONDS = 1_000_000
"""From here on a millisecond more or less says nothing, and the counts stay few."""

FULL = 0.9
"""Above this share of a core, the generator itself is what limits rate and latency."""

FEWEST_FOR_MEMORY = 1_000
"""With fewer readers, what the server's allocator rounds up to hides what a reader costs."""

IDLE_SECONDS = 0.002
"""CPU time in a tenth of a second below which a server has read all that was sent to it."""

SECONDS_MOST = 3_600.0
MESSAGES_MOST = 100_000_000
"""A run ends, whatever was asked for."""

READ_BACK = 1_000
"""Mailboxes of the ``push`` scenario whose messages are read back and compared."""


class BenchError(Exception):
    """The run has no result; its text is one sentence for whoever started it."""

    exit_code = 1


class NotThere(BenchError):
    """Nothing that could be measured answers at the URL."""

    exit_code = 2


class Refused(BenchError):
    """The server gave an answer that the contract does not have."""


class Lost(BenchError):
    """A message was lost, doubled, changed or out of order."""


# What a server sends, cut into answers (RFC 9112 §6).


def field(head: bytes, name: bytes) -> bytes | None:
    """Return the value of the header ``name`` (in lower case) in ``head``, or None where there is none."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def unchunked(data: bytes, start: int) -> tuple[bytes, int] | None:
    """Return the chunked body that begins at ``start`` and where it ends; None until all of it is there."""
    pieces = []
    while True:
        line = data.find(b"\r\n", start)
        if line < 0:
            return None
        size = int(data[start:line].partition(b";")[0], 16)
        start = line + 2
        if size == 0:
            break
        if len(data) < start + size + 2:
            return None
        pieces.append(data[start : start + size])
        start += size + 2
    while True:  # The trailer section, which ends with an empty line.
        line = data.find(b"\r\n", start)
        if line < 0:
            return None
        start, begun = line + 2, start
        if line == begun:
            return b"".join(pieces), start


class Answer(NamedTuple):
    """One answer of a server."""

    status: int
    head: bytes
    body: bytes
    end: int
    """Where it ended in the data that it was cut from."""


def cut(data: bytes) -> Answer | None:
    """Return the answer that ``data`` begins with.

    None until all of it is there. Raises ``Refused`` for what is not an answer of HTTP/1.1 with its length.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > ANSWER_BYTES:
            raise Refused("The server sent an answer whose head does not end.")
        return None
    head = data[: end + 2]
    body = end + 4
    try:
        status = int(data[9:12])
        length = _length(head, status)
        if length is None:
            chunked = unchunked(data, body)
            if chunked is None and len(data) > ANSWER_BYTES:
                raise Refused("The server sent an answer whose body does not end.")
            return None if chunked is None else Answer(status, head, *chunked)
    except ValueError:
        raise Refused(f"The server sent what is not HTTP/1.1: {data[:80]!r}.") from None
    if length > ANSWER_BYTES:
        raise Refused(f"The server announced an answer of {length} bytes.")
    if len(data) < body + length:
        return None
    return Answer(status, head, data[body : body + length], body + length)


def _length(head: bytes, status: int) -> int | None:
    """Return how long the body is that follows ``head``; None where it is chunked."""
    lower = head.lower()
    if not lower.startswith(b"http/1.1 "):
        raise ValueError(head)
    if status in {204, 304}:
        return 0
    start = lower.find(b"\r\ncontent-length:")
    if start >= 0:
        return int(lower[start + 17 : lower.find(b"\r\n", start + 17)])
    if b"\r\ntransfer-encoding: chunked\r\n" in lower:
        return None
    raise Refused(f"The server answered {status} without a length, so its connection cannot be kept.")


# Dialects: how to speak to a server.


@dataclass(frozen=True, slots=True)
class Site:
    """Where the server is: what every request of a dialect needs to know."""

    host: str = "localhost"
    """The ``Host`` header."""
    prefix: str = ""
    """The URL's path, without a slash at its end."""
    token: str | None = None
    wait: int = 120
    """How long polls ask to be held."""

    def head(self, method: str, target: str) -> bytes:
        """Return a request's line and the headers that all have, without the empty line."""
        bearer = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        return f"{method} {self.prefix}{target} HTTP/1.1\r\nHost: {self.host}\r\n{bearer}".encode()

    def get(self, target: str) -> bytes:
        """Return a whole GET request."""
        return self.head("GET", target) + b"\r\n"

    def post(self, target: str, media_type: str, body: bytes) -> bytes:
        """Return a whole POST request."""
        head = self.head("POST", target)
        return b"%sContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (
            head,
            media_type.encode(),
            len(body),
            body,
        )


class Reading(Protocol):
    """One reader's side of one connection, without I/O."""

    waits: bool
    """Whether what was said last is answered when there is a message, and not before."""
    whole: bool
    """Whether nothing is half received."""

    def opening(self) -> bytes:
        """Return the first request: one that is answered at once, which paces opening."""

    def received(self, data: bytes) -> tuple[bytes | None, list[Any]]:
        """Return what to send next and the messages in ``data``, parsed.

        Empty bytes: nothing is to be sent yet. None: the request before is to be sent again.
        """


class Pushing(Protocol):
    """One pusher's side of one connection, without I/O."""

    def opening(self) -> bytes:
        """Return what must be said before the first push; empty where nothing must."""

    def push(self, recipient: str, bodies: Sequence[bytes]) -> list[bytes]:
        """Return the requests that push ``bodies`` in order, each to be sent after the answer to the last."""

    def received(self, data: bytes) -> bool:
        """Return whether the answer is complete now. Raises ``Refused`` where it does not accept the push."""


class Dialect(Protocol):
    """How one kind of server is spoken to."""

    name: str
    shares: bool
    """Whether those who ask the same get the same bytes, so that reading them once is enough."""
    keeps: bool
    """Whether a message is kept for who comes later."""

    def poller(self, recipient: str) -> Reading:
        """Return the side of a reader that polls, from the oldest message on."""

    def follower(self, recipient: str) -> Reading:
        """Return the side of a reader of a stream. Raises ``BenchError`` where the server has none."""

    def pusher(self) -> Pushing:
        """Return the side of a pusher."""


class Answered:
    """What every poll and push has in common: one request, one answer."""

    def __init__(self) -> None:
        self.waits = False
        self.whole = True
        self._rest = b""

    def answer(self, data: bytes) -> Answer | None:
        """Return the answer that ``data`` completes, else None."""
        if self._rest:
            data = self._rest + data
        answer = cut(data)
        if answer is None:
            self._rest = data
            self.whole = False
            return None
        if answer.end != len(data):
            raise Refused(f"The server sent more than was asked for: {excerpt(data[answer.end :])}")
        self._rest = b""
        self.whole = True
        return answer


class Poll(Answered):
    """A reader that polls; a dialect says how an answer is read."""

    def received(self, data: bytes) -> tuple[bytes | None, list[Any]]:
        """Read ``data`` as ``Reading`` says."""
        answer = self.answer(data)
        return (b"", []) if answer is None else self.answered(answer)

    def answered(self, answer: Answer) -> tuple[bytes | None, list[Any]]:
        """Return the next request and the messages."""
        raise NotImplementedError


class Push(Answered):
    """A pusher that is ready once it is connected; a dialect says which answers accept a push."""

    def opening(self) -> bytes:
        """Return nothing: there is nothing to be said first."""
        return b""

    def received(self, data: bytes) -> bool:
        """Read ``data`` as ``Pushing`` says."""
        answer = self.answer(data)
        if answer is None:
            return False
        self.answered(answer)
        return True

    def answered(self, answer: Answer) -> None:
        """Raise ``Refused`` where the answer does not accept the push."""
        if answer.status not in {200, 201, 202}:
            raise Refused(f"A push was answered {answer.status}: {excerpt(answer.body)}")


class EventStream:
    """A reader of Server-Sent Events whose data is JSON (WHATWG HTML §9.2)."""

    def __init__(self, request: bytes) -> None:
        self.waits = False
        self.whole = True
        self._request = request
        self._rest = b""
        self._text = b""
        self._chunked = False

    def opening(self) -> bytes:
        """Return the only request; that its head was answered shows that the stream is open."""
        return self._request

    def received(self, data: bytes) -> tuple[bytes | None, list[Any]]:
        """Read ``data`` as ``Reading`` says; there is never anything to send."""
        data = self._rest + data
        if not self.waits:
            data = self._opened(data)
        if self.waits:
            data = self._body(data)
        self._rest = data
        *events, self._text = self._text.replace(b"\r\n", b"\n").split(b"\n\n")
        self.whole = not self._rest and not self._text
        if len(self._rest) + len(self._text) > ANSWER_BYTES:
            raise Refused("The server sent an event that does not end.")
        return b"", [message for event in events for message in self._messages(event)]

    def _opened(self, data: bytes) -> bytes:
        """Return what follows the head, once it is there."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return data
        head = data[: end + 2]
        if data[9:12] != b"200":
            raise Refused(f"A stream was answered {excerpt(data)}")
        self._chunked = field(head, b"transfer-encoding") == b"chunked"
        self.waits = True
        return data[end + 4 :]

    def _body(self, data: bytes) -> bytes:
        """Move what is complete of ``data`` into the text, and return the rest."""
        if not self._chunked:
            self._text += data
            return b""
        while (line := data.find(b"\r\n")) >= 0:
            size = int(data[:line].partition(b";")[0], 16)
            if size == 0:
                raise Lost("The server ended a stream.")
            if len(data) < line + size + 4:
                break
            self._text += data[line + 2 : line + 2 + size]
            data = data[line + size + 4 :]
        return data

    @staticmethod
    def _messages(event: bytes) -> list[Any]:
        """Return the event's data, if it has any."""
        lines = event.split(b"\n")
        if b"event: gap" in lines or b"event:gap" in lines:
            raise Lost("The server reported a gap to a stream's reader.")
        data = [line[5:] for line in lines if line.startswith(b"data:")]
        return [json.loads(b"\n".join(data))] if data else []


def excerpt(body: bytes) -> str:
    """Return the beginning of an answer, fit for one line of an error."""
    text = body[:300].decode("utf-8", "replace").strip()
    return " ".join(text.split()) or "an empty body"


class CometLite:
    """Our own interface, as HTTP.md has it: polls by cursor, answered with JSON."""

    name = "cometd-lite"
    shares = True
    keeps = True

    def __init__(self, site: Site) -> None:
        self._site = site

    def poller(self, recipient: str) -> Reading:
        """Return a reader that polls by cursor."""
        return _CometLitePoll(self._site, recipient)

    def follower(self, recipient: str) -> Reading:
        """Return a reader of Server-Sent Events."""
        return EventStream(self._site.get(f"/stream/{quote(recipient)}?after=oldest"))

    def pusher(self) -> Pushing:
        """Return a pusher: one message as JSON, several as NDJSON."""
        return _CometLitePush(self._site)


class _CometLitePoll(Poll):
    def __init__(self, site: Site, recipient: str) -> None:
        super().__init__()
        target = f"/poll/{quote(recipient)}?"
        self._opening = site.get(f"{target}after=oldest&wait=0")
        self._before, self._after = site.get(f"{target}after=|&wait={site.wait}").split(b"|")

    def opening(self) -> bytes:
        return self._opening

    def answered(self, answer: Answer) -> tuple[bytes | None, list[Any]]:
        if answer.status != 200:
            raise Refused(f"A poll was answered {answer.status}: {excerpt(answer.body)}")
        batch = json.loads(answer.body)
        if batch["gap"]:
            raise Lost("The server reported a gap: it no longer has a message that was not read.")
        self.waits = True
        cursor = quote(batch["cursor"], safe="").encode()
        return self._before + cursor + self._after, [message["data"] for message in batch["messages"]]


class _CometLitePush(Push):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site

    def push(self, recipient: str, bodies: Sequence[bytes]) -> list[bytes]:
        target = f"/push/{quote(recipient)}"
        if len(bodies) == 1:
            return [self._site.post(target, "application/json", bodies[0])]
        return [self._site.post(target, "application/x-ndjson", b"\n".join(bodies) + b"\n")]


class Bayeux:
    """Bayeux 1.0 over long-polling, as this server, CometD and Faye speak it. Each reader is a session."""

    name = "bayeux"
    shares = False
    keeps = False

    def __init__(self, site: Site) -> None:
        self._site = site

    def poller(self, recipient: str) -> Reading:
        """Return a reader that shakes hands, subscribes, and connects again and again."""
        return _BayeuxConnect(self._site, recipient)

    def follower(self, recipient: str) -> Reading:
        """Raise ``BenchError``: Bayeux has no stream over HTTP."""
        raise BenchError(f"Bayeux has no Server-Sent Events for {recipient}: choose another scenario.")

    def pusher(self) -> Pushing:
        """Return a pusher with a session of its own."""
        return _BayeuxPublish(self._site)


_HANDSHAKE = {
    "channel": "/meta/handshake",
    "version": "1.0",
    "supportedConnectionTypes": ["long-polling"],
    "id": "1",
}
"""Identical requests keep an identical ``id``: one is answered before the next is sent."""


class _BayeuxSession:
    """What a session must know: its client id, and the cookies that some servers bind it to."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._cookies = ""
        self._client_id: str | None = None

    def post(self, *messages: Mapping[str, Any]) -> bytes:
        """Return the request that carries ``messages``, with the session's id in each."""
        known = {"clientId": self._client_id} if self._client_id else {}
        body = json.dumps([{**message, **known} for message in messages], separators=(",", ":")).encode()
        head = self._site.head("POST", "") + self._cookies.encode()
        return b"%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body)

    def replies(self, answer: Answer) -> list[dict[str, Any]]:
        """Return the messages of an answer. Raises ``Refused`` where one says that a request failed."""
        if answer.status != 200:
            raise Refused(f"A Bayeux request was answered {answer.status}: {excerpt(answer.body)}")
        replies: list[dict[str, Any]] = json.loads(answer.body)
        for reply in replies:
            if reply.get("successful") is False:
                raise Refused(f"A Bayeux request failed: {excerpt(json.dumps(reply).encode())}")
            if reply["channel"] == "/meta/handshake":
                self._client_id = reply["clientId"]
                cookie = field(answer.head, b"set-cookie")
                if cookie is not None:
                    self._cookies = f"Cookie: {cookie.partition(b';')[0].decode('latin-1')}\r\n"
        return replies


class _BayeuxConnect(Poll):
    def __init__(self, site: Site, recipient: str) -> None:
        super().__init__()
        self._session = _BayeuxSession(site)
        self._channel = f"/{recipient}"
        self._connect = b""

    def opening(self) -> bytes:
        return self._session.post(_HANDSHAKE)

    def answered(self, answer: Answer) -> tuple[bytes | None, list[Any]]:
        replies = self._session.replies(answer)
        messages = [reply["data"] for reply in replies if reply["channel"] == self._channel]
        if self._connect:
            self.waits = True
            return self._connect, messages
        connect = {"channel": "/meta/connect", "connectionType": "long-polling", "id": "3"}
        if replies[0]["channel"] == "/meta/handshake":
            subscribe = {"channel": "/meta/subscribe", "subscription": self._channel, "id": "2"}
            return self._session.post(subscribe), messages
        # A server may hold the first connect or not; asked not to wait, each answers at once.
        self._connect = self._session.post(connect)
        return self._session.post({**connect, "advice": {"timeout": 0}}), messages


class _BayeuxPublish(Push):
    ALIVE_SECONDS = 4.0
    """A session that does not connect is gone after 10 s (CometD's maxInterval)."""

    def __init__(self, site: Site, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._session = _BayeuxSession(site)
        self._clock = clock
        self._alive_at = -math.inf

    def opening(self) -> bytes:
        return self._session.post(_HANDSHAKE)

    def push(self, recipient: str, bodies: Sequence[bytes]) -> list[bytes]:
        events = [{"channel": f"/{recipient}", "data": json.loads(body), "id": "4"} for body in bodies]
        requests = [self._session.post(*events)]
        now = self._clock()
        if now - self._alive_at >= self.ALIVE_SECONDS:
            self._alive_at = now
            connect = {"channel": "/meta/connect", "connectionType": "long-polling", "id": "5"}
            requests.insert(0, self._session.post({**connect, "advice": {"timeout": 0}}))
        return requests

    def answered(self, answer: Answer) -> None:
        self._session.replies(answer)


DIALECTS: Mapping[str, Callable[[Site], Dialect]] = {"cometd-lite": CometLite, "bayeux": Bayeux}


# Scenarios, and what comes out of them.


@dataclass(frozen=True, slots=True)
class Scenario:
    """One shape of load; ``SCENARIOS`` has those with names."""

    name: str
    about: str
    recipients: int
    readers_each: int = 1
    messages_each_round: int = 1
    pushers: int = 16
    """Rounds under way at once."""
    streams: bool = False

    @property
    def readers(self) -> int:
        """How many connections read."""
        return self.recipients * self.readers_each

    def sized(self, readers: int | None, pushers: int | None, mailboxes: int | None) -> Scenario:
        """Return the scenario with other numbers, where they are given."""
        scenario = self if pushers is None else replace(self, pushers=pushers)
        if not self.readers_each:
            return scenario if mailboxes is None else replace(scenario, recipients=mailboxes)
        if readers is None:
            return scenario
        if self.recipients == 1:
            return replace(scenario, readers_each=readers)
        return replace(scenario, recipients=readers)


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("mailbox", "200 parked recipients; a push to one wakes one, which polls again", 200),
        Scenario(
            "fanout", "1,000 parked on one recipient; one push wakes all, who poll again", 1, 1000, 1, 1
        ),
        Scenario("parked", "10,000 parked recipients: what each takes of a fresh server's memory", 10_000),
        Scenario(
            "burst", "100 messages pushed at once to one reader, who reads them; 10 such pairs", 10, 1, 100
        ),
        Scenario(
            "stream", "1,000 readers of one recipient's event stream; a push reaches all", 1, 1000, 1, 1, True
        ),
        Scenario(
            "streams", "10,000 streams, each of its own recipient: the same of memory", 10_000, streams=True
        ),
        Scenario("push", "pushes spread over 100 mailboxes where nobody waits; read back at the end", 100, 0),
        Scenario("bayeux", "mailbox, spoken as Bayeux at /cometd: a session for each reader", 200),
    )
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a run measured. ``None``: it was not asked for, or the server's process was not given."""

    scenario: str
    dialect: str
    url: str
    readers: int
    parked: int
    """Polls that waited all the time, besides the readers."""
    mailboxes: int
    pushers: int
    seconds: float
    """How long the measured phase took, to its last delivery."""
    messages: int
    deliveries: int
    """Messages that arrived at readers, each compared with what was pushed; none is missing."""
    per_second: float
    """Deliveries per second; pushes per second where nobody reads."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    """From the push's sending to its delivery; to its answer where nobody reads."""
    cpu_us: float | None
    """CPU time of the server's processes per delivery (per push where nobody reads), in microseconds."""
    server_cpu: float | None
    """The same as a share of one core."""
    own_cpu: float
    """The generator's own CPU time as a share of one core."""
    kb_per_reader: float | None
    """Memory that each parked poll or stream added to the server's processes, in units of 1,024 bytes."""

    @property
    def own_cpu_full(self) -> bool:
        """Whether rate and latency are the generator's limit rather than the server's."""
        return self.own_cpu > FULL


class Latencies:
    """Latencies, counted by the microsecond, long ones by the millisecond: bounded however many there are."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count one."""
        microseconds = int(seconds * 1e6)
        if microseconds >= FINE_MICROSECONDS:
            microseconds -= microseconds % 1000
        self._counts[microseconds] = self._counts.get(microseconds, 0) + 1

    def quantiles(self, *shares: float) -> list[float]:
        """Return the latency in milliseconds that each of ``shares`` (0 to 1, rising) of all stays within."""
        ranks = [max(1, math.ceil(share * sum(self._counts.values()))) for share in shares]
        found: list[float] = []
        seen = 0
        for microseconds, count in sorted(self._counts.items()):
            seen += count
            found += [microseconds / 1000 for rank in ranks[len(found) :] if rank <= seen]
        return found or [0.0] * len(shares)


# The server's processes, seen from outside.


class Processes:
    """The server's processes and all that they started: their CPU time and memory."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._roots = tuple(pids)
        for pid in self._roots:
            if not Path(f"/proc/{pid}").exists():
                raise NotThere(f"There is no process {pid}: --pid wants the server's, on this machine.")

    def __bool__(self) -> bool:
        return bool(self._roots)

    def pids(self) -> list[int]:
        """Return the roots and, below them, every process whose parent is one of them."""
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The command's name may hold spaces and brackets, but none follows it (proc_pid_stat(5)).
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # It ended while this loop came to it.
            parents.setdefault(parent, []).append(int(stat.parent.name))
        found = list(self._roots)
        for pid in found:
            found += (child for child in parents.get(pid, ()) if child not in found)
        return found

    def cpu(self) -> float:
        """Return the CPU time in seconds that all have had: of every thread, ended ones as well."""
        return sum(map(self._cpu, self.pids()))

    @staticmethod
    def _cpu(pid: int) -> float:
        # What clock_getcpuclockid(3) returns: nanoseconds, where /proc counts in hundredths of a second.
        try:
            return time.clock_gettime((~pid << 3) | 2)
        except OSError:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Return the memory of all in bytes, where what several share counts once."""
        return sum(map(self._memory, self.pids()))

    @staticmethod
    def _memory(pid: int) -> int:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # Another user's process: the resident size is what anybody may see.
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGESIZE")
        return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))

    def idle_memory(self, seconds: float = 5.0) -> int | None:
        """Wait until all are idle, for at most ``seconds``, and return the memory; None without a process."""
        if not self._roots:
            return None
        end = time.monotonic() + seconds
        before, now = -math.inf, self.cpu()
        while now - before >= IDLE_SECONDS and time.monotonic() < end:
            time.sleep(0.1)
            before, now = now, self.cpu()
        return self.memory()


# The loop.


class _Recipient:
    """A recipient, its readers, and the round that is under way."""

    __slots__ = ("expected", "first", "kept", "memo", "memo_data", "missing", "name", "readers", "sent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.readers = 0
        self.expected: list[dict[str, Any]] = []
        self.sent: list[float] = []
        # The place of the round's first message among all that this recipient got.
        self.first = 0
        # Deliveries that the round still waits for, and its push.
        self.missing = 0
        # Whether its messages are remembered, to be compared when they are read back.
        self.kept = False
        # What was received last as one whole answer, and how it was read.
        self.memo_data = b""
        self.memo: tuple[bytes | None, list[Any]] = (b"", [])


class _Link:
    """One connection. Who made it says what is done with what arrives."""

    __slots__ = ("is_open", "load", "sock", "unsent")

    def __init__(self, load: _Load) -> None:
        self.load = load
        self.is_open = False
        self.unsent = b""
        self.sock: socket.socket

    def opening(self) -> bytes:
        raise NotImplementedError

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def connect(self) -> None:
        """Begin to connect; what is to be said first goes out as soon as the connection stands."""
        load = self.load
        self.sock = socket.socket(load.family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        load.links[self.sock.fileno()] = self
        refused = self.sock.connect_ex(load.address)
        if refused not in {0, errno.EINPROGRESS}:
            raise NotThere(f"{load.url} does not take another connection: {os.strerror(refused)}.")
        self.unsent = self.opening()
        load.epoll.register(self.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def send(self, data: bytes) -> None:
        """Send now what the socket takes, and the rest when it takes more."""
        if self.unsent:
            self.unsent += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise Lost(f"The server closed a connection on which it was asked: {error.strerror}.") from None
        if sent < len(data):
            self.unsent = data[sent:]
            self.load.epoll.modify(self.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def ready(self, mask: int) -> None:
        """Do what the socket is ready for."""
        if mask & select.EPOLLOUT:
            self.writable()
        if not mask & ~select.EPOLLOUT:
            return
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise self.closed(error.strerror or "closed") from None
        if not data:
            raise self.closed("end of file")
        self.received(data)

    def writable(self) -> None:
        """Go on where a connection stands now, or takes more."""
        refused = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if refused:
            raise self.closed(os.strerror(refused))
        self.load.epoll.modify(self.sock.fileno(), select.EPOLLIN)
        data, self.unsent = self.unsent, b""
        if data:
            self.send(data)
        elif not self.is_open:
            self.opened()

    def closed(self, why: str) -> BenchError:
        if self.is_open:
            return Lost(f"The server closed a connection that was to be kept alive: {why}.")
        return NotThere(f"{self.load.url} closed a connection before it answered: {why}.")

    def opened(self) -> None:
        self.is_open = True
        self.load.opening -= 1


class _ReaderLink(_Link):
    __slots__ = ("place", "reading", "recipient", "request")

    def __init__(self, load: _Load, recipient: _Recipient, reading: Reading) -> None:
        super().__init__(load)
        self.recipient = recipient
        self.reading = reading
        self.place = recipient.first
        self.request: bytes = b""
        recipient.readers += 1

    def opening(self) -> bytes:
        return self.reading.opening()

    def received(self, data: bytes) -> None:
        now = time.perf_counter()
        recipient = self.recipient
        reading = self.reading
        # In a fan-out everybody gets the same bytes, which have been read and parsed already.
        if data == recipient.memo_data and reading.waits and reading.whole:
            request, messages = recipient.memo
        else:
            request, messages = self.read(data)
        if request is None:
            self.send(self.request)
        elif request:
            self.request = request
            self.send(request)
        if messages:
            self.load.delivered(self, messages, now)

    def read(self, data: bytes) -> tuple[bytes | None, list[Any]]:
        reading = self.reading
        alone = reading.waits and reading.whole
        try:
            found = reading.received(data)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"An answer cannot be understood ({error!r}): {excerpt(data)}") from None
        if self.is_open:
            if alone and reading.whole and found[1] and self.load.dialect.shares:
                self.recipient.memo_data = data
                self.recipient.memo = found
        elif reading.waits:
            self.opened()
        return found


class _PusherLink(_Link):
    __slots__ = ("messages_each", "pushing", "recipient", "requests")

    def __init__(self, load: _Load, pushing: Pushing) -> None:
        super().__init__(load)
        self.pushing = pushing
        self.recipient: _Recipient | None = None
        self.requests: deque[bytes] = deque()
        self.messages_each = 1

    def opening(self) -> bytes:
        return self.pushing.opening()

    def push(self, recipient: _Recipient, bodies: Sequence[bytes]) -> None:
        """Push ``bodies`` to ``recipient``; this pusher is free again when all are answered."""
        self.recipient = recipient
        requests = self.pushing.push(recipient.name, bodies)
        self.requests.extend(requests)
        # What keeps a session alive goes ahead of the messages: one push in thousands is timed from there.
        self.messages_each = -(-len(bodies) // len(requests))
        self.next()

    def next(self) -> None:
        recipient = self.recipient
        if recipient is not None:
            recipient.sent += [time.perf_counter()] * self.messages_each
        self.send(self.requests.popleft())

    def received(self, data: bytes) -> None:
        try:
            answered = self.pushing.received(data)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"An answer cannot be understood ({error!r}): {excerpt(data)}") from None
        if not answered:
            return
        if not self.is_open:
            self.opened()
        elif self.requests:
            self.next()
        elif self.recipient is not None:
            recipient, self.recipient = self.recipient, None
            self.load.pushed(self, recipient)
        else:
            raise Refused("The server answered a push that was not sent.")


class _Load:
    """All connections of a run, and the rounds that go over them."""

    def __init__(self, url: str, dialect: Dialect, scenario: Scenario, size: int) -> None:
        self.url = url
        self.family, self.address = _find(url)
        self.dialect = dialect
        self.scenario = scenario
        self.epoll = select.epoll()
        self.links: dict[int, _Link] = {}
        self.opening = 0
        # Names of this run alone, so that no message of another run is in their mailboxes.
        self.run_name = f"bench-{secrets.token_hex(4)}"
        self._text = "x" * max(0, size - len(self._body(0, "")))
        self._body_format = self._body("%d", self._text).encode()
        self._number = 0
        self._recipients: list[_Recipient] = []
        self._idle: deque[_Recipient] = deque()
        self._free: deque[_PusherLink] = deque()
        self._rounds = 0
        self._until = 0.0
        self._left = 0
        self.on_progress: Callable[[int], None] | None = None
        self.reset()

    def reset(self) -> None:
        """Count from zero again."""
        self.latencies = Latencies()
        self.messages = 0
        self.deliveries = 0

    def _body(self, number: object, text: str) -> str:
        return f'{{"run":"{self.run_name}","n":{number},"text":"{text}"}}'

    # Opening.

    def open_pushers(self) -> None:
        """Open the pushers' connections."""
        pushers = [_PusherLink(self, self.dialect.pusher()) for _ in range(self.scenario.pushers)]
        self._open(pushers)
        self._free.extend(pushers)

    def open_parked(self, count: int) -> None:
        """Open polls that nothing is pushed to, each of its own recipient."""
        names = (f"{self.run_name}-parked-{number}" for number in range(count))
        self._open(_ReaderLink(self, _Recipient(name), self.dialect.poller(name)) for name in names)

    def open_readers(self) -> None:
        """Open the scenario's readers; afterwards all of them wait."""
        make = self.dialect.follower if self.scenario.streams else self.dialect.poller
        recipients = [_Recipient(f"{self.run_name}-{number}") for number in range(self.scenario.recipients)]
        each = range(self.scenario.readers_each)
        self._open(_ReaderLink(self, who, make(who.name)) for who in recipients for _ in each)
        self._recipients = recipients
        self._idle.extend(recipients)

    def _open(self, links: Iterable[_Link]) -> None:
        """Open ``links`` no faster than the server answers."""
        todo = iter(links)
        last = time.monotonic()
        done = False
        while not done or self.opening:
            while self.opening < OPENING_AT_ONCE and not done:
                link = next(todo, None)
                if link is None:
                    done = True
                    break
                self.opening += 1
                link.connect()
            before = self.opening
            self._turn()
            if self.opening < before:
                last = time.monotonic()
            elif time.monotonic() - last > PATIENCE_SECONDS:
                raise NotThere(f"{self.url} did not answer within {PATIENCE_SECONDS:.0f} s.")

    def _turn(self) -> None:
        links = self.links
        for fd, mask in self.epoll.poll(0.1, EVENTS_AT_ONCE):
            links[fd].ready(mask)

    # Rounds.

    def run(self, seconds: float | None, messages: int | None) -> None:
        """Push for ``seconds``, or ``messages`` messages, and return when all of them are delivered."""
        start = time.perf_counter()
        self._until = start + (SECONDS_MOST if seconds is None else seconds)
        self._left = MESSAGES_MOST if messages is None else messages
        self._begin()
        self._drain()

    def _drain(self) -> None:
        look_at = time.perf_counter()
        moved_at, moved = look_at, -1
        while self._rounds:
            self._turn()
            now = time.perf_counter()
            if now < look_at:
                continue
            look_at = now + 0.2
            if self.on_progress is not None:
                self.on_progress(self.deliveries or self.messages)
            if moved != self.messages + self.deliveries:
                moved_at, moved = now, self.messages + self.deliveries
            elif now - moved_at > PATIENCE_SECONDS:
                missing = sum(who.missing for who in self._recipients)
                raise Lost(
                    f"{missing} answers are missing, {PATIENCE_SECONDS:.0f} s after the last that came."
                )

    def _begin(self) -> None:
        """Begin rounds while a pusher is free, a recipient's readers all wait, and more was asked for."""
        while self._free and self._idle and self._left > 0 and time.perf_counter() < self._until:
            recipient = self._idle.popleft()
            pusher = self._free.popleft()
            count = self.scenario.messages_each_round
            first = self._number
            self._number = end = first + count
            bodies = [self._body_format % number for number in range(first, end)]
            for number in range(first, end):
                recipient.expected.append({"run": self.run_name, "n": number, "text": self._text})
            recipient.missing = count * recipient.readers + 1
            self._rounds += 1
            self._left -= count
            pusher.push(recipient, bodies)

    def delivered(self, link: _ReaderLink, messages: list[Any], now: float) -> None:
        """``messages`` arrived at ``link``: compare and count them."""
        recipient = link.recipient
        expected = recipient.expected
        index = link.place - recipient.first
        for message in messages:
            if index >= len(expected):
                raise Lost(f"A message arrived that was not pushed, or a second time: {message!r}.")
            if message != expected[index]:
                raise Lost(f"Not what was pushed: {message!r} arrived in the place of {expected[index]!r}.")
            self.latencies.add(now - recipient.sent[index])
            index += 1
        link.place = recipient.first + index
        self.deliveries += len(messages)
        recipient.missing -= len(messages)
        if not recipient.missing:
            self._finished(recipient)

    def pushed(self, pusher: _PusherLink, recipient: _Recipient) -> None:
        """All that ``pusher`` pushed to ``recipient`` was answered."""
        if not recipient.readers:
            self.latencies.add(time.perf_counter() - recipient.sent[-1])
        self.messages += self.scenario.messages_each_round
        self._free.append(pusher)
        recipient.missing -= 1
        if recipient.missing:
            self._begin()
        else:
            self._finished(recipient)

    def _finished(self, recipient: _Recipient) -> None:
        self._rounds -= 1
        if not recipient.kept:
            recipient.first += len(recipient.expected)
            recipient.expected.clear()
            recipient.sent.clear()
        self._idle.append(recipient)
        self._begin()

    # Reading back what nobody waited for.

    def keep_some(self) -> list[_Recipient]:
        """Remember what is pushed to some of the recipients from now on; returns them."""
        kept = self._recipients[:: -(-len(self._recipients) // READ_BACK)]
        for recipient in kept:
            recipient.kept = True
        return kept

    def read_back(self, recipients: Iterable[_Recipient]) -> None:
        """Read what was pushed to ``recipients``, and compare it."""
        links = []
        for recipient in recipients:
            links.append(_ReaderLink(self, recipient, self.dialect.poller(recipient.name)))
            recipient.missing = len(recipient.expected)
            self._rounds += 1
        self._until = 0.0
        self._open(links)
        self._drain()

    def close(self) -> None:
        """Close every connection."""
        for link in self.links.values():
            link.sock.close()
        self.links.clear()
        self.epoll.close()


def _find(url: str) -> tuple[socket.AddressFamily, Any]:
    """Return the family and address at which the host of ``url`` takes connections."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10) as probe:
            return probe.family, probe.getpeername()
    except OSError as error:
        raise NotThere(f"Nothing answers at {url}: {error.strerror or error}.") from None


def allow_files(count: int) -> None:
    """Let this process have ``count`` connections. Raises ``BenchError`` where it may not."""
    needed = count + 64  # Standard streams, epoll, what the interpreter keeps open.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchError(
            f"{count} connections need {needed} open files, and {hard} are allowed (ulimit -Hn)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else hard, hard))


def measure(
    url: str,
    scenario: Scenario,
    make_dialect: Callable[[Site], Dialect] = CometLite,
    *,
    pids: Iterable[int] = (),
    seconds: float | None = 5.0,
    messages: int | None = None,
    warm_up: float = 1.0,
    parked: int = 0,
    size: int = 100,
    token: str | None = None,
    wait: int = 120,
    on_progress: Callable[[str], None] | None = None,
) -> Result:
    """Run ``scenario`` against the server at ``url`` and return what it cost.

    The measured phase takes ``seconds``, or as long as ``messages`` messages take; the warm-up, ``warm_up``
    seconds of the same before it, is not counted. ``pids`` are the server's processes, those below them
    included. ``parked`` more polls wait all the time. A message's body has ``size`` bytes. Polls ask to be
    held for ``wait`` seconds, which should not end within the phase.
    ``on_progress`` is called with a line several times a second.

    Raises ``NotThere`` where nothing answers, ``Refused`` for an answer that the contract does not have, and
    ``Lost`` where a message was lost, doubled, changed or out of order.
    """
    if not hasattr(select, "epoll"):
        raise BenchError("The load generator needs Linux: it waits with epoll and reads /proc.")
    processes = Processes(pids)
    allow_files((scenario.readers or READ_BACK) + parked + scenario.pushers)
    parts = urlsplit(url)
    dialect = make_dialect(Site(parts.netloc, parts.path.rstrip("/"), token, wait))
    if not (scenario.readers_each or dialect.keeps):
        raise BenchError(f"{dialect.name} keeps nothing for who comes later: choose another scenario.")
    say = on_progress or (lambda _line: None)
    load = _Load(url, dialect, scenario, size)
    # Nothing here makes cycles, and a collection would show up as the server's latency.
    gc.collect()
    gc.disable()
    try:
        say(f"opening {scenario.readers + parked:,} connections")
        kb_per_reader = _open(load, parked, processes)
        if scenario.readers_each:
            say("warming up")
            load.run(warm_up, messages and -(-messages // 10))
            measured = _timed(load, processes, seconds, messages, say)
        else:
            say(f"filling {scenario.recipients:,} mailboxes")
            kept = load.keep_some()
            load.run(None, scenario.recipients)  # So that each has a message before the first one counts.
            measured = _timed(load, processes, seconds, messages, say)
            say(f"reading back {len(kept):,} mailboxes")
            load.read_back(kept)
    finally:
        gc.enable()
        load.close()
    return Result(
        scenario=scenario.name,
        dialect=dialect.name,
        url=url,
        readers=scenario.readers,
        parked=parked,
        mailboxes=scenario.recipients,
        pushers=scenario.pushers,
        kb_per_reader=kb_per_reader,
        **measured,
    )


def _open(load: _Load, parked: int, processes: Processes) -> float | None:
    """Open all connections; return the KB that each reader added to the server's memory."""
    readers = parked + load.scenario.readers
    before = processes.idle_memory() if readers >= FEWEST_FOR_MEMORY else None
    load.open_parked(parked)
    load.open_readers()
    after = None if before is None else processes.idle_memory()
    # Last, because a pusher's Bayeux session ends when it does nothing for some seconds.
    load.open_pushers()
    return None if before is None or after is None else (after - before) / readers / 1024


def _timed(
    load: _Load,
    processes: Processes,
    seconds: float | None,
    messages: int | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run the phase that counts; return its part of a ``Result``."""
    load.reset()
    server_before, own_before, start = processes.cpu(), time.process_time(), time.perf_counter()
    load.on_progress = lambda count: say(f"{count:,} in {time.perf_counter() - start:.1f} s")
    load.run(seconds, messages)
    load.on_progress = None
    wall = time.perf_counter() - start
    own, server = time.process_time() - own_before, processes.cpu() - server_before
    counted = load.deliveries or load.messages
    if not counted:
        raise BenchError("Nothing was pushed: give it more seconds or messages.")
    p50, p99, most = load.latencies.quantiles(0.5, 0.99, 1.0)
    return {
        "seconds": wall,
        "messages": load.messages,
        "deliveries": load.deliveries,
        "per_second": counted / wall,
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": most,
        "cpu_us": server / counted * 1e6 if processes else None,
        "server_cpu": server / wall if processes else None,
        "own_cpu": own / wall,
    }


# The command.


def report(result: Result) -> str:
    """Return a result as lines for people."""
    read = result.deliveries > 0
    people = f"{result.readers:,} readers" if read else f"{result.mailboxes:,} mailboxes"
    more = f", {result.parked:,} more polls parked" if result.parked else ""
    checked = (
        "each compared with what was pushed" if read else f"read back from up to {READ_BACK:,} mailboxes"
    )
    lines = [
        f"{result.scenario} at {result.url} ({result.dialect}): {people}{more}, "
        f"{result.pushers} pushing, {result.seconds:.1f} s",
        f"  {'deliveries' if read else 'pushes':<12} {result.deliveries or result.messages:,}, "
        f"{result.per_second:,.0f}/s; {checked}",
        f"  latency      p50 {result.p50_ms:.2f}   p99 {result.p99_ms:.2f}   max {result.max_ms:.2f} ms",
    ]
    if result.cpu_us is not None and result.server_cpu is not None:
        each = "delivery" if read else "push"
        lines.append(
            f"  server CPU   {result.cpu_us:.1f} µs for each {each}, {result.server_cpu:.0%} of a core"
        )
    if result.kb_per_reader is not None:
        lines.append(f"  memory       {result.kb_per_reader:.1f} KB for each reader that waits")
    if result.own_cpu_full:
        lines.append(
            f"  The generator's own CPU was full ({result.own_cpu:.0%}): rate and latency are its limit, "
            "not the server's.\n  What a delivery costs the server holds all the same."
        )
    return "\n".join(lines) + "\n"


def _number(low: float, high: float, kind: type[int] | type[float]) -> Callable[[str], Any]:
    def parse(text: str) -> float:
        number = kind(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:,} and {high:,}")
        return number

    parse.__name__ = "number"  # argparse says "invalid number value".
    return parse


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{text} is not like http://localhost:8080 (TLS is not spoken)")
    return text


def parser(dialects: Iterable[str]) -> argparse.ArgumentParser:
    """Return the command's parser."""
    scenarios = "\n".join(f"  {name:<8} {scenario.about}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="cometd-lite bench",
        description="Push messages to a running server, read them over parked polls, check each of them,\n"
        "and say how many a second came, how late, and what each cost the server.\n\n"
        f"scenarios:\n{scenarios}",
        epilog="With --pid the cost is measured from outside: CPU time and memory of those processes.\n"
        "A rate says little when the generator's own CPU was full, and it says so then.\n\n"
        "exit status: 0 all delivered; 1 something lost or refused; 2 nothing there, or used wrongly\n\n"
        "  cometd-lite bench fanout --pid $(cat twistd.pid)\n"
        "  cometd-lite bench mailbox --parked 10000 --seconds 20 --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count = _number(1, 1_000_000, int)
    add = parser.add_argument
    add(
        "scenario",
        nargs="?",
        default="mailbox",
        choices=SCENARIOS,
        metavar="SCENARIO",
        help="default: mailbox",
    )
    add("--url", type=_url, default="http://localhost:8080", help="the server; default: %(default)s")
    add(
        "--pid",
        type=_number(1, 2**31, int),
        action="append",
        default=[],
        help="a server's process; may be repeated",
    )
    phase = parser.add_mutually_exclusive_group()
    phase.add_argument(
        "--seconds", type=_number(0.1, SECONDS_MOST, float), help="how long to push and measure; default: 5"
    )
    phase.add_argument(
        "--messages", type=_number(1, MESSAGES_MOST, int), help="how many messages to push and measure"
    )
    add("--readers", type=count, help="how many read, in the place of the scenario's number")
    add("--pushers", type=count, help="how many push at once")
    add("--parked", type=_number(0, 1_000_000, int), default=0, help="more polls that wait all the time")
    add("--mailboxes", type=count, help="how many mailboxes the scenario push has")
    add(
        "--size",
        type=_number(0, 10_000_000, int),
        default=100,
        help="bytes of a message; default: %(default)s",
    )
    add("--warm-up", type=_number(0, 600, float), default=1.0, help="seconds before measuring; default: 1")
    add(
        "--wait",
        type=_number(1, 3_600, int),
        default=120,
        help="seconds that polls ask for; default: %(default)s",
    )
    add("--token", help="a JSON Web Token to send with every request")
    add("--dialect", choices=dialects, help="what the server speaks; default: cometd-lite, or the scenario's")
    add("--json", action="store_true", help="print the result as JSON")
    add("--quiet", action="store_true", help="no progress line")
    return parser


def main(
    argv: Sequence[str] | None = None, dialects: Mapping[str, Callable[[Site], Dialect]] = DIALECTS
) -> int:
    """Run the command and return its exit status."""
    arguments = parser(dialects).parse_args(argv)
    scenario = SCENARIOS[arguments.scenario]
    spoken = arguments.dialect or ("bayeux" if scenario.name == "bayeux" else "cometd-lite")
    url = arguments.url.rstrip("/")
    if scenario.name == "bayeux" and not urlsplit(url).path:
        url += "/cometd"
    seconds = arguments.seconds
    if seconds is None and arguments.messages is None:
        # Longer would fill the hundred mailboxes, which is another measurement.
        arguments.messages = 50_000 if scenario.name == "push" else None
        seconds = None if scenario.name == "push" else 5.0
    progress = _Progress() if sys.stderr.isatty() and not arguments.quiet else None
    try:
        result = measure(
            url,
            scenario.sized(arguments.readers, arguments.pushers, arguments.mailboxes),
            dialects[spoken],
            pids=arguments.pid,
            seconds=seconds,
            messages=arguments.messages,
            warm_up=arguments.warm_up,
            parked=arguments.parked,
            size=arguments.size,
            token=arguments.token,
            wait=arguments.wait,
            on_progress=progress,
        )
    except BenchError as error:
        if progress is not None:
            progress.clear()
        sys.stderr.write(f"cometd-lite bench: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if progress is not None:
        progress.clear()
    document = {**asdict(result), "own_cpu_full": result.own_cpu_full}
    sys.stdout.write(json.dumps(document) + "\n" if arguments.json else report(result))
    return 0


class _Progress:
    """One line on a terminal, written over and over."""

    def __call__(self, line: str) -> None:
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
