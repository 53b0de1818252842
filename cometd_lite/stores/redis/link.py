"""The link of one process to its log in Redis: it connects, enters the log, and runs the script.

A link connects again whenever it has lost its connection, for as long as it is open. Each start and failover
of Redis is noted in the log. A process that has heard of a number beyond the end of the run in which it heard
of it knows that messages were lost; the log then goes on far behind, and every reader is told a gap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...core.store import StoreUnusable, Usage
from ...deferreds import MaybeDeferred
from ...errors import StoreDown
from ...limits import REDIS_RETRY_SECONDS, STORE_STALLED_SECONDS, Limits
from ..memory import new_epoch
from .connection import Address, CommandRefused, RedisConnection
from .script import refusal, script

_TRANSIENT = frozenset({"LOADING", "MASTERDOWN", "READONLY", "BUSY", "TRYAGAIN", "CLUSTERDOWN"})
"""Errors of a Redis that starts or follows another one: it may be asked again soon."""

_OLDEST = (6, 2)
_AWAY = "The store {address} is not reached; pushes are refused until it is."
_NOT_YET = "The store {address} is not reached yet ({error}); it is tried until it is there."


class RedisLink:
    """Reaches the log in the Redis at ``address``, and learns from each answer what it holds.

    ``channels`` returns the channels to listen to when the log is entered. ``on_published`` is given what
    comes through them. ``on_entered`` and ``on_lost`` are called when a connection begins and ends.
    """

    log = Logger()

    def __init__(
        self, address: str, limits: Limits, clock: Any, endpoint: IStreamClientEndpoint | None = None
    ) -> None:
        self.address = Address.parse(address)
        self.prefix = self.address.prefix
        self.epoch = ""
        self.offset = 0.0
        """What is added to a time of this process's clock to make it one of Redis' clock."""
        self.usage = Usage()
        """What the mailboxes held at the last answer."""
        self.channels: Callable[[], list[str]] = list
        self.on_published: Callable[[bytes, bytes], None] = lambda _channel, _said: None
        self.on_entered: Callable[[], object] = lambda: None
        self.on_lost: Callable[[], object] = lambda: None
        self._limits = limits
        self._clock = clock
        self._script = script(limits)
        self._sha = ""
        self._endpoint = endpoint or self.address.endpoint(clock)
        self._running: Deferred[None] | None = None
        """What keeps the connection up; fires when that is over."""
        self._connection: RedisConnection | None = None
        self._opened: Deferred[None] | None = None
        self._closing = False
        self._said = False
        """Whether it was said that Redis is not there yet."""
        self._run = ""
        self._newest = 0
        """The last number that this process has heard of, in ``_run``."""

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
        """Wait until all that was asked for so far is answered. Fails with ``StoreDown``."""
        if self._connection is None:
            return fail(StoreDown())
        if not self._connection.waiting:
            return None
        return self._connection.ask("PING").addCallback(lambda _: None)

    # -- the connection

    @property
    def is_up(self) -> bool:
        """Whether Redis is reached."""
        return self._connection is not None

    def reconnect(self) -> None:
        """Let go of the connection, and make another one."""
        if self._connection is not None:
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
                self._connection = None
                self.on_lost()
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
        connection.published = self.on_published
        connection.subscribe("SUBSCRIBE", *[self.prefix + channel for channel in self.channels()])
        words = ["attach", "", "0", run, self.epoch, self._run, self._newest, new_epoch()]
        reply = await connection.ask("EVALSHA", self._sha, 1, self.prefix, *words)
        epoch, self_run, time = reply[2:]
        self.epoch, self._run = epoch.decode(), self_run.decode()
        self.offset = float(time) - self._clock.seconds()
        self._newest = 0
        self._learn(reply[1])
        self._connection = connection
        self._entered()

    def _entered(self) -> None:
        self.log.info("The store {address} is there.", address=self.address)
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.callback(None)
        self.on_entered()

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

    # -- what is asked

    def run(self, now: float, verb: str, *words: Any) -> Deferred[list[Any]]:
        """Run the script; fires with what it answers. Fails with ``StoreDown`` and what the verbs say."""
        connection = self._connection
        if connection is None:
            return fail(StoreDown())
        time = repr(now + self.offset)
        asked = connection.ask("EVALSHA", self._sha, 1, self.prefix, verb, self.epoch, time, *words)
        return asked.addCallbacks(self._answered, self._refused)

    def ask(self, *words: Any) -> Deferred[Any]:
        """Return the reply to one command. Fails with ``StoreDown``."""
        if self._connection is None:
            return fail(StoreDown())
        return self._connection.ask(*words).addErrback(self._refused)

    def publish(self, channel: str, said: str | bytes) -> Deferred[int]:
        """Publish on a channel; fires with how many have heard it. Fails with ``StoreDown``."""
        return self.ask("PUBLISH", self.prefix + channel, said)

    def subscribe(self, verb: str, channels: list[str]) -> None:
        """``SUBSCRIBE`` or ``UNSUBSCRIBE``, if Redis is reached."""
        if channels and self._connection is not None:
            self._connection.subscribe(verb, *[self.prefix + channel for channel in channels])

    def _answered(self, reply: list[Any]) -> list[Any]:
        status, state, *rest = reply
        if status == b"ok":
            self._learn(state)
            return rest
        error = refusal(status, rest[0] if rest else b"", self._limits)
        if error is not None:
            raise error
        # The log is another one than we knew: somebody has emptied Redis. We enter the new one.
        self.reconnect()
        raise StoreDown

    def _refused(self, failure: Failure) -> Failure:
        """Translate an error of Redis."""
        error = failure.value
        if not isinstance(error, CommandRefused):
            return failure
        if error.code in {"OOM", "MISCONF", "NOREPLICAS"}:
            return Failure(StoreDown(f"The store has no room: {error}"))
        if error.code not in _TRANSIENT | {"NOSCRIPT"}:
            self.log.error("The store {address} says: {error}", address=self.address, error=error)
        self.reconnect()
        return Failure(StoreDown())

    def _learn(self, state: list[int]) -> None:
        sequence, mailboxes, messages, memory = state
        self._newest = max(self._newest, sequence)
        self.usage = Usage(mailboxes, messages, memory)


def unheard(failure: Failure) -> None:
    """Drop a failure that no caller waits for; the link has reported itself that Redis is away."""
    failure.trap(StoreDown)


def _version(text: bytes) -> tuple[int, ...]:
    return tuple([int(part) for part in text.split(b".")[:2]])


def _was_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)
