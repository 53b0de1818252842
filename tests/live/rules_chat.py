"""Rules for the page on a chat with presence."""

from __future__ import annotations

from chromium import Page, window
from rules import under
from walk import LISTEN, SHELL, Walk

PAGE = "docs/howto/chat.md"


@under(PAGE, "The page")
def the_page(walk: Walk) -> None:
    walk.serve(walk.next(SHELL).rstrip() + f" --listen {LISTEN}")
    walk.write("chat.html", walk.next("html"))
    walk.serve(f"exec {walk.next(SHELL)}", port="8000")
    with window() as browser:

        def opened(name: str) -> Page:
            return browser.open(walk.here(f"http://localhost:8000/chat.html?name={name}"))

        ada, grace = opened("ada"), opened("grace")
        there = "[...(window.people?.children ?? [])].map((one) => one.textContent).sort().join()"
        for page in (ada, grace):
            page.until(f"{there} === 'ada,grace'")
            page.until("count.textContent === '2 here'")
        ada.evaluate("text.value = 'hello'; say.requestSubmit()")
        for page in (ada, grace):
            page.until("talk.lastChild?.textContent === 'ada: hello'")
        walk.run("curl -s -o /dev/null 'localhost:8080/poll/chat/lobby?after=now&wait=0&as=eve'")
        grace.until("people.lastChild.textContent === 'eve' && count.textContent === '3 here'")


@under(PAGE, "The same with curl")
def with_curl(walk: Walk) -> None:
    walk.server("--presence")
    walk.shell('"messages":[]', '"name":"curl"', '"event":"join"')
    walk.run("curl -s localhost:8080/presence/chat/lobby", '"members":[]')


@under(PAGE, "Names that cannot be forged")
def with_tokens(walk: Walk) -> None:
    token = walk.shell().split()[-1]
    walk.server("--presence --key comet.key")
    asked = f"curl -s -H 'Authorization: Bearer {token}' "
    walk.run(f"{asked} 'localhost:8080/poll/chat/lobby?after=now&wait=0&as=eve'")
    walk.run(f"{asked} localhost:8080/presence/chat/lobby", '"name":"ada"')


@under(PAGE, "In Python")
def in_python(walk: Walk) -> None:
    walk.python("1 ['bot']")
