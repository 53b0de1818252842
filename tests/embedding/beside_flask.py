"""A comet beside a Flask application, in one process: its threads push, and nobody polls the database.

python beside_flask.py tcp:8080:interface=127.0.0.1
"""

import sys

from flask import Flask, request
from twisted.internet import endpoints, reactor
from twisted.internet.threads import blockingCallFromThread
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site
from twisted.web.wsgi import WSGIResource

from cometd_lite import Comet

flask = Flask(__name__)
comet = Comet()


@flask.post("/say/<room>")
def say(room: str) -> str:
    receipt = blockingCallFromThread(reactor, comet.push, f"chat/{room}", request.get_data(as_text=True))
    return f"{receipt.delivered} heard it at once\n"


class Root(Resource):
    """Everything is Flask's, apart from what lies below /comet."""

    def getChild(self, path: bytes, request: IRequest) -> IResource:
        request.prepath.pop()
        request.postpath.insert(0, path)
        return WSGIResource(reactor, reactor.getThreadPool(), flask)


if __name__ == "__main__":
    root = Root()
    root.putChild(b"comet", comet.resource())
    comet.start()
    reactor.addSystemEventTrigger("before", "shutdown", comet.stop)
    endpoints.serverFromString(reactor, sys.argv[1]).listen(Site(root))
    reactor.run()
