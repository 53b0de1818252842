"""Tokens: a JSON Web Token (RFC 7519) becomes what it grants, where a key of this server has signed it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK

from ..errors import TokenExpired, Unauthorized
from ..limits import NOT_BEFORE_LEEWAY_SECONDS, TOKEN_BYTES, TOKENS_KNOWN
from .grants import NO_TEXT, Grant
from .keys import read_keys

_LATEST = 1e11
"""Seconds since 1970, in the year 5138; a time in milliseconds lies beyond it, and is a mistake."""


class Tokens:
    """Checks JSON Web Tokens (RFC 7519) against keys read from files; each key fixes its own algorithm.

    A file holds a secret of 32 bytes or more (HS256), a PEM public key (RS256, ES256 or EdDSA, by its
    kind), or a JWKS, whose RSA keys may also be for PS256. Where an ``audience`` is given, tokens must be
    meant for it (RFC 8725 §3.9).
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
        self._materials: frozenset[bytes] = frozenset()
        self.on_removed: list[Callable[[frozenset[bytes]], object]] = []
        """Called with the keys, as ``Grant.key`` names them, that a ``reload`` has removed."""
        self.reload()

    def reload(self) -> None:
        """Read the key files again; where one is wrong, raise ``ValueError`` and keep the keys there were.

        Keys are compared by their material: one that has another ``kid`` or stands in another file is kept.
        """
        self._keys = [key for file in self._files for key in read_keys(file)]
        self._known.clear()
        before, self._materials = self._materials, frozenset(map(_material, self._keys))
        removed = before - self._materials
        if removed:
            for call in self.on_removed:
                call(removed)

    def check_key(self, grant: Grant) -> None:
        """Raise ``Unauthorized`` where the key by which a grant was verified was removed since."""
        if grant.key is not None and grant.key not in self._materials:
            raise Unauthorized("The token is not signed by a key of this server.")

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
                        options={
                            "verify_exp": False,  # the times are checked by ``_granted``
                            "verify_nbf": False,
                            "verify_iat": False,
                            "verify_sub": False,  # they may be of any JSON type
                            "verify_jti": False,
                        },
                    )
                except jwt.InvalidSignatureError:
                    continue
                except jwt.PyJWTError as error:
                    raise Unauthorized(f"The token is not valid: {error}.") from None
                return self._granted(claims, _material(key))
        raise Unauthorized("The token is not signed by a key of this server.")

    def _granted(self, claims: dict[str, Any], key: bytes) -> Grant:
        expires_at, not_before = claims.get("exp"), claims.get("nbf")
        for moment in (expires_at, not_before):
            if moment is not None and not _is_moment(moment):
                raise Unauthorized("The token's exp and nbf are numbers of seconds.")
        if not_before is not None and not_before > self._wall() + NOT_BEFORE_LEEWAY_SECONDS:
            raise Unauthorized("The token is not valid yet.")
        covered: dict[str, Any] = {}
        for action in ("push", "poll", "manage"):
            names = claims.get(action, [])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise Unauthorized(f"The token's {action} is a list of recipients and patterns.")
            covered[action] = tuple(names)
        names = claims.get("as") is True
        subject = _subject(claims.get("sub"))
        return Grant(**covered, expires_at=expires_at, subject=subject, names=names, key=key)


def _subject(claim: Any) -> str | None:
    """Return a token's subject as a text, which no other subject has."""
    if claim is None or (isinstance(claim, str) and not claim.startswith(NO_TEXT)):
        return claim
    try:
        return f"{NO_TEXT}{claim!r}"
    except RecursionError:
        raise Unauthorized("The token's sub is nested too deeply.") from None


def _material(key: PyJWK) -> bytes:
    """Return what is the same for the same key, however it is written, and reveals nothing of a secret."""
    material: Any = key.key
    if not isinstance(material, bytes):
        material = material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(material).digest()


def _is_moment(value: Any) -> bool:
    """Whether a claim is a time to reckon with; Python's JSON knows NaN, and numbers without end."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LATEST
