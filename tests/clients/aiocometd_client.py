"""aiocometd, as its manual uses it: ``aiocometd_client.py URL TRANSPORT``. It is told what to do by lines."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

# aiocometd gives asyncio's locks a loop, which Python no longer takes.
for name in ("Semaphore", "Lock", "Condition", "Event", "Queue", "wait", "wait_for", "sleep"):
    original = getattr(asyncio, name)

    def without_loop(*args: Any, loop: Any = None, original: Any = original, **words: Any) -> Any:
        return original(*args, **words)

    setattr(asyncio, name, without_loop)

import aiocometd  # noqa: E402  after it was made to fit
from aiocometd import ConnectionType  # noqa: E402
from aiocometd.exceptions import AiocometdException  # noqa: E402


def say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Notes(aiocometd.Extension):
    """Says when a handshake or a connect was answered."""

    async def incoming(self, payload: Any, headers: Any = None) -> None:
        for message in payload:
            if message["channel"] == "/meta/handshake":
                say(note="shook hands" if message["successful"] else "no handshake")
            elif message["channel"] == "/meta/connect" and not message["successful"]:
                say(note="no connect")

    async def outgoing(self, payload: Any, headers: Any) -> None:
        pass


class Deeds:
    def __init__(self, url: str, transport: str) -> None:
        self.client = aiocometd.Client(
            url, ConnectionType(transport), extensions=[Notes()], connection_timeout=20
        )
        self.hearing: asyncio.Task[None] | None = None

    async def open(self) -> str:
        await self.client.open()
        self.hearing = asyncio.ensure_future(self.hear())
        kind: str = self.client.connection_type.value
        return kind

    async def hear(self) -> None:
        while not self.client.closed:
            try:
                message = await self.client.receive()
            except AiocometdException as error:
                say(note=type(error).__name__)
                return
            say(event={"channel": message["channel"], "data": message["data"]})

    async def subscribe(self, channel: str) -> None:
        await self.client.subscribe(channel)

    async def unsubscribe(self, channel: str) -> None:
        await self.client.unsubscribe(channel)

    async def publish(self, channel: str, data: Any) -> None:
        await self.client.publish(channel, data)

    async def batch(self, publications: list[list[Any]]) -> int:
        return len(await asyncio.gather(*[self.client.publish(*one) for one in publications]))

    async def close(self) -> None:
        if self.hearing is not None:
            self.hearing.cancel()
        await self.client.close()


async def main() -> None:
    logging.disable()
    deeds = Deeds(*sys.argv[1:3])
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    doing: set[asyncio.Task[None]] = set()

    async def do(told: dict[str, Any]) -> None:
        try:
            say(n=told["n"], ok=await getattr(deeds, told["do"])(*told["with"]))
        except Exception as error:  # noqa: BLE001  whatever it is, the test is told
            say(n=told["n"], error=f"{type(error).__name__}: {error}")

    while line := await reader.readline():
        task = asyncio.ensure_future(do(json.loads(line)))
        doing.add(task)
        task.add_done_callback(doing.discard)


asyncio.run(main())
