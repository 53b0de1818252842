"""``aiohttp_peer.py PORT``: mailboxes over aiohttp on uvloop: its C parser, no access log."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web
from box import Mailbox

boxes: dict[str, Mailbox] = {}


def box_of(request: web.Request) -> Mailbox:
    name = request.match_info["recipient"]
    box = boxes.get(name)
    if box is None:
        box = boxes[name] = Mailbox(name)
    return box


async def push(request: web.Request) -> web.Response:
    box = box_of(request)
    try:
        box.append(await request.read(), request.content_type)
    except ValueError:
        raise web.HTTPBadRequest from None
    waiting, box.waiting = box.waiting, set()
    for future in waiting:
        if not future.done():
            future.set_result(None)
    return web.Response(
        body=box.receipt(len(waiting)),
        status=201 if waiting else 202,
        content_type="application/json",
    )


async def held(box: Mailbox, wait: float) -> None:
    """Wait until something is pushed to ``box``, for ``wait`` seconds at most."""
    future = asyncio.get_running_loop().create_future()
    box.waiting.add(future)
    try:
        async with asyncio.timeout(wait):
            await future
    except TimeoutError:
        pass
    finally:
        box.waiting.discard(future)


async def poll(request: web.Request) -> web.Response:
    box = box_of(request)
    after = int(request.query.get("after", "0"))
    wait = float(request.query.get("wait", "25"))
    messages = box.after(after)
    if not messages and wait:
        await held(box, wait)
        messages = box.after(after)
    return web.Response(body=box.answer(messages), content_type="application/json")


async def stream(request: web.Request) -> web.StreamResponse:
    box = box_of(request)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    after = int(request.query.get("after", "0"))
    while True:
        for message in box.after(after):
            data = message.partition(b'"data":')[2][:-1]
            await response.write(b"id: %d\ndata: %s\n\n" % (box.last, data))
        after = box.last
        await held(box, 15)
        if box.last == after:
            await response.write(b":\n\n")


def main() -> None:
    app = web.Application()
    app.add_routes(
        [
            web.post("/push/{recipient}", push),
            web.get("/poll/{recipient}", poll),
            web.get("/stream/{recipient}", stream),
        ]
    )
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        backlog=4096,
        keepalive_timeout=3600,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
