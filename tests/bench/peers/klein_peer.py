"""``klein_peer.py PORT``: mailboxes over Klein and twisted.web as they come, on the epoll reactor.

The access log has nobody who reads it, but twisted.web writes its lines all the same.
"""

from __future__ import annotations

import sys

from box import Mailbox
from klein import Klein
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner
from twisted.web.server import Site

app = Klein()
boxes: dict[str, Mailbox] = {}


def box_of(name: str) -> Mailbox:
    box = boxes.get(name)
    if box is None:
        box = boxes[name] = Mailbox(name)
    return box


def argument(request, name: bytes, default: str) -> str:
    return request.args[name][0].decode() if name in request.args else default


@app.route("/push/<name>", methods=["POST"])
def push(request, name):
    box = box_of(name)
    try:
        box.append(request.content.read(), request.getHeader("content-type"))
    except ValueError:
        request.setResponseCode(400)
        return b""
    waiting, box.waiting = box.waiting, set()
    for held in waiting:
        held.callback(None)
    request.setResponseCode(201 if waiting else 202)
    request.setHeader(b"content-type", b"application/json")
    return box.receipt(len(waiting))


@app.route("/poll/<name>", methods=["GET"])
def poll(request, name):
    box = box_of(name)
    after = int(argument(request, b"after", "0"))
    wait = float(argument(request, b"wait", "25"))
    request.setHeader(b"content-type", b"application/json")
    messages = box.after(after)
    if messages or not wait:
        return box.answer(messages)

    def end() -> None:
        box.waiting.discard(held)
        held.callback(None)

    def cancelled(held) -> None:
        box.waiting.discard(held)
        timer.cancel()

    def woken(_):
        if timer.active():
            timer.cancel()
        return box.answer(box.after(after))

    timer = reactor.callLater(wait, end)
    held = Deferred(cancelled)
    box.waiting.add(held)
    return held.addCallback(woken)


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    reactor.listenTCP(int(sys.argv[1]), Site(app.resource()), backlog=4096, interface="127.0.0.1")
    reactor.run()
