"""Mailboxes in Redis, which any number of processes on any number of machines serve together.

Each thing that is asked is one run of one script (``script.lua``), so that it is done in full or not at all,
and in one order for all processes. Mailboxes are streams, whose entries have the numbers of the one order. A
push publishes the names it was for; each process listens where readers of its own stand. All of that goes
over one connection, in order: a reader that is parked, listens, and then looks, has missed nothing.

What a process keeps is only what it waits for. While Redis is away its readers stay parked and pushes are
refused; when it is back, every reader looks again. Each start and failover of Redis is noted in the log. A
process that has heard of a number beyond the end of the run in which it heard of it knows that messages were
lost; the log then goes on far behind, and every reader is told a gap.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import islice, takewhile
from math import inf
from pathlib import Path
from sys import intern
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...core.idempotency import RECEIPTS, fingerprint, receipt_id, receipt_value
from ...core.message import Batch, Content, Cursor, Message, Push, Receipt
from ...core.store import Contents, Readers, Record, Repeated, State, StoreUnusable, Usage
from ...deferreds import MaybeDeferred, chain
from ...errors import MailboxFull, ServerFull, StoreDown
from ...limits import (
    IDEMPOTENCY_KEYS,
    IDEMPOTENCY_SECONDS,
    POLL_BYTES,
    REDIS_COUNT_SECONDS,
    REDIS_EXPIRED_AT_ONCE,
    REDIS_LEFT_AT_ONCE,
    REDIS_LOOK,
    REDIS_MAILBOX_COST,
    REDIS_MESSAGE_COST,
    REDIS_RETRY_SECONDS,
    REDIS_RUNS,
    REDIS_STAND_SECONDS,
    REDIS_STANDING,
    STORE_NUMBERS_RESERVED,
    STORE_STALLED_SECONDS,
    Limits,
)
from ..memory import new_epoch
from .connection import Address, CommandRefused, RedisConnection
from .rpc import Calls

_TRANSIENT = frozenset({"LOADING", "MASTERDOWN", "READONLY", "BUSY", "TRYAGAIN", "CLUSTERDOWN"})
"""Errors of a Redis that starts or follows another one: it may be asked again soon."""


_OLDEST = (6, 2)
_AWAY = "The store {address} is not reached; pushes are refused until it is."
_NOT_YET = "The store {address} is not reached yet ({error}); it is tried until it is there."


class Appended(list[Message]):
    """The messages of a push, and how many readers of other processes they wake."""

    __slots__ = ("elsewhere",)

    def __init__(self, messages: Iterable[Message], elsewhere: MaybeDeferred[tuple[int, int]]) -> None:
        super().__init__(messages)
        self.elsewhere = elsewhere


class _Count:
    """Counts the readers that a push wakes in other processes, each of which reports once for each wake.

    Or those who wait there, and how many seconds ago the last one was there: ``ago``.
    """

    def __init__(self) -> None:
        self.expected: int | None = None
        self.woken = 0
        """Those that read by cursor, or all that wait."""
        self.takers = 0
        self.ago = inf
        self._heard = 0
        self._done: Deferred[tuple[int, int]] | None = None
        self._timer: IDelayedCall | None = None

    @property
    def complete(self) -> bool:
        """Whether all have reported."""
        return self.expected is not None and self._heard >= self.expected

    def report(self, woken: int, takers: int = 0, ago: float = inf) -> None:
        """Take in what one process reports."""
        self._heard += 1
        self.woken += woken
        self.takers += takers
        self.ago = min(self.ago, ago)
        if self.complete:
            self._finish()

    def wait(self, clock: IReactorTime, given_up: Callable[[], object]) -> Deferred[tuple[int, int]]:
        """Return what fires with the count when it is complete, or has taken too long."""
        done = self._done = Deferred()

        def give_up() -> None:
            self._timer = None
            given_up()
            self._finish()

        self._timer = clock.callLater(REDIS_COUNT_SECONDS, give_up)
        return done

    def _finish(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        done, self._done = self._done, None
        if done is not None:
            done.callback((self.woken, self.takers))


class RedisStore:
    """A ``SharedStore`` in Redis 6.2 or newer, or Valkey; ``address`` is a URL, see ``Address.parse``.

    ``overflow`` is what a full mailbox does unless a push says otherwise. ``clock`` is the reactor unless
    given; ``endpoint`` is where to connect in the place of the address.
    """

    log = Logger()

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
        self.limits = limits or Limits()
        self.overflow = overflow
        self.address = Address.parse(address)
        self.process = secrets.token_hex(8)
        """The name of this process among all that serve these mailboxes."""
        self.epoch = ""
        self._clock = clock
        self._script = _script(self.limits)
        self._sha = ""
        self._prefix = self.address.prefix
        self._endpoint = endpoint or self.address.endpoint(clock)
        self._running: Deferred[None] | None = None
        """What keeps the connection up; fires when that is over."""
        self._connection: RedisConnection | None = None
        self._opened: Deferred[None] | None = None
        self._closing = False
        self._said = False
        """Whether it was said that Redis is not there yet."""
        self._offset = 0.0
        """What is added to a time of this process's clock to make it one of Redis' clock."""
        self._run = ""
        self._newest = 0
        """The last number that this process has heard of, in ``_run``."""
        self._usage = Usage()
        self._reading: dict[tuple[tuple[str, ...], Cursor, int, bool], list[Deferred[Batch]]] = {}
        """Who waits for which look: those of a fan-out all ask the same at the same time."""
        self._standing: dict[str, float] = {}
        """The keys whose wakes are listened to, and when each was last asked for, longest ago first."""
        self._asks = 0
        self._counts: dict[int, _Count] = {}
        self._last_wake = b""
        self.calls = Calls(self.process, self._call)
        self._readers: Readers | None = None
        self._heard: dict[str, Callable[[str], None]] = {}

    # -- the start and the end

    def open(self, now: float) -> Deferred[None]:  # noqa: ARG002  the store has its own clock
        """See ``Store.open``. Fires when Redis is reached; one that is away is tried until it is there."""
        opened = self._opened = Deferred()
        self._running = Deferred.fromCoroutine(self._stay_connected())
        return opened

    def close(self) -> Deferred[None]:
        """See ``Store.close``."""
        self._closing = True
        flushed = self._flushed()
        closing = flushed if isinstance(flushed, Deferred) else succeed(None)
        return closing.addErrback(_unheard).addCallback(self._end)

    def _end(self, _: None) -> Deferred[None] | None:
        running, self._running = self._running, None
        if running is None:
            return None
        ended = running.addErrback(_was_cancelled)
        if self._connection is not None:
            self._connection.end()
        else:
            running.cancel()
        return ended

    def flush(self) -> MaybeDeferred[None]:
        """See ``Store.flush``."""
        return self._flushed()

    def _flushed(self) -> MaybeDeferred[None]:
        if self._connection is None:
            return fail(StoreDown())
        if not self._connection.waiting:
            return None
        return self._connection.ask("PING").addCallback(lambda _: None)

    # -- the connection

    async def _stay_connected(self) -> None:
        """Connect, and connect again, for as long as the store is open."""
        factory = Factory.forProtocol(RedisConnection)
        factory.noisy = False
        pause = backoffPolicy(0.05, REDIS_RETRY_SECONDS, 1.5)
        failures = 0
        while not self._closing:
            try:
                connection: Any = await self._endpoint.connect(factory)
                entering = Deferred.fromCoroutine(self._enter(connection))
                await entering.addTimeout(STORE_STALLED_SECONDS, self._clock)
            except CancelledError:
                return  # the store was closed
            except Exception as error:  # noqa: BLE001  whatever it was, it is tried again
                if self._is_unusable(error):
                    return
                await deferLater(self._clock, pause(failures))
                failures += 1
            else:
                failures = 0
                await connection.ended
                self._connection = None
                self.calls.cut_off()
                if not self._closing:
                    self.log.error(_AWAY, address=self.address)

    async def _enter(self, connection: RedisConnection) -> None:
        """Say who we are, see what Redis this is, and enter the log."""
        try:
            await self._greet(connection)
        except BaseException:
            connection.end()
            raise

    async def _greet(self, connection: RedisConnection) -> None:
        address = self.address
        words: list[Any] = ["HELLO", 3]
        if address.password:
            words += ["AUTH", address.username or "default", address.password]
        hello = await connection.ask(*words)
        if hello.get(b"role") != b"master":
            raise StoreDown(f"The Redis at {address} follows another one.")
        if address.database:
            await connection.ask("SELECT", address.database)
        if _version(hello[b"version"]) < _OLDEST:
            raise CommandRefused(f"it has version {hello[b'version'].decode()}, and 6.2 is needed")
        info = await connection.ask("INFO", "server")
        run = bytes(info).partition(b"run_id:")[2].split()[0].decode()
        self._sha = (await connection.ask("SCRIPT", "LOAD", self._script)).decode()
        connection.published = self._published
        prefix = self._prefix
        channels = [f"{prefix}process:{self.process}", f"{prefix}all", f"{prefix}told"]
        connection.subscribe("SUBSCRIBE", *channels, *[f"{prefix}wake:{key}" for key in self._standing])
        words = ["attach", "", "0", run, self.epoch, self._run, self._newest, new_epoch()]
        reply = await connection.ask("EVALSHA", self._sha, 1, prefix, *words)
        epoch, self_run, time = reply[2:]
        self.epoch, self._run = epoch.decode(), self_run.decode()
        self._offset = float(time) - self._clock.seconds()
        self._newest = 0
        self._learn(reply[1])
        self._connection = connection
        self._entered()

    def _entered(self) -> None:
        self.log.info("The store {address} is there.", address=self.address)
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.callback(None)
        if self._readers is not None:
            self._readers.wake_all()

    def _is_unusable(self, error: Exception) -> bool:
        """Whether the store cannot be opened: then ``open`` fails with the reason."""
        opened = self._opened
        if opened is None:
            return False
        if isinstance(error, CommandRefused) and error.code not in _TRANSIENT:
            self._opened = None
            opened.errback(StoreUnusable(f"The store {self.address} cannot be used: {error}."))
            return True
        if not self._said:
            self._said = True
            self.log.error(_NOT_YET, address=self.address, error=error)
        return False

    def _ask(self, now: float, verb: str, *words: Any) -> Deferred[list[Any]]:
        """Run the script; fires with what it answers. Fails with ``StoreDown`` and what the verbs say."""
        connection = self._connection
        if connection is None:
            return fail(StoreDown())
        time = repr(now + self._offset)
        asked = connection.ask("EVALSHA", self._sha, 1, self._prefix, verb, self.epoch, time, *words)
        return asked.addCallbacks(self._answered, self._refused)

    def _answered(self, reply: list[Any]) -> list[Any]:
        status, state, *rest = reply
        if status == b"ok":
            self._learn(state)
            return rest
        raise self._refusal(status, rest)

    def _refusal(self, status: bytes, rest: list[Any]) -> Exception:
        limits = self.limits
        if status == b"repeated":
            return Repeated(rest[0])
        if status == b"full":
            return MailboxFull(
                f"The mailbox of {rest[0].decode()!r} is full of messages that nobody has fetched. "
                "Push again later, or with overflow=drop-oldest."
            )
        if status == b"too large":
            return MailboxFull(
                f"The push does not fit: a mailbox holds {limits.capacity} messages "
                f"and {limits.capacity_bytes} bytes."
            )
        if status == b"mailboxes":
            return ServerFull(f"The server holds {limits.max_recipients} mailboxes, which is its bound.")
        if status == b"memory":
            return ServerFull(f"The messages kept reach the server's bound of {limits.max_memory} bytes.")
        # The log is another one than we knew: somebody has emptied Redis. We enter the new one.
        self._reconnect()
        return StoreDown()

    def _refused(self, failure: Failure) -> Failure:
        """Translate an error of Redis."""
        error = failure.value
        if not isinstance(error, CommandRefused):
            return failure
        if error.code in {"OOM", "MISCONF", "NOREPLICAS"}:
            return Failure(StoreDown(f"The store has no room: {error}"))
        if error.code not in _TRANSIENT | {"NOSCRIPT"}:
            self.log.error("The store {address} says: {error}", address=self.address, error=error)
        self._reconnect()
        return Failure(StoreDown())

    def _reconnect(self) -> None:
        if self._connection is not None:
            self._connection.end()

    def _learn(self, state: list[int]) -> None:
        sequence, mailboxes, messages, memory = state
        self._newest = max(self._newest, sequence)
        self._usage = Usage(mailboxes, messages, memory)

    # -- what is pushed

    def append(self, push: Push, now: float, created_at: float) -> Deferred[Sequence[Message]]:
        """See ``Store.append``. Fails with ``Repeated`` where another process knows the idempotency key."""
        limits = self.limits
        ttl = limits.ttl if push.ttl is None else min(push.ttl, limits.ttl)
        if not push.queue:
            ttl = min(ttl, STORE_STALLED_SECONDS)  # it is retracted, but by a process that may die before
        self._asks += 1
        ask = self._asks
        count = self._counts[ask] = _Count()
        appended = self._ask(
            now,
            "append",
            self.process,
            ask,
            repr(created_at),
            repr(now + ttl + self._offset),
            push.event or "",
            int((push.overflow or self.overflow) == "reject"),
            int(push.queue),
            *self._receipt(push, created_at),
            len(push.recipients),
            *push.recipients,
            *[word for content in push.contents for word in (content.type, content.form, content.body)],
        )
        messages = appended.addCallback(self._appended, push, self.epoch, created_at, now + ttl, count, ask)
        return messages.addErrback(self._not_appended, ask)

    def _receipt(self, push: Push, created_at: float) -> tuple[Any, ...]:
        """Return what the script needs to remember the receipt of an idempotency key."""
        if push.key is None:
            return "", "", "", 0, 0
        first = f"{self.epoch}-0"
        ids = (first,) * (len(push.contents) * len(push.recipients))
        value = receipt_value(fingerprint(push), Receipt(ids, created_at, 0, push.recipients))
        before, _, behind = value.partition(first.encode())
        key = receipt_id(push)
        return key, before + first[:-1].encode(), behind, IDEMPOTENCY_SECONDS, IDEMPOTENCY_KEYS

    def _appended(
        self,
        reply: list[Any],
        push: Push,
        epoch: str,
        created_at: float,
        expires_at: float,
        count: _Count,
        ask: int,
    ) -> Sequence[Message]:
        first, receivers = reply
        addressed = [(content, recipient) for content in push.contents for recipient in push.recipients]
        messages = [
            Message(Cursor(epoch, number), recipient, content, created_at, expires_at, push.event)
            for number, (content, recipient) in enumerate(addressed, first)
        ]
        return Appended(messages, self._counted(receivers, count, ask))

    def _counted(self, receivers: int, count: _Count, ask: int) -> MaybeDeferred[tuple[int, int]]:
        """Return what the processes report that have heard of an ask."""
        count.expected = receivers
        if count.complete:
            del self._counts[ask]
            return count.woken, count.takers
        return count.wait(self._clock, lambda: self._counts.pop(ask, None))

    def _not_appended(self, failure: Failure, ask: int) -> Failure:
        self._counts.pop(ask, None)
        return failure

    def retract(self, messages: Sequence[Message]) -> Deferred[None]:
        """See ``Store.retract``."""
        return self._ask(0.0, "retract", *_named(messages)).addCallback(_nothing)

    # -- what is read

    def read(
        self, recipients: tuple[str, ...], after: Cursor, limit: int, now: float, acks: bool = True
    ) -> Deferred[Batch]:
        """See ``Store.read``."""
        self._stand(recipients, now)
        mine: Deferred[Batch] = Deferred()
        asked = (recipients, after, limit, acks)
        reading = self._reading.get(asked)
        if reading is not None:
            reading.append(mine)
        else:
            self._reading[asked] = [mine]
            self._read(asked, 0, now).addBoth(self._was_read, asked)
        return mine

    def _read(
        self, asked: tuple[tuple[str, ...], Cursor, int, bool], looked: int, now: float
    ) -> Deferred[Batch]:
        recipients, after, limit, acks = asked
        words = (after.epoch, after.sequence, looked, limit, int(acks), *recipients)
        return self._ask(now, "read", *words).addCallback(self._found, asked, self.epoch, now)

    def _found(
        self, reply: list[Any], asked: tuple[tuple[str, ...], Cursor, int, bool], epoch: str, now: float
    ) -> MaybeDeferred[Batch]:
        looked, gap, more, rows = reply
        if more and not rows:
            return self._read(asked, looked, now)  # so far there was nothing but what others were pushed
        return Batch(self._messages(rows, epoch), Cursor(epoch, looked), bool(gap), bool(more))

    def _was_read(self, found: Batch | Failure, asked: tuple[tuple[str, ...], Cursor, int, bool]) -> None:
        for reader in self._reading.pop(asked):
            if not reader.called:
                reader.callback(found)  # a Failure makes it an errback

    def take(self, recipients: tuple[str, ...], limit: int, now: float) -> Deferred[Batch]:
        """See ``Store.take``."""
        self._stand(recipients, now)
        epoch = self.epoch

        def taken(reply: list[Any]) -> Batch:
            end, gap, more, rows = reply
            return Batch(self._messages(rows, epoch), Cursor(epoch, end), bool(gap), bool(more))

        return self._ask(now, "take", limit, *recipients).addCallback(taken)

    def _messages(self, rows: list[Any], epoch: str) -> tuple[Message, ...]:
        offset = self._offset
        return tuple(
            [
                Message(
                    Cursor(epoch, number),
                    intern(name.decode()),
                    Content(body, intern(kind.decode()), intern(form.decode())),  # type: ignore[arg-type]  # one of three
                    float(created_at),
                    float(expires_at) - offset,
                    event.decode() or None,
                )
                for number, name, kind, form, body, created_at, expires_at, event in rows
            ]
        )

    def give_back(self, messages: Sequence[Message]) -> Deferred[None]:
        """See ``Store.give_back``."""
        return self._ask(0.0, "give_back", *_named(messages)).addCallback(_nothing)

    # -- what is let go

    def delete(self, recipient: str, now: float) -> Deferred[None]:
        """See ``Store.delete``."""
        return self._ask(now, "delete", recipient).addCallback(_nothing)

    def expire(self, now: float) -> MaybeDeferred[None]:
        """See ``Store.expire``; sees also whether Redis still answers, and who need not be listened to."""
        if self._connection is None:
            return None
        self._leave_old(now)
        self._look_for_processes()
        expired = self._ask(now, "expire", RECEIPTS)
        stalled = self._clock.callLater(STORE_STALLED_SECONDS, self._reconnect)

        def answered(result: Any) -> Any:
            if stalled.active():
                stalled.cancel()
            return result

        return expired.addBoth(answered).addCallback(lambda more: self.expire(now) if more[0] else None)

    # -- what is said of it

    def describe(self, recipient: str, now: float) -> Deferred[Contents]:
        """See ``Store.describe``."""
        epoch = self.epoch

        def described(reply: list[Any]) -> Contents:
            queued, size, oldest, newest = reply
            if not newest:
                return Contents()
            return Contents(queued, size, Cursor(epoch, oldest), Cursor(epoch, newest))

        return self._ask(now, "describe", recipient).addCallback(described)

    def usage(self) -> Usage:
        """See ``Store.usage``; as of the last answer of Redis."""
        return self._usage

    def state(self) -> State:
        """See ``Store.state``; it is down where Redis is not reached."""
        return "down" if self._connection is None else "ok"

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` with the invariant that does not hold in this process. For tests.

        - The keys whose wakes are listened to are in order, the longest ago asked for first.
        - A count of readers that is complete is forgotten.
        - A look that was asked for has readers that wait for it.
        - What is counted in Redis is not negative.

        What lies in Redis is not looked at.
        """
        standing = list(self._standing.values())
        assert standing == sorted(standing), "the keys that are listened to are in order"
        assert not any(count.complete for count in self._counts.values()), "a complete count is forgotten"
        assert all(self._reading.values()), "a look has readers that wait for it"
        usage = self._usage
        assert min(usage.mailboxes, usage.messages, usage.memory) >= 0, "what is counted is not negative"

    # -- what is remembered for others

    def remember(self, kind: str, id: str, value: Callable[[], bytes], expires_at: float) -> None:  # noqa: A002
        """See ``Store.remember``. While Redis is away nothing is."""
        self._set_record("remember", kind, id, value(), expires_at)

    def renew(self, kind: str, id: str, value: Callable[[], bytes], expires_at: float) -> None:  # noqa: A002
        """See ``SharedStore.renew``. While Redis is away nothing is."""
        self._set_record("renew", kind, id, value(), expires_at)

    def _set_record(self, verb: str, kind: str, id: str, value: bytes, expires_at: float) -> None:  # noqa: A002
        seconds = max(0.001, min(expires_at - self._clock.seconds(), self.limits.ttl))
        most = IDEMPOTENCY_KEYS if kind == RECEIPTS else self.limits.max_sessions
        self._ask(self._clock.seconds(), verb, kind, id, value, seconds, most).addErrback(_unheard)

    def forget(self, kind: str, id: str) -> None:  # noqa: A002
        """See ``Store.forget``."""
        self._ask(0.0, "forget", kind, id).addErrback(_unheard)

    def recall(self, kind: str) -> Sequence[Record]:  # noqa: ARG002
        """See ``Store.recall``: nothing is brought back, all of it is looked up."""
        return ()

    def look_up(self, kind: str, id: str) -> Deferred[bytes | None]:  # noqa: A002
        """See ``SharedStore.look_up``."""
        if self._connection is None:
            return fail(StoreDown())
        found = self._connection.ask("GET", f"{self._prefix}record:{kind}:{id}")
        return found.addErrback(self._refused)

    # -- the other processes

    def share(self, readers: Readers) -> None:
        """See ``SharedStore.share``."""
        self._readers = readers

    def elsewhere(self, messages: Sequence[Message]) -> MaybeDeferred[tuple[int, int]]:
        """See ``SharedStore.elsewhere``."""
        assert isinstance(messages, Appended), "they come from append"
        return messages.elsewhere

    def presence(self, recipient: str) -> Deferred[tuple[int, float]]:
        """See ``SharedStore.presence``."""
        self._asks += 1
        ask = self._asks
        count = self._counts[ask] = _Count()
        asked = self._ask(self._clock.seconds(), "who", self.process, ask, recipient)
        counted = asked.addCallback(lambda reply: self._counted(reply[0], count, ask))
        return counted.addCallbacks(
            lambda waiting: (waiting[0], count.ago), self._not_appended, errbackArgs=(ask,)
        )

    def tell(self, kind: str, id: str) -> None:  # noqa: A002
        """See ``SharedStore.tell``."""
        self._publish("told", f"{self.process} {kind} {id}")

    def hear(self, kind: str, heard: Callable[[str], None]) -> None:
        """See ``SharedStore.hear``."""
        self._heard[kind] = heard

    def _call(self, process: str, said: bytes) -> Deferred[int]:
        if self._connection is None:
            return fail(StoreDown())
        return self._connection.ask("PUBLISH", f"{self._prefix}process:{process}", said)

    def _look_for_processes(self) -> None:
        """See whether those who are asked something are still there."""
        asked = sorted(self.calls.asked)
        if asked and self._connection is not None:
            channels = [f"{self._prefix}process:{process}" for process in asked]
            self._connection.ask("PUBSUB", "NUMSUB", *channels).addCallbacks(self._missed, _unheard)

    def _missed(self, found: list[Any]) -> None:
        for channel, listening in zip(found[::2], found[1::2], strict=True):
            if not listening:
                self.calls.gone(channel.decode().rpartition(":")[2])

    def _publish(self, channel: str, said: str) -> None:
        if self._connection is not None:
            self._connection.ask("PUBLISH", self._prefix + channel, said).addErrback(_unheard)

    def _stand(self, keys: tuple[str, ...], now: float) -> None:
        """Listen to wakes at the keys from now on."""
        standing = self._standing
        new = [key for key in keys if standing.pop(key, None) is None]
        for key in keys:
            standing[key] = now
        if new and self._connection is not None:
            self._connection.subscribe("SUBSCRIBE", *[f"{self._prefix}wake:{key}" for key in new])
        if len(standing) > REDIS_STANDING:
            self._leave(list(islice(standing, REDIS_LEFT_AT_ONCE)), now)

    def _leave_old(self, now: float) -> None:
        """Unsubscribe from the recipients that have had no reader for some time."""
        old = now - REDIS_STAND_SECONDS
        self._leave(list(takewhile(lambda key: self._standing[key] <= old, self._standing)), now)

    def _leave(self, keys: Iterable[str], now: float) -> None:
        """Unsubscribe from those of the keys that have no reader."""
        standing = self._standing
        gone = []
        for key in keys:
            del standing[key]
            if self._readers is not None and self._readers.waiting(key):
                standing[key] = now
            else:
                gone.append(f"{self._prefix}wake:{key}")
        if gone and self._connection is not None:
            self._connection.subscribe("UNSUBSCRIBE", *gone)

    def _published(self, channel: bytes, said: bytes) -> None:
        kind = channel[len(self._prefix) :].partition(b":")[0]
        if kind == b"wake":
            self._wake(said)
        elif kind == b"process":
            about, _, rest = said.partition(b" ")
            if about == b"woken":
                ask, woken, takers, ago = rest.split()
                self._reported(int(ask), int(woken), int(takers), float(ago))
            else:
                self.calls.heard(about, rest)
        elif self._readers is not None and kind == b"all":
            self._readers.wake_all()
        elif kind == b"told":
            process, kind_, id_ = said.decode().split(" ", 2)
            if process != self.process and kind_ in self._heard:
                self._heard[kind_](id_)

    def _wake(self, said: bytes) -> None:
        """Wake readers of this process, or say who waits, as another process has asked; and report."""
        process, ask, name = said.split(b" ", 2)
        asks = ask.startswith(b"?")
        number = int(ask[asks:])
        if process == self.process.encode():
            self._reported(number, 0)  # the hub sees to its own readers
            return
        woken = takers = 0
        ago: float | None = None
        ended: MaybeDeferred[None] = None
        if said != self._last_wake and self._readers is not None:
            # It comes once for each key at which readers stand here, and the first finds all of them.
            self._last_wake = said
            recipient = name.decode()
            if asks:
                woken, ago = self._readers.waiting(recipient), self._readers.last_seen(recipient)
            else:
                takers = self._readers.takers(recipient)
                woken = self._readers.wake(recipient, messages=0)
                ended = self._readers.wakes_ended()
        if process != b"-":
            # A push that is kept for readers that wait only is taken back once all processes have reported.
            report = partial(
                self._report, process.decode(), number, woken, takers, inf if ago is None else ago
            )
            chain(ended, lambda _: report())

    def _reported(self, ask: int, woken: int, takers: int = 0, ago: float = inf) -> None:
        count = self._counts.get(ask)
        if count is not None:
            count.report(woken, takers, ago)
            if count.complete:
                del self._counts[ask]

    def _report(self, process: str, ask: int, woken: int, takers: int, ago: float) -> None:
        self._publish(f"process:{process}", f"woken {ask} {woken} {takers} {ago}")


