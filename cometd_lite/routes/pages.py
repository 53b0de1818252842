"""The console page, the browser client, and their parts (HTTP.md, "Everything else")."""

from __future__ import annotations

import re

from ..errors import NotFound
from ..http.exchange import Exchange
from ..http.responses import Response
from ..pages import pages
from .routing import Served, route

CLIENT = frozenset({"client.js", "tabs.js", "client.d.ts"})
"""The browser client, which is served where the console is turned off, too."""

_NO_GZIP = re.compile(rb"gzip\s*;\s*q\s*=\s*0(?:\.0*)?")


def _page(routes: Served, exchange: Exchange) -> Response:
    """Show a page, by the last segment of the path."""
    name = exchange.path.rpartition(b"/")[2].decode("latin-1") or "index.html"
    page = pages().get(name)
    if page is None:
        raise NotFound(f"There is no page {name!r} here.")
    if not routes.show_console and name not in CLIENT:
        raise NotFound("The console is turned off.")
    if page.gzipped is not None and _takes_gzip(exchange.head.get(b"accept-encoding")):
        page = page.gzipped
    lines = "".join([f"{field}: {value}\r\n" for field, value in page.headers.items()]).encode()
    if exchange.head.get(b"if-none-match") == page.etag.encode():
        return Response(304, lines)
    return Response(200, lines, page.body)


def _takes_gzip(accept_encoding: bytes | None) -> bool:
    """Return whether a client takes gzip (RFC 9110 §12.5.3); one that says nothing does not need it."""
    codings = [coding.strip().lower() for coding in (accept_encoding or b"").split(b",")]
    return any(coding.startswith(b"gzip") and not _NO_GZIP.fullmatch(coding) for coding in codings)


route("/", "GET")(_page)
for _name in pages():
    if _name != "index.html":
        route(f"/{_name}", "GET")(_page)
