"""The bounds of the HTTP server: what a client may send, how long it may take, and what is kept for it.

They are here and not in ``cometd_lite/limits/`` because ``server/`` imports nothing of the rest of the
package. Sizes are in bytes, times in seconds. Deadlines are checked once in ``TICK``.
"""

from __future__ import annotations

from dataclasses import dataclass

TICK = 1.0
"""The interval at which overdue connections are looked for. One timer serves all connections; a timer for
each request costs 2 µs."""

ABORTED_QUIET = 60
"""The ticks between two lines of the log about connections that were aborted for a bound's sake. Where twistd
writes the log, Python keeps some objects of each line in the midst of a flood, up to a megabyte for each."""

OVERDUE_AT_ONCE = 200
"""The overdue connections that end, or are answered why, in one turn of the reactor: some 5 ms."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one factory; all but the last eight are those of one connection."""

    target: int = 12 * 1024
    """The request target: 100 recipients of 110 bytes. RFC 9112 §3 recommends at least 8,000 octets. More is
    a 414."""

    head: int = 16 * 1024
    """The whole head, including the request line, as in IIS and node.js. More is a 431."""

    fields: int = 100
    """The fields of a head, as in Apache and Go's proxies; browsers send about 20. More is a 431."""

    body: int = 64 * 1024
    """The body of a request whose route declares no ``max_body``. More is a 413."""

    extensions: int = 1024
    """The chunk extensions of one body. No known client sends any; attackers do (CVE-2023-39326)."""

    trailers: int = 4 * 1024
    """The trailer fields after a chunked body. They are checked and dropped."""

    head_seconds: int = 20
    """The time from the first byte of a head, or from the opening of the connection, to the end of the head.
    The worst round trips of mobile networks add up to ten seconds. Later is a 408."""

    body_seconds: int = 20
    """The time after which a body must have arrived at an average of ``body_rate``."""

    body_rate: int = 512
    """The bytes a second that a body must average: less than the worst mobile network, more than
    slowloris."""

    idle_seconds: int = 75
    """The time that a connection is kept between two requests: longer than the 60 s of load balancers, so
    that they close first and no request meets a closing connection."""

    write_seconds: int = 60
    """A connection whose client takes nothing of a finished response for this long is aborted."""

    write_buffer: int = 1024 * 1024
    """The unsent bytes of a stream. At more, the connection is aborted."""

    write_low: int = 64 * 1024
    """The next pipelined request is not served while more than this is unsent."""

    pipelined: int = 32 * 1024
    """The bytes read ahead while a request is served. At more, reading stops. It holds any head, or 100
    polls."""

    served_seconds: float = 0.005
    """Requests that arrived together on a connection are served for so long in one turn of the reactor. The
    others wait for the next turn: requests of other clients come in between."""

    linger_seconds: int = 3
    """The time for which input is read and dropped after a refusal, so that the client reads the response and
    not a reset (RFC 9112 §9.6)."""

    linger: int = 1024 * 1024
    """The bytes that are dropped in that time. At more, reading stops until the time is over."""

    head_kept: int = 2 * 1024
    """A connection keeps its last header block up to this size, to recognise it in the next request."""

    unsent: int = 64 * 1024 * 1024
    """The unsent bytes of all connections together; a buffer that several connections send counts once. It
    is enough for 64 clients that each leave the largest response of 1 MiB unread."""

    received: int = 64 * 1024 * 1024
    """The bytes of clients that all connections together keep: incomplete heads and bodies, requests that
    arrived ahead, and large requests that are parked. It is enough for 1,000 bodies of the largest size that
    arrive at once. Above it, the connections that keep most are aborted."""

    request_kept: int = 2 * 1024
    """A parked request up to this size is not counted in that: browsers send 1 KB. Those of 15,000 readers
    take 30 MB at the most."""

    refused: int = 64
    """The connections over a bound that are answered why, at one time. More are closed without a response."""

    heads_known: int = 512
    """The header blocks that are remembered as checked: a client sends the same one with each poll."""

    head_known: int = 1024
    """Only blocks up to this size are remembered, so that all of them stay below 2 MB."""

    lines_known: int = 4096
    """The request lines, each up to its query, that are remembered with their targets."""

    line_known: int = 128
    """Only lines up to this size are remembered, so that all of them stay below 4 MB."""
