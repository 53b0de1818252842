"""``SyncClient`` over real sockets: in scripts, threads, forked workers and beside event loops."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from os import environ
from pathlib import Path
from typing import Any

import pytest
from fork_server import ROOT
from program import PATIENCE, Program, Run, eventually
from tls import certificate
from tools import needs_package

from cometd_lite import SyncClient
from cometd_lite.client import NoAnswer
from cometd_lite.core.message import Cursor
from cometd_lite.errors import BadRecipient, CometError, MailboxFull


@pytest.fixture
def client(program: Program) -> Iterator[SyncClient]:
    with SyncClient(f"http://localhost:{program.port}") as client:
        yield client


def execute(code: str, *words: str, **environment: str) -> str:
    """Run a script to its end, and return what it has printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        env=environ | {"PYTHONPATH": str(ROOT)} | environment,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_a_worker_leases_and_acknowledges(client: SyncClient) -> None:
    client.push("sync/jobs", {"n": 1})
    (message,) = client.lease("sync/jobs", 30).leased
    assert (message.data, message.attempt) == ({"n": 1}, 1)
    assert client.ack(message, extend=60) == "extended"
    assert client.ack(message) == "done"
    assert client.ack(message, release=True) == "gone"
    assert client.lease("sync/jobs", 30, wait=0).leased == ()


def test_a_lease_is_extended_while_the_program_works(client: SyncClient) -> None:
    for number in (1, 2):
        client.push("sync/long", number)
    with client.work("sync/long", 1) as jobs:
        for job in jobs:
            if job.data == 2:
                break
            other = client.lease("sync/long", 1, limit=10, wait=0).leased
            assert [one.data for one in other] == [2]
            assert client.ack(other[0], release=True) == "released"
            # So long does the work take: two leases after each other.
            assert client.lease("sync/none", 1, wait=2.5).leased == ()
    assert job.attempt == 2
    assert client.describe("sync/long").queued == 0


def test_a_worker_that_fails_gives_its_message_back_and_so_does_one_that_says_so(client: SyncClient) -> None:
    client.push("sync/fails", 1)

    def work() -> None:
        with client.work("sync/fails") as jobs:
            for job in jobs:
                if job.attempt == 2:
                    jobs.release()
                else:
                    assert 1 / (1 - job.data)

    with pytest.raises(ZeroDivisionError):
        work()
    with pytest.raises(ZeroDivisionError):
        work()
    (job,) = client.lease("sync/fails", 30, wait=0).leased
    assert job.attempt == 4


def test_a_worker_is_told_where_its_message_is_another_ones(client: SyncClient) -> None:
    client.push("sync/gone", 1)
    gone = []
    with client.work("sync/gone", on_gone=gone.append) as jobs:
        job = next(jobs)
        client.delete("sync/gone")
    assert gone == [job]


def test_closing_the_client_ends_a_worker_that_works_and_one_that_waits(program: Program) -> None:
    client = SyncClient(f"http://localhost:{program.port}")
    client.push("sync/closed", 1)
    before = threading.active_count()
    working = client.work("sync/closed")
    assert next(working).attempt == 1
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, client.work("sync/none"))
        eventually(lambda: program.waiting("sync/none") == 1)
        client.close()
        assert waiting.result(PATIENCE) == []
    assert list(working) == []
    assert threading.active_count() == before


def test_a_loop_over_jobs_that_is_left_by_break_extends_no_lease(client: SyncClient) -> None:
    client.push("sync/left", 1)
    before = threading.active_count()
    for job in client.work("sync/left", 1):
        assert job.attempt == 1
        break
    assert threading.active_count() == before
    (again,) = client.lease("sync/left", 1, wait=10).leased
    assert again.attempt == 2


