"""GET /metrics over HTTP: what a server counts of what it does, and that it tells of nobody."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from wires import Stream, WebSocket

from cometd_lite.access.tokens import Tokens
from cometd_lite.limits import Limits


def scrape(server, headers=None):
    """Return the samples, without their common beginning; labels stand behind the name."""
    answer = server.get("/metrics", headers)
    assert answer.status == 200
    return {
        sample.name.removeprefix("cometd_lite_")
        + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def test_they_are_prometheus_text_that_no_cache_keeps(server):
    answer = server.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"


def test_they_are_openmetrics_where_that_is_asked_for(server):
    server.push("/bob")
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    answer = server.get("/metrics", {"Accept": accept})
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.headers["vary"] == "Accept, Origin"
    assert answer.body.endswith(b"# EOF\n")
    families = {family.name: family for family in openmetrics(answer.body.decode())}
    assert families["cometd_lite_pushes"].samples[0].value == 1


@pytest.mark.parametrize("accept", ["*/*", "text/plain", "application/openmetrics-text;q=0, text/plain"])
def test_they_are_prometheus_text_where_openmetrics_is_not_asked_for(server, accept):
    answer = server.get("/metrics", {"Accept": accept})
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_they_can_be_turned_off(serve):
    answer = serve(metrics=False).get("/metrics")
    assert (answer.status, answer.json["type"]) == (404, "urn:cometd-lite:problem:not-found")


def test_pushes_deliveries_and_takes_are_counted(server):
    server.push("?rcpt=bob&rcpt=alice")
    server.get("/poll/bob?after=oldest")
    server.get("/poll/bob?after=oldest")
    server.get("/poll/alice")
    found = scrape(server)
    assert found["pushes_total"] == 2
    assert found["deliveries_total"] == 3
    assert found["takes_total"] == 1
    assert (found["messages"], found["mailboxes"]) == (2, 2)
    assert found["memory_bytes"] > 10


def test_the_time_from_push_to_wake_is_counted_for_each_push(server):
    server.park("/poll/bob?after=now")
    server.push("/bob")
    server.push("/bob")
    assert scrape(server)["push_to_wake_seconds_count"] == 2


def test_gaps_are_counted(server):
    server.push("/bob")
    server.get("/poll/bob?after=0123456789-5")
    assert scrape(server)["gaps_total"] == 1


def test_who_waits_is_told_apart_by_how(server):
    server.park("/poll/bob")
    server.park("/poll/alice?after=now")
    stream = Stream(server, "/stream/bob")
    socket = WebSocket(server, "/ws/bob")
    server.ask("POST", "/register", b"{}")
    found = scrape(server)
    assert found["parked"] == 4
    assert (found["parked_polls"], found["streams"], found["sockets"]) == (2, 1, 1)
    assert (found["listeners"], found["bayeux_sessions"]) == (1, 0)
    stream.hang_up()
    socket.hang_up()
    found = scrape(server)
    assert (found["parked"], found["streams"], found["sockets"]) == (2, 0, 0)


def test_bayeux_sessions_are_counted(server):
    handshake = b'[{"channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["long-polling"]}]'
    server.ask("POST", "/cometd", handshake, {"Content-Type": "application/json"})
    assert scrape(server)["bayeux_sessions"] == 1
    server.comet.routes.bayeux.stop()


def test_what_is_held_stands_beside_its_bound(serve):
    found = scrape(serve(Limits(max_parked=7, max_recipients=8, max_memory=9_000)))
    assert (found["parked_max"], found["mailboxes_max"], found["memory_bytes_max"]) == (7, 8, 9_000)


@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [
        ("GET", "/poll/bob?after=x", "bad-cursor"),
        ("GET", "/poll/bob?wait=x", "bad-parameter"),
        ("GET", "/poll/..", "bad-recipient"),
        ("GET", "/nowhere", "not-found"),
        ("PATCH", "/poll/bob", "method-not-allowed"),
        ("POST", "/push/bob", "bad-body"),
        ("POST", "/push/bob?queue=no", "bad-body"),
        ("GET", "/listeners/x", "listener-gone"),
    ],
)
def test_refusals_are_counted_by_kind(server, method, target, kind):
    assert server.ask(method, target).json["type"].endswith(f":{kind}")
    assert scrape(server)[f"refusals_total[{kind}]"] == 1


def test_connections_are_shown_beside_their_bound_where_they_are_known(serve):
    server = serve(Limits(max_connections=9))
    assert "connections" not in scrape(server)
    server.comet.metrics.connections = lambda: 7
    found = scrape(server)
    assert (found["connections"], found["connections_max"]) == (7, 9)


def test_what_is_unsent_is_shown_where_it_is_counted(server):
    assert "unsent_bytes" not in scrape(server)
    server.comet.metrics.unsent = lambda: 7
    assert scrape(server)["unsent_bytes"] == 7


def test_what_is_kept_of_requests_is_shown_where_it_is_counted(server):
    assert "received_bytes" not in scrape(server)
    server.comet.metrics.received = lambda: 7
    assert scrape(server)["received_bytes"] == 7


def test_every_kind_of_refusal_is_there_before_its_first_one(server):
    found = scrape(server)
    for kind in ("mailbox-full", "server-full", "too-many-requests", "unauthorized", "request-timeout"):
        assert found[f"refusals_total[{kind}]"] == 0


def test_requests_are_counted_by_route_and_status(server):
    server.push("/bob")
    server.ask("POST", "/push?rcpt=bob", b"x" * 70_000)
    server.get("/poll/bob?after=oldest")
    parked = server.park("/poll/alice")
    parked.hang_up()
    server.get("/")
    server.get("/nowhere")
    found = scrape(server)
    assert found["requests_total[/push][202]"] == 1
    assert found["requests_total[/push][413]"] == 1
    assert found["requests_total[/poll][200]"] == 1
    assert found["requests_total[/poll][499]"] == 1
    assert found["requests_total[pages][200]"] == 1
    assert found["requests_total[none][404]"] == 1
    assert found["request_seconds_count[/push]"] == 2
    assert found["held_seconds_count[/poll]"] == 2


def test_the_time_for_which_a_poll_was_held_is_no_slowness(server):
    server.park("/poll/bob?wait=20")
    server.advance(20)
    found = scrape(server)
    assert found["held_seconds_count[/poll]"] == 1
    assert "request_seconds_count[/poll]" not in found


def test_labels_name_no_client(serve, tmp_path: Path):
    secret = b"a secret of at least thirty-two bytes"
    (tmp_path / "key").write_bytes(secret)
    server = serve()
    server.comet.routes.policy.tokens = Tokens([tmp_path / "key"], wall=server.comet.hub.wall)
    token = jwt.encode({"push": ["Bob-7"], "poll": ["Bob-7"], "sub": "Malory-7"}, secret, "HS256")
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "Key-7"}
    server.push("/Bob-7?event=Event-7", "Body-7", headers)
    server.get("/poll/Bob-7?after=oldest", headers)
    server.get("/poll/Eve-7?wait=0", headers)
    server.get("/Path-7", headers)
    shown = server.get("/metrics").body
    for private in (b"-7", token.encode(), b"127.0.0.1"):
        assert private not in shown
