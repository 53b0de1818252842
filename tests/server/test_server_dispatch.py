"""A path finds here the route that it finds in twisted.web: the same apps are asked the same over both."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some
from klein import Klein
from klein.interfaces import IKleinRequest
from served import Answer, App, Served, head
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site
from werkzeug.exceptions import HTTPException

from cometd_lite.server.router import Table


def in_twisted_web(app: Klein, data: bytes, prefix: bytes = b"") -> Answer:
    """Return what an app answers as a resource of twisted.web."""
    resource: Any = app.resource()
    for segment in reversed(prefix.split(b"/")[1:]):
        outer = Resource()
        outer.putChild(segment, resource)
        resource = outer
    clock = Clock()
    channel = Site(resource, timeout=None, reactor=clock).buildProtocol(None)
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(data)
    return Answer.read(transport.value(), bodyless=data.startswith(b"HEAD"))


def says(app: Klein) -> Klein:
    """Have an app's errors answered by the kind of error, as cometd_lite's are."""

    @app.handle_errors(HTTPException)
    def http_error(request: Any, failure: Failure) -> bytes:
        error: Any = failure.value
        request.setResponseCode(error.code)
        for name, value in (
            ("Allow", ", ".join(sorted(getattr(error, "valid_methods", None) or ()))),
            ("Location", getattr(error, "new_url", "")),
        ):
            if value:
                request.setHeader(name, value)
        return type(error).__name__.encode()

    return app


def app_of(*rules: Any, **words: Any) -> Klein:
    """Return an app of rules (paths, and methods where not all) that answers with what it was given."""
    app = says(Klein())
    for number, rule in enumerate(rules):
        path, *methods = rule.split(" ")

        def handler(request: Any, path: str = path, **params: Any) -> str:
            left = b"/".join(request.postpath).decode("latin-1")
            return f"{path} {params} {left} {len(request.prepath)}"

        app.route(path, methods=methods or None, endpoint=str(number), **words)(handler)
    return app


APPS = {
    "names": app_of("/", "/a", "/a/<x>", "/a/<x>/b", "/<x>/b", "/<x> POST", merge_slashes=False),
    "paths": app_of(
        "/p GET",
        "/p/<path:r> GET",
        "/q/<path:r> POST",
        "/q/<path:r> GET",
        "/q/<x>",
        "/a/b/<path:r> PUT",
        merge_slashes=False,
    ),
    "anything": app_of("/a GET", "/a/<x> GET", "/<path:r> GET", "/<path:r> POST", merge_slashes=False),
    "slashes": app_of("/d/", "/d/e GET", "/<x> GET", "/<path:r> POST", merge_slashes=False),
    "merged": app_of("/a/b GET", "/p/<path:r> GET", "/<x> POST"),
    "others": app_of("/<int:n> GET", "/<x> GET", "/p/<path:r>/end", "/x-<y>", merge_slashes=False),
    "lenient": app_of("/a", "/a/<x>", strict_slashes=False, merge_slashes=False),
}

segments = some.sampled_from(
    [
        "a",
        "b",
        "d",
        "e",
        "p",
        "q",
        "7",
        "x-1",
        "end",
        "",
        "",
        "%61",
        "a%2Fb",
        "%2F",
        "%C3%A4",
        "a%0Ab",
        "%0Ab",
    ]
)
paths = some.lists(segments, max_size=5).map(lambda parts: "/" + "/".join(parts))
methods = some.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get"])


@pytest.mark.parametrize("name", APPS)
@settings(max_examples=200)
@given(method=methods, path=paths, query=some.sampled_from(["", "", "?", "?a=/b&c"]))
@example(method="GET", path="/d", query="")
@example(method="POST", path="/d", query="")
@example(method="GET", path="/a/", query="")
@example(method="GET", path="//a//b", query="")
def test_a_path_finds_what_it_finds_in_twisted_web(name, method, path, query):
    app = APPS[name]
    data = head(method, path + query, "Content-Length: 0")
    there = in_twisted_web(app, data)
    served = Served(Only(app))
    here = served.ask(data, bodyless=method == "HEAD")
    assert (here.status, here.body) == (there.status, there.body)
    for field in (b"allow", b"location"):
        assert here.fields.get(field) == there.fields.get(field)


class Only:
    """What ``Served`` wants of an app."""

    def __init__(self, app: Klein) -> None:
        self.app = app


@pytest.mark.parametrize("name", APPS)
def test_most_apps_need_no_werkzeug(name):
    assert bool(Table(APPS[name])._root.fixed) == (name not in {"others", "lenient"})


def test_a_prefix_is_taken_off():
    app = APPS["names"]
    for path in ("/comet/a", "/comet/a/1", "/comet/1/b", "/comet/", "/comet/x/y/z", "/comet/a%2F1"):
        data = head("GET", path)
        here, there = Served(Only(app), prefix=b"/comet").ask(data), in_twisted_web(app, data, b"/comet")
        assert (here.status, here.body) == (there.status, there.body)


@pytest.mark.parametrize("path", ["/", "/a", "/comets/a", "/comeT/a", "/x/comet/a"])
def test_what_lies_outside_of_the_prefix_is_not_found(path):
    assert Served(Only(APPS["names"]), prefix=b"/comet/").ask(head("GET", path)).status == 404


def test_the_prefix_alone_is_led_to_its_slash():
    answer = Served(Only(APPS["names"]), prefix=b"/comet").ask(head("GET", "/comet"))
    assert (answer.status, answer.fields[b"location"][-7:]) == (308, b"/comet/")


def test_a_path_that_is_not_utf_8_is_a_bad_request():
    for path in ("/a/%FF", "/%C3", "/p/%E4"):
        assert Served(Only(APPS["names"])).ask(head("GET", path)).body == b"BadRequest"


def test_an_encoded_slash_is_a_slash():
    served = Served()
    served.send(head("GET", "/poll/chat%2Froom1"))
    served.lose()
    served.connect().send(head("GET", "/poll/chat/room1"))
    assert served.routes.calls == ["chat/room1"] * 2


def test_utf_8_may_come_as_it_is():
    served = Served()
    served.send(head("GET", "/poll/%C3%A4"))
    served.lose()
    served.connect().send("GET /poll/ä HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert served.routes.calls == ["ä"] * 2


def test_an_asterisk_is_the_root():
    assert Served(Only(app_of("/ OPTIONS"))).ask(head("OPTIONS", "*")).status == 200


def test_a_handlers_bound_is_found_through_what_wraps_it():
    table = Table(App().app)
    request: Any = None
    assert table.find(b"POST", b"/small", request)[0].bound == 10
    assert table.find(b"POST", b"/echo", request)[0].bound is None
    assert callable(table.find(b"POST", b"/asked", request)[0].bound)


def test_an_unbound_app_passes_no_instance():
    app = Klein()

    @app.route("/<x>")
    def handler(request: Any, x: str) -> str:
        return x

    assert Served(Only(app)).ask(head("GET", "/hello")).body == b"hello"


def test_a_branch_gets_what_is_left_of_its_path():
    app = Klein()

    @app.route("/branch", branch=True)
    def handler(request: Any) -> str:
        known = IKleinRequest(request)
        return "/".join(known.branch_segments) + " " + known.url_for("handler")

    for path in ("/branch", "/branch/a/b"):
        data = head("GET", path)
        assert Served(Only(app)).ask(data).body == in_twisted_web(app, data).body


def test_kleins_error_handlers_are_tried_in_their_order(expected_failures):
    expected_failures.append(KeyError)
    app = Klein()

    @app.route("/<name>")
    def handler(request: Any, name: str) -> str:
        raise {"key": KeyError, "value": ValueError, "type": TypeError}[name]

    @app.handle_errors(ValueError)
    def first(request: Any, failure: Failure) -> str:
        raise TypeError

    @app.handle_errors(TypeError, ValueError)
    async def second(request: Any, failure: Failure) -> str:
        request.setResponseCode(418)
        return type(failure.value).__name__

    for name, status, body in (("value", 418, b"TypeError"), ("type", 418, b"TypeError"), ("key", 500, None)):
        answer = Served(Only(app)).ask(head("GET", "/" + name))
        assert answer.status == status
        assert body in {None, answer.body}


def test_without_handlers_werkzeugs_own_pages_are_shown():
    app = Klein()
    app.route("/a", methods=["POST"])(lambda request: b"")
    for path in ("/a", "/b"):
        here, there = Served(Only(app)).ask(head("GET", path)), in_twisted_web(app, head("GET", path))
        assert (here.status, here.body) == (there.status, there.body)
        assert here.fields[b"content-type"] == there.fields[b"content-type"]
        assert here.fields.get(b"allow") == there.fields.get(b"allow")
