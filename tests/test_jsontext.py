from __future__ import annotations

import json
import math
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct, ValidationError
from msgspec.json import Decoder

from cometd_lite.jsontext import check, decode, dumps, kept, parse
from cometd_lite.limits import JSON_DEPTH, MESSAGE_DEPTH

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=20,
)
surrogates = st.sampled_from([r"\ud83d", r"\ude00", r"\uDBFF", r"\uDc00"])
escapes = st.lists(surrogates | st.sampled_from([r"\\", r"\n", "x", r"A", r"\"", "ud83d"])).map("".join)


def nested(levels: int) -> str:
    return '{"a":[' * (levels // 2) + "[" * (levels % 2) + "]" * (levels % 2) + "]}" * (levels // 2)


def called_at(depth: int, text: str) -> Any:
    """Parse a text on a stack of so many more frames."""
    return called_at(depth - 1, text) if depth else parse(text.encode())


# -- values


@given(values, st.sampled_from([None, 1]))
def test_a_text_is_read_as_python_reads_it(value: Any, indent: int | None) -> None:
    for ascii_only in (False, True):
        text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
        assert parse(text.encode()) == json.loads(text)
        assert check(text.encode()) == text.encode()


@given(values)
def test_what_is_written_is_read_back_the_same(value: Any) -> None:
    assert parse(dumps(value)) == json.loads(dumps(value)) == value
    assert b"\n" not in dumps(value)


@given(st.binary() | st.text().map(str.encode))
def test_whatever_arrives_is_json_or_a_value_error(text: bytes) -> None:
    for read in (parse, check):
        try:
            read(text)
        except ValueError:
            continue
        json.loads(text.decode())


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "nul", "NaN", "Infinity", "-", "01", "1.", ".5", "+1", "[1,]", '{"a":1,}', "{'a':1}", "1 2",
        "//\n1", '"\x01"', '"\\x"', '"\\u12"', '"\\ud83d', "\ufeff1", '"\0\\ud83d\0"', "[1e999,NaN]",
        "[1e999,1 2]",
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse(text.encode())
    with pytest.raises(ValueError, match=r"\S"):
        check(text.encode())


@pytest.mark.parametrize("text", [b'"\xff"', b'{"\xed\xa0\x80":1}', b'["\xc3"]', b'{"skipped":"\xff"}'])
def test_what_is_not_utf_8_is_refused_wherever_it_stands(text: bytes) -> None:
    class Other(Struct):
        x: int = 0

    for decoder in (Decoder(), Decoder(Raw), Decoder(dict[str, Raw]), Decoder(Other)):
        with pytest.raises(ValueError, match=r"\S"):
            decode(text, decoder)
    with pytest.raises(ValueError, match="utf-8"):
        check(text)


@pytest.mark.parametrize("value", [object(), {"a": object()}, "\ud83d", ["\ud83d"], {"\ud83d": 1}])
def test_what_cannot_be_written_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        dumps(value)


# -- numbers


@given(st.integers(-(10**60), 10**60))
def test_integers_of_any_size_stay_exact(number: int) -> None:
    assert parse(b"%d" % number) == number
    assert dumps(number) == str(number).encode()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e400", Decimal("1e400")),
        ("-1.5E+400", Decimal("-1.5E+400")),
        ("9" * 5_000, Decimal("9" * 5_000)),
        ("-" + "9" * 5_000, Decimal("-" + "9" * 5_000)),
        ("1e-400", 0.0),
        ("1e99999999999999999999", math.inf),
    ],
)
def test_a_number_that_python_cannot_hold_as_its_own_is_read_nevertheless(text: str, value: Any) -> None:
    assert parse(f'{{"a":[{text},1,2.5]}}'.encode()) == {"a": [value, 1, 2.5]}
    assert type(parse(text.encode())) is type(value)
    assert check(text.encode()) == text.encode()


def test_a_decimal_is_written_as_the_number_that_it_is() -> None:
    assert parse(dumps([Decimal("1e400")])) == [Decimal("1e400")]


# -- surrogates


@given(escapes)
def test_half_a_surrogate_is_read_as_the_replacement_character(inside: str) -> None:
    expected = json.loads(f'"{inside}"').encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for text, value in ((f'"{inside}"', expected), (f'{{"{inside}":1}}', {expected: 1})):
        assert parse(text.encode()) == json.loads(check(text.encode())) == value
        assert json.loads(kept(decode(text.encode(), Decoder(Raw)))) == value


