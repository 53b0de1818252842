"""``twistd_uvloop.py …``: twistd with libuv's loop under Twisted's asyncio reactor."""

from __future__ import annotations

import uvloop
from twisted.internet import asyncioreactor

asyncioreactor.install(uvloop.new_event_loop())

from twisted.scripts.twistd import run  # noqa: E402  (it installs a reactor where none is)

if __name__ == "__main__":
    run()
