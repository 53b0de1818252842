"""HTTP.md, "Poll", over HTTP: with a cursor."""

from __future__ import annotations

import pytest
from exchanges import TreqDriver

from cometd_lite.limits import Limits


def cursor(server, recipient="bob"):
    """Return the cursor of this moment."""
    return server.get(f"/poll/{recipient}?after=now&wait=0").json["cursor"]


def data(exchange):
    return [message["data"] for message in exchange.answer.json["messages"]]


# -- what it is answered with


def test_the_answer_in_json_has_always_the_same_shape(server):
    pushed = server.push("/bob", '{"text": "hi"}', {"Content-Type": "application/json"}).json
    answer = server.get("/poll/bob?after=oldest")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "messages": [
            {
                "id": pushed["id"],
                "recipient": "bob",
                "created_at": "2026-11-20T10:15:58.123Z",
                "type": "application/json",
                "data": {"text": "hi"},
            }
        ],
        "cursor": pushed["id"],
        "gap": False,
        "more": False,
    }
    nothing = server.get(f"/poll/bob?after={pushed['id']}&wait=0")
    assert nothing.json == {"messages": [], "cursor": pushed["id"], "gap": False, "more": False}


def test_the_cursor_is_in_the_headers_too(server):
    server.push("/bob")
    answer = server.get("/poll/bob?after=oldest")
    assert answer.headers["comet-cursor"] == answer.json["cursor"]
    assert answer.headers["etag"] == f'"{answer.json["cursor"]}"'
    assert "comet-gap" not in answer.headers


@pytest.mark.parametrize("target", ["/poll/bob?after=oldest", "/poll/bob?after=oldest&format=raw"])
def test_every_answer_is_not_stored_and_says_what_it_depends_on(server, target):
    for answer in (server.get(f"{target}&wait=0"), server.push("/bob") and server.get(target)):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["vary"] == "Accept, Origin, Prefer"


def test_refusals_of_a_poll_are_not_stored_either_and_say_what_they_depend_on(serve):
    server = serve(Limits(max_parked=1))
    server.park("/poll/bob?after=now")
    for target, status in (("/poll/bob?after=x", 400), ("/poll/bob?after=now", 503)):
        answer = server.get(target)
        assert answer.status == status
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["vary"] == "Accept, Origin, Prefer"


def test_created_at_is_when_the_message_was_accepted(server):
    server.push("/bob")
    server.advance(61.877)
    server.push("/bob")
    times = [message["created_at"] for message in server.get("/poll/bob?after=oldest").json["messages"]]
    assert times == ["2026-11-20T10:15:58.123Z", "2026-11-20T10:17:00.000Z"]


def test_raw_is_the_one_next_message_as_it_came(server):
    first = server.push("/chat/r%C3%BC", b"\x00\xff", {"Content-Type": "image/png"}).json["id"]
    server.push("/chat/r%C3%BC", "two")
    answer = server.get("/poll/chat/r%C3%BC?after=oldest&format=raw")
    assert (answer.status, answer.body) == (200, b"\x00\xff")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["comet-id"] == first
    assert answer.headers["comet-recipient"] == "chat/r%C3%BC"
    assert answer.headers["comet-created-at"] == "2026-11-20T10:15:58.123Z"
    assert answer.headers["comet-cursor"] == first
    assert answer.headers["etag"] == f'"{first}"'
    again = server.get(f"/poll/chat/r%C3%BC?after={first}&format=raw")
    assert again.body == b"two"


def test_what_others_wrote_is_neither_sniffed_nor_run(server):
    server.push("/bob", "<script>alert(1)</script>", {"Content-Type": "text/html"})
    answer = server.get("/poll/bob?after=oldest&format=raw")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_raw_answer_may_be_embedded_by_pages_of_an_allowed_origin_only(serve):
    server = serve(origins=("https://app.example",))
    server.push("/bob")
    for origin, policy in (("https://app.example", "cross-origin"), ("https://evil.example", "same-origin")):
        answer = server.get("/poll/bob?after=oldest&format=raw", {"Origin": origin})
        assert answer.headers["cross-origin-resource-policy"] == policy


