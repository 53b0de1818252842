"""The load generator: it pushes to a running server, reads over parked polls, and checks each message.

It is one process with one epoll loop over plain sockets: the server idles while the generator works.
Four rules hold it together:

1. The unit is a *round*: some messages are pushed to one recipient, and the round is over when each of its
   readers has each of them and the push was answered. Scenarios differ only in how many recipients there are,
   how many readers each has, how many messages a round has, and how many rounds are under way at once.
2. Every delivery is compared with what was pushed, in its order. A message that is lost, doubled, changed or
   out of place ends the run with an error; so does an answer that the interface does not have.
3. Phases are drained. Warm-up ends when all of it was delivered, then the clocks are read, and read again
   when all of the measured phase was delivered: no request is counted in part.
4. The protocol of a server is a ``Dialect``. That of this server is here; ``tests/bench`` adds others.

``measure`` runs a scenario, and ``load`` is the loop. Times are in seconds and sizes in bytes unless a name
says otherwise.
"""

from __future__ import annotations

from .command import main
from .dialect import CometLite, Dialect, Site
from .measure import Costs, measure
from .results import BenchError, Lost, NotThere, Result, UnexpectedAnswer
from .scenarios import SCENARIOS, Scenario

__all__ = [
    "SCENARIOS",
    "BenchError",
    "CometLite",
    "Costs",
    "Dialect",
    "Lost",
    "NotThere",
    "Result",
    "Scenario",
    "Site",
    "UnexpectedAnswer",
    "main",
    "measure",
]
