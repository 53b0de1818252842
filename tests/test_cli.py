"""The command: its words, what it sends and prints over the real routes in memory, and its statuses."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import completions
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tools import needs
from twisted.internet.defer import CancelledError, Deferred, succeed

from cometd_lite import __version__
from cometd_lite.access.tokens import Tokens
from cometd_lite.cli import main, status
from cometd_lite.cli.commands import COMMANDS, Misused, execute, status_of
from cometd_lite.cli.parser import COMMANDS as NAMES
from cometd_lite.cli.parser import SHELLS, parse, parser_of
from cometd_lite.cli.pushing import CommandCall
from cometd_lite.cli.terminal import RetryNotes, Terminal, escaped
from cometd_lite.client import Client, NoAnswer
from cometd_lite.core.message import Content, Cursor, Message, Push
from cometd_lite.core.recipient import ALL_LISTENERS
from cometd_lite.errors import Forbidden, Unauthorized
from cometd_lite.limits import Limits
from cometd_lite.testing import MemoryServer, Outcome

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMETD_LITE_URL", "COMETD_LITE_TOKEN", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


MESSAGE = Message(Cursor("epoch00000", 1), "bob", Content.of("hi"), 0.0, 1.0)


class Piped:
    """Stands for standard input: chunks are written by the test."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.waiting: Deferred[bytes] | None = None

    def chunk(self) -> Awaitable[bytes]:
        if self.chunks:
            return succeed(self.chunks.pop(0))
        self.waiting = Deferred()
        return self.waiting

    def write(self, data: bytes) -> None:
        if self.waiting is None or self.waiting.called:
            self.chunks.append(data)
        else:
            self.waiting.callback(data)


