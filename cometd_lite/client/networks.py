"""Chooses the network of a request: that of the running asyncio loop, else that of Twisted's reactor."""

from __future__ import annotations

import asyncio

from ..deferreds import is_in_another_thread, running_loop
from .network import Network, reactor_network
from .on_asyncio import asyncio_network


class Networks:
    """The networks of one client: one on the reactor, and one on each asyncio loop that it is used on.

    None is made before it is needed, so that a client may be made before there is a reactor or a loop.
    """

    def __init__(self) -> None:
        self._known: dict[asyncio.AbstractEventLoop | None, Network] = {}

    def current(self) -> Network:
        """Return the network for a request that is begun here.

        Raises ``RuntimeError`` in a thread that is neither that of the running reactor nor that of a loop:
        the reactor would not notice what is sent there.
        """
        loop = running_loop()
        if loop is None and is_in_another_thread():
            raise RuntimeError(
                "Client belongs to the thread of Twisted's reactor. In another thread use SyncClient, or "
                "twisted.internet.threads.blockingCallFromThread(reactor, client.push, 'bob', 'hi')."
            )
        network = self._known.get(loop)
        if network is None:
            self._known = {
                known: kept for known, kept in self._known.items() if known is None or not known.is_closed()
            }
            network = reactor_network() if loop is None else asyncio_network(loop)
            self._known[loop] = network
        return network

    async def close(self) -> None:
        """Close the idle connections of the network that is used here."""
        network = self._known.pop(running_loop(), None)
        if network is not None:
            await network.close()