def test_a_script_pushes_polls_takes_and_follows_and_installs_no_reactor(program: Program) -> None:
    code = """if True:
        import sys
        from cometd_lite import SyncClient
        with SyncClient(sys.argv[1]) as client:
            receipt = client.push("script", {"text": "hi"}, event="greeting")
            (message,) = client.poll("script", "oldest", wait=0).messages
            print(message.id == receipt.id, message.data, message.event)
            print([message.data for message in client.take("script").messages])
            print(client.poll("script", receipt.id, wait=0).messages)
            for stream in (False, True):
                with client.follow("script", receipt.id, stream=stream) as messages:
                    receipt = client.push("script", "one")
                    client.push("script", "two")
                    print([next(messages).data, next(messages).data])
            print(client.describe("script").queued)
            print([(one.recipient, one.queued) for one in client.recipients("scrip", limit=5).recipients])
            print([message.data for message in client.poll("script", "last:1").messages])
            client.delete("script")
            print(client.request("GET", "healthz").json()["status"])
        print("twisted.internet.reactor" in sys.modules)
    """
    assert execute(code, f"http://localhost:{program.port}").splitlines() == [
        "True {'text': 'hi'} greeting",
        "[{'text': 'hi'}]",
        "()",
        "['one', 'two']",
        "['two', 'one']",
        "1",
        "[('script', 1)]",
        "['two']",
        "ok",
        "False",
    ]


def test_threads_of_a_pool_push_and_take_at_the_same_time_and_no_message_is_lost_or_doubled(
    client: SyncClient,
) -> None:
    with ThreadPoolExecutor(16) as pool:
        receipts = list(pool.map(lambda number: client.push("pool", number), range(200)))
        taken = list(pool.map(lambda _: client.take("pool", wait=0, limit=20), range(10)))
    assert len({receipt.id for receipt in receipts}) == 200
    assert sorted(message.data for batch in taken for message in batch.messages) == list(range(200))


def test_a_poll_is_held_while_other_threads_push(client: SyncClient) -> None:
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(client.poll, "held", "now")
        eventually(lambda: client.describe("held").waiting == 1)
        assert client.push("held", "hi").delivered == 1
        assert [message.data for message in polling.result(PATIENCE).messages] == ["hi"]


def test_a_wait_that_is_over_is_an_empty_batch(client: SyncClient) -> None:
    assert not client.poll("quiet", "now", wait=0.05).messages


def test_errors_are_those_that_the_server_raised(run: Run) -> None:
    with SyncClient(f"http://localhost:{run('--capacity=1').port}") as client:
        with pytest.raises(BadRecipient):
            client.push("//", "hi")
        client.push("bob", "one")
        with pytest.raises(MailboxFull) as caught:
            client.push("bob", "two", patience=0)
    assert caught.value.retry_after is not None


def test_what_is_wrong_with_the_arguments_is_a_value_error_and_the_client_works_on(
    client: SyncClient,
) -> None:
    for ask in (
        lambda: client.push("wrong", object()),
        lambda: client.poll("wrong", "yesterday"),
        lambda: client.follow("wrong", "yesterday"),
    ):
        with pytest.raises(ValueError, match=r"JSON|cursor"):
            ask()
    assert client.push("wrong", "right").ids
    with pytest.raises(ValueError, match="no URL of a server"):
        SyncClient("localhost:8080")


def test_a_server_that_is_not_there_is_no_answer_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    for url, sentence in (
        (f"http://127.0.0.1:{port}", "connection was refused"),
        ("http://nowhere.invalid", "no such host"),
    ):
        with SyncClient(url, patience=0) as client, pytest.raises(NoAnswer, match=sentence):
            client.push("bob", "hi")


def test_a_push_is_tried_again_until_the_server_is_there_and_counts_once(run: Run, tmp_path: Path) -> None:
    store = f"--store=sqlite:{tmp_path / 'comet.db'}"
    first = run(store)
    retries: list[CometError] = []
    with SyncClient(f"http://localhost:{first.port}") as client:
        client.push("bob", "one")
        first.stop()
        with ThreadPoolExecutor(1) as pool:
            pushing = pool.submit(client.push, "bob", "two", on_retry=lambda error, _: retries.append(error))
            eventually(lambda: retries)
            run(store, "--listen", f"tcp:{first.port}:interface=127.0.0.1")
            pushing.result(PATIENCE)
        batch = client.poll("bob", "oldest", wait=0)
    assert [message.data for message in batch.messages] == ["one", "two"]
    assert isinstance(retries[0], NoAnswer)


