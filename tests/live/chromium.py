"""Chromium without a head, over the pipe of its DevTools protocol: pages are opened, and asked by script.

A process of tests starts one browser, at its first use. Each window has cookies, a storage and a cache of its
own.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from typing import Any

from program import PATIENCE, eventually
from tools import needs_chromium

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


class NotLoaded(Exception):
    """The page has no document yet in which a script could run."""


class Chromium:
    """A browser. Messages are JSON, each ended by a zero byte, over fds 3 and 4."""

    def __init__(self) -> None:
        command = needs_chromium()
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        browser_reads, self.to_browser = os.pipe()
        self.from_browser, browser_writes = os.pipe()
        words = (command, *_FLAGS, f"--user-data-dir={self.profile}", "--remote-debugging-pipe")
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
        atexit.register(self.end)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        shutil.rmtree(self.profile, ignore_errors=True)

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


@cache
def _chromium() -> Chromium:
    return Chromium()


class Window:
    def __init__(self, browser: Chromium, context: str) -> None:
        self.browser = browser
        self.context = context

    def open(self, url: str) -> Page:
        """Return a page that loads the URL."""
        target = self.browser.ask("Target.createTarget", url=url, browserContextId=self.context)["targetId"]
        attached = self.browser.ask("Target.attachToTarget", targetId=target, flatten=True)
        return Page(self.browser, attached["sessionId"])


@contextmanager
def window() -> Iterator[Window]:
    """Open a window of the browser, and close it, and all of its pages, at the end."""
    browser = _chromium()
    context = browser.ask("Target.createBrowserContext")["browserContextId"]
    try:
        yield Window(browser, context)
    finally:
        browser.ask("Target.disposeBrowserContext", browserContextId=context)


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
