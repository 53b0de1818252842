"""The console page, the browser client, and their parts (HTTP.md, "Everything else")."""

from __future__ import annotations

from ..errors import NotFound
from ..http.exchange import Exchange
from ..http.responses import Response
from ..pages import pages
from .routing import Served, route

CLIENT = frozenset({"client.js", "tabs.js"})
"""The browser client, which is served where the console is turned off, too."""


def _page(routes: Served, exchange: Exchange) -> Response:
    """Show a page, by the last segment of the path."""
    name = exchange.path.rpartition(b"/")[2].decode("latin-1") or "index.html"
    page = pages().get(name)
    if page is None:
        raise NotFound(f"There is no page {name!r} here.")
    if not routes.show_console and name not in CLIENT:
        raise NotFound("The console is turned off.")
    lines = "".join([f"{field}: {value}\r\n" for field, value in page.headers.items()]).encode()
    if exchange.head.get(b"if-none-match") == page.etag.encode():
        return Response(304, lines)
    return Response(200, lines, page.body)


route("/", "GET")(_page)
for _name in pages():
    if _name != "index.html":
        route(f"/{_name}", "GET")(_page)
