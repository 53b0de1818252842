"""Wires over sockets, through the kernel but without a reactor; and over Twisted's transports."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from served import TEXT, Answer, App, Reply, Served, head, post
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from cometd_lite.server import Bounds
from cometd_lite.server.epoll import Poller, adoptable
from cometd_lite.server.unsent import UnsentTotal
from cometd_lite.server.wire import TwistedWire, Wire, peer_has_closed

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux has epoll")


class Reactor(Clock):
    """A clock that watches one descriptor, when it is told to turn."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def turn(self) -> None:
        """Do all that can be done without waiting."""
        for _ in range(20):
            for reader in list(self.readers):
                reader.doRead()
            self.advance(0)


class Accepted:
    """What Twisted's port makes of an accepted connection, as far as it is asked for."""

    def __init__(self, sock: socket.socket, reactor: Reactor) -> None:
        self.socket = sock
        self.fileno = sock.fileno
        self.protocol = self.reactor = reactor
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False


class Owner:
    def __init__(self) -> None:
        self.received = b""
        self.lost: list[Failure] = []
        self.drains = 0
        self.act: Callable[[bytes], object] = lambda data: None
        """What it does whenever something comes."""

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if data == b"fail":
            raise ZeroDivisionError
        self.act(data)

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason)

    def drained(self) -> None:
        self.drains += 1


class Line:
    """A wire, its owner, and the peer's socket."""

    def __init__(self, family: int = socket.AF_UNIX) -> None:
        self.reactor = Reactor()
        self.total = UnsentTotal(10_000_000)
        self.poller = Poller(self.reactor, self.total)
        self.owner = Owner()
        ours, self.peer = pair(family)
        self.accepted = Accepted(ours, self.reactor)
        self.wire = self.poller.adopt(self.accepted, self.owner)

    def fill(self) -> int:
        """Write until the peer's buffer is full; return how much that was."""
        written = 0
        while not unsent(self.wire):
            self.wire.write(b"x" * 100_000)
            written += 100_000
        return written

    def drain(self) -> int:
        """Read all that comes, as the peer; return how much that was."""
        read = 0
        self.peer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while data := self.peer.recv(1_000_000):
                read += len(data)
                self.reactor.turn()
        self.peer.settimeout(5)
        return read


def unsent(wire: Wire) -> int:
    """Return the bytes in a wire's queue."""
    return 0 if wire.queue is None else wire.queue.size


opened: list[socket.socket] = []