@pytest.mark.parametrize(
    ("media_type", "shown"),
    [
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/html; level=1", "text/html; level=1; charset=utf-8"),
        ("text/plain;", "text/plain; charset=utf-8"),
        ("text/plain; charset=UTF-8", "text/plain; charset=UTF-8"),
        ("text/plain;Charset=utf-8", "text/plain;Charset=utf-8"),
        ("application/json", "application/json"),
        ("image/png", "image/png"),
    ],
)
def test_raw_text_says_that_it_is_utf8(server, media_type, shown):
    server.push("/bob", "1", {"Content-Type": media_type})
    assert server.get("/poll/bob?after=oldest&format=raw").headers["content-type"] == shown


def test_raw_gives_one_message_whatever_the_limit(server):
    server.push("/bob", "1")
    server.push("/bob", "2")
    assert server.get("/poll/bob?after=oldest&format=raw&limit=10").body == b"1"


# -- being held


def test_a_poll_is_held_until_there_is_a_message(server):
    poll = server.park(f"/poll/bob?after={cursor(server)}")
    server.push("/alice")
    server.driver.flush()
    assert poll.answer is None
    server.advance(20)
    server.push("/bob")
    server.driver.flush()
    assert data(poll) == ["hello"]


def test_a_wait_is_over_after_25_seconds_or_up_to_a_tenth_earlier(server):
    place = cursor(server)
    poll = server.park(f"/poll/bob?after={place}")
    server.advance(22.49)
    assert poll.answer is None
    server.advance(2.51)
    assert poll.answer.status == 200
    assert poll.answer.json == {"messages": [], "cursor": place, "gap": False, "more": False}


@pytest.mark.parametrize("wait", ["120", "1", "0.5", "7.25"])
def test_a_wait_may_be_asked_for(server, wait):
    poll = server.park(f"/poll/bob?after=now&wait={wait}")
    server.advance(float(wait) * 0.899)
    assert poll.answer is None
    server.advance(float(wait) * 0.102)
    assert poll.answer.status == 200


def test_a_wait_of_zero_is_answered_at_once(server):
    assert server.get("/poll/bob?after=now&wait=0").json["messages"] == []
    assert server.get("/poll/bob?after=now&wait=0.0").json["messages"] == []


@pytest.mark.parametrize("wait", ["121", "-1", "", "abc", "1e", "nan", "9" * 400, "5s", "0x5", "%D9%A1"])
def test_a_wait_that_is_no_time_or_over_the_bound_is_a_400(server, wait):
    answer = server.get(f"/poll/bob?after=now&wait={wait}")
    assert answer.status == 400
    assert answer.json["type"].endswith("bad-parameter")
    assert "0 to 120" in answer.json["detail"]


def test_the_servers_bound_on_waits_is_also_the_bound_on_the_default(serve):
    server = serve(Limits(max_wait=10))
    assert server.get("/poll/bob?wait=11").status == 400
    poll = server.park("/poll/bob?after=now")
    server.advance(10)
    assert poll.answer.status == 200


def test_ended_waits_are_spread_over_a_tenth_of_the_wait(server):
    # Lock-step reconnects: nesquena/hermes-webui#2661.
    polls = [server.park("/poll/bob?after=now&wait=100") for _ in range(200)]
    server.advance(89.9)
    assert all(poll.answer is None for poll in polls)
    ended = []
    for _ in range(101):
        server.advance(0.1)
        ended.append(sum(poll.answer is not None for poll in polls))
    assert ended[-1] == 200
    together = [after - before for before, after in zip([0, *ended], ended, strict=False)]
    assert max(together) < 20


def test_a_wait_for_several_recipients_ends_with_a_message_for_any_of_them(server):
    poll = server.park("/poll?rcpt=a&rcpt=b&after=now")
    server.push("/b")
    server.driver.flush()
    assert [message["recipient"] for message in poll.answer.json["messages"]] == ["b"]


def test_one_cursor_serves_any_set_of_recipients(server):
    server.push("/a", "1")
    place = server.push("/b", "2").json["id"]
    server.push("/c", "3")
    server.push("/a", "4")
    server.push("/b", "5")
    assert server.read(f"/poll?rcpt=a&rcpt=b&rcpt=c&after={place}") == ["3", "4", "5"]
    assert server.read(f"/poll/c?after={place}") == ["3"]
    assert server.read("/poll?rcpt=c&rcpt=a&after=oldest") == ["1", "3", "4"]


