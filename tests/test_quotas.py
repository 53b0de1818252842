"""What one client may hold and push, and who counts as one."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cometd_lite.access.quotas import Clients, address_key
from cometd_lite.errors import TooManyRequests
from cometd_lite.limits import CLIENT_BURST_SECONDS, CLIENTS_KNOWN, Limits

BURST = int(CLIENT_BURST_SECONDS)


def clients(**bounds: int) -> Clients:
    return Clients(Limits(**bounds), Clock())


# -- who is a client


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("no address", "no address"),
    ],
)
def test_an_address_counts_as_itself_and_an_ipv6_one_as_its_64(address: str, key: str) -> None:
    assert address_key(address) == key


def test_a_token_that_names_its_subject_counts_as_that_wherever_it_comes_from() -> None:
    table = clients()
    alice = table.of("192.0.2.1", "alice")
    assert alice is table.of("192.0.2.2", "alice")
    assert alice is not table.of("192.0.2.1", "bob")
    assert alice is not table.of("192.0.2.1", None)
    assert table.of("192.0.2.1", None) is table.of("192.0.2.1", None)


def test_no_subject_passes_for_an_address() -> None:
    table = clients()
    assert table.of(None, "192.0.2.1") is not table.of("192.0.2.1", None)


def test_a_request_that_has_neither_is_not_counted() -> None:
    assert clients().of(None, None) is None


# -- connections


def test_without_a_bound_a_public_address_has_a_quarter_and_others_are_not_counted() -> None:
    table = clients(max_connections=40)
    for address in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "fe80::1", "::1", "fd00::1"):
        assert table.connections_from(address) is None
    share = table.connections_from("8.8.8.8")
    assert share is not None
    for _ in range(10):
        assert not share.is_full
        share.take()
    assert share.is_full
    assert "at most 10 connections" in share.refusal


def test_a_bound_that_was_given_holds_for_every_address_but_a_trusted_proxys() -> None:
    table = Clients(Limits(client_connections=1), Clock(), lambda address: address == "10.0.0.1")
    assert table.connections_from("10.0.0.1") is None
    share = table.connections_from("127.0.0.1")
    assert share is not None
    share.take()
    with pytest.raises(TooManyRequests):
        share.take()
    share.release()
    share.take()


# -- what is held


def test_what_is_held_counts_until_it_ends_however_it_ends() -> None:
    client = clients(client_parked=2).of("192.0.2.1", None)
    assert client is not None
    first: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()
    client.parked.hold_until(first)
    client.parked.hold_until(second)
    with pytest.raises(TooManyRequests):
        client.parked.hold_until(Deferred())
    first.callback(1)
    second.addErrback(lambda _: None)
    second.cancel()
    assert client.parked.held == 0


# -- pushes


def test_a_client_pushes_as_much_a_second_as_it_may_and_some_seconds_worth_at_once() -> None:
    table = clients(client_pushes=2)
    clock = table.clock
    assert isinstance(clock, Clock)
    client = table.of("192.0.2.1", None)
    assert client is not None
    for _ in range(2 * BURST):
        client.charge(1, 100)
    client.charge(1, 100)  # at zero nothing is owed yet
    with pytest.raises(TooManyRequests) as refused:
        client.charge(1, 100)
    assert refused.value.retry_after == 1
    clock.advance(1)
    client.charge(1, 100)
    client.charge(1, 100)
    with pytest.raises(TooManyRequests):
        client.charge(1, 100)


def test_a_push_of_any_size_passes_once_and_is_then_made_up_for() -> None:
    table = clients(client_bytes=10)
    clock = table.clock
    assert isinstance(clock, Clock)
    client = table.of("192.0.2.1", None)
    assert client is not None
    client.charge(1, 10 * BURST + 100)
    with pytest.raises(TooManyRequests) as refused:
        client.charge(1, 1)
    assert refused.value.retry_after == 10
    clock.advance(10)
    client.charge(1, 1)


def test_what_is_refused_costs_nothing() -> None:
    table = clients(client_pushes=1, client_bytes=10)
    clock = table.clock
    assert isinstance(clock, Clock)
    client = table.of("192.0.2.1", None)
    assert client is not None
    client.charge(BURST + 2, 1)
    for _ in range(100):
        with pytest.raises(TooManyRequests) as refused:
            client.charge(1, 1)
    assert refused.value.retry_after == 2


# -- the table


def test_clients_that_hold_nothing_are_forgotten_when_they_become_many() -> None:
    table = clients(client_parked=1)
    held = table.of("192.0.2.1", None)
    assert held is not None
    ended: Deferred[None] = Deferred()
    held.parked.hold_until(ended)
    for number in range(CLIENTS_KNOWN + 10):
        table.of(None, f"subject {number}")
    assert len(table) == CLIENTS_KNOWN + 1
    assert table.of("192.0.2.1", None) is held
    ended.callback(None)
    assert len(table) == CLIENTS_KNOWN + 1
    table.of(None, "one more")
    assert len(table) <= CLIENTS_KNOWN + 1


def test_the_reader_that_was_here_last_is_remembered_longest() -> None:
    table = clients(client_pushes=1)
    debtor = table.of("192.0.2.1", None)
    for number in range(CLIENTS_KNOWN - 1):
        table.of(None, f"subject {number}")
    assert table.of("192.0.2.1", None) is debtor
    for number in range(CLIENTS_KNOWN - 1):
        table.of(None, f"other {number}")
    assert table.of("192.0.2.1", None) is debtor


def test_there_is_more_to_count_than_connections_only_where_a_bound_was_given() -> None:
    assert not clients(client_connections=5).counts_requests
    for name in ("client_parked", "client_pushes", "client_bytes", "client_registrations"):
        assert clients(**{name: 1}).counts_requests