def test_a_following_goes_on_where_it_was_when_the_server_comes_back(run: Run, tmp_path: Path) -> None:
    store = f"--store=sqlite:{tmp_path / 'comet.db'}"
    first = run(store)
    first.push("/bob", "one")
    gaps: list[Cursor] = []
    with SyncClient(f"http://localhost:{first.port}") as client, ExitStack() as ends:
        both = [
            ends.enter_context(client.follow("bob", "oldest", stream=stream, on_gap=gaps.append))
            for stream in (False, True)
        ]
        assert [next(messages).data for messages in both] == ["one", "one"]
        first.stop()
        second = run(store, "--listen", f"tcp:{first.port}:interface=127.0.0.1")
        second.push("/bob", "two")
        assert [next(messages).data for messages in both] == ["two", "two"]
    assert gaps == []


def test_a_program_that_takes_its_time_with_a_message_of_a_stream_finds_the_next_one(
    client: SyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # While a message is handled no heartbeat is read; the stream is not dead because of that.
    retries: list[CometError] = []
    monkeypatch.setattr("cometd_lite.client.streams.SILENCE_SECONDS", 0.05)
    client.push("slow", "one")
    on_retry = lambda error, _: retries.append(error)  # noqa: E731  it is given twice
    with client.follow("slow", "oldest", stream=True, on_retry=on_retry) as messages:
        assert next(messages).data == "one"
        client.push("slow", "two")
        time.sleep(0.1)  # this is what is tested
        assert next(messages).data == "two"
    assert retries == []


def test_a_message_counts_as_handled_when_the_next_one_is_asked_for(
    client: SyncClient, tmp_path: Path
) -> None:
    place = tmp_path / "cursor"
    first, second = client.push("handled", 1), client.push("handled", 2)

    def handle() -> None:
        with client.follow("handled", "oldest", cursor_file=place) as messages:
            for message in messages:
                assert 1 / (2 - message.data)

    with pytest.raises(ZeroDivisionError):
        handle()
    assert place.read_text() == f"{first.id}\n"
    with client.follow("handled", cursor_file=place) as messages:
        assert next(messages).id == second.id
    assert place.read_text() == f"{second.id}\n"
    assert client.describe("handled").queued == 0


def test_a_loop_that_is_left_by_break_leaves_no_stream_open(client: SyncClient) -> None:
    client.push("break", "one")
    for _ in client.follow("break", "oldest", stream=True):
        break
    eventually(lambda: client.describe("break").waiting == 0)


def test_closing_the_client_ends_the_followings_and_calls_of_other_threads(program: Program) -> None:
    client = SyncClient(f"http://localhost:{program.port}")
    with ThreadPoolExecutor(3) as pool:
        following = pool.submit(lambda: [message.data for message in client.follow("closing", "oldest")])
        streaming = pool.submit(lambda: list(client.follow("closing", stream=True)))
        polling = pool.submit(client.poll, "closing", "now")
        eventually(lambda: program.waiting("closing") == 3)
        client.close()
        assert following.result(PATIENCE) == []
        assert streaming.result(PATIENCE) == []
        with pytest.raises(RuntimeError, match="closed by another thread"):
            polling.result(PATIENCE)
    eventually(lambda: program.waiting("closing") == 0)
    with pytest.raises(RuntimeError, match="is closed; make another one"):
        client.push("closing", "hi")


def test_a_pause_between_two_tries_ends_when_the_client_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    tried = threading.Event()
    client = SyncClient(f"http://127.0.0.1:{port}")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(
            lambda: list(client.follow("bob", on_retry=lambda error, seconds: tried.set()))
        )
        assert tried.wait(PATIENCE)
        client.close()
        assert following.result(PATIENCE) == []


@pytest.mark.parametrize("call", ["client.poll('ctrl', 'now')", "next(client.follow('ctrl', stream=True))"])
def test_ctrl_c_ends_a_call_at_once(program: Program, call: str) -> None:
    code = f"""if True:
        import sys
        from cometd_lite import SyncClient
        with SyncClient(sys.argv[1]) as client:
            try:
                {call}
            except KeyboardInterrupt:
                print(client.push("still", "works").delivered)
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, f"http://localhost:{program.port}"],
        env=environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually(lambda: program.waiting("ctrl") == 1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE)
    assert said == "0\n"
    eventually(lambda: program.waiting("ctrl") == 0)


def test_it_works_in_a_thread_in_which_an_event_loop_runs(client: SyncClient) -> None:
    async def cell_of_a_notebook() -> Any:
        client.push("notebook", "hi")
        return client.poll("notebook", "oldest", wait=0).messages[0].data

    assert asyncio.run(cell_of_a_notebook()) == "hi"


def test_a_client_from_before_a_fork_works_in_parent_and_children(program: Program) -> None:
    code = """if True:
        import os, sys
        from cometd_lite import SyncClient
        client = SyncClient(sys.argv[1])
        client.push("forks", "parent")
        children = []
        for number in range(3):
            pid = os.fork()
            if not pid:
                for again in range(10):
                    client.push("forks", [number, again])
                os._exit(0)
            children.append(pid)
        for again in range(10):
            client.push("forks", ["parent", again])
        print([os.waitpid(pid, 0)[1] for pid in children])
        batch = client.poll("forks", "oldest", wait=0)
        print(len(batch.messages), len({str(message.data) for message in batch.messages}))
        client.close()
    """
    assert execute(code, f"http://localhost:{program.port}") == "[0, 0, 0]\n41 41\n"


def test_a_certificate_that_the_machine_trusts_is_enough_and_any_other_is_refused_in_a_sentence(
    secured: Program, tmp_path: Path
) -> None:
    code = """if True:
        import asyncio, sys
        from cometd_lite import Client, SyncClient
        from cometd_lite.client import NoAnswer
        url = sys.argv[1]
        async def asynchronous():
            async with Client(url, patience=0) as client:
                try:
                    await client.push("tls", "x" * 50_000)
                    (message,) = (await client.take("tls")).messages
                    print(len(message.data))
                except NoAnswer as error:
                    print(error.detail.partition(" or ")[0])
        with SyncClient(url, patience=0) as client:
            try:
                client.push("tls", "x" * 60_000)
                print(len(next(client.follow("tls", "oldest", stream=True)).data))
                client.take("tls")
            except NoAnswer as error:
                print(error.detail.partition(" or ")[0])
        asyncio.run(asynchronous())
        print("twisted.internet.reactor" in sys.modules)
    """
    url = f"https://localhost:{secured.port}"
    refused = f"The certificate of {url} is not trusted here,\n"
    assert execute(code, url) == 2 * refused + "False\n"
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(certificate())
    assert execute(code, url, SSL_CERT_FILE=str(trusted)) == "60000\n50000\nFalse\n"


def test_an_answer_of_another_program_is_said_to_be_none_of_a_comet(program: Program) -> None:
    with SyncClient(f"http://localhost:{program.port}/healthz") as client, pytest.raises(CometError):
        client.describe("bob")


APPLICATION = """
import os
from flask import Flask, request
from cometd_lite import SyncClient

app = Flask(__name__)
comet = SyncClient(os.environ["COMETD_LITE_URL"])
comet.push("started", "imported")  # a connection from before the workers are forked


@app.post("/say/<room>")
def say(room):
    receipt = comet.push(f"chat/{room}", request.get_json())
    return {"id": receipt.id, "worker": os.getpid()}


@app.get("/history/<room>")
def history(room):
    batch = comet.poll(f"chat/{room}", "oldest", wait=0, limit=1000)
    return {"data": [message.data for message in batch.messages]}
"""


@pytest.fixture
def site(program: Program, tmp_path: Path) -> Iterator[int]:
    """Return the port of a Flask application under gunicorn, with two workers of four threads each."""
    needs_package("flask")
    needs_package("gunicorn")
    (tmp_path / "views.py").write_text(APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    log = tmp_path / "gunicorn.log"
    options = [
        "--workers=2",
        "--threads=4",
        "--preload",
        f"--bind=127.0.0.1:{port}",
        "--chdir",
        str(tmp_path),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "views:app"],
            env=environ | {"PYTHONPATH": str(ROOT), "COMETD_LITE_URL": f"http://localhost:{program.port}"},
            stdout=output,
            stderr=output,
        )
    eventually(lambda: "Booting worker" in log.read_text(), "gunicorn's workers")
    yield port
    process.terminate()
    assert process.wait(PATIENCE) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_flask_view_under_gunicorn_with_threads_and_workers_pushes_and_polls(site: int) -> None:
    def ask(method: str, path: str, body: str | None = None) -> bytes:
        connection = HTTPConnection("127.0.0.1", site, timeout=PATIENCE)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        assert answer.status == 200, said
        return said

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(lambda number: ask("POST", "/say/flask", str(number)), range(100)))
    assert len(set(said)) == 100
    history = ask("GET", "/history/flask")
    assert sorted(json.loads(history)["data"]) == list(range(100))
