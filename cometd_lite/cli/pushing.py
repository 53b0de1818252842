"""``cometd-lite push``: one message, or each line of what is piped in."""

from __future__ import annotations

import argparse
import mimetypes
import os
from collections.abc import Iterable
from typing import NamedTuple

from twisted.internet.defer import CancelledError

from ..client import Client
from ..core.message import Receipt
from ..errors import BadBody, BodyTooLarge, CometError, NobodyWaits
from ..jsontext import check
from . import status
from .parser import PATIENCE_SECONDS
from .terminal import Input, RetryNotes, Terminal
from .wording import reworded

NDJSON = "application/x-ndjson"
BATCH_BYTES = 32 * 1024
BATCH_LINES = 100
"""Lines that came together go together, in a push that any server takes: half of its usual bound."""

LINE_BYTES = 16 * 1024 * 1024
"""The longest line; a longer one is refused before its end is read."""


class CommandCall(NamedTuple):
    """What a command works with. ``source`` is None where the arguments have all that there is."""

    arguments: argparse.Namespace
    client: Client
    terminal: Terminal
    source: Input | None


async def push(call: CommandCall) -> int:
    """Push the message of the arguments, or what ``source`` has."""
    arguments, _, _, source = call
    pusher = Pusher(call)
    if source is not None and (arguments.lines or arguments.ndjson):
        return await pusher.push_lines(source)
    body, media_type = await _message(arguments, source)
    await pusher.push(body, media_type)
    return status.DONE


async def _message(arguments: argparse.Namespace, source: Input | None) -> tuple[bytes | str, str | None]:
    """Return the message and its media type, which is None where the body decides it."""
    media_type = "application/json" if arguments.json else arguments.type
    if source is None:
        return _text_or_octets(os.fsencode(" ".join(arguments.words)))[0], media_type
    parts = []
    while part := await source.chunk():
        parts.append(part)
    body = b"".join(parts)
    if arguments.file is not None:
        guessed = mimetypes.guess_type(arguments.file)[0]
        return (body, media_type or guessed) if media_type or guessed else _text_or_octets(body)
    if media_type is not None:
        return body, media_type
    text, _ = _text_or_octets(body)
    return (text.removesuffix("\n").removesuffix("\r") if isinstance(text, str) else text), None


def _text_or_octets(body: bytes) -> tuple[bytes | str, None]:
    try:
        return body.decode(), None
    except UnicodeDecodeError:
        return body, None


class Pusher:
    """Pushes one message after the other, and reports those that the server refuses."""

    def __init__(self, call: CommandCall) -> None:
        self._arguments, self._client, self._terminal, _ = call
        self._notes = RetryNotes(self._terminal)
        given: float | None = self._arguments.patience
        self._patience = PATIENCE_SECONDS if given is None else given
        self._refused = False
        self._pushing: int | None = None
        """The first line of what is being pushed."""

    async def push(self, data: bytes | str, media_type: str | None) -> None:
        """Push one body. Raises what the client raises."""
        arguments = self._arguments
        receipt: Receipt = await self._client.push(
            [arguments.name, *arguments.rcpt],
            data,
            type=media_type,
            event=arguments.event,
            ttl=arguments.ttl,
            queue=not arguments.no_queue,
            overflow=arguments.overflow,
            idempotency_key=arguments.key,
            patience=0.0 if arguments.no_queue else self._patience,
            on_retry=self._notes.on_retry,
        )
        self._notes.recovered()
        if arguments.patience is None and (arguments.lines or arguments.ndjson):
            # The server has answered. From here on a push is repeated without end, and throttles the pipe.
            self._patience = float("inf")
        if arguments.receipt:
            self._terminal.write(self._terminal.json_line(receipt.json))

    async def push_lines(self, source: Input) -> int:
        """Push each line, in order; report a line that cannot be a message, and leave it out.

        Where this ends before the lines do, it reports up to which line they were pushed.
        """
        try:
            return await self._push_lines(source)
        except (CometError, CancelledError):
            if self._pushing is not None:
                before = (
                    f"The lines up to line {self._pushing - 1} were" if self._pushing > 1 else "No line was"
                )
                self._terminal.report(f"{before} pushed.")
            raise

    async def _push_lines(self, source: Input) -> int:
        rest = b""
        number = 0
        while chunk := await source.chunk():
            *lines, rest = (rest + chunk).split(b"\n")
            await self._push_numbered(lines, number)
            self._pushing = None
            number += len(lines)
            if len(rest) > LINE_BYTES:
                raise BodyTooLarge(f"Line {number + 1} has more than {LINE_BYTES} bytes.")
        await self._push_numbered([rest], number)
        return status.REFUSED if self._refused else status.DONE

    async def _push_numbered(self, lines: list[bytes], before: int) -> None:
        """Push lines that came together, ``before`` of which came before."""
        numbered = [(before + number, line.rstrip(b"\r")) for number, line in enumerate(lines, 1)]
        numbered = [(number, line) for number, line in numbered if line.strip()]
        if self._arguments.ndjson:
            good = [(number, line) for number, line in numbered if self._is_json(number, line)]
            for batch in _batches(good):
                await self._push_batch(batch)
        else:
            for number, line in numbered:
                await self._push_line(number, _text_or_octets(line)[0], self._arguments.type)

    async def _push_line(self, number: int, data: bytes | str, media_type: str | None) -> None:
        self._pushing = number
        try:
            await self.push(data, media_type)
        except (BodyTooLarge, BadBody) as error:
            self._report_left_out(number, reworded(error.detail))
        except NobodyWaits:
            pass  # --no-queue: no reader waited, and the message is not kept

    async def _push_batch(self, batch: list[tuple[int, bytes]]) -> None:
        if len(batch) == 1:
            await self._push_line(*batch[0], "application/json")
            return
        self._pushing = batch[0][0]
        try:
            await self.push(b"\n".join([line for _, line in batch]), NDJSON)
        except BodyTooLarge:  # the server's bound is below the usual one
            middle = len(batch) // 2
            await self._push_batch(batch[:middle])
            await self._push_batch(batch[middle:])
        except NobodyWaits:
            pass  # as above

    def _is_json(self, number: int, line: bytes) -> bool:
        try:
            check(line)
        except ValueError as error:
            self._report_left_out(number, f"It is no JSON: {error}.")
            return False
        return True

    def _report_left_out(self, number: int, why: str) -> None:
        self._refused = True
        self._terminal.report(f"Line {number} was left out. {why}")


def _batches(lines: Iterable[tuple[int, bytes]]) -> Iterable[list[tuple[int, bytes]]]:
    """Yield lines in groups that any server takes; a longer line is a group of its own."""
    batch: list[tuple[int, bytes]] = []
    size = 0
    for number, line in lines:
        if batch and (size + len(line) >= BATCH_BYTES or len(batch) == BATCH_LINES):
            yield batch
            batch, size = [], 0
        batch.append((number, line))
        size += len(line) + 1
    if batch:
        yield batch