def test_a_poll_without_recipient_or_with_one_in_two_places_is_a_400(server):
    for target in ("/poll", "/poll/", "/poll?after=now", "/poll?rcpt=", "/poll/a?rcpt=b"):
        answer = server.get(target)
        assert answer.status == 400
        assert answer.json["type"].endswith("bad-recipient")


# -- Prefer


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=10", 10),
        ("wait=0", 0),
        ("wait=120", 120),
        ("wait=121", 120),
        ("wait=99999999999999999999", 120),
        ("Wait=5", 5),
        ('wait="5"', 5),
        ("wait = 5", 5),
        ("respond-async, wait=10", 10),
        ("wait=10; foo=bar, respond-async", 10),
        ("wait=10, wait=20", 10),
    ],
)
def test_prefer_wait_is_clamped_and_answered(server, prefer, applied):
    poll = server.send("GET", "/poll/bob?after=now", headers={"Prefer": prefer})
    if applied:
        assert poll.answer is None
        server.advance(applied * 0.899)
        assert poll.answer is None
        server.advance(applied * 0.102)
    assert poll.answer.status == 200
    assert poll.answer.headers["preference-applied"] == f"wait={applied}"


@pytest.mark.parametrize(
    "prefer",
    ["", "wait", "wait=", "wait=abc", "wait=-1", "wait=1.5", "respond-async", "xwait=5", ",,", "wait=5x"],
)
def test_a_malformed_preference_is_ignored(server, prefer):
    poll = server.park("/poll/bob?after=now", {"Prefer": prefer})
    server.advance(22)
    assert poll.answer is None
    server.advance(3)
    assert poll.answer.status == 200
    assert "preference-applied" not in poll.answer.headers


def test_a_preference_is_answered_on_204_304_and_with_messages_too(server):
    place = cursor(server)
    prefer = {"Prefer": "wait=0"}
    raw = server.get("/poll/bob?after=now&format=raw", prefer)
    unchanged = server.get("/poll/bob", prefer | {"If-None-Match": place})
    server.push("/bob")
    full = server.get("/poll/bob?after=oldest", prefer)
    assert [raw.status, unchanged.status, full.status] == [204, 304, 200]
    for answer in (raw, unchanged, full):
        assert answer.headers["preference-applied"] == "wait=0"


def test_several_lines_of_a_list_are_one_list(server):
    # RFC 9110 §5.3: the second line does not take the place of the first.
    place = server.push("/bob").json["id"]
    poll = server.get("/poll/bob?after=now", [("Prefer", "wait=0"), ("Prefer", "respond-async")])
    assert poll.headers["preference-applied"] == "wait=0"
    lines = [("If-None-Match", f'"{place}"'), ("If-None-Match", '"oldest"')]
    assert server.get("/poll/bob?wait=0", lines).status == 304
    texts = [("Accept", "application/json"), ("Accept", "text/plain")]
    assert server.get("/poll/bob?after=oldest", texts).headers["content-type"] == "application/json"


def test_the_query_says_more_than_a_preference(server):
    poll = server.get("/poll/bob?after=now&wait=0", {"Prefer": "wait=50"})
    assert "preference-applied" not in poll.headers


# -- where it begins


def test_oldest_is_everything_that_is_kept_and_now_what_comes_from_now_on(server):
    server.push("/bob", "1")
    assert server.read("/poll/bob?after=oldest") == ["1"]
    assert server.read("/poll/bob?after=now&wait=0") == []
    poll = server.park("/poll/bob?after=now")
    server.push("/bob", "2")
    server.driver.flush()
    assert data(poll) == ["2"]


def test_polling_with_a_cursor_takes_nothing_away(server):
    server.push("/bob", "1")
    for _ in range(3):
        assert server.read("/poll/bob?after=oldest") == ["1"]