class Shell:
    """Types commands at a server in memory."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.out = io.BytesIO()
        self.terminal = Terminal(self.out)

    def start(self, *words: str, source: Piped | None = None) -> Outcome[int]:
        arguments = parse(words[0], list(words[1:]))
        if getattr(arguments, "words", True):
            source = None
        elif arguments.file not in {None, "-"}:
            source = Piped(Path(arguments.file).read_bytes(), b"")
        command = COMMANDS[words[0]](CommandCall(arguments, self.server.client, self.terminal, source))
        return self.server.run(status_of(command, self.terminal))

    def type(self, *words: str, piped: bytes = b"") -> int:
        """Type a command that ends, and return its status."""
        return self.start(*words, source=Piped(piped, b"")).value

    @property
    def printed(self) -> str:
        text = self.out.getvalue().decode()
        self.out.seek(0)
        self.out.truncate()
        return text


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    server = MemoryServer()
    yield server
    server.close()


@pytest.fixture
def shell(server: MemoryServer) -> Shell:
    return Shell(server)


def pushed(server: MemoryServer, name: str = "bob") -> list[Any]:
    return [message.data for message in server.result(server.client.poll(name, "oldest", wait=0)).messages]


# -- push


def test_words_are_one_message_and_a_push_says_nothing_when_all_is_well(shell: Shell) -> None:
    assert shell.type("push", "bob", "hello", "there") == status.DONE
    assert pushed(shell.server) == ["hello there"]
    assert shell.printed == ""


def test_options_may_stand_between_the_words(shell: Shell) -> None:
    assert shell.type("push", "bob", "--event", "tick", "hello", "--rcpt", "alice", "there") == status.DONE
    (message,) = shell.server.result(shell.server.client.poll("alice", "oldest")).messages
    assert (message.data, message.event) == ("hello there", "tick")
    assert pushed(shell.server) == ["hello there"]


def test_what_begins_with_a_hyphen_comes_after_two(shell: Shell) -> None:
    assert shell.type("push", "bob", "--", "-v") == status.DONE
    assert pushed(shell.server) == ["-v"]


@pytest.mark.parametrize(
    ("words", "name", "message"),
    [
        (("--", "-dash", "hi"), "-dash", "hi"),
        (("-dash",), None, None),
        (("--event", "e", "--", "-dash", "--", "-v", "--ttl"), "-dash", "-- -v --ttl"),
        (("--rcpt", "eve", "bob", "--", "--json"), "bob", "--json"),
    ],
)
def test_whatever_comes_after_two_hyphens_is_a_name_or_a_message(
    shell: Shell, words: tuple[str, ...], name: str | None, message: str | None
) -> None:
    if name is None:
        with pytest.raises(SystemExit):
            parse("push", list(words))
        return
    assert shell.type("push", *words) == status.DONE
    assert pushed(shell.server, name) == [message]


@pytest.mark.parametrize("command", ["poll", "info", "delete", "follow", "listen"])
def test_names_may_begin_with_a_hyphen_after_two(command: str) -> None:
    assert parse(command, ["--", "-dash", "b"]).names == ["-dash", "b"]


def test_an_option_keeps_no_value_that_comes_after_two_hyphens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse("push", ["bob", "--event", "--", "hi"])
    assert "--event and its value come before the --." in capsys.readouterr().err


def test_json_is_pushed_as_json_and_what_is_none_is_refused(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell.type("push", "bob", "--json", '{"a": 1}') == status.DONE
    assert pushed(shell.server) == [{"a": 1}]
    assert shell.type("push", "bob", "--json", "{a}") == status.REFUSED
    assert capsys.readouterr().err.startswith("cometd-lite: The message is not the JSON that its type says")


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"hi\n", "hi"), (b"hi\r\n", "hi"), (b"a\nb\n\n", "a\nb\n"), (b"hi", "hi"), (b"\xff\n", b"\xff\n")],
)
def test_text_from_a_pipe_loses_its_last_line_break(shell: Shell, data: bytes, message: Any) -> None:
    assert shell.type("push", "bob", piped=data) == status.DONE
    assert pushed(shell.server) == [message]


def test_with_a_type_a_pipe_is_pushed_as_it_is(shell: Shell) -> None:
    assert shell.type("push", "bob", "--type", "text/csv", piped=b"a,b\n") == status.DONE
    assert pushed(shell.server) == ["a,b\n"]


@pytest.mark.parametrize(
    ("name", "data", "kind", "message"),
    [
        ("cat.png", b"\x89PNG\n", "image/png", b"\x89PNG\n"),
        ("a.json", b'{"a": 1}\n', "application/json", {"a": 1}),
        ("a.txt", b"hi\n", "text/plain", "hi\n"),
        ("unknown", b"hi\n", "text/plain; charset=utf-8", "hi\n"),
        ("unknown", b"\xff\n", "application/octet-stream", b"\xff\n"),
    ],
)
def test_a_file_is_pushed_whole_with_the_type_of_its_name(
    shell: Shell, tmp_path: Path, name: str, data: bytes, kind: str, message: Any
) -> None:
    (tmp_path / name).write_bytes(data)
    assert shell.type("push", "bob", "--file", str(tmp_path / name)) == status.DONE
    (found,) = shell.server.result(shell.server.client.poll("bob", "oldest")).messages
    assert found.content.type == kind
    assert found.data == message


def test_a_message_from_a_pipe_is_pushed_once_all_of_it_is_there(shell: Shell) -> None:
    source = Piped(b"a")
    pushing = shell.start("push", "bob", source=source)
    source.write(b"b\n")
    assert pushing.is_pending
    source.write(b"")
    assert pushing.value == status.DONE
    assert pushed(shell.server) == ["ab"]


def test_a_push_that_waits_for_its_message_can_be_ended(shell: Shell) -> None:
    pushing = shell.start("push", "bob", source=Piped(b"a"))
    pushing.cancel()
    with pytest.raises(CancelledError):
        _ = pushing.value
    assert pushed(shell.server) == []


@pytest.mark.parametrize("words", [(), ("--lines",)])
def test_a_file_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(["push", "bob", *words, "--file", str(tmp_path / "none")]) == status.USAGE
    assert capsys.readouterr().err == f"cometd-lite: {tmp_path}/none: No such file or directory.\n"


def test_a_receipt_is_printed_where_it_is_asked_for(shell: Shell) -> None:
    shell.type("push", "bob", "hi", "--receipt", "--rcpt", "alice")
    receipt = msgspec.json.decode(shell.printed)
    assert receipt["recipients"] == ["bob", "alice"]
    assert receipt["delivered"] == 0


def test_a_key_makes_a_second_push_the_first(shell: Shell) -> None:
    for _ in range(2):
        assert shell.type("push", "bob", "hi", "--key", "k") == status.DONE
    assert pushed(shell.server) == ["hi"]


def test_what_no_reader_waits_for_is_refused_where_it_must_not_be_kept(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell.type("push", "bob", "hi", "--no-queue") == status.REFUSED
    assert "No reader waits" in capsys.readouterr().err


def test_each_line_is_a_message_as_it_comes(shell: Shell) -> None:
    source = Piped()
    pushing = shell.start("push", "logs", "--lines", source=source)
    source.write(b"one\ntwo\nthr")
    assert pushed(shell.server, "logs") == ["one", "two"]
    source.write(b"ee\r\n\n  \nfour")
    assert pushed(shell.server, "logs") == ["one", "two", "three"]
    source.write(b"")
    assert pushed(shell.server, "logs") == ["one", "two", "three", "four"]
    assert pushing.value == status.DONE


def test_a_line_that_is_no_utf_8_is_pushed_as_octets(shell: Shell) -> None:
    assert shell.type("push", "logs", "--lines", piped=b"caf\xe9\n") == status.DONE
    assert pushed(shell.server, "logs") == [b"caf\xe9"]


def test_a_line_that_cannot_be_a_message_is_told_of_and_the_others_go_on(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell.type("push", "logs", "--lines", piped=b"a\n" + b"x" * 70_000 + b"\nb\n") == status.REFUSED
    assert pushed(shell.server, "logs") == ["a", "b"]
    assert (
        capsys.readouterr().err
        == "cometd-lite: Line 2 was left out. A message has at most 65536 bytes here.\n"
    )


def test_lines_for_waiting_readers_go_on_where_no_reader_waits(shell: Shell) -> None:
    assert shell.type("push", "logs", "--lines", "--no-queue", piped=b"a\nb\n") == status.DONE
    assert pushed(shell.server, "logs") == []


def test_lines_wait_for_a_server_that_went_away_and_none_is_lost(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Piped()
    pushing = shell.start("push", "logs", "--lines", source=source)
    source.write(b"before\n")
    shell.server.stop()
    source.write(b"while\n")
    shell.server.flush()
    shell.server.advance(3_600)
    assert pushing.is_pending
    shell.server.start()
    shell.server.advance(31)
    assert pushed(shell.server, "logs") == ["while"]
    source.write(b"")
    assert pushing.value == status.DONE
    told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        "cometd-lite: No server answers at http://localhost:8080: the connection was refused. Trying again."
    )


def test_lines_do_not_wait_for_a_server_that_was_never_there(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.server.stop()
    pushing = shell.start("push", "logs", "--lines", source=Piped(b"one\n"))
    shell.server.advance(10)
    assert pushing.value == status.NO_ANSWER
    assert capsys.readouterr().err.splitlines()[-1] == (
        "cometd-lite: No server answers at http://localhost:8080: the connection was refused."
    )
    shell.server.start()


@pytest.mark.parametrize(
    ("kind", "lines", "said"),
    [
        ("--lines", b"1\n2\n3\n4\n", "The lines up to line 2 were pushed."),
        ("--ndjson", b"1\n2\n3\n4\n", "No line was pushed."),
        ("--lines", b"\n\n1\n\n2\n3\n", "The lines up to line 5 were pushed."),
    ],
)
def test_lines_for_a_full_mailbox_say_how_far_they_came(
    capsys: pytest.CaptureFixture[str], kind: str, lines: bytes, said: str
) -> None:
    server = MemoryServer(limits=Limits(capacity=2))
    pushing = Shell(server).start("push", "bob", kind, "--patience", "0", source=Piped(lines))
    assert pushing.value == status.REFUSED
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"cometd-lite: {said}"
    assert len(told) == 2
    server.close()


def test_lines_that_are_interrupted_say_how_far_they_came(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Piped(b"one\n")
    pushing = shell.start("push", "logs", "--lines", source=source)
    shell.server.stop()
    source.write(b"two\n")
    capsys.readouterr()
    pushing.cancel()
    assert capsys.readouterr().err == "cometd-lite: The lines up to line 1 were pushed.\n"
    with pytest.raises(CancelledError):
        _ = pushing.value
    shell.server.start()


def test_lines_that_are_interrupted_between_two_have_all_been_pushed(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    pushing = shell.start("push", "logs", "--lines", source=Piped(b"one\n"))
    pushing.cancel()
    assert capsys.readouterr().err == ""
    with pytest.raises(CancelledError):
        _ = pushing.value


def test_lines_of_json_that_came_together_go_together(shell: Shell) -> None:
    piped = b"".join(b'{"n":%d}\n' % number for number in range(250))
    assert shell.type("push", "orders", "--ndjson", "--receipt", piped=piped) == status.DONE
    assert pushed(shell.server, "orders") == [{"n": number} for number in range(100)]  # one poll's worth
    receipts = [msgspec.json.decode(line) for line in shell.printed.splitlines()]
    assert [len(receipt["ids"]) for receipt in receipts] == [100, 100, 50]


def test_a_line_that_is_no_json_is_left_out_and_told_of(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell.type("push", "orders", "--ndjson", piped=b'1\n{"a":\n"c"\n') == status.REFUSED
    assert pushed(shell.server, "orders") == [1, "c"]
    assert capsys.readouterr().err.startswith("cometd-lite: Line 2 was left out. It is no JSON: ")


def test_json_lines_for_a_server_with_a_smaller_bound_go_in_smaller_pushes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = MemoryServer(limits=Limits(max_body=30))
    shell = Shell(server)
    lines = b'"aaaaaaaaaa"\n"bbbbbbbbbb"\n"cccccccccc"\n"%b"\n"eeeeeeeeee"\n' % (b"d" * 40)
    assert shell.type("push", "orders", "--ndjson", piped=lines) == status.REFUSED
    assert pushed(server, "orders") == ["aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", "eeeeeeeeee"]
    assert (
        capsys.readouterr().err == "cometd-lite: Line 4 was left out. A message has at most 30 bytes here.\n"
    )
    server.close()


# -- poll


def test_a_poll_prints_each_message_on_a_line_and_takes_it(shell: Shell) -> None:
    for data in (b"\xfe", "text", {"a": [1, 2]}):
        shell.server.result(shell.server.client.push("bob", data))
    assert shell.type("poll", "bob") == status.DONE
    assert shell.out.getvalue() == b'\xfe\ntext\n{"a":[1,2]}\n'
    assert shell.type("poll", "bob", "--wait", "0") == status.NOTHING


def test_a_take_prints_one_message_unless_it_asks_for_more(shell: Shell) -> None:
    for text in ("1", "2", "3"):
        shell.server.result(shell.server.client.push("jobs", text))
    assert shell.type("take", "jobs") == status.DONE
    assert shell.out.getvalue() == b"1\n"
    assert shell.type("take", "jobs", "--limit", "5", "--wait", "0") == status.DONE
    assert shell.type("take", "jobs", "--wait", "0") == status.NOTHING


def test_a_take_with_a_lease_prints_what_is_needed_to_acknowledge_it(shell: Shell) -> None:
    shell.server.result(shell.server.client.push("jobs", "1"))
    assert shell.type("take", "jobs", "--lease", "5m", "--json") == status.DONE
    (message,) = msgspec.json.decode(shell.printed)["messages"]
    assert message["attempt"] == 1
    acked = shell.server.client.request("POST", "ack/jobs", [("lease", message["lease"])])
    assert shell.server.result(acked).json()["leases"][0]["state"] == "done"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lease", "0"], "--lease is a time from 1s to 1h"),
        (["--lease", "2h"], "--lease is a time from 1s to 1h"),
        (["--exec", "true"], "--exec needs --lease"),
        (["--count", "3"], "--count goes with --exec"),
        (["--exec", "true", "--lease", "5s", "--wait", "3"], "leave out --wait and --limit"),
        (["--exec", "true", "--lease", "5s", "--json"], "--json and --exec"),
    ],
)
def test_a_take_that_makes_no_sense_is_told_what_would(
    shell: Shell, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=str(status.USAGE)):
        shell.type("take", "jobs", *words)
    assert sentence in capsys.readouterr().err


def test_a_poll_with_a_cursor_takes_nothing_away(shell: Shell) -> None:
    shell.type("push", "bob", "hi")
    for _ in range(2):
        assert shell.type("poll", "bob", "--after", "oldest", "--json") == status.DONE
        answer = msgspec.json.decode(shell.printed)
        assert answer["messages"][0]["data"] == "hi"
        assert answer["cursor"] == answer["messages"][0]["id"]


@pytest.mark.parametrize(("words", "queued"), [((), 0), (("--no-ack",), 1)])
@pytest.mark.parametrize(
    "read", [("poll", "--wait", "0"), ("follow", "--count", "1"), ("follow", "--stream", "--count", "1")]
)
def test_who_only_watches_makes_no_room_in_a_mailbox(
    shell: Shell, read: tuple[str, ...], words: tuple[str, ...], queued: int
) -> None:
    # A look at everything from a shell emptied the work queues of others.
    receipt = shell.server.result(shell.server.client.push("jobs", "1"))
    after = receipt.id if read[0] == "poll" else "oldest"
    shell.type(read[0], "**", "--after", after, *read[1:], *words)
    assert shell.server.result(shell.server.client.describe("jobs")).queued == queued


def test_a_poll_waits_for_as_long_as_it_is_told(shell: Shell) -> None:
    polling = shell.start("poll", "bob", "--wait", "1m")
    shell.server.advance(50)
    assert polling.is_pending
    shell.server.advance(10)
    assert polling.value == status.NOTHING


def test_a_poll_tells_of_a_gap(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.type("push", "bob", "hi")
    assert shell.type("poll", "bob", "--after", "zzzzzzzzzz-9") == status.DONE
    assert "are lost" in capsys.readouterr().err


def test_a_poll_and_a_following_begin_with_a_history(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("1", "2", "3"):
        shell.type("push", "bob", text)
    assert shell.type("poll", "bob", "--after", "last:2") == status.DONE
    assert shell.type("follow", "bob", "--after", "since:60", "--count", "3") == status.DONE
    assert shell.printed == "2\n3\n1\n2\n3\n"


def test_what_is_no_cursor_is_a_wrong_use(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("poll", "follow"):
        assert shell.type(command, "bob", "--after", "yesterday") == status.USAGE
        assert capsys.readouterr().err == (
            "cometd-lite: --after yesterday: it takes a cursor that a server gave out, "
            "oldest, now, last:50 or since:600.\n"
        )


# -- follow and listen


def test_messages_are_printed_as_they_come(shell: Shell) -> None:
    following = shell.start("follow", "logs")
    for line in ("one", "two\n", "three"):
        shell.server.result(shell.server.client.push("logs", line))
    assert shell.printed == "one\ntwo\nthree\n"
    assert following.is_pending


def test_whole_message_objects_are_printed_one_a_line(shell: Shell) -> None:
    shell.start("follow", "chat/**", "--json")
    shell.server.result(shell.server.client.push("chat/a", "two\nlines", event="e"))
    said = msgspec.json.decode(shell.printed)
    assert said["recipient"] == "chat/a"
    assert said["data"] == "two\nlines"
    assert said["event"] == "e"


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("{recipient}: {data}", 'chat/lobby: {"from":"ann","n":[1,true]}'),
        ("{created_at} {type} {event}", "2026-11-20T10:15:58.123Z application/json greeting"),
        (r"{data[from]:>5}\t{data[n][1]} {data[n][7]}{data[to]}|\\n{{}}", "  ann\ttrue |\\n{}"),
    ],
)
@pytest.mark.parametrize("command", ["poll", "follow"])
def test_a_line_has_the_form_that_is_asked_for(shell: Shell, command: str, form: str, line: str) -> None:
    shell.type("push", "chat/lobby", "--json", '{"from": "ann", "n": [1, true]}', "--event", "greeting")
    count = ["--count", "1"] if command == "follow" else []
    assert shell.type(command, "chat/lobby", "--after", "oldest", "--format", form, *count) == status.DONE
    assert shell.printed == f"{line}\n"


def test_a_form_shows_octets_as_base64_and_text_as_text(shell: Shell) -> None:
    shell.type("push", "bob", "grüß dich")
    shell.type("push", "bob", piped=b"\xff\x00")
    shell.type("poll", "bob", "--format", "{data} {data[x]}{event}")
    assert shell.printed == "grüß dich \n/wA= \n"


def test_bytes_go_in_and_the_same_bytes_come_out(shell: Shell, tmp_path: Path) -> None:
    bodies = [b"text", b"text\n", b"\r\n\n", b"\xff\x00\n", "ü".encode(), b'{"a":1}', bytes(range(256))]
    for number, body in enumerate(bodies):
        file = tmp_path / "file"
        file.write_bytes(body)
        for name, words, piped in (
            ("file", ["--file", str(file)], b""),
            ("pipe", ["--file", "-"], body),
            ("word", [os.fsdecode(body)], b""),
        ):
            if name == "word" and b"\0" in body:
                continue  # no word of a process has one
            shell.type("push", f"{name}/{number}", *words, piped=piped)
            assert shell.type("poll", f"{name}/{number}", "--raw") == status.DONE
            assert shell.out.getvalue() == body
            shell.out.seek(0)
            shell.out.truncate()


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_follow_ends_after_so_many_messages(shell: Shell, stream: list[str]) -> None:
    following = shell.start("follow", "bob", "--count", "2", *stream)
    for number in range(3):
        shell.server.result(shell.server.client.push("bob", number))
    assert following.value == status.DONE
    assert shell.printed == "0\n1\n"


def test_the_place_is_kept_in_a_file_and_found_again(shell: Shell, tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    following = shell.start("follow", "bob", "--cursor-file", place)
    shell.server.result(shell.server.client.push("bob", "one"))
    following.cancel()
    shell.server.result(shell.server.client.push("bob", "two"))
    assert shell.type("follow", "bob", "--cursor-file", place, "--count", "1") == status.DONE
    assert shell.printed == "one\ntwo\n"


def test_the_place_is_not_moved_past_what_could_not_be_printed(shell: Shell, tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    shell.type("push", "bob", "one")

    class Gone(io.BytesIO):
        def write(self, data: Any) -> int:
            raise BrokenPipeError

    shell.terminal = Terminal(Gone())
    assert shell.type("follow", "bob", "--after", "oldest", "--cursor-file", place) == status.DONE
    shell.terminal = Terminal(shell.out)
    words = ("follow", "bob", "--after", "oldest", "--cursor-file", place, "--count", "1")
    assert shell.type(*words) == status.DONE
    assert shell.printed == "one\n"


def test_a_file_that_holds_no_place_is_one_sentence(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "place").write_text("hello")
    assert shell.type("follow", "bob", "--cursor-file", str(tmp_path / "place")) == status.USAGE
    assert capsys.readouterr().err.endswith("place holds no cursor; remove it to begin anew.\n")


def test_a_gap_is_told_and_as_json_told_in_its_place(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.type("push", "bob", "hi")
    words = ("follow", "bob", "--after", "zzzzzzzzzz-9", "--count", "1")
    assert shell.type(*words, "--json") == status.DONE
    first, second = shell.printed.splitlines()
    assert msgspec.json.decode(first) == {"gap": True}
    assert msgspec.json.decode(second)["data"] == "hi"
    assert capsys.readouterr().err == (
        "cometd-lite: Messages after zzzzzzzzzz-9 are lost: the server no longer keeps them.\n"
    )


def test_a_command_is_given_each_message_and_its_particulars(shell: Shell, tmp_path: Path) -> None:
    shell.type("push", "bob", "--json", '{"a": 1}', "--event", "tick")
    shell.type("push", "bob", "plain")
    out = tmp_path / "out"
    command = (
        f'echo "$(cat)|$COMET_RECIPIENT|$COMET_TYPE|$COMET_EVENT|${{COMET_ID#*-}}|$COMET_CREATED_AT" >> {out}'
    )
    assert shell.type("follow", "bob", "--after", "oldest", "--count", "2", "--exec", command) == status.DONE
    assert out.read_text().splitlines() == [
        '{"a": 1}|bob|application/json|tick|1|2026-11-20T10:15:58.123Z',
        "plain|bob|text/plain; charset=utf-8||2|2026-11-20T10:15:58.123Z",
    ]
    assert shell.printed == ""


@pytest.mark.parametrize(
    ("event", "seen"),
    [("a\0b", "a\ufffdb"), ("é" * 200_000, "é" * 25_000), ("\ud800", "?")],
    ids=["a NUL", "too long", "half of a pair"],  # pytest has the name of a test in the environment, too
)
def test_a_command_is_given_what_a_variable_can_hold_and_the_following_goes_on(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str], event: str, seen: str
) -> None:
    out = tmp_path / "out"
    command = f'printf "%s\n" "$COMET_EVENT" >> {out}'
    for told in (event, "é"):
        execute(command, msgspec.structs.replace(MESSAGE, event=told), shell.terminal, keep_going=False)
    assert out.read_text("utf-8") == f"{seen}\né\n"
    said = capsys.readouterr().err
    assert said.count("\n") == said.count("COMET_EVENT") == said.count(MESSAGE.id) == 1


def test_a_stored_event_with_a_nul_does_not_end_a_following(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = shell.server.comet.hub
    for event in ("a\0b", "fine"):
        hub.push(Push(("bob",), (Content.of("hi"),), event=event))
    place, out = str(tmp_path / "place"), tmp_path / "out"
    words = ("follow", "bob", "--after", "oldest", "--cursor-file", place, "--count", "2")
    assert shell.type(*words, "--exec", f'echo "$COMET_EVENT" >> {out}') == status.DONE
    assert out.read_text("utf-8") == "a\ufffdb\nfine\n"
    assert capsys.readouterr().err.count("COMET_EVENT") == 1


def test_a_variable_holds_characters_that_the_systems_encoding_lacks(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom cometd_lite.cli.executing import execute\n"
        "from cometd_lite.cli.terminal import Terminal\n"
        "from cometd_lite.core.message import Content, Cursor, Message\n"
        "message = Message(Cursor('e', 1), 'bob', Content.of('hi'), 0.0, 1.0, '\\u20ac')\n"
        "execute('printf %s \"$COMET_EVENT\"', message, Terminal(), keep_going=False)\n"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert done.stdout.decode() == "€"
    assert done.stderr == b""


def test_a_command_that_fails_ends_it_and_its_message_comes_again(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, out = str(tmp_path / "place"), tmp_path / "out"
    for number in range(3):
        shell.type("push", "bob", str(number))
    words = ("follow", "bob", "--after", "oldest", "--cursor-file", place)
    assert shell.type(*words, "--exec", 'test "$(cat)" != 1') == status.COMMAND_FAILED
    assert "The command ended with 1 for message" in capsys.readouterr().err
    assert shell.type(*words, "--count", "2", "--exec", f"cat >> {out}") == status.DONE
    assert out.read_text() == "12"


def test_a_command_that_fails_is_told_of_where_it_goes_on(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        shell.type("push", "bob", str(number))
    words = ("follow", "bob", "--after", "oldest", "--count", "2", "--keep-going", "--exec", "kill -9 $$")
    assert shell.type(*words) == status.DONE
    assert capsys.readouterr().err.count("The command was ended by signal 9 for message") == 2


def test_a_server_that_is_not_there_is_one_sentence_and_a_status_of_its_own(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.server.stop()
    for words in (("push", "bob", "hi"), ("follow", "bob"), ("poll", "bob"), ("info",), ("listen",)):
        command = shell.start(*words)
        shell.server.advance(10)
        assert command.value == status.NO_ANSWER, words
        assert capsys.readouterr().err.splitlines()[-1] == (
            "cometd-lite: No server answers at http://localhost:8080: the connection was refused."
        )
    shell.server.start()


def test_follow_waits_for_a_server_that_was_there(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    following = shell.start("follow", "bob")
    shell.server.stop()
    shell.server.advance(50)
    assert following.is_pending
    assert len(capsys.readouterr().err.splitlines()) == 1
    shell.server.start()
    shell.server.result(shell.server.client.push("bob", "hi"))
    shell.server.advance(40)
    assert shell.printed == "hi\n"


def test_a_listener_tells_its_id_reads_it_and_ends_with_the_command(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    listening = shell.start("listen", "lobby", "--json", "--count", "2")
    id_ = msgspec.json.decode(shell.printed)["listener"]
    assert capsys.readouterr().err == f"cometd-lite: Listening as {id_}\n"
    shell.type("push", "lobby", "to all")
    shell.type("push", id_, "to you")
    assert [msgspec.json.decode(line)["data"] for line in shell.printed.splitlines()] == ["to all", "to you"]
    assert listening.value == status.DONE
    assert len(shell.server.comet.routes.listeners) == 0


def test_a_listener_ends_where_the_command_is_interrupted(shell: Shell) -> None:
    listening = shell.start("listen")
    assert len(shell.server.comet.routes.listeners) == 1
    listening.cancel()
    shell.server.flush()
    assert len(shell.server.comet.routes.listeners) == 0


# -- ls


def test_ls_lists_mailboxes_by_name_a_line_for_each(shell: Shell) -> None:
    for number in range(101):
        shell.type("push", f"chat/{number:03}", "hi")
    shell.type("push", "bob", "hello")
    assert shell.type("ls") == status.DONE
    lines = shell.printed.splitlines()
    assert lines[0].startswith("bob  offline: 0 waiting, 1 queued (5 bytes), newest ")
    assert [line.split()[0] for line in lines] == ["bob", *[f"chat/{number:03}" for number in range(101)]]


def test_ls_lists_what_begins_so_and_as_json(shell: Shell) -> None:
    for name in ("bob", "chat/a", "chat/b"):
        shell.type("push", name, "hi")
    assert shell.type("ls", "chat/", "--json") == status.DONE
    shown = [msgspec.json.decode(line) for line in shell.printed.splitlines()]
    assert [(one["recipient"], one["queued"]) for one in shown] == [("chat/a", 1), ("chat/b", 1)]


def test_ls_of_nothing_shows_nothing(shell: Shell) -> None:
    assert shell.type("ls", "chat/") == status.DONE
    assert shell.printed == ""


# -- info and delete


def test_info_says_how_the_server_stands(shell: Shell) -> None:
    shell.type("push", "bob", "hi")
    shell.server.run(shell.server.client.poll("alice", "oldest"))
    assert shell.type("info") == status.DONE
    said = shell.printed
    assert said.startswith("http://localhost:8080  takes requests\n")
    assert "              1 readers waiting of 15,000\n" in said
    assert "              1 messages kept\n" in said
    assert shell.type("info", "--json") == status.DONE
    document = msgspec.json.decode(shell.printed)
    assert document["status"] == "ok"
    assert document["messages"] == document["parked"] == 1


def test_info_says_little_where_the_metrics_are_turned_off() -> None:
    server = MemoryServer(metrics=False)
    shell = Shell(server)
    assert shell.type("info") == status.DONE
    assert shell.printed == "http://localhost:8080  takes requests\n"
    server.close()


def test_info_says_how_recipients_stand(shell: Shell) -> None:
    shell.type("push", "bob", "hi")
    assert shell.type("info", "bob", "alice") == status.DONE
    bob, alice = shell.printed.splitlines()
    assert bob.startswith("bob  offline: 0 waiting, 1 queued (2 bytes), newest ")
    assert alice == "alice  offline: 0 waiting, 0 queued (0 bytes)"
    assert shell.type("info", "bob", "--json") == status.DONE
    assert msgspec.json.decode(shell.printed)["queued"] == 1


def test_delete_loses_what_a_mailbox_holds(shell: Shell) -> None:
    shell.type("push", "bob", "hi")
    assert shell.type("delete", "bob") == status.DONE
    assert pushed(shell.server) == []


# -- what is shown


def test_what_others_wrote_does_not_command_a_terminal() -> None:
    class Screen(io.BytesIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    terminal = Terminal(screen)
    for content in (
        Content.of("\x1b]0;owned\x07 fine\tü\n"),
        Content.parse(b"\x1b[2J", "image/png\x1b"),
        Content.parse(b'"\x7f\xc2\x9b"', "application/json"),
    ):
        terminal.show(Message(Cursor("abcdefghij", 1), "bob", content, 0.0, 0.0))
    assert screen.getvalue().decode() == (
        '\\x1b]0;owned\\x07 fine\tü\n(4 bytes of image/png\\x1b)\n"\\x7f\\x9b"\n'
    )


def test_json_on_a_terminal_has_its_control_characters_escaped(shell: Shell) -> None:
    class Screen(io.BytesIO):
        def isatty(self) -> bool:
            return True

    text = "\x1b]0;a\x07 \x7f \x9b31m \x85 \xa0 \xfc"
    shell.server.result(shell.server.client.push("bob", text))
    for words in (("poll", "--after", "oldest"), ("follow", "--after", "oldest", "--count", "1")):
        screen = Screen()
        shell.terminal = Terminal(screen)
        shell.type(*words, "--json", "bob")
        (line,) = screen.getvalue().splitlines()
        assert not re.search("[\x00-\x1f\x7f-\x9f]", line.decode())
        document = msgspec.json.decode(line)
        assert document.get("messages", [document])[0]["data"] == text
    shell.terminal = Terminal(shell.out)
    shell.type("poll", "--json", "bob")
    assert "\x9b31m" in shell.printed


@pytest.mark.parametrize("command", [("poll", "bob"), ("follow", "bob", "--after", "oldest", "--count", "1")])
@pytest.mark.parametrize("octets", [b"\x89PNG", b"\xff\n", b"\xff\n\n", b"\r"])
def test_octets_that_come_alone_are_written_as_they_are(
    shell: Shell, command: tuple[str, ...], octets: bytes
) -> None:
    shell.server.result(shell.server.client.push("bob", octets))
    assert shell.type(*command) == status.DONE
    assert shell.out.getvalue() == octets


def test_octets_and_what_comes_after_them_are_lines_of_their_own(shell: Shell) -> None:
    for data in (b"\xff", b"\xfe\n", b"\xfd", "text"):
        shell.server.result(shell.server.client.push("bob", data))
    assert shell.type("follow", "bob", "--after", "oldest", "--count", "4") == status.DONE
    assert shell.out.getvalue() == b"\xff\n\xfe\n\xfd\ntext\n"


def test_what_is_not_looked_at_is_written_as_it_is(shell: Shell) -> None:
    shell.server.result(shell.server.client.push("bob", "\x1b[31mred"))
    shell.type("poll", "bob")
    assert shell.printed == "\x1b[31mred\n"


def test_colours_are_for_those_who_look_and_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.BytesIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert Terminal(Screen()).green("on") == "\x1b[32mon\x1b[0m"
    assert Terminal(io.BytesIO()).green("on") == "on"
    monkeypatch.setenv("TERM", "dumb")
    assert Terminal(Screen()).dim("on") == "on"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert Terminal(Screen()).green("on") == "on"


def test_line_breaks_and_tabs_are_harmless() -> None:
    assert escaped("a\n\tb\rc") == "a\n\tb\\rc"


def test_the_same_trouble_is_told_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    notes = RetryNotes(Terminal(io.BytesIO()), lambda: now)
    for now in range(0, 130, 10):  # noqa: B007  the lambda reads it
        notes.on_retry(NoAnswer("It is gone."), 5.0)
    assert capsys.readouterr().err == "cometd-lite: It is gone. Trying again.\n" * 3
    notes.recovered()
    notes.on_retry(NoAnswer("It is gone."), 5.0)
    assert capsys.readouterr().err == "cometd-lite: It is gone. Trying again.\n"


# -- token

NOW = 1_795_169_758.0
SECRET = b"a secret of at least thirty-two bytes"
PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def private_pem(key: Any, encryption: Any = None) -> bytes:
    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return made


def public_pem(key: Any) -> bytes:
    made: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return made


def jwk_of(key: Any, **words: str) -> dict[str, Any]:
    kinds: dict[Any, Any] = {
        rsa.RSAPrivateKey: RSAAlgorithm,
        rsa.RSAPublicKey: RSAAlgorithm,
        ec.EllipticCurvePrivateKey: ECAlgorithm,
    }
    kind: Any = next((kind for of, kind in kinds.items() if isinstance(key, of)), OKPAlgorithm)
    return {**kind.to_jwk(key, as_dict=True), **words}


def jwks(*keys: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"keys": keys})


Signs = Callable[..., str]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    return file


@pytest.fixture
def signs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Signs:
    """Return a function that types a command for a key of this content, and returns the token printed."""

    def signs(content: bytes, *words: str) -> str:
        (tmp_path / "key").write_bytes(content)
        assert main(["token", "--key", str(tmp_path / "key"), *words]) == status.DONE
        said = capsys.readouterr()
        assert said.err == ""
        assert said.out.count("\n") == 1
        return said.out.rstrip("\n")

    return signs


@pytest.mark.parametrize("algorithm", PRIVATE)
@pytest.mark.parametrize("form", ["PEM", "JWK", "JWKS"])
def test_a_token_of_any_kind_of_key_is_taken_by_a_server_that_has_the_public_one(
    signs: Signs, tmp_path: Path, algorithm: str, form: str
) -> None:
    key = PRIVATE[algorithm]
    private = {
        "PEM": private_pem(key),
        "JWK": msgspec.json.encode(jwk_of(key)),
        "JWKS": jwks(jwk_of(key, kid="a"), jwk_of(PRIVATE["EdDSA"].public_key(), kid="b")),
    }
    token = signs(private[form], "--push", "chat/*", "--poll", "bob", "--poll", "alice", "--manage", "**")
    (tmp_path / "public").write_bytes(public_pem(key))
    grant = Tokens([tmp_path / "public"]).grant(token)
    assert (grant.push, grant.poll, grant.manage) == (("chat/*",), ("bob", "alice"), ("**",))
    assert jwt.get_unverified_header(token)["alg"] == algorithm


def test_a_token_holds_for_its_time_has_a_subject_and_is_meant_for_a_server(
    signs: Signs, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)
    token = signs(SECRET, "--poll", "bob", "--ttl", "90m", "--sub", "alice", "--aud", "comet", "--kid", "k7")
    grant = Tokens([key_file], audience="comet", wall=lambda: NOW).grant(token)
    assert (grant.expires_at, grant.subject) == (NOW + 5_400, "alice")
    assert jwt.get_unverified_header(token)["kid"] == "k7"
    for tokens in (
        Tokens([key_file], audience="other", wall=lambda: NOW),
        Tokens([key_file], wall=lambda: NOW),
        Tokens([key_file], audience="comet", wall=lambda: NOW + 5_400),
    ):
        with pytest.raises(Unauthorized):
            tokens.grant(token)


def test_a_server_lets_a_token_do_what_it_grants_and_nothing_else(signs: Signs, key_file: Path) -> None:
    server = MemoryServer(tokens=Tokens([key_file]))
    words = ("--push", "chat/*", "--poll", "bob", "--manage", "bob")
    client = Client(token=signs(SECRET, *words), treq=server.treq, clock=server.clock)
    server.result(client.push("chat/a", "hi"))
    server.result(client.take("bob", wait=0))
    server.result(client.delete("bob"))
    for forbidden in (
        client.push("chat/a/b", "hi"),
        client.push("bob", "hi"),
        client.take("chat/a", wait=0),
        client.delete("chat/a"),
    ):
        with pytest.raises(Forbidden):
            server.result(forbidden)
    server.close()


def test_a_token_holds_for_an_hour_unless_it_says_otherwise(signs: Signs, key_file: Path) -> None:
    claims = jwt.decode(signs(SECRET, "--push", "$listeners"), SECRET, ["HS256"])
    assert claims["push"] == [ALL_LISTENERS]
    assert 3_590 < claims["exp"] - time.time() <= 3_601


def test_of_several_keys_one_is_chosen_by_its_id(signs: Signs, tmp_path: Path) -> None:
    first, second = jwk_of(PRIVATE["ES256"], kid="a"), jwk_of(PRIVATE["EdDSA"], kid="b")
    token = signs(jwks(first, second), "--kid", "b", "--push", "bob")
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": "b", "typ": "JWT"}
    assert Tokens([tmp_path / "key"]).grant(token).push == ("bob",)


def test_keys_that_cannot_sign_are_passed_over(signs: Signs, tmp_path: Path) -> None:
    unknown = {"kty": "OKP", "crv": "Ed448", "d": "AA", "x": "AA"}
    keys = (unknown, jwk_of(PRIVATE["ES256"], use="enc"), jwk_of(PRIVATE["RS256"], alg="PS256"))
    token = signs(jwks(*keys), "--push", "bob")
    assert jwt.get_unverified_header(token)["alg"] == "PS256"
    assert Tokens([tmp_path / "key"]).grant(token).push == ("bob",)


@pytest.mark.parametrize(
    ("content", "words", "sentence"),
    [
        pytest.param(
            public_pem(PRIVATE["ES256"]),
            (),
            "key holds a public key, which checks tokens; it takes the private",
            id="a public key",
        ),
        pytest.param(
            jwks(jwk_of(PRIVATE["RS256"].public_key())),
            (),
            "key holds public keys only, which check tokens",
            id="public keys",
        ),
        (b"-----BEGIN CERTIFICATE-----", (), "holds a public key"),
        pytest.param(
            b"".join(public_pem(PRIVATE["ES256"]).splitlines()[1:-1]),
            (),
            "it is a key without its PEM lines",
            id="a bare public key",
        ),
        pytest.param(
            jwks(jwk_of(PRIVATE["ES256"], use="enc")), (), "its use is not sig.", id="a key to encrypt with"
        ),
        (b"-----BEGIN PRIVATE KEY-----\nnonsense", (), "holds no private key that can be used: "),
        pytest.param(
            private_pem(PRIVATE["ES256"], BestAvailableEncryption(b"x")),
            (),
            "is encrypted; openssl pkey -in /",
            id="an encrypted key",
        ),
        pytest.param(
            private_pem(ec.generate_private_key(ec.SECP384R1())),
            (),
            "is none of RSA, on the curve P-256, or",
            id="another curve",
        ),
        pytest.param(
            private_pem(rsa.generate_private_key(65537, 1024)),
            (),
            "has less than 2048 bits (RFC 7518 §3.3).",
            id="a short key",
        ),
        (b"too short", (), "has less than 32 bytes (RFC 7518 §3.2)."),
        (jwks({"kty": "oct", "k": "c2hvcnQ"}), (), "has less than 32 bytes (RFC 7518 §3.2)."),
        (b"", (), "has less than 32 bytes"),
        (b"{", (), "holds no key that can be used: "),
        (b'{"keys": []}', (), "holds no key that can be used: a JWKS has a list of keys."),
        (b'{"kty": "oct"}', (), "holds no key that can be used: "),
        (
            jwks({"kty": "EC", "crv": "P-521", "d": "AA"}),
            (),
            "a key is oct, RSA, EC on P-256, or OKP on Ed25519.",
        ),
        pytest.param(
            jwks(jwk_of(PRIVATE["ES256"], kid="a"), jwk_of(PRIVATE["EdDSA"])),
            (),
            "There are several keys in",
            id="several keys",
        ),
        pytest.param(
            jwks(jwk_of(PRIVATE["ES256"], kid="a")),
            ("--kid", "b"),
            "that can sign has the id 'b'.",
            id="another kid",
        ),
        (SECRET, tuple(f"--poll={'x' * 240}{number}" for number in range(50)), "and a server takes 8192"),
    ],
)
def test_what_cannot_sign_is_told_by_a_sentence(
    content: bytes, words: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(content)
    assert main(["token", "--key", str(tmp_path / "key"), "--push", "bob", *words]) == status.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("cometd-lite: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1


def test_a_key_file_that_is_not_there_is_told_by_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "--key", str(tmp_path / "none"), "--push", "bob"]) == status.USAGE
    assert capsys.readouterr().err == (
        f"cometd-lite: The key file {tmp_path}/none cannot be read: No such file or directory.\n"
    )


# -- the words themselves


def test_the_url_is_an_option_or_in_the_environment_or_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("info", []).url == "http://localhost:8080"
    monkeypatch.setenv("COMETD_LITE_URL", "example.org:8080/comet")
    monkeypatch.setenv("COMETD_LITE_TOKEN", "t")
    assert parse("info", []).url == "http://example.org:8080/comet"
    assert parse("info", []).token == "t"
    given = parse("info", ["--url", "https://other.example", "--token", "u"])
    assert (given.url, given.token) == ("https://other.example", "u")


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("1.5m", 90), ("12h", 43_200), ("7d", 604_800), ("5S", 5)]
)
def test_a_time_is_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert parse("poll", ["bob", "--wait", text]).wait == seconds


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["poll", "bob", "--wait", "soon"], "'soon' is not a time in seconds, or as in 90s, 15m, 12h or 7d"),
        (["follow", "bob", "--count", "0"], "'0' is not a whole number, 1 or more"),
        (["push", "bob", "hi", "--lines"], "the message is given in words, or comes from a file or a pipe"),
        (["push", "bob", "--lines", "--ndjson"], "one of them is enough"),
        (["push", "bob", "hi", "--json", "--type", "x/y"], "one of them is enough"),
        (["push", "bob", "--lines", "--key", "k"], "the lines have keys of their own"),
        (["follow", "bob", "--keep-going"], "--keep-going goes with --exec"),
        (["poll"], "NAME is missing. cometd-lite poll --help says what it takes."),
        (["push"], "NAME is missing."),
        (["push", ""], "a NAME is empty; it has 1 to 256 bytes of UTF-8, as in bob or chat/lobby."),
        (["poll", "bob", "\udcff"], r"b'\xff' is not UTF-8; names and options are."),
        (["push", "bob", "hi", "--event", "\udcff"], r"b'\xff' is not UTF-8; names and options are."),
        (
            ["push", "bob", "hi", "--overflow", "drop"],
            "--overflow: there is no drop; there are reject",
        ),
        (
            ["follow", "bob", "--cursorfile", "x"],
            "there is no option --cursorfile; did you mean --cursor-file",
        ),
        (["follow", "bob", "--pat=3"], "there is no option --pat; did you mean --patience?"),
        (["info", "bob", "--colour"], "there is no option --colour."),
        (["completion", "bash", "zsh"], "zsh is a word too many."),
        (["poll", "bob", "--json", "--raw"], "--json and --raw each say what becomes of a message"),
        (["follow", "bob", "--exec", "x", "--format", "y"], "--format and --exec each say what becomes of"),
        (["poll", "bob", "--format", "{text}"], "'{text}' has the field {text}; there are {id}, {recipient}"),
        (["poll", "bob", "--format", "{data.real}"], "has the field {data.real}; there are"),
        (
            ["poll", "bob", "--format", "{data"],
            "is no format: expected '}' before end of string; a brace",
        ),
        (["poll", "bob", "--format", "{data:9q}"], "is no format: "),
        (["token", "--push", "bob"], "--key is missing."),
        (["token", "--key", "k"], "the token would allow nothing; name recipients by --push, --poll or"),
        (
            ["token", "--key", "k", "--push", "a/*/b"],
            "'a/*/b' is no recipient or pattern: A recipient's name",
        ),
        (["token", "--key", "k", "--poll", ""], "'' is no recipient or pattern"),
        (["token", "--key", "k", "--poll", "$x"], "'$x' is no recipient or pattern: Names that begin with $"),
        (["token", "--key", "k", "--poll", "a", "--ttl", "0"], "--ttl is a time above 0 and at most 36525d."),
        (["token", "--key", "k", "--poll", "a", "--ttl", "99999999d"], "--ttl is a time above 0 and at most"),
        (["token", "--key", "k", "--poll", "a", "--ttl", "soon"], "'soon' is not a time in seconds"),
        (["token", "--key", "k", "--poll", "a", "--url", "x"], "there is no option --url."),
        (["completion", "ksh"], "shell: there is no ksh; there are bash, zsh, fish, tcsh, powershell."),
        (["info", "--url", "http://x/?q=1"], "is no URL of a server"),
        (["sing"], "there is no command 'sing'; there are serve, push, poll"),
        (["pusch", "bob"], "there is no command 'pusch'; did you mean push?"),
        (["publ", "bob"], "there is no command 'publ'; did you mean publish?"),
        (["--url", "x", "push"], "--url comes after a command, as in: cometd-lite push bob hello."),
    ],
)
def test_a_wrong_use_is_told_by_a_sentence_and_status_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status.USAGE
    assert sentence in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("push", "bob", "hi", "--ttl", "0"), "ttl is a number of seconds above 0."),
        (
            ("push", "bob", "hi", "--event", ""),
            "--event is a name of 1 to 64 bytes",
        ),
        (("push", "bob", "hi", "--key", "k" * 256), "--key has 1 to 255 bytes."),
        (("push", "bob", "hi", "--type", "a b"), "--type is no media type of at most 255 bytes."),
        (
            ("push", "bob", "hi", "--no-queue"),
            "No reader waits at this moment, and --no-queue does not keep",
        ),
        (("push", "bob", ""), "The message is empty; a message has at least one byte."),
        (("push", "bob", "--json", "{"), "The message is not the JSON that its type says: "),
        (("push", "bob", "x" * 70_000), "A message has at most 65536 bytes here."),
        (("push", "full", "two", "--patience", "0"), "Push again later, or with --overflow drop-oldest."),
        (("poll", "bob", "--wait", "999"), "--wait is a number of seconds from 0 to 120."),
        (("poll", "bob", "--limit", "5000"), "--limit is a number of messages from 1 to 1000."),
        (("poll", "bob/*"), "A pattern is read with a cursor, as in --after oldest; a take needs names."),
        (("listen", "--ttl", "0"), "--ttl is a number of seconds up to 86400."),
    ],
)
def test_what_a_server_refuses_is_told_in_the_words_of_the_command(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = MemoryServer(limits=Limits(capacity=1))
    shell = Shell(server)
    shell.type("push", "full", "one")
    assert shell.type(*words) in {status.REFUSED, status.USAGE}
    said = capsys.readouterr().err
    assert sentence in said
    assert not re.search(r"[?=]|body|header|Content-Type|Authorization", said)
    server.close()


def test_a_token_that_is_missing_is_asked_for_by_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_text("s" * 32)
    server = MemoryServer(tokens=Tokens([key]))
    assert Shell(server).type("push", "bob", "hi") == status.REFUSED
    assert "give it by --token, or as COMETD_LITE_TOKEN in the environment." in capsys.readouterr().err
    server.close()


def test_publish_and_subscribe_are_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("cometd_lite.cli.commands.run", lambda name, arguments: seen.append(name) or 0)
    assert main(["publish", "bob", "hi"]) == main(["subscribe", "bob"]) == status.DONE
    assert seen == ["push", "follow"]


def test_no_words_at_all_are_answered_by_help_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == status.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert "cometd-lite COMMAND ..." in said.err


def test_a_name_alone_takes_its_message_from_the_pipe() -> None:
    arguments = parse("push", ["bob"])
    assert (arguments.name, arguments.words) == ("bob", [])


def test_help_and_version_are_done_when_they_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == status.DONE
    assert capsys.readouterr().out == f"cometd-lite {__version__}\n"
    assert main(["--help"]) == status.DONE
    said = capsys.readouterr().out
    for name, about in NAMES.items():
        assert f"{name:<11} {about}" in said
    assert "130 Ctrl-C" in said


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"serve", "bench"}])
def test_every_command_has_help_with_examples_and_statuses(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == status.DONE
    said = capsys.readouterr().out
    assert "examples:\n  " in said
    assert "exit status: 0 done" in said
    assert max(map(len, said.splitlines())) <= 110


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"serve", "bench", "completion"}])
def test_every_option_says_what_it_is(name: str) -> None:
    for action in parser_of(name)._actions:
        assert action.help, action


def test_examples_in_the_help_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    import shlex  # noqa: PLC0415  only here

    understood = 0
    for name in ("push", "poll", "follow", "listen", "info", "delete", "token"):
        epilog = parser_of(name).epilog or ""
        for line in epilog.splitlines():
            _, found, words = line.rpartition(f"cometd-lite {name}")
            if line.startswith("  ") and found:
                parse(name, shlex.split(words))
                understood += 1
    assert understood >= 15


def test_the_words_are_read_without_twisted() -> None:
    code = """if True:
        import sys
        from cometd_lite.cli import main
        main(["push", "--help"])
        main(["completion", "bash"])
        main(["token", "--help"])
        imported = {name.partition(".")[0] for name in sys.modules}
        sys.exit(str(imported & {"twisted", "treq", "msgspec"} or ""))
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert done.stderr == b"\n"


