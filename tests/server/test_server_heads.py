"""What is a head and what is none; and that llhttp, which others use, agrees about those that are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from served import App, Served, head

from cometd_lite.server.bounds import Bounds
from cometd_lite.server.head import Heads, Refused, parse_block, parse_line, split_absolute

BOUNDS = Bounds()


def line(data: bytes) -> tuple[bytes, bytes, int]:
    return parse_line(data, BOUNDS)


def block(*fields: bytes) -> Any:
    return parse_block(b"".join(field + b"\r\n" for field in fields) + b"\r\n", BOUNDS)


def refused(status: int, *fields: bytes) -> bool:
    with pytest.raises(Refused) as caught:
        block(*fields)
    return caught.value.status == status


# -- heads that came before


def heads(**bounds: int) -> tuple[Heads, list[bytes]]:
    """Return the heads that are known, and some blocks of one length."""
    return Heads(replace(BOUNDS, **bounds)), [b"Host: %d\r\n\r\n" % number for number in range(4)]


def test_a_head_is_known_again_though_another_one_came_in_between():
    known, (one, other, *_) = heads()
    first = known.get(one)
    assert not first.shared
    assert known.get(other) is not first
    assert known.get(one) is first
    assert first.shared


def test_as_many_heads_are_known_as_the_bound_says_and_then_only_the_new_ones():
    known, blocks = heads(heads_known=3)
    first = [known.get(block) for block in blocks[:3]]
    assert [known.get(block) for block in blocks[:3]] == first
    known.get(blocks[3])
    assert known.get(blocks[3]).shared
    assert not known.get(blocks[0]).shared


@pytest.mark.parametrize("excess", [0, 1])
def test_a_head_is_known_up_to_a_size(excess: int):
    known, (block, *_) = heads(head_known=len(b"Host: 0\r\n\r\n") - excess)
    assert (known.get(block) is known.get(block)) == (not excess)


# -- the request line


def test_a_request_line_has_a_method_a_target_and_a_version():
    assert line(b"GET /a?b=c HTTP/1.1") == (b"GET", b"/a?b=c", 1)
    assert line(b"PATCH /a HTTP/1.0") == (b"PATCH", b"/a", 0)
    assert line("GET /ä HTTP/1.1".encode()) == (b"GET", "/ä".encode(), 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / a HTTP/1.1",
        b"GET\t/\tHTTP/1.1",
        b"GET / http/1.1",
        b"GET / HTTP/1.",
        b"GET / HTTP/11",
        b"GET / HTTP/1.10",
        b"GET / HTTX/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET /\r HTTP/1.1",
        b"GET /\n HTTP/1.1",
        b"GET  HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"G\xc4T / HTTP/1.1",
        b"X" * 33 + b" / HTTP/1.1",
    ],
)
def test_a_line_that_is_not_quite_that_is_refused(data):
    with pytest.raises(Refused) as caught:
        line(data)
    assert caught.value.status == 400


@pytest.mark.parametrize("version", [b"0.9", b"1.2", b"2.0", b"2", b"3"])
def test_other_versions_are_not_spoken(version):
    with pytest.raises(Refused) as caught:
        line(b"GET / HTTP/" + version)
    assert caught.value.status == 505


def test_a_target_has_a_bound():
    assert line(b"GET /%b HTTP/1.1" % (b"x" * (BOUNDS.target - 1)))[1][-1:] == b"x"
    for method in (b"GET", b"FETCH"):
        with pytest.raises(Refused) as caught:
            line(b"%b /%b HTTP/1.1" % (method, b"x" * BOUNDS.target))
        assert caught.value.status == 414


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://other/a?b", b"/a?b", b"other"),
        (b"HTTP://Other:80/", b"/", b"Other:80"),
        (b"https://other", b"/", b"other"),
        (b"http://other?b", b"/?b", b"other"),
        (b"http://[::1]:8080/a", b"/a", b"[::1]:8080"),
    ],
)
def test_an_absolute_target_names_the_host_in_the_place_of_the_field(target, path, host):
    found, other = split_absolute(b"GET", target, block(b"Host: mine", b"X: y", b"Connection: close"))
    assert (found, other.get(b"host"), other.host) == (path, host, host.lower())
    assert (other.get(b"x"), other.close) == (b"y", True)
    other.forget()
    assert other.get(b"host") == host


@pytest.mark.parametrize(
    "target", [b"a", b"other:80", b"ftp://other/", b"http:///a", b"http://u@other/", b"http://a b/", b"?a"]
)
def test_other_targets_are_refused(target):
    with pytest.raises(Refused) as caught:
        split_absolute(b"GET", target, block(b"Host: mine"))
    assert caught.value.status == 400


def test_an_asterisk_is_a_target_of_options_only():
    fields = block(b"Host: mine")
    assert split_absolute(b"OPTIONS", b"*", fields) == (b"*", fields)
    with pytest.raises(Refused) as caught:
        split_absolute(b"GET", b"*", fields)
    assert caught.value.status == 400


# -- the fields


def test_fields_are_found_by_their_names_in_any_case_and_several_of_a_name_are_one_list():
    found = block(
        b"Host: x", b"Accept:text/plain ", b"ACCEPT:\t*/*\t", b"X-Empty:", "X-Ä: ä".encode()[:0] + b"X: \xe4"
    )
    assert found.get(b"accept") == b"text/plain, */*"
    assert block(b"Cookie: a=b", b"Host: x", b"Cookie: c=d").get(b"cookie") == b"a=b; c=d"
    assert found.get(b"x-empty") == b""
    assert found.get(b"x") == b"\xe4"
    assert found.get(b"y") is None
    assert (b"accept", b"text/plain") in found.fields()


def test_what_was_forgotten_is_read_again():
    found = block(b"Host: x", b"A: b")
    assert found.get(b"a") == b"b"
    found.forget()
    assert found.get(b"a") == b"b"


@pytest.mark.parametrize(
    "field",
    [
        b"Host : x",
        b" Host: x",
        b"\tHost: x",
        b"Host",
        b": x",
        b"",
        b"H(st: x",
        b"H\x00st: x",
        b"X: a\x00b",
        b"X: a\x01b",
        b"X: a\x7fb",
        b"X: a\rb",
        b"X: a\nb",
        b"X: a\n",
        b"X: a\r\n b",
        b"X: a\r\n\tb",
        b"X\xe4: a",
    ],
)
def test_a_line_that_is_not_name_and_value_is_refused(field):
    assert refused(400, b"A: b", field, b"C: d")
    assert refused(400, field, b"C: d")


@pytest.mark.parametrize(
    "fields",
    [
        [b"Content-Length: 1", b"Content-Length: 2"],
        [b"Content-Length: 1", b"content-length: 1"],
        [b"Content-Length: 1, 1"],
        [b"Content-Length: +1"],
        [b"Content-Length: -1"],
        [b"Content-Length: 0x1"],
        [b"Content-Length: 1.0"],
        [b"Content-Length: 1_0"],
        [b"Content-Length: 1 2"],
        [b"Content-Length:"],
        [b"Content-Length: \xd9\xa1"],
        [b"Content-Length: " + b"1" * 19],
        [b"Transfer-Encoding: chunked", b"Content-Length: 1"],
        [b"Content-Length: 0", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: \x0bchunked"],
        [b"Transfer-Encoding:"],
        [b"Host: x", b"Host: x"],
        [b"Host: x", b"HOST: y"],
        [b"Host: a b"],
        [b"Host: a/b"],
        [b"Host: a@b"],
        [b"Host: a,b"[:0] + b"Host: a\x80"],
        [b"Host: x:y"],
        [b"Host: ::1"],
        [b"Host: [::1"],
    ],
)
def test_what_two_servers_could_read_differently_is_refused(fields):
    assert refused(400, *fields)


def test_lengths_codings_and_connections_are_understood():
    found = block(b"Host: x:80", b"Content-Length: 007", b"Connection: foo, Close", b"Expect: 100-Continue")
    assert (found.length, found.has_body, found.chunked) == (7, True, False)
    assert (found.close, found.keep_alive, found.expects_continue, found.host) == (True, False, True, b"x:80")
    found = block(b"Transfer-Encoding: Chunked", b"Connection: keep-alive", b"Connection: upgrade")
    assert (found.length, found.has_body, found.chunked) == (0, True, True)
    assert (found.close, found.keep_alive, found.expects_continue, found.host) == (False, True, False, None)
    assert not block(b"Content-Length: 0").has_body


@pytest.mark.parametrize(
    "host", [b"", b"x", b"a.b:", b"a.b:1", b"127.0.0.1:80", b"[::1]:80", b"[fe80::1%25lo]"]
)
def test_hosts_of_every_kind_are_understood(host):
    assert block(b"Host: " + host).host == host


def test_other_expectations_cannot_be_met():
    assert refused(417, b"Expect: a miracle")


def test_fields_have_a_bound():
    most = [b"X: y"] * BOUNDS.fields
    assert block(*most).get(b"x") == b", ".join([b"y"] * BOUNDS.fields)
    assert refused(431, b"X: y", *most)


# -- heads on their way


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nHost: x\n",
        b"GET / HTTP/1.1\rHost",
        b"GET / HTTP/1.1\r\nX: \x00",
        b"GET / HTTP/1.1\r\nX\r\r",
    ],
)
def test_a_head_that_can_never_become_a_good_one_is_not_waited_for(data):
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        served = Served()
        served.send(*pieces)
        assert served.read().status == 400
        assert served.ticks(10).closed


def test_a_head_may_come_in_any_pieces():
    data = b"\r\n" + head("GET", "/", "X: y")
    for at in range(1, len(data)):
        assert Served().ask(data[:at], data[at:]).body == b"root"
    assert Served().ask(*[data[at : at + 1] for at in range(len(data))]).body == b"root"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"x" * 13_000, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 17_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 3_000, 431),
    ],
)
def test_a_head_without_an_end_is_bounded(data, status):
    for pieces in ([data], [data[at : at + 100] for at in range(0, len(data), 100)]):
        served = Served().send(*pieces)
        assert served.read().status == status
        assert served.sent == b""
        assert len(served.connection._buffer) == 0


# -- against llhttp

tokens = some.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8).map(str.encode)
values = some.one_of(
    some.text('ab ,;=\t"/:', max_size=8).map(str.encode),
    some.binary(max_size=6),
    some.sampled_from(
        [b"chunked", b"close", b"keep-alive", b"3", b"100-continue", b"x:80", b"gzip, chunked"]
    ),
)
fields = some.lists(
    some.tuples(
        some.one_of(
            tokens,
            some.sampled_from(
                [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Content-Length "]
            ),
        ),
        some.sampled_from([b": ", b":", b" : ", b":\t"]),
        values,
        some.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r\n ", b"\r"]),
    ).map(b"".join),
    max_size=4,
).map(b"".join)


class Seen:
    """What llhttp finds."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False
        self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


