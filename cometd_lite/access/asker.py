"""What access looks at of a request: an ``Exchange`` is an ``Asker``, and a forwarded request is one."""

from __future__ import annotations

from typing import Any, Protocol


class FieldValues(Protocol):
    """The header fields of a request."""

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field, None where it is missing; ``name`` is in lower case."""


class Asker(Protocol):
    """What the policy looks at of an ``Exchange``."""

    @property
    def path(self) -> bytes:
        """The path as it came, percent-encoded."""

    @property
    def query(self) -> bytes:
        """The query, percent-encoded."""

    @property
    def head(self) -> FieldValues:
        """The header fields."""

    @property
    def client(self) -> str | None:
        """The address of the client."""

    @property
    def is_secure(self) -> bool:
        """Whether the client uses TLS."""

    @property
    def request(self) -> Any:
        """The request, as an embedding program sees it."""
