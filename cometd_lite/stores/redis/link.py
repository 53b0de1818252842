"""The link of one process to its log in Redis: it connects, enters the log, and runs the script.

A link connects again whenever it has lost its connection, for as long as it is open. It knows from what Redis
answers whether writes are refused. Each start and failover of Redis is noted in the log. A process that has
knows a number beyond the end of the run that the number belongs to sees that messages were lost; the log
then goes on far behind, and every reader gets a gap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from hiredis import pack_command
from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...core.namespaces import MailboxBounds
from ...core.store import StoreUnusable, Usage
from ...deferreds import MaybeDeferred
from ...errors import StoreDown
from ...limits import REDIS_RETRY_SECONDS, REDIS_SAID_SECONDS, STORE_STALLED_SECONDS, Limits
from ..mailboxes import new_epoch
from .connection import Address, CommandRefused, RedisConnection
from .entries import DOUBLE
from .script import LAYOUT, refusal, scripts

_TRANSIENT = frozenset({"LOADING", "MASTERDOWN", "READONLY", "BUSY", "TRYAGAIN", "CLUSTERDOWN"})
"""Errors of a Redis that starts or follows another one: it may be asked again soon."""

_NEEDED = {
    "OOM": "it has room, by a higher maxmemory or by mailboxes that are read or deleted",
    "MISCONF": "it can save, and its own log says why it cannot",
    "NOREPLICAS": "as many replicas follow it as its min-replicas-to-write asks for",
}
"""What must come before Redis takes pushes again, by its error."""

_SAID = re.compile(r"^(?:@user_script.*?: -)?(.*?)[.\s]*$", re.DOTALL)
"""What Redis has said to the script; version 6 puts in front where in the script."""

_OLDEST = (6, 2)
_AWAY = "The store {address} is not reached{why}; pushes are refused until it is."
_REFUSES = "The store {address} takes no pushes until {needed}; it is still read (Redis says: {said})."
_TAKES = "The store {address} takes pushes again."
_LAYOUT = (
    "what lies below the prefix {prefix} has layout {theirs}, and this version of cometd-lite has layout "
    "{ours} (docs/redis.md says how to move)"
)
_NOT_YET = "The store {address} is not connected yet ({error}); it is tried again until it is."


class WritesRefused(StoreDown):
    """Redis takes nothing now that is to be written; ``freed`` messages that were read made room for it."""

    def __init__(self, freed: int = 0) -> None:
        super().__init__("The store cannot write now; try again later.")
        self.freed = freed


class RedisLink:
    """Reaches the log in the Redis at ``address``, and learns from each answer what it holds.

    ``channels`` returns the channels to listen to when the log is entered. ``on_published`` is given what
    comes through them. ``on_entered``, then ``on_connected``, are called when a connection begins,
    ``on_lost`` when it ends, and ``on_writable`` when Redis takes writes again that it has refused.
    """

    log = Logger()
    reaches_others = False
    """Whether the last push was published to another process."""

    def __init__(
        self, address: str, limits: Limits, clock: Any, endpoint: IStreamClientEndpoint | None = None
    ) -> None:
        self.address = Address.parse(address)
        self.prefix = self.address.prefix
        self._counts, self._box = f"{self.prefix}counts", f"{self.prefix}box:"
        self._prelude: bytes = pack_command(
            ("UNSUBSCRIBE", f"{self.prefix}none")  # type: ignore[arg-type]  # it takes any number of words
        )
        """Goes in front of a push that comes alone. Redis writes last to the connection for which it first
        has something. With this it is the push's: another process has the message before this one takes in
        the reply, on the core that the reader needs. That takes 50 µs off p50 (Redis 7.0)."""
        self.epoch = ""
        self._epoch = b""
        self.offset = 0.0
        """What is added to a time of this process's clock to make it one of Redis' clock."""
        self._held: Sequence[int] = (0, 0, 0)
        """The mailboxes, messages and bytes that the log held at the last answer."""
        self.leases = [0, 0]
        """How many messages are leased, and exhausted, as of the last expiry."""
        self.channels: Callable[[], list[str]] = list
        self.on_published: Callable[[bytes, bytes], None] = lambda _channel, _said: None
        self.on_entered: Callable[[], object] = lambda: None
        self.on_connected: Callable[[], object] = lambda: None
        self.on_lost: Callable[[], object] = lambda: None
        self.on_writable: Callable[[], object] = lambda: None
        self.bounds_of: Callable[[str], MailboxBounds] | None = None
        """The bounds of mailboxes where there are namespaces."""
        self.refusal = ""
        """The error with which Redis refuses pushes, as in ``OOM``; empty where it takes them."""
        self._limits = limits
        self._clock = clock
        self._scripts = scripts(limits)
        self._shas: dict[str, str] = {}
        self._endpoint = endpoint or self.address.endpoint(clock)
        self._running: Deferred[None] | None = None
        """What keeps the connection up; fires when that is over."""
        self._connection: RedisConnection | None = None
        self._listening: RedisConnection | None = None
        """The connection that listens to the channels; it may still be entering the log."""
        self._opened: Deferred[None] | None = None
        self._closing = False
        self._said = False
        """Whether it was said that Redis is not there yet."""
        self._unusable_said = ""
        """The last sentence about why a store that was open cannot be used."""
        self._refusal_said_at = -inf
        self._is_refusal_said = False
        self._why_lost = ""
        self._has_attached = True
        """Whether Redis has noted that this process entered the log in the present run of Redis."""
        self._run = ""
        """The run of Redis, by its own name."""
        self._heard = ("", "")
        """The epoch, and the run by the log's name, that this process knows."""
        self.newest = 0
        """The last number in it that this process knows."""

    # -- the start and the end

    def open(self) -> Deferred[None]:
        """Connect; fires when Redis is reached. Fails with ``StoreUnusable``."""
        opened = self._opened = Deferred()
        self._running = Deferred.fromCoroutine(self._stay_connected())
        return opened

    def close(self) -> Deferred[None]:
        """Wait for the answers to what was asked, and let go of the connection."""
        self._closing = True
        flushed = self.flush()
        closing = flushed if isinstance(flushed, Deferred) else succeed(None)
        return closing.addErrback(unheard).addCallback(self._end)

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
        """Wait until all that was asked for so far is answered. Fails with ``StoreDown``.

        So it does while Redis takes no writes.
        """
        if self._connection is None:
            return fail(StoreDown())
        if not self._connection.waiting:
            return None
        # Not PING, which Redis 6 refuses while it cannot save.
        return self._connection.ask("ECHO", "").addCallback(self._flushed)

    def _flushed(self, _: bytes) -> None:
        if not self.can_write:
            raise WritesRefused

    @property
    def can_write(self) -> bool:
        """Whether Redis takes writes, as far as it has said: without memory it takes all but pushes."""
        return self.refusal in {"", "OOM"}

    # -- the connection

    @property
    def usage(self) -> Usage:
        """What the mailboxes held at the last answer."""
        return Usage(*self._held, *self.leases)

    @property
    def is_up(self) -> bool:
        """Whether Redis is reached."""
        return self._connection is not None

    def reconnect(self, why: str = "") -> None:
        """Let go of the connection, and make another one; ``why`` is for the log."""
        if self._connection is not None:
            self._why_lost = why and f" ({why})"
            self._connection.end()

    async def _stay_connected(self) -> None:
        """Connect, and connect again, for as long as the link is open."""
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
                return  # the link was closed
            except Exception as error:  # noqa: BLE001  whatever it was, it is tried again
                if self._is_unusable(error):
                    return
                await deferLater(self._clock, pause(failures))
                failures += 1
            else:
                failures = 0
                await connection.ended
                self._connection = self._listening = None
                self.on_lost()
                why, self._why_lost = self._why_lost, ""
                if not self._closing:
                    self.log.error(_AWAY, address=self.address, why=why)

    async def _enter(self, connection: RedisConnection) -> None:
        """Authenticate, check what Redis this is, and enter the log."""
        try:
            await self._greet(connection)
        except BaseException:
            self._listening = None
            connection.end()
            raise

    async def _greet(self, connection: RedisConnection) -> None:
        address = self.address
        words: list[Any] = ["HELLO", 3]
        if address.password:
            words += ["AUTH", address.username or "default", address.password]
        hello = await connection.ask(*words)
        if hello.get(b"role") != b"master":
            raise StoreDown(f"The Redis at {address} is a replica, and not the master.")
        if address.database:
            await connection.ask("SELECT", address.database)
        if _version(hello[b"version"]) < _OLDEST:
            raise CommandRefused(f"it has version {hello[b'version'].decode()}, and 6.2 is needed")
        info = await connection.ask("INFO", "server")
        self._run = bytes(info).partition(b"run_id:")[2].split()[0].decode()
        for verb, text in self._scripts.items():
            self._shas[verb] = (await connection.ask("SCRIPT", "LOAD", text)).decode()
        connection.published = self.on_published
        connection.subscribe("SUBSCRIBE", *[self.prefix + channel for channel in self.channels()])
        self._listening = connection
        # What is forbidden is to be known now, because Redis names the command. UNSUBSCRIBE has no reply, so
        # its error is that of the next command.
        connection.subscribe("UNSUBSCRIBE", f"{self.prefix}none")
        await connection.ask("ECHO", "")
        await connection.ask("GET", f"{self.prefix}record:none:")
        await connection.ask("ZCOUNT", f"{self.prefix}records:none", 1, 2)
        await connection.ask("ZSCAN", f"{self.prefix}records:none", 0)
        await connection.ask("PUBSUB", "NUMSUB", f"{self.prefix}none")
        lacks = await connection.ask("EVALSHA", self._shas["lacks"], 1, self._counts)
        if lacks:
            raise CommandRefused(f"its user lacks the ACL rules {lacks.decode()} (docs/redis.md lists all)")
        await self._attach(connection)
        self._connection = connection
        self._entered()

    async def _attach(self, connection: RedisConnection) -> None:
        """Enter the log. Where that cannot be written, it is to be done again before anything is pushed."""
        words = [DOUBLE.pack(0.0), self._run, *self._heard, self.newest, new_epoch()]
        asked = self._clock.seconds()
        reply = await connection.ask("EVALSHA", self._shas["attach"], 1, self._counts, *words)
        if reply[0] == b"layout":
            raise CommandRefused(_LAYOUT.format(prefix=self.prefix, theirs=reply[1].decode(), ours=LAYOUT))
        if reply[0] != b"ok":
            raise StoreDown(_said(reply[1]))
        epoch, run, time = (word.decode() for word in reply[6:])
        self.epoch, self._epoch = epoch, epoch.encode()
        self.offset = float(time) - (asked + self._clock.seconds()) / 2  # half of the time was the way back
        self._has_attached = not reply[5]
        if self._has_attached:
            self._heard, self.newest = (epoch, run), 0
        self._learn(reply)

    def _entered(self) -> None:
        self.log.info("The store {address} is connected.", address=self.address)
        self._unusable_said = ""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.callback(None)
        self.on_entered()
        self.on_connected()

    def _is_unusable(self, error: Exception) -> bool:
        """Whether the store cannot be opened: then ``open`` fails with the reason.

        A store that has been open is tried until it can be used again; the log says once why it cannot.
        """
        opened = self._opened
        if isinstance(error, CommandRefused) and error.code not in _TRANSIENT:
            sentence = f"The store {self.address} cannot be used: {error}."
            if opened is not None:
                self._opened = None
                opened.errback(StoreUnusable(sentence))
                return True
            if sentence != self._unusable_said:
                self._unusable_said = sentence
                self.log.error("{sentence}", sentence=sentence)
        if opened is None:
            return False
        if not self._said:
            self._said = True
            self.log.error(_NOT_YET, address=self.address, error=error)
        return False

    # -- what is asked

    def run(self, now: float, verb: str, names: Sequence[str], *words: Any) -> Deferred[list[Any]]:
        """Run the script of a verb, which is about the mailboxes of ``names``; fires with what it answers.

        Fails with ``StoreDown`` and what the verbs say.
        """
        connection = self._connection
        if connection is None:
            return fail(StoreDown())
        keys = [self._counts, *[self._box + name for name in names]]
        stamp = DOUBLE.pack(now + self.offset) + self._epoch
        prelude = self._prelude if self.reaches_others and verb == "append" else b""
        asked = connection.ask("EVALSHA", self._shas[verb], len(keys), *keys, stamp, *words, prelude=prelude)
        return asked.addCallbacks(self._answered, self._refused)

    def ask(self, *words: Any) -> Deferred[Any]:
        """Return the reply to one command. Fails with ``StoreDown``."""
        if self._connection is None:
            return fail(StoreDown())
        return self._connection.ask(*words).addErrback(self._refused)

    def publish(self, channel: str, said: str | bytes) -> Deferred[int]:
        """Publish on a channel; fires with how many subscribers received it. Fails with ``StoreDown``."""
        return self.ask("PUBLISH", self.prefix + channel, said)

    def subscribe(self, verb: str, channels: list[str]) -> None:
        """``SUBSCRIBE`` or ``UNSUBSCRIBE``, if Redis is reached."""
        if channels and self._listening is not None:
            self._listening.subscribe(verb, *[self.prefix + channel for channel in channels])

    def _answered(self, reply: list[Any]) -> list[Any]:
        status = reply[0]
        if status == b"ok":
            self._learn(reply)
            return reply[6:]
        rest = reply[1:]
        if status == b"refused":
            said, freed = rest
            if not freed:
                self._hear(said)
            raise WritesRefused(freed)
        error = refusal(status, rest[0] if rest else b"", self._limits, self.bounds_of)
        if error is not None:
            raise error
        # The log is not the one that was entered: Redis was emptied. The link enters the new one.
        self.reconnect()
        raise StoreDown

    def _refused(self, failure: Failure) -> Failure:
        """Translate an error of Redis."""
        error = failure.value
        if not isinstance(error, CommandRefused):
            return failure
        if error.code not in _TRANSIENT | {"NOSCRIPT"}:
            self.log.error("The store {address} says: {error}", address=self.address, error=error)
        self.reconnect()
        return Failure(StoreDown())

    def _learn(self, reply: list[Any]) -> None:
        """Take in what stands in front of each answer; see ``answer`` in ``lua/keeping.lua``."""
        sequence, said = reply[1], reply[5]
        self._held = reply[2:5]
        if sequence > self.newest and self._has_attached:
            self.newest = sequence
        if said and (self.refusal or said != b"ok"):
            self._hear(said)

    def _hear(self, said: bytes) -> None:
        """Take in what Redis has said of writes: an error, or ``ok`` after one."""
        if said == b"ok":
            self._takes_pushes()
            return
        text = _said(said)
        code = text.partition(" ")[0]
        if code in _TRANSIENT:
            self.reconnect(text)
            return
        is_new = code != self.refusal
        self.refusal = code
        now = self._clock.seconds()
        if is_new and now >= self._refusal_said_at + REDIS_SAID_SECONDS:
            self._refusal_said_at = now
            self._is_refusal_said = True
            needed = _NEEDED.get(code, "it takes writes")
            self.log.error(_REFUSES, address=self.address, needed=needed, said=text)

    def _takes_pushes(self) -> None:
        has_refused, self.refusal = not self.can_write, ""
        if self._is_refusal_said:
            self._is_refusal_said = False
            self.log.info(_TAKES, address=self.address)
        if self._has_attached or self._connection is None:
            if has_refused:
                self.on_writable()
            return
        attached = Deferred.fromCoroutine(self._attach(self._connection))
        attached.addCallbacks(lambda _: self.on_writable(), self._refused).addErrback(unheard)


def unheard(failure: Failure) -> None:
    """Drop a failure that no caller waits for; the link has reported itself that Redis is away."""
    failure.trap(StoreDown)


def _said(said: bytes) -> str:
    """Return what Redis has said to the script, without where and without a full stop."""
    found = _SAID.match(said.decode())
    assert found is not None, "it matches anything"
    return found[1]


def _version(text: bytes) -> tuple[int, ...]:
    return tuple([int(part) for part in text.split(b".")[:2]])


def _was_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)