@given(
    some.sampled_from([b"GET", b"POST", b"PUT"]),
    some.sampled_from([b"/", b"/a?b=c", b"/a b", b"/a%20b", b"*"]),
    some.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"http/1.1"]),
    fields,
)
@example(b"GET", b"/", b"HTTP/1.1", b"Host: x\r\nX:\r\n")
def test_what_is_accepted_here_llhttp_reads_in_the_same_way(method, target, version, lines):
    data = b"%b %b %b\r\n%b\r\n" % (method, target, version, lines)
    try:
        ours = parse_line(data.partition(b"\r\n")[0], BOUNDS)
        found = parse_block(data.partition(b"\r\n")[2], BOUNDS)
    except Refused:
        return
    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return
    assert (parser.get_method(), seen.url, int(parser.get_http_version()[2:])) == ours
    assert seen.fields == found.fields()
    assert seen.complete == (not found.has_body)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"GET /a/b?c HTTP/1.1\r\nHost: a\r\nbad\r\n\r\n", b"/a/b"),
        (b"GET /a HTTP/9.9\r\n\r\n", b"/a"),
        (b"GET http://a/b HTTP/9.9\r\n\r\n", b""),
        (b"GET\r\n\r\n", b""),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b""),
    ],
)
def test_the_application_is_told_for_which_path_came_what_is_malformed(data, path):
    app = App()
    Served(app).send(data)
    assert app.malformed_paths == [path]
