"""The hosts that a server answers to, and the origins whose pages may change things."""

from __future__ import annotations

import pytest

from cometd_lite.access.origins import Hosts, Origins, host_name, is_loopback
from cometd_lite.errors import ForbiddenOrigin, Misdirected


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9:1",
        "[::1]:8080",
        "localhost.",
        "box",
    ],
)
def test_a_loopback_server_answers_to_this_machine_and_the_names_it_was_given(host: str) -> None:
    Hosts(frozenset({"box"}), loopback_only=True).check(host.encode())


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "notlocalhost", "10.0.0.1", "127.0.0.1.evil", "[::2]", ""],
)
def test_a_loopback_server_answers_to_no_other_name(host: str) -> None:
    with pytest.raises(Misdirected):
        Hosts(loopback_only=True).check(host.encode())
    Hosts().check(host.encode())


def test_a_server_with_names_answers_to_them_on_every_address() -> None:
    hosts = Hosts(frozenset({"box"}))
    for host in (b"box:80", b"localhost", None):
        hosts.check(host)
    with pytest.raises(Misdirected, match="--host"):
        hosts.check(b"192.0.2.1")


def test_what_is_probed_is_answered_under_every_name_unless_the_server_is_on_loopback() -> None:
    Hosts(frozenset({"box"})).check(b"192.0.2.1", probed=True)
    with pytest.raises(Misdirected):
        Hosts(frozenset({"box"}), loopback_only=True).check(b"192.0.2.1", probed=True)


@pytest.mark.parametrize(("host", "name"), [(b"A.B.:80", "a.b"), (b"[::1]:80", "::1"), (b" x ", "x")])
def test_a_hosts_name_is_what_is_left_without_its_port(host: bytes, name: str) -> None:
    assert host_name(host) == name


def test_addresses_that_never_leave_this_machine_are_loopback() -> None:
    assert is_loopback("127.1.2.3")
    assert is_loopback("::1")
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("::ffff:192.0.2.1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.com")


@pytest.mark.parametrize(
    ("origin", "secure", "allowed"),
    [
        (b"http://box:8080", False, True),
        (b"https://box:8080", False, True),
        (b"http://box:8080", True, False),
        (b"http://box", False, False),
        (b"null", False, False),
        (b"https://friend.example", False, True),
        (b"https://friend.example.evil", False, False),
        (b"http://friend.example", False, False),
    ],
)
def test_a_page_of_this_server_or_an_allowed_one_may_change_things(
    origin: bytes, secure: bool, allowed: bool
) -> None:
    origins = Origins(frozenset({b"https://friend.example"}))
    assert origins.allow(origin, b"box:8080", secure=secure) is allowed
    if not allowed:
        with pytest.raises(ForbiddenOrigin):
            origins.check(origin, b"box:8080", secure=secure)
