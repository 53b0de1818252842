"""HTTP.md, "Keys": what a removed key had let in ends within moments, and what the others let in does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from exchanges import Server
from jwt.utils import base64url_encode
from twisted.internet.defer import Deferred
from wires import Stream, WebSocket, leave

from cometd_lite.access.tokens import Tokens
from cometd_lite.bayeux import BayeuxOptions
from cometd_lite.limits import REVOKED_SECONDS

KEPT = b"a secret that is kept, of thirty-two bytes"
REMOVED = b"a secret that is removed, of thirty-two bytes"
CONNECT = {"channel": "/meta/connect", "connectionType": "long-polling", "id": "9"}
HANDSHAKE = {
    "channel": "/meta/handshake",
    "version": "1.0",
    "supportedConnectionTypes": ["long-polling", "websocket"],
    "id": "1",
}


@pytest.fixture(autouse=True)
def everybody_leaves(serve: Any) -> Iterator[None]:
    yield
    leave()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return the file with both keys."""
    return written(tmp_path / "keys", kept=KEPT, removed=REMOVED)


def written(file: Path, **secrets: bytes) -> Path:
    keys = [{"kty": "oct", "kid": kid, "k": base64url_encode(key).decode()} for kid, key in secrets.items()]
    file.write_bytes(msgspec.json.encode({"keys": keys}))
    return file


@pytest.fixture
def server(serve: Any, keys: Path) -> Server:
    """Return a server that takes the tokens of both keys."""
    made: Server = serve(tokens=Tokens([keys]), bayeux=BayeuxOptions(held_for_a_browser=2))
    return made