def pair(family: int = socket.AF_UNIX) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection, ours first; what is still open after the test is closed."""
    if family == socket.AF_UNIX:
        ours, peer = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = socket.create_connection(listener.getsockname())
            ours = listener.accept()[0]
    ours.setblocking(False)
    peer.settimeout(5)
    opened.extend((ours, peer))
    return ours, peer


@pytest.fixture(autouse=True)
def everything_closed() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


@pytest.fixture(params=[socket.AF_UNIX, socket.AF_INET], ids=["unix", "tcp"])
def line(request: Any) -> Iterator[Line]:
    line = Line(request.param)
    yield line
    line.peer.close()
    line.reactor.turn()
    line.wire.abortConnection()
    line.reactor.turn()
    assert line.reactor.readers == set()
    assert line.reactor.getDelayedCalls() == []
    assert len(line.owner.lost) == 1
    assert (line.total.size, line.total.holders, line.total.queues) == (0, {}, set())


# -- sockets


def test_a_socket_is_taken_over_from_twisted(line):
    assert not line.accepted.reading
    assert not hasattr(line.accepted, "socket")
    assert verifyObject(ITransport, line.wire)


def test_what_comes_is_given_to_the_owner_and_what_is_written_goes_out_in_the_next_turn(line):
    line.peer.sendall(b"hello")
    line.reactor.turn()
    assert line.owner.received == b"hello"
    line.wire.write(b"good")
    line.wire.writeSequence([b" ", b"day"])
    line.reactor.turn()
    assert line.peer.recv(100) == b"good day"
    assert unsent(line.wire) == 0


def test_much_comes_in_as_many_turns_as_it_needs(line):
    data = b"x" * 300_000
    for at in range(0, len(data), 50_000):
        line.peer.sendall(data[at : at + 50_000])
        line.reactor.turn()
    assert line.owner.received == data
    for length in (4_095, 4_096, 4_097, 69_632):
        line.peer.sendall(data[:length])
        line.reactor.turn()
    assert len(line.owner.received) == 300_000 + 4_095 + 4_096 + 4_097 + 69_632


def test_what_the_socket_does_not_take_is_sent_when_it_does(line):
    written = line.fill()
    line.wire.write(b"y" * 1_000)
    pending = unsent(line.wire)
    assert pending > 1_000
    assert line.drain() == written + 1_000
    assert unsent(line.wire) == 0
    assert line.owner.drains == 1
    line.wire.write(b"z")
    line.reactor.turn()
    assert line.peer.recv(10) == b"z"


def test_close_sends_everything_first(line):
    written = line.fill()
    line.wire.loseConnection()
    line.wire.write(b"too late")
    line.reactor.turn()
    assert line.owner.lost == []
    assert line.drain() == written
    line.reactor.turn()
    assert line.owner.lost[0].check(ConnectionDone)


def test_the_owner_is_not_told_of_a_close_in_the_same_turn(line):
    line.wire.loseConnection()
    assert line.owner.lost == []
    line.reactor.turn()
    assert line.owner.lost[0].check(ConnectionDone)
    assert line.peer.recv(10) == b""
    line.wire.loseConnection()
    line.wire.abortConnection()
    line.wire.write(b"too late")
    line.wire.pauseProducing()
    line.wire.resumeProducing()


def test_half_a_close_still_listens(line):
    line.wire.write(b"last")
    line.wire.half_close()
    line.reactor.turn()
    assert (line.peer.recv(10), line.peer.recv(10)) == (b"last", b"")
    line.peer.sendall(b"still here")
    line.reactor.turn()
    assert line.owner.received == b"still here"
    line.wire.write(b"too late")
    line.wire.loseConnection()
    line.reactor.turn()
    assert len(line.owner.lost) == 1


def test_half_a_close_waits_for_what_is_unsent(line):
    written = line.fill()
    line.wire.half_close()
    assert line.drain() == written
    assert line.owner.lost == []
    line.peer.close()
    line.reactor.turn()
    assert len(line.owner.lost) == 1


def test_abort_drops_what_is_unsent(line):
    line.fill()
    line.wire.abortConnection()
    assert (unsent(line.wire), line.owner.lost) == (0, [])
    line.reactor.turn()
    assert line.owner.lost[0].check(ConnectionAborted)


def test_a_peer_that_closes_is_noticed_after_what_it_said(line):
    line.peer.sendall(b"bye")
    line.peer.close()
    line.reactor.turn()
    assert line.owner.received == b"bye"
    assert line.owner.lost[0].check(ConnectionDone)


def test_a_peer_that_closes_one_direction_counts_as_gone(line):
    line.peer.shutdown(socket.SHUT_WR)
    line.reactor.turn()
    assert line.owner.lost[0].check(ConnectionDone)


def test_a_peer_that_closes_while_reading_is_paused_is_noticed_afterwards(line):
    line.wire.pauseProducing()
    line.peer.sendall(b"bye")
    line.peer.shutdown(socket.SHUT_WR)
    line.reactor.turn()
    assert (line.owner.received, line.owner.lost) == (b"", [])
    line.wire.resumeProducing()
    line.reactor.turn()
    assert line.owner.received == b"bye"
    assert len(line.owner.lost) == 1


def test_a_reset_is_noticed_even_while_reading_is_paused():
    line = Line(socket.AF_INET)
    line.wire.pauseProducing()
    line.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line.peer.close()
    line.reactor.turn()
    assert line.owner.lost[0].check(ConnectionLost)


def test_writing_to_a_peer_that_is_gone_is_told_once_by_the_epoll():
    line = Line(socket.AF_INET)
    line.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line.peer.close()
    line.wire.write(b"x")
    line.wire.write(b"y")
    assert line.owner.lost == []
    line.reactor.turn()
    assert len(line.owner.lost) == 1


def test_what_came_is_not_read_while_paused(line):
    line.wire.pauseProducing()
    line.peer.sendall(b"hello")
    line.reactor.turn()
    assert line.owner.received == b""
    line.wire.resumeProducing()
    line.reactor.turn()
    assert line.owner.received == b"hello"


def test_gone_sees_what_the_epoll_has_not_told_yet(line):
    assert not line.wire.is_disconnected()
    line.peer.sendall(b"x")
    assert not line.wire.is_disconnected()
    line.reactor.turn()
    line.peer.close()
    assert line.owner.lost == []
    assert line.wire.is_disconnected()
    line.reactor.turn()
    assert line.wire.is_disconnected()


def test_addresses_are_known_while_the_connection_lives():
    for family, kind in ((socket.AF_UNIX, UNIXAddress), (socket.AF_INET, IPv4Address)):
        line = Line(family)
        assert isinstance(line.wire.getPeer(), kind)
        assert isinstance(line.wire.getHost(), kind)
        line.wire.stopProducing()
        line.reactor.turn()
        assert line.wire.getPeer() == line.wire.getHost() == IPv4Address("TCP", "", 0)


def test_one_owners_failure_ends_its_own_connection_only(line, expected_failures):
    expected_failures.append(ZeroDivisionError)
    ours, peer = pair()
    other = Owner()
    line.poller.adopt(Accepted(ours, line.reactor), other)
    line.peer.sendall(b"fail")
    peer.sendall(b"hello")
    line.reactor.turn()
    assert line.owner.lost[0].check(ConnectionAborted)
    assert (other.received, other.lost) == (b"hello", [])
    peer.close()
    line.reactor.turn()


def test_all_connections_end_with_the_reactor(line):
    line.poller.connectionLost(Failure(ConnectionLost()))
    assert line.owner.lost[0].check(ConnectionLost)


def test_what_is_closed_in_anothers_turn_is_not_read_any_more(line):
    ours, peer = pair()
    owner, other = Owner(), Owner()
    other_ours, other_peer = pair()
    wire = line.poller.adopt(Accepted(ours, line.reactor), owner)
    other_wire = line.poller.adopt(Accepted(other_ours, line.reactor), other)
    owner.act = lambda data: other_wire.lose(Failure(ConnectionDone()))
    other.act = lambda data: wire.lose(Failure(ConnectionDone()))
    peer.sendall(b"x")
    other_peer.sendall(b"x")
    line.reactor.turn()
    assert len(owner.lost) + len(other.lost) == 1
    assert len(owner.received) + len(other.received) == 1
    wire.abortConnection()
    other_wire.abortConnection()
    line.reactor.turn()


@pytest.mark.parametrize("farewell", [b"", b"and goodbye"])
def test_who_closed_before_another_spoke_is_disconnected_while_the_other_is_served(line, farewell):
    seemed: list[bool] = []
    ours, peer = pair()
    owner = Owner()
    owner.act = lambda data: seemed.append(line.wire.was_disconnected())
    wire = line.poller.adopt(Accepted(ours, line.reactor), owner)
    peer.sendall(b"first")
    line.reactor.turn()
    line.peer.sendall(farewell)
    line.peer.close()
    peer.sendall(b"second")
    for reader in list(line.reactor.readers):
        reader.doRead()
    assert seemed == [False, True]
    wire.abortConnection()
    line.reactor.turn()


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_a_wire_is_sending_until_its_peer_has_everything(family):
    line = Line(family)
    assert not line.wire.is_sending()
    line.fill()
    assert line.wire.is_sending()
    while unsent(line.wire):
        line.drain()
    line.drain()
    assert not line.wire.is_sending()
    line.wire.write(b"x" * 10_000)
    line.reactor.turn()
    assert unsent(line.wire) == 0
    if family == socket.AF_UNIX:  # over TCP the peer's kernel acknowledges what its buffer has room for
        assert line.wire.is_sending(), "what the kernel holds is on its way"
    line.peer.close()
    line.reactor.turn()
    line.wire.abortConnection()
    line.reactor.turn()
    assert not line.wire.is_sending()


def test_outside_of_a_turn_a_wire_looks_whether_its_peer_is_disconnected(line):
    assert not line.wire.was_disconnected()
    line.peer.close()
    assert line.wire.was_disconnected()
    line.reactor.turn()
    assert line.wire.was_disconnected()


@implementer(IPushProducer)
class Producer:
    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


def test_a_streaming_producer_is_paused_while_anything_is_unsent(line):
    producer = Producer()
    line.wire.registerProducer(producer, True)
    line.wire.write(b"x" * 1_000)
    assert producer.told == []
    line.fill()
    line.wire.write(b"x")
    assert producer.told == ["pause"]
    line.drain()
    assert producer.told == ["pause", "resume"]


def test_a_streaming_producer_that_comes_while_something_is_unsent_is_paused_at_once(line):
    producer = Producer()
    line.fill()
    line.wire.write(b"x")
    line.wire.registerProducer(producer, True)
    assert producer.told == ["pause"]
    line.drain()
    assert producer.told == ["pause", "resume"]


def test_a_streaming_producer_keeps_the_connection_open(line):
    producer = Producer()
    line.wire.registerProducer(producer, True)
    with pytest.raises(RuntimeError):
        line.wire.registerProducer(producer, True)
    line.fill()
    line.wire.write(b"x" * 100_000)
    line.wire.write(b"x" * 100_000)
    assert producer.told == ["pause"]
    line.drain()
    assert producer.told == ["pause", "resume"]
    line.wire.loseConnection()
    line.reactor.turn()
    assert line.owner.lost == [], "the connection waits for its producer"
    line.wire.unregisterProducer()
    line.reactor.turn()
    assert len(line.owner.lost) == 1


def test_a_pull_producer_is_refused(line):
    with pytest.raises(ValueError, match="push"):
        line.wire.registerProducer(Producer(), False)


def test_a_producer_is_paused_at_once_where_much_is_unsent(line):
    line.fill()
    line.wire.write(b"x" * 100_000)
    producer = Producer()
    line.wire.registerProducer(producer, True)
    assert producer.told == ["pause"]
    line.wire.unregisterProducer()


def test_a_producer_is_stopped_when_the_peer_has_closed(line):
    producer = Producer()
    line.wire.registerProducer(producer, True)
    line.peer.close()
    line.reactor.turn()
    assert producer.told[-1] == "stop"
    late = Producer()
    line.wire.registerProducer(late, True)
    assert late.told == ["stop"]


# -- what is sent together


def crowd(line: Line, count: int) -> list[tuple[Any, socket.socket]]:
    """Return the wires and peers of more connections of the same poller."""
    found = []
    for _ in range(count):
        ours, peer = pair()
        found.append((line.poller.adopt(Accepted(ours, line.reactor), Owner()), peer))
    return found


def readable(others: list[tuple[Any, socket.socket]]) -> int:
    """Return how many of the peers have something to read."""
    return len(select.select([peer for _, peer in others], [], [], 0)[0])


def test_answers_are_sent_in_the_turn_in_which_they_are_written_and_in_order(line):
    others = crowd(line, 3)

    def answer(data: bytes) -> None:
        for number in range(3):
            for wire, _ in others:
                wire.write(b"%d" % number)
        line.wire.write(data)
        assert readable(others) == 0

    line.owner.act = answer
    line.peer.sendall(b"x")
    line.reactor.turn()
    assert line.peer.recv(10) == b"x"
    assert [peer.recv(10) for _, peer in others] == [b"012"] * 3
    line.poller.connectionLost(Failure(ConnectionLost()))


def test_what_is_written_when_nothing_has_come_is_sent_at_once_and_the_rest_in_the_next_turn(line):
    others = crowd(line, 3)
    for _ in range(2):
        for number in range(3):
            for wire, _ in others:
                wire.write(b"%d" % number)
        assert [peer.recv(10) for _, peer in others[:1]] == [b"0"]
        assert readable(others) == 0
        assert all(wire.is_sending() for wire, _ in others)
        assert len(line.reactor.getDelayedCalls()) == 1
        line.reactor.turn()
        assert [peer.recv(10) for _, peer in others] == [b"12", b"012", b"012"]
    line.poller.connectionLost(Failure(ConnectionLost()))


def test_what_is_written_right_before_the_reactor_stops_is_sent(line):
    line.wire.write(b"good bye")
    line.poller.connectionLost(Failure(ConnectionLost()))
    assert (line.peer.recv(10), line.peer.recv(10)) == (b"good bye", b"")


def test_the_first_of_many_need_not_wait_for_the_last(line):
    others = crowd(line, 200)
    most = 0

    def answer(data: bytes) -> None:
        nonlocal most
        for written, (wire, _) in enumerate(others, 1):
            wire.write(data)
            most = max(most, written - readable(others))

    line.owner.act = answer
    line.peer.sendall(b"x")
    line.reactor.turn()
    assert [peer.recv(10) for _, peer in others] == [b"x"] * 200
    assert 1 < most < 100
    line.poller.connectionLost(Failure(ConnectionLost()))


@pytest.mark.parametrize("sizes", [[100, 20_000], [20_000, 100], [10_000, 10_000, 1], [1, 1_000_000, 1]])
def test_what_is_long_does_not_overtake_what_is_short(line, sizes):
    line.owner.act = lambda data: [
        line.wire.write(b"%d" % number * size) for number, size in enumerate(sizes)
    ]
    line.peer.sendall(b"x")
    line.reactor.turn()
    expected = b"".join(b"%d" % number * size for number, size in enumerate(sizes))
    come = b""
    while len(come) < len(expected):
        come += line.peer.recv(1_000_000)
        line.reactor.turn()
    assert come == expected


@pytest.mark.parametrize("end", ["loseConnection", "half_close"])
def test_what_ends_after_its_answer_sends_that_first(line, end):
    def answer(data: bytes) -> None:
        line.wire.write(data)
        getattr(line.wire, end)()
        line.wire.write(b"too late")

    line.owner.act = answer
    line.peer.sendall(b"x")
    line.reactor.turn()
    assert (line.peer.recv(10), line.peer.recv(10)) == (b"x", b"")


def test_what_is_aborted_after_its_answer_sends_nothing(line):
    def answer(data: bytes) -> None:
        line.wire.write(data)
        line.wire.abortConnection()
        line.wire.write(data)

    line.owner.act = answer
    line.peer.sendall(b"x")
    line.reactor.turn()
    with contextlib.suppress(ConnectionResetError):
        assert line.peer.recv(10) == b""


@pytest.mark.parametrize("fault", [ZeroDivisionError, KeyboardInterrupt])
def test_no_fault_keeps_the_answers_of_others_from_being_sent(line, fault, expected_failures):
    ((wire, peer),) = crowd(line, 1)

    def answer(data: bytes) -> None:
        wire.write(data)
        raise fault

    line.owner.act = answer
    line.peer.sendall(b"x")
    if issubclass(fault, Exception):
        expected_failures.append(fault)
        line.reactor.turn()
    else:
        with pytest.raises(fault):
            line.reactor.turn()
    assert peer.recv(10) == b"x"
    wire.write(b"later")
    line.reactor.turn()
    assert peer.recv(10) == b"later"
    wire.abortConnection()
    line.reactor.turn()


# -- requests over sockets


class Site:
    """A factory with connections over sockets."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.reactor = Reactor()
        self.served = Served(App(), self.reactor, bounds=bounds or Bounds())
        self.served.lose()
        self.factory = self.served.factory
        self.poller = Poller(self.reactor, self.factory._unsent)
        self.factory.wire = self.poller.adopt  # type: ignore[method-assign]

    def connect(self) -> socket.socket:
        ours, peer = pair(socket.AF_INET)
        self.factory.buildProtocol(None).makeConnection(Accepted(ours, self.reactor))
        return peer

    def ask(self, peer: socket.socket, data: bytes) -> Answer:
        peer.sendall(data)
        self.reactor.turn()
        return Answer.read(peer.recv(1_000_000))


