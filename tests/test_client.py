"""The client, over the real routes in memory: each message once and in order, whatever goes wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import jwt
import msgspec
import pytest
from helpers import check_invariants
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL.SSL import Error as TLSError
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, fail
from twisted.internet.error import ConnectionLost, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError
from twisted.web.client import ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

import cometd_lite
from cometd_lite import errors
from cometd_lite.access.tokens import Tokens
from cometd_lite.client import (
    Answer,
    Client,
    CursorFile,
    Following,
    NoAnswer,
    NotComet,
    Reply,
    Treq,
    is_passing,
)
from cometd_lite.client.remote import Remote, refusal
from cometd_lite.client.replies import reply
from cometd_lite.core.message import OLDEST, Content, Cursor, Message
from cometd_lite.core.recipient import recipient
from cometd_lite.errors import (
    BadCursor,
    BadRecipient,
    BodyTooLarge,
    CometError,
    Forbidden,
    KeyReused,
    ListenerGone,
    MailboxFull,
    MethodNotAllowed,
    NobodyWaits,
    NotFound,
    ServerFull,
    Unauthorized,
    Unavailable,
)
from cometd_lite.limits import Limits
from cometd_lite.testing import STARTED_AT, MemoryServer, Outcome


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    server = MemoryServer()
    yield server
    check_invariants(server.comet.hub)
    server.close()


class Reading:
    """A program that follows, and what it was told."""

    def __init__(
        self, server: MemoryServer, recipients: Any = "bob", after: str = "oldest", **words: Any
    ) -> None:
        self.server = server
        self.gaps: list[Cursor] = []
        self.retries: list[tuple[CometError, float]] = []
        self.messages: list[Message] = []
        self.following = server.client.follow(
            recipients,
            after,
            on_gap=self.gaps.append,
            on_retry=lambda error, delay: self.retries.append((error, delay)),
            **words,
        )
        self.outcome: Outcome[None] = server.run(self.read())

    async def read(self) -> None:
        async for message in self.following:
            self.messages.append(message)

    @property
    def data(self) -> list[Any]:
        return [message.data for message in self.messages]


class Between:
    """Stands between a client and its treq: answers what it was told to in the server's place."""

    def __init__(self, treq: Treq) -> None:
        self.treq = treq
        self.answers: list[Callable[[], Deferred[Any]] | None] = []
        """One for each of the next requests; None lets it through."""
        self.lose_answers = 0
        """So many of the next requests arrive, and their answers do not."""
        self.sent: list[tuple[str, str, dict[str, str]]] = []

    def request(self, method: str, url: str, headers: dict[str, str], **words: Any) -> Deferred[Any]:
        self.sent.append((method, url, headers))
        if self.answers:
            answer = self.answers.pop(0)
            if answer is not None:
                return answer()
        response: Deferred[Any] = self.treq.request(method, url, headers=headers, **words)
        if self.lose_answers:
            self.lose_answers -= 1
            response.addCallback(lambda _: Failure(ResponseNeverReceived([Failure(ConnectionLost())])))
        return response

    def fails(self, error: Exception) -> None:
        """Let the next request fail."""
        self.answers.append(lambda: fail(error))


@pytest.fixture
def between(server: MemoryServer) -> Between:
    between = Between(server.treq)
    server.client = Client(treq=between, clock=server.clock, random=Random(1))
    return between


class Leaf(Resource):
    """A resource that answers everything."""

    isLeaf = True


def says(
    status: int, body: bytes = b"", media_type: str = "text/html", **headers: str
) -> Callable[[Any], IResource]:
    """Return what serves one answer to everything."""

    class Says(Leaf):
        def render(self, request: Any) -> bytes:
            request.setResponseCode(status)
            request.setHeader("content-type", media_type)
            for name, value in headers.items():
                request.setHeader(name.replace("_", "-"), value)
            return body

    return lambda _: Says()


# -- push


def test_a_push_is_answered_with_a_receipt_of_the_servers_own_kind(server: MemoryServer) -> None:
    receipt = server.result(server.client.push(["bob", "alice"], {"text": "hi"}))
    assert isinstance(receipt, cometd_lite.Receipt)
    assert receipt.recipients == ("bob", "alice")
    assert len(receipt.ids) == 2
    assert receipt.delivered == 0
    assert receipt.created_at == pytest.approx(1_795_169_758.123)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        ("text", "text/plain; charset=utf-8"),
        (b"\x00\xff", "application/octet-stream"),
        ({"a": [1, None, "ü"]}, "application/json"),
        ([2**64, -(2**70), 10**30], "application/json"),
        (None, "application/json"),
        ("ü\r\n\u2028", "text/plain; charset=utf-8"),
    ],
)
def test_python_values_come_back_as_they_went(server: MemoryServer, data: Any, media_type: str) -> None:
    server.result(server.client.push("bob", data, event="tick"))
    (message,) = server.result(server.client.poll("bob", "oldest")).messages
    assert message.data == data
    assert message.content.type == media_type
    assert message.event == "tick"
    assert message.recipient == "bob"


@pytest.mark.parametrize(
    ("data", "media_type", "back"),
    [
        ('{"a": 1}', "application/json", {"a": 1}),
        (b'"word"', "application/vnd.x+json; v=1", "word"),
        ("<b>", "text/html", "<b>"),
        (b"\x89PNG", "image/png", b"\x89PNG"),
        ("<a/>", "application/xml", b"<a/>"),
        ({"a": 1}, "text/json", {"a": 1}),
    ],
)
def test_a_type_says_what_bytes_or_text_are(
    server: MemoryServer, data: Any, media_type: str, back: Any
) -> None:
    server.result(server.client.push("bob", data, type=media_type))
    (message,) = server.result(server.client.poll("bob", "oldest")).messages
    assert message.data == back
    assert message.content.type == media_type


def test_a_message_read_is_a_message_pushed_on(server: MemoryServer) -> None:
    server.result(server.client.push("bob", b"\x89PNG", type="image/png"))
    (message,) = server.result(server.client.poll("bob", "oldest")).messages
    server.result(server.client.push("alice", message.content))
    (passed_on,) = server.result(server.client.poll("alice", "oldest")).messages
    assert passed_on.content == message.content == Content(b"\x89PNG", "image/png", "octets")


def test_ndjson_is_pushed_as_one_message_a_line(server: MemoryServer) -> None:
    receipt = server.result(server.client.push("bob", '{"a":1}\n"b"\n', type="application/x-ndjson"))
    assert len(receipt.ids) == 2
    batch = server.result(server.client.poll("bob", "oldest"))
    assert [message.data for message in batch.messages] == [{"a": 1}, "b"]


def test_the_words_of_a_push_reach_the_server(server: MemoryServer, between: Between) -> None:
    server.run(server.client.push("bob", "x", event="é t", ttl=0.25, overflow="drop-oldest", queue=False))
    ((method, url, headers),) = between.sent
    assert method == "POST"
    assert url == (
        "http://localhost:8080/push?rcpt=bob&event=%C3%A9%20t&ttl=0.25&queue=no&overflow=drop-oldest"
    )
    assert headers["User-Agent"] == f"cometd-lite/{cometd_lite.__version__}"


