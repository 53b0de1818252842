"""cometd-lite: an event-driven comet server on Twisted.

A client asks ``GET /poll/bob`` and is held until someone says ``POST /push/bob``. ``Comet`` is the server
as an object for Twisted programs, ``twistd cometd-lite`` the server as a command; ``Client`` talks to either.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Client",
    "Comet",
    "Content",
    "Cursor",
    "LeasedMessage",
    "Limits",
    "Message",
    "Namespace",
    "Receipt",
    "SyncClient",
]

if TYPE_CHECKING:
    from .client import Client, SyncClient
    from .comet import Comet
    from .core.message import Batch, Content, Cursor, LeasedMessage, Message, Receipt
    from .core.namespaces import Namespace
    from .limits import Limits

_HOMES = {
    "Client": "client",
    "Comet": "comet",
    "Limits": "limits",
    "SyncClient": "client",
    "Namespace": "core.namespaces",
    **dict.fromkeys(("Batch", "Content", "Cursor", "LeasedMessage", "Message", "Receipt"), "core.message"),
}


def __getattr__(name: str) -> Any:
    # Klein imports the reactor; a program that only wants the version, or a plugin list, must not.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
