"""What a Bayeux conversation works with and asks for: the peer, the effects, and the calls of services.

A conversation does no I/O. It yields effects; its caller performs each and sends back what became of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from msgspec import Struct

from ..access.policy import Rights
from ..core.message import Push
from .sessions import BayeuxSession

Action: TypeAlias = Literal["push", "poll"]


class Peer(Struct, eq=False):
    """Where a batch came from: its browser, known by the cookie, and what it may do.

    ``rights`` is None where everyone may do everything, ``socket`` over HTTP.
    """

    browser: str | None = None
    rights: Rights | None = None
    socket: object | None = None


class Ask(Struct, frozen=True):
    """Ask whether the peer may do something; the conversation is sent for how many seconds it may."""

    rights: Rights
    action: Action
    names: tuple[str, ...] = ()


class Locate(Struct, frozen=True):
    """Find the end of the one order; the conversation is sent its ``Cursor``."""


class Give(Struct, frozen=True):
    """Push what was published; the conversation is sent the ``Receipt``, or has the error thrown in."""

    push: Push


class Serve(Struct, frozen=True):
    """Call a service; the conversation is sent its answer, or None where that is to come later, or none."""

    handler: Service
    call: Call


class Replace(Struct, frozen=True):
    """End the connect that the session has outstanding: there is a newer one."""

    session: BayeuxSession
    peer: Peer


class Forget(Struct, frozen=True):
    """Answer the connect that the session has outstanding, and let go of the session: it has disconnected."""

    session: BayeuxSession


class Look(Struct, frozen=True):
    """Read what there is for a session; the conversation is sent that as ``News``, or None for nothing."""

    session: BayeuxSession


Effect: TypeAlias = Ask | Locate | Give | Serve | Replace | Forget | Look
T = TypeVar("T")
Effects: TypeAlias = Generator[Effect, Any, T]
"""A conversation, or a part of one, that returns ``T``."""


@dataclass(frozen=True, slots=True)
class Call:
    """A message to a ``/service`` channel. ``client_id`` is None where the sender has no session."""

    channel: str
    data: Any
    client_id: str | None
    id: str | float | None
    ext: dict[str, Any]

    def event(self, data: Any) -> dict[str, Any]:
        """Return an answer as an event, with the call's id: CometD's remote calls find it by that."""
        event = {"channel": self.channel, "data": data}
        return event if self.id is None else {**event, "id": self.id}


Service: TypeAlias = Callable[[Call], Any]
"""Takes a call and returns the data of the answer, None for none, or a Deferred or coroutine of either."""
