"""What a connection to Redis says and hears."""

from __future__ import annotations

import pytest
from helpers import Outcome
from twisted.internet.testing import StringTransport

from cometd_lite.errors import StoreDown
from cometd_lite.stores.redis.connection import Connection, Refused


@pytest.fixture
def connection() -> Connection:
    connection = Connection()
    connection.makeConnection(StringTransport())
    return connection


def test_commands_are_answered_in_their_order_however_the_bytes_come(connection: Connection) -> None:
    asked = [Outcome(connection.ask("GET", name)) for name in "ab"]
    assert connection.transport.value() == b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n"
    for byte in b"$1\r\nx\r\n$-1\r\n":
        connection.dataReceived(bytes([byte]))
    assert [one.value for one in asked] == [b"x", None]
    assert connection.waiting == 0


def test_what_is_published_comes_in_between_and_answers_nothing(connection: Connection) -> None:
    heard = []
    connection.published = lambda channel, said: heard.append((channel, said))
    connection.subscribe("SUBSCRIBE", "c")
    asked = Outcome(connection.ask("PING"))
    connection.dataReceived(
        b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n+PONG\r\n"
    )
    assert heard == [(b"c", b"hi")]
    assert asked.value == b"PONG"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("OOM command not allowed", "OOM"),
        ("ERR Error running script (call to f_0): @user_script:9: -READONLY You can't write", "READONLY"),
        ("ERR unknown command", "ERR"),
    ],
)
def test_an_error_fails_its_own_command(connection: Connection, said: str, code: str) -> None:
    failing, good = Outcome(connection.ask("X")), Outcome(connection.ask("PING"))
    connection.dataReceived(f"-{said}\r\n+PONG\r\n".encode())
    with pytest.raises(Refused) as refused:
        _ = failing.value
    assert refused.value.code == code
    assert good.value == b"PONG"


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n", b"+OK\r\n"])
def test_what_is_no_redis_is_let_go_of(connection: Connection, said: bytes) -> None:
    connection.dataReceived(said)
    assert connection.transport.disconnecting


def test_a_lost_connection_fails_what_was_asked_and_what_is_asked_then(connection: Connection) -> None:
    asked, ended = Outcome(connection.ask("PING")), Outcome(connection.ended)
    connection.connectionLost()
    late = Outcome(connection.ask("PING"))
    for one in (asked, late):
        with pytest.raises(StoreDown):
            _ = one.value
    assert ended.value is None
    connection.end()
