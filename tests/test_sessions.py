from __future__ import annotations

import re

import pytest
from helpers import EPOCH
from hypothesis import given
from hypothesis import strategies as st

from cometd_lite.core.message import Cursor
from cometd_lite.core.sessions import Session, Sessions, new_id
from cometd_lite.errors import ServerFull
from cometd_lite.limits import SENDING_LOOKS, SESSIONS_AT_ONCE

PLACE = Cursor(EPOCH, 0)


def add(sessions: Sessions[Session], now: float = 0.0, ttl: float = 10.0) -> Session:
    session = Session(new_id(), ("bob",), PLACE, ttl)
    sessions.add(session, now)
    return session


@pytest.fixture
def sessions() -> Sessions[Session]:
    return Sessions(100)


def test_an_id_cannot_be_guessed() -> None:
    ids = {new_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch("[0-9a-f]{40}", one) for one in ids)  # 160 bits


def test_a_session_is_found_by_its_id_until_it_is_removed(sessions: Sessions[Session]) -> None:
    session = add(sessions)
    assert sessions.get(session.id, 0.0) is session
    assert sessions.get("other", 0.0) is None
    assert list(sessions) == [session]
    sessions.remove(session)
    sessions.remove(session)
    assert sessions.get(session.id, 0.0) is None
    assert len(sessions) == 0


def test_a_session_that_is_not_used_is_gone_after_its_time(sessions: Sessions[Session]) -> None:
    session = add(sessions, now=5.0)
    assert sessions.get(session.id, 14.9) is session
    assert sessions.expire(14.9) == []
    assert sessions.get(session.id, 15.0) is None  # though nobody has swept yet
    assert sessions.expire(15.0) == [session]
    assert sessions.expire(15.0) == []
    assert len(sessions) == 0


def test_a_session_lives_while_it_is_held_and_for_its_time_after(sessions: Sessions[Session]) -> None:
    session = add(sessions)
    sessions.hold(session)
    sessions.hold(session)
    assert sessions.expire(1_000.0) == []
    sessions.release(session, 1_000.0)
    assert sessions.expire(2_000.0) == []
    assert sessions.get(session.id, 2_000.0) is session
    sessions.release(session, 2_000.0)
    assert sessions.expire(2_009.9) == []
    assert sessions.get(session.id, 2_009.9) is session
    assert sessions.expire(2_010.0) == [session]


def test_a_session_that_is_touched_lives_for_its_time_from_then(sessions: Sessions[Session]) -> None:
    session = add(sessions)
    sessions.touch(session, 9.0)
    assert sessions.expire(18.9) == []
    assert sessions.expire(19.0) == [session]


def test_a_session_that_is_held_again_and_again_takes_one_place_among_the_times(
    sessions: Sessions[Session],
) -> None:
    session = add(sessions)
    for now in range(100):
        sessions.hold(session)
        sessions.release(session, float(now))
        sessions.expire(float(now))
        sessions.check_invariants()


def test_a_session_that_is_held_for_no_time_at_all_holds_no_other_up(sessions: Sessions[Session]) -> None:
    session = add(sessions, ttl=1e-300)
    sessions.hold(session)
    assert sessions.expire(1e6) == []  # it looked again at the same moment, for ever
    sessions.release(session, 1e6)
    assert sessions.expire(1e6) == [session]


def test_no_more_are_remembered_than_may_be_and_none_is_evicted() -> None:
    sessions: Sessions[Session] = Sessions(2)
    first, _ = add(sessions), add(sessions)
    with pytest.raises(ServerFull) as caught:
        add(sessions)
    assert caught.value.retry_after is not None
    assert len(sessions) == 2
    sessions.remove(first)
    add(sessions)


def test_sessions_that_come_and_go_leave_nothing_behind(sessions: Sessions[Session]) -> None:
    for _ in range(10_000):
        sessions.remove(add(sessions, ttl=86_400.0))
    sessions.check_invariants()
    assert len(sessions) == 0


def test_sessions_may_be_removed_while_they_are_gone_through(sessions: Sessions[Session]) -> None:
    for _ in range(3):
        add(sessions)
    for session in sessions:
        sessions.remove(session)
    assert len(sessions) == 0


