"""``cometd-lite token``: signs a JSON Web Token with the key in a file.

A server accepts it that was started with the same secret, or with the public part of the key.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt import PyJWK

from ..access.keys import algorithm_of, check_secret, check_use, checked_by, pem_of, read_jwks
from ..limits import RSA_BITS, SECRET_BYTES, TOKEN_BYTES
from . import status

ACTIONS = ("push", "poll", "manage")


class SigningKey(NamedTuple):
    """A key that can sign; its algorithm is that of the token. ``id`` is None where it has none."""

    id: str | None
    algorithm: str
    key: Any


def token(arguments: argparse.Namespace) -> int:
    """Print a token with the claims of the arguments, and return the exit status."""
    try:
        signed = sign(claims_of(arguments, time.time()), Path(arguments.key), arguments.kid)
    except ValueError as error:
        sys.stderr.write(f"cometd-lite: {error}\n")
        return status.USAGE
    sys.stdout.write(f"{signed}\n")
    return status.DONE


def claims_of(arguments: argparse.Namespace, now: float) -> dict[str, Any]:
    """Return the claims of a token that is made at ``now``, in seconds since 1970."""
    claims: dict[str, Any] = {action: given for action in ACTIONS if (given := getattr(arguments, action))}
    claims |= {name: given for name in ("aud", "sub") if (given := getattr(arguments, name)) is not None}
    return claims | {"exp": math.ceil(now + arguments.ttl)}


def sign(claims: Mapping[str, Any], file: Path, kid: str | None = None) -> str:
    """Return a JSON Web Token (RFC 7519) with the claims, signed by the key in ``file``.

    Of several keys ``kid`` chooses one; where the key has no id, ``kid`` is written into the token.
    Raises ``ValueError`` with a sentence where no key can sign, or the token would be too long.
    """
    key = _chosen(_read(file), file, kid)
    name = kid or key.id
    signed = jwt.encode(dict(claims), key.key, key.algorithm, headers=None if name is None else {"kid": name})
    if len(signed) > TOKEN_BYTES:
        raise ValueError(
            f"The token would have {len(signed)} bytes, and a server takes {TOKEN_BYTES}: "
            "let patterns stand for many recipients, as in 'chat/**'."
        )
    return signed


def _chosen(keys: list[SigningKey], file: Path, kid: str | None) -> SigningKey:
    if kid is not None and any(key.id is not None for key in keys):
        keys = [key for key in keys if key.id == kid]
        if not keys:
            raise ValueError(f"No key in {file} that can sign has the id {kid!r}.")
    elif len(keys) > 1:
        ids = ", ".join(repr(key.id) for key in keys)
        raise ValueError(f"There are several keys in {file}; choose one by --kid: {ids}.")
    return keys[0]


def _read(file: Path) -> list[SigningKey]:
    """Return the keys of a file that can sign, at least one. Raises ``ValueError`` with a sentence."""
    try:
        content = file.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"The key file {file} cannot be read: {error.strerror}.") from None
    try:
        pem = pem_of(content)
        if pem is None and not content.startswith(b"{"):
            check_secret(content)
    except ValueError as error:
        raise ValueError(f"{file} holds no key that can be used: {error}.") from None
    if pem is not None:
        keys = [_from_pem(pem, file)]
    elif content.startswith(b"{"):
        keys = _from_jwks(content, file)
    else:
        keys = [SigningKey(None, "HS256", content)]
    for key in keys:
        if isinstance(key.key, bytes) and len(key.key) < SECRET_BYTES:
            raise ValueError(f"A secret in {file} has less than {SECRET_BYTES} bytes (RFC 7518 §3.2).")
        if isinstance(key.key, RSAPrivateKey) and key.key.key_size < RSA_BITS:
            raise ValueError(f"The RSA key in {file} has less than {RSA_BITS} bits (RFC 7518 §3.3).")
    return keys


def _from_pem(content: bytes, file: Path) -> SigningKey:
    kind = content.partition(b"\n")[0]
    if b"PUBLIC KEY" in kind or b"CERTIFICATE" in kind:
        raise ValueError(f"{file} holds a public key, which checks tokens; it takes the private one to sign.")
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise ValueError(
            f"The private key in {file} is encrypted; openssl pkey -in {file} decrypts it."
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{file} holds no private key that can be used: {error}") from None
    algorithm = checked_by(key.public_key())
    if algorithm is None:
        raise ValueError(f"The private key in {file} is none of RSA, on the curve P-256, or Ed25519.")
    return SigningKey(None, algorithm, key)


def _from_jwks(content: bytes, file: Path) -> list[SigningKey]:
    """Return the keys of a JWKS that can sign; the others are passed over (RFC 7517 §5)."""
    keys: list[SigningKey] = []
    reason: Exception | None = None
    try:
        listed = read_jwks(content)
    except ValueError as error:
        raise ValueError(f"The key file {file} holds no key that can be used: {error}.") from None
    private = [key for key in listed if key.get("kty") == "oct" or "d" in key]
    for key in private:
        try:
            check_use(key, "sign")
            loaded = PyJWK(key, algorithm_of(key))
        except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError) as error:
            reason = error
        else:
            keys.append(SigningKey(key.get("kid"), loaded.algorithm_name, loaded.key))
    if keys:
        return keys
    if reason is not None:
        raise ValueError(f"The key file {file} holds no key that can be used: {reason}.")
    raise ValueError(f"{file} holds public keys only, which check tokens; it takes a private one to sign.")