@pytest.mark.parametrize(("ttl", "text"), [(300, "300"), (0.0001, "0"), (1e6, "1000000"), (2.5, "2.5")])
def test_seconds_are_never_written_with_an_exponent(
    server: MemoryServer, between: Between, ttl: float, text: str
) -> None:
    server.run(server.client.push("bob", "x", ttl=ttl))
    assert between.sent[0][1].endswith(f"&ttl={text}")


@pytest.mark.parametrize("data", ["", b"", object(), {"a": object()}])
def test_what_is_nothing_to_push_is_a_value_error(server: MemoryServer, data: Any) -> None:
    with pytest.raises(ValueError, match=r"empty|JSON"):
        server.result(server.client.push("bob", data))


def _allowed(name: str) -> bool:
    try:
        return bool(recipient(name))
    except BadRecipient:
        return False


names = st.text(min_size=1, max_size=40).filter(_allowed)


@given(st.lists(names, min_size=1, max_size=3, unique=True))
def test_every_name_that_is_allowed_arrives_as_it_is(names: list[str]) -> None:
    server = MemoryServer()
    assert server.result(server.client.push(names, "hi")).recipients == tuple(names)
    for name in names:
        assert server.result(server.client.describe(name)).recipient == name
    server.close()


def test_a_push_whose_answer_was_lost_is_sent_again_and_counts_once(
    server: MemoryServer, between: Between
) -> None:
    between.lose_answers = 2
    pushing = server.run(server.client.push("bob", "once"))
    assert pushing.is_pending
    server.advance(2)
    assert len(between.sent) == 3
    batch = server.result(server.client.poll("bob", "oldest"))
    assert [message.id for message in batch.messages] == [pushing.value.id]


def test_every_try_of_a_push_has_the_same_key_and_every_push_another(
    server: MemoryServer, between: Between
) -> None:
    between.lose_answers = 1
    server.run(server.client.push("bob", "one"))
    server.advance(1)
    server.run(server.client.push("bob", "two"))
    one, again, two = (headers["Idempotency-Key"] for _, _, headers in between.sent)
    assert one == again != two
    assert len(one) == 32


def test_a_key_that_is_given_is_used_and_with_another_body_refused(server: MemoryServer) -> None:
    first = server.result(server.client.push("bob", "one", idempotency_key="k"))
    assert server.result(server.client.push("bob", "one", idempotency_key="k")) == first
    with pytest.raises(KeyReused):
        server.result(server.client.push("bob", "two", idempotency_key="k"))


def test_a_push_finds_the_server_that_is_started_again(server: MemoryServer) -> None:
    server.stop()
    retries: list[float] = []
    pushing = server.run(server.client.push("bob", "hi", on_retry=lambda _, delay: retries.append(delay)))
    server.advance(5)
    assert pushing.is_pending
    server.start()
    server.advance(5)
    assert pushing.value.ids
    assert retries == sorted(retries), "each pause is longer than the one before"


def test_a_push_gives_up_after_its_patience_with_what_went_wrong_last(server: MemoryServer) -> None:
    server.stop()
    pushing = server.run(server.client.push("bob", "hi", patience=10))
    server.advance(10)
    with pytest.raises(
        NoAnswer, match=r"^No server answers at http://localhost:8080: the connection was refused\.$"
    ):
        _ = pushing.value
    server.start()


def test_a_push_without_patience_is_tried_once_and_has_no_key(server: MemoryServer, between: Between) -> None:
    between.fails(ConnectionLost())
    with pytest.raises(NoAnswer):
        server.result(server.client.push("bob", "hi", patience=0))
    assert len(between.sent) == 1
    assert "Idempotency-Key" not in between.sent[0][2]


def test_a_push_for_this_moment_is_tried_once(server: MemoryServer) -> None:
    with pytest.raises(NobodyWaits):
        server.result(server.client.push("bob", "hi", queue=False))
    polling = server.run(server.client.poll("bob", "oldest"))
    server.result(server.client.push("bob", "hi", queue=False))
    assert polling.value.messages[0].data == "hi"


def test_a_push_to_a_full_mailbox_waits_for_as_long_as_the_server_says() -> None:
    server = MemoryServer(limits=Limits(capacity=1))
    server.result(server.client.push("bob", "one"))
    told: list[tuple[CometError, float]] = []
    pushing = server.run(server.client.push("bob", "two", on_retry=lambda *what: told.append(what)))
    ((error, delay),) = told
    assert isinstance(error, MailboxFull)
    assert error.retry_after is not None
    assert error.retry_after <= delay <= error.retry_after * 1.1
    server.result(server.client.take("bob"))
    server.advance(delay)
    assert pushing.value.ids
    server.close()


def test_a_push_that_would_have_to_wait_past_its_patience_fails_at_once() -> None:
    server = MemoryServer(limits=Limits(capacity=1))
    server.result(server.client.push("bob", "one"))
    with pytest.raises(MailboxFull):
        server.result(server.client.push("bob", "two", patience=2))
    server.close()


@pytest.mark.parametrize("body", ["x" * 70_000])
def test_a_refusal_is_raised_at_once_as_the_servers_own_error(server: MemoryServer, body: str) -> None:
    with pytest.raises(BodyTooLarge, match="65536 bytes"):
        server.result(server.client.push("bob", body))


def test_a_push_that_is_left_ends_its_connection(server: MemoryServer, between: Between) -> None:
    never: Deferred[Any] = Deferred()
    between.answers.append(lambda: never)
    pushing = server.run(server.client.push("bob", "hi"))
    pushing.cancel()
    with pytest.raises(CancelledError):
        _ = pushing.value
    assert never.called, "the request was cancelled"
    assert server.clock.getDelayedCalls() == server.clock.getDelayedCalls()
    server.advance(60)
    assert len(between.sent) == 1, "it is not tried again"


def test_a_push_may_be_cancelled_from_its_on_retry(server: MemoryServer, between: Between) -> None:
    token: Deferred[str] = Deferred()
    client = Client(treq=between, clock=server.clock, token=lambda: token)
    pushing = client.push("bob", "hi", on_retry=lambda *_: pushing.cancel())
    between.fails(ConnectionLost())
    outcome = server.run(pushing)
    token.callback("late, so that the push is there before it fails")
    with pytest.raises(CancelledError):
        _ = outcome.value
    server.advance(60)
    assert len(between.sent) == 1


def test_a_pause_between_two_tries_can_be_left_too(server: MemoryServer, between: Between) -> None:
    between.fails(ConnectionLost())
    pushing = server.run(server.client.push("bob", "hi"))
    pushing.cancel()
    with pytest.raises(CancelledError):
        _ = pushing.value
    server.advance(60)
    assert len(between.sent) == 1


# -- poll and take


def test_a_poll_is_answered_with_a_batch_of_the_servers_own_kind(server: MemoryServer) -> None:
    server.result(server.client.push("bob", "one"))
    server.result(server.client.push("bob", "two"))
    batch = server.result(server.client.poll("bob", "oldest", limit=1))
    assert isinstance(batch, cometd_lite.Batch)
    assert batch.more
    assert not batch.gap
    again = server.result(server.client.poll("bob", batch.cursor))
    assert [message.data for message in again.messages] == ["two"]


