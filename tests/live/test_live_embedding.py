"""The resource in somebody else's twisted.web site, over real sockets: what becomes of clients that leave."""

from __future__ import annotations

import pytest
from program import PATIENCE, Program, eventually

SITE = """
import sys
from twisted.internet import endpoints, reactor, task
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.web.resource import Resource
from twisted.web.server import Site
from cometd_lite import Comet

globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
comet = Comet()
comet.start()
root = Resource()
root.putChild(b"comet", comet.resource())
def stop():
    comet.stop()
    return task.deferLater(reactor, 0)  # a turn in which the answers leave

reactor.addSystemEventTrigger("before", "shutdown", stop)
endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Site(root))
reactor.run()
"""


@pytest.fixture
def site(tmp_path):
    program = Program(tmp_path, code=SITE)
    yield program
    program.stop()
    assert "Traceback" not in program.log.read_text()


def waiting(site):
    return site.get("/comet/recipients/bob").json["waiting"]


def park(site, target):
    before = waiting(site)
    connection = site.connect().request("GET", target)
    eventually(lambda: waiting(site) == before + 1)
    return connection


def test_a_site_serves_the_interface_under_its_own_path(site):
    poll = park(site, "/comet/poll/bob?after=now")
    assert site.ask("POST", "/comet/push/bob", "hello").status == 201
    assert poll.answer().data == ["hello"]
    assert site.get("/comet/poll/").json["status"] == 400
    assert site.get("/elsewhere").status == 404


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_site_forgets_who_leaves(site, leave):
    # twisted/twisted#8692, klein#546: notifyFinish is what tells of it, and it has been broken before.
    poll = park(site, "/comet/poll/bob?wait=100")
    getattr(poll, leave)()
    eventually(lambda: waiting(site) == 0)
    poll = park(site, "/comet/poll/bob?after=now")
    site.connect().request("POST", "/comet/push/bob", "hello").reset()
    assert poll.answer().data == ["hello"]


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_take_in_a_site_whose_client_left_unnoticed_leaves_its_message(site, leave):
    taker = park(site, "/comet/poll/bob?wait=100")
    pusher = site.connect()
    assert pusher.ask("GET", "/comet/healthz").status == 200
    with site.frozen():
        pusher.request("POST", "/comet/push/bob", "precious")
        getattr(taker, leave)()
    assert pusher.answer().json["delivered"] == 0
    assert site.get("/comet/poll/bob?wait=0").data == ["precious"]


def test_a_site_that_stops_has_answered_who_was_parked(site):
    polls = [park(site, "/comet/poll/bob?after=now"), park(site, "/comet/poll/bob?format=raw")]
    site.begin_stop()
    answers = [poll.answer() for poll in polls]
    assert [answer.status for answer in answers] == [200, 204]
    assert [answer.headers["connection"].lower() for answer in answers] == ["close", "close"]
    site.process.wait(PATIENCE)
