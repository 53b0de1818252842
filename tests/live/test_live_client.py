"""The client over real sockets: upon the default reactor, in an asyncio program, through a restart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fork_server import ROOT
from program import Program, Run, eventually

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


def test_a_second_asyncio_loop_in_one_process_is_told_that_there_is_one_reactor(program: Program) -> None:
    body = """
await client.push("loops", 1)

asyncio.run(program(sys.argv[1]))
async def again():
    await Client(sys.argv[1]).push("loops", 2)
try:
    asyncio.run(again())
except RuntimeError as error:
    print(error)
sys.exit()
"""
    first, _, rest = body.strip().partition("\n\n")
    code = ASYNCIO.format(body=first).rpartition("asyncio.run")[0] + rest
    done = subprocess.run(
        [sys.executable, "-c", code, f"http://localhost:{program.port}"],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.stdout == ("Twisted's reactor is on another asyncio loop; a process has one of each.\n"), (
        done.stderr
    )


def test_a_stream_that_nobody_reads_from_is_paused_and_then_goes_on(program: Program) -> None:
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
