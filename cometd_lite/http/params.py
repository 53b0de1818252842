"""What a request asks for by its query and its header fields: checked values, or a refusal. See ``bodies``.

A reader asks nearly the same with each poll, and a thousand readers of one recipient exactly the same. What
was parsed once is remembered, all but the cursor, which is new each time.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias, cast
from urllib.parse import unquote_to_bytes

from msgspec import Struct
from msgspec.structs import astuple

from .. import limits as bounds
from ..core.message import NOW, OLDEST, Cursor
from ..core.recipient import ALL_LISTENERS, has_control_characters, is_pattern, polled, recipient
from ..errors import BadCursor, BadParameter, BadRecipient
from .accepting import media_ranges
from .exchange import Exchange
from .naming import reader_name, without_name
from .spelling import nearest

Format: TypeAlias = Literal["json", "raw"]
Overflow: TypeAlias = Literal["reject", "drop-oldest"]
Query: TypeAlias = dict[str, list[str]]

LAST_EVENT_ID = ("lastEventId", "Last-Event-ID")
"""The query parameters of streams and sockets that say what the header ``Last-Event-ID`` says."""

PUSH_PARAMETERS = frozenset({"rcpt", "to", "event", "ttl", "queue", "overflow", "token"})
POLL_PARAMETERS = frozenset(
    {"rcpt", "listener", "after", "wait", "limit", "format", "ack", "lease", "as", "token"}
)
STREAM_PARAMETERS = frozenset({"rcpt", "after", "ack", "as", "token", *LAST_EVENT_ID})
"""The query parameters of streams and sockets."""
PRESENCE_PARAMETERS = frozenset({"as", "token"})

# Each of these sees a client's bytes and is linear in them: no two parts that may match the same character
# follow each other. White space at the ends is stripped first, for that reason.

# As JSON writes numbers, because programs do: JavaScript says 1e-7 for what is short.
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_COUNT = re.compile(r"[0-9]{1,9}")
_PREFER_WAIT = re.compile(r'wait\s*=\s*(?:"([0-9]+)"|([0-9]+))\s*(?:;.*)?', re.IGNORECASE)
_VALIDATOR = re.compile(r'(?:W/)?"?([^",\s]*)"?')
# What Apache and Jetty append to a validator when they compress an answer (slact/nchan#92).
_COMPRESSED = re.compile(r"(?:;gzip|--?(?:gzip|br|deflate|zstd))$")
_PLAIN_CURSOR = re.compile(rb"((?:[^&]*&)*?after=[0-9a-z]{10}-)[0-9]+((?:&(?!after=)[^&%+]*)*)").fullmatch
"""A query with one cursor, as nearly all have it: what comes before the cursor's number, and what behind."""
_NUMBER = re.compile(rb"[1-9][0-9]{0,%d}" % (bounds.CURSOR_DIGITS - 1)).fullmatch
_OTHERS = (
    "oldest, or now",
    f"oldest, now, last: with a number of messages from 1 to {bounds.HISTORY_MESSAGES_MOST:,}, "
    f"as in last:50, or since: with seconds, as in since:600",
)
"""What may stand where a cursor is asked for, in a field and in ``after``."""


class Fields(Struct, frozen=True, gc=False):
    """The header fields that the interface knows, None where one is missing."""

    host: bytes | None
    origin: bytes | None
    accept: bytes | None
    prefer: bytes | None
    if_none_match: bytes | None
    last_event_id: bytes | None
    content_type: bytes | None
    content_encoding: bytes | None
    idempotency_key: bytes | None


_NAMES = tuple(name.replace("_", "-").encode() for name in Fields.__struct_fields__)


def fields(exchange: Exchange) -> Fields:
    """Return the fields of a request; requests that share a head share its fields."""
    head = exchange.head
    known: Fields | None = head.memo
    if known is None:
        known = head.memo = Fields(*map(head.get, _NAMES))
    return known


