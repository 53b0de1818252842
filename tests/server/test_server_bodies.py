"""Bodies of both kinds: in any pieces, up to their bounds, and never read in two ways."""

from __future__ import annotations

import re

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from served import Answer, Served, chunked, head, post

from cometd_lite.server.body import Chunked, TooLarge
from cometd_lite.server.bounds import Bounds
from cometd_lite.server.head import Refused

BOUNDS = Bounds()


def decode(*pieces: bytes, most: int = 100) -> tuple[bytes, bytes] | None:
    """Return the content and what follows it; None where it is not complete."""
    chunks = Chunked(most, BOUNDS)
    for at, piece in enumerate(pieces):
        if chunks.feed(piece):
            return bytes(chunks.content), chunks.rest + b"".join(pieces[at + 1 :])
    return None


WHOLE = b'5\r\nhello\r\n0A;why="not"\r\n, 12345678\r\n0\r\nX-Trailer: y\r\n\r\nnext'


def test_chunks_are_put_together_in_any_pieces():
    expected = (b"hello, 12345678", b"next")
    assert decode(WHOLE) == expected
    for at in range(len(WHOLE)):
        assert decode(WHOLE[:at], WHOLE[at:]) == expected
    assert decode(*[WHOLE[at : at + 1] for at in range(len(WHOLE))]) == expected


def test_a_body_that_is_cut_off_is_not_complete():
    for at in range(len(WHOLE) - len(b"next")):
        assert decode(WHOLE[:at]) is None


def test_zeros_before_a_size_change_nothing():
    assert decode(b"0001\r\nx\r\n000\r\n\r\n") == (b"x", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1\t\r\n",
        b"1\n",
        b"1\rx",
        b"1;\r\n",
        b"1;;\r\n",
        b"1; \r\n",
        b"1;a;\r\n",
        b"1;;a\r\n",
        b"1;a \r\n",
        b"1 a\r\n",
        b"1=a\r\n",
        b"1;=b\r\n",
        b"1;a=\r\n",
        b"1;a=b=c\r\n",
        b"1;a==b\r\n",
        b"1;a b\r\n",
        b"1;a,b\r\n",
        b"1;(a)\r\n",
        b"1;\xe4\r\n",
        b"1;a=\xe4\r\n",
        b'1;"a"\r\n',
        b'1;a="\r\n',
        b'1;a="b\r\n',
        b'1;a="b\\"\r\n',
        b'1;a="b"c\r\n',
        b'1;a="b" c\r\n',
        b'1;a=b"c"\r\n',
        b'1;a="\x7f"\r\n',
        b'1;a="\\\x00"\r\n',
        b"1;a\x00\r\n",
        b"1;a\nb\r\n",
        b"1;a\rb\r\n",
        b"123456789\r\n",
        b"1\r\nxy\r\n",
        b"1\r\nx\n",
        b"1\r\nx0\r\n",
        b"2\r\nx\r\n0",
        b"0\r\n\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX: y\n\r\n\r\n",
        b"0\r\nX: \x00\r\n\r\n",
        b"0\r\nX: y\r\n z\r\n\r\n",
        b"\xd9\xa1\r\n",
    ],
)
def test_what_is_not_quite_chunked_coding_is_refused(data):
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        with pytest.raises(Refused) as caught:
            decode(*pieces, b"\r\n\r\n" if b"\r\n\r\n" not in data and data[:2] == b"0\r" else b"")
        assert caught.value.status == 400


@pytest.mark.parametrize(
    "extensions",
    [
        b";a",
        b";a=b",
        b";!#$%&'*+.^_`|~0-9A-Za-z=~",
        b';a=""',
        b';a="b"',
        b';a="\t !#[]~;=\xc3\xa4"',
        b';a="\\"\\\\\\\t\\a\\\xe4"',
        b';a;b=c;d="e";f',
        b" ;a",
        b"\t ; \ta \t= \tb ;c",
        b'; a = "b" ; c',
    ],
)
def test_extensions_of_the_grammar_are_taken_and_dropped(extensions):
    data = b"1%b\r\nx\r\n0%b\r\n\r\n" % (extensions, extensions)
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        assert decode(*pieces) == (b"x", b"")


some_lines = some.lists(
    some.sampled_from([b"1", b";", b";", b"a", b"=", b'"', b"\\", b" ", b"\t", b"\r", b"\xe4", b"\x00"]),
    max_size=12,
).map(lambda parts: b"1" + b"".join(parts))


