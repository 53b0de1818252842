"""``tornado_peer.py PORT``: mailboxes over Tornado: no request log, no hashing of bodies for ETags."""

from __future__ import annotations

import asyncio
import sys

import tornado.web
from box import Mailbox

boxes: dict[str, Mailbox] = {}


def box_of(name: str) -> Mailbox:
    box = boxes.get(name)
    if box is None:
        box = boxes[name] = Mailbox(name)
    return box


class Handler(tornado.web.RequestHandler):
    def compute_etag(self) -> None:
        return None


class Push(Handler):
    def post(self, name: str) -> None:
        box = box_of(name)
        try:
            box.append(self.request.body, self.request.headers.get("Content-Type", ""))
        except ValueError:
            raise tornado.web.HTTPError(400) from None
        waiting, box.waiting = box.waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)
        self.set_status(201 if waiting else 202)
        self.set_header("Content-Type", "application/json")
        self.write(box.receipt(len(waiting)))


class Poll(Handler):
    async def get(self, name: str) -> None:
        box = box_of(name)
        after = int(self.get_query_argument("after", "0"))
        wait = float(self.get_query_argument("wait", "25"))
        messages = box.after(after)
        if not messages and wait:
            future = asyncio.get_running_loop().create_future()
            box.waiting.add(future)
            try:
                async with asyncio.timeout(wait):
                    await future
            except TimeoutError:
                pass
            finally:
                box.waiting.discard(future)
            messages = box.after(after)
        self.set_header("Content-Type", "application/json")
        self.write(box.answer(messages))


async def main() -> None:
    app = tornado.web.Application(
        [(r"/push/([^/]+)", Push), (r"/poll/([^/]+)", Poll)],
        log_function=lambda handler: None,
    )
    app.listen(int(sys.argv[1]), "127.0.0.1", backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
