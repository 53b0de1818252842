"""The soaks, small enough for every day; ``python tests/soak/soak_delivery.py`` runs the whole size."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import soak_attack
import soak_coming_and_going
import soak_delivery
import soak_parked
import soak_presence
import soak_redis_failover
import soak_webhooks

pytestmark = pytest.mark.slow


def test_every_reader_hears_everything_once_and_in_order_while_connections_are_reset(tmp_path: Path) -> None:
    # slact/nchan#367 (row 3), faye/faye#251 (row 9), twisted/twisted#8692 (row 25): real resets, at random.
    soak = asyncio.run(soak_delivery.deliver(tmp_path, pushes=2_000, recipients=50, readers=60, seed=7))
    assert soak.wrong == []
    assert soak.resets > 50


def test_nothing_is_left_of_polls_whose_clients_left(tmp_path: Path) -> None:
    assert soak_parked.soak(tmp_path, polls=300, rounds=2).wrong == []


def test_those_who_come_and_go_hear_everything_and_leave_nothing_behind(tmp_path: Path) -> None:
    crowd = asyncio.run(soak_coming_and_going.soak(tmp_path, clients=200, seconds=5, rate=50, seed=7))
    assert crowd.wrong == []
    assert crowd.seen["left"] > 100


def test_one_address_that_takes_all_it_gets_harms_no_other_client(tmp_path: Path) -> None:
    # A quarter of a second: the tests' machine has other things to do than to measure latencies.
    attack = soak_attack.soak(tmp_path, clients=20, seconds=2.5, rate=500, bound=50, floor=0.25)
    assert asyncio.run(attack) == []


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "two at one Redis"])
def test_those_who_come_and_go_under_names_are_present_as_a_model_says(tmp_path: Path, alone: bool) -> None:
    guests = {"poller": 20, "stream": 10, "socket": 10}
    house = asyncio.run(
        soak_presence.soak(tmp_path, guests=guests, seconds=8, grace=2.0, alone=alone, seed=7)
    )
    assert house.wrong == []
    assert house.seen["leave"] > 20


@pytest.mark.parametrize("redis", [False, True], ids=["SQLite", "two at one Redis"])
def test_an_application_that_is_slow_fails_and_is_down_is_told_of_everything(
    tmp_path: Path, redis: bool
) -> None:
    town = soak_webhooks.soak(
        tmp_path, visitors=10, persons=10, seconds=0.7, slow=0.5, down=2, redis=redis, seed=7
    )
    seen = asyncio.run(town)
    assert seen.wrong == []
    assert seen.seen["unread"] > 5


def test_a_failover_loses_nothing_that_the_replica_had_and_readers_are_told_of_the_rest(
    tmp_path: Path,
) -> None:
    truth = asyncio.run(soak_redis_failover.soak(tmp_path, turns=1))
    assert truth.faults == []
    assert len(truth.replicated) > 10
