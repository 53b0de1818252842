"""The command as a process: pipes, signals, a terminal, and a shell that waits for it."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fork_server import ROOT, forking_script
from program import COMETD_LITE, PATIENCE, Program, Run, eventually

from cometd_lite import __version__


@pytest.fixture
def environment(program: Program, tmp_path: Path) -> dict[str, str]:
    """Return an environment in whose shells the command is there, and knows the server."""
    command = tmp_path / "bin" / "cometd-lite"
    command.parent.mkdir()
    command.write_text(forking_script(COMETD_LITE))
    command.chmod(0o755)
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "COMETD_LITE_URL": f"http://localhost:{program.port}",
    }


def shell(script: str, environment: dict[str, str], **words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
        check=False,
        **words,
    )


@contextmanager
def running(
    *words: str, env: dict[str, str], fresh: bool = False, **popen: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command meanwhile, in a fork unless it is to be this process itself."""
    command = (sys.executable, "-m", "cometd_lite") if fresh else ("cometd-lite",)
    process = subprocess.Popen(
        [*command, *words],
        env=env,
        stdin=popen.pop("stdin", subprocess.DEVNULL),
        stdout=popen.pop("stdout", subprocess.PIPE),
        stderr=popen.pop("stderr", subprocess.PIPE),
        **popen,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_what_is_pushed_in_one_shell_is_polled_in_another(environment: dict[str, str]) -> None:
    done = shell("cometd-lite push cli/one hello there && cometd-lite poll cli/one", environment)
    assert (done.stdout, done.stderr, done.returncode) == ("hello there\n", "", 0)


def test_lines_piped_in_are_lines_piped_out_in_order(environment: dict[str, str]) -> None:
    script = (
        "seq 1 300 | cometd-lite push cli/seq --lines; cometd-lite follow cli/seq --after oldest --count 300"
    )
    done = shell(script, environment)
    assert done.stdout == "".join(f"{number}\n" for number in range(1, 301))
    assert done.returncode == 0


def test_a_log_that_grows_is_followed_at_the_other_end(
    program: Program, environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.write_text("first\n")
    with subprocess.Popen(["tail", "-n+1", "-f", str(log)], stdout=subprocess.PIPE) as tail:
        with (
            running("push", "cli/log", "--lines", env=environment, stdin=tail.stdout),
            running("follow", "cli/log", "--after", "oldest", env=environment) as follow,
        ):
            assert follow.stdout is not None
            assert follow.stdout.readline() == b"first\n"
            with log.open("a") as file:
                file.write("second\n")
            assert follow.stdout.readline() == b"second\n"
        tail.kill()


def test_a_pipe_whose_reader_has_enough_ends_the_following_at_once(
    program: Program, environment: dict[str, str]
) -> None:
    # `grep -m1` leaves at its match; without being told, the following would stay until the next message.
    program.push("/cli/build", "build 7 is done")
    script = "set -euo pipefail; cometd-lite follow cli/build --after oldest | grep -m1 done"
    done = shell(script, environment)
    assert (done.stdout, done.stderr, done.returncode) == ("build 7 is done\n", "", 0)
    eventually(lambda: program.waiting("cli/build") == 0, "the poll is gone")


def test_a_reader_that_leaves_in_the_middle_of_much_is_no_error(environment: dict[str, str]) -> None:
    push = "seq 1 500 | cometd-lite push cli/much --ndjson"
    follow = "cometd-lite follow cli/much --after oldest | head -n 3"
    done = shell(f"set -o pipefail; {push}; {follow}", environment)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n2\n3\n", "", 0)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_without_a_word(
    program: Program, environment: dict[str, str], number: int, status: int
) -> None:
    name = f"cli/signal-{number}"
    with running("follow", name, env=environment) as follow:
        eventually(lambda: program.waiting(name) == 1, "following")
        follow.send_signal(number)
        assert follow.communicate(timeout=PATIENCE) == (b"", b"")
        assert follow.returncode == status
    eventually(lambda: program.waiting(name) == 0, "the poll is gone")


def handles(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether a process has its own way to end at a signal by now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> number - 1 & 1)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("words", [("push", "cli/unsaid"), ("push", "cli/unsaid", "--file", "pipe")])
def test_the_first_signal_ends_a_push_that_waits_for_its_message(
    program: Program,
    environment: dict[str, str],
    tmp_path: Path,
    words: tuple[str, ...],
    number: int,
    status: int,
) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    with running(*words, env=environment, cwd=tmp_path, fresh=True, stdin=subprocess.PIPE) as push:
        eventually(lambda: handles(push, signal.SIGTERM), "running")
        push.send_signal(number)
        assert push.wait(PATIENCE) == status
        assert push.stderr is not None
        assert push.stderr.read() == b""
    os.close(writer)
    assert program.get("/poll/cli/unsaid?after=oldest&wait=0").data == []


def test_a_pushed_message_is_read_from_a_file_a_pipe_or_a_substitution(environment: dict[str, str]) -> None:
    script = (
        "echo one > cli-in; cometd-lite push cli/in < cli-in; echo two | cometd-lite push cli/in;"
        "cometd-lite push cli/in --file <(echo three); rm cli-in;"
        "cometd-lite poll cli/in"
    )
    done = shell(script, environment)
    assert (done.stdout, done.stderr, done.returncode) == ("one\ntwo\nthree\n", "", 0)


def test_what_cannot_be_read_or_written_is_one_sentence(environment: dict[str, str]) -> None:
    done = shell(
        "cometd-lite push cli/closed <&-; echo $?; cometd-lite push cli/closed --file /; echo $?", environment
    )
    assert done.stdout == "2\n2\n"
    assert done.stderr == "cometd-lite: standard input: it is closed.\ncometd-lite: /: Is a directory.\n"
    done = shell("cometd-lite push cli/closed hi >&-; cometd-lite push cli/closed >&- 2>&- <&-", environment)
    assert (done.stderr, done.returncode) == ("", 2)


def test_a_listener_is_ended_when_its_command_is_interrupted(
    program: Program, environment: dict[str, str]
) -> None:
    with running("listen", "--json", env=environment) as listen:
        assert listen.stdout is not None
        line = listen.stdout.readline()
        listener = line.decode().split('"')[3]
        assert program.get(f"/listeners/{listener}").status == 200
        program.push(f"/{listener}", "to you")
        assert b'"data":"to you"' in listen.stdout.readline()
        listen.send_signal(signal.SIGINT)
        listen.wait(PATIENCE)
    assert program.get(f"/listeners/{listener}").status == 410


def test_a_server_that_is_not_there_is_one_sentence_at_once(environment: dict[str, str]) -> None:
    environment["COMETD_LITE_URL"] = "localhost:1"
    done = shell("cometd-lite push bob hi --patience 0", environment)
    assert (
        done.stderr == "cometd-lite: No server answers at http://localhost:1: the connection was refused.\n"
    )
    assert done.returncode == 3


def test_a_push_waits_for_a_server_that_is_just_being_started(
    run: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    first = run()
    port = first.port
    first.stop()
    environment["COMETD_LITE_URL"] = f"localhost:{port}"
    with running("push", "bob", "hi", env=environment) as push:
        assert push.stderr is not None
        assert b"the connection was refused. Trying again.\n" in push.stderr.readline()
        second = run("--listen", f"tcp:{port}:interface=127.0.0.1")
        assert push.wait(PATIENCE) == 0
    assert second.get("/poll/bob?after=oldest").data == ["hi"]


def test_a_place_in_a_file_outlives_a_kill(
    program: Program, environment: dict[str, str], tmp_path: Path
) -> None:
    place = tmp_path / "place"
    words = ("follow", "cli/killed", "--after", "oldest", "--cursor-file", str(place))
    for number in range(3):
        program.push("/cli/killed", str(number))
        with running(*words, env=environment) as follow:
            assert follow.stdout is not None
            assert follow.stdout.readline() == b"%d\n" % number
            eventually(lambda: program.waiting("cli/killed") == 1, "parked, and so the place is on the disk")
            follow.kill()
            follow.wait()
        eventually(lambda: program.waiting("cli/killed") == 0, "the poll is gone")


def test_a_command_for_each_message_is_interrupted_with_us(
    program: Program, environment: dict[str, str], tmp_path: Path
) -> None:
    program.push("/cli/exec", "slow")
    place = tmp_path / "place"
    words = ("follow", "cli/exec", "--after", "oldest", "--cursor-file", str(place))
    started = tmp_path / "started"
    with running(
        *words, "--exec", f": > {started}; exec sleep 30", env=environment, fresh=True, start_new_session=True
    ) as one:
        eventually(started.exists, "the command runs")
        os.killpg(one.pid, signal.SIGINT)  # as a terminal does, to everyone in front of it
        assert one.wait(PATIENCE) == 130
    with running(*words, "--count", "1", env=environment) as again:
        assert again.stdout is not None
        assert again.stdout.readline() == b"slow\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_to_us_alone_ends_the_command_for_a_message_too(
    program: Program, environment: dict[str, str], tmp_path: Path, number: int, status: int
) -> None:
    name = f"cli/exec-{number}"
    program.push(f"/{name}", "slow")
    started = tmp_path / "started"
    words = ("follow", name, "--after", "oldest", "--exec", f"echo $$ > {started}; exec sleep 30")
    with running(*words, env=environment) as follow:
        child = int(eventually(lambda: started.exists() and started.read_text(), "the command runs"))
        follow.send_signal(number)
        assert follow.communicate(timeout=PATIENCE) == (b"", b"")
        assert follow.returncode == status
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "words",
    [
        ("push", "bob", "hi"),
        ("poll", "bob"),
        ("follow", "bob"),
        ("follow", "bob", "--stream"),
        ("listen",),
        ("info",),
        ("delete", "bob"),
    ],
    ids=" ".join,
)
def test_the_first_signal_ends_what_waits_for_a_server_that_does_not_answer(
    environment: dict[str, str], words: tuple[str, ...], number: int, status: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment["COMETD_LITE_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with running(*words, env=environment) as command:
            connection, _ = silent.accept()
            command.send_signal(number)
            assert command.communicate(timeout=PATIENCE) == (b"", b"")
            endless = number == signal.SIGTERM and words[0] in {"follow", "listen"}
            assert command.returncode == (0 if endless else status)
        connection.close()


def test_on_a_terminal_colours_are_shown_and_what_others_wrote_is_harmless(
    program: Program, environment: dict[str, str]
) -> None:
    program.push("/cli/screen", "\x1b[2Jhi")
    ours, theirs = pty.openpty()
    environment["TERM"] = "xterm"
    environment.pop("NO_COLOR", None)
    words = ("follow", "cli/screen", "--after", "oldest", "--count", "1")
    with running(*words, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as follow:
        assert follow.wait(PATIENCE) == 0
    with running("push", "//", "x", env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as push:
        assert push.wait(PATIENCE) == 1
    os.close(theirs)
    shown = os.read(ours, 4_096)
    os.close(ours)
    assert shown.startswith(b"\\x1b[2Jhi\r\n\x1b[31mcometd-lite:\x1b[0m A recipient")


def test_serve_serves_in_the_foreground_and_ends_by_sigterm(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with running(
        "serve",
        "--listen",
        "tcp:0:interface=127.0.0.1",
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.STDOUT,
    ) as serve:
        assert serve.stdout is not None
        log = b""
        while b"starting on" not in log:
            line = serve.stdout.readline()
            assert line, log
            log += line
        port = int(log.rpartition(b"starting on ")[2])
        address = f"cometd-lite {__version__} serves http://localhost:{port}/\n".encode()
        while not log.endswith(address):
            line = serve.stdout.readline()
            assert line, log
            log += line
        assert b"#warn" not in log, "warnings come after it"
        environment["COMETD_LITE_URL"] = f"localhost:{port}"
        assert shell("cometd-lite info", environment).stdout.startswith(
            f"http://localhost:{port}  takes requests"
        )
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(PATIENCE) == 0
    assert not list(tmp_path.glob("*.pid"))


def test_serve_tells_what_is_wrong_with_an_option_in_one_sentence(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = shell("cometd-lite serve --capacity none", environment, cwd=tmp_path)
    assert done.stderr == "cometd-lite: --capacity none: it takes a whole number, 1 or more.\n"
    assert done.returncode == 2
    done = shell("cometd-lite serve --capcity 3", environment, cwd=tmp_path)
    assert done.stderr == "cometd-lite: there is no option --capcity; did you mean --capacity?\n"
    assert done.returncode == 2


def test_the_help_of_serve_names_serve(environment: dict[str, str], tmp_path: Path) -> None:
    done = shell("cometd-lite serve --help", environment, cwd=tmp_path)
    assert done.stdout.startswith("Usage: cometd-lite serve [options]\n")
    assert "twistd" not in done.stdout
    assert done.returncode == 0


def test_bench_measures_the_server_that_the_others_talk_to(environment: dict[str, str]) -> None:
    done = shell("cometd-lite bench mailbox --readers 5 --messages 50 --warm-up 0 --json", environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["deliveries"] == 50


# -- workers


def test_a_worker_acknowledges_what_its_command_has_done(
    program: Program, environment: dict[str, str], tmp_path: Path
) -> None:
    for text in ("1", "2", "3"):
        program.push("/cli/jobs", text)
    work = f"cat >> {tmp_path}/done; echo >> {tmp_path}/done"
    done = shell(f"cometd-lite take cli/jobs --lease 30 --exec '{work}' --count 3", environment)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert (tmp_path / "done").read_text() == "1\n2\n3\n"
    assert program.get("/recipients/cli/jobs").json["queued"] == 0


def test_a_worker_gives_back_what_its_command_has_failed_at_and_goes_on(
    program: Program, environment: dict[str, str], tmp_path: Path
) -> None:
    program.push("/cli/failing", "1")
    work = f'echo "$COMET_ATTEMPT" >> {tmp_path}/attempts; test "$COMET_ATTEMPT" -gt 1'
    script = f"cometd-lite take cli/failing --lease 30 --exec '{work}' --count 2"
    done = shell(script, environment)
    assert done.returncode == 0
    assert "ended with 1 for message" in done.stderr
    assert (tmp_path / "attempts").read_text() == "1\n2\n"
    assert program.get("/recipients/cli/failing").json["queued"] == 0


def test_a_lease_is_extended_while_the_command_runs(
    program: Program, environment: dict[str, str], tmp_path: Path
) -> None:
    program.push("/cli/slow", "1")
    work = f"touch {tmp_path}/began; until test -e {tmp_path}/go; do sleep 0.05; done"
    with running(
        "take", "cli/slow", "--lease", "1", "--exec", work, "--count", "1", env=environment
    ) as worker:
        eventually((tmp_path / "began").exists, "the command runs")
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert program.get("/poll/cli/slow?lease=1&wait=0").json["messages"] == []
        (tmp_path / "go").touch()
        assert worker.communicate(timeout=PATIENCE) == (b"", b"")
        assert worker.returncode == 0
    assert program.get("/recipients/cli/slow").json["queued"] == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_a_worker_and_its_command_and_others_have_the_message(
    program: Program, environment: dict[str, str], tmp_path: Path, number: int, status: int
) -> None:
    name = f"cli/worker-{number}"
    program.push(f"/{name}", "1")
    work = f"touch {tmp_path}/began; exec sleep 60"
    with running("take", name, "--lease", "60", "--exec", work, env=environment) as worker:
        eventually((tmp_path / "began").exists, "the command runs")
        worker.send_signal(number)
        assert worker.communicate(timeout=PATIENCE) == (b"", b"")
        assert worker.returncode == status
    assert program.get(f"/poll/{name}?lease=30").json["messages"][0]["attempt"] == 2
