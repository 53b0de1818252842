"""Rules for the README, the quickstart and the recipes."""

from __future__ import annotations

import json
import re
import subprocess

from chromium import window
from fork_server import ROOT
from program import eventually
from rules import under
from walk import LISTEN, PAGES, SHELL, TWISTD_COMMAND, Walk, in_order
from websockets.sync.client import connect

from cometd_lite import errors
from cometd_lite.errors import CometError

# -- from the top


@under("README.md", "cometd-lite")
def the_request_that_is_held(walk: Walk) -> None:
    drawn = walk.next("text")
    polled, pushed = re.search(r"GET (\S+)", drawn), re.search(r"POST (\S+)", drawn)
    assert polled is not None
    assert pushed is not None
    walk.server()
    reader = walk.start(f"exec curl -si localhost:8080{polled[1]}")
    pushing = f"curl -sd hello 'localhost:8080{pushed[1]}?queue=no'"
    eventually(lambda: '"delivered":1' in walk.run(pushing), "the reader waits")
    reader.says("hello")
    in_order(reader.said, ("HTTP/1.1 200 OK", "hello"))
    assert "200 and the message" in drawn
    assert "201, one reader was woken" in drawn


@under("README.md", "Run it")
def run_it(walk: Walk) -> None:
    command = walk.next(SHELL)
    installed = "python3 -m venv .venv && .venv/bin/pip install -q . && "
    assert command == f"{installed}{TWISTD_COMMAND}\n", "the shortest there is; .ci/run installs"
    walk.server()
    walk.shell('"delivered":0', '"data":"hello"')
    stream = walk.start()
    stream.says("data: hello\n")
    walk.run("curl -s -d 'hello again' localhost:8080/push/bob", '"delivered":1')
    stream.says("data: hello again\n")


