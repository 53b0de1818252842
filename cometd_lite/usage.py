"""How a program uses a ``Comet``: wrong arguments and a wrong place are refused at once, by a sentence."""

from __future__ import annotations

from pathlib import Path

from .access.tokens import Tokens
from .bayeux.options import BayeuxOptions
from .core.arguments import check_kind, check_overflow
from .deferreds import is_in_another_thread, running_loop, serves_the_reactor
from .limits import Limits


def check_options(limits: object, store: object, overflow: object, tokens: object, bayeux: object) -> None:
    """Raise ``TypeError`` or ``ValueError`` where an argument of ``Comet`` is not what it can be."""
    check_kind("limits", limits, Limits, "Limits(capacity=100)")
    check_kind("tokens", tokens, Tokens, "Tokens([Path('key.pem')])")
    check_kind("bayeux", bayeux, BayeuxOptions, "BayeuxOptions(timeout=20)")
    check_overflow(overflow)
    if isinstance(store, (str, Path)):
        raise TypeError(
            "store is a store that was made, as in store=SQLiteStore('messages.db') of "
            f"cometd_lite.stores.sqlite, not {store!r}."
        )
    if store is not None and overflow != "reject":
        raise ValueError("overflow is the store's where a store is given, as in SQLiteStore(…, overflow=…).")


def check_place() -> None:
    """Raise ``RuntimeError`` where Twisted's reactor would not notice what is asked here."""
    if is_in_another_thread():
        raise RuntimeError(
            "Comet belongs to the thread of Twisted's reactor. In another thread: "
            "twisted.internet.threads.blockingCallFromThread(reactor, comet.push, 'bob', 'hi')."
        )
    loop = running_loop()
    if loop is not None and not serves_the_reactor(loop):
        raise RuntimeError(
            "Comet needs Twisted's reactor, which does not run on this asyncio loop. Install it there by "
            "twisted.internet.asyncioreactor.install(loop), or run the server by itself and use Client here."
        )