def test_bench_is_given_the_words_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("cometd_lite.bench.main", lambda words, kind: seen.append(words) or 0)
    monkeypatch.setenv("COMETD_LITE_URL", "http://x")
    assert main(["bench", "fanout", "--json"]) == 0
    assert main(["bench", "--url=http://y"]) == 0
    assert seen == [["--url", "http://x", "fanout", "--json"], ["--url=http://y"]]


def test_serve_hands_its_words_to_twistd(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("twisted.scripts.twistd.run", lambda: seen.append(sys.argv))
    monkeypatch.setattr(sys, "argv", ["before"])
    assert main(["serve", "--listen", "tcp:1"]) == 0
    assert seen[0][1:] == ["--nodaemon", "--pidfile=", "cometd-lite", "--listen", "tcp:1"]


def test_a_sentence_that_ends_serve_is_printed_and_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken() -> None:
        raise SystemExit("cometd-lite: cannot listen on tcp:1: Permission denied.")

    monkeypatch.setattr("twisted.scripts.twistd.run", taken)
    monkeypatch.setattr(sys, "argv", ["before"])
    assert main(["serve"]) == status.REFUSED
    assert capsys.readouterr().err == "cometd-lite: cannot listen on tcp:1: Permission denied.\n"


def test_what_was_misused_says_so() -> None:
    with pytest.raises(Misused, match="not a cursor"):
        raise Misused("not a cursor")


# -- completion


@pytest.mark.parametrize("shell_name", SHELLS)
def test_completion_knows_every_command_and_every_option(
    shell_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell_name]) == status.DONE
    script = capsys.readouterr().out
    for name in NAMES:
        assert name in script
    for name in NAMES.keys() - {"serve", "bench"}:
        for option in parser_of(name)._option_string_actions:
            assert option.lstrip("-") in script
    for option in ("capacity-bytes", "allow-origin", "warm-up"):
        assert option in script