@pytest.mark.parametrize(
    "form",
    ['"{}"', 'W/"{}"', '"{}-gzip"', 'W/"{}-gzip"', '"{}--gzip"', '"{};gzip"', '"{}-br"', "{}", ' W/"{}" '],
)
def test_a_validator_weak_or_strong_or_marked_by_a_compressor_is_the_cursor(server, form):
    # slact/nchan#92: gzip changes or strips the ETag, and clients looped on one message.
    place = server.push("/bob", "1").json["id"]
    validator = {"If-None-Match": form.format(place)}
    unchanged = server.get("/poll/bob?wait=0", validator)
    assert (unchanged.status, unchanged.body) == (304, b"")
    server.push("/bob", "2")
    assert server.read("/poll/bob", validator) == ["2"]


def test_of_several_validators_the_newest_counts(server):
    first = server.push("/bob", "1").json["id"]
    second = server.push("/bob", "2").json["id"]
    server.push("/bob", "3")
    for validators in (f'"{first}", W/"{second}"', f'"{second}","{first}"'):
        assert server.read("/poll/bob", {"If-None-Match": validators}) == ["3"]


def test_a_304_says_what_the_200_would_have_said(server):
    place = cursor(server)
    poll = server.park("/poll/bob", {"If-None-Match": f'"{place}"'})
    server.advance(25)
    assert (poll.answer.status, poll.answer.body) == (304, b"")
    assert poll.answer.headers["etag"] == f'"{place}"'
    assert poll.answer.headers["comet-cursor"] == place
    assert poll.answer.headers["cache-control"] == "no-store"
    assert poll.answer.headers["vary"] == "Accept, Origin, Prefer"
    assert "content-length" not in poll.answer.headers


def test_raw_polls_that_end_without_a_message_are_304_or_204_as_their_cursor_came(server):
    place = cursor(server)
    poll = server.park("/poll/bob?format=raw", {"If-None-Match": f'"{place}"'})
    other = server.park(f"/poll/bob?format=raw&after={place}")
    server.advance(25)
    assert (poll.answer.status, poll.answer.body) == (304, b"")
    assert (other.answer.status, other.answer.body) == (204, b"")
    for answer in (poll.answer, other.answer):
        assert answer.headers["comet-cursor"] == place
        assert answer.headers["etag"] == f'"{place}"'


def test_a_validator_with_a_gap_is_not_a_304(server):
    place = cursor(server)
    server.push("/bob")
    server.ask("DELETE", "/recipients/bob")
    answer = server.get("/poll/bob", {"If-None-Match": f'"{place}"'})
    assert (answer.status, answer.json["gap"], answer.json["messages"]) == (200, True, [])


def test_last_event_id_is_a_cursor(server):
    first = server.push("/bob", "1").json["id"]
    server.push("/bob", "2")
    assert server.read("/poll/bob", {"Last-Event-ID": first}) == ["2"]


def test_a_poll_by_last_event_id_that_ends_is_a_200(server):
    assert server.get("/poll/bob?wait=0", {"Last-Event-ID": cursor(server)}).status == 200


def test_after_comes_before_if_none_match_and_that_before_last_event_id(server):
    ids = [server.push("/bob", text).json["id"] for text in ("1", "2", "3")]
    headers = {"If-None-Match": f'"{ids[1]}"', "Last-Event-ID": ids[2]}
    assert server.read(f"/poll/bob?after={ids[0]}", headers) == ["2", "3"]
    assert server.read("/poll/bob", headers) == ["3"]
    ended = server.get(f"/poll/bob?wait=0&after={ids[2]}", headers)
    assert ended.status == 200, "a 304 is only for a cursor that came in If-None-Match"


@pytest.mark.parametrize(
    "after",
    [
        "",
        "x",
        "0",
        "-1",
        "oldest-0",
        "NOW",
        "abcdefghij-",
        "abcdefghij-01",
        "abcdefghij-1-gzip",
        "abcdefghij-" + "9" * 19,
        "abcdefghij-1x",
        "%FF",
        "%00",
        "1%2C2",
        '"abcdefghij-1"',
        "ABCDEFGHIJ-1",
        "2026-11-20T10:15:58Z",
    ],
)
def test_a_malformed_cursor_is_a_400_that_says_so(server, after):
    # slact/nchan#51, #84 and four more: odd values were taken as something else.
    answer = server.get(f"/poll/bob?after={after}")
    assert answer.status == 400
    assert answer.json["type"].endswith(("bad-cursor", "bad-parameter"))
    assert answer.json["detail"]