def test_requests_are_served_over_sockets():
    site = Site()
    poll, push = site.connect(), site.connect()
    poll.sendall(head("GET", "/poll/a"))
    site.reactor.turn()
    assert site.ask(push, post("/push/a", b"mail")).body == b"1 woken, 4 bytes"
    assert Answer.read(poll.recv(1_000)).body == b"mail"
    assert site.ask(poll, head("GET", "/", "Connection: close")).body == b"root"
    assert poll.recv(10) == b""
    site.reactor.turn()
    push.close()
    site.reactor.turn()
    assert site.factory.connections == set()
    assert site.reactor.getDelayedCalls() == []
    assert site.reactor.readers == set()


def test_a_client_whose_body_is_refused_can_read_why():
    site = Site()
    peer = site.connect()
    peer.sendall(head("POST", "/echo", "Content-Length: 500000"))
    site.reactor.turn()
    peer.sendall(b"x" * 200_000)
    site.reactor.turn()
    peer.sendall(b"x" * 200_000)
    site.reactor.turn()
    answer = Answer.read(peer.recv(100_000))
    assert (answer.status, answer.fields[b"connection"]) == (413, b"close")
    assert peer.recv(10) == b""
    peer.close()
    site.reactor.turn()
    assert site.factory.connections == set()


