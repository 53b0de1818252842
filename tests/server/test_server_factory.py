"""How many connections there may be: in all, and of one peer; and what those are told that are too many."""

from __future__ import annotations

import socket

import pytest
from served import Answer, Served, head
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory

from cometd_lite.server import Bounds, Refused


class Counted:
    """Counts connections of an address up to a bound, as ``admit`` is to do."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.addresses: list[str] = []
        self.open = 0

    def __call__(self, address: str) -> Counted | Refused:
        self.addresses.append(address)
        if self.open >= self.most:
            return Refused(429, "too many")
        self.open += 1
        return self

    def release(self) -> None:
        self.open -= 1


def status(served: Served) -> int:
    """Return the status of the answer to a request on a connection on which nothing was asked before."""
    return served.ask(head()).status


# -- in all


def test_over_the_bound_a_connection_is_told_so_and_ended_while_the_others_go_on():
    served = Served(max_connections=2)
    first = served.connection, served.transport
    served.connect().connect()
    assert served.sent == b""
    answer = served.ask(head())
    assert (answer.status, answer.fields[b"connection"]) == (503, b"close")
    served.send(head())
    assert served.sent == b""
    served.ticks(4)
    assert served.closed
    served.connection, served.transport = first
    assert served.ask(head()).status == 200


@pytest.mark.parametrize("path", ["/poll/bob", "/cometd/connect"])
def test_what_a_refusal_looks_like_depends_on_what_is_asked(path):
    # Bayeux clients take JSON for messages, and wait for others.
    served = Served(max_connections=1)
    served.connect()
    served.send(f"GET {path} HT".encode())
    assert served.sent == b""
    served.send(b"TP/1.1\r\nHost: x\r\n")
    assert Answer.read(served.sent).status == 503
    assert served.routes.malformed_paths == [path.encode()]


def test_a_connection_over_the_bound_on_which_nothing_is_asked_is_told_so_after_a_moment():
    served = Served(max_connections=1)
    served.connect()
    served.ticks(Bounds().linger_seconds)
    assert Answer.read(served.sent).status == 503
    served.ticks(2 * Bounds().linger_seconds)
    assert served.closed


def test_a_connection_over_the_bound_is_let_go_of_when_the_server_stops():
    served = Served(max_connections=1)
    served.connect()
    served.factory.stopping = True
    served.factory.shutdown()
    assert served.closed


def test_there_is_room_again_when_one_has_ended():
    served = Served(max_connections=1)
    served.lose()
    assert served.connect().ask(head()).status == 200


def test_those_who_read_why_they_are_refused_take_no_clients_place():
    served = Served(max_connections=1)
    first = served.connection
    served.connect().connect()
    assert status(served) == 503
    served.connection = first
    served.lose()
    assert served.connect().ask(head()).status == 200


def test_only_some_at_a_time_may_read_why_others_are_dropped_unheard():
    served = Served(max_connections=1, bounds=Bounds(refused=2))
    served.connect()
    refused = served.connection
    served.connect()
    assert status(served) == 503
    served.connect()
    assert (served.sent, served.closed) == (b"", True)
    assert len(served.factory.connections) == 3
    served.connection = refused
    served.lose()
    assert status(served.connect()) == 503


# -- of one peer


def test_a_peer_is_counted_in_and_out():
    counted = Counted(2)
    served = Served(admit=counted)
    one = served.connection
    assert counted.addresses == ["192.168.1.1"]
    served.connect().connect()
    assert (status(served), counted.open) == (429, 2)
    served.lose()
    assert counted.open == 2
    served.connection = one
    served.lose()
    assert counted.open == 1
    assert served.connect().ask(head()).status == 200


def test_who_has_no_address_is_not_counted():
    counted = Counted(0)
    served = Served(admit=counted)
    served.connection = served.factory.buildProtocol(None)
    served.transport = StringTransport()
    served.connection.makeConnection(served.transport)
    assert served.ask(head()).status == 200


# -- behind the PROXY protocol


def proxied(counted: Counted | None = None, **words: object) -> Served:
    """Return a served connection from a proxy, which has not said yet for whom it speaks."""
    served = Served(admit=counted, **words)
    served.lose()
    if counted is not None:
        counted.addresses.clear()
    served.transport = StringTransport(peerAddress=IPv4Address("TCP", "10.0.0.1", 5))
    served.connection = HAProxyWrappingFactory(served.factory).buildProtocol(served.transport.getPeer())
    served.connection.makeConnection(served.transport)
    return served


def test_whom_a_proxy_speaks_for_is_counted_once_it_is_known():
    counted = Counted(5)
    served = proxied(counted)
    assert counted.addresses == []
    served.send(b"PROXY TCP4 192.0.2.1 10.0.0.9 ", b"5555 80\r\n")
    served.send(head("GET", "/request"))
    assert counted.addresses == ["192.0.2.1"]
    request = served.routes.requests[-1]
    assert (request.client, request.request.getClientAddress().port) == ("192.0.2.1", 5555)


def test_the_second_version_and_ipv6_are_understood_too():
    counted = Counted(5)
    served = proxied(counted)
    addresses = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "::1")
    served.send(
        b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24" + addresses + b"\x15\xb3\0\x50" + head("GET", "/request")
    )
    assert counted.addresses == ["2001:db8:0:0:0:0:0:1"]
    assert served.routes.requests[-1].client == "2001:db8:0:0:0:0:0:1"


def test_a_client_behind_a_proxy_is_refused_where_it_has_too_many():
    served = proxied(Counted(0)).send(b"PROXY TCP4 192.0.2.1 10.0.0.9 5555 80\r\n" + head())
    assert status(served) == 429
    again = proxied(Counted(0), bounds=Bounds(refused=0))
    again.send(b"PROXY TCP4 192.0.2.1 10.0.0.9 5555 80\r\n" + head())
    assert (again.sent, again.closed) == (b"", True)


def test_what_speaks_no_proxy_protocol_is_not_served():
    served = proxied().send(head())
    assert (served.sent, served.closed) == (b"", True)


def test_a_proxy_that_says_nothing_is_left_in_time():
    served = proxied()
    served.ticks(Bounds().head_seconds)
    assert served.closed


def test_a_proxy_that_has_said_nothing_yet_is_let_go_of_when_the_server_stops():
    served = proxied()
    served.factory.stopping = True
    served.factory.shutdown()
    assert served.closed


def test_a_proxy_is_told_that_the_server_is_full():
    served = proxied(max_connections=0)
    served.send(b"PROXY TCP4 192.0.2.1 10.0.0.9 5555 80\r\n")
    assert status(served) == 503