def bearer(key: bytes, **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {jwt.encode({'push': ['**'], 'poll': ['**'], **claims}, key, 'HS256')}"}


def remove(server: Server, keys: Path, **secrets: bytes) -> None:
    """Remove a key, as an operator does by SIGHUP, and let pass the time in which all it let in has ended."""
    written(keys, **(secrets or {"kept": KEPT}))
    server.comet.routes.policy.tokens.reload()
    pass_by(server)


def say(server: Server, key: bytes, *messages: Any) -> Any:
    headers = {"Content-Type": "application/json", **bearer(key)}
    return server.send("POST", "/cometd", msgspec.json.encode(messages), headers)


def connected(server: Server, key: bytes) -> str:
    """Return a Bayeux session that has subscribed to /bob and was connected."""
    (reply,) = say(server, key, HANDSHAKE).answer.json
    client_id: str = reply["clientId"]
    say(server, key, {**CONNECT, "clientId": client_id})
    say(server, key, {"channel": "/meta/subscribe", "clientId": client_id, "subscription": "/bob"})
    return client_id


def hear(socket: WebSocket, *messages: Any) -> list[Any]:
    """Say something, and return the messages that come at once."""
    before = len(socket.texts)
    socket.text(msgspec.json.encode(messages))
    return [message for text in socket.texts[before:] for message in text]


def pass_by(server: Server) -> None:
    """Let the time pass in which all that a removed key has let in ends."""
    for _ in range(int(REVOKED_SECONDS * 10)):
        server.advance(0.1)


def test_a_parked_poll_ends_as_when_its_token_expires(server: Server, keys: Path) -> None:
    polls = [server.park("/poll/bob?after=now&wait=60", bearer(key)) for key in (REMOVED, KEPT)]
    remove(server, keys)
    assert (polls[0].answer.status, polls[0].answer.json["messages"]) == (200, [])
    assert polls[1].answer is None
    assert server.get("/poll/bob?after=now&wait=60", bearer(REMOVED)).status == 401


def test_a_parked_take_ends_and_takes_nothing_after(server: Server, keys: Path) -> None:
    poll = server.park("/poll/bob?wait=60", bearer(REMOVED))
    remove(server, keys)
    assert poll.answer.json["messages"] == []
    assert server.push("/bob", headers=bearer(KEPT)).json["delivered"] == 0


def test_the_poll_of_a_listener_ends(server: Server, keys: Path) -> None:
    made = server.send("POST", "/register", b'{"recipients": ["bob"]}', bearer(REMOVED)).answer
    poll = server.park(f"/poll?listener={made.json['id']}&wait=60", bearer(REMOVED))
    remove(server, keys)
    assert poll.answer.json["messages"] == []


def test_a_stream_ends(server: Server, keys: Path) -> None:
    removed, kept = [Stream(server, "/stream/bob", bearer(key)) for key in (REMOVED, KEPT)]
    remove(server, keys)
    server.push("/bob", "later", headers=bearer(KEPT))
    removed.turn()
    kept.turn()
    assert removed.data == []
    assert removed.ended
    assert kept.data == ["later"]
    assert not kept.ended


def test_a_socket_is_closed(server: Server, keys: Path) -> None:
    removed, kept = [WebSocket(server, "/ws/bob", bearer(key)) for key in (REMOVED, KEPT)]
    remove(server, keys)
    server.push("/bob", "later", headers=bearer(KEPT))
    removed.turn()
    kept.turn()
    assert removed.data == []
    assert removed.goodbye == (1008, "reading is refused now: 401 unauthorized")
    assert kept.data == ["later"]


def test_a_held_bayeux_connect_ends(server: Server, keys: Path) -> None:
    sessions = [connected(server, key) for key in (REMOVED, KEPT)]
    held = [
        say(server, key, {**CONNECT, "clientId": session})
        for key, session in zip((REMOVED, KEPT), sessions, strict=True)
    ]
    assert [connect.answer for connect in held] == [None, None]
    remove(server, keys)
    assert held[0].answer.json == [{"channel": "/meta/connect", "successful": True, "id": "9"}]
    assert held[1].answer is None
    (reply,) = say(server, REMOVED, {**CONNECT, "clientId": sessions[0]}).answer.json
    assert (reply["successful"], reply["error"]) == (False, "401::unauthorized")


def test_a_bayeux_socket_is_told_to_shake_hands_and_is_told_no_more(server: Server, keys: Path) -> None:
    def spoken(key: bytes) -> WebSocket:
        socket = WebSocket(server, "/cometd", bearer(key))
        (reply,) = hear(socket, HANDSHAKE)
        client_id = reply["clientId"]
        hear(socket, {**CONNECT, "clientId": client_id})
        hear(socket, {"channel": "/meta/subscribe", "clientId": client_id, "subscription": "/bob"})
        hear(socket, {**CONNECT, "clientId": client_id})
        return socket

    removed, kept = [spoken(key) for key in (REMOVED, KEPT)]
    remove(server, keys)
    server.push("/bob", "later", headers=bearer(KEPT))
    reply = removed.texts[-1][0]
    assert (reply["successful"], reply["advice"]["reconnect"]) == (False, "handshake")
    assert reply["error"].startswith("401:")
    assert kept.texts[-1] == [{"channel": "/bob", "data": "later"}]
    assert removed.goodbye is None


def test_a_key_of_the_same_material_is_the_same_key(server: Server, keys: Path) -> None:
    stream = Stream(server, "/stream/bob", bearer(REMOVED))
    remove(server, keys, renamed=REMOVED)
    server.push("/bob", "later", headers=bearer(REMOVED))
    stream.turn()
    assert stream.data == ["later"]


def test_a_file_without_a_usable_key_removes_none(server: Server, keys: Path) -> None:
    stream = Stream(server, "/stream/bob", bearer(REMOVED))
    keys.write_bytes(b"short")
    with pytest.raises(ValueError, match="holds no key that can be used"):
        server.comet.routes.policy.tokens.reload()
    pass_by(server)
    server.push("/bob", "later", headers=bearer(REMOVED))
    stream.turn()
    assert stream.data == ["later"]


def test_what_a_removed_key_had_let_in_ends_spread_over_the_time(server: Server, keys: Path) -> None:
    polls = [server.park("/poll/bob?after=now&wait=60", bearer(REMOVED)) for _ in range(250)]
    written(keys, kept=KEPT)
    server.comet.routes.policy.tokens.reload()
    server.advance(0)
    at_once = sum([poll.answer is not None for poll in polls])
    assert 0 < at_once < 250
    pass_by(server)
    assert all(poll.answer is not None for poll in polls)


def test_a_key_removed_while_the_program_is_asked_lets_nothing_in(serve: Any, keys: Path) -> None:
    verdict: Deferred[bool] = Deferred()
    server: Server = serve(tokens=Tokens([keys]), authorize=lambda request, action, name: verdict)
    poll = server.park("/poll/bob?after=now&wait=60", bearer(REMOVED))
    remove(server, keys)
    verdict.callback(True)
    server.advance(0)
    assert poll.answer.status == 401


def test_a_key_removed_while_the_program_is_asked_about_all_listeners_lets_nothing_in(
    serve: Any, keys: Path
) -> None:
    verdict: Deferred[bool] = Deferred()

    def authorize(request: Any, action: str, name: str) -> Any:
        return verdict if (action, name) == ("poll", "$listeners") else True

    server: Server = serve(tokens=Tokens([keys]), authorize=authorize)
    claims = bearer(REMOVED, poll=["**", "$listeners"])
    listener = server.send("POST", "/register", b"{}", claims).answer.json["id"]
    poll = server.send("GET", f"/poll?listener={listener}&wait=60", b"", claims)
    assert poll.answer is None
    remove(server, keys)
    verdict.callback(True)
    server.advance(0)
    assert poll.answer.status == 401
