"""The Bayeux protocol over a hub: begin with ``conversation``, which does no I/O."""

from __future__ import annotations

from .conversation import BayeuxOptions, Call

__all__ = ["BayeuxOptions", "Call"]
