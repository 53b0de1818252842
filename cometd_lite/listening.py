"""Where the server listens: endpoints as ``--listen`` writes them, and what is wrong with one in a sentence.

An endpoint is one of Twisted's. A UNIX socket has a lock file beside it, which names its process.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.python.failure import Failure

from .access.origins import is_loopback
from .limits import LISTEN_BACKLOG

_BARE_COLONS = re.compile(r"=\[?[0-9A-Fa-f]*:[0-9A-Fa-f:]*:")
"""An IPv6 address, the colons of which are taken for the ends of parts."""


def listen(reactor: Any, endpoint: str, factory: IProtocolFactory) -> Deferred[IListeningPort]:
    """Listen on an endpoint. The Deferred fails where the operating system refuses.

    A UNIX socket that was left behind by a process that crashed is taken over. Twisted does so only where the
    lock names a process that is no more; in a container the next process has the same number.
    """

    def take_over(failure: Failure) -> Any:
        error = failure.value
        path = error.port if isinstance(error, CannotListenError) else None
        if not isinstance(path, str | bytes) or not _is_abandoned(path):
            return failure
        for left in (path, f"{os.fsdecode(path)}.lock"):
            Path(os.fsdecode(left)).unlink(missing_ok=True)
        return serverFromString(reactor, with_backlog(endpoint)).listen(factory)

    listening: Deferred[IListeningPort] = serverFromString(reactor, with_backlog(endpoint)).listen(factory)
    return listening.addErrback(take_over)


def _is_abandoned(path: str | bytes) -> bool:
    """Return whether a UNIX socket has a lock, and no process that listens."""
    if not Path(f"{os.fsdecode(path)}.lock").is_symlink():
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a process that does not accept would keep it waiting
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
    return False


def with_backlog(endpoint: str) -> str:
    """Return a TCP or TLS endpoint with a longer queue of connections that wait to be accepted.

    Twisted's 50 is short for a thousand clients that come back in one second: a client that finds
    no place tries again a second later.
    """
    kind = endpoint.removeprefix("haproxy:").partition(":")[0]
    if kind in {"tcp", "tcp6", "ssl"} and "backlog=" not in endpoint:
        return f"{endpoint}:backlog={LISTEN_BACKLOG}"
    return endpoint


def check(reactor: Any, endpoint: str) -> None:
    """Raise ``ValueError`` with a sentence where an endpoint is not one."""
    try:
        serverFromString(reactor, endpoint)
    except Exception as error:  # noqa: BLE001  an endpoint's parser raises what it likes
        raise ValueError(f"--listen {endpoint}: {_fault(endpoint, error)}.") from None
    kind, _, path = endpoint.removeprefix("haproxy:").partition(":")
    if kind == "unix" and not path:
        raise ValueError(f"--listen {endpoint}: the path is missing, as in unix:/run/comet.sock.")


def _fault(endpoint: str, error: Exception) -> str:
    """Return what is wrong, where Twisted's parser has raised; its own words are often those of its code."""
    kind = endpoint.removeprefix("haproxy:").partition(":")[0]
    if _BARE_COLONS.search(f"{endpoint}:"):
        return r"the colons of an IPv6 address are escaped, as in tcp6:8080:interface=\:\:1"
    if kind == "systemd":
        return (
            "systemd has passed no such socket; a .socket unit starts this service, "
            "and the endpoint is systemd:domain=INET:index=0"
        )
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, TypeError):
        return f"{kind} does not take these parts; the usual ones are tcp:8080:interface=127.0.0.1"
    return f"not an endpoint that Twisted knows, as in tcp:8080:interface=127.0.0.1 ({error})"


def refusal(endpoint: str, error: BaseException) -> str:
    """Return why the operating system does not let the server listen on an endpoint."""
    cause = error.socketError if isinstance(error, CannotListenError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return f"cannot listen on {endpoint}: {cause.strerror}."
    if isinstance(error, CannotListenError) and isinstance(error.port, str | bytes):
        return f"cannot listen on {endpoint}: another process listens there."
    return f"cannot listen on {endpoint}: {str(cause).rstrip('.')}."


def address(endpoint: str, bound: IAddress, mount: str) -> str:
    """Return the URL of what listens at an endpoint, as this machine opens it; a path for a UNIX socket."""
    if isinstance(bound, UNIXAddress):
        return f"unix:{os.fsdecode(bound.name or b'')}"
    if not isinstance(bound, IPv4Address | IPv6Address):
        return endpoint
    scheme = "https" if endpoint.removeprefix("haproxy:").startswith("ssl:") else "http"
    everywhere = bound.host in {"0.0.0.0", "::"}  # noqa: S104  it is compared
    host = "localhost" if everywhere or is_loopback(bound.host) else bound.host
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{bound.port}{mount.rstrip('/')}/"
    return f"{url}, on every address of this machine" if everywhere else url
