"""The whole server as a service beside others: here one that pushes a number each second, to ``ticks``.

twistd -noy under_a_service.py
"""

import os
from itertools import count

from twisted.application.internet import TimerService
from twisted.application.service import Application, MultiService

from cometd_lite import Comet
from cometd_lite.service import Options, makeService

LISTEN = os.environ.get("LISTEN", "tcp:8080:interface=127.0.0.1")


def ticks(comet: Comet) -> TimerService:
    numbers = count()
    return TimerService(1.0, lambda: comet.push("ticks", next(numbers), overflow="drop-oldest"))


def services(*words: str) -> MultiService:
    options = Options()
    options.parseOptions(words)  # those of `twistd cometd-lite`
    server = makeService(options)
    together = MultiService()
    server.setServiceParent(together)
    ticks(server.comet).setServiceParent(together)
    return together


application = Application("ticking")
services("--listen", LISTEN).setServiceParent(application)
