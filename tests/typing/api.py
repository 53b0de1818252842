"""A program that uses every public name, for mypy --strict to read; nobody runs it."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.resource import IResource

import cometd_lite
from cometd_lite import Batch, Client, Comet, Content, Cursor, Limits, Message, Receipt, errors
from cometd_lite.auth import Hosts, Tokens
from cometd_lite.bayeux import Call
from cometd_lite.bayeux import Options as BayeuxOptions
from cometd_lite.client import (
    Answer,
    CursorFile,
    Following,
    Listener,
    NoAnswer,
    NotComet,
    Presence,
    Reply,
    Treq,
    WholeBody,
    is_passing,
)
from cometd_lite.testing import MemoryServer, Outcome

# -- the server as an object

limits = Limits(capacity=100, ttl=3_600.0)


def authorize(request: object, action: str, recipient: str) -> bool:
    return action == "poll" or recipient.startswith("open/")


comet = Comet(
    limits=limits,
    overflow="drop-oldest",
    hosts=Hosts(frozenset({"comet.example"}), loopback_only=True),
    origins=["https://example.org"],
    tokens=Tokens([Path("key.pem")], audience="comet"),
    authorize=authorize,
    bayeux=BayeuxOptions(timeout=20.0),
    metrics=False,
    console=False,
    clock=Clock(),
)
assert_type(comet.resource().isLeaf, bool)


def shout(call: Call) -> str:
    return str(call.data).upper()


comet.service("/service/shout", shout)


async def inside() -> None:
    receipt = await comet.push(["bob", "alice"], {"text": "hi"}, event="greeting", ttl=60, queue=True)
    assert_type(receipt, Receipt)
    batch = await comet.poll("bob", "oldest", wait=5, limit=10)
    assert_type(batch, Batch)
    assert_type(batch.cursor, Cursor)
    assert_type(await comet.take("bob"), Batch)
    standing = await comet.describe("bob")
    assert_type(standing.online, bool)
    await comet.delete("bob")
    async for message in comet.follow("bob", after=batch.cursor):
        assert_type(message, Message)


# -- the client


def told(error: errors.CometError, delay: float) -> None:
    assert_type(is_passing(error), bool)


def lost(after: Cursor) -> None:
    assert_type(str(after), str)


def renewed(listener: Listener) -> None:
    assert_type(listener.id, str)


def token() -> Deferred[str]:
    return Deferred()


async def outside(treq: Treq) -> None:
    async with Client("http://localhost:8080", token=token, patience=5) as client:
        assert_type(client, Client)
        pushing = client.push("bob", b"\x89PNG", type="image/png", idempotency_key="k", on_retry=told)
        assert_type(pushing, Reply[Receipt])
        receipt = await pushing
        assert_type(receipt.ids, tuple[str, ...])
        await client.push(["bob"], Content.of({"a": 1}), overflow="reject", queue=False)
        batch = await client.poll("bob", receipt.id, wait=1.5)
        assert_type(batch.messages, tuple[Message, ...])
        assert_type(await client.take(["bob", "alice"], limit=1), Batch)
        presence = await client.describe("bob")
        assert_type(presence, Presence)
        assert_type(presence.newest, Cursor | None)
        await client.delete("bob")
        answer = await client.request("GET", "healthz")
        assert_type(answer, Answer)
        assert_type(answer.header("date"), str | None)

        following = client.follow(
            ["bob", "chat/**"],
            after="oldest",
            cursor_file=Path("place"),
            on_gap=lost,
            on_retry=told,
            patience=10,
            stream=True,
        )
        assert_type(following, Following)
        async with following as messages:
            async for message in messages:
                assert_type(message, Message)
                assert_type(message.content.form == "json", bool)
        assert_type(following.cursor, Cursor)
        following.acknowledge()
        following.end()
        await following.aclose()

        listener = await client.register(["lobby"], ttl=60)
        assert_type(listener, Listener)
        await listener.change("hall")
        assert_type(await listener.poll(wait=0), Batch)
        async for message in listener.follow(on_gap=lost, on_registered=renewed):
            assert_type(message.recipient, str)
        await listener.end()
    other = Client(treq=treq, clock=Clock())
    await other.close()


def place(file: CursorFile) -> None:
    assert_type(file.load(), Cursor | None)
    file.save(Cursor.parse("oldest"), sync=False)


def what_went_wrong(error: errors.CometError) -> str:
    match error:
        case NoAnswer() | NotComet():
            return "not there"
        case errors.MethodNotAllowed():
            assert_type(error.allowed, tuple[str, ...])
        case errors.Unavailable():
            assert_type(error.retry_after, int | None)
        case errors.BadRequest() | errors.Forbidden():
            return error.detail
    return error.kind


assert_type(WholeBody(b"x").length, int)
assert_type(cometd_lite.__version__, str)


# -- tests of somebody's program


def application(comet: Comet) -> IResource:
    return comet.resource()


def test_a_program() -> None:
    server = MemoryServer(url="http://localhost/", resource=application, limits=limits)
    assert_type(server.result(server.client.push("bob", "hi")), Receipt)
    polling = server.run(server.client.poll("bob", "oldest"))
    assert_type(polling, Outcome[Batch])
    assert_type(polling.waits, bool)
    assert_type(polling.value, Batch)
    polling.cancel()
    server.advance(1.0)
    server.reset()
    server.stop()
    server.start()
    server.flush()
    assert_type(server.parked, int)
    assert_type(server.wall(), float)
    assert_type(server.comet, Comet)
    assert_type(server.treq, Treq)
    server.close()