@pytest.mark.parametrize("name", ["If-None-Match", "Last-Event-ID"])
@pytest.mark.parametrize("value", ["x", "*", "", '"', '"x", "y"', "Mon, 20 Nov 2026 10:00:00 GMT"])
def test_a_malformed_cursor_in_a_header_is_a_400_that_names_the_header(server, name, value):
    answer = server.get("/poll/bob", {name: value})
    assert answer.status == 400
    assert answer.json["type"].endswith("bad-cursor")
    assert name in answer.json["detail"]


@pytest.mark.parametrize(
    "queried", ["after=oldest&after=oldest", "wait=1&wait=1", "limit=1&limit=1", "format=raw&format=raw"]
)
def test_a_parameter_that_is_given_twice_is_a_400(server, queried):
    answer = server.get(f"/poll/bob?{queried}")
    assert answer.status == 400
    assert queried.partition("=")[0] in answer.json["detail"]


def test_if_modified_since_is_nothing_to_a_poll(server):
    server.push("/bob")
    assert server.read("/poll/bob", {"If-Modified-Since": "Mon, 20 Nov 2028 10:00:00 GMT"}) == ["hello"]


# -- gaps


def test_a_cursor_of_another_epoch_reads_as_oldest_with_a_gap(server):
    # dunglas/mercure#704: an unknown cursor waited forever.
    server.push("/bob", "1")
    answer = server.get("/poll/bob?after=abcdefghij-7")
    assert (answer.status, answer.json["gap"], answer.headers["comet-gap"]) == (200, True, "true")
    assert [message["data"] for message in answer.json["messages"]] == ["1"]
    again = server.get(f"/poll/bob?after={answer.json['cursor']}&wait=0")
    assert (again.json["gap"], again.json["messages"]) == (False, [])


def test_a_cursor_from_the_future_reads_as_oldest_with_a_gap(server):
    epoch = server.push("/bob", "1").json["id"].rpartition("-")[0]
    answer = server.get(f"/poll/bob?after={epoch}-1000")
    assert (answer.json["gap"], [message["data"] for message in answer.json["messages"]]) == (True, ["1"])


def test_a_cursor_is_all_that_a_server_started_anew_needs_of_its_reader(serve):
    # miguelgrinberg/python-engineio#91: a session was known to one process only, and after a restart its
    # clients asked again and again, each time for a 400.
    before, anew = serve(), serve()
    before.push("/bob", "lost with the process")
    place = before.get("/poll/bob?after=oldest").json["cursor"]
    told = anew.get(f"/poll/bob?after={place}").json
    assert (told["gap"], told["messages"]) == (True, [])
    poll = anew.park(f"/poll/bob?after={told['cursor']}")
    anew.push("/bob", "hi")
    anew.driver.flush()
    assert data(poll) == ["hi"]
    assert poll.answer.json["gap"] is False


def test_a_gap_is_told_at_once_where_nothing_is_kept(server):
    answer = server.get("/poll/nobody?after=abcdefghij-7")
    assert (answer.status, answer.json["gap"], answer.json["messages"]) == (200, True, [])
    again = server.get(f"/poll/nobody?after={answer.json['cursor']}&wait=0")
    assert again.json["gap"] is False


def test_a_gap_without_a_message_is_told_in_the_head_of_a_raw_answer(server):
    answer = server.get("/poll/nobody?after=abcdefghij-7&format=raw")
    assert (answer.status, answer.headers["comet-gap"]) == (204, "true")


def test_an_expired_message_leaves_a_gap_for_who_had_not_read_it(server):
    before = cursor(server)
    after = server.push("/bob?ttl=10").json["id"]
    server.advance(11)
    assert server.get(f"/poll/bob?after={before}").json["gap"] is True
    assert server.get(f"/poll/bob?after={after}&wait=0").json["gap"] is False
    assert server.get("/poll/bob?after=oldest&wait=0").json["gap"] is False


# -- limits


