"""Signatures of webhooks: HMAC-SHA256 over the id, the time and the body.

Source: the Standard Webhooks specification, "Webhook scheme" and "Symmetric signatures".
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256
from hmac import digest
from pathlib import Path

PREFIX = "whsec_"
"""What a key begins with, before its base64."""

KEY_BYTES = (24, 64)
"""The bytes of a key, at the least and at the most (Standard Webhooks, "Secrets")."""

_SHAPE = "a key is whsec_ and the base64 of 24 to 64 random bytes, one on each line"


def keys_of(text: str) -> tuple[bytes, ...]:
    """Return the keys in a text, one on each line. Raises ``ValueError`` with what is right."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"there is no key; {_SHAPE}")
    return tuple(map(_key, lines))


def _key(line: str) -> bytes:
    if not line.startswith(PREFIX):
        raise ValueError(_SHAPE)
    try:
        key = b64decode(line.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise ValueError(_SHAPE) from None
    least, most = KEY_BYTES
    if not least <= len(key) <= most:
        raise ValueError(f"{_SHAPE}; this one has {len(key)}")
    return key


class Signer:
    """Signs with the keys of a file, or of a text: while there are several, with each of them.

    Raises ``ValueError`` with a sentence where there is none.
    """

    def __init__(self, keys: Path | str) -> None:
        self._source = keys
        self._keys: tuple[bytes, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Read the file again; where it is wrong, raise ``ValueError`` and keep the keys there were."""
        source = self._source
        if isinstance(source, str):
            self._keys = keys_of(source)
            return
        try:
            self._keys = keys_of(source.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{source} cannot be read: {error}") from None
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    def headers(self, id: str, seconds: int, body: bytes) -> dict[str, str]:  # noqa: A002
        """Return the header fields of a webhook that is posted at this time, in seconds since 1970."""
        signed = b"%b.%d.%b" % (id.encode(), seconds, body)
        signatures = [f"v1,{b64encode(digest(key, signed, sha256)).decode()}" for key in self._keys]
        return {
            "webhook-id": id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": " ".join(signatures),
        }
