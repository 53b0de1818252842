"""The client over real sockets: upon the default reactor, in an asyncio program, through a restart."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fork_server import ROOT
from program import Program, Run, eventually
from tools import needs_package

from cometd_lite import Client

TWISTED = """
import json, sys
from twisted.internet import task
from cometd_lite.client import Client

async def program(reactor, url):
    async with Client(url) as client:
        {body}

task.react(lambda reactor: __import__("twisted").internet.defer.ensureDeferred(program(reactor, sys.argv[1])))
"""

ASYNCIO = """
import asyncio, json, sys
from cometd_lite.client import Client

async def program(url):
    async with Client(url) as client:
        {body}

asyncio.run(program(sys.argv[1]))
"""


def execute(template: str, body: str, program: Program, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the body, and return it once it has ended by itself."""
    indented = "\n        ".join(body.strip().splitlines())
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            template.format(body=indented),
            f"http://localhost:{program.port}",
            *more,
        ],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )


CONVERSATION = """
name = sys.argv[2]
receipt = await client.push(name, {"text": "hi"})
async with client.follow(name, "oldest", stream=sys.argv[3] == "stream") as messages:
    async for message in messages:
        print(json.dumps([message.id == receipt.id, message.data]))
        if message.data == "end":
            break
        receipt = await client.push(name, "end")
print((await client.describe(name)).queued)
"""


def check_conversation(template: str, program: Program, name: str, how: str) -> None:
    done = execute(template, CONVERSATION, program, name, how)
    assert done.stderr == ""
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [True, {"text": "hi"}],
        [True, "end"],
        0,
    ]


def test_a_twisted_program_talks_to_a_server(program: Program) -> None:
    check_conversation(TWISTED, program, "twisted", "poll")


def test_an_asyncio_program_talks_to_a_server_and_ends(program: Program) -> None:
    check_conversation(ASYNCIO, program, "asyncio", "poll")


def test_an_asyncio_program_reads_a_stream_and_ends(program: Program) -> None:
    check_conversation(ASYNCIO, program, "asyncio-stream", "stream")


def test_an_asyncio_program_waits_with_its_own_timeouts_and_reads_in_tasks(program: Program) -> None:
    body = """
following = client.follow("tasks", "oldest")
try:
    async with asyncio.timeout(0.2):
        await anext(following)
except TimeoutError:
    print("nothing yet")
async def read():
    return [(await anext(following)).data for _ in range(3)]
reading = asyncio.create_task(read())
for number in range(3):
    await client.push("tasks", number)
print(await reading)
reading = asyncio.create_task(read())
await asyncio.sleep(0)
reading.cancel()
try:
    await reading
except asyncio.CancelledError:
    print("cancelled")
"""
    done = execute(ASYNCIO, body, program)
    assert done.stderr == ""
    assert done.stdout == "nothing yet\n[0, 1, 2]\ncancelled\n"


