"""The states of a connection, and the events that move it from one to the next.

The table below says all that may happen. An event that it does not list for a state is an error in this
package, and raises ``KeyError``.

==========  =========  =========  ===================================================================
State       Event      Next       When
==========  =========  =========  ===================================================================
PROXIED     identify   HEAD       the PROXY protocol has named the client
PROXIED     refuse     REFUSED    there are too many connections, or that client has
PROXIED     close      CLOSING    nothing arrives, or the server stops
REFUSED     linger     LINGERING  a request has begun, or does not come in time, and is answered why
REFUSED     close      CLOSING    the server stops
HEAD        refuse     REFUSED    there are too many connections, or its client has
HEAD        await      BODY       a head is complete, and its body is not
HEAD        serve      SERVING    a request is complete, or is answered without its body
HEAD        linger     LINGERING  what arrives is not a request, or does not arrive in time
HEAD        close      CLOSING    nothing arrives, or the server stops
BODY        serve      SERVING    the body is complete, or turns out to be too long
BODY        linger     LINGERING  the body is malformed, or does not arrive in time
SERVING     next       HEAD       the response is written
SERVING     upgrade    UPGRADED   another protocol gets the connection
SERVING     linger     LINGERING  the response is the last one, and the client may still be sending
SERVING     close      CLOSING    the response is the last one
LINGERING   close      CLOSING    the client had the time to read the response
==========  =========  =========  ===================================================================

In every state but CLOSED the event ``lose`` leads to CLOSED: the connection is lost.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

State: TypeAlias = Literal[
    "PROXIED", "REFUSED", "HEAD", "BODY", "SERVING", "UPGRADED", "LINGERING", "CLOSING", "CLOSED"
]  # fmt: skip
Event: TypeAlias = Literal[
    "identify", "refuse", "await", "serve", "next", "upgrade", "linger", "close", "lose"
]  # fmt: skip

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    "PROXIED": {"identify": "HEAD", "refuse": "REFUSED", "close": "CLOSING", "lose": "CLOSED"},
    "REFUSED": {"linger": "LINGERING", "close": "CLOSING", "lose": "CLOSED"},
    "HEAD": {
        "refuse": "REFUSED", "await": "BODY", "serve": "SERVING", "linger": "LINGERING", "close": "CLOSING",
        "lose": "CLOSED",
    },
    "BODY": {"serve": "SERVING", "linger": "LINGERING", "lose": "CLOSED"},
    "SERVING": {
        "next": "HEAD", "upgrade": "UPGRADED", "linger": "LINGERING", "close": "CLOSING", "lose": "CLOSED"
    },
    "UPGRADED": {"lose": "CLOSED"},
    "LINGERING": {"close": "CLOSING", "lose": "CLOSED"},
    "CLOSING": {"lose": "CLOSED"},
    "CLOSED": {},
}  # fmt: skip
