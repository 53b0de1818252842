"""Rules for the how-tos: each is followed from its first block to a page, or a device, that works."""

from __future__ import annotations

import json

from chromium import Page, window
from program import eventually
from receivers import KEY
from rules import under
from rules_start import PRINTS_WHAT_IT_IS_ASKED
from tools import needs_package
from walk import LISTEN, SHELL, Walk


def installs(walk: Walk, *packages: str) -> None:
    """Take the next block, which installs packages; outside of a fresh environment they are here already."""
    command = walk.next(SHELL)
    assert command.split() == [".venv/bin/pip", "install", "-q", *packages]
    if walk.installed is not None:
        walk.run(command)
        return
    for package in packages:
        needs_package(package)


def server(walk: Walk) -> None:
    """Start the next block, which starts the server."""
    walk.serve(f"exec {walk.next(SHELL).strip()} --listen {LISTEN}")


def pays(walk: Walk) -> None:
    """Press the button in one window, and see it in another one, and in one that is opened later."""
    with window() as browser:
        pages = []
        for _ in range(
            2
        ):  # one after the other, because Django gives the browser a cookie at the first visit
            pages.append(browser.open(walk.here("http://localhost:8000/")))
            pages[-1].until("globalThis.state?.textContent === 'open'")
        # Both windows read; a browser shares one connection between them.
        eventually(lambda: '"waiting":0' not in walk.run("curl -s localhost:8080/recipients/orders/7"))
        pages[0].evaluate("document.querySelector('button').click()")
        for page in (*pages, browser.open(walk.here("http://localhost:8000/"))):
            page.until("globalThis.state?.textContent === 'paid'")


@under("docs/howto/flask.md", "Push from Flask")
def from_flask(walk: Walk) -> None:
    assert "cometd-lite" in walk.next("")
    installs(walk, "flask", "gunicorn")
    server(walk)
    walk.write("shop.py", walk.next("python"))
    walk.serve(port="8000")
    pays(walk)


@under("docs/howto/django.md", "Push from Django")
def from_django(walk: Walk) -> None:
    installs(walk, "django", "gunicorn")
    walk.shell()
    server(walk)
    walk.write("shop/views.py", walk.next("python"))
    walk.write("shop/urls.py", walk.next("python"))
    walk.serve(port="8000")
    pays(walk)


@under("docs/howto/fastapi.md", "Push from FastAPI")
def from_fastapi(walk: Walk) -> None:
    installs(walk, "fastapi", "uvicorn")
    server(walk)
    walk.write("shop.py", walk.next("python"))
    walk.serve(port="8000")
    pays(walk)


@under("docs/howto/device.md", "A device with `requests`")
def a_device(walk: Walk) -> None:
    server(walk)
    installs(walk, "requests")
    walk.write("lamp.py", walk.next("python"))
    command = walk.next(SHELL)
    device = walk.start(command)
    walk.shell('"delivered":', '"data":{"lamp": "kitchen", "state": "on"}')
    device.says("switching on\n")
    eventually(lambda: '"waiting":1' in walk.run("curl -s localhost:8080/recipients/lamps/kitchen"))
    device.stop()
    walk.run("""curl -s -H 'Content-Type: application/json' -d '{"switch": "off"}' \
        localhost:8080/push/lamps/kitchen""")
    again = walk.start(command)
    again.says("switching off\n")
    assert "switching on" not in again.said
    walk.run("curl -s localhost:8080/poll/measurements", '"state": "off"')


@under("docs/howto/notification-bell.md", "A notification bell")
def a_bell(walk: Walk) -> None:
    server(walk)
    walk.write("bell.html", walk.next("html"))
    walk.serve(port="8000")
    with window() as browser:

        def opened() -> Page:
            return browser.open(walk.here("http://localhost:8000/bell.html"))

        first, second = opened(), opened()
        notify = walk.next(SHELL)
        for number in (1, 2):
            walk.run(notify, '"ids"')
            for page in (first, second):
                page.until(f"document.title === '({number}) Bell' && list.children.length === {number}")
        first.evaluate("bell.click()")
        for page in (first, second, opened()):
            page.until("globalThis.count?.textContent === '0' && list.children.length === 2")
        walk.run(notify)
        for page in (first, second, opened()):
            page.until("globalThis.count?.textContent === '1' && list.children.length === 3")


@under("docs/howto/job-progress.md", "The progress of a job")
def a_job(walk: Walk) -> None:
    server(walk)
    walk.write("job.html", walk.next("html"))
    walk.serve(port="8000")
    walk.write("worker.py", walk.next("python"))
    with window() as browser:
        early = browser.open(walk.here("http://localhost:8000/job.html"))
        early.until("globalThis.state?.textContent === 'waiting'")
        walk.shell()
        for page in (early, browser.open(walk.here("http://localhost:8000/job.html"))):
            page.until("globalThis.state?.textContent === 'done' && bar.value === 100")
    assert '"event":"done"' in walk.run(".venv/bin/cometd-lite poll jobs/7 --json --after oldest")


@under("docs/howto/webhooks.md", "Webhooks")
def webhooks(walk: Walk) -> None:
    walk.shell()
    application = walk.program_that_serves("app.py")
    walk.serve(f"exec {walk.next(SHELL).strip()} --listen {LISTEN}")
    walk.shell('"messages":[]', '"delivered":0')
    application.says("alice join chat/lobby")
    application.says("remind bob of the message ")


@under("docs/howto/webhooks.md", "What is posted")
def what_is_told(walk: Walk) -> None:
    shown = json.loads(walk.next("json"))
    (walk.directory / "notify.key").write_text(KEY)
    walk.write("prints.py", walk.here(PRINTS_WHAT_IT_IS_ASKED))
    printed = walk.serve("exec .venv/bin/python prints.py", port="8001")
    walk.server("--presence --unread-after 0.2s --notify-url http://localhost:8001/ --notify-key notify.key")
    walk.run("curl -s -d hi localhost:8080/push/bob")
    walk.run("curl -s 'localhost:8080/poll/chat/lobby?after=now&wait=1&as=alice'")
    eventually(lambda: '"unread"' in printed.said and '"join"' in printed.said, "both events")
    told = {event["event"]: event for line in printed.said.splitlines() for event in json.loads(line)}
    for event in shown:
        varying = {name: told[event["event"]][name] for name in ("at", "id") if name in event}
        assert told[event["event"]] == event | varying
