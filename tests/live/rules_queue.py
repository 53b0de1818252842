"""Rules for the page on worker queues."""

from __future__ import annotations

from rules import under
from walk import LISTEN, SHELL, Walk

PAGE = "docs/howto/worker-queue.md"


@under(PAGE, "By hand, with two curls")
def by_hand(walk: Walk) -> None:
    walk.serve(f"exec {walk.next(SHELL).strip()} --listen {LISTEN}")
    walk.shell('"queued":3', '"leased":0')
    walk.shell('"data":"picture 1"', '"attempt":1', '"state":"done"')
    walk.run("curl -s 'localhost:8080/poll/jobs?lease=30'", '"data":"picture 2"')


@under(PAGE, "From the shell")
def from_the_shell(walk: Walk) -> None:
    walk.server()
    walk.run('for n in 1 2; do curl -s -d "picture $n" localhost:8080/push/jobs; done')
    walk.shell("picture 1", "picture 2")
    walk.run("curl -s localhost:8080/recipients/jobs", '"queued":0')


@under(PAGE, "In Python")
def in_python(walk: Walk) -> None:
    walk.server()
    walk.python("a mail to ann@example.org attempt 1")
    walk.run("curl -s localhost:8080/recipients/mails", '"queued":0')
    walk.python("a letter to 12 Some Street attempt 1")
    walk.run("curl -s localhost:8080/recipients/letters", '"queued":0')


@under(PAGE, "What fails again and again")
def what_fails(walk: Walk) -> None:
    walk.server("--max-attempts 2")
    walk.shell("a broken picture")
    walk.run("curl -s 'localhost:8080/recipients/$dead/jobs'", '"queued":0')
