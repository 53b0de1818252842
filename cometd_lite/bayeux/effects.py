"""What a Bayeux conversation works with and asks for: the peer, the effects, and the calls of services.

A conversation does no I/O. It yields effects; its caller performs each and sends back what became of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from twisted.internet.defer import Deferred

from ..access.quotas import Share
from ..core.message import Push
from ..errors import CometError
from .sessions import BayeuxSession

Action: TypeAlias = Literal["push", "poll"]


class Stoppable(Protocol):
    """What goes on until it is stopped."""

    def stop(self) -> None:
        """Stop it."""


class PeerRights(Protocol):
    """What a peer may do."""

    def check(self, action: Action, names: tuple[str, ...]) -> Any:
        """Return the seconds for which the action on the names is allowed, or a Deferred of them.

        Without names it is about being here at all. Raises, or fails with, a ``CometError`` where it is not.
        """

    def charge(self, messages: int, size: int) -> None:
        """Count what is published, in messages and bytes. Raises ``TooManyRequests``."""

    def check_room(self) -> None:
        """Raise ``TooManyRequests`` where the client may not have one more connect held."""

    def count(self, parked: Deferred[Any]) -> None:
        """Count what is held, until it has come to its end."""

    def watch(self, parked: Deferred[Any], refused: Callable[[CometError], object]) -> Stoppable | None:
        """Ask again what was asked last, whenever its answer is over, until ``parked`` fires.

        Call ``refused`` with the error where that is refused. None where nothing is to be asked again.
        """

    @property
    def admission(self) -> Hashable:
        """What let the peer in, for ``Registry.revoke``."""

    @property
    def name(self) -> str | None:
        """The name under which the peer is present; None where it has none."""

    @property
    def registrations(self) -> Share | None:
        """What a session counts against; None where there are no quotas."""


@dataclass(slots=True, eq=False)
class Peer:
    """Where a batch came from: its browser, known by the cookie, and what it may do.

    ``rights`` is None where everyone may do everything, ``socket`` over HTTP.
    """

    browser: str | None = None
    rights: PeerRights | None = None
    socket: object | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask whether the peer may do something; the conversation is sent for how many seconds it may."""

    rights: PeerRights
    action: Action
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Locate:
    """Find the end of the one order; the conversation is sent its ``Cursor``."""


@dataclass(frozen=True, slots=True)
class Give:
    """Push what was published; the conversation is sent the ``Receipt``, or has the error thrown in."""

    push: Push


@dataclass(frozen=True, slots=True)
class Serve:
    """Call a service; the conversation is sent its answer, or None where that is to come later, or none."""

    handler: Service
    call: Call


@dataclass(frozen=True, slots=True)
class Replace:
    """End the connect that the session has outstanding: there is a newer one."""

    session: BayeuxSession
    peer: Peer


@dataclass(frozen=True, slots=True)
class Forget:
    """Answer the connect that the session has outstanding, and let go of the session: it has disconnected."""

    session: BayeuxSession


@dataclass(frozen=True, slots=True)
class Look:
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