def test_messages_over_http_are_those_that_the_comet_itself_gives(server: MemoryServer) -> None:
    server.result(server.client.push("bob", {"a": "ü"}, event="e"))
    (inside,) = server.result(server.comet.poll("bob", "oldest")).messages
    (outside,) = server.result(server.client.poll("bob", "oldest")).messages
    assert outside.json == inside.json
    assert outside.id == inside.id
    assert outside.content == inside.content


def test_a_take_gets_what_no_take_had(server: MemoryServer) -> None:
    server.result(server.client.push("bob", "one"))
    assert [message.data for message in server.result(server.client.take("bob")).messages] == ["one"]
    taking = server.run(server.client.take("bob"))
    assert taking.is_pending
    server.result(server.client.push("bob", "two"))
    assert [message.data for message in taking.value.messages] == ["two"]


def test_a_poll_that_is_left_is_forgotten_by_the_server(server: MemoryServer) -> None:
    polling = server.run(server.client.poll("bob", "oldest"))
    assert server.parked == 1
    polling.cancel()
    server.flush()
    assert server.parked == 0


def test_a_malformed_cursor_is_a_value_error_before_anything_is_sent(server: MemoryServer) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        server.client.poll("bob", "yesterday")
    with pytest.raises(ValueError, match="not a cursor"):
        server.client.follow("bob", "yesterday")


def test_an_answer_that_does_not_come_in_time_is_no_answer(server: MemoryServer, between: Between) -> None:
    never: Deferred[Any] = Deferred()
    between.answers.append(lambda: never)
    polling = server.run(server.client.poll("bob", "oldest", wait=5))
    server.advance(14.9)
    assert polling.is_pending
    server.advance(0.2)
    with pytest.raises(NoAnswer, match="did not answer in time"):
        _ = polling.value


def test_an_answer_that_stops_in_the_middle_is_no_answer() -> None:
    class Stuck(Leaf):
        def render(self, request: Any) -> Any:
            request.setHeader("content-length", "100")
            request.write(b'{"messages":')
            return NOT_DONE_YET

    server = MemoryServer(resource=lambda _: Stuck())
    polling = server.run(server.client.poll("bob", "oldest", wait=5))
    server.advance(16)
    with pytest.raises(NoAnswer, match="did not answer in time"):
        _ = polling.value
    cut_off = server.run(server.client.poll("bob", "oldest", wait=5))
    server.reset()
    with pytest.raises(NoAnswer, match="was lost before the answer"):
        _ = cut_off.value
    server.close()


@pytest.mark.parametrize("status", [204, 304])
def test_an_empty_answer_that_was_made_less_of_on_the_way_is_an_empty_batch(status: int) -> None:
    cursor = "abcdefghij-7"
    server = MemoryServer(resource=says(status))
    assert server.result(server.client.poll("bob", cursor)).cursor == Cursor("abcdefghij", 7)
    server.close()
    server = MemoryServer(resource=says(status, comet_cursor="abcdefghij-9"))
    assert server.result(server.client.poll("bob", cursor)).cursor == Cursor("abcdefghij", 9)
    server.close()


# -- what something else answers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (401, Unauthorized),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
        (408, Unavailable),
        (418, errors.BadRequest),
        (599, errors.InternalError),
    ],
)
def test_what_a_proxy_answers_is_judged_by_its_status(status: int, kind: type[CometError]) -> None:
    server = MemoryServer(resource=says(status, b"<html>"))
    with pytest.raises(kind, match=f"something before it, answered {status}") as raised:
        server.result(server.client.poll("bob", "oldest"))
    assert type(raised.value) is kind
    server.close()


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, b"<html>", "is not a cometd-lite: it answered 200, with text/html"),
        (200, b"[]", "is not a cometd-lite"),
        (200, b'{"messages": [{}], "cursor": "x", "gap": false, "more": false}', "is not a cometd-lite"),
        (302, b"", "is not a cometd-lite: it leads to https://elsewhere.example/"),
    ],
)
def test_what_is_no_comet_is_said_to_be_none(status: int, body: bytes, sentence: str) -> None:
    server = MemoryServer(resource=says(status, body, location="https://elsewhere.example/"))
    with pytest.raises(NotComet, match=sentence):
        server.result(server.client.poll("bob", "oldest"))
    server.close()


def test_a_redirect_is_not_followed_with_a_token_in_hand() -> None:
    server = MemoryServer(token="secret", resource=says(307, location="https://elsewhere.example/push"))
    with pytest.raises(NotComet):
        server.result(server.client.push("bob", "hi"))
    server.close()


def test_an_answer_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cometd_lite.client.remote.ANSWER_BYTES", 1_000)
    server = MemoryServer(resource=says(200, b"x" * 1_001))
    with pytest.raises(NotComet, match="more than 1000 bytes"):
        server.result(server.client.poll("bob", "oldest"))
    server.close()


def problem(kind: type[CometError], **headers: str) -> Answer:
    error = kind("What is wrong.", ("GET",)) if issubclass(kind, MethodNotAllowed) else kind("What is wrong.")
    fields = Headers()
    for name, value in headers.items():
        fields.addRawHeader(name.replace("_", "-"), value)
    return Answer(kind.status, fields, msgspec.json.encode(error.problem()))


def every_kind(root: type[CometError] = CometError) -> Iterator[type[CometError]]:
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            if "kind" in vars(kind) or kind is errors.InternalError:
                yield kind
            yield from every_kind(kind)


@pytest.mark.parametrize("kind", list(every_kind()), ids=lambda kind: kind.kind)
def test_every_error_comes_out_of_its_problem_as_what_it_was(kind: type[CometError]) -> None:
    error = refusal(problem(kind, allow="GET, POST"))
    assert type(error) is kind
    assert error.detail == str(error) == "What is wrong."
    if isinstance(error, MethodNotAllowed):
        assert error.allowed == ("GET", "POST")


def test_a_kind_that_this_client_does_not_know_goes_by_its_status() -> None:
    body = b'{"type": "urn:cometd-lite:problem:of-tomorrow", "title": "?", "status": 503, "detail": "New."}'
    error = refusal(Answer(503, Headers(), body))
    assert type(error) is Unavailable
    assert error.detail == "New."


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after": "Sat, 21 Nov 2026 00:00:10 GMT", "date": "Sat, 21 Nov 2026 00:00:03 GMT"}, 7),
        ({"retry_after": "Sat, 21 Nov 2026 00:00:00 GMT", "date": "Sat, 21 Nov 2026 00:00:03 GMT"}, 0),
        ({"retry_after": "Sat, 21 Nov 2026 00:00:00 GMT"}, None),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_a_number_or_a_date_beside_the_servers_own(
    said: dict[str, str], seconds: int | None
) -> None:
    assert refusal(problem(ServerFull, **said)).retry_after == seconds


@pytest.fixture
def remote() -> Remote:
    return Remote("http://localhost:8080", None, None, Clock(), Random(1))


def test_a_server_may_ask_for_a_pause_of_minutes_and_not_of_days(remote: Remote) -> None:
    error = ServerFull("full")
    error.retry_after = 86_400
    assert 300 <= remote.delay(error, 1) <= 330


