"""Every bound of the HTTP server: what a peer may send, and how long it may take. Nothing is unbounded.

They live here and not in ``cometd_lite/limits.py`` because ``serving/`` imports nothing of the house.
Sizes are in bytes, times in seconds; times are kept to ``TICK``, by one timer for all connections.
"""

from __future__ import annotations

from dataclasses import dataclass

TICK = 1.0
"""How often overdue connections are looked for: one timer a second is nothing, one per request is 2 µs."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may ask of the server."""

    target: int = 8 * 1024
    """The request target; RFC 9112 §3 recommends 8,000 octets at least. More is a 414."""

    head: int = 16 * 1024
    """The whole head, request line included, as in IIS and node.js; more is a 431."""

    fields: int = 100
    """Fields in a head, as in Apache and Go's proxies; browsers send about 20. More is a 431."""

    body: int = 64 * 1024
    """The body of a request whose route declares no ``max_body``; more is a 413."""

    extensions: int = 1024
    """Chunk extensions in one body: nobody uses them but attackers (CVE-2023-39326)."""

    trailers: int = 4 * 1024
    """Trailer fields after a chunked body: checked, then dropped."""

    head_seconds: int = 20
    """From a head's first byte (or the connection, where nothing came yet) to its end. A phone's worst round
    trips take ten; slowloris takes as long as it is given. Then 408."""

    body_seconds: int = 20
    """A body may stand still this long at its start; from then on it must have come at ``body_rate``."""

    body_rate: int = 512
    """Bytes a second that a body must average: slower than the worst mobile line, faster than slowloris."""

    idle_seconds: int = 75
    """Kept alive between two requests: longer than a load balancer's 60, which then never meets our FIN."""

    write_seconds: int = 60
    """A finished answer of which the peer took nothing for this long is given up."""

    write_buffer: int = 1024 * 1024
    """Bytes of a stream that may wait for its reader; then the reader is cut off."""

    write_low: int = 64 * 1024
    """The next pipelined request waits until less than this of the answers before it is unsent."""

    pipelined: int = 32 * 1024
    """Bytes read ahead while a request is being served; then reading stops. Holds any head, or 100 polls."""

    refused: int = 64
    """Connections over a bound that may read why they are refused, at once; more are dropped unheard."""

    linger_seconds: int = 3
    """After a refusal the rest of a body is read and dropped this long, so that the peer reads the answer and
    not a reset (RFC 9112 §9.6)."""

    linger: int = 1024 * 1024
    """Bytes that are dropped in that way; then nothing more is read until the time is over."""

    head_kept: int = 2 * 1024
    """A connection keeps the block of its last request up to this size, to recognise it in the next one."""

    heads_known: int = 512
    """Header blocks remembered as already checked: a client sends the same one with every poll."""

    head_known: int = 1024
    """Only blocks up to this size are remembered, so that all of them stay below 2 MB."""

    lines_known: int = 4096
    """Beginnings of request lines remembered with their routes: one for each recipient that is busy."""

    line_known: int = 128
    """Only those up to this size are remembered, so that all of them stay below 4 MB."""
