"""What access looks at of a request, and what the application is asked of it as JSON.

An ``Exchange`` is an ``Asker``, and so is a request that was forwarded.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from ..jsontext import dumps
from .quotas import address_key

_NOT_OF_A_CLIENT = frozenset(
    {
        *("ack", "after", "event", "extend", "format", "lastEventId", "Last-Event-ID", "lease", "limit"),
        *("listener", "overflow", "queue", "rcpt", "release", "to", "ttl", "wait"),
        *("jsonp", "message"),
    }
)
"""Query parameters that say what is asked for, and nothing of who asks. An answer holds whatever they are."""


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


class Question(NamedTuple):
    """What the application is asked. Questions with the same ``key`` have the same answer.

    ``source`` is what the client's address counts as; None where it has none.
    """

    key: bytes
    body: bytes
    source: str | None


def question_of(asker: Asker, action: str, names: tuple[str, ...]) -> Question:
    """Return the question whether a client may do something with names; with none, whether it may be here.

    The key is made of the action, the names, the client's address, its ``Cookie``, ``Authorization`` and
    ``Origin``, and those parameters of the query that may say who asks. A token in the query is left out.
    """
    head = asker.head
    who = {
        "action": action,
        "recipients": names,
        "address": asker.client,
        "cookie": _text(head.get(b"cookie")),
        "authorization": _text(head.get(b"authorization")),
        "origin": _text(head.get(b"origin")),
    }
    pairs = [(_name_of(pair), pair.decode("latin-1")) for pair in asker.query.split(b"&") if pair]
    shown = [(name, pair) for name, pair in pairs if name != "token"]
    identifying = sorted([pair for name, pair in shown if name not in _NOT_OF_A_CLIENT])
    body = {
        **who,
        "user_agent": _text(head.get(b"user-agent")),
        "path": _text(asker.path),
        "query": "&".join([pair for _, pair in shown]),
    }
    key = sha256(dumps([*who.values(), identifying])).digest()
    return Question(key, dumps(body), None if asker.client is None else address_key(asker.client))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _name_of(pair: bytes) -> str:
    name = pair.partition(b"=")[0]
    return unquote_to_bytes(name.replace(b"+", b" ")).decode("utf-8", "replace")