def test_pauses_double_with_jitter_up_to_half_a_minute(remote: Remote) -> None:
    for failures in range(1, 40):
        whole = min(30.0, 0.5 * 2 ** (failures - 1))
        pauses = [remote.delay(NoAnswer("gone"), failures) for _ in range(50)]
        assert all(whole / 2 <= pause <= whole for pause in pauses)
        assert len(set(pauses)) == 50, "a thousand clients do not come back at once"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (DNSLookupError(), "No server answers at http://localhost:8080: there is no such host."),
        (
            ConnectTimedOut(),
            "No server answers at http://localhost:8080: it did not accept a connection in time.",
        ),
        (
            OSError(101, "unreachable"),
            "No server answers at http://localhost:8080: unreachable.",
        ),
        (
            ResponseNeverReceived([Failure(TLSError([("SSL routines", "", "certificate verify failed")]))]),
            "The certificate of http://localhost:8080 is not trusted here, or TLS failed: "
            "[('SSL routines', '', 'certificate verify failed')].",
        ),
        (
            ResponseNeverReceived([Failure(ParseError("wrong number of parts", b"SSH-2.0"))]),
            "What answers at http://localhost:8080 does not speak HTTP.",
        ),
        (
            ResponseNeverReceived([Failure(ResponseNeverReceived([Failure(ConnectionLost())]))]),
            "The connection to http://localhost:8080 was lost before the answer was there.",
        ),
    ],
)
def test_what_the_network_does_is_one_sentence(
    server: MemoryServer, between: Between, error: Exception, sentence: str
) -> None:
    between.fails(error)
    with pytest.raises(NoAnswer) as raised:
        server.result(server.client.describe("bob"))
    assert str(raised.value) == sentence
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "http://x/?q=1", "http://x/#f", ""])
def test_what_is_no_url_of_a_server_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match="is no URL of a server"):
        Client(url)


def test_a_slash_at_the_end_of_the_url_makes_no_difference(server: MemoryServer, between: Between) -> None:
    client = Client("http://localhost:8080/comet/", treq=between, clock=server.clock)
    server.run(client.describe("a/b c"))
    assert between.sent[0][1] == "http://localhost:8080/comet/recipients/a/b%20c"


# -- tokens


def test_a_token_goes_along_with_every_request(server: MemoryServer, between: Between) -> None:
    client = Client(treq=between, clock=server.clock, token="t")
    server.run(client.push("bob", "hi"))
    server.run(client.poll("bob", "oldest", wait=0))
    assert {headers["Authorization"] for _, _, headers in between.sent} == {"Bearer t"}


def test_a_function_is_asked_for_a_token_each_time_and_again_when_it_was_refused() -> None:
    tokens = iter(["old", "new", "newer"])
    seen: list[str] = []

    class Guarded(Leaf):
        def render(self, request: Any) -> bytes:
            seen.append(request.getHeader("authorization"))
            request.setResponseCode(401 if seen[-1] == "Bearer old" else 200)
            return b'{"messages":[],"cursor":"abcdefghij-0","gap":false,"more":false}'

    server = MemoryServer(token=lambda: next(tokens), resource=lambda _: Guarded())
    assert not server.result(server.client.poll("bob", "oldest", wait=0))
    assert seen == ["Bearer old", "Bearer new"]
    server.close()


def test_a_token_may_be_on_its_way(server: MemoryServer, between: Between) -> None:
    token: Deferred[str] = Deferred()
    client = Client(treq=between, clock=server.clock, token=lambda: token)
    pushing = server.run(client.push("bob", "hi"))
    assert between.sent == []
    token.callback("late")
    server.flush()
    assert pushing.value.ids
    assert between.sent[0][2]["Authorization"] == "Bearer late"


SECRET = "a secret of thirty-two bytes or so"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[MemoryServer]:
    """Return a server that wants tokens; its client's are good for a minute each, on the server's clock."""
    (tmp_path / "key").write_text(SECRET)
    made: list[MemoryServer] = []

    def wall() -> float:
        return made[0].wall() if made else STARTED_AT

    def token() -> str:
        claims = {"exp": wall() + 60, "push": ["bob"], "poll": ["bob", "alice"], "manage": []}
        return jwt.encode(claims, SECRET, "HS256")

    made.append(MemoryServer(token=token, tokens=Tokens([tmp_path / "key"], wall=wall)))
    yield made[0]
    made[0].close()


def test_a_token_opens_what_it_covers_and_nothing_else(guarded: MemoryServer) -> None:
    guarded.result(guarded.client.push("bob", "hi"))
    with pytest.raises(Forbidden, match="does not cover 'alice'"):
        guarded.result(guarded.client.push("alice", "hi"))
    stranger = Client(treq=guarded.treq, clock=guarded.clock)
    with pytest.raises(Unauthorized):
        guarded.result(stranger.poll("bob", "oldest"))
    forger = Client(treq=guarded.treq, clock=guarded.clock, token=jwt.encode({}, SECRET + "!", "HS256"))
    with pytest.raises(Unauthorized):
        guarded.result(forger.poll("bob", "oldest"))


@pytest.mark.parametrize("stream", [False, True])
def test_a_following_outlives_its_tokens_where_a_function_gives_new_ones(
    guarded: MemoryServer, stream: bool
) -> None:
    reading = Reading(guarded, stream=stream)
    for number in range(10):
        guarded.result(guarded.client.push("bob", number))
        guarded.advance(25)
    assert reading.data == list(range(10))
    assert reading.gaps == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_following_ends_with_the_one_token_that_it_has(guarded: MemoryServer, stream: bool) -> None:
    claims = {"exp": guarded.wall() + 60, "poll": ["bob"]}
    guarded.client = Client(
        treq=guarded.treq, clock=guarded.clock, token=jwt.encode(claims, SECRET, "HS256"), random=Random(1)
    )
    reading = Reading(guarded, stream=stream)
    guarded.advance(59)
    assert reading.outcome.is_pending
    guarded.advance(60)
    with pytest.raises(Unauthorized):
        _ = reading.outcome.value


# -- follow


@pytest.mark.parametrize("stream", [False, True])
def test_a_following_gets_what_was_there_and_what_comes(server: MemoryServer, stream: bool) -> None:
    server.result(server.client.push("bob", 0))
    reading = Reading(server, stream=stream)
    for number in range(1, 5):
        server.result(server.client.push("bob", number))
    assert reading.data == [0, 1, 2, 3, 4]
    assert reading.outcome.is_pending


@pytest.mark.parametrize("stream", [False, True])
def test_now_begins_where_the_server_stands_when_it_is_first_asked(
    server: MemoryServer, stream: bool
) -> None:
    server.result(server.client.push("bob", "before"))
    reading = Reading(server, after="now", stream=stream)
    server.reset()  # what is pushed while nobody is connected must not fall before a later "now"
    server.result(server.client.push("bob", "while it was cut off"))
    server.advance(2)
    assert reading.data == ["while it was cut off"]
    assert reading.gaps == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after", ["last:2", "since:60"])
