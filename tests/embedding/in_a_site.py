"""A comet under /comet of a twisted.web site, and a page that shows what is pushed to ``news``.

python in_a_site.py tcp:8080:interface=127.0.0.1
"""

import sys

from twisted.internet import endpoints, reactor
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site
from twisted.web.static import Data

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


def site(comet: Comet) -> IResource:
    root = Resource()
    root.putChild(b"", Data(PAGE, "text/html; charset=utf-8"))
    root.putChild(b"comet", comet.resource())
    return root


if __name__ == "__main__":
    comet = Comet()
    comet.start()
    reactor.addSystemEventTrigger("before", "shutdown", comet.stop)
    endpoints.serverFromString(reactor, sys.argv[1]).listen(Site(site(comet)))
    reactor.run()