@under("README.md", "Test it")
def check_it(walk: Walk) -> None:
    command = walk.next(SHELL)
    found = re.search(r"^ +command=\$\((.*)\)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert found is not None
    taken = subprocess.run(["bash", "-c", found[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert taken.stdout == command, ".ci/run is to run exactly this"
    fast = walk.next(SHELL).rstrip()
    walk.run(f"{fast} -n0 -q --collect-only {ROOT}/tests/test_errors.py", "test_errors.py::")


@under("README.md", "A chat in 20 lines")
def chat(walk: Walk) -> None:
    page = walk.next("html")
    assert page.count("\n") == 20
    walk.write("chat.html", page)
    walk.serve(port="8000")
    walk.serve(walk.next(SHELL).rstrip() + f" --listen {LISTEN}")
    with window() as browser:
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


@under("docs/howto/recipes.md", "Notify a person, now or later")
def tell_someone(walk: Walk) -> None:
    walk.server()
    walk.shell("201 Created", '"delivered":1')
    walk.shell('"delivered":0', '"delivered":0', '"data":"one"', '"data":"two"')
    walk.shell("503 Service Unavailable", "Retry-After", "Nobody waits", "400 Bad Request", "recipient")
    walk.shell('"messages":[]', '"waiting":0')


@under("docs/howto/recipes.md", "A chat page that polls with `If-None-Match`")
def etags(walk: Walk) -> None:
    walk.serve(f"exec {TWISTD_COMMAND} --listen {LISTEN} --allow-origin http://localhost:8000")
    walk.shell("ETag: ")
    walk.shell("304 Not Modified", '"delivered":0', "200 OK", '{"from": "alice", "text": "hi"}')
    script = walk.next("js")
    walk.write(
        "page.html", f"<script type=module>const show = (said) => (document.title = said);{script}</script>"
    )
    walk.serve("exec python3 -m http.server 8000 --bind 127.0.0.1", port="8000")
    with window() as browser:
        page = browser.open(walk.here("http://localhost:8000/page.html"))
        for words in ("one", "two"):
            eventually(lambda: '"waiting":1' in walk.run("curl -s localhost:8080/recipients/room"))
            walk.run(f"curl -s -d {words} localhost:8080/push/room")
            page.until(f"document.title === '{words}'")


@under("docs/howto/recipes.md", "Nothing is missed between two polls")
def nothing_missed(walk: Walk) -> None:
    walk.server()
    said = walk.shell('"data":"first"', '"data":"second"', '"data":"first"', '"data":"second"')
    assert '"gap":true' not in said


@under("docs/howto/recipes.md", "A message list over JSON")
def message_list(walk: Walk) -> None:
    walk.serve(port="8081")
    walk.shell('"data":{"n": 1}', '"messages":[]', "413 ", "10000 bytes", "400 Bad Request")


@under("docs/howto/recipes.md", "Listeners, for clients that keep nothing")
def listeners(walk: Walk) -> None:
    walk.server()
    walk.shell('"data":"to the lobby"', '"data":"to all"', '"messages":[]')


# -- the quickstart

APPLICATION = "docs/howto/your-application.md"


@under(APPLICATION, "Your application decides")
def your_application_decides(walk: Walk) -> None:
    walk.program_that_serves("app.py")
    walk.serve(f"exec {walk.next(SHELL).strip()} --listen {LISTEN}")
    walk.shell("202 Accepted", "200 OK", "note to self", "403 Forbidden", "401 Unauthorized")


@under(APPLICATION, "What is asked")
def what_is_asked(walk: Walk) -> None:
    shown = json.loads(walk.next("json"))
    walk.write("prints.py", walk.here(PRINTS_WHAT_IT_IS_ASKED))
    printed = walk.serve("exec .venv/bin/python prints.py", port="8001")
    walk.server(walk.here("--authorize-url http://localhost:8001/"))
    walk.run("curl -s -b session=5d1f 'localhost:8080/poll/alice?wait=0'")
    asked = json.loads(printed.said)
    assert asked == shown | {"user_agent": asked["user_agent"]}


PRINTS_WHAT_IT_IS_ASKED = """
from http.server import BaseHTTPRequestHandler, HTTPServer


class Printer(BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


HTTPServer(("127.0.0.1", 8001), Printer).serve_forever()
"""

QUICKSTART = "docs/quickstart.md"


@under(QUICKSTART, "Start the server")
def start_the_server(walk: Walk) -> None:
    installed = walk.next(SHELL).strip()
    assert f"    {installed} && {TWISTD_COMMAND}\n" in PAGES["README.md"], "what the README says"
    assert walk.next(SHELL).strip() == TWISTD_COMMAND
    walk.server()
    walk.run("curl -s localhost:8080/", "<title>")


@under(QUICKSTART, "Push, then poll")
def push_then_poll(walk: Walk) -> None:
    walk.server()
    walk.shell("202 Accepted")
    answer = json.loads(walk.run(walk.next(SHELL).replace("curl", "curl -s")))
    shown = json.loads(walk.next("json"))
    for varying in ("id", "created_at"):
        shown["messages"][0][varying] = answer["messages"][0][varying]
    assert answer == shown | {"cursor": answer["cursor"]}
    assert answer["cursor"] == answer["messages"][0]["id"]


@under(QUICKSTART, "Poll, then push")
def poll_then_push(walk: Walk) -> None:
    walk.server()
    walk.shell("201 Created", '"delivered":1')


@under(QUICKSTART, "Go on from a cursor")
def go_on_from_a_cursor(walk: Walk) -> None:
    walk.server()
    walk.run("curl -s -d first localhost:8080/push/bob")
    said = walk.shell('"data":"dessert?"')
    assert "first" not in said


@under(QUICKSTART, "Read in a page")
def read_in_a_page(walk: Walk) -> None:
    walk.server()
    walk.run("curl -s -d first localhost:8080/push/bob")
    with window() as browser:
        page = browser.open(walk.here("http://localhost:8080/"))
        page.until("document.readyState === 'complete' && document.title")
        page.evaluate("globalThis.said = []; console.log = (words) => said.push(words)")
        page.evaluate(f"(async () => {{ {walk.next('js')} }})()")
        page.until("said.includes('first')")
        walk.run("curl -s -d second localhost:8080/push/bob")
        page.until("said.join() === 'first,second'")


@under(QUICKSTART, "Keep messages over a restart")
def keep_messages(walk: Walk) -> None:
    command = f"exec {walk.next(SHELL).strip()} --listen {LISTEN}"
    server = walk.serve(command)
    walk.run("curl -s -d 'still here' localhost:8080/push/bob", '"delivered":0')
    server.stop()
    walk.serve(command)
    walk.run("curl -s localhost:8080/poll/bob", '"data":"still here"')


# -- the HTTP reference

HTTP = "docs/http.md"


@under(HTTP, "Push")
def http_push(walk: Walk) -> None:
    walk.server()
    said = walk.shell("202 Accepted", "202 Accepted", '"recipients":["a","b"]', "202 Accepted")
    assert json.loads(said.splitlines()[-1]).keys() == {"id", "ids", "created_at", "delivered", "recipients"}
    walk.run("curl -s localhost:8080/poll/a", '"data":{"n": 1}', '"data":{"n": 2}')


@under(HTTP, "Poll")
def http_poll(walk: Walk) -> None:
    walk.server()
    walk.shell('"data":"one"', '"messages":[]', "Comet-Id: ", "one")
    shown = json.loads(walk.next("json"))
    push = (
        """-H 'Content-Type: application/json' -d '{"text": "hi"}' 'localhost:8080/push/bob?event=greeting'"""
    )
    walk.run(f"curl -s {push}")
    answer = json.loads(walk.run("curl -s localhost:8080/poll/bob"))
    for varying in ("id", "created_at"):
        shown["messages"][0][varying] = answer["messages"][0][varying]
    assert answer == shown | {"cursor": answer["cursor"]}


@under(HTTP, "Leases")
def http_leases(walk: Walk) -> None:
    walk.server()
    said = walk.shell('"state":"extended"', '"state":"done"')
    (settled,) = json.loads(said.splitlines()[-1])["leases"]
    (shown,) = json.loads(walk.next("json"))["leases"]
    assert settled.keys() == shown.keys()
    assert settled["state"] == shown["state"]
    assert len(settled["lease"]) == len(shown["lease"])


@under(HTTP, "Stream")
def http_stream(walk: Walk) -> None:
    walk.server()
    said = walk.shell()
    assert "event: greeting\ndata: hello\n" in said
    assert '"event":"greeting"' in said
    assert said.count('{"heartbeat":true') == 2


@under(HTTP, "WebSocket")
def http_websocket(walk: Walk) -> None:
    walk.server()
    with connect(f"ws://127.0.0.1:{walk.port('8080')}/ws/alice") as socket:
        frame = walk.next("json").strip()
        socket.send(frame)
        answers = [json.loads(socket.recv(10)), json.loads(socket.recv(10))]
    assert {answer.get("ref") for answer in answers} == {None, 7}
    (message,) = [answer for answer in answers if "ref" not in answer]
    (answer,) = [answer for answer in answers if "ref" in answer]
    assert message["data"] == json.loads(frame)["data"]
    assert message["event"] == "greeting"
    assert answer["receipt"]["delivered"] == 1


@under(HTTP, "Listeners")
def http_listeners(walk: Walk) -> None:
    walk.server()
    walk.shell('"data":"to the lobby"', '"recipients":["lobby","bob"]', "204 No Content")


@under(HTTP, "Presence")
def http_presence(walk: Walk) -> None:
    walk.server("--presence")
    said = walk.shell('"messages":[]', '"recipient":"chat/lobby"', "204 No Content", '"event":"join"')
    assert '"members":[{"name":"alice","since":"' in said
    assert '"event":"leave"' in said
    assert '"data":{"name":"alice","readers":1}' in said


@under(HTTP, "Recipients")
def http_recipients(walk: Walk) -> None:
    walk.server()
    said = walk.shell('"recipient":"erin"', "204 No Content", '{"recipients":[],"more":null}')
    described = PAGES[HTTP].partition("\n`GET` answers with ")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", described))
    line = next(line for line in said.splitlines() if line.startswith("{"))
    assert json.loads(line).keys() == named - {"null"}


@under(HTTP, "Errors")
def http_errors(walk: Walk) -> None:
    walk.server()
    said = walk.shell("400 Bad Request")
    assert json.loads(said.splitlines()[-1]) == json.loads(walk.next("json"))
    table = PAGES[HTTP].partition("\n## Errors\n")[2].partition("\n## ")[0].partition("\n|---|---|\n")[2]
    # The classes of this module: a Python client that is imported has kinds of its own.
    known = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, CometError)]
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+|\w+)`", table))
    assert not {error.kind for error in known} - named - {"unavailable"}
