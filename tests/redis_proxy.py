"""The network between servers and their Redis: it may be cut, stand still, and lose what is published."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from random import Random

from redis_frames import LosesWakes

CHUNK = 65_536


class RedisProxy:
    """A unix socket, ``path``, behind which a Redis is; ``share`` of all wakes below ``prefix`` is lost."""

    def __init__(self, path: Path, redis: Path, prefix: str, share: float = 0.0) -> None:
        self.path = path
        self.lost = 0
        self._redis = redis
        self._prefix = prefix
        self._share = share
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    @property
    def address(self) -> str:
        return f"unix:{self.path}"

    async def start(self) -> None:
        await asyncio.start_unix_server(self._connected, self.path)

    def cut(self) -> None:
        """End all connections; new ones are let through."""
        for writer in self._open:
            writer.transport.abort()

    async def stand_still(self, seconds: float) -> None:
        """Let nothing through for so many seconds."""
        self._flows.clear()
        await asyncio.sleep(seconds)
        self._flows.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_read, to_write = await asyncio.open_unix_connection(self._redis)
        except OSError:
            writer.close()
            return
        loses = LosesWakes(self._prefix, Random(), self._share)
        ends = {writer, to_write}
        self._open |= ends
        there = asyncio.create_task(self._pump(reader, to_write))
        with suppress(OSError):
            while data := await to_read.read(CHUNK):
                await self._flows.wait()
                writer.write(loses(data))
                await writer.drain()
        there.cancel()
        self._open -= ends
        self.lost += loses.lost
        for end in ends:
            end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
