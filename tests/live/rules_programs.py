"""Rules for the pages about the command, tokens, the clients and embedding."""

from __future__ import annotations

from chromium import window
from program import eventually
from rules import under
from walk import LISTEN, SHELL, Walk

# -- from the shell


@under("docs/tokens.md", "Tokens")
def with_a_token(walk: Walk) -> None:
    walk.shell()
    walk.serve(f"exec {walk.next(SHELL).strip()} --listen {LISTEN}")
    walk.shell('"delivered":0', '"data":"hello"')
    walk.run("curl -s -d hello localhost:8080/push/bob", "unauthorized")


@under("docs/cli.md", "Command line")
def from_the_shell(walk: Walk) -> None:
    walk.server()
    walk.shell("hello there\n", "bob  online: 0 waiting")
    walk.shell("chat/lobby  ann: hi\n")
    walk.shell("the same")
    log = walk.write("log", "first\n")
    walk.start()
    follow = walk.start()
    walk.run("until .venv/bin/cometd-lite info logs | grep -q 'waiting'; do sleep 0.1; done")
    eventually(lambda: '"waiting":1' in walk.run("curl -s localhost:8080/recipients/logs"))
    with log.open("a") as file:
        file.write("second\n")
    follow.says("second\n")
    walk.shell()
    assert (walk.directory / "totals").read_text() == '{"total": 7}'
    walk.shell("1000\n")
    walk.run(".venv/bin/cometd-lite push builds/7 compiling; .venv/bin/cometd-lite push builds/7 done")
    walk.shell("build 7 is there")
    token = walk.shell().split()[-1]
    assert token.count(".") == 2


# -- from Python


@under("docs/python.md", "In views, tasks and scripts")
def from_a_script(walk: Walk) -> None:
    walk.server()
    walk.python("[{'text': 'hello'}]", "lobby {'text': 'hello again'}")


@under("docs/python.md", "In coroutines")
def from_coroutines(walk: Walk) -> None:
    walk.server()
    walk.python("lobby {'text': 'hello'}")
    walk.python()


@under("docs/python.md", "What both do")
def a_bot_that_remembers(walk: Walk) -> None:
    walk.server()
    walk.write("bot.py", walk.next("python"))
    bot = walk.start("exec .venv/bin/python bot.py")
    eventually((walk.directory / "bot.cursor").exists, "the bot's place")
    walk.run("curl -s -d hello localhost:8080/push/chat/lobby")
    said = eventually(lambda: "to you" in walk.run("curl -s 'localhost:8080/poll/chat/lobby?after=oldest'"))
    assert said
    bot.stop()


@under("docs/python.md", "In your tests")
def in_your_tests(walk: Walk) -> None:
    walk.write("test_bob.py", walk.next("python"))
    walk.run(".venv/bin/python -m pytest -q -p no:cacheprovider test_bob.py", "1 passed")


@under("docs/embedding.md", "Embedding and hooks")
def in_your_own_program(walk: Walk) -> None:
    site = walk.program_that_serves("site.py")
    walk.shell('{"seconds":')
    site.stop()
    klein = walk.program_that_serves("shop.py")
    walk.run("curl -s -X POST localhost:8000/orders/7/paid", "0 got it at once")
    walk.run("curl -s 'localhost:8000/comet/poll/orders/7?after=oldest'", '{"state":"paid"}')
    klein.stop()
    flask = walk.program_that_serves("beside.py")
    walk.run("curl -s -d hello localhost:8000/say/lobby", "0 got it at once")
    walk.run("curl -s 'localhost:8000/comet/poll/chat/lobby?after=oldest'", '"data":"hello"')
    flask.stop()
    walk.write("ticking.py", walk.next("python"))
    walk.serve("exec .venv/bin/twistd -n --pidfile= -y ticking.py", port="8000")
    walk.run("curl -s 'localhost:8000/poll/ticks?after=oldest'", '"data":"tick"')


@under("docs/embedding.md", "Hooks")
def hooks(walk: Walk) -> None:
    walk.python(
        "a reader waits for ('bob',)",
        "a reader of ('bob',) left",
        "bob got 'hi'",
        name="hooks.py",
    )


# -- in a browser


@under("docs/browser.md", "Browser client")
def in_a_browser(walk: Walk) -> None:
    walk.server("--allow-origin http://localhost:8000")
    script = walk.next("js")
    walk.write(
        "page.html",
        f"<script type=module>const show = ({{ text }}) => (document.title = text);{script}</script>",
    )
    walk.serve("exec python3 -m http.server 8000 --bind 127.0.0.1", port="8000")
    with window() as browser:
        browser.open(walk.here("http://localhost:8000/page.html")).until("document.title === 'hello'")