class PollAsked(Struct, frozen=True, gc=False):
    """What a poll asks for, but for its cursor.

    ``conditional``: a cursor came, as a validator. ``preferred``: ``wait``, in seconds, came as a preference
    that is honoured. ``look``: a HEAD, which takes nothing, acknowledges nothing and waits for nothing.
    ``lease``: for how many seconds messages are leased; None where they are not. ``name`` is the reader's
    own, where ``without_name`` has left it in the query.
    """

    recipients: tuple[str, ...]
    listener: str | None
    conditional: bool
    wait: float
    preferred: bool
    limit: int
    form: Format
    look: bool
    acks: bool
    lease: float | None
    is_plain: bool
    """Whether the response is JSON, and depends on nothing else of this."""
    name: str | None = None
    of_server: bool = False  # whether a name of the server's own is among the recipients


class PushAsked(Struct, frozen=True, gc=False):
    """What the target of a push asks for."""

    recipients: tuple[str, ...]
    event: str | None
    ttl: float | None
    queue: bool
    overflow: Overflow | None


def poll(
    exchange: Exchange, name: str | None, most: float, allowed: frozenset[str]
) -> tuple[PollAsked, Cursor | None, str | None]:
    """Return what a poll asks for; its cursor, None for a take; and the reader's own name, if it has one.

    ``most`` bounds the wait, in seconds; ``allowed`` are further names that parameters may have.
    """
    text, given, target = exchange.query, fields(exchange), exchange.target
    last: LastPoll | None = target.memo
    if last is not None and last.matches(text, given):
        return last.asked, last.after, None
    own: str | None = None
    if b"as=" in text:  # readers of one recipient ask the same, each under its own name
        text, own = without_name(text)
        if last is not None and last.matches(text, given):
            return last.asked, last.after, own
    asked, after = poll_asked(name, text, given, most, look=exchange.method == b"HEAD", allowed=allowed)
    if asked.name is None:
        if _is_small(text, given):
            target.memo = LastPoll(text, given, asked, after)
    elif own is not None:
        raise BadParameter("as is given once.")
    return asked, after, own or asked.name


def push(exchange: Exchange, name: str | None, allowed: frozenset[str]) -> PushAsked:
    """Return what the target of a push asks for; ``allowed`` are further names that parameters may have."""
    text, target = exchange.query, exchange.target
    last: tuple[bytes, PushAsked] | None = target.memo
    if last is not None and last[0] == text:
        return last[1]
    asked = push_asked(name, text, allowed)
    if len(text) <= bounds.REMEMBERED_BYTES:
        target.memo = (text, asked)
    return asked


def _is_small(text: bytes, given: Fields) -> bool:
    """Return whether what a request asks may be remembered."""
    return len(text) + sum(map(len, filter(None, astuple(given)))) <= bounds.REMEMBERED_BYTES


def poll_asked(
    name: str | None,
    text: bytes,
    given: Fields,
    most: float,
    *,
    look: bool,
    allowed: frozenset[str] = frozenset(),
) -> tuple[PollAsked, Cursor | None]:
    """Return what a poll asks for by its path's name, its query and its fields, and its cursor.

    ``look``: it is a HEAD. ``most`` bounds the wait, in seconds; ``allowed`` are further names that
    parameters may have.
    """
    query = parsed(text)
    check_names(query, POLL_PARAMETERS, allowed)
    form = _format(query, given.accept)
    lease = lease_seconds(query, "lease")
    limit = _limit(one(query, "limit"), bounds.POLL_MESSAGES if lease is None else 1)
    wait, preferred = _wait(query, given.prefer, most)
    acks = acknowledges(query)
    listener = one(query, "listener")
    if listener is not None:
        if name is not None or "rcpt" in query:
            raise BadParameter("A listener has its recipients; name it alone.")
        if lease is not None:
            raise BadParameter("A listener has no leases; lease from recipients.")
        if not acks:
            raise BadParameter("A listener's poll acknowledges the answer before; ack=no is for cursors.")
    conditional = given.if_none_match is not None and "after" not in query
    recipients = recipients_of(name, query) if listener is None else ()
    asked = PollAsked(
        recipients,
        listener,
        conditional,
        0.0 if look else wait,
        preferred,
        limit if form == "json" else 1,
        form,
        look,
        acks,
        lease,
        form == "json" and not conditional and not preferred,
        own_name(query),
        any(one.startswith("$") for one in recipients),
    )
    after = place(query, given)
    if after is not None and lease is not None:
        raise BadParameter("A lease is a take, which has no cursor; leave out after, or lease.")
    if after is None and look:
        return asked, OLDEST
    if after is None and listener is None:
        _check_take(query, asked, allowed)
    return asked, after


