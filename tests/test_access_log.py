"""The access log's lines, what they never have, and how the program's log tells of refusals."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from cometd_lite.access_log import AccessLog, Refusals, shown_target
from cometd_lite.comet import Comet
from cometd_lite.limits import FAILURES_LOGGED_SECONDS, LOG_FIELD_BYTES, LOG_LINES, LOG_SECONDS
from cometd_lite.server import HTTPFactory, Proxies

NOW = 1_795_169_758.123
LISTENER = "~0123456789abcdef0123456789abcdef01234567"
COMBINED = re.compile(
    r'(?P<client>\S+) - - \[(?P<time>[^\]]+)\] "(?P<line>(?:[^"\\]|\\x[0-9A-F]{2})*)" '
    r'(?P<status>\d{3}) (?P<bytes>\d+) "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"'
)


class Logged:
    """A server in memory with an access log, and one connection to it at a time."""

    def __init__(self, directory: Path, form: str, **words: Any) -> None:
        self.file = directory / "access.log"
        self.clock = Clock()
        self.comet = Comet(clock=self.clock, wall=lambda: NOW)
        self.log = AccessLog(self.file, form, self.clock, wall=lambda: NOW)
        self.log.open()
        application = self.comet.routes
        self.factory = HTTPFactory(application, clock=self.clock, on_answer=self.log.add, **words)

    def send(self, data: str | bytes) -> Any:
        """Send bytes on a new connection, and return it."""
        connection = self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 31337))
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.7", 31337))
        connection.makeConnection(self.transport)
        connection.dataReceived(data.encode("latin-1") if isinstance(data, str) else data)
        return connection

    def ask(self, method: str, target: str, body: str = "", version: str = "1.1", **headers: str) -> Any:
        lines = [f"{method} {target} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return self.send("\r\n".join([*lines, "", body]))

    @property
    def text(self) -> str:
        self.clock.advance(LOG_SECONDS)
        return self.file.read_text()

    @property
    def lines(self) -> list[dict[str, str]]:
        """The lines of a combined log, in their parts."""
        matches = [COMBINED.fullmatch(line) for line in self.text.splitlines()]
        assert all(matches), self.text
        return [match.groupdict() for match in matches if match]

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The lines of a JSON log."""
        return [msgspec.json.decode(line) for line in self.text.splitlines()]


@pytest.fixture
def combined(tmp_path: Path) -> Logged:
    return Logged(tmp_path, "combined")


@pytest.fixture
def json(tmp_path: Path) -> Logged:
    return Logged(tmp_path, "json")


# -- lines


def test_a_combined_line_is_what_every_tool_reads(combined: Logged) -> None:
    combined.ask("POST", "/push/bob", "hi", User_Agent="curl/8", Referer="https://a.example/page")
    assert re.sub(r" 202 \d+ ", " 202 N ", combined.text) == (
        '192.0.2.7 - - [20/Nov/2026:10:15:58 +0000] "POST /push/bob HTTP/1.1" 202 N '
        '"https://a.example/page" "curl/8"\n'
    )


def test_a_json_line_has_the_time_for_which_a_poll_was_held(json: Logged) -> None:
    json.ask("GET", "/poll/bob?wait=20")
    json.clock.advance(18)
    json.comet.push("bob", "hi")
    (line,) = json.documents
    assert line == {
        "time": "2026-11-20T10:15:58.123Z",
        "client": "192.0.2.7",
        "method": "GET",
        "target": "/poll/bob?wait=20",
        "version": "1.1",
        "status": 200,
        "bytes": line["bytes"],
        "seconds": 18.0,
        "referer": "",
        "agent": "",
    }
    assert line["bytes"] > 50


def test_a_stream_is_a_line_when_it_ends_with_the_bytes_that_were_sent(json: Logged) -> None:
    connection = json.ask("GET", "/stream/bob")
    json.comet.push("bob", "x" * 1_000)
    assert json.text == ""
    connection.connectionLost(None)
    (line,) = json.documents
    assert (line["status"], line["seconds"]) == (200, LOG_SECONDS)
    assert line["bytes"] > 1_000


def test_a_poll_whose_client_left_is_a_499(combined: Logged) -> None:
    combined.ask("GET", "/poll/bob").connectionLost(None)
    (line,) = combined.lines
    assert (line["status"], line["bytes"], line["client"]) == ("499", "0", "192.0.2.7")


