"""Who may do what: the Host, Origin and token of a request arrive; a refusal is raised.

Browsers are the reason for the first two. Any web page can make its reader's browser send requests to a
server on the reader's own machine, and by rebinding its name in DNS even read the answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode

from ..errors import Forbidden, TokenExpired, Unauthorized
from ..jsontext import parse
from ..limits import SECRET_BYTES, TOKEN_BYTES, TOKENS_KNOWN
from .quotas import Client

_JWK_ALGORITHMS: dict[tuple[str, str | None], str] = {
    ("oct", None): "HS256",
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
"""The algorithm that each kind of key fixes, whatever its ``alg`` or the token says (RFC 8725 §3.1)."""

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "key_ops"})
"""What makes a JSON Web Key a private one (RFC 7518 §6.2.2, §6.3.2), and what only such a key may do."""

_LATEST = 1e11
"""Seconds since 1970, in the year 5138; a time in milliseconds lies beyond it, and is a mistake."""


Action = Literal["push", "poll", "manage"]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a good token allows: for each action the recipients and patterns that it covers.

    ``expires_at`` is in seconds since 1970, None where the token does not expire. ``subject`` is whom the
    token was made for, None where it does not say. ``client`` is what a request with it counts against, None
    where nobody counts.
    """

    push: tuple[str, ...] = ()
    poll: tuple[str, ...] = ()
    manage: tuple[str, ...] = ()
    expires_at: float | None = None
    subject: str | None = None
    client: Client | None = None

    def covers(self, action: Action, name: str) -> bool:
        """Whether the token allows the action on a recipient, or on everything that a pattern stands for."""
        return any(covers(claim, name) for claim in getattr(self, action))

    def check(self, action: Action, names: Iterable[str]) -> None:
        """Raise ``Forbidden`` where the action on one of the names is not covered."""
        for name in names:
            if not self.covers(action, name):
                raise Forbidden(f"The token's claim {action!r} does not cover {name!r}.")


def covers(claim: str, name: str) -> bool:
    """Whether a token's claim, a recipient or pattern, covers a name or pattern that a request asks for.

    ``chat/*`` covers ``chat/a`` and ``chat/*``, but not ``chat/a/b``; ``chat/**`` covers all of them. Names
    are compared as they are: neither case nor Unicode forms are folded. No pattern covers the names that
    begin with ``$``, which are the server's.
    """
    if claim == name:
        return True
    if name.startswith("$"):
        return False
    if claim == "**":
        return True
    prefix, _, last = claim.rpartition("/")
    if last == "**":
        return name.startswith(prefix + "/")
    if last == "*":
        parent, _, segment = name.rpartition("/")
        return parent == prefix and segment != "**"
    return False