def test_a_following_begins_with_a_history_and_misses_nothing_from_then_on(
    server: MemoryServer, after: str, stream: bool
) -> None:
    server.result(server.client.push("bob", "long ago"))
    server.advance(100)
    for number in (1, 2):
        server.result(server.client.push("bob", number))
    reading = Reading(server, after=after, stream=stream)
    empty = Reading(server, "eve", after=after, stream=stream)
    server.reset()
    for number in (3, 4, 5):
        server.result(server.client.push(["bob", "eve"], number))
    server.advance(2)
    assert reading.data == [1, 2, 3, 4, 5]
    assert empty.data == [3, 4, 5]
    assert reading.gaps == empty.gaps == []


@pytest.mark.parametrize("stream", [False, True])
def test_several_recipients_and_patterns_are_one_following_in_one_order(
    server: MemoryServer, stream: bool
) -> None:
    reading = Reading(server, ["bob", "chat/**"], stream=stream)
    for name in ("chat/a", "bob", "chat/a/b", "alice", "bob"):
        server.result(server.client.push(name, name))
    assert [message.recipient for message in reading.messages] == ["chat/a", "bob", "chat/a/b", "bob"]


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_lost_or_told_twice_when_connections_are_lost_at_any_moment(
    server: MemoryServer, stream: bool
) -> None:
    reading = Reading(server, stream=stream)
    random = Random(7)
    for number in range(60):
        server.result(server.client.push("bob", number))
        if random.random() < 0.5:
            server.reset()
        server.advance(random.random() * 2)
    server.advance(60)
    assert reading.data == list(range(60))
    assert reading.gaps == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_restart_without_a_durable_store_is_a_gap_and_the_following_goes_on(
    server: MemoryServer, stream: bool
) -> None:
    reading = Reading(server, stream=stream)
    receipt = server.result(server.client.push("bob", "old"))
    server.stop()
    server.advance(5)
    server.start()
    pushing = server.run(server.client.push("bob", "new"))
    server.advance(60)
    assert pushing.value.ids
    assert reading.data == ["old", "new"]
    assert [str(after) for after in reading.gaps] == [receipt.id]
    assert all(isinstance(error, NoAnswer) for error, _ in reading.retries)


@pytest.mark.parametrize("stream", [False, True])
def test_a_restart_is_told_once_even_where_nothing_is_pushed_afterwards(
    server: MemoryServer, stream: bool
) -> None:
    reading = Reading(server, stream=stream)
    server.result(server.client.push("bob", "old"))
    server.stop()
    server.start()
    server.advance(200)
    assert len(reading.gaps) == 1
    server.reset()
    server.advance(200)
    assert len(reading.gaps) == 1


def test_messages_that_were_dropped_are_a_gap_and_what_is_kept_follows() -> None:
    server = MemoryServer(limits=Limits(capacity=2), overflow="drop-oldest")
    first = server.result(server.client.push("bob", 0))
    for number in range(1, 5):
        server.result(server.client.push("bob", number))
    reading = Reading(server, after=first.id)
    assert reading.data == [3, 4]
    assert [str(after) for after in reading.gaps] == [first.id]
    server.close()


def test_a_gap_between_two_messages_of_a_stream_is_told_between_them() -> None:
    lines = [
        b'{"id":"abcdefghij-1","recipient":"b","created_at":"2026-11-20T10:15:58.123Z","type":"text/plain","data":"1"}',
        b'{"gap":true}',
        b'{"id":"abcdefghij-9","recipient":"b","created_at":"2026-11-20T10:15:58.123Z","type":"text/plain","data":"9"}',
    ]
    server = MemoryServer(resource=lambda _: Streaming(b"\n".join(lines) + b"\n"))
    told: list[str] = []

    async def read() -> None:
        following = server.client.follow(
            "b", "oldest", stream=True, on_gap=lambda after: told.append(f"gap {after}")
        )
        async for message in following:
            told.append(message.data)  # noqa: PERF401  they are to be seen as they come

    server.run(read())
    assert told == ["1", "gap abcdefghij-1", "9"]
    server.close()


def test_a_stream_that_tells_a_gap_and_no_message_tells_the_place_to_go_on_from(server: MemoryServer) -> None:
    following = server.client.follow("bob", "zzzzzzzzzz-5", stream=True)
    server.run(anext(following))
    server.result(server.client.push("alice", "not for bob"))
    place = server.result(server.client.poll("bob", "now", wait=0)).cursor
    assert following.cursor.epoch == place.epoch


class Streaming(Leaf):
    """Answers polls with nothing, and a stream with what it was given; then it falls silent."""

    def __init__(self, stream: bytes, media_type: bytes = b"application/x-ndjson") -> None:
        super().__init__()
        self.stream = stream
        self.media_type = media_type
        self.streams: list[Any] = []

    def render(self, request: Any) -> Any:
        if request.path == b"/poll":
            return b'{"messages":[],"cursor":"abcdefghij-0","gap":false,"more":false}'
        request.setHeader("content-type", self.media_type)
        request.write(self.stream)
        self.streams.append(request)
        request.notifyFinish().addErrback(lambda _: None)
        return NOT_DONE_YET


def test_a_stream_that_falls_silent_is_asked_for_again() -> None:
    resource = Streaming(b'{"heartbeat":true}\n')
    server = MemoryServer(resource=lambda _: resource)
    reading = Reading(server, stream=True)
    server.advance(39)
    assert len(resource.streams) == 1
    resource.streams[0].write(b'{"heartbeat":true}\n')
    server.advance(39)
    assert len(resource.streams) == 1, "a heartbeat is a sign of life"
    server.advance(3)
    assert len(resource.streams) == 2
    assert "fell silent" in str(reading.retries[0][0])
    server.close()


@pytest.mark.parametrize("stream", [b"<html>\n", b'{"id":"x"}\n', b"[]\n", b"7\n"])
def test_a_stream_of_something_else_ends_the_connection_and_is_tried_again(stream: bytes) -> None:
    resource = Streaming(stream)
    server = MemoryServer(resource=lambda _: resource)
    reading = Reading(server, stream=True)
    assert isinstance(reading.retries[0][0], NotComet)
    server.close()


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cometd_lite.client.streams.ANSWER_BYTES", 100)
    server = MemoryServer(resource=lambda _: Streaming(b"x" * 101))
    reading = Reading(server, stream=True)
    assert "a line of more than 100 bytes" in str(reading.retries[0][0])
    server.close()


def test_a_stream_where_there_are_none_is_an_error_that_says_so() -> None:
    class NoStreams(Streaming):
        def render(self, request: Any) -> Any:
            if request.path == b"/stream":
                request.setResponseCode(404)
                return b"nothing here"
            return super().render(request)

    server = MemoryServer(resource=lambda _: NoStreams(b""))
    reading = Reading(server, stream=True)
    with pytest.raises(NotFound):
        _ = reading.outcome.value
    server.close()


