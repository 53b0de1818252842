"""The document of /openapi.json: whole, true to the routes, and true to HTTP.md's tables."""

from __future__ import annotations

import importlib
import re
from typing import Any

import msgspec
import pytest
from tools import needs_package
from twisted.internet.task import Clock

from cometd_lite import errors
from cometd_lite.comet import Comet
from cometd_lite.errors import CometError, MethodNotAllowed, problem_type
from cometd_lite.limits import Limits
from cometd_lite.openapi import Interface
from cometd_lite.pages import pages
from cometd_lite.routes.admin import interface
from cometd_lite.routes.app import Routes

DOCUMENT = Interface(Limits(), tokens=True, presence=True).document()
OPERATIONS = [
    (method, path) for path, item in DOCUMENT["paths"].items() for method in item if method != "options"
]

GUARDED = {"push", "poll", "ack", "stream", "ws", "register", "listeners", "presence", "recipients"}
"""The first segments of the paths that ask for a token."""


def resolved(part: Any) -> Any:
    """Return a part of the document with what it refers to."""
    while isinstance(part, dict) and "$ref" in part:
        found: Any = DOCUMENT
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method]
    return found


def parameters(method: str, path: str) -> dict[str, dict[str, Any]]:
    """Return an operation's parameters by name."""
    given = map(resolved, operation(method, path).get("parameters", []))
    return {parameter["name"]: parameter for parameter in given}


def response(method: str, path: str, status: int) -> dict[str, Any]:
    found: dict[str, Any] = resolved(operation(method, path)["responses"][str(status)])
    return found


def required_headers(method: str, path: str, status: int) -> set[str]:
    headers = response(method, path, status)["headers"]
    return {name for name, header in headers.items() if resolved(header).get("required")}


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*map(references, part.values()))
    return set().union(*map(references, part)) if isinstance(part, list) else set()


def anonymous(path: str) -> str:
    return re.sub(r"\{\w+\}|<(?:path:)?\w+>", "{}", path)


# -- the document


@pytest.mark.slow
def test_it_is_openapi_3_1_whatever_is_turned_on() -> None:
    needs_package("openapi_spec_validator")
    validate = importlib.import_module("openapi_spec_validator").validate
    off = {"console": False, "metrics": False, "bayeux": False}
    validated: list[Any] = []
    for words in ({"tokens": True, "presence": True}, {}, off):
        document = Interface(Limits(), **words).document()
        # A path that is the same in each need not be validated anew, which takes long.
        new = {path: item for path, item in document["paths"].items() if (path, item) not in validated}
        validate({**document, "paths": new})
        validated += new.items()


def test_everything_that_it_refers_to_is_there_and_nothing_is_there_in_vain() -> None:
    used = references(DOCUMENT)
    for part in used:
        resolved({"$ref": part})
    for kind in ("schemas", "parameters", "responses"):
        there = {f"#/components/{kind}/{name}" for name in DOCUMENT["components"][kind]}
        unused = there - used
        # A fault of the server's own is no answer that a client is to expect.
        assert unused <= {"#/components/responses/Problem500"}, unused


def test_every_route_and_method_is_in_it_and_nothing_else() -> None:
    routed = {
        (anonymous(rule.rule), method.lower())
        for rule in Routes.app.url_map.iter_rules()
        for method in rule.methods
    }
    described = {(anonymous(path), method) for method, path in OPERATIONS}
    assert described == routed


def test_options_is_answered_at_every_path() -> None:
    for path in DOCUMENT["paths"]:
        assert "204" in operation("options", path)["responses"]


def test_every_path_names_its_parameters() -> None:
    for method, path in OPERATIONS:
        named = {name for name, parameter in parameters(method, path).items() if parameter["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path)), (method, path)


def test_no_two_operations_have_one_id_and_every_link_leads_to_one() -> None:
    ids = [
        operation["operationId"]
        for item in DOCUMENT["paths"].values()
        for operation in item.values()
        if "operationId" in operation
    ]
    assert len(ids) == len(set(ids))
    linked = set(re.findall(rb'"operationId":"(\w+)","parameters":\{', msgspec.json.encode(DOCUMENT)))
    assert linked <= {name.encode() for name in ids}


# -- what is turned on


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        ({"metrics": False}, {"/metrics"}),
        ({"bayeux": False}, {"/cometd", "/cometd/", "/cometd/{kind}"}),
        ({"presence": False}, {"/presence/{recipient}"}),
    ],
)
def test_what_is_turned_off_is_not_in_it(words: dict[str, bool], gone: set[str]) -> None:
    left = Interface(Limits(), **{"presence": True, **words}).document()["paths"].keys()
    assert DOCUMENT["paths"].keys() - left == gone