class LastPoll:
    """What the last poll of a target has asked for: the next one mostly asks the same, after another message.

    ``after`` and ``asked`` are what ``poll_asked`` has returned for ``text`` and ``given``.
    """

    __slots__ = ("_before", "_behind", "after", "asked", "given", "text")

    def __init__(self, text: bytes, given: Fields, asked: PollAsked, after: Cursor | None) -> None:
        self.text = text
        self.given = given
        self.asked = asked
        self.after = after
        plain = _PLAIN_CURSOR(text)
        # Without one it is asked by a field, or by a word.
        self._before: bytes | None = None if plain is None else plain[1]
        self._behind: bytes = b"" if plain is None else plain[2]

    def matches(self, text: bytes, given: Fields) -> bool:
        """Whether a poll asks the same; then ``after`` is its cursor."""
        if given is not self.given:
            return False
        if text == self.text:
            return True
        before, behind, last = self._before, self._behind, self.after
        if last is None or before is None or not text.startswith(before) or not text.endswith(behind):
            return False
        number = text[len(before) : len(text) - len(behind)]
        if not _NUMBER(number):
            return False
        self.text, self.after = text, Cursor(last.epoch, int(number))
        return True


def push_asked(name: str | None, text: bytes, allowed: frozenset[str] = frozenset()) -> PushAsked:
    """Return what the target of a push asks for, by its path's name and its query."""
    if name is not None and not text:
        return PushAsked((recipient(name),), None, None, True, None)
    query = parsed(text)
    check_names(query, PUSH_PARAMETERS, allowed)
    addressed: tuple[str, ...]
    if "to" in query:
        addressed = (ALL_LISTENERS,)
        choice(query, "to", ("listeners",), "listeners")
        if name is not None or "rcpt" in query:
            raise BadRecipient("to=listeners is for all of them; name no recipient besides.")
    else:
        addressed = tuple(dict.fromkeys(map(recipient, _names(name, query))))
    overflow = choice(query, "overflow", ("reject", "drop-oldest"), "") or None
    return PushAsked(
        addressed,
        event_name(one(query, "event")),
        _ttl(one(query, "ttl")),
        choice(query, "queue", ("yes", "no"), "yes") == "yes",
        cast("Overflow | None", overflow),
    )


def acknowledges(query: Query) -> bool:
    """Return whether the reader's cursor acknowledges what lies before it."""
    return choice(query, "ack", ("yes", "no"), "yes") == "yes"


def own_name(query: Query) -> str | None:
    """Return the name that a reader gives itself."""
    name = one(query, "as")
    return None if name is None else reader_name(name)


def recipients_of(name: str | None, query: Query) -> tuple[str, ...]:
    """Return what a reader asks for: names, and patterns."""
    return tuple(dict.fromkeys(map(polled, _names(name, query))))


