"""The errors that end a run without a result."""

from __future__ import annotations


class BenchError(Exception):
    """The run has no result; its text is one sentence for the user who started it."""

    exit_code = 1


class NotThere(BenchError):
    """No server that can be measured answers at the URL."""

    exit_code = 2


class UnexpectedAnswer(BenchError):
    """The server gave an answer that the interface does not have."""


class Lost(BenchError):
    """A message was lost, doubled, changed or out of order."""
