"""The client behind trusted proxies, by ``Forwarded`` (RFC 7239) or ``X-Forwarded-For``.

Any client can send these fields, so only those of a trusted proxy count. Each proxy appends the address of
its own peer. The list is therefore read from the right, as long as it names trusted proxies. The first other
address is the client's, and the client may have invented what is to the left of it. Where an address is
hidden, unknown or malformed, the last one that could be read stands for the client.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address

UNIX: Final = "unix"
"""The name of a proxy that connects over a UNIX socket, and so has no address."""

# Matching takes linear time: no two repetitions can take the same character. Groups are not repeated
# possessively, because CPython before 3.11.5 matches such groups wrongly (gh-106052).
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*"'
_PAIR: Final = rf"{_WORD}=(?:{_WORD}|{_QUOTED})"
_ELEMENT: Final = re.compile(rf"[ \t]*+((?:{_PAIR})?(?:[ \t]*+;[ \t]*+(?:{_PAIR})?)*)[ \t]*+(?:,|\Z)")
_VALUE: Final = re.compile(rf"({_WORD})=({_WORD}|{_QUOTED})")
_NODE: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[0-9A-Za-z._-]+))?")


class Origin(NamedTuple):
    """Where a request comes from: the client's address, None over a UNIX socket, and whether it used TLS.

    ``secure`` is None where no trusted proxy says.
    """

    address: str | None
    secure: bool | None


class _Hop(NamedTuple):
    """What one proxy says of its peer: the address, and whether it used TLS; None for what is not said."""

    address: str | None
    secure: bool | None


class Proxies:
    """The proxies that are trusted: addresses, networks (``10.0.0.0/8``), or ``unix``.

    Raises ``ValueError`` for what is none of these.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        named = set(trusted)
        self._local = UNIX in named
        self._networks = [ip_network(name) for name in named - {UNIX}]
        self.trusts: Callable[[str | None], bool] = lru_cache(maxsize=1_024)(self._trusts)
        """Return whether this is the address of a trusted proxy; None stands for a UNIX socket."""
        self._found = lru_cache(maxsize=256)(self._find)

    def __bool__(self) -> bool:
        return self._local or bool(self._networks)

    def origin(self, peer: str | None, field: Callable[[bytes], bytes | None]) -> Origin:
        """Return where a request comes from, by the address of its peer and its fields.

        ``field`` returns the value of a field, several lines joined by commas. Where ``Forwarded`` and
        ``X-Forwarded-For`` contradict each other, the proxy has passed on one that it does not know, and
        neither counts.
        """
        if not self.trusts(peer):
            return Origin(peer, None)
        said = field(b"forwarded"), field(b"x-forwarded-for"), field(b"x-forwarded-proto")
        return self._found(peer, *said)

    def _trusts(self, address: str | None) -> bool:
        if address is None:
            return self._local
        try:
            found = ip_address(address)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._networks)

    def _find(
        self, peer: str | None, forwarded: bytes | None, addresses: bytes | None, schemes: bytes | None
    ) -> Origin:
        one = None if forwarded is None else self._walk(peer, _forwarded(forwarded))
        if addresses is None and schemes is None:
            return one or Origin(peer, None)
        other = self._walk(peer, _x_forwarded(addresses, schemes))
        if one is None:
            return other
        if addresses is not None and one.address != other.address:
            return Origin(peer, None)
        return Origin(one.address, other.secure if one.secure is None else one.secure)

    def _walk(self, peer: str | None, hops: list[_Hop]) -> Origin:
        address, secure = peer, None
        for hop in reversed(hops):
            secure = secure if hop.secure is None else hop.secure
            if hop.address is None:
                break
            address = hop.address
            if not self.trusts(address):
                break
        return Origin(address, secure)


def ip_endpoint(address: str) -> IPv4Address | IPv6Address:
    """Return an IP address as Twisted's, with port 0."""
    return (IPv6Address if ":" in address else IPv4Address)("TCP", address, 0)


def _forwarded(value: bytes) -> list[_Hop]:
    """Return what ``Forwarded`` says (RFC 7239 §4); one hop without anything where it is malformed."""
    text = value.decode("latin-1")
    hops = []
    at = 0
    while at < len(text):
        element = _ELEMENT.match(text, at)
        if element is None:
            return [_Hop(None, None)]
        at = element.end()
        said = {name.lower(): _unquoted(value) for name, value in _VALUE.findall(element[1])}
        if said:
            hops.append(_Hop(_address(said.get("for", "")), _is_secure(said.get("proto"))))
    return hops


def _x_forwarded(addresses: bytes | None, schemes: bytes | None) -> list[_Hop]:
    """Return what ``X-Forwarded-For`` and ``X-Forwarded-Proto`` say.

    Some proxies append a scheme with each address, others set one scheme for all.
    """
    secures = [_is_secure(scheme) for scheme in _listed(schemes)]
    found = [_address(address) for address in _listed(addresses)]
    if not found:
        return [_Hop(None, secures[-1])] if secures else []
    if not secures:
        return [_Hop(address, None) for address in found]
    spread = [secures[0]] * (len(found) - len(secures)) + secures
    return [_Hop(*hop) for hop in zip(found, spread[-len(found) :], strict=True)]


def _listed(value: bytes | None) -> list[str]:
    return [] if value is None else [one.strip(" \t") for one in value.decode("latin-1").split(",")]


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _is_secure(scheme: str | None) -> bool | None:
    known = {"https": True, "wss": True, "http": False, "ws": False}
    return None if scheme is None else known.get(scheme.lower())


def _address(node: str) -> str | None:
    """Return the address of a node (RFC 7239 §6), with or without its port; None where it has none."""
    match = _NODE.fullmatch(node)
    if "%" in node:  # a zone, which RFC 7239 has not, and which is any text for Python
        return None
    try:
        found = ip_address(node if match is None else match[1] or match[2])
    except ValueError:
        return None
    return str(getattr(found, "ipv4_mapped", None) or found)