@given(some_lines)
@example(b'1;a="\\')
@example(b'1;a="b" ')
def test_the_beginning_of_a_size_line_is_refused_as_soon_as_nothing_can_make_it_good(line):
    def is_taken(data: bytes) -> bool:
        try:
            decode(data, most=0x1_0000_0000)
        except Refused:
            return False
        return True

    endings = [b"\r\n", b"\n", b"a\r\n", b";a\r\n", b'"\r\n', b'a"\r\n']
    assert is_taken(line) == any(is_taken(line + ending) for ending in endings)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"1;" + b"x" * 600 + b"\r\n", 400),
        (b"1;" + b"x" * 600, 400),
        (b"1" * 600, 400),
        (b"1;%b\r\nx\r\n" % (b"y" * 400) * 3, 400),
        (b"0\r\n" + b"X: y\r\n" * 1_000, 431),
        (b"0\r\n" + b"X: y\r\n" * 1_000 + b"\r\n", 431),
    ],
)
def test_extensions_and_trailers_have_bounds(data, status):
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        with pytest.raises(Refused) as caught:
            decode(*pieces)
        assert caught.value.status == status


def test_a_body_over_its_bound_is_known_before_it_has_come():
    assert decode(b"64\r\n") is None
    for data in (b"65\r\n", b"FFFFFFFF\r\n", b"60\r\n" + b"x" * 96 + b"\r\n5\r\n"):
        with pytest.raises(TooLarge):
            decode(data)


class Seen:
    def __init__(self) -> None:
        self.body, self.complete = b"", False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


pieces = some.lists(
    some.one_of(
        some.sampled_from(
            [b"1", b"0", b"5", b"\r\n", b"\r\n", b"\r\n", b"\n", b"x", b"hello", b";", b" ", b"X: y"]
        ),
        some.binary(max_size=2),
        some.binary(max_size=9).map(lambda body: b"%x\r\n%b\r\n" % (len(body), body)),
    ),
    max_size=8,
)


SPACED_EXTENSION = re.compile(rb"[\t ][;=]|[;=][\t ]").search


@given(pieces)
@example([b"1;x"])
@example([b'1;x="\\""'])
@example([b"1 ; x\r\na\r\n"])
def test_what_is_accepted_here_llhttp_reads_in_the_same_way(pieces):
    data = b"".join(pieces) + b"0\r\n\r\n"
    try:
        found = decode(data, most=10_000)
    except (Refused, TooLarge):
        return
    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(head("POST", "/", "Transfer-Encoding: chunked"))
    body = data if found is None else data[: len(data) - len(found[1])]
    try:
        parser.feed_data(body)
    except httptools.HttpParserError:
        assert SPACED_EXTENSION(body), "llhttp has no bad whitespace around extensions, which the RFC allows"
        return
    assert seen.complete == (found is not None)
    assert found is None or seen.body == found[0]


# -- over a connection


def test_a_body_may_come_in_any_pieces_and_another_request_right_after_it():
    for data in (post("/echo", b"hello"), chunked("/echo", b"hel", b"lo")):
        both = data + head()
        for at in range(len(both)):
            served = Served().send(both[:at], both[at:])
            assert served.read().body == b"hello"
            assert served.read().body == b"root"
        served = Served().send(*[both[at : at + 1] for at in range(len(both))])
        assert served.read().body == b"hello"
        assert served.read().body == b"root"


def test_an_empty_body_is_one():
    assert Served().ask(post("/echo")).body == b""
    assert Served().ask(chunked("/echo")).body == b""
    assert Served().ask(head("POST", "/echo")).body == b""


def test_a_length_over_the_bound_is_refused_before_the_body_is_read():
    served = Served(bounds=Bounds(body=10))
    answer = served.ask(head("POST", "/echo", "Content-Length: 11", "Expect: 100-continue"))
    assert (answer.status, answer.body) == (413, b"TooLarge")
    assert answer.fields[b"connection"] == b"close"
    assert answer.rest == b""
    assert served.send(post("/echo", b"x")).sent == b""
    assert served.ticks(10).closed


