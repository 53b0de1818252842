"""The Bayeux protocol over a hub: begin with ``conversation``, which does no I/O."""

from __future__ import annotations

from .conversation import Call, Options

__all__ = ["Call", "Options"]
