"""Every code block of the README, run as a reader would run it, and what it must show.

A section's blocks are run by the function for its heading, one after the other. A heading with blocks but no
function fails, and so does a block that its function does not run.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chromium import Chromium
from fork_server import ROOT
from program import Connection, eventually
from readme import LISTEN, README, SHELL, Block, Walk, sections, walked
from redis_server import RedisServer
from tools import needs

from cometd_lite.service import Options

SECTIONS = sections(README.read_text())
RULES: dict[str, Callable[[Walk], None]] = {}
TWISTD = ".venv/bin/twistd -n --pidfile= cometd-lite"


def under(heading: str) -> Callable[[Callable[[Walk], None]], Callable[[Walk], None]]:
    """Say that a function runs the blocks under a heading."""

    def note(run: Callable[[Walk], None]) -> Callable[[Walk], None]:
        RULES[heading] = run
        return run

    return note


@pytest.fixture
def walk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Walk]:
    yield from walked(tmp_path, SECTIONS[request.param])


@pytest.mark.parametrize(("walk", "heading"), [(heading, heading) for heading in SECTIONS], indirect=["walk"])
def test_the_blocks_do_what_the_readme_says(walk: Walk, heading: str) -> None:
    assert heading in RULES, f"nobody runs the blocks under {heading!r}"
    RULES[heading](walk)
    assert walk.rest() == [], "a block that nobody runs"


def test_every_rule_is_for_a_section_that_there_is() -> None:
    assert set(RULES) == set(SECTIONS)


def test_a_block_is_found_where_it_is_and_its_language_is_known() -> None:
    found = sections("# One\n\ntext\n\n    sleep 1\n\n    sleep 2\n\n## Two `x`\n\n```python\npass\n```\n")
    assert found == {
        "One": [Block(SHELL, "sleep 1\n\nsleep 2\n", 5)],
        "Two `x`": [Block("python", "pass\n", 11)],
    }


# -- from the top


@under("Run it")
def run_it(walk: Walk) -> None:
    command = walk.next(SHELL)
    installed = "python3 -m venv .venv && .venv/bin/pip install -q . && "
    assert command == f"{installed}{TWISTD}\n", "the shortest there is; .ci/run installs"
    walk.server()
    walk.shell('"delivered":0', '"data":"hello"')


@under("Test it")
def check_it(walk: Walk) -> None:
    command = walk.next(SHELL)
    found = re.search(r"^ +command=\$\((.*)\)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert found is not None
    taken = subprocess.run(["bash", "-c", found[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert taken.stdout == command, ".ci/run is to run exactly this"
    fast = walk.next(SHELL).rstrip()
    walk.run(f"{fast} -n0 -q --collect-only {ROOT}/tests/test_errors.py", "test_errors.py::")


@under("A chat in 20 lines")
def chat(walk: Walk) -> None:
    page = walk.next("html")
    assert page.count("\n") == 20
    walk.write("chat.html", page)
    walk.serve(port="8000")
    walk.serve(walk.next(SHELL).rstrip() + f" --listen {LISTEN}")
    with Chromium(walk.directory / "profile") as browser:
        ann, bob = (browser.open(walk.here("http://localhost:8000/chat.html")) for _ in range(2))
        for page_of in (ann, bob):
            page_of.until("document.title === 'Chat' && window.form?.onsubmit != null")
        for page_of, name, words in ((ann, "ann", "hi"), (bob, "bob", "<b>hello</b>")):
            page_of.evaluate(f"who.value = '{name}'; words.value = '{words}'; form.requestSubmit()")
            for reader in (ann, bob):
                reader.until(f"talk.lastChild?.textContent === '{name}: {words}'")
        assert ann.evaluate("talk.children.length") == 2
        walk.run("""curl -s -H 'Content-Type: application/json' -d '{"from": "curl", "text": "me too"}' \
            localhost:8080/push/chat/lobby""")
        bob.until("talk.lastChild.textContent === 'curl: me too'")


# -- recipes


@under("Tell someone something, now or when he is back")
def tell_someone(walk: Walk) -> None:
    walk.server()
    walk.shell("201 Created", '"delivered":1')
    walk.shell('"delivered":0', '"delivered":0', '"data":"one"', '"data":"two"')
    walk.shell("503 Service Unavailable", "Retry-After", "Nobody waits", "400 Bad Request", "recipient")
    walk.shell('"messages":[]', '"waiting":0')


@under("A chat page that polls with `If-None-Match`")
def etags(walk: Walk) -> None:
    walk.serve(f"exec {TWISTD} --listen {LISTEN} --allow-origin http://localhost:8000")
    walk.shell("ETag: ")
    walk.shell("304 Not Modified", '"delivered":0', "200 OK", '{"from": "alice", "text": "hi"}')
    script = walk.next("js")
    walk.write(
        "page.html", f"<script type=module>const show = (said) => (document.title = said);{script}</script>"
    )
    walk.serve("exec python3 -m http.server 8000 --bind 127.0.0.1", port="8000")
    with Chromium(walk.directory / "profile") as browser:
        page = browser.open(walk.here("http://localhost:8000/page.html"))
        for words in ("one", "two"):
            eventually(lambda: '"waiting":1' in walk.run("curl -s localhost:8080/recipients/room"))
            walk.run(f"curl -s -d {words} localhost:8080/push/room")
            page.until(f"document.title === '{words}'")


@under("Nothing is missed between two polls")
def nothing_missed(walk: Walk) -> None:
    walk.server()
    said = walk.shell('"data":"first"', '"data":"second"', '"data":"first"', '"data":"second"')
    assert '"gap":true' not in said


@under("A message list over JSON")
def message_list(walk: Walk) -> None:
    walk.serve(port="8081")
    walk.shell('"data":{"n": 1}', '"messages":[]', "413 ", "10000 bytes", "400 Bad Request")


@under("Listeners, for clients that keep nothing")
def listeners(walk: Walk) -> None:
    walk.server()
    walk.shell('"data":"to the lobby"', '"data":"to all"', '"messages":[]')


# -- options


def test_the_options_in_the_readme_are_those_that_there_are() -> None:
    text = README.read_text().partition("\n## Options\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`--([a-z-]+)`", text))
    there = {option.rstrip("=") for option in Options().longOpt} - {"version", "help"}
    assert named == there


# -- operating


def through(walk: Walk, front: str) -> None:
    """Push, poll, stream and talk through what listens at ``front`` in the place of the server."""
    port = walk.port(front)
    with Connection(port) as poll, Connection(port) as other:
        poll.request("GET", "/poll/bob?wait=60")
        eventually(lambda: other.ask("GET", "/recipients/bob").json["waiting"] == 1, "parked")
        assert other.ask("POST", "/push/bob", "hello").json["delivered"] == 1
        assert poll.answer().data == ["hello"]
        assert other.ask("GET", "/metrics").status == 403
        # A stream's bytes come as they are sent, however few.
        poll.request("GET", "/stream/bob")
        assert b"text/event-stream" in poll.until(b"\r\n\r\n").lower()
        poll.until(b"retry: ")
        for words in ("one", "two"):
            assert other.ask("POST", "/push/bob", words).json["delivered"] == 1
            poll.until(b"data: " + words.encode())
    with Connection(port) as socket, Connection(port) as other:
        socket.send(
            "GET /ws/carol HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert b"101 Switching Protocols" in socket.until(b"\r\n\r\n")
        assert other.ask("POST", "/push/carol", "over a socket").json["delivered"] == 1
        socket.until(b'"data":"over a socket"')


@under("nginx")
def behind_nginx(walk: Walk) -> None:
    needs("nginx")
    walk.server()
    block = walk.next("nginx").replace("listen 80;", f"listen 127.0.0.1:{walk.port('8090')};")
    block = block.replace("/var/log/nginx", str(walk.directory))
    places = "".join(
        f"{kind}_temp_path {walk.directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    walk.write(
        "nginx.conf",
        f"daemon off; pid {walk.directory}/pid; error_log stderr; events {{}} http {{ {places} {block} }}",
    )
    command = f"nginx -p {walk.directory} -c nginx.conf"
    walk.run(f"{command} -t", "test is successful")
    running = walk.serve(f"exec {command}", port="8090")
    through(walk, "8090")
    walk.run("curl -s 'localhost:8090/poll/bob?wait=0&token=SECRET'")
    running.stop()
    assert "SECRET" not in (walk.directory / "comet.log").read_text()


@under("Caddy")
def behind_caddy(walk: Walk) -> None:
    needs("caddy")
    walk.server()
    site = walk.next("caddy").replace("comet.example.com", f"http://localhost:{walk.port('8090')}")
    walk.write("Caddyfile", "{\n\tadmin off\n\tgrace_period 1s\n}\n" + site)
    walk.serve("exec env HOME=. caddy run --config Caddyfile --adapter caddyfile", port="8090")
    through(walk, "8090")


@under("HAProxy")
def behind_haproxy(walk: Walk) -> None:
    needs("haproxy")
    walk.server()
    walk.write("haproxy.cfg", walk.next("haproxy").replace("bind :80", f"bind 127.0.0.1:{walk.port('8090')}"))
    assert walk.run("haproxy -c -f haproxy.cfg").count("WARNING") == 0
    walk.serve("exec haproxy -db -f haproxy.cfg", port="8090")
    through(walk, "8090")


@under("As a service of systemd")
def as_a_service(walk: Walk) -> None:
    needs("systemd-analyze", "systemd")
    unit = walk.next("ini")
    options = re.findall(r"--[a-z-]+", unit)
    assert {option.lstrip("-") + "=" for option in options} <= {*Options().longOpt, "pidfile="}
    # What cannot be here is the program and a kernel that systemd has started.
    walk.write("cometd-lite.service", unit.replace("/opt/cometd-lite/bin/twistd", "/bin/true"))
    said = walk.run("systemd-analyze verify ./cometd-lite.service 2>&1 || true")
    assert "cometd-lite.service" not in said, said
    said = walk.run("systemd-analyze security --offline=true --threshold=20 ./cometd-lite.service 2>&1")
    assert "OK" in said, said


@under("One process per core")
def one_per_core(walk: Walk) -> None:
    needs("systemd-analyze", "systemd")
    redis = RedisServer(walk.directory).start()
    walk.serve(walk.next(SHELL).replace("unix:/run/redis/redis.sock", redis.address))
    walk.run("curl -s --retry 9 --retry-all-errors -d 'at one' localhost:8080/push/bob", '"delivered":0')
    for _ in range(10):
        walk.run("curl -s 'localhost:8080/poll/bob?after=oldest'", '"data":"at one"')
    walk.write("comet.socket", walk.next("ini"))
    walk.write("comet@.service", walk.next("ini").replace("/opt/cometd-lite/bin/twistd", "/bin/true"))
    said = walk.run(
        "ln -s comet@.service comet@1.service; systemd-analyze verify ./comet.socket 2>&1 || true"
    )
    said += walk.run("systemd-analyze verify ./comet@1.service 2>&1 || true")
    assert "comet.socket" not in said, said
    assert "comet@" not in said, said
    walk.stop()
    redis.kill()


@under("Metrics and alerts")
def alerts(walk: Walk) -> None:
    walk.shell()
    assert b'"uid": "cometd-lite"' in (walk.directory / "grafana.json").read_bytes()
    walk.write("alerts.yml", walk.next("yaml"))  # tests/test_metrics.py holds it to what there is


# -- from the shell


@under("From the shell")
def from_the_shell(walk: Walk) -> None:
    walk.server()
    walk.shell("hello there\n", "bob  online: 0 waiting")
    log = walk.write("log", "first\n")
    walk.start()
    follow = walk.start()
    walk.run("until cometd-lite info logs | grep -q 'waiting'; do sleep 0.1; done")
    eventually(lambda: '"waiting":1' in walk.run("curl -s localhost:8080/recipients/logs"))
    with log.open("a") as file:
        file.write("second\n")
    follow.says("second\n")
    walk.shell()
    assert (walk.directory / "totals").read_text() == '{"total": 7}'
    walk.run("cometd-lite push builds/7 compiling; cometd-lite push builds/7 done")
    walk.shell("build 7 is there")
    token = walk.shell().split()[-1]
    assert token.count(".") == 2


# -- from Python


@under("From Python")
def from_python(walk: Walk) -> None:
    walk.server()
    walk.python("lobby {'text': 'hello'}")
    walk.python()
    walk.write("bot.py", walk.next("python"))
    bot = walk.start("exec python bot.py")
    eventually((walk.directory / "bot.cursor").exists, "the bot's place")
    walk.run("curl -s -d hello localhost:8080/push/chat/lobby")
    said = eventually(lambda: "to you" in walk.run("curl -s 'localhost:8080/poll/chat/lobby?after=oldest'"))
    assert said
    bot.stop()
    walk.write("test_bob.py", walk.next("python"))
    walk.run("python -m pytest -q -p no:cacheprovider test_bob.py", "1 passed")


@under("In your own program")
def in_your_own_program(walk: Walk) -> None:
    site = walk.program_that_serves("site.py")
    walk.shell('{"seconds":')
    site.stop()
    klein = walk.program_that_serves("shop.py")
    walk.run("curl -s -X POST localhost:8000/orders/7/paid", "0 were told at once")
    walk.run("curl -s 'localhost:8000/comet/poll/orders/7?after=oldest'", '{"state":"paid"}')
    klein.stop()
    flask = walk.program_that_serves("beside.py")
    walk.run("curl -s -d hello localhost:8000/say/lobby", "0 heard it at once")
    walk.run("curl -s 'localhost:8000/comet/poll/chat/lobby?after=oldest'", '"data":"hello"')
    flask.stop()
    walk.write("ticking.py", walk.next("python"))
    walk.serve("exec twistd -n --pidfile= -y ticking.py", port="8000")
    walk.run("curl -s 'localhost:8000/poll/ticks?after=oldest'", '"data":"tick"')


@under("Hooks")
def hooks(walk: Walk) -> None:
    walk.python(
        "somebody waits for ('bob',)",
        "nobody waits for ('bob',) any more",
        "bob was told 'hi'",
        name="hooks.py",
    )
