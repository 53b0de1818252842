from __future__ import annotations

import pytest

from cometd_lite.units import count, duration, size, span, whole


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (count, "1", 1),
        (count, "12", 12),
        (whole, "0", 0),
        (whole, "2000", 2_000),
        (size, "1", 1),
        (size, "1k", 1024),
        (size, "2K", 2048),
        (size, "3MB", 3 * 1024**2),
        (size, "1g", 1024**3),
        (span, "0", 0.0),
        (span, "1", 1.0),
        (span, "0.5", 0.5),
        (span, "90s", 90.0),
        (span, "1.5M", 90.0),
        (span, "12h", 43_200.0),
        (duration, "7d", 604_800.0),
        (duration, "0.000001", 0.000001),
    ],
)
def test_options_are_read_as_people_write_them(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "texts", "sentence"),
    [
        (count, ["", "0", "-1", "1.5", "one", "1k", "\u00b2"], "a whole number, 1 or more"),
        (whole, ["", "-1", "1.5", "1s"], "a whole number, 0 or more"),
        (
            size,
            ["", "0", "0k", "-1", "1.5k", "1t", "k"],
            "a number of bytes, as in 65536, 64k or 256M",
        ),
        (
            span,
            ["", "-1", "soon", "1w", "1.", "1e3"],
            "a time in seconds, or as in 90s, 15m, 12h or 7d",
        ),
        (duration, ["0", "0s", "-1", "soon"], "a time above 0, in seconds or as in 90s, 15m, 12h or 7d"),
    ],
)
def test_what_an_option_takes_is_said_where_it_does_not_take_a_text(read, texts, sentence):
    for text in texts:
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            read(text)