def test_an_answer_has_100_messages_unless_told_otherwise_and_says_that_there_are_more(server):
    server.push("/bob", "\n".join(map(str, range(150))), {"Content-Type": "application/x-ndjson"})
    first = server.get("/poll/bob?after=oldest")
    assert [message["data"] for message in first.json["messages"]] == list(range(100))
    assert first.json["more"] is True
    second = server.get(f"/poll/bob?after={first.json['cursor']}")
    assert [message["data"] for message in second.json["messages"]] == list(range(100, 150))
    assert second.json["more"] is False


@pytest.mark.parametrize("limit", [1, 2, 150, 1000])
def test_a_limit_may_be_asked_for(server, limit):
    server.push("/bob", "\n".join(map(str, range(150))), {"Content-Type": "application/x-ndjson"})
    answer = server.get(f"/poll/bob?after=oldest&limit={limit}").json
    assert len(answer["messages"]) == min(limit, 150)
    assert answer["more"] is (limit < 150)


@pytest.mark.parametrize("form", ["json", "raw"])
@pytest.mark.parametrize("limit", ["0", "1001", "-1", "", "abc", "1.0", "%D9%A1", "9" * 400])
def test_a_limit_that_is_none_is_a_400(server, limit, form):
    answer = server.get(f"/poll/bob?after=oldest&wait=0&format={form}&limit={limit}")
    assert answer.status == 400
    assert "1 to 1000" in answer.json["detail"]


def test_an_answer_is_also_bounded_by_1_mib_but_never_empty_because_of_that(serve):
    server = serve(Limits(max_body=2_000_000, capacity_bytes=10_000_000))
    server.push("/bob", "x" * 1_500_000)
    for _ in range(3):
        server.push("/bob", "y" * 400_000)
    sizes = []
    place = "oldest"
    for _ in range(3):
        answer = server.get(f"/poll/bob?after={place}&wait=0").json
        sizes.append(([len(message["data"]) for message in answer["messages"]], answer["more"]))
        place = answer["cursor"]
    assert sizes == [([1_500_000], True), ([400_000, 400_000], True), ([400_000], False)]


# -- format


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "*/*",
        "application/json",
        "application/json, text/plain",
        "text/plain, */*",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "text/plain, application/*",
        "image/png",
        "application/octet-stream;q=0",
        "text/plain;q=0, application/json",
    ],
)
def test_json_is_the_answer_unless_only_text_or_octets_are_accepted(server, accept):
    server.push("/bob")
    answer = server.get("/poll/bob?after=oldest", {} if accept is None else {"Accept": accept})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "accept",
    [
        "text/plain",
        "text/*",
        "TEXT/Plain",
        "text/plain; charset=utf-8",
        "text/html, text/plain;q=0.5",
        "application/octet-stream",
        "application/octet-stream, text/*",
        "text/plain, application/json;q=0",
        "text/plain, */*;q=0.0",
    ],
)
def test_raw_is_the_answer_where_only_text_or_octets_are_accepted(server, accept):
    server.push("/bob")
    answer = server.get("/poll/bob?after=oldest", {"Accept": accept})
    assert answer.body == b"hello"


def test_the_format_in_the_query_says_more_than_accept(server):
    server.push("/bob")
    json = server.get("/poll/bob?after=oldest&format=json", {"Accept": "text/plain"})
    raw = server.get("/poll/bob?after=oldest&format=raw", {"Accept": "application/json"})
    assert (json.json["messages"][0]["data"], raw.body) == ("hello", b"hello")


@pytest.mark.parametrize("form", ["xml", "", "RAW"])
def test_another_format_is_a_400(server, form):
    answer = server.get(f"/poll/bob?format={form}")
    assert answer.status == 400
    assert answer.json["detail"] == "format is json or raw."


# -- bounds


def test_more_parked_polls_than_the_bound_are_a_503_and_who_is_parked_stays(serve):
    # cluesmith/codev#1126: evicting at the bound made 800 connections a second.
    server = serve(Limits(max_parked=2))
    polls = [server.park("/poll/bob?after=now") for _ in range(2)]
    for target in ("/poll/bob?after=now", "/poll/alice"):
        answer = server.get(target)
        assert answer.status == 503
        assert answer.json["type"].endswith("server-full")
        assert int(answer.headers["retry-after"]) >= 1
    assert [poll.answer for poll in polls] == [None, None]
    polls[0].hang_up()
    server.park("/poll/bob?after=now")


