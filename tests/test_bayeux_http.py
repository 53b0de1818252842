"""What requests and answers of Bayeux over HTTP are made of: cookies, callbacks and scripts."""

from __future__ import annotations

import pytest

from cometd_lite.bayeux.http import browser_of, is_callback, script_answer, set_cookie


@pytest.mark.parametrize(
    ("header", "browser"),
    [
        (b"BAYEUX_BROWSER=abcdefgh", "abcdefgh"),
        (b'x=1; BAYEUX_BROWSER="abcdefgh"; y=2', "abcdefgh"),
        (b"XBAYEUX_BROWSER=abcdefgh", None),
        (b"BAYEUX_BROWSER=short", None),
        (b"BAYEUX_BROWSER=" + b"a" * 65, None),
        (b"BAYEUX_BROWSER=abc\r\nSet-Cookie: x", None),
        (b"\xff", None),
        (None, None),
    ],
)
def test_a_browser_is_known_by_a_well_formed_cookie(header: bytes | None, browser: str | None) -> None:
    assert browser_of(header) == browser


def test_a_browser_is_known_by_the_cookie_that_it_was_given() -> None:
    line = set_cookie("0123456789abcdef", secure=True)
    assert browser_of(line.removeprefix(b"Set-Cookie: ").partition(b";")[0]) == "0123456789abcdef"


@pytest.mark.parametrize("name", ["a", "$", "_cometd._callback7", "a.b.$c_", "a" * 128])
def test_a_callback_is_a_name_or_names_with_dots_between(name: str) -> None:
    assert is_callback(name)


def test_a_script_has_no_raw_line_separators() -> None:
    body = script_answer("f", '["\u2028\u2029"]'.encode()).body
    assert body == b'/**/f(["\\u2028\\u2029"]);'
