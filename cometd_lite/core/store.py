"""Where mailboxes live: the seam between the hub and whatever keeps the messages.

A store that never waits answers at once; one that does (a database, another machine) answers with a
Deferred. The hub asks both in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from twisted.internet.defer import Deferred

from ..deferreds import MaybeDeferred
from .leases import Ended, LeaseId, Settlement
from .message import Batch, Cursor, Message, Push
from .namespaces import Namespaces
from .present import Announcer, PresentReaders
from .registry import Registry

T = TypeVar("T")

State: TypeAlias = Literal["ok", "down"]
"""Whether a store takes pushes now."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a mailbox holds: messages that no reader has fetched, their bytes, and the ends of its log.

    ``oldest`` and ``newest`` are ids of messages that are kept; None where the mailbox holds nothing.
    """

    queued: int = 0
    bytes: int = 0
    oldest: Cursor | None = None
    newest: Cursor | None = None
    leased: int = 0
    """Messages that workers hold by a lease; they are among those that no reader has fetched."""
    unread: tuple[Cursor, float] | None = None
    """The oldest of those, and its date; None where there is none. No answer shows it."""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A page of recipients, by their names.

    ``more`` is the name after which the next page begins; None where there are no more.
    """

    recipients: tuple[T, ...]
    more: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What all mailboxes hold together; ``memory`` counts overhead, in bytes.

    ``leased`` messages are held by workers. ``exhausted`` ones were leased as often as they may, and are
    still here because there is no room for them among the dead letters.
    """

    mailboxes: int = 0
    messages: int = 0
    memory: int = 0
    leased: int = 0
    exhausted: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """What a store remembers for others, as bytes of their own: a listener, or the receipt of a push."""

    id: str
    value: bytes
    expires_at: float
    """On the clock of ``now``; infinity where it is forgotten only when that is asked for."""


Shows: TypeAlias = Callable[[str], bool]
"""Whether a mailbox may be listed, by its name."""


class StoreUnusable(Exception):
    """A store cannot be opened; its text is a sentence for the operator who starts the server."""


class Repeated(Exception):
    """A push was made before, under the same idempotency key; ``value`` is the record of its receipt."""

    def __init__(self, value: bytes) -> None:
        super().__init__()
        self.value = value


class Store(Protocol):
    """Keeps the mailboxes and the one order. ``now`` is in seconds of a monotonic clock.

    Reading never takes anything away; what a store has confirmed to have appended is kept until it is
    expired, deleted, or had to make room.
    """

    def use(self, namespaces: Namespaces) -> None:
        """Give the mailboxes of namespaces their bounds; to be called before ``open``."""

    def open(self, now: float) -> MaybeDeferred[None]:
        """Bring back what was kept; to be called once, before anything else. Raises ``StoreUnusable``."""

    def close(self) -> MaybeDeferred[None]:
        """Keep what is still to be kept, and let go of disk or network; nothing may be asked after it."""

    def flush(self) -> MaybeDeferred[None]:
        """Wait until all that was asked for so far would outlive the process. Raises ``StoreDown``."""

    def append(self, push: Push, now: float, created_at: float) -> MaybeDeferred[Sequence[Message]]:
        """Give every content to every recipient, in order: all of them, or none.

        Where there is an idempotency key, its receipt is remembered with them (``records.py``).

        Raises ``MailboxFull`` or ``ServerFull`` where a bound is reached, ``StoreDown`` where nothing can
        be kept now. With ``push.queue`` false nothing is kept for longer than until ``retract``.
        """

    def retract(self, messages: Sequence[Message]) -> MaybeDeferred[None]:
        """Drop messages that were for waiting readers only."""

    def read(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool = True
    ) -> MaybeDeferred[Batch]:
        """Return what the recipients hold after a cursor; where ``acks``, coming with it acknowledges it.

        Without messages the batch's cursor is the place to wait at: ``after`` itself, or the end of the
        log where ``after`` is ``now``, ``oldest``, or a cursor with a gap.
        """

    def take(self, recipients: tuple[str, ...], limit: int, now: float) -> MaybeDeferred[Batch]:
        """Return the oldest messages that no take has had, and count them as taken."""

    def lease(
        self, recipients: tuple[str, ...], limit: int, seconds: float, now: float
    ) -> MaybeDeferred[Batch]:
        """Return the oldest messages that no take has had, and reserve each for so many seconds.

        They are ``LeasedMessage``. Raises ``StoreDown`` where a durable store cannot keep the leases.
        """

    def settle_leases(
        self, recipient: str, leases: Sequence[LeaseId], settlement: Settlement, seconds: float, now: float
    ) -> MaybeDeferred[Sequence[bool]]:
        """Let leases of a recipient's messages end, or go on for so many seconds from now.

        Returns, for each, whether it was the last lease of a message that is still to be done. Of one that
        was not, nothing changes.
        """

    def give_back(self, messages: Sequence[Message]) -> MaybeDeferred[None]:
        """Undo a take or a lease whose reader disconnected before it was answered.

        The message of a lease is recognised by its type; the attempt then does not count.
        """

    def delete(self, recipient: str, now: float) -> MaybeDeferred[None]:
        """Lose everything that the mailbox holds; readers before it have a gap."""

    def describe(self, recipient: str, now: float) -> MaybeDeferred[Contents]:
        """Say what a mailbox holds."""

    def names(self, prefix: str, after: str, most: int, shows: Shows) -> MaybeDeferred[Sequence[str]]:
        """Return the names of mailboxes that begin with a prefix, in the order of their characters.

        They come after the name ``after``, and ``shows`` lets them through. There are ``most`` of them, or
        fewer where that is all.
        """

    def usage(self) -> Usage:
        """Say what all mailboxes hold together."""

    def state(self) -> State:
        """Return ``ok``, or ``down`` where pushes are refused because the store is away or cannot write."""

    def expire(self, now: float) -> MaybeDeferred[Ended | None]:
        """Let go of the messages whose time is over, and end the leases whose time is over.

        Returns what the hub has to do for leases that have ended since the last call; None where that is
        nothing, as on a store that does it itself.
        """

    def remember(self, kind: str, id: str, value: Callable[[], bytes], expires_at: float) -> None:  # noqa: A002
        """Remember a record for as long as messages are kept; ``value`` is asked when it is written.

        Of a crash soon after it remains what was remembered before. See ``flush``.
        """

    def forget(self, kind: str, id: str) -> None:  # noqa: A002
        """Forget a record."""

    def recall(self, kind: str) -> Sequence[Record]:
        """Return, once, the records of a kind that were there when the store was opened."""


class RPCAnswer(NamedTuple):
    """What a process answers another one; ``lost`` is called where it has reached no caller that waits."""

    said: bytes
    lost: Callable[[], object] | None = None


Answerer: TypeAlias = Callable[[bytes], MaybeDeferred[RPCAnswer]]
"""Answers a question of another process. A Deferred that it returns is cancelled when the answer is no longer
waited for."""


class ProcessGone(Exception):
    """The process that was asked has ended."""


class RPC(Protocol):
    """Questions that the processes at one store ask each other."""

    answerer: Answerer | None
    """Answers the questions of other processes; None until there is one."""

    def ask(
        self, process: str, question: bytes, is_disconnected: Callable[[], bool] = lambda: False
    ) -> Deferred[bytes]:
        """Return the answer of the process with this name.

        An answer is lost where the client, for which it is, has disconnected when it comes. Fails with
        ``ProcessGone``, ``StoreDown``, or ``InternalError`` where the answerer failed. Cancelling the
        Deferred cancels the answerer's.
        """


class Claims(Protocol):
    """What one process of several does for all: claims, and lists of the records that all of them make.

    Each Deferred fails with ``StoreDown`` where the store is away.
    """

    def note(self, kind: str, id: str, seconds: float, at: float, since: float) -> Deferred[bool]:  # noqa: A002
        """Make a record dated ``at`` that lasts for so many seconds from then; return whether it was made.

        It is not made where there is one that is dated later than ``since``. Both are times on the clock.
        """

    def hold(self, kind: str, id: str, seconds: float) -> Deferred[bool]:  # noqa: A002
        """Make a record this process' own for so many seconds from now; return whether it is.

        It is another's until that one has forgotten it, or its time is over.
        """

    def count(self, kind: str) -> Deferred[int]:
        """Return how many records of a kind there are."""

    def records(self, kind: str, until: float, most: int) -> Deferred[Sequence[Record]]:
        """Return up to so many records of a kind that are forgotten before ``until``, the soonest first."""


@runtime_checkable
class SharedStore(Store, Protocol):
    """A store that other processes use at the same time."""

    process: str
    """The name of this process among them: 16 hexadecimal digits."""

    @property
    def claims(self) -> Claims:
        """Return what one process does for all."""

    @property
    def rpc(self) -> RPC:
        """Return what asks the other processes, and answers them."""

    def share(self, registry: Registry) -> None:
        """Wake the readers of a registry when another process has pushed."""

    def announcer(self, readers: PresentReaders) -> Announcer:
        """Return what announces the presence of readers at all processes, these included."""

    def recent(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool
    ) -> Batch | None:
        """Return what ``read`` would, where this process knows it; None where the store must be asked.

        What is known may lack what was pushed last, so a reader asks the store at the end of its wait.
        """

    def elsewhere(self, messages: Sequence[Message]) -> Deferred[tuple[int, int]] | None:
        """Return how many readers of other processes were woken by what ``append`` has returned.

        Those that read by cursor, and those that take. None where no other process has readers of it.
        """

    def presence(self, recipient: str) -> MaybeDeferred[tuple[int, float]]:
        """Return how many wait at other processes, and how many seconds ago a reader was there.

        Infinity where there was none within about a minute.
        """

    def look_up(self, kind: str, id: str) -> MaybeDeferred[bytes | None]:  # noqa: A002
        """Return the value of a record that any process remembers; None where there is none."""

    def has_records(self, kind: str) -> MaybeDeferred[bool]:
        """Return whether any process remembers a record of a kind."""

    def renew(self, kind: str, id: str, value: Callable[[], bytes], expires_at: float) -> None:  # noqa: A002
        """Replace the value of a record, and the time at which it is forgotten.

        Nothing is remembered where any process has forgotten the record. See ``remember``.
        """

    def notify(self, kind: str, id: str) -> None:  # noqa: A002
        """Give every other process notice of a record."""

    def on_notice(self, kind: str, call: Callable[[str], None]) -> None:
        """Call ``call`` with the id of each record of a kind of which another process gives notice."""
