"""The fork server: a fork runs as the interpreter would run it, and ends with the tests that started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fork_server import ROOT, Process, fork, forking_script, spawn
from program import PATIENCE, eventually


def said(directory: Path, code: str, *words: str, pass_fds: tuple[int, ...] = ()) -> tuple[str, int]:
    """Run code in a fork to its end; return what it said, and its exit code."""
    log = directory / "said"
    with log.open("wb") as output:
        status = fork(code, *words, cwd=directory, stdout=output, pass_fds=pass_fds).wait(PATIENCE)
    return log.read_text(), status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("import sys; sys.exit(7)", 7),
        ("raise SystemExit('no')", 1),
        ("1 / 0", 1),
        ("import os; os._exit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", -9),
    ],
)
def test_a_process_ends_with_its_exit_code(tmp_path: Path, code: str, status: int) -> None:
    assert said(tmp_path, code)[1] == status


def test_what_a_process_says_and_its_traceback_are_written(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv); sys.exit('no')"
    assert said(tmp_path, code, "a", "b") == ("['-c', 'a', 'b']\nno\n", 1)
    assert said(tmp_path, "1 / 0")[0].endswith("\nZeroDivisionError: division by zero\n")


def test_a_process_has_its_directory_its_environment_and_an_empty_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMET_TEST", "größe")
    code = "import os, sys; print(os.getcwd(), os.environ['COMET_TEST'], repr(sys.stdin.read()))"
    assert said(tmp_path, code) == (f"{tmp_path} größe ''\n", 0)


def test_a_process_has_imported_the_server_but_no_reactor(tmp_path: Path) -> None:
    code = "import sys; print('cometd_lite.comet' in sys.modules, 'twisted.internet.reactor' in sys.modules)"
    assert said(tmp_path, code) == ("True False\n", 0)


def test_a_process_has_the_files_that_it_is_given_and_no_others(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        code = f"""if True:
            import os, socket
            print([file for file in range(1_000) if os.path.exists(f"/dev/fd/{{file}}")])
            print(socket.socket(fileno={number}).getsockname()[1])"""
        port = listening.getsockname()[1]
        found = said(tmp_path, code, pass_fds=(number,))
    assert found == (f"{[0, 1, 2, number]}\n{port}\n", 0)


def test_a_process_is_waited_for_and_takes_signals(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = "import signal, time; open('ready', 'w').close(); time.sleep(60)"
    with (tmp_path / "log").open("wb") as output:
        for number, status in ((signal.SIGTERM, -15), (signal.SIGKILL, -9), (signal.SIGINT, -2)):
            process = fork(code, cwd=tmp_path, stdout=output)
            eventually(ready.exists, "its start")
            ready.unlink()
            assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)
            process.send_signal(number)
            assert process.wait(PATIENCE) == process.poll() == status
            process.kill()  # it has ended, and nothing else is hit


@contextmanager
def running(directory: Path, code: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the script for the code, and end it."""
    script = directory / "script"
    script.write_text(forking_script(code))
    words = ["sh", str(script), "a b"]
    with subprocess.Popen(words, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_script_is_a_process_with_its_words_its_files_and_its_directory(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv, sys.stdin.read(), os.getcwd()); sys.exit(5)"
    with running(tmp_path, code) as process:
        assert process.communicate(b"said", PATIENCE)[0].decode() == f"['-c', 'a b'] said {tmp_path}\n"
        assert process.returncode == 5


def test_a_script_that_is_sent_a_signal_passes_it_on_and_ends_as_its_fork_does(tmp_path: Path) -> None:
    code = "import time; print('ready', flush=True); time.sleep(600)"
    for number in (signal.SIGTERM, signal.SIGINT):
        with running(tmp_path, code) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.wait(PATIENCE) == -number


def test_a_script_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with running(tmp_path, code) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_there(pid)
        process.kill()
        eventually(lambda: not is_there(pid), "its end")


KILLED = """
import sys, time
from pathlib import Path
from fork_server import fork, spawn

with open("log", "wb") as log:
    forked = fork("import time; time.sleep(600)", cwd=Path.cwd(), stdout=log)
spawned = spawn("sleep", "600", cwd=Path.cwd())
print(forked.pid, spawned.pid, flush=True)
time.sleep(600)
"""


def is_there(pid: int) -> bool:
    """Return whether a process runs; what nobody has waited for has ended all the same."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # before it is opened, or between that and the reading
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells of processes in /proc")
def test_tests_that_are_killed_leave_no_process_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
    ) as tests:
        assert tests.stdout is not None
        pids = [int(pid) for pid in tests.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_there, pids))
        tests.kill()
    eventually(lambda: not any(map(is_there, pids)), "their end")


def test_a_program_runs_as_one_that_a_shell_starts(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def run(*command: str) -> Process:
        with log.open("ab") as output:
            return spawn(*command, cwd=tmp_path, stdout=output)

    assert run("sh", "-c", "pwd; exit 5").wait(PATIENCE) == 5
    assert log.read_text() == f"{tmp_path}\n"
    # A pipe that nobody reads ends it, though Python ignores that signal.
    assert run("sh", "-c", "kill -PIPE $$").wait(PATIENCE) == -signal.SIGPIPE
    assert spawn("sh", "-c", "echo dropped", cwd=tmp_path).wait(PATIENCE) == 0
