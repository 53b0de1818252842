"""The server with a window into its process: what connects to ``counts.sock`` is told what lives there.

``CODE`` runs it as ``Server(directory, code=CODE)``. ``counts`` asks what lives there, and ``disagreements``
which invariant of its hub, registry and store does not hold.
"""

from __future__ import annotations

import gc
import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

from server import TWISTD

COUNTS = "counts.sock"
BROKEN = "broken"
KINDS = (
    "twisted.internet.defer.Deferred",
    "cometd_lite.core.hub.Poll",
    "cometd_lite.core.hub.Take",
    "cometd_lite.core.registry._Timer",
    "cometd_lite.server.connection.HTTPConnection",
    "cometd_lite.server.request.Request",
    "cometd_lite.server.epoll.SocketWire",
    "cometd_lite.http.stream.Stream",
    "cometd_lite.http.websocket.Socket",
    "twisted.internet.tcp.Server",
)
CODE = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
    f"import counted; counted.install(); {TWISTD}"
)


def install() -> None:
    """Let the program that is about to run answer at ``counts.sock``, in its working directory."""
    # The soak itself imports this module too, and needs no reactor.
    from twisted.internet import reactor  # noqa: PLC0415
    from twisted.internet.protocol import Factory, Protocol  # noqa: PLC0415

    from cometd_lite import service  # noqa: PLC0415

    def make(options: Any) -> Any:
        made = make_service(options)
        Path(COUNTS).unlink(missing_ok=True)  # that of a process that was killed
        reactor.callWhenRunning(reactor.listenUNIX, COUNTS, Factory.forProtocol(Window))
        Window.comet = made.comet
        return made

    class Window(Protocol):
        comet: Any

        def connectionMade(self) -> None:
            gc.collect()
            found = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
            living: dict[str, Any] = {kind: found[kind] for kind in KINDS}
            registry, routes = self.comet.hub.registry, self.comet.routes
            living |= {
                "parked": registry.parked,
                "sessions": len(routes.listeners) + len(routes.bayeux),
                "timers": len(reactor.getDelayedCalls()),
                "files": len(list(Path("/proc/self/fd").iterdir())),
            }
            try:
                self.comet.hub.check_invariants()
                self.comet.hub.store.check_invariants()
            except AssertionError as error:
                living[BROKEN] = str(error)
            self.transport.write(json.dumps(living).encode())
            self.transport.loseConnection()

    make_service, service.makeService = service.makeService, make


def disagreements(directory: Path) -> list[str]:
    """Return the invariant that does not hold in the server's process, if there is one."""
    broken = _asked(directory).get(BROKEN)
    return [] if broken is None else [f"an invariant does not hold: {broken}"]


def counts(directory: Path) -> dict[str, int]:
    """Return what lives in the server's process, by kind. Raises as ``check_invariants``."""
    living = _asked(directory)
    assert BROKEN not in living, living[BROKEN]
    return living


def _asked(directory: Path) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as window:
        window.settimeout(60)
        window.connect(str(directory / COUNTS))
        told = b"".join(iter(lambda: window.recv(65_536), b""))
    living: dict[str, Any] = json.loads(told)
    return living
