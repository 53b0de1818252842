"""A program that uses every public name, for mypy --strict to read; nobody runs it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, assert_type
from wsgiref.types import StartResponse, WSGIEnvironment

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource

import cometd_lite
from cometd_lite import (
    Batch,
    Client,
    Comet,
    Content,
    Cursor,
    LeasedMessage,
    Limits,
    Message,
    Namespace,
    Receipt,
    SyncClient,
    errors,
)
from cometd_lite.access.origins import Hosts
from cometd_lite.access.tokens import Tokens
from cometd_lite.bayeux import BayeuxOptions, Call
from cometd_lite.client import (
    Answer,
    CursorFile,
    Following,
    Listener,
    NoAnswer,
    NotComet,
    Present,
    PresentMember,
    Reply,
    Standing,
    SyncFollowing,
    SyncWorking,
    Treq,
    WholeBody,
    Working,
    is_passing,
)
from cometd_lite.core.leases import LeaseState
from cometd_lite.core.observers import OnPush, OnReader
from cometd_lite.core.store import Listing
from cometd_lite.service import CometService, Options, makeService
from cometd_lite.stores.memory import MemoryStore
from cometd_lite.testing import STARTED_AT, MemoryServer, Outcome

# -- the server as an object

limits = Limits(
    capacity=100,
    capacity_bytes=1_000_000,
    ttl=3_600.0,
    max_attempts=5,
    max_body=10_000,
    max_wait=60.0,
    max_parked=1_000,
    max_recipients=1_000,
    max_sessions=100,
    max_memory=10_000_000,
    max_connections=2_000,
    client_connections=100,
    client_parked=50,
    client_pushes=10,
    client_bytes=100_000,
    client_registrations=10,
)
assert_type(limits.max_body + limits.max_batch + limits.max_parked + limits.max_memory, int)


def authorize(request: object, action: str, recipient: str) -> bool:
    return action == "poll" or recipient.startswith("open/")


def pushed(message: Message) -> None:
    assert_type(message.event, str | None)


async def parked(recipients: tuple[str, ...]) -> None:
    assert_type((await comet.describe(recipients[0])).waiting, int)


on_push: OnPush = pushed
on_park: OnReader = parked

comet = Comet(
    limits=limits,
    store=MemoryStore(limits),
    on_push=on_push,
    on_park=on_park,
    on_leave=len,
    openapi=False,
    proxied=["127.0.0.1"],
    wall=lambda: 0.0,
    overflow="drop-oldest",
    namespaces={
        "chat/**": Namespace(
            capacity=50,
            capacity_bytes=10_000,
            ttl=3_600.0,
            overflow="drop-oldest",
            max_body=1_000,
            presence=True,
            unread_after=60.0,
        )
    },
    hosts=Hosts(frozenset({"comet.example"}), loopback_only=True),
    origins=["https://example.org"],
    allow_parameters=["utm"],
    tokens=Tokens([Path("key.pem")], audience="comet"),
    authorize_url="http://localhost:8000/may",
    notify_url="http://localhost:8000/events",
    notify_key=Path("notify.key"),
    unread_after=3_600,
    authorize=authorize,
    bayeux=BayeuxOptions(timeout=20.0),
    metrics=False,
    console=False,
    presence=True,
    clock=Clock(),
)
assert_type(comet.resource().isLeaf, bool)
comet.start()
assert_type(comet.drain(1.0), Deferred[None])
assert_type(comet.stop(), Deferred[None])
comet.routes.log.info("routes")
assert_type(comet.hub.stopping, bool)


def application_of_wsgi(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    start("200 OK", [])
    return []


service = makeService(Options(), authorize=authorize, on_push=on_push, on_park=on_park, on_leave=len)
assert_type(service, CometService)
assert_type(service.comet, Comet)
beside: IResource = comet.beside(application_of_wsgi, path="comet")


def shout(call: Call) -> str:
    return str(call.data).upper()


comet.service("/service/shout", shout)
assert_type(comet.deliver("client", "/service/shout", "HI"), Reply[bool])


async def inside() -> None:
    pushing = comet.push(["bob", "alice"], {"text": "hi"}, event="greeting", ttl=60, queue=True)
    assert_type(pushing, Reply[Receipt])
    receipt = await pushing
    assert_type(receipt, Receipt)
    batch = await comet.poll("bob", "oldest", wait=5, limit=10)
    assert_type(batch, Batch)
    assert_type(batch.cursor, Cursor)
    assert_type((batch.gap, batch.more), tuple[bool, bool])
    assert_type(batch.parts, tuple[Batch, ...])
    assert_type((batch.json, batch.place, batch.once("n", lambda batch: 1)), tuple[bytes, bytes, int])
    assert_type((batch.cursor.epoch, batch.cursor.sequence), tuple[str, int])
    assert_type((batch.cursor.is_history, batch.cursor.is_relative), tuple[bool, bool])
    assert_type((receipt.delivered, receipt.created_at, receipt.json), tuple[int, float, bytes])
    assert_type(receipt.recipients, tuple[str, ...])
    assert_type(await comet.take("bob"), Batch)
    for job in (await comet.lease("jobs", 30, wait=5, limit=2)).leased:
        assert_type(job, LeasedMessage)
        assert_type((job.lease, job.attempt), tuple[str, int])
        assert await comet.ack(job, extend=60) == "extended"
        assert await comet.ack(job, release=True) in {"released", "gone"}
    page = await comet.recipients("chat/", after="chat/a", limit=10)
    assert_type((page.recipients, page.more), tuple[tuple[Standing, ...], str | None])
    standing = await comet.describe("bob")
    assert_type((standing.online, standing.queued, standing.leased), tuple[bool, int, int])
    assert_type(standing.bytes, int)
    assert_type(standing.oldest or standing.newest, Cursor | None)
    present = await comet.presence("chat/lobby")
    assert_type((present.recipient, present.readers, present.more), tuple[str, int, bool])
    for member in present.members:
        assert_type((member.name, member.since, member.readers), tuple[str, float, int])
    await comet.delete("bob")
    await comet.poll("bob", "oldest", name="bot")
    async for message in comet.follow("bob", after=batch.cursor, name="bot"):
        assert_type(message, Message)
        assert_type((message.recipient, message.event, message.json), tuple[str, str | None, bytes])
        assert_type((message.created_at, message.expires_at), tuple[float, float])
        assert_type((message.id, message.cursor, message.sequence), tuple[str, Cursor, int])
        assert_type((message.content.body, message.content.type), tuple[bytes, str])
        assert_type(message.content.data(), bytes)
    made = Message(batch.cursor, "bob", Content.parse(b"hi", "text/plain"), created_at=0.0, expires_at=1.0)
    assert_type(Batch((made,), made.cursor, gap=False, more=False), Batch)


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
    async with Client("http://localhost:8080", token=token, patience=5, random=Random(1)) as client:
        assert_type(client.url, str)
        pushing = client.push("bob", b"\x89PNG", type="image/png", idempotency_key="k", on_retry=told)
        assert_type(pushing, Reply[Receipt])
        receipt = await pushing
        assert_type(receipt.ids, tuple[str, ...])
        await client.push(["bob"], Content.of({"a": 1}), overflow="reject", queue=False)
        batch = await client.poll("bob", receipt.id, wait=1.5)
        assert_type(batch.messages, tuple[Message, ...])
        assert_type(await client.take(["bob", "alice"], limit=1), Batch)
        for job in (await client.lease("jobs", 30, wait=5, limit=2)).leased:
            assert_type(await client.ack(job, extend=60, patience=5), LeaseState)
            assert_type(await client.ack(job, release=True), LeaseState)
        async with client.work("jobs", 30, on_gone=lambda job: None, on_retry=None) as working:
            assert_type(working, Working)
            async for job in working:
                assert_type(job, LeasedMessage)
                await working.release()
                working.end()
        page = await client.recipients("chat/", after="chat/a", limit=10)
        assert_type(page.recipients[0].queued, int)
        assert_type((page.recipients, page.more), tuple[tuple[Standing, ...], str | None])
        standing = await client.describe("bob")
        assert_type(standing, Standing)
        assert_type((standing.oldest, standing.newest), tuple[Cursor | None, Cursor | None])
        assert_type((standing.waiting, standing.queued, standing.bytes), tuple[int, int, int])
        assert_type((standing.recipient, standing.online), tuple[str, bool])
        assert_type(standing.last_seen, float | None)
        assert_type(await client.presence("chat/lobby"), Present)
        await client.leave("chat/lobby", "alice")
        await client.delete("bob")
        answer = await client.request("GET", "healthz")
        assert_type(answer, Answer)
        assert_type(answer.header("date"), str | None)
        assert_type((answer.status, answer.headers, answer.body), tuple[int, Headers, bytes])
        assert_type(answer.json(), Any)

        following = client.follow(
            ["bob", "chat/**"],
            after="oldest",
            cursor_file=Path("place"),
            on_gap=lost,
            on_retry=told,
            patience=10,
            stream=True,
            name="alice",
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
        assert_type((listener.recipients, listener.expires_in), tuple[tuple[str, ...], float])
        assert_type((listener.cursor, list(listener.query)), tuple[Cursor, list[tuple[str, str]]])
        await listener.change("hall")
        await listener.register_again()
        assert_type(await listener.poll(wait=0), Batch)
        async for message in listener.follow(on_gap=lost, on_registered=renewed):
            assert_type(message.recipient, str)
        await listener.end()
    other = Client(treq=treq, clock=Clock())
    await other.close()


def blocking() -> None:
    with SyncClient("http://localhost:8080", token=lambda: "t", patience=5) as client:
        assert_type(client.url, str)
        assert_type(
            client.push(["bob"], {"a": 1}, event="e", ttl=60, queue=False, overflow="reject"), Receipt
        )
        receipt = client.push("bob", b"x", type="image/png", idempotency_key="k", patience=1, on_retry=told)
        assert_type(client.poll("bob", receipt.id, wait=1.5, limit=10, name="alice"), Batch)
        assert_type(client.take(["bob", "alice"], wait=0, limit=1, name="alice"), Batch)
        for job in client.lease("jobs", 30, wait=5, limit=2).leased:
            assert_type(client.ack(job, extend=60, release=False, patience=5), LeaseState)
        assert_type(client.describe("bob"), Standing)
        assert_type(client.recipients("chat/", after="chat/a", limit=10), Listing[Standing])
        assert_type(client.presence("chat/lobby").members, tuple[PresentMember, ...])
        client.leave("chat/lobby", "alice")
        client.delete("bob")
        assert_type(client.request("GET", "healthz", (), {"Accept": "*/*"}, None), Answer)
        with client.follow(
            "bob",
            "now",
            cursor_file="place",
            on_gap=lost,
            on_retry=told,
            patience=1,
            wait=5,
            limit=1,
            stream=True,
        ) as messages:
            assert_type(messages, SyncFollowing)
            for message in messages:
                assert_type(message, Message)
            messages.acknowledge()
            assert_type(messages.cursor, Cursor)
        messages.close()
        with client.work("jobs", 30, on_gone=lambda job: None, on_retry=told) as jobs:
            assert_type(jobs, SyncWorking)
            for job in jobs:
                assert_type(job, LeasedMessage)
                jobs.release()
        jobs.close()
    client.close()


def place(file: CursorFile) -> None:
    assert_type(file.load(), Cursor | None)
    file.save(Cursor.parse("oldest"), sync=False)


def what_went_wrong(error: errors.CometError) -> str:
    assert_type((error.status, error.problem()), tuple[int, dict[str, Any]])
    match error:
        case NoAnswer() | NotComet() | errors.NotFound() | errors.ListenerGone() | errors.UpgradeRequired():
            return "not there"
        case errors.MethodNotAllowed():
            assert_type(error.allowed, tuple[str, ...])
        case errors.ApplicationDown() | errors.MailboxFull() | errors.ServerFull() | errors.StoreDown():
            assert_type(error.retry_after, int | None)
        case errors.NobodyWaits() | errors.Stopping() | errors.TooManyRequests() | errors.Unavailable():
            return "later"
        case (
            errors.Unauthorized()
            | errors.TokenExpired()
            | errors.UnsupportedEncoding()
            | errors.ForbiddenOrigin()
            | errors.Misdirected()
            | errors.Forbidden()
        ):
            return "not for us"
        case errors.BadRecipient() | errors.BadCursor() | errors.BadParameter() | errors.BadBody():
            return error.detail
        case errors.BodyTooLarge() | errors.KeyReused() | errors.BadRequest() | errors.InternalError():
            return errors.problem_type(errors.kind_of(error.title))
    assert error.kind in errors.kinds()[error.status]
    return error.kind


assert_type(WholeBody(b"x").length, int)
assert_type(cometd_lite.__version__, str)


# -- tests of somebody's program


def application(comet: Comet) -> IResource:
    return comet.resource()


def test_a_program() -> None:
    server = MemoryServer(url="http://localhost/", resource=application, random=Random(1), limits=limits)
    assert server.wall() == STARTED_AT
    assert_type(server.clock, Clock)
    assert_type(server.client, Client)
    assert_type(server.result(server.client.push("bob", "hi")), Receipt)
    polling = server.run(server.client.poll("bob", "oldest"))
    assert_type(polling, Outcome[Batch])
    assert_type(polling.is_pending, bool)
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