def place(query: Query, given: Fields) -> Cursor | None:
    """Return the reader's cursor: its ``after``, else its validator, else its last event's id."""
    after = one(query, "after")
    if after is not None:
        return cursor(after, "after")
    if given.if_none_match is not None:
        return _validator(given.if_none_match.decode("latin-1"))
    if given.last_event_id is not None:
        return cursor(given.last_event_id.decode("latin-1"), "Last-Event-ID")
    return None


def start(query: Query, given: Fields) -> Cursor:
    """Return where a stream or socket begins.

    An EventSource that reconnects sends the query that it was made with, ``after`` included. The id of its
    last event therefore wins over ``after``. Polyfills that cannot set the header send the id in the query.
    """
    after = place(query, given)
    if given.last_event_id is not None:
        return cursor(given.last_event_id.decode("latin-1"), "Last-Event-ID")
    for name in LAST_EVENT_ID:
        if (last := one(query, name)) is not None:
            return cursor(last, name)
    return after or NOW


def idempotency_key(key: bytes) -> str:
    """Return the idempotency key of a push."""
    if not 1 <= len(key) <= bounds.IDEMPOTENCY_KEY_BYTES:
        raise BadParameter(f"Idempotency-Key has 1 to {bounds.IDEMPOTENCY_KEY_BYTES} bytes.")
    return key.decode("latin-1")


def _wait(query: Query, prefer: bytes | None, most: float) -> tuple[float, bool]:
    """Return the seconds to be held, and whether they came as a preference that is honoured."""
    text = one(query, "wait")
    if text is not None:
        if not _SECONDS.fullmatch(text) or float(text) > most:
            raise BadParameter(f"wait is a number of seconds from 0 to {most:g}.")
        return float(text), False
    for preference in (prefer or b"").decode("latin-1").split(","):
        if match := _PREFER_WAIT.fullmatch(preference.strip()):
            return min(float(match[1] or match[2]), int(most)), True
    return min(bounds.WAIT_SECONDS, most), False


def _names(name: str | None, query: Query) -> list[str]:
    given = query.get("rcpt", [])
    if name is not None:
        if given:
            raise BadRecipient("Name the recipient in the path or by rcpt, not by both.")
        return [name]
    if not given:
        recipient("")
    if len(given) > bounds.RECIPIENTS_PER_REQUEST:
        raise BadRecipient(f"A request names at most {bounds.RECIPIENTS_PER_REQUEST} recipients.")
    return given


def parsed(text: bytes) -> Query:
    """Return the parameters of a query, the text behind the question mark, each with its values in order.

    As a form encodes them: ``+`` is a space. Raises ``BadParameter`` where one is no UTF-8.
    """
    query: Query = {}
    try:
        if b"%" not in text and b"+" not in text:
            for pair in text.decode().split("&") if text else ():
                name, _, value = pair.partition("=")
                query.setdefault(name, []).append(value)
        else:
            for encoded in text.split(b"&"):
                field, _, content = encoded.partition(b"=")
                query.setdefault(_decoded(field), []).append(_decoded(content))
    except UnicodeDecodeError:
        raise BadParameter("The query must be percent-encoded UTF-8.") from None
    return query


def check_names(query: Query, known: frozenset[str], allowed: frozenset[str]) -> None:
    """Raise ``BadParameter`` where a parameter's name looks like a known one that was mistyped.

    Ignored, such a parameter would turn a read into a take. ``allowed`` are names that pass.
    """
    if known.issuperset(query):
        return
    unknown = _unknown(query, known, allowed)
    if len(unknown) > bounds.UNKNOWN_PARAMETERS:
        raise BadParameter(f"A query has at most {bounds.UNKNOWN_PARAMETERS} parameters that are not known.")
    for name in unknown:
        near = nearest(name, known)
        if near is not None:
            raise BadParameter(f"There is no parameter {name}; did you mean {near}?")


