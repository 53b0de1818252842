"""CometD's own browser client in Chromium, over every transport, chatting with a curl."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import quote

import pytest
from chromium import Window, window
from foreign import HERE, curl, eventually
from program import Program


class Pages(SimpleHTTPRequestHandler):
    """Gives the page and its client, and notes what it was asked for."""

    asked: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
        self.asked.append(self.path)


@pytest.fixture
def pages() -> Iterator[int]:
    """Serve the page on a port, and so an origin, of its own."""
    Pages.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=str(HERE)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def browser() -> Iterator[Window]:
    with window() as browser:
        yield browser


@pytest.mark.parametrize("transport", ["websocket", "long-polling", "callback-polling"])
def test_a_page_of_an_allowed_origin_chats_with_a_curl(
    run: Callable[..., Program], pages: int, browser: Window, transport: str
) -> None:
    program = run("--allow-origin", f"http://127.0.0.1:{pages}")
    url = f"http://127.0.0.1:{program.port}/cometd"
    browser.open(f"http://127.0.0.1:{pages}/page.html?{quote(f'{url},{transport}')}")

    def said() -> list[object]:
        return program.get("/poll/chat/page?after=oldest&wait=0").data

    eventually(lambda: said() == ["here"], "the page")
    for number in range(3):
        curl(program.port, "/chat/curl", f"hello {number}")
        heard = {"heard": f"hello {number}", "over": transport}
        eventually(lambda heard=heard: said()[-1:] == [heard], "what the page heard")
    assert len(said()) == 4


@pytest.mark.parametrize("transport", ["websocket", "long-polling", "callback-polling"])
def test_a_page_of_a_foreign_origin_cannot_shake_hands(
    run: Callable[..., Program], pages: int, browser: Window, transport: str
) -> None:
    program = run()
    url = f"http://127.0.0.1:{program.port}/cometd"
    browser.open(f"http://127.0.0.1:{pages}/page.html?{quote(f'{url},{transport}')}")
    eventually(lambda: "/refused" in Pages.asked, "the page's failure")
    assert b"cometd_lite_bayeux_sessions 0.0" in program.get("/metrics").body
