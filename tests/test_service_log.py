"""The log on standard output: twistd's, but for what each line leaves in memory."""

from __future__ import annotations

import io
import sys

import pytest
from twisted.application.service import Application
from twisted.logger import ILogObserver, LogEvent, Logger, capturedLogs, textFileLogObserver
from twisted.python.failure import Failure
from twisted.scripts.twistd import ServerOptions

from cometd_lite.service import Options, makeService


def observer_of(*words: str) -> ILogObserver | None:
    """Return the observer of the log that the service gives to an application of ``twistd``."""
    options = Options()
    options.parent = ServerOptions()
    options.parent.parseOptions([*words, "cometd-lite"])
    options.parseOptions([])
    application = Application("cometd-lite")
    makeService(options).setServiceParent(application)
    observer: ILogObserver | None = ILogObserver(application, None)
    return observer


@pytest.fixture
def events(expected_failures: list[type[BaseException]]) -> list[LogEvent]:
    """Events of all kinds: formatted, of a failure, of a print, without a time, of summer and winter."""
    expected_failures.append(ValueError)
    with capturedLogs() as events:
        log = Logger("some.where")
        log.info("serves {address}", address="http://localhost/")
        log.warn("two\nlines")
        log.failure("It failed", Failure(ValueError("why")))
    half_a_year = {"log_time": events[0]["log_time"] + 15_768_000}
    return [*events, events[0] | half_a_year, events[0] | {"log_time": None, "log_system": "stdout"}]


def test_the_log_on_standard_output_looks_as_twistd_writes_it(
    events: list[LogEvent], capsys: pytest.CaptureFixture[str]
) -> None:
    written = io.StringIO()
    ours, twisteds = observer_of("-n"), textFileLogObserver(written)
    assert ours is not None
    for event in events:
        ours(event)
        twisteds(event)
    assert capsys.readouterr().out == written.getvalue() != ""


def test_a_line_of_the_log_leaves_nothing_in_memory(events: list[LogEvent]) -> None:
    observer = observer_of("-n", "--logfile=-")
    assert observer is not None

    observer(events[0])
    before = sys.getallocatedblocks()
    blocks = [observer(events[0]) or bytes(30) for _ in range(1_000)]  # where a name was, the next is not
    assert sys.getallocatedblocks() - before - len(blocks) < 50


@pytest.mark.parametrize("words", [(), ("-n", "--logfile=x.log"), ("-n", "--syslog")])
def test_a_log_in_a_file_or_of_the_system_is_left_to_twistd(words: tuple[str, ...]) -> None:
    assert observer_of(*words) is None
