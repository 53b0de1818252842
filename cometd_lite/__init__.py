"""cometd-lite: an event-driven comet server on Twisted."""

__version__ = "0.1.0"
