"""Several processes at one Redis, over HTTP: what one process is asked, another may have to answer.

Each process is a server in memory, with a store of its own at the Redis of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from applications import FakeApplication, said
from exchanges import STARTED, Answer, Exchange, Headers, Server, by_serving, by_twisted_web
from helpers import Outcome, check_empty, check_invariants
from redis_recount import Recount
from redis_server import RedisServer
from redis_wires import Wires
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from wires import Stream, WebSocket, leave

from cometd_lite.access.application import Authorizer
from cometd_lite.access.tokens import Tokens
from cometd_lite.bayeux import BayeuxOptions, Call
from cometd_lite.comet import Comet
from cometd_lite.limits import HEARTBEAT_SECONDS, SWEEP_SECONDS, Limits
from cometd_lite.stores.redis.store import RedisStore

JSON = {"Content-Type": "application/json"}


class Process(Server):
    """A server of a cluster: when it was asked something, all processes have their turn."""

    def __init__(self, cluster: Cluster, place: int, **words: Any) -> None:
        limits = words.get("limits")
        store = RedisStore(cluster.address, limits, clock=cluster.clock, endpoint=cluster.wires)
        clock = cluster.clock
        comet = Comet(store=store, clock=clock, wall=lambda: STARTED + clock.seconds() - 1_000, **words)
        # One process is served by the project's own server, the next one by twisted.web.
        super().__init__(comet, clock, by_twisted_web(comet) if place % 2 else by_serving(comet))
        self.cluster = cluster

    def send(
        self, method: str, target: str, body: bytes | str = b"", headers: Headers | None = None
    ) -> Exchange:
        exchange = super().send(method, target, body, headers)
        self.cluster.settle()
        return exchange


class Cluster:
    """Processes on one clock, and the connections between them and their Redis."""

    def __init__(self, redis: RedisServer, prefix: str, **words: Any) -> None:
        self.redis = redis
        self.clock = Clock()
        self.clock.advance(1_000)
        self.wires = Wires(redis.socket, self.clock)
        self.address = f"{redis.address}?prefix={prefix}:"
        self.prefix = f"{prefix}:"
        self.words = words
        self.processes: list[Process] = []

    def join(self) -> Process:
        """Start one more process."""
        process = Process(self, len(self.processes), **self.words)
        opened = Outcome(process.comet.start())
        self.processes.append(process)
        self.settle()
        assert opened.value is None
        return process

    def settle(self) -> None:
        """Let everything that processes tell each other arrive."""
        self.wires.settle()
        for process in self.processes:
            process.driver.flush()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    def end(self) -> None:
        leave()
        self.advance(SWEEP_SECONDS)  # the timer of sockets ends
        for process in self.processes:
            check_invariants(process.comet.hub)
        Recount(self.redis, self.prefix)
        for process in self.processes:
            stopped = Outcome(process.comet.stop())
            self.settle()
            assert stopped.value is None
            check_empty(process.comet.hub)
        assert self.clock.getDelayedCalls() == []


Clusters = Callable[..., Cluster]


@pytest.fixture
def clusters(redis: RedisServer, tmp_path: Path) -> Iterator[Clusters]:
    """Return a function that makes a cluster, whose processes are given the words of a ``Comet``."""
    made: list[Cluster] = []

    def make(**words: Any) -> Cluster:
        made.append(Cluster(redis, f"{tmp_path.name}.{len(made)}", **words))
        return made[-1]

    yield make
    try:
        for cluster in made:
            cluster.end()
    finally:
        for cluster in made:
            cluster.wires.close()


@pytest.fixture
def cluster(clusters: Clusters) -> Cluster:
    """Return a cluster of two processes."""
    cluster = clusters()
    cluster.join()
    cluster.join()
    return cluster


class Client:
    """A Bayeux client that sends each request to the next of some processes."""

    def __init__(self, *processes: Process, **headers: str) -> None:
        self.processes = cycle(processes)
        self.headers = JSON | headers
        (reply,) = self.say(
            {
                "channel": "/meta/handshake",
                "version": "1.0",
                "supportedConnectionTypes": ["long-polling", "callback-polling"],
            }
        )
        assert reply["successful"], reply
        self.id = reply["clientId"]
        assert self.say(self.connection())[0]["successful"]

    def message(self, channel: str, **fields: Any) -> dict[str, Any]:
        return {"channel": channel, "clientId": self.id, "id": "9", **fields}

    def connection(self, **fields: Any) -> dict[str, Any]:
        return self.message("/meta/connect", connectionType="long-polling", **fields)

    def post(self, *messages: Any) -> Exchange:
        return next(self.processes).send("POST", "/cometd", msgspec.json.encode(messages), self.headers)

    def say(self, *messages: Any) -> Any:
        exchange = self.post(*messages)
        assert exchange.answer is not None, "it is held"
        assert exchange.answer.status == 200, exchange.answer
        if "set-cookie" in exchange.answer.headers:
            self.headers["Cookie"] = exchange.answer.headers["set-cookie"].partition(";")[0]
        return exchange.answer.json

    def subscribe(self, *channels: str) -> Any:
        (reply,) = self.say(self.message("/meta/subscribe", subscription=list(channels)))
        assert reply["successful"], reply
        return reply

    def hold(self, **fields: Any) -> Exchange:
        exchange = self.post(self.connection(**fields))
        assert exchange.answer is None, exchange.answer
        return exchange

    def script(self, *messages: Any) -> str:
        """Return the target of a poll by callback."""
        return f"/cometd?jsonp=told&message={quote(msgspec.json.encode(messages).decode())}"


def events(answer: Answer | None) -> list[Any]:
    """Return the data of the events in an answer to a connect."""
    assert answer is not None, "it is held"
    *told, reply = answer.json
    assert reply["channel"] == "/meta/connect"
    return [event["data"] for event in told]


# -- Bayeux: a session lives in the process that greeted it, and every process takes its requests


def test_a_client_may_send_each_request_to_another_process(cluster: Cluster) -> None:
    here, there = cluster.processes
    client = Client(here, there)
    client.subscribe("/chat/a")
    client.subscribe("/chat/b")
    for process in (here, there, there):
        held = client.hold()
        process.push("/chat/a", "hello")
        cluster.settle()
        assert events(held.answer) == ["hello"]
        next(client.processes)
    assert client.say(client.message("/chat/b", data={"n": 1}))[-1]["successful"]
    assert there.read("/poll/chat/b?after=oldest") == here.read("/poll/chat/b?after=oldest") == [{"n": 1}]
    assert client.say(client.message("/meta/disconnect"))[-1]["successful"]
    (reply,) = client.say(client.connection())
    assert (reply["error"], reply["advice"]["reconnect"]) == ("402::session_unknown", "handshake")


def test_a_request_that_no_session_is_named_in_is_answered_where_it_came(cluster: Cluster) -> None:
    _, there = cluster.processes

    def error(client_id: str) -> str:
        message = {"channel": "/meta/connect", "connectionType": "long-polling", "clientId": client_id}
        (reply,) = there.ask("POST", "/cometd", msgspec.json.encode(message), JSON).json
        found: str = reply["error"]
        return found

    assert (
        there.ask("POST", "/cometd", '{"channel": "/meta/connect"}', JSON).json[0]["error"].startswith("401")
    )
    assert there.ask("POST", "/cometd", "not JSON", JSON).status == 400
    known = Client(there).id
    process = known[: -len("0123456789abcdef0123456789abcdef01234567")]
    for unknown in ("x", process, process[::-1] + known.removeprefix(process), known[:-1] + "g"):
        assert error(unknown).startswith("402"), unknown
    assert error(known.upper()).startswith("402")


def test_a_whole_batch_is_forwarded_in_its_order(cluster: Cluster) -> None:
    here, there = cluster.processes
    client = Client(here)
    client.processes = cycle([there])
    replies = client.say(
        client.message("/meta/subscribe", subscription="/a"),
        client.message("/a", data=1),
        client.message("/a", data=2),
        client.message("/meta/unsubscribe", subscription="/a"),
    )
    meant = [(one["channel"], one.get("data"), one.get("successful")) for one in replies]
    assert sorted(meant, key=str) == sorted(
        [
            ("/meta/subscribe", None, True),
            ("/a", None, True),
            ("/a", None, True),
            ("/meta/unsubscribe", None, True),
            *[("/a", data, None) for data in (1, 2) if ("/a", data, None) in meant],
        ],
        key=str,
    )
    assert here.read("/poll/a?after=oldest") == [1, 2]


def test_a_poll_by_callback_is_answered_by_any_process(cluster: Cluster) -> None:
    here, there = cluster.processes
    client = Client(here)
    asked = client.script(client.message("/meta/subscribe", subscription="/a"))
    answer = there.get(asked, {"Sec-Fetch-Site": "same-origin"})
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/javascript")
    (reply,) = msgspec.json.decode(answer.body.partition(b"told(")[2].rpartition(b")")[0])
    assert (reply["channel"], reply["successful"]) == ("/meta/subscribe", True)
    held = there.send("GET", client.script(client.connection()))
    assert held.answer is None
    here.push("/a", "hello")
    cluster.settle()
    assert b'"hello"' in held.answer.body


def test_what_is_wrong_with_a_request_is_told_by_the_process_that_received_it(cluster: Cluster) -> None:
    here, there = cluster.processes
    client = Client(here)
    body = msgspec.json.encode([client.message("/a", data="x")] * 2_000)
    for process in (here, there):
        answer = process.ask("POST", "/cometd", body, JSON)
        assert answer.status == 413
    asked = client.script(client.message("/a", data="x")).replace("told", "to(ld")
    assert (here.get(asked).status, there.get(asked).status) == (400, 400)


def test_a_client_that_leaves_is_known_to_have_left_where_its_connect_is_held(cluster: Cluster) -> None:
    here, there = cluster.processes
    client = Client(here)
    client.subscribe("/a")
    for process in (here, there):
        client.processes = cycle([process])
        held = client.hold()
        assert here.get("/recipients/a").json["waiting"] == 1
        held.hang_up()
        cluster.settle()
        assert here.get("/recipients/a").json["waiting"] == there.get("/recipients/a").json["waiting"] == 0
    here.push("/a", "kept")
    assert events(client.post(client.connection()).answer) == ["kept"]


def test_a_client_that_left_unnoticed_finds_its_events_when_it_comes_back(cluster: Cluster) -> None:
    # Its process answers; the answer goes through the other one, which knows that the client has left.
    here, there = cluster.processes
    client = Client(here)
    client.subscribe("/a")
    client.processes = cycle([there])
    held = client.hold()
    held.hang_up()
    here.push("/a", "kept")
    cluster.settle()
    assert events(client.post(client.connection()).answer) == ["kept"]


def test_events_are_sent_again_whose_answer_came_to_a_process_that_had_lost_redis(cluster: Cluster) -> None:
    here, there = cluster.processes
    client = Client(here)
    client.subscribe("/a")
    client.processes = cycle([there])
    held = client.hold()
    cluster.wires.wires[1].abortConnection()
    cluster.settle()  # it has found Redis again, but not what it had asked
    assert held.answer is not None
    assert held.answer.status == 503
    here.push("/a", "kept")
    assert events(client.post(client.connection()).answer) == ["kept"]
    held = client.hold()
    here.push("/a", "next")
    assert events(held.answer) == ["next"]


def test_events_are_sent_again_whose_client_left_while_the_answer_was_on_its_way(cluster: Cluster) -> None:
    here, there = cluster.processes
    client = Client(here)
    client.subscribe("/a")
    client.processes = cycle([there])
    held = client.hold()
    ours, theirs = cluster.wires.wires
    here.driver.send("POST", "/push/a", [("Content-Type", "text/plain")], b"kept")
    for _ in range(3):
        ours.look(0.2)  # the process of the session has answered
    held.hang_up()
    theirs.look(0.2)  # and the other one hears of it after its client has left
    cluster.settle()
    assert events(client.post(client.connection()).answer) == ["kept"]


def speak(client: Client, process: Process) -> WebSocket:
    """Open a socket of a client, and hold a connect over it."""
    socket = WebSocket(process, "/cometd")
    say(socket, client.message("/meta/connect", connectionType="websocket"))
    return socket


def say(socket: WebSocket, *messages: Any) -> list[Any]:
    """Say something over a socket; return what is answered."""
    before = len(socket.texts)
    socket.text(msgspec.json.encode(messages))
    cluster = socket.server.cluster  # type: ignore[attr-defined]  # a process of a cluster
    cluster.settle()
    return socket.texts[before:]


@pytest.mark.parametrize("place", [0, 1])
def test_a_socket_works_at_every_process(clusters: Clusters, place: int) -> None:
    cluster = clusters()
    processes = [cluster.join(), cluster.join()]
    home, other = processes[place], processes[1 - place]
    client = Client(home)
    client.subscribe("/a")
    socket = speak(client, other)
    assert socket.texts == []
    home.push("/a", "1")
    cluster.settle()
    event, reply = socket.texts[-1]
    assert event == {"channel": "/a", "data": "1"}
    assert (reply["channel"], reply["successful"]) == ("/meta/connect", True)
    assert say(socket, client.message("/meta/connect", connectionType="websocket")) == []
    first, second = say(
        socket,
        client.message("/meta/subscribe", subscription="/b"),
        client.message("/c", data="2"),
    )[-1]
    assert (first["channel"], first["successful"]) == ("/meta/subscribe", True)
    assert (second["channel"], second["successful"]) == ("/c", True)
    assert other.read("/poll/c?after=oldest") == ["2"]
    other.push("/b", "3")
    cluster.settle()
    assert socket.texts[-1][0]["data"] == "3"


def test_a_socket_that_is_lost_at_another_process_holds_no_connect_and_loses_no_event(
    cluster: Cluster,
) -> None:
    here, there = cluster.processes
    client = Client(here)
    client.subscribe("/a")
    socket = speak(client, there)
    assert here.get("/recipients/a").json["waiting"] == 1
    socket.hang_up()
    cluster.settle()
    assert here.get("/recipients/a").json["waiting"] == 0
    here.push("/a", "kept")
    assert events(client.post(client.connection()).answer) == ["kept"]


def test_a_socket_whose_session_has_lost_its_process_tells_its_client_to_shake_hands(
    clusters: Clusters,
) -> None:
    cluster = clusters()
    here, there = cluster.join(), cluster.join()
    client = Client(here)
    cluster.wires.wires[0].abortConnection()
    stopped = Outcome(here.comet.stop())
    cluster.settle()
    assert stopped.value is None
    cluster.processes.remove(here)
    socket = WebSocket(there, "/cometd")
    ((reply,),) = say(socket, client.message("/meta/connect", connectionType="websocket"))
    assert reply["advice"]["reconnect"] == "handshake"


def test_events_do_not_go_with_an_answer_whose_client_has_left_meanwhile(cluster: Cluster) -> None:
    here, there = cluster.processes
    client = Client(here)
    client.subscribe("/a/*")
    here.push("/a/b", "kept")
    body = msgspec.json.encode(client.message("/other", data="x"))
    published = there.driver.send("POST", "/cometd", list(client.headers.items()), body)
    ours, theirs = cluster.wires.wires
    theirs.look(1.0)
    ours.look(1.0)  # the process of the session has it, and has asked Redis to keep what is published
    published.hang_up()
    cluster.settle()
    assert events(client.post(client.connection()).answer) == ["kept"]
    assert here.read("/poll/other?after=oldest") == ["x"]


def test_a_later_connect_at_another_process_replaces_the_one_that_is_held(cluster: Cluster) -> None:
    here, there = cluster.processes
    client = Client(here)
    client.subscribe("/a")
    client.processes = cycle([here, there])
    older, newer = client.hold(), client.hold()
    assert older.answer is not None
    assert older.answer.status == 409
    here.push("/a", "hello")
    cluster.settle()
    assert events(newer.answer) == ["hello"]


def test_a_session_lives_while_it_is_held_through_another_process_and_is_forgotten_when_it_is_not(
    clusters: Clusters,
) -> None:
    cluster = clusters(bayeux=BayeuxOptions(timeout=25.0, max_interval=10.0))
    here, there = cluster.join(), cluster.join()
    client = Client(here)
    client.processes = cycle([there])
    held = client.hold()
    for _ in range(22):
        cluster.advance(1.0)
    assert held.answer is None
    cluster.advance(3.0)
    assert events(held.answer) == []
    for _ in range(9):
        cluster.advance(1.0)
    held = client.hold()
    held.hang_up()
    cluster.settle()
    for _ in range(11):
        cluster.advance(1.0)
    assert client.say(client.connection())[0]["error"].startswith("402")


def test_the_browsers_cookie_is_known_at_every_process(clusters: Clusters) -> None:
    cluster = clusters(bayeux=BayeuxOptions(bind_browser=True))
    here, there = cluster.join(), cluster.join()
    client = Client(here)
    client.processes = cycle([there])
    assert "BAYEUX_BROWSER=" in client.headers["Cookie"]
    assert client.subscribe("/a")["successful"]
    del client.headers["Cookie"]
    (reply,) = client.say(client.message("/meta/subscribe", subscription="/b"))
    assert reply["error"].startswith("402")


def test_tokens_are_looked_at_where_the_session_lives(clusters: Clusters, tmp_path: Path) -> None:
    import jwt  # noqa: PLC0415  only here

    secret = b"a secret of at least thirty-two bytes"
    (tmp_path / "secret").write_bytes(secret)
    clock: list[Clock] = []
    tokens = Tokens([tmp_path / "secret"], wall=lambda: STARTED + clock[0].seconds() - 1_000)
    cluster = clusters(tokens=tokens)
    clock.append(cluster.clock)
    here, there = cluster.join(), cluster.join()

    def bearer(**claims: Any) -> str:
        return "Bearer " + jwt.encode(claims, secret, "HS256")

    client = Client(here, Authorization=bearer(poll=["a"], push=["a"]))
    client.processes = cycle([there])
    assert client.subscribe("/a")["successful"]
    (reply,) = client.say(client.message("/meta/subscribe", subscription="/b"))
    assert reply["error"].startswith("403")
    assert client.say(client.message("/a", data=1))[-1]["successful"]
    assert client.say(client.message("/b", data=1))[-1]["error"].startswith("403")


def test_a_service_is_called_in_the_process_of_the_session(cluster: Cluster) -> None:
    here, there = cluster.processes
    later: list[Deferred[Any]] = []

    def serve(call: Call) -> Any:
        if call.data == "later":
            later.append(Deferred())
            return later[-1]
        return {"heard": call.data}

    here.comet.service("/service/echo", serve)
    client = Client(here)
    client.processes = cycle([there])
    replies = client.say(client.message("/service/echo", data="hi"))
    assert [one["data"] for one in replies if "data" in one] == [{"heard": "hi"}]
    client.say(client.message("/service/echo", data="later"))
    held = client.hold()
    later[0].callback("done")
    cluster.settle()
    assert events(held.answer) == ["done"]


def test_a_service_that_fails_fails_its_message_alone(
    cluster: Cluster, expected_failures: list[type[BaseException]]
) -> None:
    expected_failures.append(ZeroDivisionError)
    here, there = cluster.processes
    here.comet.service("/service/broken", lambda call: 1 // 0)
    client = Client(here)
    client.processes = cycle([there])
    broken, good = client.say(client.message("/service/broken", data=1), client.message("/a", data=1))
    assert broken["error"].startswith("500")
    assert good["successful"]


# -- processes that go


def lose(cluster: Cluster, process: Process) -> None:
    """Cut a process off from Redis for good, as its death does."""
    place = cluster.processes.index(process)
    cluster.processes.remove(process)
    cluster.wires.wires.pop(place).abortConnection()
    process.comet.stop()
    cluster.wires.settle()


def test_a_client_whose_process_is_no_more_is_told_to_shake_hands(cluster: Cluster) -> None:
    here, there = cluster.processes
    client = Client(here)
    client.processes = cycle([there])
    client.subscribe("/a")
    held = client.hold()
    lose(cluster, here)
    assert held.answer is None  # nobody has told it; it is found out by asking
    cluster.advance(SWEEP_SECONDS)
    cluster.advance(0.0)
    assert held.answer is not None
    (reply,) = held.answer.json
    assert (reply["error"], reply["advice"]["reconnect"]) == ("402::session_unknown", "handshake")
    (reply,) = client.say(client.message("/a", data=1))
    assert reply["error"].startswith("402")
    assert Client(there).subscribe("/a")["successful"]


def test_while_redis_is_not_reached_a_forwarded_request_is_refused_and_the_session_lives_on(
    cluster: Cluster,
) -> None:
    here, there = cluster.processes
    client = Client(here)
    client.processes = cycle([there])
    client.subscribe("/a")
    held = client.hold()
    cluster.wires.wires[1].abortConnection()
    cluster.settle()
    assert held.answer is not None
    assert held.answer.status == 503
    assert int(held.answer.headers["retry-after"]) >= 1
    again = client.hold()
    here.push("/a", "hello")
    cluster.settle()
    assert events(again.answer) == ["hello"]


def test_each_process_lists_the_mailboxes_of_all_with_the_readers_of_all(cluster: Cluster) -> None:
    here, there = cluster.processes
    for number in range(25):
        (here, there)[number % 2].push(f"/room/{number:02}")
    waiting = [process.park("/poll/room/03?after=now") for process in (here, here, there)]
    exchange = there.send("GET", "/recipients?prefix=room/&limit=24")
    cluster.advance(0)
    assert exchange.answer is not None
    listed = exchange.answer.json
    assert [one["recipient"] for one in listed["recipients"]] == [f"room/{number:02}" for number in range(24)]
    assert listed["more"] == "room/23"
    assert [one["waiting"] for one in listed["recipients"][2:5]] == [0, 3, 0]
    here.push("/room/03")
    assert all(poll.answer is not None for poll in waiting)


def test_a_history_is_the_same_at_every_process(cluster: Cluster) -> None:
    here, there = cluster.processes
    for text in ("1", "2", "3", "4"):
        (here if text in "13" else there).push("/chat/a", text)
        cluster.advance(10)
    for process in cluster.processes:
        assert process.read("/poll/chat/*?after=last:3") == ["2", "3", "4"]
        assert process.read("/poll/chat/a?after=since:25") == ["3", "4"]


def test_a_push_to_listeners_is_kept_only_where_a_process_has_one(cluster: Cluster) -> None:
    here, there = cluster.processes
    for _ in range(3):
        answer = here.push("?to=listeners", "hear, hear")
        assert (answer.status, answer.json["delivered"]) == (202, 0)
    assert there.comet.hub.store.usage().messages == 0
    listener = there.ask("POST", "/register", '{"recipients":["bob"]}', JSON).json["id"]
    here.push("?to=listeners", "hear, hear")
    assert here.read(f"/poll?listener={listener}") == ["hear, hear"]
    there.ask("DELETE", f"/listeners/{listener}")
    before = here.comet.hub.store.usage().messages
    here.push("?to=listeners", "hear, hear")
    assert there.comet.hub.store.usage().messages == before


def test_a_forwarded_request_is_asked_about_as_it_came(cluster: Cluster) -> None:
    here, there = cluster.processes
    applications = [FakeApplication(lambda _: said()) for _ in cluster.processes]
    for process, application in zip(cluster.processes, applications, strict=True):
        asking = Authorizer(application, "http://app.example", cluster.clock)
        process.comet.routes.policy.application = asking
    client = Client(here, **{"Authorization": "Basic eDp5", "User-Agent": "faye"})
    applications[0].asked.clear()
    client.processes = cycle([there])
    client.subscribe("/a")
    assert applications[1].asked == [], "the process that knows the session asks"
    asked = applications[0].asked[-1]
    assert (asked["action"], asked["recipients"], asked["path"]) == ("poll", ["a"], "/cometd")
    assert (asked["authorization"], asked["user_agent"]) == ("Basic eDp5", "faye")
    assert client.headers["Cookie"] in asked["cookie"]


# -- leases


def leases(answer: Answer | None) -> list[tuple[Any, int]]:
    """Return the data of leased messages, each with its attempt."""
    assert answer is not None, "it is held"
    return [(message["data"], message["attempt"]) for message in answer.json["messages"]]


def test_a_lease_of_one_process_is_known_to_the_other_which_may_settle_it(cluster: Cluster) -> None:
    one, other = cluster.processes
    one.push("/jobs", "1")
    answer = one.get("/poll/jobs?lease=30")
    assert leases(answer) == [("1", 1)]
    assert leases(other.get("/poll/jobs?lease=30&wait=0")) == []
    (message,) = answer.json["messages"]
    assert other.ask("POST", f"/ack/jobs?lease={message['lease']}").status == 200
    assert one.ask("POST", f"/ack/jobs?lease={message['lease']}").status == 410


def test_a_lease_that_ends_at_a_push_which_was_there_before_brings_its_message_back(cluster: Cluster) -> None:
    one, other = cluster.processes
    key = {"Idempotency-Key": "once"}
    receipt = one.push("/jobs", "1", key).json
    cluster.advance(SWEEP_SECONDS / 2)
    assert leases(one.get("/poll/jobs?lease=1")) == [("1", 1)]
    cluster.advance(SWEEP_SECONDS / 2)
    cluster.clock.advance(SWEEP_SECONDS * 0.75)  # after the lease, and before the next sweep
    assert other.push("/jobs", "1", key).json["id"] == receipt["id"]
    assert leases(other.get("/poll/jobs?lease=30&wait=0")) == [("1", 2)]
    assert one.get("/recipients/jobs").json["leased"] == 1


def test_a_worker_of_another_process_is_woken_by_what_is_released_and_by_a_lease_that_ends(
    cluster: Cluster,
) -> None:
    one, other = cluster.processes
    one.push("/jobs", "1")
    first = one.get("/poll/jobs?lease=5").json["messages"][0]["lease"]
    worker = other.park("/poll/jobs?lease=5")
    one.ask("POST", f"/ack/jobs?lease={first}&release=yes")
    cluster.settle()
    assert leases(worker.answer) == [("1", 2)]
    waiting = one.park("/poll/jobs?lease=5")
    for _ in range(6):
        cluster.advance(1)
    assert leases(waiting.answer) == [("1", 3)]


def test_a_message_that_was_leased_too_often_is_moved_by_one_process_once(clusters: Clusters) -> None:
    cluster = clusters(limits=Limits(max_attempts=1))
    one, other = cluster.join(), cluster.join()
    one.push("/jobs", "1")
    one.get("/poll/jobs?lease=1")
    reader = other.park("/poll/$dead/jobs?after=now")
    for _ in range(15):
        cluster.advance(1)
    assert reader.answer is not None
    assert [message["event"] for message in reader.answer.json["messages"]] == ["dead"]
    assert len(other.get("/poll/$dead/jobs?after=oldest").json["messages"]) == 1
    assert one.get("/recipients/jobs").json["queued"] == 0


def test_a_listener_that_one_process_has_let_grow_is_served_by_another_that_has_no_room_for_more(
    clusters: Clusters,
) -> None:
    cluster = clusters(limits=Limits(max_sessions=2))
    here, there = cluster.join(), cluster.join()
    many = {"recipients": [f"room{number}-{'x' * 100}" for number in range(5)]}
    listener = here.ask("POST", "/register", "{}", JSON).json["id"]
    assert there.get(f"/poll?listener={listener}&wait=0").status == 200
    assert there.ask("POST", "/register", msgspec.json.encode(many), JSON).status == 201
    grown = f"/listeners/{listener}"
    assert there.ask("PUT", grown, msgspec.json.encode(many), JSON).status == 503
    assert here.ask("PUT", grown, msgspec.json.encode(many), JSON).status == 200
    here.push("/" + many["recipients"][4], "hello")
    answer = there.get(f"/poll?listener={listener}&wait=0")
    assert [message["data"] for message in answer.json["messages"]] == ["hello"]


def test_what_a_stream_was_sent_makes_room_for_a_push_to_its_process_and_after_a_heartbeat_to_any(
    clusters: Clusters,
) -> None:
    cluster = clusters(limits=Limits(capacity=2))
    here, there = cluster.join(), cluster.join()
    Stream(here, "/stream/bob")
    cluster.settle()
    for process, seconds in ((here, 0.0), (there, HEARTBEAT_SECONDS)):
        here.push("/bob", "1\n2\n", {"Content-Type": "application/x-ndjson"})
        cluster.advance(seconds)
        pushed = process.send("POST", "/push/bob", "3")
        cluster.wires.settle_full()
        cluster.settle()
        assert pushed.answer is not None
        assert pushed.answer.status == 201
        here.ask("DELETE", "/recipients/bob")


@pytest.mark.parametrize("query", ["after=oldest", "lease=60", ""])
def test_an_answer_from_redis_is_bounded_in_bytes_as_they_are_sent(clusters: Clusters, query: str) -> None:
    cluster = clusters()
    here, there = cluster.join(), cluster.join()
    for _ in range(5):
        there.push("/bob", b"\x01" * 60_000, {"Content-Type": "text/plain"})
    answer = here.get(f"/poll/bob?limit=1000&{query}")
    assert len(answer.body) <= 1024**2
    assert len(answer.json["messages"]) == 2
    assert answer.json["more"] is True
