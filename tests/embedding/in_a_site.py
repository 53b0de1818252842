"""A comet under /comet of a site whose page shows what is pushed to `news`: python in_a_site.py ENDPOINT."""

import sys

from twisted.internet import endpoints, reactor
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site

from cometd_lite import Comet

PAGE = b"""<!doctype html><title>News</title><ul id="news"></ul>
<script type="module">
  import { Comet } from "/comet/client.js";
  new Comet("/comet/").follow("news", (message) => {
    const item = document.createElement("li");
    item.textContent = message.data;
    document.getElementById("news").append(item);
  }, { after: "oldest" });
</script>"""


class Page(Resource):
    def render_GET(self, request: IRequest) -> bytes:
        return PAGE


def site(comet: Comet) -> IResource:
    root = Resource()
    root.putChild(b"", Page())
    root.putChild(b"comet", comet.resource())
    return root


if __name__ == "__main__":
    comet = Comet()
    comet.start()
    reactor.addSystemEventTrigger("before", "shutdown", comet.stop)
    endpoints.serverFromString(reactor, sys.argv[1]).listen(Site(site(comet)))
    reactor.run()