def _check_take(query: Query, asked: PollAsked, allowed: frozenset[str]) -> None:
    """Raise a refusal where a take asks for what needs a cursor, or for what may be meant as one."""
    for name in _unknown(query, POLL_PARAMETERS, allowed):
        raise BadParameter(
            f"A take has no parameter {name[:100]!r}; to read without taking, say where to begin, "
            "as in ?after=oldest."
        )
    if not asked.acks:
        raise BadParameter("A take acknowledges its messages; ack=no needs a cursor, as in ?after=oldest.")
    if any(map(is_pattern, asked.recipients)):
        raise BadRecipient(
            "A pattern is read with a cursor, as in ?after=oldest; a take or lease needs names."
        )


def _unknown(query: Query, known: frozenset[str], allowed: frozenset[str]) -> list[str]:
    """Return the names of parameters that are not known; caches are busted by names that begin with ``_``."""
    return [name for name in query if name and name[0] != "_" and name not in known and name not in allowed]


def _decoded(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode()


def one(query: Query, name: str) -> str | None:
    """Return the value of a parameter that may be given once."""
    values = query.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise BadParameter(f"{name} is given once.")
    return values[0]


def choice(query: Query, name: str, choices: tuple[str, ...], default: str) -> str:
    """Return the value of a parameter that is one of several words."""
    value = one(query, name)
    if value is None:
        return default
    if value not in choices:
        raise BadParameter(f"{name} is {' or '.join(choices)}.")
    return value


def event_name(event: str | None) -> str | None:
    """Return an event's name if it can be one."""
    if event is not None and (
        not 0 < len(event.encode()) <= bounds.EVENT_BYTES or has_control_characters(event)
    ):
        raise BadParameter(f"event is a name of 1 to {bounds.EVENT_BYTES} bytes without control characters.")
    return event


def _ttl(text: str | None) -> float | None:
    if text is None:
        return None
    if not _SECONDS.fullmatch(text) or float(text) <= 0:
        raise BadParameter("ttl is a number of seconds above 0.")
    return float(text)


def lease_seconds(query: Query, name: str) -> float | None:
    """Return for how long a lease is asked for; None where that is not said."""
    text = one(query, name)
    if text is None:
        return None
    least, most = bounds.LEASE_SECONDS
    if not _SECONDS.fullmatch(text) or not least <= float(text) <= most:
        raise BadParameter(f"{name} is a number of seconds from {least:g} to {most:g}.")
    return float(text)


def _limit(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not _COUNT.fullmatch(text) or not 1 <= int(text) <= bounds.POLL_MESSAGES_MOST:
        raise BadParameter(f"limit is a number of messages from 1 to {bounds.POLL_MESSAGES_MOST}.")
    return int(text)


def cursor(text: str, name: str) -> Cursor:
    """Return the cursor that the field ``name`` holds. Only ``after`` may ask for a history."""
    try:
        found = Cursor.parse(text)
    except ValueError:
        found = None
    if found is None or (found.is_history and name != "after"):
        raise BadCursor(f"{name} is a cursor that this server gave out, or {_OTHERS[name == 'after']}.")
    return found


def _validator(text: str) -> Cursor:
    """Return the newest of the cursors in If-None-Match: a cache may know several (RFC 9110 §13.1.2)."""
    cursors: list[Cursor] = []
    for validator in text.split(","):
        match = _VALIDATOR.fullmatch(validator.strip())
        cursors.append(cursor(_COMPRESSED.sub("", match[1] if match else ""), "If-None-Match"))
    return max(cursors, key=lambda cursor: (cursor == NOW, cursor.sequence))


def _format(query: Query, accept: bytes | None) -> Format:
    if "format" in query:
        return cast(Format, choice(query, "format", ("json", "raw"), "json"))
    accept = (accept or b"").lower()
    if b"text/" not in accept and b"octet-stream" not in accept:
        return "json"
    accepted = media_ranges(accept)
    raw = [kind for kind in accepted if kind.startswith("text/") or kind == "application/octet-stream"]
    return "raw" if raw == accepted != [] else "json"
