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
