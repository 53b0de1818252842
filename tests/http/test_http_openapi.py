"""GET /openapi.json over HTTP, and a few answers held to what it says of them."""

from __future__ import annotations

import pytest

from cometd_lite.openapi import Interface


def test_the_interface_is_described(server):
    answer = server.get("/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Origin"
    assert answer.json == Interface(server.comet.limits).document()
    assert server.get("/openapi.json").body == answer.body


def test_it_can_be_turned_off(serve):
    server = serve(openapi=False)
    answer = server.get("/openapi.json")
    assert (answer.status, answer.json["type"]) == (404, "urn:cometd-lite:problem:not-found")


@pytest.mark.parametrize(
    ("method", "target"),
    [("POST", "/openapi.json"), ("GET", "/register"), ("PATCH", "/poll/bob"), ("DELETE", "/metrics")],
)
def test_a_wrong_method_is_told_those_that_are_described(server, method, target):
    answer = server.ask(method, target)
    path = target.replace("bob", "{recipient}")
    described = server.get("/openapi.json").json["paths"][path]
    assert answer.status == 405
    assert {name.lower() for name in answer.headers["allow"].split(", ")} == described.keys()


# -- what Schemathesis found


@pytest.mark.parametrize("seconds", ["1e-7", "5e-324", "1E1", "1.5e%2B1", "0.25"])
def test_seconds_are_numbers_as_json_writes_them(server, seconds):
    server.push(f"/bob?ttl={seconds}")
    assert server.send("GET", f"/poll/alice?after=now&wait={seconds}").answer is None
    server.advance(30)


@pytest.mark.parametrize(
    "seconds", ["1e", "e1", "1e1000", "-1", "-0.0", "0x1", "1_0", "inf", "nan", "1e400", " 1"]
)
def test_seconds_are_nothing_else(server, seconds):
    answer = server.get(f"/poll/bob?wait={seconds.replace(' ', '%20')}")
    assert (answer.status, answer.json["type"]) == (400, "urn:cometd-lite:problem:bad-parameter")
