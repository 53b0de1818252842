"""The loop: connections over epoll, and the rounds of messages that go over them."""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

from .answers import excerpt
from .dialect import Dialect, PushingClient, Reading
from .results import BenchError, Latencies, Lost, NotThere, UnexpectedAnswer
from .scenarios import Scenario

READ_BYTES = 64 * 1024
"""One read; a burst's answer of 100 messages fits."""

EVENTS_AT_ONCE = 512
"""Sockets that are handled between two readings of the clock."""

OPENING_AT_ONCE = 32
"""Connections that are being opened: below the backlog of 50 that is Twisted's default."""

PATIENCE_SECONDS = 20.0
"""What has not arrived after so many seconds is lost."""

SECONDS_MOST = 3_600.0
MESSAGES_MOST = 100_000_000
"""The bounds of a run, whatever was asked for."""

READ_BACK = 1_000
"""Mailboxes of the ``push`` scenario whose messages are read back and compared."""


class ServerAddress(NamedTuple):
    """One address of the server, where it takes connections, and how it is spoken to there."""

    url: str
    dialect: Dialect
    family: socket.AddressFamily
    address: Any

    @classmethod
    def find(cls, url: str, dialect: Dialect) -> ServerAddress:
        """Return the target at ``url``. Raises ``NotThere`` where nothing answers."""
        parts = urlsplit(url)
        try:
            with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10) as probe:
                return cls(url, dialect, probe.family, probe.getpeername())
        except OSError as error:
            raise NotThere(f"Nothing answers at {url}: {error.strerror or error}.") from None


class _Memo(Struct):
    """What a target's readers of one recipient received last as one whole answer, and how it was read."""

    data: bytes = b""
    found: tuple[bytes | None, Sequence[Any]] = (b"", ())


class Recipient(Struct, eq=False):
    """A recipient, its readers, and the round that is under way."""

    name: str
    readers: int = 0
    expected: list[dict[str, Any]] = []
    sent: list[float] = []
    first: int = 0
    """The place of the round's first message among all that this recipient got."""
    missing: int = 0
    """Deliveries that the round still waits for, and its push."""
    kept: bool = False
    """Whether its messages are remembered, to be compared when they are read back."""
    memos: dict[str, _Memo] = {}
    """By the URL of the target."""