def script(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a whole program once it has ended by itself."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.parametrize("before", ["", "from twisted.internet import reactor"])
def test_a_process_may_have_several_asyncio_loops_one_after_the_other_and_needs_no_reactor(
    program: Program, before: str
) -> None:
    code = f"""if True:
        import asyncio, sys
        {before}
        from cometd_lite import Client
        shared = Client(sys.argv[1])
        async def with_its_own(number):
            async with Client(sys.argv[1]) as client:
                await client.push("loops", number)
                async for message in client.follow("loops", "oldest", stream=bool(number % 2)):
                    if message.data == number:
                        return
        async def with_the_shared_one(number):
            await shared.push("loops", number)
            print([message.data for message in (await shared.poll("loops", "oldest")).messages])
            await shared.close()
        for number in range(2):
            asyncio.run(with_its_own(number))
        for number in range(2, 4):
            asyncio.run(with_the_shared_one(number))
        print("twisted.internet.reactor" in sys.modules)
    """
    name = "loops" if before else "loops-again"
    done = script(code.replace('"loops"', f'"{name}"'), f"http://localhost:{program.port}")
    assert done.stderr == ""
    assert done.stdout == f"[0, 1, 2]\n[0, 1, 2, 3]\n{bool(before)}\n"


def test_a_loop_that_is_not_asyncios_own_does_as_well(program: Program) -> None:
    needs_package("uvloop")
    code = """if True:
        import asyncio, sys, uvloop
        from cometd_lite import Client
        async def program():
            async with Client(sys.argv[1]) as client:
                await client.push("uvloop", "x" * 60_000)
                async with client.follow("uvloop", "oldest", stream=True) as messages:
                    print(len((await anext(messages)).data))
                try:
                    async with asyncio.timeout(0.1):
                        await client.poll("uvloop", "now")
                except TimeoutError:
                    print("no longer")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(program())
    """
    done = script(code, f"http://localhost:{program.port}")
    assert (done.stdout, done.stderr) == ("60000\nno longer\n", "")


def test_asyncio_loops_in_several_threads_use_one_client_at_the_same_time(program: Program) -> None:
    client = Client(f"http://localhost:{program.port}")

    async def work(number: int) -> list[str]:
        receipts = [client.push("many-loops", [number, again]) for again in range(10)]
        ids = [(await receipt).id for receipt in receipts]
        await client.close()
        return ids

    with ThreadPoolExecutor(5) as pool:
        ids = list(pool.map(lambda number: asyncio.run(work(number)), range(5)))
    assert len({one for some in ids for one in some}) == 50


def test_an_asyncio_program_waits_no_longer_than_it_says_for_what_does_not_answer(program: Program) -> None:
    body = """
import socket
with socket.create_server(("127.0.0.1", 0)) as silent:
    url = f"http://localhost:{silent.getsockname()[1]}"
    waiting = Client(url, patience=0)
    try:
        async with asyncio.timeout(0.1):
            await waiting.push("bob", "hi")
    except TimeoutError:
        print("no longer")
    await waiting.close()
refused = Client(url, patience=0)
try:
    await refused.push("bob", "hi")
except Exception as error:
    print(type(error).__name__, "connection was refused" in str(error))
nowhere = Client("http://nowhere.invalid", patience=0)
connecting = asyncio.ensure_future(asyncio.wait_for(poll(nowhere), 5))
await asyncio.sleep(0)
connecting.cancel()
print(isinstance((await asyncio.gather(connecting, return_exceptions=True))[0], asyncio.CancelledError))
"""
    template = ASYNCIO.replace(
        "async def program", "async def poll(c):\n    await c.poll('x', 'now')\n\nasync def program"
    )
    done = execute(template, body, program)
    assert done.stderr == ""
    assert done.stdout == "no longer\nNoAnswer True\nTrue\n"


def test_a_client_works_beside_a_reactor_that_runs_on_the_same_loop(program: Program) -> None:
    code = """if True:
        import asyncio, sys
        from twisted.internet import asyncioreactor
        loop = asyncio.new_event_loop()
        asyncioreactor.install(loop)
        from twisted.internet import reactor
        from twisted.internet.defer import ensureDeferred
        from cometd_lite import Client
        client = Client(sys.argv[1])
        early = client.push("same-loop", "begun before the reactor runs")
        async def twisteds():
            print((await client.push("same-loop", "twisted")).delivered)
        async def asyncios():
            print((await early).delivered)
            print((await client.push("same-loop", "asyncio")).delivered)
        async def both():
            await asyncios()
            await ensureDeferred(twisteds()).asFuture(loop)
            await client.close()
            reactor.stop()
        def begin():
            global task
            task = loop.create_task(both())
        reactor.callWhenRunning(begin)
        reactor.run()
    """
    done = script(code, f"http://localhost:{program.port}")
    assert (done.stdout, done.stderr) == ("0\n0\n0\n", "")


def test_a_request_that_was_begun_elsewhere_says_so_when_it_is_awaited(program: Program) -> None:
    code = """if True:
        import asyncio, sys
        from twisted.internet import reactor, threads
        from cometd_lite import Client
        client = Client(sys.argv[1])
        pushing = client.push("elsewhere", "hi")
        async def program():
            await pushing
        try:
            asyncio.run(program())
        except RuntimeError as error:
            print(error)
        def in_a_thread():
            client.push("elsewhere", "hi").addErrback(lambda failure: print(failure.value))
        async def twisteds():
            await threads.deferToThread(in_a_thread)
            await pushing
            await client.close()
        from twisted.internet.task import react
        from twisted.internet.defer import ensureDeferred
        react(lambda _: ensureDeferred(twisteds()))
    """
    done = script(code, f"http://localhost:{program.port}")
    assert done.stderr == ""
    outside, thread = done.stdout.splitlines()
    assert outside.startswith("This request was begun outside of the asyncio loop that awaits it.")
    assert "In another thread use SyncClient" in thread


def test_a_stream_that_is_not_read_is_paused_and_then_goes_on(program: Program) -> None:
    # More than STREAM_AHEAD, and more than sockets hold: the server must not have to cut it off.
    body = """
from twisted.internet.task import deferLater
async with client.follow("flood", "oldest", stream=True) as messages:
    assert (await anext(messages)).data == -1
    await client.push("flood", 0)
    assert (await anext(messages)).data == 0
    for start in range(1, 2000, 100):
        lines = "".join(f"{number}\\n" for number in range(start, start + 100))
        await client.push("flood", lines, type="application/x-ndjson", overflow="drop-oldest")
    lines = messages._source._lines
    while not lines._paused:
        await deferLater(reactor, 0.01)
    got = [(await anext(messages)).data for _ in range(2000)]
    print(got == list(range(1, 2001)), lines is messages._source._lines)
"""
    program.push("/flood", "-1", Content_Type="application/json")
    done = execute(TWISTED, body, program)
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_a_following_goes_on_where_it_was_when_the_server_comes_back(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "comet.db"
    first = run("--store", f"sqlite:{place}")
    port = first.port
    code = """if True:
        import sys
        from twisted.internet import task
        from twisted.internet.defer import ensureDeferred
        from cometd_lite.client import Client
        async def program():
            async with Client(sys.argv[1]) as client:
                gap = lambda after: print("gap", flush=True)
                async with client.follow("bob", "oldest", on_gap=gap) as messages:
                    async for message in messages:
                        print(message.data, flush=True)
                        if message.data == "end":
                            return
        task.react(lambda _: ensureDeferred(program()))
    """
    first.push("/bob", "one")
    output = tmp_path / "output"
    with output.open("wb") as out:
        reader = subprocess.Popen(
            [sys.executable, "-c", code, f"http://127.0.0.1:{port}"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    eventually(lambda: "one\n" in output.read_text(), "the first message")
    first.stop()
    second = run("--store", f"sqlite:{place}", "--listen", f"tcp:{port}:interface=127.0.0.1")
    second.push("/bob", "end")
    assert reader.wait(20) == 0
    assert output.read_text() == "one\nend\n"
