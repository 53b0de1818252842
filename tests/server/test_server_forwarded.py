"""Who sent a request that proxies passed on, and what a client cannot make of that."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as some
from served import Served, head

from cometd_lite.server import Proxies

PROXIES = Proxies(["127.0.0.1", "10.0.0.0/8", "2001:db8:ffff::/48", "unix"])
PROXY = "127.0.0.1"


def origin(peer: str | None = PROXY, **fields: str) -> tuple[str | None, bool | None]:
    given = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in fields.items()}
    return PROXIES.origin(peer, given.get)


def test_what_no_trusted_proxy_says_is_not_believed():
    said = {"forwarded": "for=192.0.2.1;proto=https", "x_forwarded_for": "192.0.2.1"}
    assert origin("203.0.113.5", **said, x_forwarded_proto="https") == ("203.0.113.5", None)
    assert Proxies([]).origin(PROXY, {b"x-forwarded-for": b"192.0.2.1"}.get) == (PROXY, None)


def test_without_a_word_from_the_proxy_it_is_its_own_request():
    assert origin() == (PROXY, None)


@pytest.mark.parametrize(
    ("value", "address", "secure"),
    [
        ("for=192.0.2.1", "192.0.2.1", None),
        ("for=192.0.2.1;proto=https;by=203.0.113.43", "192.0.2.1", True),
        ("For=192.0.2.1 ; Proto=HTTPS", "192.0.2.1", True),
        ('for="192.0.2.1:4711";proto=http', "192.0.2.1", False),
        ('for="[2001:db8:cafe::17]"', "2001:db8:cafe::17", None),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17", None),
        ('for="[2001:db8:cafe::17]:_port"', "2001:db8:cafe::17", None),
        (r'for="192.0\.2.1"', "192.0.2.1", None),
        ('for="[::ffff:192.0.2.1]"', "192.0.2.1", None),
        ('ext="a,b;c=d", for=192.0.2.1', "192.0.2.1", None),
        ("for=192.0.2.1,,", "192.0.2.1", None),
        ("proto=wss;for=192.0.2.1", "192.0.2.1", True),
        ("proto=gopher;for=192.0.2.1", "192.0.2.1", None),
        # The rightmost address that is no trusted proxy's; what is left of it is invented.
        ("for=6.6.6.6;proto=https, for=192.0.2.1;proto=http", "192.0.2.1", False),
        ("for=6.6.6.6, for=192.0.2.1;proto=https, for=10.1.1.1;proto=http", "192.0.2.1", True),
        ('for=192.0.2.1, for="[2001:db8:ffff::1]"', "192.0.2.1", None),
        ("for=10.1.1.2, for=10.1.1.1", "10.1.1.2", None),
        # Hidden, unknown and malformed: no nearer than to whoever says so.
        ("for=_hidden;proto=https", PROXY, True),
        ('for="_hidden:_port"', PROXY, None),
        ("for=unknown", PROXY, None),
        ("for=6.6.6.6, for=_hidden", PROXY, None),
        ("for=_hidden, for=10.1.1.1", "10.1.1.1", None),
        ("proto=https", PROXY, True),
        ('for="6.6.6.6, for=192.0.2.1', PROXY, None),
        ("for=6.6.6.6 for=192.0.2.1", PROXY, None),
        ("for=[2001:db8::1]", PROXY, None),
        ("for=192.0.2.999", PROXY, None),
        ('for="[fe80::1%eth0]"', PROXY, None),
        ('for="fe80::1%eth0"', PROXY, None),
        ("for=192.0.2.1:port", PROXY, None),
        ("", PROXY, None),
        ("\xff\xfe", PROXY, None),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it(value, address, secure):
    assert origin(forwarded=value) == (address, secure)


@pytest.mark.parametrize(
    ("addresses", "schemes", "address", "secure"),
    [
        ("192.0.2.1", None, "192.0.2.1", None),
        ("192.0.2.1", "https", "192.0.2.1", True),
        ("192.0.2.1:5555", "http", "192.0.2.1", False),
        ("2001:db8::1", None, "2001:db8::1", None),
        ("[2001:db8::1]:5555", None, "2001:db8::1", None),
        ("6.6.6.6, 192.0.2.1", "https", "192.0.2.1", True),
        ("6.6.6.6,192.0.2.1, 10.1.1.1", "http, https, http", "192.0.2.1", True),
        ("192.0.2.1, 10.1.1.1", "https", "192.0.2.1", True),
        ("192.0.2.1", "https, http", "192.0.2.1", False),
        ("fe80::1%eth0", None, PROXY, None),
        ("192.0.2.1, fe80::1%\x1b[31m", "https", PROXY, True),
        ("192.0.2.1\x1b", None, PROXY, None),
        ("unknown", "https", PROXY, True),
        ("6.6.6.6, ", None, PROXY, None),
        ("6.6.6.6, nonsense", None, PROXY, None),
        (None, "https", PROXY, True),
        (None, "HTTPS", PROXY, True),
        (None, "nonsense", PROXY, None),
    ],
)
def test_x_forwarded_is_read_in_the_same_way(addresses, schemes, address, secure):
    said = {"x_forwarded_for": addresses, "x_forwarded_proto": schemes}
    assert origin(**{name: value for name, value in said.items() if value is not None}) == (address, secure)


def test_of_two_that_contradict_each_other_neither_is_believed():
    # A proxy that sets one of them passes on the other as its client has sent it.
    assert origin(forwarded="for=6.6.6.6;proto=https", x_forwarded_for="192.0.2.1") == (PROXY, None)
    assert origin(forwarded="for=192.0.2.1", x_forwarded_for="192.0.2.1", x_forwarded_proto="https") == (
        "192.0.2.1",
        True,
    )


@pytest.mark.parametrize("address", ["fe80::1%eth0", "fe80::1%\x1b[31m", "[fe80::1%eth0]:80", "fe80::1%"])
def test_an_address_with_a_scope_is_none(address):
    assert origin(x_forwarded_for=address) == (PROXY, None)
    assert origin(forwarded=f'for="{address}"') == (PROXY, None)


def test_a_proxy_at_a_unix_socket_has_a_name_in_the_place_of_an_address():
    assert origin(None, x_forwarded_for="192.0.2.1") == ("192.0.2.1", None)
    assert Proxies([PROXY]).origin(None, {b"x-forwarded-for": b"192.0.2.1"}.get) == (None, None)


def test_a_proxy_is_trusted_however_its_address_is_written():
    assert PROXIES.trusts("::ffff:127.0.0.1")
    assert not PROXIES.trusts("127.0.0.2")
    assert not PROXIES.trusts("nonsense")


@pytest.mark.parametrize("wrong", ["nonsense", "10.0.0.1/8", "300.0.0.1", "", "localhost"])
def test_what_is_neither_an_address_nor_a_network_is_refused(wrong):
    with pytest.raises(ValueError, match=r"."):
        Proxies([wrong])


@given(some.text(some.sampled_from('for=";,\\ []:_.1a'), max_size=40))
def test_whatever_comes_there_is_an_answer(value):
    address, _ = origin(forwarded=value, x_forwarded_for=value)
    assert address is not None


@pytest.mark.parametrize(
    "value", ["a=b;" * 4_000 + '"', ";" * 16_000 + '"', "; " * 8_000 + '"', 'a="' + r"\a" * 8_000]
)
def test_no_value_takes_long_to_read(value):
    began = time.process_time()
    assert origin(forwarded=value) == (PROXY, None)
    assert time.process_time() - began < 0.2


# -- on a request


def test_a_request_has_the_address_and_scheme_of_its_client():
    served = Served(proxies=Proxies(["192.168.1.1"]))
    served.send(head("GET", "/request", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.1"))
    request = served.routes.requests[-1]
    assert (request.client, request.is_secure) == ("192.0.2.1", False)
    assert request.request.getClientAddress().host == "192.0.2.1"
    served.connect().send(head("GET", "/request", 'Forwarded: for="[2001:db8::1]";proto=https'))
    request = served.routes.requests[-1]
    assert (request.client, request.is_secure, request.request.isSecure()) == ("2001:db8::1", True, True)
    served.connect().send(head("GET", "/request"))
    request = served.routes.requests[-1]
    assert request.request.getClientAddress() == served.transport.getPeer()
