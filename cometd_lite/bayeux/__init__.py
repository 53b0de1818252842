"""The Bayeux protocol over a hub: begin with ``conversation``, which does no I/O."""

from __future__ import annotations

from .effects import Call
from .options import BayeuxOptions

__all__ = ["BayeuxOptions", "Call"]