def test_a_client_that_never_reads_holds_its_bound_and_is_cut_off():
    site = Site()
    peer = site.connect()
    peer.sendall(head("GET", "/stream"))
    site.reactor.turn()
    (request,) = site.served.routes.requests
    most = 0
    for _ in range(1_000):
        request.write(b"x" * 10_000)
        most = max(most, request.unsent())
        if not site.factory.connections:
            break
        site.reactor.turn()
    assert site.factory.connections == set()
    assert most <= site.factory.bounds.write_buffer + 20_000
    peer.close()


def test_clients_that_never_read_hold_no_more_than_the_bound_and_others_are_served():
    site = Site(Bounds(unsent=4 * 1024 * 1024))
    reads = site.connect()
    peers = [site.connect() for _ in range(40)]
    for number, peer in enumerate(peers):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peer.sendall(head("GET", "/request"))
        site.reactor.turn()
        site.served.routes.requests.pop().respond(Reply(200, TEXT, b"%d" % (number % 10) * 5_000_000))
        assert site.factory.unsent <= site.factory.bounds.unsent
        assert site.ask(reads, head()).body == b"root"
    site.reactor.turn()
    assert len(site.factory.connections) < 10
    for peer in (*peers, reads):
        peer.close()
    site.reactor.turn()
    assert site.factory.unsent == 0