def test_a_poll_that_need_not_be_held_is_answered_at_the_bound(serve):
    server = serve(Limits(max_parked=1))
    server.push("/bob")
    server.park("/poll/alice?after=now")
    assert server.read("/poll/bob?after=oldest") == ["hello"]
    assert server.read("/poll/bob?after=now&wait=0") == []
    assert server.read("/poll/bob") == ["hello"]


# -- readers that leave and come back


def test_a_reader_that_leaves_is_forgotten_at_once(server):
    polls = [server.park("/poll/bob?after=now"), server.park("/poll/bob")]
    assert server.get("/recipients/bob").json["waiting"] == 2
    for poll in polls:
        poll.hang_up()
    assert server.get("/recipients/bob").json["waiting"] == 0
    assert server.parked == 0
    assert server.push("/bob").status == 202


def test_what_is_pushed_between_two_polls_is_found_by_the_second(server):
    # golongpoll#3: an ended wait carried no position, so what came after it was lost.
    place = cursor(server)
    poll = server.park(f"/poll/bob?after={place}")
    server.advance(25)
    server.push("/bob", "1")
    assert server.read(f"/poll/bob?after={poll.answer.json['cursor']}") == ["1"]


def test_a_message_in_the_same_moment_as_the_end_of_the_wait_is_not_lost(server):
    # cometd/cometd#1142: an event fell exactly when the poll ended.
    for push_first in (True, False):
        poll = server.park(f"/poll/bob?after={cursor(server)}&wait=10")
        if push_first:
            server.clock.callLater(9.0, server.push, "/bob", "x")
        server.advance(10)
        if not push_first:
            server.push("/bob", "x")
        got = data(poll)
        place = poll.answer.json["cursor"]
        assert got + server.read(f"/poll/bob?after={place}&wait=0") == ["x"]


def test_a_poller_is_woken_again_after_each_ended_wait_and_the_publisher_is_told_so(server):
    # slact/nchan#367: deaf after a timeout and a reconnect, while the publisher was told 201.
    place = cursor(server)
    for n in range(5):
        ended = server.park(f"/poll/bob?after={place}")
        server.advance(25)
        place = ended.answer.json["cursor"]
        poll = server.park(f"/poll/bob?after={place}")
        answer = server.push("/bob", str(n))
        assert (answer.status, answer.json["delivered"]) == (201, 1)
        server.driver.flush()
        assert data(poll) == [str(n)]
        place = poll.answer.json["cursor"]


def test_an_answer_that_was_lost_on_its_way_is_given_again(server):
    # faye/faye#251: what was written to a dead socket was gone.
    place = cursor(server)
    poll = server.park(f"/poll/bob?after={place}")
    server.push("/bob", "1")
    poll.hang_up()
    assert server.read(f"/poll/bob?after={place}") == ["1"]


def test_overlapping_polls_of_one_reader_lose_nothing(server):
    # faye/faye#295: an old poll, thought dead, swallowed what the new one waited for.
    place = cursor(server)
    old = server.park(f"/poll/bob?after={place}")
    new = server.park(f"/poll/bob?after={place}")
    assert server.push("/bob", "1").json["delivered"] == 2
    server.driver.flush()
    assert data(old) == data(new) == ["1"]


def test_any_number_may_poll_one_recipient_at_once(server):
    # leafduo/chatgpt-telegram-bot#8: of two pollers each was ended by the other with a 409, forever.
    for turn in ("1", "2"):
        place = cursor(server)
        polls = [server.park(f"/poll/bob?after={place}") for _ in range(3)]
        assert server.push("/bob", turn).json["delivered"] == 3
        server.driver.flush()
        assert [data(poll) for poll in polls] == [[turn]] * 3


def test_two_messages_in_the_same_moment_are_two(server):
    # jcuga/golongpoll#19: the cursor was a millisecond, and the second message was never seen.
    first = server.push("/bob", "1").json
    second = server.push("/bob", "2").json
    assert first["created_at"] == second["created_at"]
    assert server.read(f"/poll/bob?after={first['id']}") == ["2"]


# -- stopping


def says_close(server, answer):
    """Whether the answer says that its connection ends; Twisted's Agent keeps that for itself."""
    return isinstance(server.driver, TreqDriver) or answer.headers["connection"] == "close"


