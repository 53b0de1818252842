"""What a connection to Redis says and hears."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from helpers import Outcome
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from cometd_lite.errors import StoreDown
from cometd_lite.limits import STORE_STALLED_SECONDS
from cometd_lite.stores.redis.connection import Address, CommandRefused, RedisConnection, Sentinels


@pytest.fixture
def connection() -> RedisConnection:
    connection = RedisConnection()
    connection.makeConnection(StringTransport())
    return connection


def test_commands_are_answered_in_their_order_however_the_bytes_come(connection: RedisConnection) -> None:
    asked = [Outcome(connection.ask("GET", name)) for name in "ab"]
    assert connection.transport.value() == b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n"
    for byte in b"$1\r\nx\r\n$-1\r\n":
        connection.dataReceived(bytes([byte]))
    assert [one.value for one in asked] == [b"x", None]
    assert connection.waiting == 0


def test_what_is_published_comes_in_between_and_answers_nothing(connection: RedisConnection) -> None:
    heard = []
    connection.published = lambda channel, said: heard.append((channel, said))
    connection.subscribe("SUBSCRIBE", "c")
    asked = Outcome(connection.ask("PING"))
    connection.dataReceived(
        b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n+PONG\r\n"
    )
    assert heard == [(b"c", b"hi")]
    assert asked.value == b"PONG"


class Reactor(Clock):
    """A clock that says which transports wait until they can send."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: list[Socket] = []

    def getWriters(self) -> list[Socket]:
        return self.writers


class Socket(Connection):
    """A transport of Twisted's; ``takes`` is what its socket takes at once, negative where it is broken."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.connected = 1
        self.takes = 1_000
        self.sent: list[bytes] = []
        self.queued = b""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing."""

    def writeSomeData(self, data: bytes) -> int | Exception:
        if self.takes < 0:
            return ConnectionLost()
        self.sent.append(data[: self.takes])
        return len(self.sent[-1])

    def write(self, data: bytes) -> None:
        if data and self.connected:
            self.queued += data
            self.reactor.writers = [self]


@pytest.fixture
def socket() -> Socket:
    return Socket()


@pytest.fixture
def asking(socket: Socket) -> RedisConnection:
    asking = RedisConnection()
    asking.makeConnection(socket)
    return asking


def sent(*turns: str) -> list[bytes]:
    """Return what commands of one word look like that leave together, for each time."""
    return [b"".join([b"*1\r\n$3\r\n%b\r\n" % word.encode() for word in turn.split()]) for turn in turns]


def test_a_command_leaves_at_once_where_none_is_unanswered(asking: RedisConnection, socket: Socket) -> None:
    asking.ask("ONE")
    assert socket.sent == sent("ONE")
    asking.dataReceived(b"+OK\r\n")
    asking.ask("TWO")
    socket.reactor.advance(0)
    assert socket.sent == sent("ONE", "TWO")


def test_the_reactors_writers_are_listed_only_after_a_command_that_was_not_sent_whole(
    asking: RedisConnection, socket: Socket
) -> None:
    asked: list[int] = []
    writers = socket.reactor.getWriters
    socket.reactor.getWriters = lambda: asked.append(1) or writers()  # type: ignore[method-assign,func-returns-value]
    asking.ask("ONE")
    assert not asked
    asking.dataReceived(b"+OK\r\n")
    socket.takes = 1
    asking.ask("TWO")
    socket.takes, socket.reactor.writers = 1_000, []
    asking.dataReceived(b"+OK\r\n")
    asking.ask("SIX")
    assert asked == [1]
    assert socket.sent[-1] == sent("SIX")[0]