def test_a_lost_client_cancels_its_poll():
    site = Site()
    peer = site.connect()
    peer.sendall(head("GET", "/poll/a"))
    site.reactor.turn()
    peer.close()
    site.reactor.turn()
    assert site.served.routes.cancelled == ["a"]


# -- Twisted's transports


def test_other_transports_keep_their_place():
    assert not adoptable(StringTransport())
    served = Served()
    assert isinstance(served.connection.wire, TwistedWire)
    assert served.connection.wire.getPeer() == served.transport.getPeer()


def test_the_wire_of_a_lost_connection_does_nothing():
    served = Served().send(head())
    wire = served.connection.wire
    served.lose()
    producer = Producer()
    wire.write(b"x")
    wire.loseConnection()
    wire.pauseProducing()
    wire.resumeProducing()
    wire.abortConnection()
    wire.registerProducer(producer, True)
    wire.unregisterProducer()
    assert producer.told == ["stop"]
    assert (wire.is_disconnected(), wire.was_disconnected(), unsent(wire)) == (True, True, 0)
    assert wire.getPeer() == wire.getHost() == IPv4Address("TCP", "", 0)


class Full(StringTransport):
    """A transport that says how much it buffers, and keeps it."""

    bufferSize = 64 * 1024

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(self.value()) > self.bufferSize:
            self.producer.pauseProducing()