@cache
def _text() -> str:
    return Path(__file__).with_name("script.lua").read_text()


def _script(limits: Limits) -> str:
    """Return the script, with the bounds in front of it."""
    bounds = {
        "CAPACITY": limits.capacity,
        "CAPACITY_BYTES": limits.capacity_bytes,
        "MAX_RECIPIENTS": limits.max_recipients,
        "MAX_MEMORY": limits.max_memory,
        "POLL_BYTES": POLL_BYTES,
        "MESSAGE_COST": REDIS_MESSAGE_COST,
        "MAILBOX_COST": REDIS_MAILBOX_COST,
        "LOOK": REDIS_LOOK,
        "EXPIRED_AT_ONCE": REDIS_EXPIRED_AT_ONCE,
        "RUNS_KNOWN": REDIS_RUNS,
        "NUMBERS_RESERVED": STORE_NUMBERS_RESERVED,
    }
    return f"local {', '.join(bounds)} = {', '.join(map(str, bounds.values()))}\n{_text()}"


def _version(text: bytes) -> tuple[int, ...]:
    return tuple([int(part) for part in text.split(b".")[:2]])


def _named(messages: Sequence[Message]) -> list[Any]:
    return [word for message in messages for word in (message.sequence, message.recipient)]


def _nothing(_: object) -> None:
    """Return nothing, of whatever was answered."""


def _was_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)


def _unheard(failure: Failure) -> None:
    """Drop a failure that no caller waits for; the store has reported itself that it is away."""
    failure.trap(StoreDown)
