"""What a request is granted: by its token, by the application, and by what its client may hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from twisted.internet.defer import Deferred

from ..core.message import Push
from ..core.parked import ParkedReader
from ..deferreds import MaybeDeferred, is_pending
from ..errors import CometError, Forbidden
from ..memos import memo
from .application import Permission, Watch
from .quotas import ClientUsage, Share

NO_TEXT = "\0"
"""The beginning of a subject that is made of a claim of another type; such a subject names no reader."""

_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Action = Literal["push", "poll", "manage"]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a good token allows: for each action the recipients and patterns that it covers.

    ``expires_at`` is in seconds since 1970, None where the token does not expire. ``subject`` is the user or
    program that the token is for, None where it names none; see ``NO_TEXT``. ``names``: a reader with it may
    name itself. ``key`` is the key that verified it. ``client`` is what a request with it counts against,
    None where there are no quotas. ``permission`` is the application's answer, where that was asked in the
    place of a token.
    """

    push: tuple[str, ...] = ()
    poll: tuple[str, ...] = ()
    manage: tuple[str, ...] = ()
    expires_at: float | None = None
    subject: str | None = None
    names: bool = False
    key: bytes | None = field(default=None, compare=False)
    client: ClientUsage | None = None
    permission: Permission | None = field(default=None, compare=False)

    @property
    def name(self) -> str | None:
        """The name under which a reader with it is present; None where its subject is no text."""
        subject = self.subject
        return presentable(subject) if subject and subject[0] != NO_TEXT else None

    @property
    def registrations(self) -> Share | None:
        """What a listener or session counts against; None where nothing is counted."""
        return None if self.client is None else self.client.registrations

    def charge(self, messages: int, size: int) -> None:
        """Count messages that are pushed, and their bytes. Raises ``TooManyRequests``."""
        if self.client is not None:
            self.client.charge(messages, size)

    def charge_push(self, push: Push) -> None:
        """Count a push. Raises ``TooManyRequests``."""
        if self.client is not None:
            size = sum([len(content.body) for content in push.contents])
            self.client.charge(len(push.contents) * len(push.recipients), size)

    def check_room(self) -> None:
        """Raise ``TooManyRequests`` where its client may not have one parked poll, stream or socket more."""
        if self.client is not None:
            self.client.parked.check()

    def hold(self, parked: MaybeDeferred[Any]) -> None:
        """Count a parked poll against its client, until it fires.

        It ends where the key is removed, or where the application refuses it when it is asked again.
        """
        if self is EVERYTHING or not is_pending(parked):
            return
        if self.client is not None:
            self.client.parked.hold_until(parked)
        if not isinstance(parked, ParkedReader):
            return
        if self.key is not None:
            parked.admission = self.key
        if self.permission is not None:
            self.permission.watch(parked, partial(_end, parked))

    def watch(self, parked: Deferred[Any], refused: Callable[[CometError], object]) -> Watch | None:
        """Ask the application again, if it let the client in, until ``parked`` fires; see ``Permission``."""
        return None if self.permission is None else self.permission.watch(parked, refused)

    def covers(self, action: Action, name: str) -> bool:
        """Whether the token allows the action on a recipient, or on everything that a pattern stands for."""
        for claim in getattr(self, action):  # noqa: SIM110  any() with a generator takes twice as long
            if covers(claim, name):
                return True
        return False

    def check(self, action: Action, names: Iterable[str]) -> None:
        """Raise ``Forbidden`` where the action on one of the names is not covered."""
        for name in names:
            if not self.covers(action, name):
                raise Forbidden(f"The token's claim {action!r} does not cover {name!r}.")


def _end(reader: ParkedReader[Any], _: CometError) -> None:
    reader.end()


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


EVERYTHING = Grant()
"""What is granted where neither tokens nor quotas are configured."""


@memo(256)  # a subject may have 6 KB
def presentable(subject: str) -> str:
    """Return a token's subject as readers see it: in Unicode, without control characters."""
    return _NOT_SHOWN.sub("\ufffd", subject)
