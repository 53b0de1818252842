"""The corpus of the fuzzer, tried every day: what was found once is not found again, and needs no Atheris."""

from __future__ import annotations

import fuzz
import pytest
from targets import TARGETS, Found, hold


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_that_is_kept_holds(name: str) -> None:
    inputs = fuzz.inputs(name)
    assert inputs
    for data in inputs:
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(fuzz.line(data)) from error


def test_what_is_kept_is_short_and_kept_once() -> None:
    for name in TARGETS:
        inputs = fuzz.inputs(name)
        assert len(set(inputs)) == len(inputs)
        assert max(map(len, inputs)) <= fuzz.MOST_BYTES
    assert set(fuzz.NAMES) == set(TARGETS)


def test_a_broken_promise_is_found() -> None:
    hold(True, "it holds")
    with pytest.raises(Found):
        hold(False, "it does not")