def test_behind_a_trusted_proxy_the_client_is_whom_it_speaks_for(tmp_path: Path) -> None:
    logged = Logged(tmp_path, "combined", proxies=Proxies(["192.0.2.7"]))
    logged.ask("GET", "/healthz", X_Forwarded_For="198.51.100.1")
    logged.ask("GET", "/poll/bob", X_Forwarded_For="198.51.100.2").connectionLost(None)
    logged.ask("GET", "/healthz", X_Forwarded_For='"evil"')
    assert [line["client"] for line in logged.lines] == ["198.51.100.1", "198.51.100.2", "192.0.2.7"]


@pytest.mark.parametrize("form", ["combined", "json"])
@pytest.mark.parametrize(
    "address", ["fe80::1%eth0", "fe80::1%\x1b[31m", "[fe80::1%25x]:80", '::1%" 200 "', "::1%\xc2\x9b31m"]
)
def test_an_address_with_a_scope_id_is_no_client(tmp_path: Path, form: str, address: str) -> None:
    logged = Logged(tmp_path, form, proxies=Proxies(["192.0.2.7"]))
    logged.ask("GET", "/healthz", X_Forwarded_For=address)
    client = logged.lines[0]["client"] if form == "combined" else logged.documents[0]["client"]
    assert client == "192.0.2.7"


def test_a_web_socket_is_a_line_when_it_opens(combined: Logged) -> None:
    connection = combined.ask(
        "GET",
        "/ws/bob",
        Connection="Upgrade",
        Upgrade="websocket",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
    )
    (line,) = combined.lines
    assert (line["line"], line["status"]) == ("GET /ws/bob HTTP/1.1", "101")
    connection.connectionLost(None)
    assert len(combined.lines) == 1


def test_old_clients_and_looks_are_lines_as_any(combined: Logged) -> None:
    combined.ask("GET", "/recipients/x", version="1.0")
    body = combined.transport.value().partition(b"\r\n\r\n")[2]
    combined.ask("HEAD", "/recipients/x")
    first, second = combined.lines
    assert (first["line"], first["bytes"]) == ("GET /recipients/x HTTP/1.0", str(len(body)))
    assert (second["line"], second["bytes"]) == ("HEAD /recipients/x HTTP/1.1", "0")


@pytest.mark.parametrize("form", ["combined", "json"])
def test_what_is_no_request_is_a_line_that_repeats_nothing_of_it(tmp_path: Path, form: str) -> None:
    logged = Logged(tmp_path, form)
    logged.send("GET /poll/bob?token=eyJ0 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    logged.send("\x16\x03\x01 a TLS greeting\r\n\r\n")
    assert logged.text.count("\n") == 2
    assert "eyJ0" not in logged.text
    assert "TLS" not in logged.text
    if form == "combined":
        assert [(line["line"], line["status"]) for line in logged.lines] == [("-", "400")] * 2
    else:
        assert [(line["method"], line["target"], line["status"]) for line in logged.documents] == [
            ("", "", 400)
        ] * 2


# -- what no line has


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/poll/bob?after=oldest&wait=5&limit=3&format=raw", None),
        ("/push?rcpt=a&rcpt=b%20c&event=e&ttl=3&queue=no&overflow=reject&to=listeners", None),
        ("/poll/bob?token=SECRET", "/poll/bob?token=-"),
        ("/poll/bob?%74oken=SECRET&wait=1", "/poll/bob?token=-&wait=1"),
        ("/poll/bob?wait=1;token=SECRET", "/poll/bob?wait=1&token=-"),
        ("/poll/bob?tokne=SECRET", "/poll/bob?-"),
        ("/poll/bob?SECRET", "/poll/bob?-"),
        ("/poll/bob?", None),
        (f"/poll?listener={LISTENER}", "/poll?listener=-"),
        (f"/poll?rcpt={LISTENER}&rcpt=bob", "/poll?rcpt=-&rcpt=bob"),
        (f"/poll?rcpt=%7E{LISTENER[1:]}", "/poll?rcpt=-"),
        (f"/listeners/{LISTENER}", "/listeners/~"),
        ("/comet/listeners/SECRET", "/comet/listeners/~"),
        ("/listeners/x%0ASECRET/%0aSECRET", "/listeners/~"),
        (f"/push/{LISTENER}", "/push/~"),
        (f"/push%2F%7e{LISTENER[1:]}", "/push/~"),
        ("/push/a%20b", None),
        ("/cometd?jsonp=f&message=%5BSECRET%5D", "/cometd?jsonp=-&message=-"),
        ("/poll/lobby?as=SECRET&after=now", "/poll/lobby?as=-&after=now"),
        ("*", None),
        ("", None),
    ],
)
def test_a_target_is_shown_without_what_opens_a_door(target: str, shown: str | None) -> None:
    assert shown_target(target.encode()).decode() == (target if shown is None else shown)


