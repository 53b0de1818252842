"""A Django page that shows how far a long job is: python beside_django.py ENDPOINT, then open /jobs/seven."""

import sys
import time

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from twisted.internet import endpoints, reactor, threads
from twisted.web.server import Site

from cometd_lite import Comet

PAGE = """<!doctype html><title>Job</title><progress id="bar" max="100" value="0"></progress>
<script type="module">
  import { Comet } from "/comet/client.js";
  new Comet("/comet/").follow("jobs/%s", ({ data }) => { bar.value = data.done; }, { after: "oldest" });
</script>"""


def work(name: str) -> None:
    for done in range(10, 101, 10):
        time.sleep(0.01)  # whatever takes long
        threads.blockingCallFromThread(reactor, comet.push, f"jobs/{name}", {"done": done}, ttl=3600)


def job(request: HttpRequest, name: str) -> HttpResponse:
    reactor.callFromThread(reactor.callInThread, work, name)
    return HttpResponse(PAGE % name)


urlpatterns = [path("jobs/<slug:name>", job)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="only an example")
comet = Comet()
comet.start()
endpoints.serverFromString(reactor, sys.argv[1]).listen(Site(comet.beside(get_wsgi_application())))
reactor.run()
