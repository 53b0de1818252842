"""An HTTP/1.1 server for Klein apps on Twisted, made for requests that wait.

``HTTPFactory`` is listened with like any Twisted factory. A request's road: ``protocol.py`` reads its head
(``heads.py``) and body (``bodies.py``), ``dispatch.py`` finds its route, ``request.py`` is what the route
sees and answers with, ``wire.py`` and ``sockets.py`` send the answer. ``bounds.py`` bounds all of it, and
``forwarded.py`` tells who is behind a proxy. Nothing of cometd_lite is imported here.
"""

from __future__ import annotations

from .bounds import Bounds
from .factory import HTTPFactory
from .head import Refused
from .proxies import Proxies, ip_endpoint
from .request import Request

__all__ = ["Bounds", "HTTPFactory", "Proxies", "Refused", "Request", "ip_endpoint"]