def test_a_stream_is_bounded_by_pausing_what_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cometd_lite.client.streams.STREAM_AHEAD", 3)
    server = MemoryServer()
    calls: list[str] = []
    monkeypatch.setattr("twisted.test.iosim.FakeTransport.pauseProducing", lambda _: calls.append("pause"))
    monkeypatch.setattr("twisted.test.iosim.FakeTransport.resumeProducing", lambda _: calls.append("resume"))
    following = server.client.follow("bob", "oldest", stream=True)
    waiting = server.run(anext(following))
    for number in range(6):
        server.result(server.client.push("bob", number))
    assert waiting.value.data == 0
    assert "pause" in calls
    calls.clear()
    server.advance(100)  # heartbeats go unread meanwhile, and silence is not death
    assert [server.result(anext(following)).data for _ in range(5)] == [1, 2, 3, 4, 5]
    assert "resume" in calls
    server.close()


def test_a_refusal_that_no_retry_can_change_is_raised_and_ends_it(server: MemoryServer) -> None:
    reading = Reading(server, "//")
    with pytest.raises(BadRecipient):
        _ = reading.outcome.value
    with pytest.raises(StopAsyncIteration):
        server.result(anext(reading.following))


def test_another_page_at_the_url_is_an_error_at_first_and_a_failure_later(
    server: MemoryServer, between: Between
) -> None:
    def page() -> Deferred[Any]:
        return says_page.treq.request("GET", "http://localhost:8080/", unbuffered=True)

    says_page = MemoryServer(resource=says(200, b"<html>"))
    between.answers.append(page)
    first = Reading(server)
    says_page.flush()
    with pytest.raises(NotComet):
        _ = first.outcome.value
    later = Reading(server)
    between.answers.append(page)
    server.reset()
    server.advance(0.5)
    says_page.flush()
    server.advance(5)
    server.result(server.client.push("bob", "hi"))
    assert later.data == ["hi"]
    says_page.close()


def test_a_server_that_is_not_there_is_waited_for_unless_there_is_no_patience(server: MemoryServer) -> None:
    server.stop()
    patient, impatient = Reading(server), Reading(server, patience=5)
    server.advance(5)
    with pytest.raises(NoAnswer):
        _ = impatient.outcome.value
    assert patient.outcome.is_pending
    server.start()
    server.result(server.client.push("bob", "hi"))
    server.advance(30)
    assert patient.data == ["hi"]


def test_patience_is_for_the_first_answer_only(server: MemoryServer) -> None:
    reading = Reading(server, patience=5)
    server.stop()
    server.advance(600)
    server.start()
    server.result(server.client.push("bob", "hi"))
    server.advance(30)
    assert reading.data == ["hi"]


def test_a_full_server_is_asked_again_when_it_said_so(server: MemoryServer) -> None:
    full = MemoryServer(limits=Limits(max_parked=1))
    full.run(full.client.poll("alice", "oldest", wait=100))
    reading = Reading(full)
    ((error, delay),) = reading.retries
    assert isinstance(error, ServerFull)
    assert error.retry_after is not None
    assert delay >= error.retry_after
    full.close()


def test_a_proxy_that_cuts_off_every_held_poll_costs_half_a_second_each_time(server: MemoryServer) -> None:
    # Failures must not add up to half a minute: the server is there, and answers what is not held.
    reading = Reading(server)
    for _ in range(20):
        server.advance(8)
        assert server.parked == 1
        server.reset()
        server.advance(0.6)
    server.result(server.client.push("bob", "hi"))
    assert reading.data == ["hi"]
    assert max(delay for _, delay in reading.retries) <= 0.5


def test_empty_answers_that_come_at_once_do_not_make_it_spin() -> None:
    empty = b'{"messages":[],"cursor":"abcdefghij-0","gap":false,"more":false}'
    server = MemoryServer(resource=says(200, empty))
    between = Between(server.treq)
    server.client = Client(treq=between, clock=server.clock)
    server.run(anext(server.client.follow("bob")))
    server.advance(20)
    assert 20 <= len(between.sent) <= 42
    server.close()


def test_the_poll_asks_for_no_wait_so_that_a_server_with_a_shorter_one_does_not_refuse() -> None:
    server = MemoryServer(limits=Limits(max_wait=5))
    reading = Reading(server)
    server.advance(30)
    server.result(server.client.push("bob", "hi"))
    assert reading.data == ["hi"]
    assert reading.retries == []
    server.close()


def test_who_waits_for_the_next_message_may_leave_and_wait_again(server: MemoryServer) -> None:
    following = server.client.follow("bob", "oldest")
    for _ in range(3):
        waiting = server.run(anext(following))
        waiting.cancel()
        with pytest.raises(CancelledError):
            _ = waiting.value
    server.flush()
    assert server.parked == 0
    server.result(server.client.push("bob", "hi"))
    assert server.result(anext(following)).data == "hi"


def test_a_stream_stays_open_where_who_waits_leaves_and_loses_nothing(server: MemoryServer) -> None:
    following = server.client.follow("bob", "oldest", stream=True)
    server.run(anext(following)).cancel()
    server.result(server.client.push("bob", "one"))
    server.run(anext(following))
    left = server.run(anext(following))
    assert left.is_pending
    left.cancel()
    server.result(server.client.push("bob", "two"))
    assert server.result(anext(following)).data == "two"
    assert server.parked == 1
    server.result(following.aclose())
    server.flush()
    assert server.parked == 0


def test_a_coroutine_that_follows_is_stopped_by_cancelling_it(server: MemoryServer) -> None:
    reading = Reading(server)
    assert server.parked == 1
    reading.outcome.cancel()
    server.flush()
    with pytest.raises(CancelledError):
        _ = reading.outcome.value
    assert server.parked == 0


@pytest.mark.parametrize("stream", [False, True])
def test_aclose_ends_the_loop_of_its_reader(server: MemoryServer, stream: bool) -> None:
    reading = Reading(server, stream=stream)
    server.result(reading.following.aclose())
    assert reading.outcome.value is None
    server.flush()
    assert server.parked == 0
    server.result(reading.following.aclose())


def test_closing_the_client_ends_what_it_follows(server: MemoryServer) -> None:
    readings = [Reading(server), Reading(server, stream=True)]
    server.result(server.client.close())
    assert [reading.outcome.value for reading in readings] == [None, None]


def test_no_message_comes_after_the_end(server: MemoryServer) -> None:
    for number in range(3):
        server.result(server.client.push("bob", number))
    following = server.client.follow("bob", "oldest")
    server.result(anext(following))
    following.end()
    with pytest.raises(StopAsyncIteration):
        server.result(anext(following))


def test_a_loop_over_a_stream_that_is_left_by_break_leaves_nothing_open(server: MemoryServer) -> None:
    server.result(server.client.push("bob", "hi"))

    async def first() -> Any:
        async for message in server.client.follow("bob", "oldest", stream=True):
            return message.data
        return None

    assert server.result(first()) == "hi"
    server.flush()
    assert server.parked == 0


def test_two_cannot_wait_for_the_next_message_of_one_following(server: MemoryServer) -> None:
    following = server.client.follow("bob")
    server.run(anext(following))
    with pytest.raises(RuntimeError, match="is awaited already"):
        anext(following)


def test_a_following_may_be_ended_by_what_it_calls(server: MemoryServer) -> None:
    following = server.client.follow("bob", "zzzzzzzzzz-1", on_gap=lambda _: following.end())
    with pytest.raises(StopAsyncIteration):
        server.result(anext(following))
    server.stop()
    again = server.client.follow("bob", on_retry=lambda *_: again.end())
    with pytest.raises(StopAsyncIteration):
        server.result(anext(again))
    server.start()


