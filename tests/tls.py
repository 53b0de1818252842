"""TLS in memory: a client of Python's ssl at one end, the server behind Twisted's TLS at the other."""

from __future__ import annotations

import datetime
import ssl
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.interfaces import IProtocol
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure


@lru_cache
def certificate() -> bytes:
    """Make a key and a certificate of its own for localhost, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + made.public_bytes(serialization.Encoding.PEM)


@lru_cache
def client_context() -> ssl.SSLContext:
    """Return what a client knows that trusts this certificate, and no other."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "certificate.pem"
        path.write_bytes(certificate())
        return ssl.create_default_context(cafile=str(path))


@lru_cache
def _server_options() -> Any:
    options = PrivateCertificate.loadPEM(certificate()).options()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Twisted's way to speak with pyOpenSSL
        options.getContext()
    return options


class Tunnel:
    """A client's end of one connection: plain bytes go in by ``dataReceived``, and come out as ``value``.

    It stands for both the protocol that tests write to and the transport that they read.
    """

    def __init__(self, factory: Any, client: Any, server: Any) -> None:
        self.clock = Clock()
        wrapped = TLSMemoryBIOFactory(_server_options(), False, factory, clock=self.clock)
        protocol = wrapped.buildProtocol(client)
        assert IProtocol.providedBy(protocol)
        self.protocol: Any = protocol
        self.transport = StringTransport(server, client)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client_context().wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.plain = b""
        self.protocol.makeConnection(self.transport)
        for _ in range(4):
            with suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            self.move()
        assert self.tls.version() == "TLSv1.3"

    def move(self) -> None:
        """Carry records both ways."""
        sent = self.outgoing.read()
        if sent:
            self.protocol.dataReceived(sent)
        self.clock.advance(0)
        self.incoming.write(self.transport.value())
        self.transport.clear()

    def dataReceived(self, data: bytes) -> None:
        self.tls.write(data)
        self.move()

    def connectionLost(self, reason: Failure) -> None:
        self.protocol.connectionLost(reason)

    def value(self) -> bytes:
        """Return what came and was not cleared."""
        self.move()
        with suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while data := self.tls.read(65_536):
                self.plain += data
        return self.plain

    def clear(self) -> None:
        self.plain = b""

    def write(self, data: bytes) -> None:
        """Put back what was read too early."""
        self.plain += data