@pytest.mark.parametrize("shell_name", SHELLS)
def test_completion_is_what_shtab_makes_of_the_options(shell_name: str) -> None:
    script = completions.script(shell_name)
    assert (completions.SCRIPTS / shell_name).read_text() == script, "run python tests/completions.py"


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_shell_itself_reads_its_script(name: str) -> None:
    program = needs(name)
    script = completions.SCRIPTS / name
    done = subprocess.run([program, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


def complete(*words: str, extra: str = "") -> list[str]:
    """Press TAB behind the last of the words, in bash."""
    quoted = " ".join(f"'{word}'" for word in words)
    code = f"""
        source {completions.SCRIPTS}/bash
        {extra}
        COMP_WORDS=({quoted}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _shtab_cometd_lite; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("cometd-lite", "p"), ["push", "poll"]),
        (("cometd-lite", "push", "--over"), ["--overflow"]),
        (("cometd-lite", "push", "--overflow", ""), ["reject", "drop-oldest"]),
        (("cometd-lite", "follow", "x", "--c"), ["--cursor-file", "--count"]),
        (("cometd-lite", "completion", ""), list(SHELLS)),
        (("cometd-lite", "push", "--event", ""), []),
        (("cometd-lite", "push", "--key", ""), []),
        (("cometd-lite", "token", "--p"), ["--push", "--poll"]),
        (("cometd-lite", "serve", "--cap"), ["--capacity", "--capacity-bytes"]),
        (("cometd-lite", "bench", "--re"), ["--readers"]),
        (("cometd-lite", "bench", "fan"), ["fanout"]),
        (("cometd-lite", "follow", "x", "--exec", "pytho"), ["python"]),
    ],
)
def test_bash_offers_what_fits(words: tuple[str, ...], offered: list[str]) -> None:
    programs = 'compgen() { if [ "$1" = -c ]; then echo python; else builtin compgen "$@"; fi; }'
    assert complete(*words, extra=programs) == offered


def test_bash_offers_files_where_a_file_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for words in (("push", "--file"), ("token", "--key"), ("serve", "--key")):
        assert complete("cometd-lite", *words, "note", extra=f"cd {tmp_path}") == ["notes.txt"]