def test_a_command_takes_along_what_is_subscribed_to_before_it(
    asking: RedisConnection, socket: Socket
) -> None:
    asking.subscribe("SUBSCRIBE", "c")
    assert socket.sent == []
    asking.ask("ONE")
    assert socket.sent == [b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n" + sent("ONE")[0]]
    asking.subscribe("UNSUBSCRIBE", "c")
    socket.reactor.advance(0)
    assert socket.sent[1:] == [b"*2\r\n$11\r\nUNSUBSCRIBE\r\n$1\r\nc\r\n"]


def test_a_prelude_goes_in_front_of_a_command_that_leaves_at_once_only(
    asking: RedisConnection, socket: Socket
) -> None:
    for word in ("ONE", "TWO"):
        asking.ask(word, prelude=b"first ")
    socket.reactor.advance(0)
    assert socket.sent == [b"first " + sent("ONE")[0], *sent("TWO")]


def test_the_commands_of_a_turn_leave_together_once_a_turn_had_several(
    asking: RedisConnection, socket: Socket
) -> None:
    left = []
    for turn in ("ONE TWO", "SIX TEN", "ODD", "END"):
        asked = [asking.ask(word) for word in turn.split()]
        left.append(len(socket.sent))
        socket.reactor.advance(0)
        asking.dataReceived(b"+OK\r\n" * len(asked))
    assert socket.sent == sent("ONE", "TWO", "SIX TEN", "ODD", "END")
    assert left == [1, 2, 3, 5]


def test_what_the_socket_does_not_take_is_left_to_the_reactor(
    asking: RedisConnection, socket: Socket
) -> None:
    socket.takes = 10
    asking.ask("ONE")
    asking.ask("TWO")
    socket.reactor.advance(0)
    assert socket.sent == [b"*1\r\n$3\r\nON"]
    assert socket.queued == b"E\r\n*1\r\n$3\r\nTWO\r\n"


@pytest.mark.parametrize("broken", [{"connected": 0}, {"takes": -1}])
def test_nothing_is_sent_to_a_connection_that_is_lost(
    asking: RedisConnection, socket: Socket, broken: dict[str, int]
) -> None:
    vars(socket).update(broken)
    asking.ask("LOST").addErrback(lambda _: None)
    assert (socket.sent, socket.queued) == ([], b"")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("OOM command not allowed", "OOM"),
        ("ERR Error running script (call to f_0): @user_script:9: -READONLY You can't write", "READONLY"),
        ("ERR unknown command", "ERR"),
    ],
)
def test_an_error_fails_its_own_command(connection: RedisConnection, said: str, code: str) -> None:
    failing, good = Outcome(connection.ask("X")), Outcome(connection.ask("PING"))
    connection.dataReceived(f"-{said}\r\n+PONG\r\n".encode())
    with pytest.raises(CommandRefused) as refused:
        _ = failing.value
    assert refused.value.code == code
    assert good.value == b"PONG"


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n", b"+OK\r\n"])
def test_what_is_no_redis_is_let_go_of(connection: RedisConnection, said: bytes) -> None:
    connection.dataReceived(said)
    assert connection.transport.disconnecting


def test_a_lost_connection_fails_what_was_asked_and_what_is_asked_then(connection: RedisConnection) -> None:
    asked, ended = Outcome(connection.ask("PING")), Outcome(connection.ended)
    connection.connectionLost()
    late = Outcome(connection.ask("PING"))
    for one in (asked, late):
        with pytest.raises(StoreDown):
            _ = one.value
    assert ended.value is None
    connection.end()


# -- Sentinels


@implementer(IStreamClientEndpoint)
class Host:
    """An endpoint at a host that says some things once it is connected; with None it is not reached."""

    def __init__(self, clock: Clock, replies: list[bytes] | None) -> None:
        self.clock = clock
        self.replies = replies
        self.made: list[tuple[Any, StringTransport]] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.replies is None:
            return fail(ConnectError())
        protocol = factory.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        self.made.append((protocol, transport))
        for reply in self.replies:
            self.clock.callLater(0, protocol.dataReceived, reply)
        return succeed(protocol)


class Nearby(Address):
    """An address whose hosts are in memory."""

    hosts_there: ClassVar[dict[str, Host]] = {}

    def at(self, reactor: Any, host: str, port: int) -> Any:
        return self.hosts_there[f"{host}:{port}"]


MASTER = b"*2\r\n$6\r\nmaster\r\n$4\r\n6379\r\n"


@pytest.mark.parametrize(
    "first",
    [None, [b"$-1\r\n"], [b"-NOAUTH Authentication required.\r\n"], [b"HTTP/1.1 400 Bad Request\r\n"], []],
)
def test_the_first_sentinel_that_knows_the_master_is_believed(
    clock: Clock, first: list[bytes] | None
) -> None:
    there = {
        "one:26379": Host(clock, first),
        "two:26379": Host(clock, [MASTER]),
        "master:6379": Host(clock, []),
    }
    Nearby.hosts_there = there
    address = Nearby(hosts=(("one", 26379), ("two", 26379)), service="mymaster")
    connected = Outcome(Sentinels(address, clock).connect(Factory.forProtocol(RedisConnection)))
    clock.advance(0)
    clock.advance(STORE_STALLED_SECONDS)
    clock.advance(0)
    ((protocol, transport),) = there["master:6379"].made
    assert connected.value is protocol
    assert not transport.disconnecting
    asked = b"*3\r\n$8\r\nSENTINEL\r\n$23\r\nGET-MASTER-ADDR-BY-NAME\r\n$8\r\nmymaster\r\n"
    for sentinel in there["one:26379"].made + there["two:26379"].made:
        assert sentinel[1].value() == asked
        assert sentinel[1].disconnecting
    assert clock.getDelayedCalls() == []


def test_where_no_sentinel_knows_the_master_it_is_not_reached(clock: Clock) -> None:
    Nearby.hosts_there = {"one:26379": Host(clock, None)}
    address = Nearby(hosts=(("one", 26379),), service="mymaster")
    connected = Outcome(Sentinels(address, clock).connect(Factory.forProtocol(RedisConnection)))
    with pytest.raises(ConnectError, match="no Sentinel knows mymaster"):
        _ = connected.value
