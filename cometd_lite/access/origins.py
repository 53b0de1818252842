"""Where requests may come from: a Host and an Origin arrive, and a refusal is raised or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from ..errors import ForbiddenOrigin, Misdirected
from ..memos import memo


@dataclass(frozen=True)
class Hosts:
    """The names that a server answers to: those that mean its own machine, and those in ``named``.

    A server that is not ``loopback_only`` and has no names answers to every name.
    """

    named: frozenset[str] = frozenset()
    loopback_only: bool = False

    def check(self, host: bytes | None, *, probed: bool = False) -> None:
        """Raise ``Misdirected`` where ``host``, the value of the Host header, is not a name of this server.

        What is ``probed`` is asked for by address: so only a server on loopback is strict there.
        """
        enforced = self.loopback_only or (bool(self.named) and not probed)
        if not enforced or host is None or (name := host_name(host)) in self.named or is_loopback(name):
            return
        if self.loopback_only:
            raise Misdirected(
                "This server listens on this machine only and does not answer to that Host; "
                "use localhost, or start it with --host."
            )
        raise Misdirected("This server does not answer to that Host, but to those given by --host.")


@dataclass(frozen=True)
class Origins:
    """The web pages that may read answers and change things: the server's own, and those in ``allowed``.

    ``*`` among them allows every page.
    """

    allowed: frozenset[bytes] = frozenset()

    def allow(self, origin: bytes, host: bytes | None, *, secure: bool) -> bool:
        """Whether pages of ``origin`` may do what the server's own pages may."""
        if origin in self.allowed or b"*" in self.allowed:
            return True
        # A proxy may have taken the TLS away, so https is one's own over http, but not the reverse.
        return host is not None and (
            origin == b"https://" + host.lower() or (not secure and origin == b"http://" + host.lower())
        )

    def check(self, origin: bytes, host: bytes | None, *, secure: bool) -> None:
        """Raise ``ForbiddenOrigin`` where a page of ``origin`` may not change anything here."""
        if not self.allow(origin, host, secure=secure):
            raise ForbiddenOrigin(
                f"Pages of {origin.decode('latin-1')} may not change anything here, "
                "unless the server is started with --allow-origin."
            )


@memo(256)
def host_name(host: bytes) -> str:
    """Return the name in a Host header, lower case, without port, brackets and final dot."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")


@memo(256)
def is_loopback(name: str) -> bool:
    """Whether a host name or address always means this machine (RFC 6761 §6.3)."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        found = ip_address(name)
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