def test_an_error_in_on_gap_reaches_who_reads_and_nothing_is_lost_by_it(server: MemoryServer) -> None:
    server.result(server.client.push("bob", "hi"))
    told: list[Cursor] = []

    def on_gap(after: Cursor) -> None:
        told.append(after)
        if len(told) == 1:
            raise LookupError

    following = server.client.follow("bob", "zzzzzzzzzz-5", on_gap=on_gap)
    with pytest.raises(LookupError):
        server.result(anext(following))
    assert server.result(anext(following)).data == "hi"


# -- the place of a following


def test_the_cursor_moves_when_the_next_message_is_asked_for(server: MemoryServer) -> None:
    one, two = [server.result(server.client.push("bob", number)).id for number in range(2)]
    following = server.client.follow("bob", "oldest")
    server.result(anext(following))
    assert str(following.cursor) == "oldest"
    server.result(anext(following))
    assert str(following.cursor) == one
    following.acknowledge()
    assert str(following.cursor) == two


def test_a_program_that_ends_in_the_middle_of_a_message_is_given_it_again(
    server: MemoryServer, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    for number in range(4):
        server.result(server.client.push("bob", number))

    async def read(fail_at: int | None) -> list[Any]:
        handled = []
        async with server.client.follow("bob", "oldest", cursor_file=place) as messages:
            async for message in messages:
                if message.data == fail_at:
                    raise LookupError
                handled.append(message.data)
                if message.data == 3:
                    break
        return handled

    with pytest.raises(LookupError):
        server.result(read(fail_at=2))
    assert server.result(read(fail_at=None)) == [2, 3]
    server.result(server.client.push("bob", 4))
    following = server.client.follow("bob", "oldest", cursor_file=place)
    assert server.result(anext(following)).data == 4, "left without an error, the last one was handled"


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_handled_makes_room_also_where_no_reader_goes_on(stream: bool) -> None:
    server = MemoryServer(limits=Limits(capacity=2))

    async def one() -> Any:
        async with server.client.follow("bob", "oldest", stream=stream) as messages:
            return (await anext(messages)).data

    server.result(server.client.push("bob", "one"))
    server.result(server.client.push("bob", "two"))
    assert server.result(one()) == "one"
    assert server.result(server.client.describe("bob")).queued == 1
    server.result(server.client.push("bob", "three"))
    server.close()


def test_leaving_does_not_wait_for_a_server_that_is_gone(server: MemoryServer, between: Between) -> None:
    async def one() -> Any:
        async with server.client.follow("bob", "oldest") as messages:
            return (await anext(messages)).data

    server.result(server.client.push("bob", "one"))
    never: Deferred[Any] = Deferred()
    between.answers += [None, lambda: never]
    leaving = server.run(one())
    assert leaving.is_pending
    server.advance(2)
    assert leaving.value == "one"


def test_a_place_is_written_before_the_first_message_so_that_now_stays_then(
    server: MemoryServer, tmp_path: Path
) -> None:
    # binwiederhier/ntfy#1895: a client that came back without its place lost what was sent meanwhile.
    place = tmp_path / "place"
    following = server.client.follow("bob", "now", cursor_file=place)
    waiting = server.run(anext(following))
    assert waiting.is_pending
    assert place.read_text() == f"{following.cursor}\n"
    server.result(following.aclose())
    server.result(server.client.push("bob", "while it was away"))
    again = server.client.follow("bob", "now", cursor_file=place)
    assert server.result(anext(again)).data == "while it was away"


def test_a_gap_moves_the_place_in_the_file_too(server: MemoryServer, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.write_text("zzzzzzzzzz-5\n")
    server.run(anext(server.client.follow("bob", cursor_file=place)))
    assert not place.read_text().startswith("zzzzzzzzzz")


def test_the_place_is_on_the_disk_before_the_server_is_told_of_it(
    server: MemoryServer, between: Between, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(len(between.sent)))
    for number in range(3):
        server.result(server.client.push("bob", number))
    between.sent.clear()
    following = server.client.follow("bob", "oldest", cursor_file=tmp_path / "place")
    for _ in range(3):
        server.result(anext(following))
    assert synced == [], "in the middle of an answer, that it is in the file is enough"
    server.run(anext(following))
    assert synced == [1], "once, between the first poll and the second"


@pytest.mark.parametrize("text", ["", "\n", "oldest\n"])
def test_an_empty_cursor_file_is_everything_that_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "place").write_text(text)
    assert CursorFile(tmp_path / "place").load() == OLDEST


def test_a_file_of_something_else_is_refused_by_its_name(server: MemoryServer, tmp_path: Path) -> None:
    (tmp_path / "place").write_bytes(b"\xff dear diary")
    with pytest.raises(ValueError, match=r"place holds no cursor; remove it to begin anew"):
        server.client.follow("bob", cursor_file=tmp_path / "place")


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = CursorFile(tmp_path / "place")
    file.save(Cursor("abcdefghij", 1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        file.save(Cursor("abcdefghij", 2))
    assert file.load() == Cursor("abcdefghij", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


# -- listeners


def test_a_listener_reads_its_recipients_and_its_own_id(server: MemoryServer) -> None:
    listener = server.result(server.client.register(["lobby"], ttl=60))
    assert listener.recipients == ("lobby",)
    assert listener.expires_in == 60
    server.result(server.client.push("lobby", "to all"))
    server.result(server.client.push(listener.id, "to you"))
    batch = server.result(listener.poll())
    assert [message.data for message in batch.messages] == ["to all", "to you"]
    assert [m.data for m in server.result(listener.poll(listener.cursor)).messages] == ["to all", "to you"]
    assert not server.result(listener.poll(wait=0))


def test_a_listener_follows_and_is_told_each_message_once(server: MemoryServer) -> None:
    listener = server.result(server.client.register("lobby"))
    told: list[Any] = []

    async def read() -> None:
        async for message in listener.follow():
            told.append(message.data)  # noqa: PERF401  they are to be seen as they come

    server.run(read())
    for number in range(5):
        server.result(server.client.push(["lobby", listener.id][number % 2], number))
        server.reset()
        server.advance(1)
    assert told == [0, 1, 2, 3, 4]


def test_a_listener_that_was_forgotten_is_registered_again_and_told_of_the_gap(server: MemoryServer) -> None:
    listener = server.result(server.client.register("lobby"))
    old = listener.id
    told: list[Any] = []
    registered: list[str] = []
    gaps: list[Cursor] = []

    async def read() -> None:
        following = listener.follow(
            on_gap=gaps.append, on_registered=lambda again: registered.append(again.id)
        )
        async for message in following:
            told.append(message.data)  # noqa: PERF401  they are to be seen as they come

    server.run(read())
    server.result(server.client.push("lobby", "one"))
    server.comet.routes.listeners.end(server.comet.routes.listeners.get(old))  # as if its time were over
    server.flush()
    server.result(server.client.push("lobby", "two"))
    assert registered == [listener.id] != [old]
    assert len(gaps) == 1, "what was pushed to the old id is lost"
    server.result(server.client.push(listener.id, "three"))
    assert told == ["one", "two", "three"]


def test_a_listeners_recipients_can_be_changed_and_it_can_be_ended(server: MemoryServer) -> None:
    listener = server.result(server.client.register("lobby"))
    server.result(listener.change(["hall", "bob"]))
    assert listener.recipients == ("hall", "bob")
    server.result(server.client.push("hall", "hi"))
    assert server.result(listener.poll()).messages[0].data == "hi"
    server.result(listener.end())
    with pytest.raises(ListenerGone):
        server.result(listener.poll())


# -- recipients


def test_mailboxes_are_listed_a_page_at_a_time(server: MemoryServer) -> None:
    server.result(server.client.push(["chat/a", "chat/b", "chat/c", "bob"], "hi"))
    page = server.result(server.client.recipients("chat/", limit=2))
    assert [(one.recipient, one.queued, one.bytes) for one in page.recipients] == [
        ("chat/a", 1, 2),
        ("chat/b", 1, 2),
    ]
    assert page.more == "chat/b"
    rest = server.result(server.client.recipients("chat/", after=page.more))
    assert ([one.recipient for one in rest.recipients], rest.more) == (["chat/c"], None)
    everything = server.result(server.client.recipients())
    assert [one.recipient for one in everything.recipients] == ["bob", "chat/a", "chat/b", "chat/c"]


def test_a_recipient_is_described(server: MemoryServer) -> None:
    nobody = server.result(server.client.describe("bob"))
    assert (nobody.waiting, nobody.queued, nobody.bytes, nobody.oldest, nobody.last_seen, nobody.online) == (
        0,
        0,
        0,
        None,
        None,
        False,
    )
    receipt = server.result(server.client.push("bob", "four"))
    server.run(server.client.poll("bob", receipt.id))
    server.result(server.client.push("bob", "hello"))
    bob = server.result(server.client.describe("bob"))
    assert str(bob.oldest) == receipt.id
    assert bob.online
    assert bob.last_seen == pytest.approx(1_795_169_758.123)


def test_a_reader_has_a_name_however_it_reads_and_who_reads_is_told() -> None:
    server = MemoryServer(presence=True)
    client = server.client
    server.run(client.poll("chat/lobby", "now", name="Zoë & Bob"))
    server.run(client.take("chat/lobby", name="alice"))
    followings = [client.follow("chat/lobby", stream=stream, name="eve") for stream in (True, False)]
    for following in followings:
        server.run(anext(following))
    present = server.result(client.presence("chat/lobby"))
    assert (present.recipient, present.readers, present.more) == ("chat/lobby", 4, False)
    assert {one.name: one.readers for one in present.members} == {"Zoë & Bob": 1, "alice": 1, "eve": 2}
    assert present.members[0].since == pytest.approx(STARTED_AT)
    for following in followings:
        following.end()
    server.flush()
    server.result(client.leave("chat/lobby", "eve"))
    assert server.result(client.presence("chat/lobby")).readers == 2
    server.close()


def test_a_server_that_does_not_know_who_reads_says_so(server: MemoryServer) -> None:
    with pytest.raises(NotFound):
        server.result(server.client.presence("bob"))
    with pytest.raises(NotFound):
        server.result(server.client.leave("bob", "alice"))


def test_a_mailbox_is_deleted_and_its_readers_have_a_gap(server: MemoryServer) -> None:
    receipt = server.result(server.client.push("bob", "one"))
    server.result(server.client.push("bob", "two"))
    server.result(server.client.delete("bob"))
    batch = server.result(server.client.poll("bob", receipt.id))
    assert batch.gap
    assert not batch.messages


def test_any_request_of_the_interface_can_be_sent(server: MemoryServer) -> None:
    answer = server.result(server.client.request("GET", "healthz"))
    assert answer.status == 200
    assert answer.json()["status"] == "ok"
    assert answer.header("content-type") == "application/json"
    assert answer.header("no-such-header") is None
    with pytest.raises(BadCursor):
        server.result(server.client.request("GET", "poll", [("rcpt", "bob"), ("after", "x")]))


# -- what waits


def test_a_reply_is_awaited_by_coroutines_of_asyncio() -> None:
    async def program() -> tuple[int, str]:
        soon: Reply[int] = Reply()
        asyncio.get_running_loop().call_soon(soon.callback, 3)
        there: Reply[int] = Reply()
        there.callback(4)
        wrong: Reply[int] = Reply()
        asyncio.get_running_loop().call_soon(wrong.errback, KeyError("x"))
        total = await soon + await there
        try:
            await wrong
        except KeyError:
            return total, "KeyError"
        return total, "nothing"

    assert asyncio.run(program()) == (7, "KeyError")


def test_to_cancel_a_task_is_to_cancel_the_reply_it_waits_for() -> None:
    cancelled: list[str] = []

    async def work() -> None:
        try:
            await Deferred()
        except CancelledError:
            cancelled.append("work")
            raise

    async def program() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_await(reply(work())), 0.01)

    async def _await(waiting: Reply[None]) -> None:
        await waiting

    asyncio.run(program())
    assert cancelled == ["work"]


def test_a_coroutine_of_twisteds_awaits_a_reply_also_above_an_asyncio_loop() -> None:
    async def twisteds(waiting: Reply[int]) -> int:
        return await waiting + 1

    async def program() -> int:
        waiting: Reply[int] = Reply()
        outcome = ensureDeferred(twisteds(waiting))
        asyncio.get_running_loop().call_soon(waiting.callback, 1)
        return await outcome.asFuture(asyncio.get_running_loop())

    assert asyncio.run(program()) == 2


def test_a_following_is_read_by_asyncio_and_may_be_waited_for_in_slices() -> None:
    async def program() -> tuple[list[Any], int]:
        server = MemoryServer()
        following = server.client.follow("bob", "oldest")
        slices = 0
        told = []
        for number in range(3):
            try:
                await asyncio.wait_for(_next(following), 0.01)
            except TimeoutError:
                slices += 1
            server.result(server.client.push("bob", number))
            told.append((await _next(following)).data)
        server.close()
        return told, slices

    async def _next(following: Following) -> Message:
        return await anext(following)

    assert asyncio.run(program()) == ([0, 1, 2], 3)


def test_a_coroutine_that_fails_after_its_reply_was_cancelled_is_not_reported() -> None:
    async def stubborn() -> None:
        try:
            await Deferred()
        except CancelledError:
            raise OSError from None

    outcome: Outcome[None] = Outcome(reply(stubborn()))
    outcome.cancel()
    with pytest.raises(CancelledError):
        _ = outcome.value


def test_the_errors_that_pass_are_those_after_which_the_same_request_may_succeed() -> None:
    passing = {kind.kind for kind in every_kind() if is_passing(refusal(problem(kind)))}
    assert passing == {
        "application-down",
        "internal-error",
        "too-many-requests",
        "unavailable",
        "mailbox-full",
        "nobody-waits",
        "server-full",
        "store-down",
        "stopping",
    }
    assert is_passing(NoAnswer(""))
    assert not is_passing(NotComet(""))
