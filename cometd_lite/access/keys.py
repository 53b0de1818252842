"""The key files of ``--key``: the content of a file becomes the keys that check tokens.

A file holds a secret, a PEM public key, or a JWKS. Whatever else looks like a key that others may know is
refused: taken as a secret, it would let everyone who knows it sign tokens.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.utils import base64url_encode
from twisted.logger import Logger

from ..jsontext import parse
from ..limits import RSA_BITS, SECRET_BYTES

_ALGORITHMS: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("oct", None): ("HS256",),
    ("RSA", None): ("RS256", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""The algorithms of each kind of key. A key verifies one: its ``alg``, or the first (RFC 8725 §3.1)."""

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "key_ops"})
"""What makes a JSON Web Key a private one (RFC 7518 §6.2.2, §6.3.2), and what only such a key may do."""

_BEGIN = b"-----BEGIN "
_UNUSABLE = (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError)
"""What the libraries raise for a key that they cannot load."""

_DER_IN_WORDS = re.compile(rb"M[\w+/-]{40,}")
"""The base64 of DER, which begins with M; words may be around it."""

_STANDARD = bytes.maketrans(b"-_", b"+/")
"""From the alphabet of base64url to that of base64."""

_FORMS = "a key file holds a secret, a PEM public key (-----BEGIN PUBLIC KEY-----), or a JWKS"

_NO_SECRETS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (
        re.compile(rb"\A\x30\x82..\x30\x82..\xa0\x03\x02\x01", re.DOTALL),
        "it is a certificate; openssl x509 -pubkey -noout prints its public key",
    ),
    (
        re.compile(rb"ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-|BEGIN SSH2|PuTTY-User-Key|openssh-key-v1"),
        "it is an ssh key; ssh-keygen -e -m PKCS8 -f FILE prints a public key as PEM",
    ),
    (
        # The object identifiers of RSA, elliptic curves, and X25519 to Ed448; PKCS #1 has none.
        re.compile(
            rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01|\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"
            rb"|\x06\x03\x2b\x65[\x6e-\x71]|\A\x30(?:\x81.\x02\x81|\x82..\x02\x82)",
            re.DOTALL,
        ),
        "it is a key without its PEM lines; put the base64 of a public key between the lines "
        "-----BEGIN PUBLIC KEY----- and -----END PUBLIC KEY-----",
    ),
    (
        re.compile(rb"""\bkty["']?\s*[:=]"""),
        'it looks like a JSON Web Key; write {"keys": [...]}, in UTF-8 and with nothing before it',
    ),
    (
        re.compile(rb"\b(?:Modulus|Public-Key)\b"),
        "it is a key as openssl prints it for people; openssl pkey -pubin -in FILE prints it as PEM",
    ),
    (re.compile(rb"-----(?:BEGIN|END) "), "it looks like PEM, and is not written as PEM is, in ASCII"),
    (re.compile(rb"<RSAKeyValue"), "it is an RSA key in XML"),
    (re.compile(rb"\Ahttps?://"), "it is a URL, and keys are read from files only"),
)
"""What is no secret, and the sentence that says so."""

log = Logger()


def read_keys(file: Path) -> list[PyJWK]:
    """Return the keys that a file holds, at least one. Raises ``ValueError`` with a sentence."""
    try:
        content = file.read_bytes().strip()
    except OSError as error:
        raise ValueError(
            f"the key file {file} cannot be read ({error.strerror}); "
            "the server's user must be able to read it at the start and at each SIGHUP"
        ) from None
    try:
        pem = pem_of(content)
        if pem is not None:
            return [_checked(_pem_key(pem))]
        if content.startswith(b"{"):
            return _usable_keys(content, file)
        return [_checked(PyJWK({"kty": "oct", "k": base64url_encode(content).decode()}, "HS256"))]
    except _UNUSABLE as error:
        sentence = str(error).rstrip(".")
        raise ValueError(f"the key file {file} holds no key that can be used: {sentence}") from None


def pem_of(content: bytes) -> bytes | None:
    """Return the PEM in a file, whatever lines of comment precede it; None where there is none.

    Raises ``ValueError`` for several.
    """
    if content.startswith((b"{", b"[")) or _BEGIN not in content:
        return None
    if content.count(_BEGIN) > 1:
        raise ValueError("it holds several PEM blocks; give each key a file of its own")
    return content[content.index(_BEGIN) :]


def check_secret(content: bytes) -> None:
    """Raise ``ValueError`` for what looks like a key that others may know; a secret is no such thing."""
    for reading in _readings(content):
        for pattern, sentence in _NO_SECRETS:
            if pattern.search(reading):
                raise ValueError(f"{sentence} ({_FORMS})")


