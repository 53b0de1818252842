"""The router: which paths match which rules, and what answers those that match none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from served import TEXT, App, Reply, Rule, Served, head


def shown(rule: str) -> Any:
    def show(request: Any, name: str | None = None) -> None:
        request.respond(Reply(200, TEXT, f"{rule} {name!r}".encode()))

    return show


def app(*rules: str) -> App:
    """Return an application of rules and methods, which answers with the rule and the name."""
    routes = [rule.split(" ") for rule in rules]
    return App(*[Rule(path, tuple(methods), shown(path)) for path, *methods in routes])


APP = app(
    "/ GET",
    "/metrics GET",
    "/cometd POST",
    "/cometd/ POST",
    "/cometd/<path:kind> POST",
    "/poll GET",
    "/poll/<path:name> GET",
    "/recipients/<path:name> GET",
    "/recipients/<path:name> DELETE",
)


def ask(method: str, path: str, prefix: bytes = b"") -> tuple[int, str]:
    answer = Served(APP, prefix=prefix).ask(head(method, path), bodyless=method == "HEAD")
    return answer.status, answer.body.decode()


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/", "/ None"),
        ("GET", "/?a=/b", "/ None"),
        ("GET", "/metrics", "/metrics None"),
        ("POST", "/cometd", "/cometd None"),
        ("POST", "/cometd/", "/cometd/ None"),
        ("POST", "/cometd/connect", "/cometd/<path:kind> 'connect'"),
        ("GET", "/poll/bob", "/poll/<path:name> 'bob'"),
        ("GET", "/poll/chat/room1", "/poll/<path:name> 'chat/room1'"),
        ("GET", "/poll/chat%2Froom1", "/poll/<path:name> 'chat/room1'"),
        ("GET", "/poll/%C3%A4", "/poll/<path:name> 'ä'"),
        ("GET", "/poll/%zz", "/poll/<path:name> '%zz'"),
        ("GET", "/poll/", "/poll/<path:name> ''"),
        ("GET", "/poll//a//", "/poll/<path:name> '/a//'"),
        ("GET", "/poll/a%0Ab", r"/poll/<path:name> 'a\nb'"),
        ("DELETE", "/recipients/bob", "/recipients/<path:name> 'bob'"),
    ],
)
def test_a_path_finds_its_route_and_its_name(method, path, found):
    assert ask(method, path) == (200, found)


def test_a_name_may_come_as_utf_8():
    assert Served(APP).ask("GET /poll/ä HTTP/1.1\r\nHost: x\r\n\r\n".encode()).body.endswith(b"'\xc3\xa4'")


@pytest.mark.parametrize(
    "path",
    [
        "//metrics",
        "/%2Fmetrics",
        "/metric%73",
        "/metrics/",
        "/poll%2Fbob",
        "//poll/bob",
        "/pol",
        "/polls/bob",
        "/POLL/bob",
        "/%FF",
        "/%FF/%FF",
        "/nowhere/%00",
        "/metrics/x",
        "/recipients",
    ],
)
def test_fixed_segments_are_matched_as_they_were_sent(path):
    assert ask("GET", path) == (404, "NotFound")


@pytest.mark.parametrize("method", ["POST", "get", "Get", "BREW"])
def test_another_method_is_not_allowed_and_told_which_ones_are(method):
    answer = Served(APP).ask(head(method, "/poll/bob"))
    assert (answer.status, answer.fields[b"allow"]) == (405, b"GET, HEAD")
    answer = Served(APP).ask(head("PUT", "/recipients/bob"))
    assert (answer.status, answer.fields[b"allow"]) == (405, b"DELETE, GET, HEAD")
    assert ask(method, "/nowhere") == (404, "NotFound")


def test_options_is_answered_by_the_application_everywhere():
    answer = Served(APP).ask(head("OPTIONS", "/poll/bob"))
    assert (answer.status, answer.fields[b"allow"]) == (204, b"GET, HEAD")
    for path in ("/nowhere", "*", "/%FF"):
        answer = Served(APP).ask(head("OPTIONS", path))
        assert (answer.status, b"allow" in answer.fields) == (204, False)


def test_an_asterisk_is_a_target_of_options_only():
    assert ask("GET", "*")[0] == 400


def test_a_head_is_a_get_without_a_body():
    assert ask("HEAD", "/poll/bob") == (200, "")
    assert ask("HEAD", "/cometd") == (405, "")


@pytest.mark.parametrize("path", ["/poll/%FF", "/poll/a/%C3", "/recipients/%E4"])
def test_a_name_that_is_not_utf_8_is_a_bad_request_and_the_connection_lives_on(path):
    served = Served(APP)
    for method in ("GET", "HEAD"):
        answer = served.ask(head(method, path), bodyless=method == "HEAD")
        assert (answer.status, answer.rest, b"connection" in answer.fields) == (400, b"", False)
    assert served.ask(head("GET", "/metrics")).status == 200


def test_the_prefix_is_matched_as_it_was_sent():
    assert ask("GET", "/comet/poll/bob", b"/comet/") == (200, "/poll/<path:name> 'bob'")
    assert ask("GET", "/a/b/", b"/a/b") == (200, "/ None")
    for path in ("/poll/bob", "/", "/comet", "/comets/poll/bob", "/comeT/metrics", "/comet//metrics", "*"):
        assert ask("GET", path, b"/comet")[0] in {404, 400}


@pytest.mark.parametrize(
    "rule", ["", "poll", "/<path:name>", "/a/<x>", "/a/<path:name>/b", "/a/b/<path:name>"]
)
def test_other_rules_are_refused(rule):
    with pytest.raises(ValueError, match="path"):
        Served(app(f"{rule} GET"))


segments = some.sampled_from(["poll", "metrics", "a", "", "%2F", "%70oll", "%C3%A4", "%FF", "%", "%0A", "ä"])
paths = some.lists(segments, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(
    some.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "get"]), paths, some.sampled_from(["", "?", "?a=b"])
)
def test_a_line_has_the_same_answer_however_often_it_comes(method, path, query):
    served = Served(APP)
    data = f"{method} {path}{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    answers = [served.ask(data, bodyless=method == "HEAD") for _ in range(4)]
    assert [answer.status for answer in answers] == [answers[0].status] * 4
    assert [answer.body for answer in answers] == [answers[0].body] * 4
    assert answers[0].status in {200, 204, 400, 404, 405}