def test_a_stopping_server_ends_every_wait_and_closes_the_connection(server):
    place = cursor(server)
    polls = [
        server.park(f"/poll/bob?after={place}"),
        server.park("/poll/bob", {"If-None-Match": f'"{place}"'}),
        server.park(f"/poll/bob?after={place}&format=raw"),
        server.park("/poll/bob"),
    ]
    server.stop()
    assert [poll.answer.status for poll in polls] == [200, 304, 204, 200]
    for poll in polls:
        assert says_close(server, poll.answer)
        assert poll.answer.headers["comet-cursor"] == place
    assert polls[0].answer.json == {"messages": [], "cursor": place, "gap": False, "more": False}


def test_a_poll_that_comes_while_the_server_stops_is_answered_at_once(server):
    place = server.push("/bob").json["id"]
    server.stop()
    answer = server.get(f"/poll/bob?after={place}")
    assert (answer.status, answer.json["messages"]) == (200, [])
    assert says_close(server, answer)
    assert server.read("/poll/bob?after=oldest") == ["hello"]


def test_a_push_while_the_server_stops_is_a_503(server):
    server.stop()
    answer = server.ask("POST", "/push/bob", "hello")
    assert answer.status == 503
    assert answer.json["type"].endswith("stopping")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("query", ["", "?", "?_x", "?wait=0"])
def test_polls_that_are_alike_but_for_the_name_are_each_their_own(server, query):
    server.push("/bob", "for bob")
    server.push("/alice", "for alice")
    assert server.ask("HEAD", f"/poll/bob{query}").status == 200
    assert server.read(f"/poll/bob{query}") == ["for bob"]
    assert server.read(f"/poll/alice{query}") == ["for alice"]


def test_readers_who_come_back_with_the_same_line_are_told_the_same(server):
    place = server.get("/poll/bob?after=now&wait=0").json["cursor"]
    polls = [server.park(f"/poll/bob?after={place}") for _ in range(3)]
    server.push("/bob", "one")
    assert [poll.answer.json["messages"][0]["data"] for poll in polls] == ["one"] * 3
    again = polls[0].answer.json["cursor"]
    polls = [server.park(f"/poll/bob?after={again}") for _ in range(3)]
    assert server.read(f"/poll/bob?after={place}&wait=0") == ["one"]
    server.push("/bob", "two")
    assert [poll.answer.json["messages"][0]["data"] for poll in polls] == ["two"] * 3


# -- ack=no


@pytest.mark.parametrize("recipients", ["bob", "**", "bob&rcpt=alice"])
def test_who_only_watches_makes_no_room_in_a_work_queue(serve, recipients):
    server = serve(Limits(capacity=2))
    server.push("/bob", "1")
    server.push("/bob", "2")
    watched = server.get(f"/poll?rcpt={recipients}&after=oldest&ack=no").json["cursor"]
    for _ in range(2):
        assert server.read(f"/poll?rcpt={recipients}&after={watched}&wait=0&ack=no") == []
    assert server.ask("POST", "/push/bob", "3").status == 503
    assert server.get("/recipients/bob").json["queued"] == 2
    assert server.read(f"/poll?rcpt={recipients}&after={watched}&wait=0") == []
    assert server.push("/bob", "3").status == 202


def test_a_take_and_a_listener_acknowledge_and_so_ack_no_is_a_400(server):
    listener = server.ask("POST", "/register").json["id"]
    for target in ("/poll/bob?ack=no", f"/poll?listener={listener}&ack=no", "/poll/bob?after=now&ack=maybe"):
        assert server.get(target).status == 400


@pytest.mark.parametrize("query", ["after=oldest", "lease=60", ""])
def test_an_answer_is_bounded_in_bytes_as_they_are_sent(server, query):
    for _ in range(17):
        server.push("/bob", b"\xff" * 60_000, {"Content-Type": "application/octet-stream"})
    answer = server.get(f"/poll/bob?limit=1000&{query}")
    assert len(answer.body) <= 1024**2
    assert len(answer.json["messages"]) == 13
    assert answer.json["more"] is True
    assert server.get("/recipients/bob").json["leased"] == (13 if "lease" in query else 0)
