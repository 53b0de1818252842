"""The routes of one hub, composed of the sections of HTTP.md, as a Klein application.

The same routes are served by ``server/`` and by any twisted.web site (``site.py``).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..access.policy import Policy
from ..bayeux.forwarding import Forwarding
from ..bayeux.options import BayeuxOptions
from ..bayeux.transport import BayeuxTransport
from ..core.hub import Hub
from ..limits import Limits
from ..metrics import Metrics

# The import of each section declares its routes.
from . import admin, bayeux, leases, listeners, pages, poll, presence, push, socket, stream  # noqa: F401
from .routing import Served, klein


class Routes(Served):
    """The routes of one hub. ``app`` is their Klein application, bound to the instance it is got from."""

    app = klein

    def __init__(
        self,
        hub: Hub,
        limits: Limits,
        *,
        policy: Policy | None = None,
        metrics: Metrics,
        bayeux_options: BayeuxOptions | None = None,
        **shown: Any,
    ) -> None:
        transport = None if bayeux_options is None else BayeuxTransport(hub, limits, bayeux_options)
        super().__init__(
            hub,
            limits,
            policy=policy or Policy(hub.clock, hub.wall),
            metrics=metrics,
            bayeux=transport,
            **shown,
        )
        if transport is not None and hub.shared is not None:
            answer = partial(bayeux.answer_forwarded, self)
            self.forwarding = Forwarding(hub.shared.process, hub.shared.rpc, answer)
            transport.sessions.prefix = self.forwarding.prefix
