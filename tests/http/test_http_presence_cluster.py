"""HTTP.md, "Presence", over several processes at one Redis: a reader that changes process does not leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_http_cluster import Cluster, Clusters, Process, clusters, lose  # noqa: F401  a fixture

from cometd_lite.core.present import PresenceChange
from cometd_lite.limits import (
    ONLINE_SECONDS,
    PRESENCE_MEMBERS,
    REDIS_PRESENCE_AT_ONCE,
    REDIS_PRESENCE_SECONDS,
)

GRACE = ONLINE_SECONDS + 2


@pytest.fixture
def cluster(clusters: Clusters) -> Cluster:  # noqa: F811  the fixture
    """Return a cluster of two processes that keep presence."""
    made = clusters(presence=True)
    made.join()
    made.join()
    report(made)
    return made


def report(cluster: Cluster, times: int = 3) -> None:
    """Let all processes report, and hear of it."""
    for _ in range(times):
        cluster.advance(REDIS_PRESENCE_SECONDS)


def wait(cluster: Cluster, seconds: float) -> None:
    """Let time pass as it does: a second at a time."""
    for _ in range(int(seconds)):
        cluster.advance(1)


def present(process: Process, recipient: str = "lobby") -> dict[str, int]:
    answer = process.get(f"/presence/{recipient}")
    assert answer.status == 200, answer
    return {member["name"]: member["readers"] for member in answer.json["members"]}


def readers(process: Process, recipient: str = "lobby") -> int:
    found: int = process.get(f"/presence/{recipient}").json["readers"]
    return found


def told(process: Process, recipient: str = "lobby") -> list[tuple[str, Any]]:
    answer = process.get(f"/poll/$presence/{recipient}?after=oldest&wait=0&limit=1000")
    return [(message["event"], message["data"]) for message in answer.json["messages"]]


def test_every_process_says_who_reads_at_any(cluster: Cluster) -> None:
    here, there = cluster.processes
    here.park("/poll/lobby?after=now&as=alice")
    there.park("/poll/lobby?after=now&as=alice")
    there.park("/poll/lobby?after=now&as=bob")
    there.park("/poll/lobby?after=now")
    here.park("/poll/*?after=now&as=eve")
    report(cluster)
    for process in cluster.processes:
        assert (present(process), readers(process)) == ({"alice": 2, "bob": 1}, 5)
        assert readers(process, "other") == 1
    (alice, bob) = here.get("/presence/lobby").json["members"]
    assert alice["since"] <= bob["since"]


def test_a_join_is_told_to_readers_at_any_process(cluster: Cluster) -> None:
    here, there = cluster.processes
    watching = [process.park("/poll/$presence/lobby?after=now") for process in cluster.processes]
    here.park("/poll/lobby?after=now&as=alice")
    report(cluster)
    there.park("/poll/lobby?after=now&as=alice")
    report(cluster)
    for exchange in watching:
        assert exchange.answer is not None
        assert [one["data"] for one in exchange.answer.json["messages"]] == [{"name": "alice", "readers": 1}]
    assert told(there) == [("join", {"name": "alice", "readers": 1})]
    assert (here.comet.metrics.presence_joins, there.comet.metrics.presence_joins) == (1, 0)


def test_a_reader_that_changes_process_does_not_leave_and_is_counted_once(cluster: Cluster) -> None:
    here, there = cluster.processes
    for process in (here, there, here, there, there, here):
        polling = process.park("/poll/lobby?after=now&as=alice&wait=20")
        report(cluster)
        assert (present(here), readers(there)) == ({"alice": 1}, 1)
        wait(cluster, 20)
        assert polling.answer is not None
    assert told(here) == []  # it joined more than 60 s ago
    wait(cluster, GRACE)
    assert present(here) == {}
    assert told(there) == [("leave", {"name": "alice", "readers": 0})]


def test_a_nameless_reader_that_changes_process_is_counted_once(cluster: Cluster) -> None:
    here, there = cluster.processes
    for process in (here, there, here):
        process.park("/poll/lobby?after=now").hang_up()
        report(cluster)
        assert readers(here) == 1


def test_a_tab_at_another_process_is_a_reader_of_its_own(cluster: Cluster) -> None:
    here, there = cluster.processes
    here.park("/poll/lobby?after=now&as=alice&wait=100")
    report(cluster)
    tab = there.park("/poll/lobby?after=now&as=alice&wait=100")
    report(cluster)
    assert present(here) == {"alice": 2}
    tab.hang_up()
    report(cluster)
    assert present(here) == {"alice": 2}
    wait(cluster, GRACE)
    assert present(there) == {"alice": 1}
    assert [event for event, _ in told(here)] == ["join"]


def test_who_leaves_at_one_process_leaves_at_all(cluster: Cluster) -> None:
    here, there = cluster.processes
    here.park("/poll/lobby?after=now&as=alice").hang_up()
    held = here.park("/poll/lobby?after=now&as=bob")
    report(cluster)
    assert there.ask("DELETE", "/presence/lobby?as=alice").status == 204
    assert there.ask("DELETE", "/presence/lobby?as=bob").status == 204
    report(cluster)
    assert present(there) == {"bob": 1}
    held.hang_up()
    report(cluster)
    assert present(there) == {}
    assert [(event, data["name"]) for event, data in told(there)] == [
        ("join", "alice"),
        ("join", "bob"),
        ("leave", "alice"),
        ("leave", "bob"),
    ]


def test_a_client_that_has_just_come_or_left_sees_it_at_the_same_process(cluster: Cluster) -> None:
    here, _ = cluster.processes
    here.get("/poll/lobby?after=now&wait=0&as=alice")
    assert present(here) == {"alice": 1}
    assert here.ask("DELETE", "/presence/lobby?as=alice").status == 204
    assert present(here) == {}
    assert [(event, data["name"]) for event, data in told(here)] == [("join", "alice"), ("leave", "alice")]


def test_a_process_that_dies_takes_its_readers_with_it_after_the_grace(cluster: Cluster) -> None:
    here, there = cluster.processes
    there.park("/poll/lobby?after=now&as=alice")
    there.park("/poll/lobby?after=now&as=bob")
    there.park("/poll/*?after=now")
    here.park("/poll/lobby?after=now&as=bob&wait=100")
    report(cluster)
    lose(cluster, there)
    wait(cluster, ONLINE_SECONDS - 2)
    assert (present(here), readers(here)) == ({"alice": 1, "bob": 2}, 4)
    wait(cluster, 4)
    assert (present(here), readers(here)) == ({"bob": 1}, 1)
    assert (told(here)[-1][0], told(here)[-1][1]["name"]) == ("leave", "alice")
    assert [event for event, _ in told(here)].count("leave") == 1


def test_a_process_that_has_connected_again_reports_all_and_what_has_left_meanwhile_leaves(
    cluster: Cluster,
) -> None:
    here, there = cluster.processes
    there.park("/poll/lobby?after=now&as=alice&wait=100")
    there.park("/poll/lobby?after=now&as=bob").hang_up()
    there.park("/poll/*?after=now&as=zoe&wait=100")
    report(cluster)
    path, cluster.wires.path = cluster.wires.path, Path("/nowhere")
    cluster.wires.wires[1].abortConnection()
    there.driver.send("GET", "/poll/lobby?after=oldest&wait=100&as=eve", [], b"")
    wait(cluster, ONLINE_SECONDS - 5)
    there.ask("DELETE", "/presence/lobby?as=bob")
    cluster.wires.path = path
    wait(cluster, 3)
    report(cluster)
    assert (present(here), readers(here)) == ({"alice": 1, "eve": 1}, 3)
    told_of = [(event, data["name"]) for event, data in told(here)]
    assert sorted(told_of[-2:]) == [("join", "eve"), ("leave", "bob")]
    wait(cluster, GRACE)
    assert present(here).keys() == {"alice", "eve"}


def test_a_process_whose_readers_were_taken_out_reports_them_again(cluster: Cluster) -> None:
    here, there = cluster.processes
    there.park("/poll/lobby?after=now&as=alice&wait=120")
    report(cluster)
    for process in cluster.redis.ask("ZRANGE", f"{cluster.prefix}processes", 0, -1):
        cluster.redis.ask("ZREM", f"{cluster.prefix}processes", process)
        cluster.redis.ask("ZADD", f"{cluster.prefix}gone", 1, process)
    wait(cluster, 5)
    assert present(here) == {"alice": 1}
    events = [event for event, _ in told(here)]
    assert events in (["join"], ["join", "leave", "join"])


def test_a_redis_that_was_emptied_is_told_who_is_there(cluster: Cluster) -> None:
    here, there = cluster.processes
    here.park("/poll/lobby?after=now&as=alice&wait=120")
    report(cluster)
    cluster.redis.ask("DEL", *cluster.redis.ask("KEYS", f"{cluster.prefix}*"))
    wait(cluster, 3)
    report(cluster)
    assert present(there) == {"alice": 1}
    assert told(there) == [("join", {"name": "alice", "readers": 1})]


def test_many_names_are_reported_in_several_runs(cluster: Cluster) -> None:
    here, there = cluster.processes
    most = 3 * REDIS_PRESENCE_AT_ONCE // 2
    for number in range(most):
        here.driver.send("GET", f"/poll/room{number}?after=now&wait=120&as=alice", [], b"")
    cluster.settle()
    report(cluster, 5)
    assert present(there, f"room{most - 1}") == {"alice": 1}
    cluster.wires.wires[0].abortConnection()
    wait(cluster, 2)
    assert present(there, f"room{most - 1}") == {"alice": 1}
    lose(cluster, here)
    wait(cluster, GRACE + 2)
    assert present(there, f"room{most - 1}") == {}
    assert readers(there, "room0") == 0


def test_a_crowd_is_listed_in_part_and_told_by_its_count(cluster: Cluster) -> None:
    here, there = cluster.processes
    most = PRESENCE_MEMBERS + 3
    for number in range(most):
        cluster.processes[number % 2].driver.send("GET", f"/poll/lobby?after=now&as=name{number}", [], b"")
    cluster.settle()
    report(cluster, 10)
    shown = here.get("/presence/lobby").json
    assert (shown["readers"], len(shown["members"]), shown["more"]) == (most, PRESENCE_MEMBERS, True)
    wait(cluster, 3)
    assert told(there)[-1] == ("count", {"readers": most})
    assert [event for event, _ in told(there)].count("count") <= 3


def test_a_program_is_called_with_each_change_at_one_process(cluster: Cluster) -> None:
    heard: list[PresenceChange] = []
    for process in cluster.processes:
        tracker = process.comet.routes.presence
        assert tracker is not None
        tracker.announcer.on_change = heard.append
    for process in cluster.processes:
        process.park("/poll/lobby?after=now&as=alice")
        report(cluster)
    (change,) = heard
    assert (change.event, change.recipient, change.name, change.readers) == ("join", "lobby", "alice", 1)


def test_while_redis_refuses_writes_nothing_is_told_and_all_of_it_after(cluster: Cluster) -> None:
    here, there = cluster.processes
    cluster.redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        here.park("/poll/lobby?after=now&as=alice&wait=100")
        wait(cluster, 3)
        assert present(there) == {}
    finally:
        cluster.redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")
    wait(cluster, 3)
    assert present(there) == {"alice": 1}
    assert told(there) == [("join", {"name": "alice", "readers": 1})]


def test_two_tabs_that_change_places_are_counted_as_two(cluster: Cluster) -> None:
    here, there = cluster.processes
    first = here.park("/poll/lobby?after=now&as=alice")
    second = there.park("/poll/lobby?after=now&as=alice")
    report(cluster)
    # The second comes here, and the first goes there, before any process has heard of the other's.
    second.hang_up()
    here.park("/poll/lobby?after=now&as=alice")
    first.hang_up()
    there.park("/poll/lobby?after=now&as=alice")
    report(cluster, 6)
    assert present(here) == {"alice": 2}
