"""Chromium without a head, over the pipe of its DevTools protocol: pages are opened, and asked by script."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

from program import PATIENCE, eventually
from tools import needs_chromium

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


class NotLoaded(Exception):
    """The page has no document yet in which a script could run."""


class Chromium:
    """A browser with a profile of its own. Messages are JSON, each ended by a zero byte, over fds 3 and 4."""

    def __init__(self, profile: Path) -> None:
        browser_reads, self.to_browser = os.pipe()
        self.from_browser, browser_writes = os.pipe()
        words = (needs_chromium(), *_FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe")
        # The shell puts the pipes where the browser looks for them.
        script = f'exec "$@" 3<&{browser_reads} 4>&{browser_writes}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "chromium", *words],
            pass_fds=(browser_reads, browser_writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_reads)
        os.close(browser_writes)
        self.ids = count(1)
        self.buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self.to_browser)
        os.close(self.from_browser)

    def open(self, url: str) -> Page:
        """Return a page that loads the URL."""
        target = self.ask("Target.createTarget", url=url)["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        return Page(self, attached["sessionId"])

    def ask(self, method: str, session: str | None = None, **words: Any) -> dict[str, Any]:
        """Send a command, and return what it is answered with; events that come before are dropped."""
        number = next(self.ids)
        message = {"id": number, "method": method, "params": words}
        if session is not None:
            message["sessionId"] = session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            heard = json.loads(self.message())
            if heard.get("id") == number:
                if "execution context" in heard.get("error", {}).get("message", ""):
                    raise NotLoaded
                assert "error" not in heard, heard
                result: dict[str, Any] = heard["result"]
                return result

    def message(self) -> bytes:
        while b"\0" not in self.buffer:
            data = os.read(self.from_browser, 65_536)
            assert data, "the browser has ended"
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return message


class Page:
    def __init__(self, browser: Chromium, session: str) -> None:
        self.browser = browser
        self.session = session

    def evaluate(self, script: str) -> Any:
        """Return what an expression is worth in the page; a promise is waited for."""
        found = self.browser.ask(
            "Runtime.evaluate", self.session, expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until an expression is true in the page."""

        def holds() -> Any:
            with suppress(NotLoaded):
                return self.evaluate(script)

        return eventually(holds, script)