def test_without_the_console_only_the_browser_client_is_left_of_the_pages() -> None:
    left = Interface(Limits(), console=False).document()["paths"].keys()
    assert "/client.js" in left
    assert left.isdisjoint({"/", "/console.js", "/console.css"})


def test_without_keys_no_token_is_asked_for() -> None:
    document = Interface(Limits()).document()
    assert "securitySchemes" not in document["components"]
    for item in document["paths"].values():
        for operation in item.values():
            assert "security" not in operation
            assert "401" not in operation["responses"]


def test_with_keys_every_door_asks_for_a_token() -> None:
    for method, path in OPERATIONS:
        guarded = path.split("/")[1] in GUARDED
        assert ("security" in operation(method, path)) == guarded, (method, path)
        if guarded:
            assert {"401", "403"} <= operation(method, path)["responses"].keys()


def test_a_program_that_judges_itself_may_refuse_anyone() -> None:
    document = Interface(Limits(), judged=True).document()
    assert "403" in document["paths"]["/stream/{recipient}"]["get"]["responses"]


def test_the_bounds_are_those_of_the_server() -> None:
    paths = Interface(Limits(max_wait=7.0, max_body=99)).document()
    assert paths["components"]["parameters"]["wait"]["schema"]["maximum"] == 7.0
    body = paths["paths"]["/push"]["post"]["requestBody"]
    assert body["content"]["text/plain"]["schema"]["maxLength"] == 99
    assert "99 bytes" in body["description"]


def test_where_it_lies_is_where_its_paths_begin() -> None:
    assert Interface(Limits()).document("/comet")["servers"] == [{"url": "/comet"}]
    assert DOCUMENT["servers"] == [{"url": "/"}]


def test_an_embedded_comet_describes_what_it_was_given() -> None:
    comet = Comet(limits=Limits(max_wait=3.0), bayeux=None, metrics=False, clock=Clock())
    assert interface(comet.routes) == Interface(Limits(max_wait=3.0), metrics=False, bayeux=False)


# -- HTTP.md's tables


@pytest.mark.parametrize("path", ["/push", "/push/{recipient}"])
def test_a_push_has_the_words_and_answers_of_http_md(path: str) -> None:
    words = {"event", "ttl", "queue", "overflow", "Idempotency-Key"}
    words |= {"recipient"} if "{" in path else {"rcpt", "to"}
    assert parameters("post", path).keys() == words
    statuses = {"201", "202", "400", "401", "403", "413", "415", "421", "422", "429", "503"}
    assert statuses <= operation("post", path)["responses"].keys()
    assert parameters("post", path)["overflow"]["schema"]["enum"] == ["reject", "drop-oldest"]


@pytest.mark.parametrize("path", ["/poll", "/poll/{recipient}"])
def test_a_poll_has_the_words_and_answers_of_http_md(path: str) -> None:
    words = {"after", "If-None-Match", "Last-Event-ID", "wait", "Prefer", "limit", "format", "ack", "as"}
    words |= {"lease"}
    words |= {"recipient"} if "{" in path else {"rcpt", "listener"}
    assert parameters("get", path).keys() == words
    assert {"200", "204", "304", "400", "503"} <= operation("get", path)["responses"].keys()
    assert parameters("get", path)["wait"]["schema"]["maximum"] == 120
    assert parameters("get", path)["wait"]["schema"]["default"] == 25
    assert parameters("get", path)["limit"]["schema"]["maximum"] == 1_000


def test_an_ack_has_the_words_and_answers_of_http_md() -> None:
    assert parameters("post", "/ack/{recipient}").keys() == {"recipient", "lease", "extend", "release"}
    assert {"200", "400", "401", "403", "410"} <= operation("post", "/ack/{recipient}")["responses"].keys()
    states = DOCUMENT["components"]["schemas"]["Settled"]["properties"]["leases"]["items"]
    assert states["properties"]["state"]["enum"] == ["done", "extended", "released", "gone"]


@pytest.mark.parametrize("status", [200, 204, 304])
def test_every_end_of_a_poll_has_its_cursor(status: int) -> None:
    always = {"Cache-Control", "Vary", "Comet-Cursor", "ETag"}
    assert required_headers("get", "/poll/{recipient}", status) == always
    sometimes = response("get", "/poll/{recipient}", status)["headers"].keys()
    assert {"Comet-Gap", "Preference-Applied", "Access-Control-Allow-Origin"} <= sometimes


def test_a_raw_message_may_be_of_any_type_and_says_where_it_comes_from() -> None:
    answer = response("get", "/poll/{recipient}", 200)
    assert answer["content"].keys() == {"application/json", "*/*"}
    raw = {"Comet-Id", "Comet-Recipient", "Comet-Created-At", "X-Content-Type-Options"}
    assert raw | {"Content-Security-Policy"} <= answer["headers"].keys()


