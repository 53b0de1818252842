"""HTTP.md, "Webhooks", over sockets: the application is told, and told again after a crash of the server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from program import Program, Run, eventually, ran
from receivers import KEY, OTHER_KEY, HTTPReceiver
from standardwebhooks import Webhook


@contextmanager
def receiving(port: int = 0) -> Iterator[HTTPReceiver]:
    receiver = HTTPReceiver(port)
    try:
        yield receiver
    finally:
        receiver.stop()


@pytest.fixture
def receiver() -> Iterator[HTTPReceiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def key(tmp_path: Path) -> tuple[str, str]:
    file = tmp_path / "notify.key"
    file.write_text(KEY + "\n")
    return ("--notify-key", str(file))


def test_an_application_is_told_of_readers_and_of_unread_messages(
    run: Run, receiver: HTTPReceiver, key: tuple[str, str]
) -> None:
    program = run(*receiver.options, *key, "--presence", "--unread-after", "0.2")
    program.park("/poll/lobby?after=now&wait=60&as=alice", "lobby")
    message = program.push("/bob").json["id"]
    eventually(lambda: len(receiver.events) == 2, "two events")
    told = {event["event"]: event for event in receiver.events}
    assert (told["join"]["recipient"], told["join"]["name"]) == ("lobby", "alice")
    assert (told["unread"]["recipient"], told["unread"]["id"]) == ("bob", message)


def test_what_could_not_be_told_is_told_after_a_crash_on_a_durable_store(
    run: Run, key: tuple[str, str], tmp_path: Path
) -> None:
    with receiving() as down:
        down.answer = lambda: (500, 0.0)
        options = (*down.options, *key, "--store", "sqlite:comet.db", "--unread-after", "0.2")
        before = Program(tmp_path, *options)
        waits = before.push("/bob").json["id"]
        eventually(
            lambda: "cometd_lite_webhook_failures_total 0.0" not in before.get("/metrics").body.decode(),
            "a try",
        )
        late = before.push("/carol").json["id"]
        before.leave()
        before.process.kill()
        before.process.wait()
    with receiving(down.port) as receiver:
        run(*options)
        eventually(lambda: len(receiver.events) >= 2, "both events")
        assert {event["id"] for event in receiver.events} == {waits, late}


def test_a_signal_has_the_key_read_again(run: Run, receiver: HTTPReceiver, key: tuple[str, str]) -> None:
    program = run(*receiver.options, *key, "--unread-after", "0.1")
    Path(key[1]).write_text("no key")
    program.process.send_signal(signal.SIGHUP)
    eventually(
        lambda: "The key of --notify-key stays as it was" in program.log.read_text(), "a line in the log"
    )
    program.push("/bob")
    eventually(lambda: len(receiver.events) == 1, "an event that the first key has signed")
    receiver.webhook = Webhook(OTHER_KEY)
    Path(key[1]).write_text(OTHER_KEY)
    program.process.send_signal(signal.SIGHUP)
    eventually(lambda: "The key of --notify-key was read again" in program.log.read_text(), "another line")
    program.push("/carol")
    eventually(lambda: len(receiver.events) == 2, "an event that the other key has signed")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--notify-url", "http://localhost:1/"], "--notify-url needs --notify-key"),
        (["--notify-key", "key"], "--notify-key needs --notify-url"),
        (["--unread-after", "60"], "--unread-after needs --notify-url"),
        (["--notify-url", "localhost", "--notify-key", "key"], "--notify-url localhost: it takes the URL"),
        (["--notify-url", "http://localhost:1/", "--notify-key", "none"], "--notify-key: "),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    said, code = ran(tmp_path, *options)
    assert code > 0
    assert said.startswith(f"cometd-lite: {sentence}")
    assert said.count("\n") == 1
