"""``SyncClient``: pushes and reads in plain blocking calls, for views, task queues and scripts.

Each call runs a ``Client`` on a ``BlockingLoop`` in the thread that calls. So retries, idempotency, time-outs
and values are the same, and no reactor, event loop or further thread is needed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import wraps
from inspect import signature
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from twisted.internet.defer import Deferred

from ..core.arguments import Recipients
from ..core.message import Cursor, Message
from ..deferreds import Reply
from ..limits import POLL_MESSAGES
from .blocking import BlockingLoop, LoopStopped
from .client import PATIENCE_SECONDS, Client
from .following import Following, OnGap, OnRetry
from .network import CONNECTIONS_KEPT
from .remote import Token, server_url

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    asking: Callable[Concatenate[Client, P], Reply[T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    """Make a method that waits for what a method of ``Client`` replies, and returns or raises it."""

    @wraps(asking)
    def blocking(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._ask(lambda client: asking(client, *args, **kwargs))

    shown = signature(asking)
    returned = str(shown.return_annotation).removeprefix("Reply[").removesuffix("]")
    vars(blocking)["__signature__"] = shown.replace(return_annotation=returned)
    return blocking


class SyncClient:
    """A client of a cometd-lite server whose calls return when they are answered.

    Any number of threads may call it at the same time; each call has a connection of its own, and idle ones
    are kept. It may be made while a module is imported, and before a process forks. It also works in a thread
    in which an event loop runs, which stands still during a call.

    ``url``, ``token`` and ``patience`` are those of ``Client``, and so are the words and errors of each
    method. A function given as ``token`` returns a string. Raises ``ValueError`` for a malformed URL.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        token: str | Callable[[], str] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._url = server_url(url)
        self._token = token
        self._patience = patience
        # Sets and deques do each of these operations at once. A lock might be held while a process forks.
        self._idle: deque[_BlockingClient] = deque()
        self._used: set[_BlockingClient] = set()
        self._closed = False

    @property
    def url(self) -> str:
        """The URL of the server, without a slash at the end."""
        return self._url

    push = _blocking(Client.push)
    poll = _blocking(Client.poll)
    take = _blocking(Client.take)
    lease = _blocking(Client.lease)
    ack = _blocking(Client.ack)
    describe = _blocking(Client.describe)
    presence = _blocking(Client.presence)
    leave = _blocking(Client.leave)
    recipients = _blocking(Client.recipients)
    delete = _blocking(Client.delete)
    request = _blocking(Client.request)

    def follow(
        self,
        recipients: Recipients,
        after: str | Cursor = "now",
        *,
        cursor_file: str | os.PathLike[str] | None = None,
        on_gap: OnGap | None = None,
        on_retry: OnRetry | None = None,
        patience: float | None = None,
        wait: float | None = None,
        limit: int = POLL_MESSAGES,
        stream: bool = False,
        name: str | None = None,
    ) -> SyncFollowing:
        """Yield the recipients' messages as they come, from a cursor on, as ``Client.follow`` does.

        Iterate over it in one thread at a time, and end it by ``with`` or ``close``. ``close`` of the client
        ends it from any thread.
        """
        blocking = self._take_client()
        try:
            following = blocking.client.follow(
                recipients,
                after,
                cursor_file=cursor_file,
                on_gap=on_gap,
                on_retry=on_retry,
                patience=patience,
                wait=wait,
                limit=limit,
                stream=stream,
                name=name,
            )
        except BaseException:
            self._give_back(blocking)
            raise
        return SyncFollowing(following, blocking.loop, lambda: self._give_back(blocking))

    def close(self) -> None:
        """End the calls and followings of all threads, and close the connections.

        A following ends as if there were no more messages; any other call raises ``RuntimeError``.
        """
        self._closed = True
        for used in list(self._used):
            used.loop.stop()
        self._close_idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, ask: Callable[[Client], Deferred[T]]) -> T:
        """Return what a request of a ``Client`` is answered with, or raise its error."""
        blocking = self._take_client()
        try:
            return blocking.loop.run(lambda: ask(blocking.client))
        except LoopStopped:
            raise RuntimeError("This SyncClient was closed by another thread during the call.") from None
        finally:
            self._give_back(blocking)

    def _take_client(self) -> _BlockingClient:
        blocking = self._idle_client() or _BlockingClient(self._url, self._token, self._patience)
        self._used.add(blocking)
        if self._closed:
            self._give_back(blocking)
            raise RuntimeError("This SyncClient is closed; make another one.")
        return blocking

    def _idle_client(self) -> _BlockingClient | None:
        """Return an idle client of this process; close the sockets that are the parent's since a fork."""
        while self._idle:
            try:
                blocking = self._idle.pop()
            except IndexError:  # another thread took it
                break
            if blocking.process == os.getpid():
                return blocking
            blocking.loop.close()
        return None

    def _give_back(self, blocking: _BlockingClient) -> None:
        self._used.discard(blocking)
        if blocking.process != os.getpid() or len(self._idle) >= CONNECTIONS_KEPT:
            blocking.loop.close()
        else:
            self._idle.append(blocking)
        if self._closed:
            self._close_idle()

    def _close_idle(self) -> None:
        while (blocking := self._idle_client()) is not None:
            blocking.loop.close()


class _BlockingClient:
    """A loop, and a client on it: what one call, or one following, has for itself."""

    def __init__(self, url: str, token: Token | None, patience: float) -> None:
        self.process = os.getpid()
        self.loop = BlockingLoop()
        self.client = Client(
            url, token=token, patience=patience, treq=self.loop.network, clock=self.loop.clock
        )


class SyncFollowing:
    """The messages after a cursor as they come, in a ``for`` loop; ``SyncClient.follow`` makes it.

    A message counts as handled when the next one is asked for. Leaving it by ``with`` counts the last one.
    """

    def __init__(self, following: Following, loop: BlockingLoop, ended: Callable[[], None]) -> None:
        self._following = following
        self._loop = loop
        self._on_ended: Callable[[], None] | None = ended

    @property
    def cursor(self) -> Cursor:
        """The cursor up to which messages were handled: where another reader would go on."""
        return self._following.cursor

    def acknowledge(self) -> None:
        """Count the last message as handled, without asking for the next one."""
        self._following.acknowledge()

    def close(self) -> None:
        """End it, and close its connection where it has one of its own."""
        self._following.end()
        self._end()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        """Return the next message once it is there. Raises a ``CometError`` that no retry can change."""
        if self._on_ended is None:
            raise StopIteration
        try:
            return self._loop.run(lambda: anext(self._following))
        except (StopAsyncIteration, LoopStopped):
            self._end()
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on_ended is None:
            return
        try:
            self._loop.run(lambda: Deferred.fromCoroutine(self._following.__aexit__(kind, error, trace)))
        except LoopStopped:
            pass  # what was handled is acknowledged by the next reader's cursor
        finally:
            self._end()

    def __del__(self) -> None:
        """Give the connection back, as after a ``break``."""
        self.close()

    def _end(self) -> None:
        ended, self._on_ended = self._on_ended, None
        if ended is not None:
            ended()
