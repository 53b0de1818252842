"""HTTP.md, "Requests": JSON is kept as it came, whatever transport it came or leaves by."""

from __future__ import annotations

import msgspec
import pytest
from wires import Stream, WebSocket, leave

from cometd_lite.limits import MESSAGE_DEPTH

JSON = {"Content-Type": "application/json"}
KEPT = [
    '{"n":123456789012345678901234567890,"n":1}',
    "[1e999,-0.0,1.00000000000000000001,1E+2]",
    "9" * 5_000,
    '"\\ud83d\\ude00\\/\\u0041"',
    "[" * MESSAGE_DEPTH + "]" * MESSAGE_DEPTH,
]


@pytest.fixture(autouse=True)
def everybody_leaves(serve):
    yield
    leave()


def session(server):
    """Return the id of a Bayeux session that has connected."""
    handshake = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
    (reply,) = server.ask("POST", "/cometd", msgspec.json.encode([handshake]), JSON).json
    connect = {"channel": "/meta/connect", "clientId": reply["clientId"], "connectionType": "long-polling"}
    server.ask("POST", "/cometd", msgspec.json.encode([connect]), JSON)
    return reply["clientId"]


def pushed(server, text):
    return server.ask("POST", "/push/bob", text, JSON).status


def pushed_as_a_line(server, text):
    return server.ask("POST", "/push/bob", f"{text}\n", {"Content-Type": "application/x-ndjson"}).status


def pushed_by_websocket(server, text):
    socket = WebSocket(server, "/ws/alice")
    socket.text(f'{{"push":"bob","data":{text},"ref":18446744073709551616}}')
    (answer,) = socket.texts
    assert answer["ref"] == 18446744073709551616
    return answer["error"]["status"] if "error" in answer else 202


def published(server, text):
    message = f'{{"channel":"/bob","clientId":"{session(server)}","data":{text}}}'
    (reply,) = server.ask("POST", "/cometd", f"[{message}]", JSON).json
    return 202 if reply["successful"] else int(reply["error"][:3])


def published_by_websocket(server, text):
    socket = WebSocket(server, "/cometd")
    socket.text(f'[{{"channel":"/bob","clientId":"{session(server)}","data":{text}}}]')
    ((reply,),) = socket.texts
    return 202 if reply["successful"] else int(reply["error"][:3])


def published_by_script(server, text):
    message = f'{{"channel":"/bob","clientId":"{session(server)}","data":{text}}}'
    body = server.get(f"/cometd?jsonp=cb&message={message}").body
    return 202 if b'"successful":true' in body else int(body.partition(b'"error":"')[2][:3])


WAYS = [pushed, pushed_as_a_line, pushed_by_websocket, published, published_by_websocket]


def read_everywhere(server, act):
    """Let ``act`` push to bob while he reads in every way there is; return what each way told him."""
    client = session(server)
    subscribe = {"channel": "/meta/subscribe", "clientId": client, "subscription": "/bob"}
    server.ask("POST", "/cometd", msgspec.json.encode([subscribe]), JSON)
    socket = WebSocket(server, "/ws/bob")
    before = len(socket.bytes)
    events = Stream(server, "/stream/bob")
    lines = Stream(server, "/stream/bob", {"Accept": "application/x-ndjson"})
    act()
    server.driver.flush()
    poll = server.get("/poll/bob?after=oldest&wait=0").body
    connect = {"channel": "/meta/connect", "clientId": client, "connectionType": "long-polling"}
    bayeux = server.ask("POST", "/cometd", msgspec.json.encode([connect]), JSON).body
    (event,) = events.data
    return {
        "poll": poll.partition(b'"data":')[2].rpartition(b'}],"cursor"')[0],
        "raw": server.get("/poll/bob?after=oldest&wait=0&format=raw").body,
        "events": event.encode(),
        "lines": lines.body.partition(b'"data":')[2].rpartition(b"}")[0],
        "socket": socket.bytes[before:].partition(b'"data":')[2].rpartition(b"}")[0],
        "bayeux": bayeux.partition(b'"data":')[2].rpartition(b'},{"channel":"/meta/connect"')[0],
    }


@pytest.mark.parametrize(
    ("way", "text"),
    # A string that is pushed over a WebSocket is a text, and not JSON.
    [(way, text) for way in WAYS for text in KEPT if way is not pushed_by_websocket or text[0] != '"'],
)
def test_json_reaches_every_reader_as_it_came(server, way, text):
    told = read_everywhere(server, lambda: way(server, text))
    assert told == dict.fromkeys(told, text.encode())


@pytest.mark.parametrize("way", WAYS)
def test_half_a_surrogate_becomes_the_replacement_character(server, way):
    told = read_everywhere(server, lambda: way(server, r'["\ud83d","\\ud83d\udc00"]'))
    assert told == dict.fromkeys(told, rb'["\ufffd","\\ud83d\ufffd"]')


@pytest.mark.parametrize("way", [*WAYS, published_by_script])
def test_what_is_nested_too_deeply_is_refused_alone(server, way):
    assert way(server, "[" * (MESSAGE_DEPTH + 1) + "]" * (MESSAGE_DEPTH + 1)) == 400
    assert server.get("/recipients/bob").json["queued"] == 0


@pytest.mark.parametrize("way", WAYS)
def test_numbers_of_any_size_are_accepted(server, way):
    assert way(server, "1e999") in {201, 202}