class Tokens:
    """Checks JSON Web Tokens (RFC 7519) against keys read from files; each key fixes its own algorithm.

    A file holds a secret of 32 bytes or more (HS256), a PEM public key (RS256, ES256 or EdDSA, by its
    kind), or a JWKS. Where an ``audience`` is given, tokens must be meant for it (RFC 8725 §3.9).
    Raises ``ValueError`` with a sentence for a file that is none of these.
    """

    def __init__(
        self, files: Iterable[Path], *, audience: str | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self._files = tuple(files)
        self._audience = audience
        self._wall = wall
        self._keys: list[PyJWK] = []
        self._known: dict[str, Grant] = {}
        self.reload()

    def reload(self) -> None:
        """Read the key files again; where one is wrong, raise ``ValueError`` and keep the keys there were."""
        self._keys = [key for file in self._files for key in _read_keys(file)]
        self._known.clear()

    def grant(self, token: str) -> Grant:
        """Return what a token allows. Raises ``Unauthorized`` where it is not a good one now."""
        grant = self._known.get(token)
        if grant is None:
            grant = self._verified(token)
            if len(self._known) >= TOKENS_KNOWN:
                self._known.clear()
            self._known[token] = grant
        if grant.expires_at is not None and grant.expires_at <= self._wall():
            raise TokenExpired("The token has expired; get a new one.")
        return grant

    def _verified(self, token: str) -> Grant:
        if len(token) > TOKEN_BYTES:
            raise Unauthorized(f"A token has at most {TOKEN_BYTES} bytes.")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise Unauthorized("The token is not a JSON Web Token.") from None
        kid = header.get("kid")
        for key in self._keys:
            if (kid is None or key.key_id in {None, kid}) and header.get("alg") == key.algorithm_name:
                try:
                    claims = jwt.decode(
                        token,
                        key,
                        algorithms=[key.algorithm_name],
                        audience=self._audience,
                        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
                    )
                except jwt.InvalidSignatureError:
                    continue
                except jwt.PyJWTError as error:
                    raise Unauthorized(f"The token does not hold: {error}.") from None
                return self._granted(claims)
        raise Unauthorized("The token is not signed by a key of this server.")

    def _granted(self, claims: dict[str, Any]) -> Grant:
        expires_at, not_before = claims.get("exp"), claims.get("nbf")
        for moment in (expires_at, not_before):
            if moment is not None and not _is_moment(moment):
                raise Unauthorized("The token's exp and nbf are numbers of seconds.")
        if not_before is not None and not_before > self._wall():
            raise Unauthorized("The token is not valid yet.")
        covered: dict[str, Any] = {}
        for action in ("push", "poll", "manage"):
            names = claims.get(action, [])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise Unauthorized(f"The token's {action} is a list of recipients and patterns.")
            covered[action] = tuple(names)
        subject = claims.get("sub")
        return Grant(**covered, expires_at=expires_at, subject=subject if isinstance(subject, str) else None)


def _is_moment(value: Any) -> bool:
    """Whether a claim is a time to reckon with; Python's JSON knows NaN, and numbers without end."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LATEST


def _read_keys(file: Path) -> list[PyJWK]:
    """Return the keys that a file holds."""
    try:
        content = file.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"the key file {file} cannot be read: {error.strerror}") from None
    try:
        if content.startswith(b"-----BEGIN"):
            return [_pem_key(content)]
        if content.startswith(b"{"):
            keys = [PyJWK(public(key), algorithm_of(key)) for key in read_jwks(content)]
        else:
            keys = [PyJWK({"kty": "oct", "k": base64url_encode(content).decode()}, "HS256")]
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the key file {file} holds no key that can be used: {error}") from None
    if any(key.algorithm_name == "HS256" and len(key.key) < SECRET_BYTES for key in keys):
        raise ValueError(f"a secret in {file} has less than {SECRET_BYTES} bytes (RFC 7518 §3.2)")
    return keys


def public(key: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON Web Key without its private part, with which nothing here is to be done."""
    if key.get("kty") == "oct":
        return key
    return {name: value for name, value in key.items() if name not in _PRIVATE}


def algorithm_of(key: dict[str, Any]) -> str:
    """Return the algorithm that a JSON Web Key fixes. Raises ``ValueError`` for a key of no known kind."""
    kind = (str(key.get("kty")), key.get("crv"))
    if kind not in _JWK_ALGORITHMS:
        raise ValueError("a key is oct, RSA, EC on P-256, or OKP on Ed25519")
    return _JWK_ALGORITHMS[kind]


def _pem_key(content: bytes) -> PyJWK:
    if b"PRIVATE KEY" in content.partition(b"\n")[0]:
        raise ValueError("it is a private key, and a server needs the public one (openssl pkey -pubout)")
    key = load_pem_public_key(content)
    if isinstance(key, RSAPublicKey):
        return PyJWK(RSAAlgorithm.to_jwk(key, as_dict=True), "RS256")
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return PyJWK(ECAlgorithm.to_jwk(key, as_dict=True), "ES256")
    if isinstance(key, Ed25519PublicKey):
        return PyJWK(OKPAlgorithm.to_jwk(key, as_dict=True), "EdDSA")
    raise ValueError("a public key is RSA, on the curve P-256, or Ed25519")


def read_jwks(content: bytes) -> list[dict[str, Any]]:
    """Return the keys of a JWKS (RFC 7517 §5), or a single key as one. Raises ``ValueError``."""
    document = parse(content)
    keys = document.get("keys", [document])
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise ValueError("a JWKS has a list of keys")
    return keys