def _readings(content: bytes) -> Iterator[bytes]:
    """Yield the content of a file as it is, and decoded from what keys are written in."""
    yield content
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        with suppress(UnicodeError):
            content = content.decode("utf-16").encode()
            yield content
    compact = b"".join(content.split()).strip(b"\"'")
    with suppress(ValueError):
        yield base64.b16decode(compact.replace(b":", b""), casefold=True)
    for text in (compact.rstrip(b"="), *_DER_IN_WORDS.findall(content)):
        whole = text[: len(text) // 4 * 4].translate(_STANDARD)  # what shows a key is not at the end
        with suppress(ValueError):
            yield base64.b64decode(whole, validate=True)


def _usable_keys(content: bytes, file: Path) -> list[PyJWK]:
    """Return the keys of a JWKS that can check a token; the others are logged (RFC 7517 §5)."""
    keys, reasons = [], []
    for number, key in enumerate(read_jwks(content), 1):
        try:
            check_use(key, "verify")
            keys.append(_checked(PyJWK(public(key), algorithm_of(key))))
        except _UNUSABLE as error:
            name = f"key {number}" if key.get("kid") is None else f"key {number}, {key['kid']!r}"
            reasons.append(f"{name}: {error}")
    if not keys:
        raise ValueError("; ".join(reasons))
    for reason in reasons:
        log.warn("A key in {file} is not used: {reason}.", file=str(file), reason=reason)
    return keys


def _checked(key: PyJWK) -> PyJWK:
    """Return a key that is long enough, and no public key as a secret. Raises ``ValueError`` for another."""
    if key.algorithm_name == "HS256":
        check_secret(key.key)
        if len(key.key) < SECRET_BYTES:
            raise ValueError(f"a secret has at least {SECRET_BYTES} bytes (RFC 7518 §3.2)")
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < RSA_BITS:
        raise ValueError(f"an RSA key has at least {RSA_BITS:,} bits (RFC 7518 §3.3)")
    return key


def check_use(key: dict[str, Any], operation: Literal["sign", "verify"]) -> None:
    """Raise ``ValueError`` where a JSON Web Key is not for this (RFC 7517 §4.2, §4.3), or its kid is bad.

    Who may sign with a private key may also verify with its public part.
    """
    if not isinstance(key.get("kid"), str | None):
        raise ValueError("its kid is not a string")  # noqa: TRY004  what a file says is a value
    if key.get("use", "sig") != "sig":
        raise ValueError("its use is not sig")
    allowed = key.get("key_ops", [operation])
    wanted = {operation, "sign"} if "d" in key else {operation}
    if not isinstance(allowed, list) or not any(one in allowed for one in wanted):
        raise ValueError(f"its key_ops do not include {operation}")


def public(key: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON Web Key without its private part, with which nothing here is to be done."""
    if key.get("kty") == "oct":
        return key
    return {name: value for name, value in key.items() if name not in _PRIVATE}


def algorithm_of(key: dict[str, Any]) -> str:
    """Return the one algorithm of a JSON Web Key. Raises ``ValueError`` for an unknown kind or ``alg``."""
    kind = (str(key.get("kty")), None if key.get("crv") is None else str(key["crv"]))
    if kind not in _ALGORITHMS:
        raise ValueError("a key is oct, RSA, EC on P-256, or OKP on Ed25519")
    known = _ALGORITHMS[kind]
    algorithm: Any = key.get("alg", known[0])
    if algorithm not in known:
        raise ValueError(f"the alg of such a key is {' or '.join(known)}")
    return str(algorithm)


def _pem_key(content: bytes) -> PyJWK:
    label = content.partition(b"\n")[0]
    if b"PRIVATE KEY" in label:
        raise ValueError("it is a private key, and a server needs the public one (openssl pkey -pubout)")
    if b"CERTIFICATE" in label:
        raise ValueError("it is a certificate; openssl x509 -pubkey -noout prints its public key")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{_FORMS} ({error})") from None
    algorithm = checked_by(key)
    if algorithm is None:
        raise ValueError("a public key is RSA, on the curve P-256, or Ed25519")
    return PyJWK(jwt.get_algorithm_by_name(algorithm).to_jwk(key, as_dict=True), algorithm)


def checked_by(key: object) -> str | None:
    """Return the algorithm of the tokens that a public key in PEM checks; None for other kinds of keys."""
    if isinstance(key, RSAPublicKey):
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return "ES256"
    return "EdDSA" if isinstance(key, Ed25519PublicKey) else None


def read_jwks(content: bytes) -> list[dict[str, Any]]:
    """Return the keys of a JWKS (RFC 7517 §5), or a single key as one. Raises ``ValueError``."""
    document = parse(content)
    keys = document.get("keys", [document])
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise ValueError("a JWKS has a list of keys")
    return keys
