"""A comet beside a Flask application, in one process: its threads push, and nobody polls the database.

python beside_flask.py tcp:8080:interface=127.0.0.1
"""

import sys

from flask import Flask, request
from twisted.internet import endpoints, reactor
from twisted.internet.threads import blockingCallFromThread
from twisted.web.server import Site

from cometd_lite import Comet

flask = Flask(__name__)
comet = Comet()


@flask.post("/say/<room>")
def say(room: str) -> str:
    receipt = blockingCallFromThread(reactor, comet.push, f"chat/{room}", request.get_data(as_text=True))
    return f"{receipt.delivered} got it at once\n"


if __name__ == "__main__":
    comet.start()
    reactor.addSystemEventTrigger("before", "shutdown", comet.stop)
    endpoints.serverFromString(reactor, sys.argv[1]).listen(Site(comet.beside(flask)))
    reactor.run()
