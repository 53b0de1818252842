"""Follows a WebSocket by the package ``websockets``, and says every text in a line.

It comes back with the id of the last message whenever the connection is lost, as HTTP.md says.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.sync.client import connect


def leave_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main(url: str, after: str) -> None:
    threading.Thread(target=leave_with_parent, daemon=True).start()
    while True:
        try:
            with connect(f"{url}?after={after}", compression="deflate") as socket:
                for text in socket:
                    told = json.loads(text)
                    after = told.get("id", after)
                    sys.stdout.write(json.dumps(told) + "\n")
                    sys.stdout.flush()
        except (ConnectionClosed, InvalidHandshake, InvalidMessage, OSError, EOFError):
            continue


main(*sys.argv[1:])