class _Link:
    """One connection; a subclass handles what arrives."""

    __slots__ = ("is_open", "load", "sock", "target", "unsent")

    def __init__(self, load: Load, target: ServerAddress, opening: bytes) -> None:
        self.load = load
        self.target = target
        self.is_open = False
        self.unsent = opening
        self.sock: socket.socket

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def connect(self) -> None:
        """Begin to connect; the first bytes are sent once the connection is made."""
        load, target = self.load, self.target
        self.sock = socket.socket(target.family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        load.links[self.sock.fileno()] = self
        refused = self.sock.connect_ex(target.address)
        if refused not in {0, errno.EINPROGRESS}:
            raise NotThere(f"{target.url} does not take another connection: {os.strerror(refused)}.")
        load.epoll.register(self.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def send(self, data: bytes) -> None:
        """Send what the socket takes now, and the rest when it takes more."""
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
        """Finish connecting, or send the rest."""
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
        return NotThere(f"{self.target.url} closed a connection before it answered: {why}.")

    def opened(self) -> None:
        self.is_open = True
        self.load.opening -= 1


class _ReaderLink(_Link):
    __slots__ = ("memo", "place", "reading", "recipient", "request")

    def __init__(self, load: Load, target: ServerAddress, recipient: Recipient, reading: Reading) -> None:
        super().__init__(load, target, reading.opening())
        self.recipient = recipient
        self.reading = reading
        self.memo = recipient.memos.setdefault(target.url, _Memo())
        self.place = recipient.first
        self.request: bytes = b""
        recipient.readers += 1

    def received(self, data: bytes) -> None:
        now = time.perf_counter()
        reading, memo = self.reading, self.memo
        # In a fan-out all readers get the same bytes, which have been parsed already.
        if data == memo.data and reading.is_parked and reading.whole:
            request, messages = memo.found
        else:
            request, messages = self.read(data)
        if request is None:
            self.send(self.request)
        elif request:
            self.request = request
            self.send(request)
        if messages:
            self.load.delivered(self, messages, now)

    def read(self, data: bytes) -> tuple[bytes | None, Sequence[Any]]:
        reading = self.reading
        alone = reading.is_parked and reading.whole
        try:
            found = reading.received(data)
        except (KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswer(f"An answer cannot be understood ({error!r}): {excerpt(data)}") from None
        if self.is_open:
            if alone and reading.whole and found[1] and self.target.dialect.shares:
                self.memo.data = data
                self.memo.found = found
        elif reading.is_parked:
            self.opened()
        return found


class _PusherLink(_Link):
    __slots__ = ("messages_each", "pushing", "recipient", "requests")

    def __init__(self, load: Load, target: ServerAddress, pushing: PushingClient) -> None:
        super().__init__(load, target, pushing.opening())
        self.pushing = pushing
        self.recipient: Recipient | None = None
        self.requests: deque[bytes] = deque()
        self.messages_each = 1

    def push(self, recipient: Recipient, bodies: Sequence[bytes]) -> None:
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
            raise UnexpectedAnswer(f"An answer cannot be understood ({error!r}): {excerpt(data)}") from None
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
            raise UnexpectedAnswer("The server answered a push that was not sent.")


class Load:
    """All connections of a run, which go to each target in turn, and the rounds that go over them."""

    def __init__(self, targets: Sequence[ServerAddress], scenario: Scenario, size: int) -> None:
        self.targets = targets
        self.scenario = scenario
        self.epoll = select.epoll()
        self.links: dict[int, _Link] = {}
        self.opening = 0
        # Names of this run alone, so that no message of another run is in their mailboxes.
        self.run_name = f"bench-{secrets.token_hex(4)}"
        self._text = "x" * max(0, size - len(self._body(0, "")))
        self._body_format = self._body("%d", self._text).encode()
        self._number = 0
        self._recipients: list[Recipient] = []
        self._idle: deque[Recipient] = deque()
        self._free: deque[_PusherLink] = deque()
        self._rounds = 0
        self._until = 0.0
        self._left = 0
        self.on_progress: Callable[[int], None] | None = None
        self.reset()

    @property
    def where(self) -> str:
        return ", ".join([target.url for target in self.targets])

    def reset(self) -> None:
        self.latencies = Latencies()
        self.messages = 0
        self.deliveries = 0

    def _body(self, number: object, text: str) -> str:
        return f'{{"run":"{self.run_name}","n":{number},"text":"{text}"}}'

    # Opening.

    def open_pushers(self) -> None:
        targets = islice(cycle(self.targets), self.scenario.pushers)
        pushers = [_PusherLink(self, target, target.dialect.pusher()) for target in targets]
        self._open(pushers)
        self._free.extend(pushers)

    def open_parked(self, count: int) -> None:
        """Open polls that nothing is pushed to, each of its own recipient."""
        self._open(self._readers(Recipient(f"{self.run_name}-parked-{number}") for number in range(count)))

    def open_readers(self) -> None:
        """Open the scenario's readers; afterwards all of them wait."""
        scenario = self.scenario
        recipients = [Recipient(f"{self.run_name}-{number}") for number in range(scenario.recipients)]
        readers = (recipient for recipient in recipients for _ in range(scenario.readers_each))
        self._open(self._readers(readers, streams=scenario.streams))
        self._recipients = recipients
        self._idle.extend(recipients)

    def _readers(self, recipients: Iterable[Recipient], *, streams: bool = False) -> Iterator[_ReaderLink]:
        for recipient, target in zip(recipients, cycle(self.targets), strict=False):
            make = target.dialect.follower if streams else target.dialect.poller
            yield _ReaderLink(self, target, recipient, make(recipient.name))

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
                raise NotThere(f"{self.where} did not answer within {PATIENCE_SECONDS:.0f} s.")

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
                missing = sum(recipient.missing for recipient in self._recipients)
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

    def delivered(self, link: _ReaderLink, messages: Sequence[Any], now: float) -> None:
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

    def pushed(self, pusher: _PusherLink, recipient: Recipient) -> None:
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

    def _finished(self, recipient: Recipient) -> None:
        self._rounds -= 1
        if not recipient.kept:
            recipient.first += len(recipient.expected)
            recipient.expected.clear()
            recipient.sent.clear()
        self._idle.append(recipient)
        self._begin()

    # Reading back what was pushed without readers.

    def keep_some(self) -> list[Recipient]:
        """Remember what is pushed to some of the recipients from now on; returns them."""
        kept = self._recipients[:: -(-len(self._recipients) // READ_BACK)]
        for recipient in kept:
            recipient.kept = True
        return kept

    def read_back(self, recipients: Iterable[Recipient]) -> None:
        """Read what was pushed to ``recipients``, and compare it."""
        links = list(self._readers(recipients))
        for link in links:
            link.recipient.missing = len(link.recipient.expected)
        self._rounds += len(links)
        self._until = 0.0
        self._open(links)
        self._drain()

    def close(self) -> None:
        for link in self.links.values():
            link.sock.close()
        self.links.clear()
        self.epoll.close()
