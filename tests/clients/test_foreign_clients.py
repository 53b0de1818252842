"""CometD's, Faye's and aiocometd's own clients against the running program, over all their transports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from foreign import Cable, Failed, Foreign, Make, curl, eventually
from program import Program

CLIENTS = [
    ("cometd", "long-polling"),
    ("cometd", "callback-polling"),
    ("cometd", "websocket"),
    ("faye", "long-polling"),
    ("faye", "websocket"),
    ("aiocometd", "long-polling"),
    ("aiocometd", "websocket"),
]
every_client = pytest.mark.parametrize(("kind", "transport"), CLIENTS)
_rooms = count()


@pytest.fixture
def room() -> str:
    """Return a channel that no other test uses."""
    return f"/room{next(_rooms)}"


@every_client
def test_it_shakes_hands_and_chooses_its_transport(
    shared: Program, foreign: Make, kind: str, transport: str
) -> None:
    client = foreign(kind, shared.port, transport)
    assert client.do("open") == transport
    client.do("close")


@every_client
def test_it_hears_names_and_both_wildcards(
    shared: Program, foreign: Make, kind: str, transport: str, room: str
) -> None:
    client = foreign(kind, shared.port, transport)
    client.do("open")
    for channel in (f"{room}/a", f"{room}/b/*", f"{room}/c/**"):
        client.do("subscribe", channel)
    for name in ("a", "a/x", "b/1", "b/1/2", "c/1", "c/1/2", "d"):
        shared.push(room.removeprefix("/").join(("/", f"/{name}")), name)
    shared.push(f"{room}/a", "end")
    assert client.hears(5) == [
        (f"{room}/a", "a"),
        (f"{room}/b/1", "b/1"),
        (f"{room}/c/1", "c/1"),
        (f"{room}/c/1/2", "c/1/2"),
        (f"{room}/a", "end"),
    ]


@every_client
def test_it_publishes_to_itself_to_others_and_to_http(
    shared: Program, foreign: Make, kind: str, transport: str, room: str
) -> None:
    client = foreign(kind, shared.port, transport)
    other = foreign("cometd", shared.port, "websocket")
    for each in (client, other):
        each.do("open")
        each.do("subscribe", room)
    data = {"text": "größe", "n": [1, None, 2.5, {"a": True}]}
    client.do("publish", room, data)
    other.do("publish", room, "hello")
    for each in (client, other):
        assert sorted(map(repr, each.hears(2))) == sorted(map(repr, [(room, data), (room, "hello")]))
    assert shared.get(f"/poll{room}?wait=0&after=oldest").data == [data, "hello"]


@every_client
def test_it_batches(shared: Program, foreign: Make, kind: str, transport: str, room: str) -> None:
    client = foreign(kind, shared.port, transport)
    client.do("open")
    client.do("subscribe", room)
    assert client.do("batch", [[room, number] for number in range(10)]) == 10
    heard = [data for _, data in client.hears(10)]
    # aiocometd sends its publications over two connections at once.
    assert (heard if kind != "aiocometd" else sorted(heard)) == list(range(10))


@every_client
def test_it_unsubscribes(shared: Program, foreign: Make, kind: str, transport: str, room: str) -> None:
    client = foreign(kind, shared.port, transport)
    client.do("open")
    client.do("subscribe", f"{room}/a")
    client.do("subscribe", f"{room}/b")
    client.do("unsubscribe", f"{room}/a")
    eventually(lambda: shared.waiting(f"{room[1:]}/a") == 0, "the end of the subscription")
    shared.push(f"{room}/a", "no")
    shared.push(f"{room}/b", "yes")
    assert client.hears(1) == [(f"{room}/b", "yes")]


@every_client
def test_it_disconnects(shared: Program, foreign: Make, kind: str, transport: str, room: str) -> None:
    client = foreign(kind, shared.port, transport)
    client.do("open")
    client.do("subscribe", room)
    eventually(lambda: shared.waiting(room[1:]) == 1, "its connect")
    client.do("close")
    eventually(lambda: shared.waiting(room[1:]) == 0, "its end")


@every_client
def test_what_is_not_allowed_is_told(shared: Program, foreign: Make, kind: str, transport: str) -> None:
    client = foreign(kind, shared.port, transport)
    client.do("open")
    with pytest.raises(Failed):
        client.do("subscribe", "/meta/x")
    client.do("publish", "/fine", 1)


@pytest.mark.slow
@every_client
def test_it_stays_connected_over_several_timeouts(
    run: Callable[..., Program], foreign: Make, cable: Callable[[int], Cable], kind: str, transport: str
) -> None:
    program = run("--bayeux-timeout", "0.2", "--bayeux-max-interval", "2")
    wire = cable(program.port)
    answers: list[bytes] = []

    def watch(data: bytes) -> tuple[bool, bool]:
        if b'"/meta/connect"' in data:
            answers.append(data)
        return True, False

    wire.spoil = watch
    client = foreign(kind, wire.port, transport)
    client.do("open")
    client.do("subscribe", "/a")
    for number in range(3):
        answered = len(answers)
        eventually(lambda answered=answered: len(answers) >= answered + 4, "answers to connects")
        program.push("/a", str(number))
        assert client.hears(1) == [("/a", str(number))]


@every_client
def test_it_shakes_hands_again_when_it_was_forgotten(
    run: Callable[..., Program], foreign: Make, cable: Callable[[int], Cable], kind: str, transport: str
) -> None:
    program = run("--bayeux-timeout", "1", "--bayeux-max-interval", "0.3")
    wire = cable(program.port)
    client = foreign(kind, wire.port, transport)
    client.do("open")
    client.do("subscribe", "/a")
    eventually(lambda: program.waiting("a") == 1, "its connect")
    wire.target = 1  # nobody there
    wire.cut()
    eventually(lambda: _sessions(program) == 0, "the end of its session")
    wire.target = program.port
    client.notices("shook hands")
    client.notices("shook hands")
    eventually(lambda: program.waiting("a") == 1, "its subscription again")
    program.push("/a", "again")
    assert client.hears(1) == [("/a", "again")]


@every_client
def test_it_shakes_hands_again_when_the_server_was_restarted(
    run: Callable[..., Program], foreign: Make, cable: Callable[[int], Cable], kind: str, transport: str
) -> None:
    before = run()
    wire = cable(before.port)
    client = foreign(kind, wire.port, transport)
    client.do("open")
    client.do("subscribe", "/a")
    eventually(lambda: before.waiting("a") == 1, "its connect")
    assert before.stop() == 0
    after = run()
    wire.target = after.port
    wire.cut()
    eventually(lambda: after.waiting("a") == 1, "its subscription again")
    after.push("/a", "again")
    assert client.hears(1) == [("/a", "again")]


def _sessions(program: Program) -> int:
    (line,) = [
        line
        for line in program.get("/metrics").body.decode().splitlines()
        if line.startswith("cometd_lite_bayeux_sessions ")
    ]
    return int(float(line.split()[1]))


# -- what one of them has and the others have not


@pytest.mark.parametrize("transport", ["long-polling", "callback-polling", "websocket"])
def test_cometd_uses_all_its_extensions(shared: Program, foreign: Make, transport: str, room: str) -> None:
    client = foreign("cometd", shared.port, transport, "ack", "timestamp", "timesync", "reload")
    assert client.do("open") == transport
    client.do("subscribe", room)
    for number in range(5):
        client.do("publish", room, number)
    assert client.hears(5) == [(room, number) for number in range(5)]
    assert client.do("reload") is True
    shared.push(room, "after")
    heard = client.hears(1)
    # The page that heard the last of them may have been left before it could confirm them.
    again = []
    while heard != [(room, "after")]:
        again += heard
        heard = client.hears(1)
    assert again == [(room, number) for number in range(5)][5 - len(again) :]
    client.do("close")


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["long-polling", "callback-polling", "websocket"])
@pytest.mark.parametrize("arrives", [True, False])
def test_a_hundred_cuts_between_answer_and_next_connect_lose_and_double_nothing(
    run: Callable[..., Program],
    foreign: Make,
    cable: Callable[[int], Cable],
    transport: str,
    arrives: bool,
) -> None:
    program = run("--bayeux-max-interval", "10")
    wire = cable(program.port)
    client = foreign("cometd", wire.port, transport, "ack")
    client.do("open")
    client.do("subscribe", "/a")
    eventually(lambda: program.waiting("a") == 1, "its connect")
    heard: list[tuple[str, Any]] = []
    sent = 0
    while wire.cuts < 100:
        # Every third event is followed by another one before its answer was cut.
        wire.spoil = partial(_cut_at, b'"/a","data":"%d"' % sent, [], arrives)
        program.push("/a", str(sent))
        sent += 1
        if sent % 3:
            heard += client.hears(sent - len(heard))
    wire.spoil = None
    heard += client.hears(sent - len(heard))
    assert [data for _, data in heard] == [str(number) for number in range(sent)]
    program.push("/a", "end")
    assert client.hears(1) == [("/a", "end")]
    assert _sessions(program) == 1


def test_cometds_binary_extension_passes_octets_to_others(shared: Program, foreign: Make, room: str) -> None:
    sender = foreign("cometd", shared.port, "long-polling", "binary")
    reader = foreign("cometd", shared.port, "websocket", "binary")
    for client in (sender, reader):
        client.do("open")
    reader.do("subscribe", room)
    octets = [0, 255, 1, 254, 2, 253, 3]
    sender.do("publishBinary", room, octets)
    assert reader.hears(1) == [(room, {"meta": {"name": "some"}, "data": octets, "last": True})]


def _cut_at(mark: bytes, done: list[bool], arrives: bool, data: bytes) -> tuple[bool, bool]:
    """Cut at the first answer that has the mark, which arrives, or does not."""
    if done or mark not in data:
        return True, False
    done.append(True)
    return arrives, True


@every_client
def test_a_store_that_waits_for_its_disk_serves_it_too(
    run: Callable[..., Program], foreign: Make, tmp_path: Path, kind: str, transport: str
) -> None:
    program = run("--store", f"sqlite:{tmp_path / 'messages'}", "--bayeux-timeout", "2")
    client = foreign(kind, program.port, transport, *(["ack"] if kind == "cometd" else []))
    client.do("open")
    client.do("subscribe", "/a/*")
    for number in range(5):
        program.push("/a/http", str(number))
        client.do("publish", "/a/bayeux", number)
    heard = client.hears(10)
    assert sorted(data for channel, data in heard if channel == "/a/http") == list("01234")
    assert sorted(data for channel, data in heard if channel == "/a/bayeux") == list(range(5))
    client.do("close")


@pytest.mark.parametrize("transport", ["long-polling", "websocket"])
def test_a_name_for_the_host_is_as_good_as_an_address(
    shared: Program, foreign: Make, transport: str, room: str
) -> None:
    # aiohttp's jar drops cookies of bare addresses, and keeps those of names (BAYEUX.md, rule 3).
    client = foreign("aiocometd", shared.port, transport, host="localhost")
    client.do("open")
    client.do("subscribe", room)
    shared.push(room, "hi")
    assert client.hears(1) == [(room, "hi")]


def test_what_curl_pushes_reaches_faye_and_an_event_source(shared: Program, foreign: Make, room: str) -> None:
    client = foreign("faye", shared.port, "long-polling")
    client.do("open")
    client.do("subscribe", room)
    source = foreign("eventsource", shared.port)
    source.do("follow", room)
    eventually(lambda: shared.waiting(room[1:]) == 2, "both readers")
    curl(shared.port, room, {"text": "hi"})
    for each in (client, source):
        assert each.hears(1) == [(room, {"text": "hi"})]


def test_what_cometd_publishes_reaches_a_poll_that_waits(shared: Program, foreign: Make, room: str) -> None:
    poll = shared.park(f"/poll{room}", room[1:])
    client = foreign("cometd", shared.port, "websocket")
    client.do("open")
    client.do("publish", room, {"text": "hi"})
    assert poll.answer().data == [{"text": "hi"}]


def test_every_kind_of_client_hears_every_other(shared: Program, foreign: Make, room: str) -> None:
    clients: list[Foreign] = []
    for kind, transport in CLIENTS:
        client = foreign(kind, shared.port, transport)
        client.do("open")
        client.do("subscribe", room)
        clients.append(client)
    for number, client in enumerate(clients):
        client.do("publish", room, number)
    for client in clients:
        assert sorted(data for _, data in client.hears(len(clients))) == list(range(len(clients)))
