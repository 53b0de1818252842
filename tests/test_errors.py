from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from cometd_lite import errors
from cometd_lite.errors import CometError, MethodNotAllowed


def tree(of: type[CometError] = CometError) -> Iterator[type[CometError]]:
    yield of
    for error in of.__subclasses__():
        if error.__module__ == errors.__name__:  # the client has errors of its own
            yield from tree(error)


def make(error: type[CometError]) -> CometError:
    if issubclass(error, MethodNotAllowed):
        return error("A sentence.", ("GET",))
    return error("A sentence.")


every_error = pytest.mark.parametrize("error", list(tree()), ids=lambda error: error.__name__)


@every_error
def test_an_error_is_a_problem_of_rfc_9457(error: type[CometError]) -> None:
    problem = make(error).problem()
    assert problem == {
        "type": f"urn:cometd-lite:problem:{error.kind}",
        "title": error.title,
        "status": error.status,
        "detail": "A sentence.",
    }
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.kind)
    assert 400 <= error.status <= 599


@every_error
def test_a_client_that_may_come_back_gets_a_time(error: type[CometError]) -> None:
    # binwiederhier/ntfy#1173 (row 18): a 429 without Retry-After makes clients hammer.
    retry_after = make(error).retry_after
    if error.status in {429, 503}:
        assert retry_after is not None
        assert retry_after >= 1
    else:
        assert retry_after is None


def test_every_kind_of_error_has_a_type_of_its_own() -> None:
    # InternalError is what clients see of CometError, which is never raised itself.
    kinds = [error.kind for error in tree() if error is not CometError and "kind" in vars(error)]
    assert len(kinds) == len(set(kinds))


def test_a_wrong_method_is_told_the_right_ones() -> None:
    assert MethodNotAllowed("This path takes GET.", ("GET", "OPTIONS")).allowed == ("GET", "OPTIONS")