def test_a_chunked_body_is_refused_as_soon_as_it_passes_the_bound():
    served = Served(bounds=Bounds(body=10))
    served.send(head("POST", "/echo", "Transfer-Encoding: chunked") + b"6\r\n123456\r\n")
    assert served.sent == b""
    answer = served.ask(b"5\r\n")
    assert (answer.status, answer.fields[b"connection"]) == (413, b"close")
    assert served.send(b"78901\r\n0\r\n\r\n" + head()).sent == b""
    assert served.ticks(10).closed
    assert Served(bounds=Bounds(body=10)).ask(chunked("/echo", b"12345", b"67890")).body == b"1234567890"


def test_a_route_may_have_a_bound_of_its_own():
    assert Served().ask(post("/small", b"1234567890")).body == b"1234567890"
    assert Served().ask(post("/small", b"12345678901")).status == 413
    assert Served().ask(chunked("/small", b"12345678901")).status == 413


def test_what_is_not_found_is_said_when_its_body_was_read_and_the_connection_lives_on():
    served = Served()
    served.send(post("/nowhere", b"123"), post("/", b"123"), post("/echo", b"123"))
    assert [served.read().status for _ in range(3)] == [404, 405, 200]
    served = Served(bounds=Bounds(body=10))
    answer = served.ask(post("/nowhere", b"x" * 20))
    assert (answer.status, answer.fields[b"connection"]) == (404, b"close")


# -- Expect


def test_a_client_that_asks_is_told_to_go_on_only_when_its_body_will_be_read():
    served = Served()
    going_on = served.ask(head("POST", "/echo", "Content-Length: 5", "Expect: 100-continue"))
    assert (going_on.status, going_on.fields) == (100, {})
    assert served.ask(b"hello").body == b"hello"
    served = Served()
    assert (
        served.ask(head("POST", "/echo", "Transfer-Encoding: chunked", "Expect: 100-Continue")).status == 100
    )
    assert served.ask(b"1\r\nx\r\n0\r\n\r\n").body == b"x"


def test_a_client_that_has_begun_or_speaks_http_1_0_is_not_told_to_go_on():
    expecting = ("Content-Length: 5", "Expect: 100-continue")
    served = Served().send(head("POST", "/echo", *expecting) + b"h")
    assert served.sent == b""
    assert served.ask(b"ello").body == b"hello"
    assert Served().ask(head("POST", "/echo", *expecting) + b"hello").body == b"hello"
    served = Served().send(head("POST", "/echo", *expecting, version="1.0"))
    assert served.sent == b""
    assert served.ask(b"hello").body == b"hello"
    assert Served().ask(head("GET", "/", "Expect: 100-continue")).body == b"root"


def test_a_client_that_asks_for_what_is_not_there_is_told_so_at_once():
    served = Served()
    answer = served.ask(head("POST", "/nowhere", "Content-Length: 5", "Expect: 100-continue"))
    assert (answer.status, answer.fields[b"connection"]) == (404, b"close")


def test_another_expectation_is_refused():
    served = Served()
    answer = served.ask(head("GET", "/", "Expect: a-miracle"))
    assert (answer.status, answer.fields[b"connection"]) == (417, b"close")
    assert isinstance(answer, Answer)


# -- what is smuggled


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5,5"],
        ["Content-Length : 5"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: x"],
        ["Transfer-Encoding:\x0bchunked"],
        ["X: y\nTransfer-Encoding: chunked"],
        ["X: y\r\n Transfer-Encoding: chunked"],
        ["X: y\rTransfer-Encoding: chunked"],
        ["Content-Length: 5\x00"],
        ["Content-Length: -5"],
    ],
)
def test_a_message_whose_end_is_doubtful_is_refused_and_nothing_after_it_is_read(fields):
    smuggled = post("/push/smuggled", b"x")
    served = Served()
    answer = served.ask(head("POST", "/echo", *fields) + b"0\r\n\r\n" + smuggled)
    assert (answer.status, answer.fields[b"connection"], answer.rest) == (400, b"close", b"")
    assert served.send(smuggled).sent == b""
    assert served.routes.calls == []
    assert served.ticks(10).closed


def test_http_1_0_has_no_chunks():
    assert Served().ask(head("POST", "/echo", "Transfer-Encoding: chunked", version="1.0")).status == 400


def test_a_body_that_turns_out_bad_ends_its_request():
    served = Served().send(head("POST", "/push/x", "Transfer-Encoding: chunked"), b"1\r\nx\r\n")
    answer = served.ask(b"zz\r\n")
    assert (answer.status, answer.fields[b"connection"]) == (400, b"close")
    assert served.routes.calls == []
