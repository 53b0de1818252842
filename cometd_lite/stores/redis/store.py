"""Mailboxes in Redis, which any number of processes on any number of machines serve together.

Each thing that is asked is one run of one script (``lua/``), so that it is done in full or not at all,
and in one order for all processes. Mailboxes are lists of messages, each with its number of the one order. A
push publishes the names it was for; each process listens where readers of its own stand. All of that goes
over one connection, in order: a reader that is parked, listens, and then looks, has missed nothing.

What a process keeps is only what it waits for. While Redis is away its readers stay parked and pushes are
refused; when it is back, every reader looks again.

Read ``link.py`` next, then ``wakes.py`` and ``lua/log.lua``.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from math import inf
from sys import intern
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from ...core.idempotency import RECEIPTS, fingerprint, receipt_id, receipt_value
from ...core.leases import Ended, LeaseId, Settlement, new_secret
from ...core.message import Batch, Cursor, Message, Push, Receipt
from ...core.namespaces import MailboxBounds, MostSpecific, Namespaces, own_bounds
from ...core.present import PresentReaders
from ...core.recipient import is_pattern
from ...core.registry import Registry
from ...core.store import Contents, Shows, State, Usage
from ...deferreds import MaybeDeferred, chain
from ...errors import MailboxFull, ServerFull, StoreDown
from ...limits import (
    IDEMPOTENCY_KEYS,
    IDEMPOTENCY_SECONDS,
    STORE_STALLED_SECONDS,
    Limits,
)
from ..patterns import bounded
from .acknowledgements import Acknowledgements
from .backlog import Backlog
from .claims import CLAIMED, RedisClaims
from .entries import DOUBLE, pack, unpack
from .leases import lease_word, leased, undo_words
from .link import RedisLink, WritesRefused
from .names import listed
from .presence import RedisAnnouncer
from .records import RedisRecords
from .wakes import Appended, Wakes
from .windows import Window


class RedisStore(RedisRecords):
    """A ``SharedStore`` in Redis 6.2 or newer, or Valkey; ``address`` is a URL, see ``Address.parse``.

    ``overflow`` is what a full mailbox does unless a push says otherwise. ``clock`` is the reactor unless
    given; ``endpoint`` is where to connect in the place of the address.
    """

    def __init__(
        self,
        address: str,
        limits: Limits | None = None,
        *,
        overflow: str = "reject",
        clock: Any = None,
        endpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        if clock is None:
            from twisted.internet import reactor  # noqa: PLC0415  importing it at the top would install one

            clock = reactor
        limits = limits or Limits()
        link = RedisLink(address, limits, clock, endpoint)
        super().__init__(link, Backlog(link), clock, limits)
        self.overflow = overflow
        self._own_bounds = own_bounds(self.limits, overflow)
        self._bounds: MostSpecific[MailboxBounds] | None = None
        """The bounds of mailboxes where there are namespaces; None where all have ``_own_bounds``."""
        self.process = secrets.token_hex(8)
        """The name of this process among all that serve these mailboxes."""
        self.address = link.address
        link.on_entered = link.on_writable = self._writable
        self._wakes = wakes = Wakes(link, self.process, clock)
        self.rpc, self.presence = wakes.rpc, wakes.who
        self.notify, self.on_notice = wakes.notify, wakes.on_notice
        self.claims = RedisClaims(link, clock, self.process, limits.max_recipients)
        self._acknowledgements = Acknowledgements(link, clock, self._backlog.acknowledge)
        self._reading: dict[tuple[tuple[str, ...], Cursor, int, bool], list[Deferred[Batch]]] = {}
        """Who waits for which look: those of a fan-out all ask the same at the same time."""

    # -- the start and the end

    def use(self, namespaces: Namespaces) -> None:
        bounds = self._bounds = namespaces.bounds(self._own_bounds)
        self._link.bounds_of = bounds.of

    def open(self, now: float) -> Deferred[None]:  # noqa: ARG002  the store has its own clock
        """See ``Store.open``. Fires when Redis is reached; one that is away is tried until it is there."""
        return self._link.open()

    def close(self) -> Deferred[None]:
        self._acknowledgements.end()
        return self._link.close()

    def flush(self) -> MaybeDeferred[None]:
        self._acknowledgements.send()
        return self._link.flush()

    def _writable(self) -> None:
        self._backlog.write()
        if self._wakes.readers is not None:
            self._wakes.readers.wake_all()

    # -- what is pushed

    def append(self, push: Push, now: float, created_at: float) -> Deferred[Sequence[Message]]:
        """See ``Store.append``. Fails with ``Repeated`` where another process knows the idempotency key."""
        return self._append(push, now, created_at, again=True)

    def _append(
        self, push: Push, now: float, created_at: float, *, again: bool
    ) -> Deferred[Sequence[Message]]:
        """Append, each time with words made anew: the log and those who listen may be others by now."""
        own = self._own_bounds
        # What is not to be kept is retracted, but by a process that may die before.
        most = inf if push.queue else STORE_STALLED_SECONDS
        if self._bounds is None:
            rejects, rules = "1" if own.rejects(push) else "0", []
            expiries = [now + min(own.kept_for(push), most)] * len(push.recipients)
        else:
            each = [self._bounds.of(recipient) for recipient in push.recipients]
            expiries = [now + min(one.kept_for(push), most) for one in each]
            rejects, rules = "n", [self._rules(push, each, expiries)]
        options = f"{'k' if push.queue else 's'}{rejects}{0 if push.key is None else 1}"
        words = (
            *[pack(content, push.event, created_at) for content in push.contents],
            *rules,
            *(() if push.key is None else self._receipt(push, created_at)),
        )
        ask, stands, listening = self._wakes.begin(push.recipients)
        return self._link.run(
            now,
            "append",
            push.recipients,
            DOUBLE.pack(expiries[0] + self._link.offset) + options.encode() + stands.encode(),
            f"{self.process} {ask}",
            *words,
        ).addCallbacks(
            self._appended,
            self._not_appended,
            (push, created_at, expiries, self._link.epoch, ask, listening),
            errbackArgs=(push, now, created_at, again),
        )

    def _rules(self, push: Push, each: list[MailboxBounds], expiries: list[float]) -> str:
        """Return the bounds of each mailbox of a push, as the script's ``append`` takes them."""
        rules = [
            (int(one.rejects(push)), one.capacity, one.capacity_bytes, repr(expires_at + self._link.offset))
            for one, expires_at in zip(each, expiries, strict=True)
        ]
        return " ".join([",".join(map(str, rule)) for rule in rules])

    def _not_appended(
        self, failure: Failure, push: Push, now: float, created_at: float, again: bool
    ) -> Failure | Deferred[Sequence[Message]]:
        """Append again where Redis has no memory, for as long as there is something read that can go.

        Where a mailbox is full, append once more when what readers have acknowledged so far has arrived.
        """
        error = failure.value
        if isinstance(error, WritesRefused) and error.freed:
            return self._append(push, now, created_at, again=again)
        if again and failure.check(MailboxFull, ServerFull):
            if self._wakes.readers is not None:
                self._wakes.readers.come_back(*push.recipients)
            return self._acknowledgements.arrived().addCallback(
                lambda _: self._append(push, now, created_at, again=False)
            )
        return failure

    def _receipt(self, push: Push, created_at: float) -> tuple[Any, ...]:
        """Return what the script needs to remember the receipt of an idempotency key."""
        first = f"{self._link.epoch}-0"
        ids = (first,) * (len(push.contents) * len(push.recipients))
        value = receipt_value(fingerprint(push), Receipt(ids, created_at, 0, push.recipients))
        before, _, behind = value.partition(first.encode())
        before += first[:-1].encode()
        return receipt_id(push), before, behind, IDEMPOTENCY_SECONDS, IDEMPOTENCY_KEYS

    def _appended(
        self,
        reply: list[Any],
        push: Push,
        created_at: float,
        expiries: list[float],
        epoch: str,
        ask: int,
        own: int,
    ) -> Sequence[Message]:
        number, receivers, *ends = reply
        others = receivers - own
        self._link.reaches_others = others > 0
        messages = Appended(self._wakes.counted(others, ask))
        for content in push.contents:
            for recipient, expires_at in zip(push.recipients, expiries, strict=True):
                cursor = Cursor(epoch, number)
                message = Message(cursor, recipient, content, created_at, expires_at, push.event)
                messages.append(message)
                number += 1
        if not push.queue:
            self._wakes.not_kept(messages)
        elif receivers:
            self._wakes.pushed(messages, ends[0])
        return messages

    def retract(self, messages: Sequence[Message]) -> Deferred[None]:
        names, numbers = _named(messages)
        return self._link.run(0.0, "retract", names, *numbers).addCallback(_nothing)

    # -- what is read

    def read(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool = True
    ) -> Deferred[Batch]:
        self._wakes.stand(recipients, now)
        mine: Deferred[Batch] = Deferred()
        asked = (recipients, after, limit, acks)
        reading = self._reading.get(asked)
        if reading is not None:
            reading.append(mine)
        else:
            self._reading[asked] = [mine]
            found = self._read_history(asked, now) if after.is_history else self._read(asked, 0, now)
            found.addBoth(self._was_read, asked)
        return mine

    def _read_history(self, asked: tuple[tuple[str, ...], Cursor, int, bool], now: float) -> Deferred[Batch]:
        """Read from the beginning of a history on. It has no gap: what lies before it was not asked for."""
        recipients, after, limit, _ = asked
        place = self._beginning(recipients, after.epoch, after.sequence, b"+", "", now)
        return place.addCallback(
            lambda place: self._read((recipients, Cursor("history", place), limit, False), 0, now)
        )

    def _beginning(
        self, recipients: tuple[str, ...], word: str, count: int, at: bytes, place: int | str, now: float
    ) -> Deferred[int]:
        """Return the number after which a history begins; the words are those of the script's ``history``."""

        def looked(reply: list[Any]) -> MaybeDeferred[int]:
            at, place, left = reply
            return self._beginning(recipients, word, left, at, place, now) if at else place

        words = (word, count, at, place, _patterned(recipients))
        return self._link.run(now, "history", recipients, *words).addCallback(looked)

    def _read(
        self, asked: tuple[tuple[str, ...], Cursor, int, bool], looked: int, now: float
    ) -> Deferred[Batch]:
        recipients, after, limit, acks = asked
        words = (after.epoch, after.sequence, looked, limit, int(acks), _patterned(recipients))
        windows = list(map(self._wakes.window, recipients))
        found = self._link.run(now, "read", recipients, *words)
        return found.addCallback(self._found, asked, windows, self._link.epoch, now)

    def _found(
        self,
        reply: list[Any],
        asked: tuple[tuple[str, ...], Cursor, int, bool],
        windows: list[Window | None],
        epoch: str,
        now: float,
    ) -> MaybeDeferred[Batch]:
        looked, gap, more, rows, ends = reply
        names, after, _, acks = asked
        if acks and after.epoch == epoch and not self._link.can_write:
            self._backlog.acknowledge(names, after)
        if ends:  # there are none of patterns
            self._wakes.confirm(zip(names, windows, ends[::2], ends[1::2], strict=True))
        if more and not rows:
            return self._read(asked, looked, now)  # so far there was nothing but what others were pushed
        return Batch(self._messages(rows, epoch), Cursor(epoch, looked), bool(gap), bool(more))

    def _was_read(self, found: Batch | Failure, asked: tuple[tuple[str, ...], Cursor, int, bool]) -> None:
        for reader in self._reading.pop(asked):
            if not reader.called:
                reader.callback(found)  # a Failure makes it an errback

    def recent(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool
    ) -> Batch | None:
        link, wakes = self._link, self._wakes
        if after.epoch != link.epoch:
            return None
        found = wakes.recent(recipients, after.sequence, link.newest, now)
        if found is None:
            return None
        if acks:
            for name in recipients:
                if wakes.acknowledge(name, after.sequence):
                    self._acknowledgements.add(name, after)
        if not found:
            return Batch((), after)
        messages, more = bounded(found, limit) if len(found) > 1 else (tuple(found), False)
        return Batch(messages, messages[-1].cursor, False, more)

    def take(self, recipients: tuple[str, ...], limit: int, now: float) -> Deferred[Batch]:
        self._wakes.stand(recipients, now)
        epoch = self._link.epoch

        def taken(reply: list[Any]) -> Batch:
            end, gap, more, rows = reply
            return Batch(self._messages(rows, epoch), Cursor(epoch, end), bool(gap), bool(more))

        return self._link.run(now, "take", recipients, limit).addCallback(taken)

    def lease(self, recipients: tuple[str, ...], limit: int, seconds: float, now: float) -> Deferred[Batch]:
        self._wakes.stand(recipients, now)
        epoch, secret = self._link.epoch, new_secret()

        def given(reply: list[Any]) -> Batch:
            end, gap, more, rows, attempts = reply
            messages = leased(self._messages(rows, epoch), [(attempt, secret) for attempt in attempts])
            return Batch(messages, Cursor(epoch, end), bool(gap), bool(more))

        return self._link.run(now, "lease", recipients, limit, repr(seconds), secret).addCallback(given)

    def settle_leases(
        self, recipient: str, leases: Sequence[LeaseId], settlement: Settlement, seconds: float, now: float
    ) -> Deferred[Sequence[bool]]:
        here = [lease for lease in leases if lease.epoch == self._link.epoch]

        def settled(reply: list[Any]) -> Sequence[bool]:
            found = dict(zip(here, reply[0], strict=True))
            return [bool(found.get(lease)) for lease in leases]

        words = (settlement, repr(seconds), *map(lease_word, here))
        return self._link.run(now, "settle", (recipient,), *words).addCallback(settled)

    def _messages(self, rows: list[bytes], epoch: str) -> tuple[Message, ...]:
        offset = self._link.offset
        named = zip(rows[::2], rows[1::2], strict=True)
        return tuple([unpack(entry, intern(name.decode()), epoch, offset) for name, entry in named])

    def give_back(self, messages: Sequence[Message]) -> Deferred[None]:
        """See ``Store.give_back``. While Redis is away, or takes no writes, it is done later."""

        def later(failure: Failure) -> Failure:
            if failure.check(StoreDown):
                self._backlog.give_back(messages)
            return failure

        names, words = undo_words(messages)
        verb = "undo"
        if not names:
            verb, (names, words) = "give_back", _named(messages)
        return self._link.run(0.0, verb, names, *words).addCallbacks(_nothing, later)

    # -- what is let go

    def delete(self, recipient: str, now: float) -> Deferred[None]:
        return self._link.run(now, "delete", (recipient,)).addCallback(self._deleted, recipient, now)

    def _deleted(self, reply: list[Any], recipient: str, now: float) -> Deferred[None] | None:
        """Go on with a deletion of which there is more than one step of Redis."""
        last, more = reply
        if not more:
            return None
        deleting = self._link.run(now, "delete", (recipient,), last)
        return deleting.addCallback(self._deleted, recipient, now)

    def expire(self, now: float) -> MaybeDeferred[Ended | None]:
        """See ``Store.expire``; sees also whether Redis still answers, and who need not be listened to."""
        if not self._link.is_up:
            return None
        self._wakes.leave_old(now)
        self._wakes.look_for_processes()
        self._wakes.look_for_lost(now)
        epoch = self._link.epoch
        expired = self._link.run(now, "expire", (), RECEIPTS, *CLAIMED)
        stalled = self._clock.callLater(STORE_STALLED_SECONDS, self._link.reconnect, "it does not answer")

        def answered(result: Any) -> Any:
            if stalled.active():
                stalled.cancel()
            return result

        return expired.addBoth(answered).addCallback(self._expired, epoch, now)

    def _expired(self, reply: list[Any], epoch: str, now: float) -> MaybeDeferred[Ended | None]:
        more, rows, words, *self._link.leases = reply
        leases = zip(words[::2], [secret.decode() for secret in words[1::2]], strict=True)
        exhausted = leased(self._messages(rows, epoch), leases)
        if not more:
            return Ended((), exhausted) if exhausted else None

        def joined(ended: Ended | None) -> Ended:
            return Ended((), (*exhausted, *(() if ended is None else ended.exhausted)))

        return chain(self.expire(now), joined)

    # -- what is said of it

    def describe(self, recipient: str, now: float) -> Deferred[Contents]:
        self._acknowledgements.send()
        epoch = self._link.epoch

        def described(reply: list[Any]) -> Contents:
            queued, size, oldest, newest, leased, first, date = reply
            if not newest:
                return Contents()
            unread = (Cursor(epoch, first), float(date)) if first else None
            return Contents(queued, size, Cursor(epoch, oldest), Cursor(epoch, newest), leased, unread)

        return self._link.run(now, "describe", (recipient,)).addCallback(described)

    def names(self, prefix: str, after: str, most: int, shows: Shows) -> Deferred[Sequence[str]]:
        return listed(self._link, prefix, after, most, shows)

    def usage(self) -> Usage:
        """See ``Store.usage``; as of the last answer of Redis."""
        return self._link.usage

    def state(self) -> State:
        """See ``Store.state``; it is down where Redis is not reached, or refuses pushes."""
        return "ok" if self._link.is_up and not self._link.refusal else "down"

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold in this process. For tests."""
        self._wakes.check_invariants()
        self._backlog.check_invariants()
        assert all(self._reading.values()), "a look has readers that wait for it"
        usage = self._link.usage
        assert min(usage.mailboxes, usage.messages, usage.memory) >= 0, "what is counted is not negative"

    # -- the other processes

    def share(self, registry: Registry) -> None:
        self._wakes.readers = registry

    def announcer(self, readers: PresentReaders) -> RedisAnnouncer:
        return RedisAnnouncer(self._link, self._wakes, readers)

    def elsewhere(self, messages: Sequence[Message]) -> Deferred[tuple[int, int]] | None:
        assert isinstance(messages, Appended), "they come from append"
        return messages.elsewhere


def _named(messages: Sequence[Message]) -> tuple[list[str], list[Any]]:
    """Return the recipient and the number of each message."""
    return [message.recipient for message in messages], [message.sequence for message in messages]


def _patterned(recipients: tuple[str, ...]) -> int:
    return int(any(map(is_pattern, recipients)))


def _nothing(_: object) -> None:
    """Return nothing, of whatever was answered."""
