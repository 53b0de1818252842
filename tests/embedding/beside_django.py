"""A Django page that shows how far a long job is, pushed to it by the job's thread.

python beside_django.py tcp:8080:interface=127.0.0.1
"""

import sys
import time

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from twisted.internet import endpoints, reactor
from twisted.internet.threads import blockingCallFromThread
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site
from twisted.web.wsgi import WSGIResource

from cometd_lite import Comet

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="only an example")
comet = Comet()

PAGE = """<!doctype html><title>Job</title><progress id="bar" max="100" value="0"></progress>
<script type="module">
  import { Comet } from "/comet/client.js";
  new Comet("/comet/").follow("jobs/%s", ({ data }) => { bar.value = data.done; }, { after: "oldest" });
</script>"""


def work(name: str) -> None:
    for done in range(10, 101, 10):
        time.sleep(0.01)  # whatever takes long
        blockingCallFromThread(reactor, comet.push, f"jobs/{name}", {"done": done}, ttl=3600)


def job(request: HttpRequest, name: str) -> HttpResponse:
    reactor.callFromThread(reactor.callInThread, work, name)
    return HttpResponse(PAGE % name)


urlpatterns = [path("jobs/<slug:name>", job)]


class Root(Resource):
    """Everything is Django's, apart from what lies below /comet."""

    def __init__(self) -> None:
        super().__init__()
        self.wsgi = get_wsgi_application()
        self.putChild(b"comet", comet.resource())

    def getChild(self, path: bytes, request: IRequest) -> IResource:
        request.prepath.pop()
        request.postpath.insert(0, path)
        return WSGIResource(reactor, reactor.getThreadPool(), self.wsgi)


if __name__ == "__main__":
    comet.start()
    reactor.addSystemEventTrigger("before", "shutdown", comet.stop)
    endpoints.serverFromString(reactor, sys.argv[1]).listen(Site(Root()))
    reactor.run()
