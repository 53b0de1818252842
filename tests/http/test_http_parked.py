"""What is parked is a Deferred: polls, streams and connects, on both servers, and none is left behind."""

from __future__ import annotations

import gc
import re

import msgspec
import pytest
from exchanges import Server, WireDriver
from twisted.internet.defer import Deferred
from wires import Connection, Stream, leave

from cometd_lite.core.parked import ParkedReader
from cometd_lite.limits import Limits
from cometd_lite.routes.routing import klein

JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def everybody_leaves(serve):
    yield
    leave()


def parked_deferreds() -> int:
    return sum(isinstance(one, ParkedReader) and isinstance(one, Deferred) for one in gc.get_objects())


def connect(server: Server) -> bytes:
    """Shake hands and be connected; return the body of the connect that is held next."""
    shake = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    (reply,) = server.ask("POST", "/cometd", msgspec.json.encode([shake]), JSON).json
    again = {
        "channel": "/meta/connect",
        "clientId": reply["clientId"],
        "connectionType": "long-polling",
        "id": "1",
    }
    body = msgspec.json.encode([again])
    server.ask("POST", "/cometd", body, JSON)
    return body


def test_polls_streams_and_connects_that_wait_are_deferreds_and_none_is_left(serve):
    server = serve(Limits(max_parked=10_000))
    # The other client has one cookie jar, and a browser a bound on its sessions.
    count = 1_000 if isinstance(server.driver, WireDriver) else 90
    before = parked_deferreds()
    for number in range(count):
        Connection(server).request("GET", f"/poll/bob{number % 7}?after=now")
        Stream(server, f"/stream/bob{number % 7}")
        held = Connection(server)
        body = connect(server)
        held.send(
            b"POST /cometd HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
    connects = count if isinstance(server.driver, WireDriver) else 1
    assert server.parked == 2 * count + connects
    assert parked_deferreds() - before == server.parked
    leave()
    assert server.parked == 0
    gc.collect()
    assert parked_deferreds() == before


def test_both_servers_call_each_handler_of_kleins_map(server):
    rules = list(klein.url_map.iter_rules())
    assert rules
    for rule in rules:
        target = re.sub("<path:[a-z]+>", "bob", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            # A stream does not end, so that its head alone is asked for.
            asked = "HEAD" if target.startswith("/stream") else method
            answer = server.send(asked, f"{target}?wait=0", b"").answer
            assert answer is not None, (method, rule.rule)
            assert answer.status not in {405, 501}, (method, rule.rule, answer)
            assert b"begins at /push" not in answer.body, (method, rule.rule, answer)
            server.driver.flush()