@given(some.binary(max_size=60), some.binary(max_size=60))
def test_no_form_of_a_token_or_an_id_is_shown(before: bytes, after: bytes) -> None:
    for secret in (b"token=eyJhbGciOi", b"listener=" + LISTENER.encode(), b"rcpt=" + LISTENER.encode()):
        shown = shown_target(b"/poll/x?%b&%b&%b" % (before.replace(b"?", b""), secret, after))
        assert secret.partition(b"=")[2] not in shown


@pytest.mark.parametrize("form", ["combined", "json"])
def test_tokens_ids_and_bodies_are_in_no_log(tmp_path: Path, form: str) -> None:
    told: list[str] = []

    def tell(event: LogEvent) -> None:
        told.append(f"{formatEvent(event)} {event.get('log_failure')}")

    globalLogPublisher.addObserver(tell)
    try:
        logged = Logged(tmp_path, form)
        refusals = Refusals(logged.comet.hub.counts.refusals, logged.clock)
        refusals.start()
        secrets = {"Authorization": "Bearer SECRET-1", "Cookie": "SECRET-2", "Idempotency_Key": "SECRET-3"}
        referer = {"Referer": f"https://a.example/listeners/{LISTENER}?token=SECRET-4#SECRET-5"}
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
            for path in (
                "/push/bob",
                "/poll/bob",
                "/stream/bob",
                "/ws/bob",
                "/register",
                "/cometd",
                "/nowhere",
            ):
                target = f"{path}?token=SECRET-6&listener={LISTENER}&message=SECRET-7&SECRET-8&wait=0"
                logged.ask(method, target, '["SECRET-9"]', **secrets, **referer).connectionLost(None)
            for path in (f"/listeners/{LISTENER}", f"/push/{LISTENER}", f"/recipients/%7E{LISTENER[1:]}"):
                logged.ask(method, path, "SECRET-9", **secrets).connectionLost(None)
        logged.send("POST /push/bob?token=SECRET-6 HTTP/1.1\r\nSECRET: 1\r\n\r\nSECRET-9")
        logged.send(b"POST /push/bob HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nSECRET-9\r\n")
        logged.clock.advance(FAILURES_LOGGED_SECONDS + 1)
        refusals.stop()
        written = logged.text
    finally:
        globalLogPublisher.removeObserver(tell)
    assert written.count("\n") == 7 * 10 + 2
    assert any("bad-body" in line for line in told)
    for line in (written, *told):
        assert "SECRET" not in line
        assert LISTENER[1:] not in line


def test_no_client_writes_lines_of_its_own(combined: Logged) -> None:
    combined.send(
        'GET /poll/\x80"b\\?wait=0 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a\tb" 200 5 "-" "\\\xff\r\n\r\n'
    )
    (line,) = combined.lines
    assert line["line"] == "GET /poll/\\x80\\x22b\\x5C?wait=0 HTTP/1.1"
    assert line["agent"] == "a\\x09b\\x22 200 5 \\x22-\\x22 \\x22\\x5C\\xFF"


def test_a_terminal_does_not_obey_a_line_of_json(json: Logged) -> None:
    json.ask("GET", "/healthz", User_Agent="\xc2\x9b31m\xff")
    assert json.documents[0]["agent"] == "\ufffd31m\ufffd"


@given(some.binary(max_size=40), some.sampled_from(["combined", "json"]))
def test_a_line_is_one_line_of_visible_characters(
    tmp_path_factory: pytest.TempPathFactory, agent: bytes, form: str
) -> None:
    class Request:
        method, uri, minor, code, sent = b"GET", agent, 1, 200, 0
        client = agent.decode("latin-1")  # as the PROXY protocol hands it on
        head = {b"referer": agent, b"user-agent": agent}  # noqa: RUF012  it is not changed

        def age(self) -> float:
            return 0.0

    file = tmp_path_factory.getbasetemp() / f"{form}.log"
    file.unlink(missing_ok=True)
    log = AccessLog(file, form, Clock(), wall=lambda: NOW)
    log.open()
    log.add(Request())  # type: ignore[arg-type]
    log.close()
    text = file.read_text()
    assert text.endswith("\n")
    assert text[:-1].isprintable() or form == "json"
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", text[:-1])
    assert form == "json" or COMBINED.fullmatch(text[:-1])