@given(st.lists(st.tuples(st.sampled_from(["add", "hold", "release", "touch", "tick"]), st.integers(0, 9))))
def test_a_session_lives_exactly_as_long_as_a_list_would_say(done: list[tuple[str, int]]) -> None:
    sessions: Sessions[Session] = Sessions(1_000)
    now = 0.0
    alive: dict[Session, list[float]] = {}  # how often each is held, and when it was used last
    for what, number in done:
        known = list(alive)
        session = known[number % len(known)] if known else None
        if what == "add":
            alive[add(sessions, now, ttl=3.0)] = [0, now]
        elif what == "tick":
            now += number
        elif session is None:
            continue
        elif what == "hold":
            sessions.hold(session)
            alive[session][0] += 1
        elif what == "touch":
            sessions.touch(session, now)
            alive[session][1] = now
        elif alive[session][0]:
            sessions.release(session, now)
            alive[session] = [alive[session][0] - 1, now]
        gone = {session for session, (held, used) in alive.items() if not held and used + 3.0 <= now}
        assert all(sessions.get(session.id, now) is None for session in gone)
        assert set(sessions.expire(now)) == gone
        sessions.check_invariants()
        for session in gone:
            del alive[session]
        assert set(sessions) == set(alive)


def test_a_session_lives_while_a_large_answer_is_on_its_way_and_for_its_time_after(
    sessions: Sessions[Session],
) -> None:
    session = add(sessions)
    on_its_way = [True]
    sessions.answered(session, 0.0, 20_000, lambda: on_its_way[0])
    for second in range(1, 100):
        assert sessions.expire(float(second)) == []
        assert sessions.get(session.id, float(second)) is session
    on_its_way[0] = False
    assert sessions.expire(100.0) == []
    assert sessions.expire(109.9) == []
    assert sessions.expire(110.0) == [session]
    sessions.check_invariants()


def test_a_session_is_found_while_an_answer_is_on_its_way_though_none_has_swept(
    sessions: Sessions[Session],
) -> None:
    session = add(sessions)
    sessions.answered(session, 0.0, 20_000, lambda: True)
    assert sessions.get(session.id, 1_000.0) is session


def test_where_it_is_not_known_whether_an_answer_has_left_its_size_allows_for_a_time(
    sessions: Sessions[Session],
) -> None:
    session = add(sessions)
    sessions.answered(session, 0.0, 1024 * 1024)
    assert sessions.expire(73.9) == []
    assert sessions.expire(74.0) == [session]


def test_a_small_answer_makes_no_session_live_longer(sessions: Sessions[Session]) -> None:
    session = add(sessions)
    sessions.answered(session, 5.0, 1_000, lambda: True)
    assert sessions.expire(10.0) == [session]


def test_many_answers_that_are_on_their_way_are_looked_at_some_at_a_time() -> None:
    sessions: Sessions[Session] = Sessions(SENDING_LOOKS + 2)
    looks = []

    def look() -> bool:
        looks.append(True)
        return True

    for _ in range(SENDING_LOOKS + 2):
        sessions.answered(add(sessions), 0.0, 20_000, look)
    assert sessions.expire(1.0) == []
    assert len(looks) == SENDING_LOOKS
    while sessions.is_due(1_000.0):
        assert sessions.expire(1_000.0) == [], "those that are over are looked at before they are forgotten"
    assert len(sessions) == SENDING_LOOKS + 2
    sessions.check_invariants()


def test_a_session_that_was_removed_is_not_kept_by_its_answer(sessions: Sessions[Session]) -> None:
    session = add(sessions)
    sessions.remove(session)
    sessions.answered(session, 0.0, 20_000, lambda: True)
    assert sessions.expire(1_000.0) == []
    sessions.check_invariants()


def test_sessions_that_expire_at_one_moment_go_in_several_turns() -> None:
    sessions: Sessions[Session] = Sessions(3 * SESSIONS_AT_ONCE)
    for number in range(2 * SESSIONS_AT_ONCE + 10):
        sessions.add(Session(str(number), (), PLACE, 5.0), 1.0)
    assert not sessions.is_due(5.9)
    for count in (SESSIONS_AT_ONCE, SESSIONS_AT_ONCE, 10):
        assert sessions.is_due(6.0)
        assert len(sessions.expire(6.0)) == count
    assert not sessions.is_due(6.0)
    assert len(sessions) == 0
    sessions.check_invariants()
