"""The HTTP/1.1 server of ``twistd cometd-lite``, made for requests that wait.

``HTTPFactory`` is listened with like any factory of Twisted's, and serves an ``Application``. The way of a
request, from top to bottom: ``connection`` reads its head (``head``) and body (``arriving``, ``body``),
``router`` finds its target, whose route is called with a ``request``; the response is rendered (``render``)
and sent (``wire``, ``epoll``, ``unsent``). ``bounds`` bounds all of it, and ``proxies`` finds the client
behind a proxy.

This package imports nothing of the rest of cometd_lite. Read ``connection`` and ``states`` first.
"""

from __future__ import annotations

from .application import Application
from .bounds import Bounds
from .factory import HTTPFactory
from .head import Refused
from .proxies import Proxies, ip_endpoint
from .request import Request

__all__ = ["Application", "Bounds", "HTTPFactory", "Proxies", "Refused", "Request", "ip_endpoint"]
