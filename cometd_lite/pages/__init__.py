"""The pages: files for browsers, and the header fields with which they are served.

``index.html`` is the console, which is served at ``/``. The rest lies beside it, because the page names its
parts by relative addresses and so works under any ``--mount``. ``client.js``, which loads ``tabs.js``, is the
browser client: pages of any allowed origin may load it. Both are served minified, from ``built/``, where the
client's types lie, too: ``tests/browser/build.mjs`` makes them.

``grafana.json``, a dashboard for the numbers at ``/metrics``, and ``package.json`` are not served.

The files are read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from gzip import compress
from hashlib import sha256
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The console shows what others wrote: nothing inline runs, and nothing is fetched from elsewhere."""

_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "ts": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A file as it is served; ``etag`` is quoted, ready for the header."""

    name: str
    media_type: str
    body: bytes
    etag: str
    gzipped: Page | None = None
    """The same for a client that takes gzip; None for that itself."""

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of its answer, besides ``Content-Length`` and those of every answer."""
        headers = {
            "Content-Type": self.media_type,
            "ETag": self.etag,
            # Asked for again after each upgrade, and answered with a 304 in between.
            "Cache-Control": "no-cache",
            # An allowed origin is echoed: what was kept for one page is not an answer to another.
            "Vary": "Origin, Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
        }
        if self.gzipped is None:
            headers["Content-Encoding"] = "gzip"
        if self.media_type.startswith("text/html"):
            headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            headers["Referrer-Policy"] = "no-referrer"
        else:
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return headers


@cache
def pages() -> Mapping[str, Page]:
    """Return every page by the name that it is asked for by, ``index.html`` among them."""
    directory = files(__name__)
    found = {}
    for file in (*directory.iterdir(), *(directory / "built").iterdir()):  # what is built is served
        name = file.name.replace(".min.", ".")
        media_type = _MEDIA_TYPES.get(name.rpartition(".")[2])
        if media_type is not None:
            body = file.read_bytes()
            zipped = compress(body, mtime=0)
            smaller = Page(name, media_type, zipped, _validator(zipped))
            found[name] = Page(name, media_type, body, _validator(body), smaller)
    # Where a browser looks for the icon of what is no page that names one: of an answer that was opened.
    found["favicon.ico"] = found["icon.svg"]
    return MappingProxyType(found)


def _validator(body: bytes) -> str:
    return f'"{sha256(body).hexdigest()[:20]}"'
