"""The hooks of an embedding program: what each is told, when, and that it harms nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import now
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cometd_lite.comet import Comet
from cometd_lite.core.hub import Hub
from cometd_lite.core.message import Message
from cometd_lite.core.registry import Registry
from cometd_lite.errors import Forbidden, InternalError, NobodyWaits
from cometd_lite.testing import MemoryServer

Heard = list[tuple[str, Any]]
Serve = Callable[..., MemoryServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that makes a server with hooks; it is closed, with nothing left, after the test."""
    servers: list[MemoryServer] = []

    def serve(**hooks: Any) -> MemoryServer:
        servers.append(MemoryServer(**hooks))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def listening(heard: Heard, *hooks: str) -> dict[str, Callable[[Any], None]]:
    def hook(name: str) -> Callable[[Any], None]:
        return lambda what: heard.append((name, what.data if isinstance(what, Message) else what))

    return {name: hook(name) for name in hooks or ("on_push", "on_park", "on_leave")}


def test_a_reader_that_is_held_is_told_of_and_so_is_what_ends_it(serve: Serve) -> None:
    heard: Heard = []
    server = serve(**listening(heard))
    server.run(server.client.poll(["bob", "chat/*"], "now"))
    assert heard == [("on_park", ("bob", "chat/*"))]
    server.result(server.client.push("chat/a", "hi"))
    assert heard[1:] == [("on_leave", ("bob", "chat/*")), ("on_push", "hi")]


def test_what_is_answered_at_once_was_never_held(serve: Serve) -> None:
    heard: Heard = []
    server = serve(**listening(heard, "on_park", "on_leave"))
    server.result(server.client.push("bob", "hi"))
    server.result(server.client.poll("bob", "oldest"))
    server.result(server.client.take("alice", wait=0))
    assert heard == []


def test_a_reader_is_told_of_that_leaves_or_whose_wait_is_over(serve: Serve) -> None:
    heard: Heard = []
    server = serve(**listening(heard, "on_leave"))
    polling = server.run(server.client.poll("bob", "now", wait=10))
    polling.cancel()
    server.flush()
    assert heard == [("on_leave", ("bob",))]
    server.run(server.client.take("alice", wait=10))
    server.advance(10)
    assert heard[1:] == [("on_leave", ("alice",))]


def test_every_message_of_a_push_is_told_over_whatever_road_it_came(serve: Serve) -> None:
    heard: list[tuple[str, Any, str | None]] = []
    server = serve(on_push=lambda one: heard.append((one.recipient, one.data, one.event)))
    server.result(server.client.push(["a", "b"], "1\n2\n", type="application/x-ndjson", event="count"))
    server.result(server.comet.push("c", b"\xff"))
    server.flush()
    assert heard == [
        ("a", 1, "count"),
        ("b", 1, "count"),
        ("a", 2, "count"),
        ("b", 2, "count"),
        ("c", b"\xff", None),
    ]


def test_a_push_that_adds_nothing_is_not_told(serve: Serve) -> None:
    heard: Heard = []
    server = serve(**listening(heard, "on_push"))
    for _ in range(2):
        server.result(server.client.push("bob", "once", idempotency_key="k"))
    with pytest.raises(NobodyWaits):
        server.result(server.client.push("eve", "lost", queue=False))
    assert heard == [("on_push", "once")]


def test_a_listener_is_told_of_by_its_id_and_the_servers_own_mailboxes_are_not(serve: Serve) -> None:
    heard: Heard = []
    server = serve(**listening(heard, "on_park"))
    listener = server.result(server.client.register("lobby"))
    server.run(listener.poll())
    assert heard == [("on_park", ("lobby", listener.id))]


def test_a_hook_may_push_and_meets_nothing_that_is_half_done(serve: Serve) -> None:
    # A welcome for everyone who comes: pushed in the middle of parking, it would overtake the reader's look.
    server = serve(on_park=lambda names: server.comet.push(names, f"welcome to {names[0]}"))
    polling = server.run(server.client.poll("lobby", "now"))
    assert [message.data for message in polling.value.messages] == ["welcome to lobby"]


def test_hooks_are_called_in_the_order_in_which_things_happened(clock: Clock) -> None:
    heard: Heard = []
    comet = Comet(clock=clock, **listening(heard))  # type: ignore[arg-type]  # they take what they are told
    poll = comet.poll("bob", "now")
    for text in ("one", "two"):
        now(comet.push("bob", text))
    poll.cancel()
    assert heard == []
    clock.advance(0)
    assert [name for name, _ in heard] == ["on_park", "on_leave", "on_push", "on_push"]
    assert [what for name, what in heard if name == "on_push"] == ["one", "two"]


@pytest.mark.parametrize("kind", ["raises", "fails", "awaits"])
def test_a_hook_that_fails_is_logged_and_harms_no_client(
    serve: Serve, expected_failures: list[type[BaseException]], kind: str
) -> None:
    expected_failures.append(ZeroDivisionError)
    told: list[object] = []

    async def awaits(_: object) -> None:
        raise ZeroDivisionError

    def fails(_: object) -> Deferred[None]:
        failed: Deferred[None] = Deferred()
        failed.errback(ZeroDivisionError())
        return failed

    def hook(what: object) -> object:
        told.append(what)
        return awaits(what) if kind == "awaits" else fails(what) if kind == "fails" else 1 / 0

    server = serve(on_push=hook, on_park=hook, on_leave=hook)
    polling = server.run(server.client.poll("bob", "now"))
    assert server.result(server.client.push("bob", "hi")).delivered == 1
    assert polling.value.messages[0].data == "hi"
    assert len(told) == 3


def test_a_comet_without_hooks_has_the_hub_and_the_registry_that_know_of_none(clock: Clock) -> None:
    comet = Comet(clock=clock)
    assert type(comet.hub) is Hub
    assert type(comet.hub.registry) is Registry
    assert type(Comet(clock=clock, on_push=print).hub.registry) is Registry
    assert type(Comet(clock=clock, on_park=print).hub) is Hub


# -- authorize


def test_a_program_says_who_may_do_what(serve: Serve) -> None:
    asked = []

    def authorize(request: Any, action: str, recipient: str) -> bool | Deferred[bool]:
        asked.append((action, recipient))
        verdict: Deferred[bool] = Deferred()
        verdict.callback(request.getHeader(b"authorization") == b"Bearer let me" and recipient != "secret")
        return verdict

    server = serve(authorize=authorize, token="let me")
    server.result(server.client.push(["bob", "alice"], "hi"))
    server.result(server.client.poll("bob", "oldest"))
    server.result(server.client.delete("bob"))
    assert asked == [("push", "bob"), ("push", "alice"), ("poll", "bob"), ("manage", "bob")]
    for refused in (server.client.push(["bob", "secret"], "hi"), server.client.poll("secret", "oldest")):
        with pytest.raises(Forbidden):
            server.result(refused)


def test_an_authorize_that_fails_lets_no_request_in(
    serve: Serve, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(ZeroDivisionError)
    server = serve(authorize=lambda *_: 1 / 0)
    with pytest.raises(InternalError):
        server.result(server.client.poll("bob", "oldest"))
    assert server.result(server.comet.push("bob", "from inside")).delivered == 0
