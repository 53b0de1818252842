"""What access looks at of a request: an ``Exchange`` is an ``Asker``, and a forwarded request is one."""

from __future__ import annotations

from typing import Any, Protocol


class FieldValues(Protocol):
    """The header fields of a request."""

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field, None where it is missing; ``name`` is in lower case.

        Several lines of one name are one list, joined by ``", "`` (RFC 9110 §5.3).
        """


class Asker(Protocol):
    """What the policy looks at of an ``Exchange``."""

    @property
    def path(self) -> bytes:
        """The target's path as it came, percent-encoded; it begins with where the interface is mounted."""

    @property
    def query(self) -> bytes:
        """What follows the target's question mark, percent-encoded; empty where there is none."""

    @property
    def head(self) -> FieldValues:
        """The header fields."""

    @property
    def client(self) -> str | None:
        """The address of the client, or of the client that a trusted proxy names; None over a UNIX socket."""

    @property
    def is_secure(self) -> bool:
        """Whether the client uses TLS, to this server or to a trusted proxy."""

    @property
    def request(self) -> Any:
        """The read side of twisted.web's ``IRequest``, for the ``authorize`` of an embedding program."""
