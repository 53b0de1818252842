"""Rules for the page on namespaces and histories."""

from __future__ import annotations

from chromium import window
from rules import under
from walk import LISTEN, SHELL, Walk

PAGE = "docs/howto/history.md"


@under(PAGE, "Keep the newest messages of each room")
def keep_the_newest(walk: Walk) -> None:
    walk.serve(walk.next(SHELL).rstrip() + f" --listen {LISTEN}")
    walk.shell('"data":"message 11"', "202\n202\n202\n503\n")


@under(PAGE, "Begin with the newest messages")
def begin_with_the_newest(walk: Walk) -> None:
    walk.server("--allow-origin http://localhost:8000")
    said = walk.shell('"two"', '"three"', '"four"', '"one"', '"two"', '"more":true', "four\n")
    assert '"gap":true' not in said
    walk.write("lobby.html", walk.next("html"))
    walk.serve("exec python3 -m http.server 8000 --bind 127.0.0.1", port="8000")
    with window() as browser:
        page = browser.open(walk.here("http://localhost:8000/lobby.html"))
        page.until("window.talk?.innerText === 'one\\ntwo\\nthree\\nfour'")
        walk.run("curl -s -d five localhost:8080/push/chat/lobby")
        page.until("talk.lastChild.textContent === 'five'")


@under(PAGE, "In Python")
def in_python(walk: Walk) -> None:
    walk.python("['hello']")