def test_a_transport_is_given_little_at_once_so_that_what_it_keeps_is_little():
    served = Served().connect(Full()).send(head("GET", "/request"))
    (request,) = served.routes.requests
    request.respond(Reply(200, TEXT, b"x" * 1_000_000))
    assert len(served.sent) < 40_000
    assert request.unsent() > 960_000
    answered = bytearray()
    while served.sent:
        answered += served.sent
        served.transport.clear()
        served.connection.wire.emptied()
    assert Answer.read(bytes(answered)).body == b"x" * 1_000_000
    assert served.factory.unsent == 0


@pytest.mark.parametrize(
    ("record", "gone"),
    [
        (b"\x15\x03\x03\x00\x1a", True),
        (b"\x17\x03\x03\x00\x13", True),
        (b"\x17\x03\x03\x00\x80", False),
        (b"\x17", False),
    ],
)
def test_under_tls_a_close_is_announced_by_an_alert(record, gone):
    ours, peer = pair()
    peer.sendall(record)
    assert peer_has_closed(ours, tls=True) == gone
    assert not peer_has_closed(ours)


def test_a_transport_that_wraps_a_socket_is_looked_through():
    class Inner:
        def __init__(self, sock: socket.socket) -> None:
            self.socket = sock

    class Wrapper(StringTransport):
        transport: Any

    ours, peer = pair()
    transport = Wrapper()
    transport.transport = Inner(ours)
    wire = TwistedWire(transport, Owner(), UnsentTotal(1))
    assert not wire.is_disconnected()
    peer.close()
    assert wire.is_disconnected()
