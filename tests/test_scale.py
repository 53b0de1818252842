"""The model of scale: its formulas, plans and simulation, and that the pages hold what it says."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import scale
import tables
from scale import Both, Costs, Machines, Queues, Workload, plan, simulate

MEASURED = json.loads(scale.MEASURED.read_text())
FIXED = {
    "performance": {"cometd-lite": {"mailbox": 50.0, "fanout": 12.0, "stream": 6.0}},
    "settings": {
        "cometd-lite, in memory": [0.4, 20_000, 20, 0],
        "cometd-lite, one on Redis": [0.8, 10_000, 40, 30],
        "cometd-lite, two on Redis": [0.8, 12_000, 50, 30],
    },
    "costs": {
        "mailbox": [100, 45],
        "fanout": [15, 0],
        "stream": [8, 0],
        "poll": [40, 20],
        "connect": [80, 20],
        "look": [25, 20],
        "wake_here": [20, 5],
        "wake_there": [60, 15],
        "process_bytes": [58_000_000, 2_400_000],
        "parked_bytes": [4_000, 230],
        "kernel_bytes": [4_000, 0],
        "mailbox_bytes": [0, 700],
        "message_bytes": [0, 170],
        "memory_mailbox_bytes": [800, 0],
        "memory_message_bytes": [500, 0],
    },
}
"""µs and bytes, in the shape of measured.json, whose own numbers change with each measurement."""
NOTHING = Both(0.0)


# Formulas.


def test_waiting_for_things_of_one_kind_is_that_of_an_m_d_1_queue():
    rate, seconds = 50.0, 0.01
    busy = rate * seconds
    assert scale.waiting([(rate, seconds)]) == pytest.approx(busy * seconds / (2 * (1 - busy)))


def test_the_wait_has_no_end_where_more_comes_than_can_be_served():
    assert scale.waiting([(60.0, 0.01), (50.0, 0.01)]) == float("inf")


@pytest.mark.parametrize(
    ("processes", "readers", "hit"), [(1, 50, 1), (10, 1, 1), (2, 2, 1.5), (3, 10_000, 3)]
)
def test_the_number_of_processes_with_readers_is_the_expected_one(processes, readers, hit):
    assert scale.processes_hit(processes, Workload(1, fan_out=readers)) == pytest.approx(hit)


def test_readers_that_a_load_balancer_keeps_together_stand_at_one_process():
    assert scale.processes_hit(10, Workload(1, fan_out=500, by_recipient=True)) == 1


# Plans.


def test_few_clients_need_one_process_and_no_redis():
    found = plan(FIXED, Workload(5_000, 100))
    assert (found.processes, found.redis, found.machines) == (1, 0, 1)


WORKLOADS = [
    Workload(1_000_000, 1_000),
    Workload(1_000_000, 20_000, 1, 25),
    Workload(200_000, 50_000),
    Workload(10_000_000, 5_000, 200),
    Workload(10_000_000, 5_000, 200, by_recipient=True),
    Workload(10_000_000, 100, 1, 120, kept=50),
]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_nothing_is_busier_than_it_may_be_and_all_come_back_in_time(workload):
    machine = Machines()
    found = plan(FIXED, workload, machine)
    assert max(found.load) <= machine.busy
    assert found.workload.clients <= found.processes * machine.max_parked
    assert found.redis_memory <= found.redis * machine.redis_memory
    assert found.memory + found.redis_memory <= found.machines * machine.memory
    assert max(found.process_ends, found.redis_restarts, found.all_connect) <= machine.back_within


@pytest.mark.parametrize("workload", WORKLOADS)
def test_no_plan_has_more_than_its_limits_ask_for(workload):
    found = plan(FIXED, workload)
    assert found.processes == max(found.limits.values())
    assert found.redis == max(found.redis_limits.values())
    one_less = found.processes - 1
    load = scale.in_a_second(found.costs, workload, one_less).own
    if found.limits["CPU"] == found.processes:
        assert load > Machines().busy * one_less


@pytest.mark.parametrize(
    "more", [{"clients": 3_000_000}, {"pushes": 9_000.0}, {"fan_out": 50}, {"kept": 400}, {"wait": 25.0}]
)
def test_more_to_do_never_needs_less(more):
    workload = Workload(1_000_000, 3_000, 5, 120)
    few, many = plan(FIXED, workload), plan(FIXED, workload._replace(**more))
    assert many.processes >= few.processes
    assert many.redis >= few.redis
    assert many.memory >= few.memory


def test_readers_that_stand_together_need_less_of_redis():
    workload = Workload(10_000_000, 5_000, 200)
    apart, together = plan(FIXED, workload), plan(FIXED, workload._replace(by_recipient=True))
    assert together.redis < apart.redis


def test_a_slower_redis_is_what_limits():
    slow = {**FIXED, "settings": {**FIXED["settings"]}}
    latency, rate, own, redis = slow["settings"]["cometd-lite, two on Redis"]
    slow["settings"]["cometd-lite, two on Redis"] = [latency, rate, own, redis * 100]
    workload = Workload(1_000_000, 5_000)
    assert plan(slow, workload).redis > plan(FIXED, workload).redis
    assert plan(slow, workload).processes == plan(FIXED, workload).processes


# The simulation.


def test_servers_do_one_thing_at_a_time_in_the_order_in_which_they_come():
    queues, ended = Queues(2), []
    for name, now, server in (("late", 3.0, 0), ("first", 1.0, 0), ("second", 1.5, 0), ("beside", 1.5, 1)):
        queues.arrive(now, server, 1.0, lambda ends, name=name: ended.append((name, ends)))
    queues.run()
    assert sorted(ended) == [("beside", 2.5), ("first", 2.0), ("late", 4.0), ("second", 3.0)]


@pytest.mark.parametrize("busy", [0.3, 0.6])
def test_a_simulated_redis_is_an_m_d_1_queue(busy):
    seconds = 0.001
    redis_alone = replace(
        Costs.on_redis(FIXED), push=Both(0.0, seconds), first_stream=NOTHING, stream=NOTHING
    )
    found = plan(FIXED, Workload(1, busy / seconds))._replace(costs=redis_alone, redis=1)
    took = simulate(found, events=40_000)
    waited = statistics.mean(took) - seconds
    assert waited == pytest.approx(scale.waiting([(busy / seconds, seconds)]), rel=0.1)


def test_a_push_takes_what_its_steps_take_and_what_it_waits_for_each():
    found = plan(FIXED, Workload(1_000, 6_000), redis=1)._replace(processes=2)
    costs, waits = found.costs, found.waits
    steps = costs.push.own + costs.push.redis + costs.first_stream.redis / 2 + costs.first_stream.own
    took = statistics.mean(simulate(found, events=40_000))
    assert took == pytest.approx(steps + 2 * waits.own + waits.redis, rel=0.1)


def test_a_simulation_is_the_same_each_time_and_takes_no_less_than_what_it_costs():
    found = plan(FIXED, Workload(1_000_000, 2_000, 20, 120))
    took = simulate(found, events=20_000)
    assert took == simulate(found, events=20_000)
    assert took == sorted(took)
    assert took[0] >= found.costs.push.own + found.costs.push.redis + found.costs.first_poll.own
    assert simulate(plan(FIXED, Workload(1_000))) == []


def test_a_busier_server_answers_later():
    def p99(pushes):
        found = plan(FIXED, Workload(10_000, 1), redis=1)._replace(workload=Workload(10_000, pushes))
        return scale.quantile(simulate(found, events=20_000), 0.99)

    assert p99(4_000) > p99(100)


# The command and the pages.


def test_the_command_says_what_ten_million_clients_need(capsys):
    assert scale.main(["--clients", "10_000_000", "--pushes-per-second", "5000", "--fan-out", "200"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "10,000,000 clients read streams; 5,000 pushes/s to 200 readers each: 1,000,000 deliveries/s\n"
    )
    for line in ("  processes  ", "  Redis  ", "  machines  ", "p50", "p99"):
        assert line in said


def test_the_command_says_where_redis_is_not_needed(capsys):
    assert scale.main(["--clients", "100", "--pushes-per-second", "0"]) == 0
    said = capsys.readouterr().out
    assert "none: one process is enough" in said
    assert "p50" not in said


@pytest.mark.parametrize(
    "words", ["--clients 0", "--busy 1", "--pushes-per-second -1", "--pushes-per-second nan"]
)
def test_wrong_numbers_are_explained(words, capsys):
    with pytest.raises(SystemExit):
        scale.main(words.split())
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_what_was_measured(page):
    text = page.read_text()
    assert tables.written(text, MEASURED) == text, "python tests/bench/tables.py writes them"
    assert text.count("tests/bench/tables.py -->") >= 2
