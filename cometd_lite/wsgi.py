"""A Django or Flask application as a site, with a comet beside it in the same process.

Requests arrive; those below one path go to the comet, all others to a WSGI application in threads.
"""

from __future__ import annotations

from typing import Any
from wsgiref.types import WSGIApplication

from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.wsgi import WSGIResource


class Beside(Resource):
    """Everything is the application's, apart from what lies below ``path``."""

    def __init__(self, reactor: Any, application: WSGIApplication, path: str, comet: IResource) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        segment = path.strip("/")
        if not segment or "/" in segment:
            raise ValueError(f"{path!r} is no path of one segment, as in comet.")
        self._application = WSGIResource(reactor, reactor.getThreadPool(), application)
        self.putChild(segment.encode(), comet)

    def getChild(self, path: bytes, request: IRequest) -> IResource:  # noqa: N802  Twisted's name
        """Return the application, for which the path begins here."""
        request.prepath.pop()
        request.postpath.insert(0, path)
        return self._application
