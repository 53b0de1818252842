"""HTTP.md, "Webhooks", over HTTP: an application is told of joins, leaves and unread messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exchanges import STARTED, Server
from receivers import KEY, FakeReceiver
from twisted.logger import capturedLogs

from cometd_lite.core.message import timestamp
from cometd_lite.core.namespaces import Namespace
from cometd_lite.limits import EVENTS_WAITING, ONLINE_SECONDS

Told = Callable[..., tuple[Server, FakeReceiver]]


@pytest.fixture
def told(serve: Any, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Return a function that starts a server which tells an application."""

    def told(**words: Any) -> tuple[Server, FakeReceiver]:
        receiver = FakeReceiver()
        monkeypatch.setattr("cometd_lite.webhooks.service.post_to", lambda url, seconds: receiver)
        server = serve(notify_url="http://app.example", notify_key=KEY, **words)
        server.comet.start()
        return server, receiver

    return told


def pass_by(server: Server, seconds: float) -> None:
    for _ in range(round(seconds * 2)):
        server.advance(0.5)


def test_a_named_reader_that_comes_and_goes_is_told(told: Told) -> None:
    server, receiver = told(presence=True)
    came = timestamp(STARTED)
    poll = server.park("/poll/chat/lobby?after=now&wait=60&as=alice")
    server.advance(0)
    pass_by(server, 1)
    assert receiver.taken == [
        {"event": "join", "recipient": "chat/lobby", "name": "alice", "readers": 1, "at": came}
    ]
    poll.hang_up()
    pass_by(server, ONLINE_SECONDS + 2)
    left = receiver.taken[1]
    assert (left["event"], left["name"], left["readers"]) == ("leave", "alice", 0)


def test_nameless_readers_are_not_told(told: Told) -> None:
    server, receiver = told(presence=True)
    poll = server.park("/poll/chat/lobby?after=now&wait=60")
    pass_by(server, 1)
    poll.hang_up()
    pass_by(server, ONLINE_SECONDS + 2)
    assert receiver.attempts == []


def test_a_message_that_no_reader_has_fetched_is_told_with_its_recipient_and_id(told: Told) -> None:
    server, receiver = told(unread_after=30)
    first = server.push("/bob").json["id"]
    server.push("/bob")
    pass_by(server, 31)
    at = timestamp(STARTED + 30)
    assert receiver.taken == [{"event": "unread", "recipient": "bob", "id": first, "at": at}]
    pass_by(server, 100)
    assert len(receiver.attempts) == 1


def test_a_poll_ends_the_absence_and_the_next_one_is_told(told: Told) -> None:
    server, receiver = told(unread_after=30)
    server.push("/bob")
    pass_by(server, 31)
    server.get("/poll/bob?wait=0")
    second = server.push("/bob").json["id"]
    pass_by(server, 31)
    assert [event["id"] for event in receiver.taken][1:] == [second]


def test_a_pushed_message_that_is_not_kept_is_not_unread(told: Told) -> None:
    server, receiver = told(unread_after=30)
    poll = server.park("/poll/bob?after=now&wait=60")
    assert server.push("/bob?queue=no").status == 201
    assert poll.answer is not None
    pass_by(server, 100)
    assert receiver.attempts == []


def test_a_namespace_says_when_and_whether_a_message_is_told(told: Told) -> None:
    server, receiver = told(namespaces={"user/*": Namespace(unread_after=20.0)})
    server.push("/user/bob")
    server.push("/bob")
    pass_by(server, 21)
    assert [event["recipient"] for event in receiver.taken] == ["user/bob"]
    pass_by(server, 300)
    assert len(receiver.taken) == 1


def test_a_recipient_in_no_namespace_that_says_so_has_the_time_of_all(told: Told) -> None:
    server, receiver = told(unread_after=40, namespaces={"user/*": Namespace(unread_after=20.0)})
    server.push("/user/bob")
    server.push("/bob")
    pass_by(server, 21)
    assert [event["recipient"] for event in receiver.taken] == ["user/bob"]
    pass_by(server, 21)
    assert [event["recipient"] for event in receiver.taken] == ["user/bob", "bob"]


def test_what_is_told_is_counted_and_shown(told: Told) -> None:
    server, receiver = told(unread_after=30)
    answers = iter([500, 200, 404])
    receiver.answer = lambda: next(answers)
    server.push("/bob")
    pass_by(server, 40)
    server.push("/carol")
    pass_by(server, 40)
    receiver.answer = lambda: None
    server.push("/dora")
    pass_by(server, 31)
    shown = server.get("/metrics").body.decode()
    for outcome, count in {"sent": 1, "refused": 1, "expired": 0, "dropped": 0}.items():
        assert f'cometd_lite_webhook_events_total{{outcome="{outcome}"}} {count}.0' in shown
    assert "cometd_lite_webhook_failures_total 2.0" in shown
    assert "cometd_lite_webhook_events_waiting 1.0" in shown
    assert f"cometd_lite_webhook_events_waiting_max {EVENTS_WAITING}.0" in shown


@pytest.mark.parametrize(
    "words",
    [
        {"notify_url": "http://localhost"},
        {"notify_key": KEY},
        {"unread_after": 60},
        {"notify_url": "localhost", "notify_key": KEY},
        {"notify_url": "http://localhost", "notify_key": "secret"},
        {"notify_url": "http://localhost", "notify_key": Path("/nowhere/key")},
        {"notify_url": "http://localhost", "notify_key": KEY, "unread_after": -1},
    ],
)
def test_a_comet_says_what_is_wrong_with_its_webhooks(serve: Any, words: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"notify_|URL|whsec_|/nowhere/key|unread_after"):
        serve(**words)


def test_webhooks_that_tell_nothing_are_warned_of(told: Told) -> None:
    for words, warnings in (({}, 1), ({"presence": True}, 0), ({"unread_after": 60}, 0)):
        with capturedLogs() as events:
            told(**words)
        assert (
            len([event for event in events if "Webhooks have nothing to post" in str(event["log_format"])])
            == warnings
        )