@pytest.mark.parametrize("path", ["/stream/{recipient}", "/stream"])
def test_a_stream_is_sse_or_ndjson_and_is_not_buffered(path: str) -> None:
    answer = response("get", path, 200)
    assert answer["content"].keys() == {"text/event-stream", "application/x-ndjson"}
    assert "X-Accel-Buffering" in required_headers("get", path, 200)
    words = {"after", "ack", "as", "lastEventId", "Last-Event-ID", "If-None-Match"}
    assert words <= parameters("get", path).keys()


def test_listeners_have_the_answers_of_http_md() -> None:
    assert "Location" in required_headers("post", "/register", 201)
    assert resolved(DOCUMENT["components"]["schemas"]["Listener"])["required"] == [
        "id",
        "recipients",
        "expires_in",
        "cursor",
    ]
    for method, status in (("get", "200"), ("put", "200"), ("delete", "204")):
        assert {status, "410"} <= operation(method, "/listeners/{id}")["responses"].keys()
    assert "410" in operation("get", "/poll")["responses"]


def test_a_recipients_standing_has_every_word_of_http_md() -> None:
    standing = DOCUMENT["components"]["schemas"]["Standing"]["required"]
    words = "recipient waiting queued bytes leased oldest newest last_seen online"
    assert standing == words.split()


def test_presence_has_the_words_and_answers_of_http_md() -> None:
    present = DOCUMENT["components"]["schemas"]["Present"]
    assert present["required"] == ["recipient", "readers", "members"]
    assert present["properties"]["members"]["items"]["required"] == ["name", "since", "readers"]
    assert "Comet-Cursor" in required_headers("get", "/presence/{recipient}", 200)
    assert parameters("delete", "/presence/{recipient}").keys() == {"recipient", "as"}


def test_whatever_is_asked_may_be_refused_by_method_or_host_or_for_now() -> None:
    for path, item in DOCUMENT["paths"].items():
        for method in item:
            assert {"400", "405", "421", "429", "503"} <= operation(method, path)["responses"].keys()


def test_what_changes_something_is_refused_to_foreign_pages_and_what_has_a_body_has_its_bound() -> None:
    for method, path in OPERATIONS:
        responses = operation(method, path)["responses"].keys()
        if method in {"post", "put", "delete"}:
            assert "403" in responses, (method, path)
        if method in {"post", "put"}:
            assert "413" in responses, (method, path)
            assert ("requestBody" in operation(method, path)) == (path != "/ack/{recipient}")


# -- problems


def every_error(of: type[CometError] = CometError) -> list[type[CometError]]:
    kinds = [kind for kind in of.__subclasses__() if kind.__module__ == CometError.__module__]
    return [error for kind in kinds for error in (kind, *every_error(kind))]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_every_kind_of_error_is_in_it_under_its_status(error: type[CometError]) -> None:
    made = error("A sentence.", ("GET",)) if issubclass(error, MethodNotAllowed) else error("A sentence.")
    problem = made.problem()
    schema = DOCUMENT["components"]["schemas"][f"Problem{error.status}"]
    assert problem["type"] in schema["properties"]["type"]["enum"]
    assert schema["properties"]["status"]["const"] == problem["status"]
    assert sorted(problem) == sorted(schema["required"])


def test_what_is_wrong_below_the_routes_is_in_it_too() -> None:
    comet = Comet(clock=Clock())
    for status in errors.MALFORMED:
        kind = msgspec.json.decode(comet.routes.malformed(status, "A sentence.", b"/poll/bob")[1])["type"]
        assert kind in DOCUMENT["components"]["schemas"][f"Problem{status}"]["properties"]["type"]["enum"]


def test_no_kind_is_in_it_that_there_is_not() -> None:
    there = {problem_type(error.kind) for error in every_error()}
    there |= {problem_type(errors.kind_of(title)) for title in errors.MALFORMED.values()}
    schemas = DOCUMENT["components"]["schemas"]
    named = {name for name in schemas if re.fullmatch(r"Problem\d{3}", name)}
    assert {kind for name in named for kind in schemas[name]["properties"]["type"]["enum"]} == there


def test_problems_say_what_to_do() -> None:
    # binwiederhier/ntfy#1173: a 429 without Retry-After makes clients hammer.
    needed = {"401": "WWW-Authenticate", "405": "Allow", "429": "Retry-After", "503": "Retry-After"}
    for method, path in OPERATIONS:
        for status, header in needed.items():
            if status in operation(method, path)["responses"]:
                assert header in required_headers(method, path, int(status)), (method, path, status)


def test_the_headers_of_a_page_stand_in_the_order_in_which_they_are_sent() -> None:
    shown = Interface(Limits()).document()["paths"]["/client.js"]["get"]["responses"]["200"]["headers"]
    sent = pages()["client.js"].headers
    own = [name for name in sent if name not in {"Content-Type", "Cache-Control", "ETag"}]
    assert [name for name in shown if name in own] == own