def test_nothing_else_of_such_a_text_is_changed() -> None:
    text = rb'{ "n":1e999, "n":[1.0 ,"\\ud83d\/\u0041"], "h":"\udc00" }'
    assert check(b"\n" + text) == b"\n" + text.replace(rb"\udc00", rb"\ufffd")


# -- depth


@pytest.mark.parametrize("surroundings", ["{}", '["[[[[\\"[[",{}]', "[[],[],{}]"])
def test_a_message_is_nested_up_to_a_bound_and_a_text_up_to_another(surroundings: str) -> None:
    def text(levels: int) -> bytes:
        return surroundings.replace("{}", nested(levels - surroundings.startswith("["))).encode()

    raw = Decoder(Raw)
    assert check(text(MESSAGE_DEPTH)) == kept(decode(text(MESSAGE_DEPTH), raw)) == text(MESSAGE_DEPTH)
    too_deep = pytest.raises(ValueError, match=f"nested more than {MESSAGE_DEPTH} levels")
    with too_deep:
        check(text(MESSAGE_DEPTH + 1))
    with too_deep:
        kept(decode(text(MESSAGE_DEPTH + 1), raw))
    assert json.loads(dumps(parse(text(MESSAGE_DEPTH)))) == parse(text(MESSAGE_DEPTH))
    assert parse(text(JSON_DEPTH))
    for levels in (JSON_DEPTH + 1, 100_000):
        with pytest.raises(ValueError, match=f"nested more than {JSON_DEPTH} levels"):
            parse(text(levels))


@given(st.lists(st.integers(0, 2 * MESSAGE_DEPTH), max_size=5))
def test_the_deepest_of_many_counts_wherever_it_stands(levels: list[int]) -> None:
    text = f"[{','.join([nested(more) or '0' for more in levels])}]".encode()
    if max([0, *levels]) < MESSAGE_DEPTH:
        assert check(text) == text
    else:
        with pytest.raises(ValueError, match="nested more than"):
            check(text)


def test_many_arrays_beside_each_other_are_not_nested() -> None:
    text = b"[" + b'[],{"a":{}},' * 10_000 + rb'"[\"[\\",0]'
    assert check(text) == text


def test_brackets_in_strings_are_not_nested() -> None:
    text = ('["' + "[{" * 10_000 + r"\"[[[[[[" + '"]').encode()
    assert check(text) == text


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '["' + '[\\"' * 10_000, "]" * 100_000])
def test_what_never_ends_or_never_began_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse(text.encode())
    with pytest.raises(ValueError, match=r"\S"):
        check(text.encode())


def test_a_value_is_nested_up_to_the_bound_of_a_message() -> None:
    value: Any = []
    for _ in range(MESSAGE_DEPTH - 1):
        value = [value]
    assert parse(dumps(value)) == value
    with pytest.raises(ValueError, match="nested"):
        dumps([value])
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match=r"\S"):
        dumps(circle)


def test_reading_a_deep_text_leaves_the_limit_on_recursion_as_it_was() -> None:
    limit = sys.getrecursionlimit()
    assert called_at(300, nested(JSON_DEPTH))
    assert called_at(300, nested(JSON_DEPTH).replace("[]", "[1e999]"))
    with pytest.raises(ValueError, match=r"\S"):
        called_at(300, nested(JSON_DEPTH)[:-1])
    assert sys.getrecursionlimit() == limit


# -- decoders


def test_the_first_decoder_that_takes_a_text_reads_it() -> None:
    assert decode(b'["1e9999"]', Decoder(list[int]), Decoder(list[str])) == ["1e9999"]
    assert isinstance(decode(b"[1e9999]", Decoder(list[float]), Decoder(Raw)), Raw)
    with pytest.raises(ValidationError):
        decode(b"{}", Decoder(list[int]), Decoder(str))


def test_what_a_decoder_does_not_take_is_told_apart_from_what_is_no_json() -> None:
    with pytest.raises(ValidationError, match="int"):
        decode(b"[1]", Decoder(int))
    with pytest.raises(ValueError, match="truncated") as caught:
        decode(b"[1", Decoder(list[int]))
    assert not isinstance(caught.value, ValidationError)