def test_long_fields_are_cut(combined: Logged) -> None:
    combined.ask("GET", "/healthz", User_Agent="a" * 5_000)
    assert len(combined.lines[0]["agent"]) == LOG_FIELD_BYTES


# -- the file


def test_lines_are_gathered_for_a_second_at_most(combined: Logged) -> None:
    combined.ask("GET", "/healthz")
    assert combined.file.read_text() == ""
    combined.clock.advance(LOG_SECONDS)
    assert combined.file.read_text().count("\n") == 1
    for _ in range(LOG_LINES):
        combined.ask("GET", "/healthz")
    assert combined.file.read_text().count("\n") == 1 + LOG_LINES


def test_the_file_is_added_to_and_not_for_everybody(combined: Logged) -> None:
    assert stat.S_IMODE(os.stat(combined.file).st_mode) & 0o027 == 0  # noqa: PTH116  as the system says it
    combined.ask("GET", "/healthz")
    combined.log.close()
    combined.log.open()
    combined.ask("GET", "/healthz")
    assert len(combined.lines) == 2


def test_where_the_file_was_renamed_a_new_one_is_begun_and_no_line_is_lost(combined: Logged) -> None:
    combined.ask("GET", "/poll/before?wait=0")
    rotated = combined.file.rename(combined.file.with_suffix(".1"))
    combined.log.open()
    combined.ask("GET", "/poll/after?wait=0")
    assert "/poll/before" in rotated.read_text()
    (line,) = combined.lines
    assert "/poll/after" in line["line"]


def test_where_a_new_file_cannot_be_begun_the_old_one_stays(combined: Logged) -> None:
    renamed = combined.file.rename(combined.file.with_suffix(".1"))
    combined.file.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        combined.log.open()
    combined.ask("GET", "/healthz")
    combined.log.close()
    assert renamed.read_text().count("\n") == 1


def test_a_full_disk_is_told_of_once_and_stops_no_request(
    combined: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []

    def tell(event: LogEvent) -> None:
        told.append(formatEvent(event))

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    globalLogPublisher.addObserver(tell)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            for _ in range(3):
                combined.ask("GET", "/healthz")
                assert combined.transport.value().startswith(b"HTTP/1.1 200")
                combined.clock.advance(LOG_SECONDS)
        combined.ask("GET", "/healthz")
        assert len(combined.lines) == 1
    finally:
        globalLogPublisher.removeObserver(tell)
    assert told == [
        f"The access log {combined.file} cannot be written, and lines are lost: No space left on device."
    ]


def test_nothing_is_left_when_it_is_closed(combined: Logged) -> None:
    combined.ask("GET", "/healthz").connectionLost(None)
    combined.log.close()
    combined.log.close()
    assert [call.func for call in combined.clock.getDelayedCalls()] == []
    assert combined.file.read_text().count("\n") == 1


# -- refusals


@pytest.fixture
def told() -> Any:
    """Return what the program's log is told meanwhile."""
    lines: list[str | None] = []

    def tell(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(tell)
    yield lines
    globalLogPublisher.removeObserver(tell)


def test_the_first_refusal_of_a_kind_is_told_and_then_their_number_once_a_minute(told: list[str]) -> None:
    clock, counts = Clock(), {"mailbox-full": 0, "bad-cursor": 5}
    refusals = Refusals(counts, clock)
    refusals.start()
    counts["mailbox-full"] = 1
    clock.advance(1)
    assert told == ["Refused 1: mailbox-full"]
    for _ in range(59):
        counts["mailbox-full"] += 10
        clock.advance(1)
    assert len(told) == 1
    counts["unauthorized"] = 2
    clock.advance(1)
    assert told[1:] == ["Refused 590: mailbox-full", "Refused 2: unauthorized"]
    counts["mailbox-full"] += 3
    refusals.stop()
    assert told[3:] == ["Refused 3: mailbox-full"]
    assert clock.getDelayedCalls() == []
