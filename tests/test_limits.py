from __future__ import annotations

import ast
import inspect
from dataclasses import FrozenInstanceError, fields

import pytest
from resident import measure, needs_proc

from cometd_lite import limits
from cometd_lite.limits import Limits


def described(body: list[ast.stmt]) -> dict[str, str]:
    """Return every name that is given a value, with the text below it."""
    found = {}
    for statement, below in zip(body, [*body[1:], None], strict=True):
        targets = (
            statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        )
        for target in targets:
            if isinstance(target, ast.Name):
                value = below.value if isinstance(below, ast.Expr) else None
                found[target.id] = str(value.value) if isinstance(value, ast.Constant) else ""
    return found


def test_every_bound_has_its_reason_beside_it() -> None:
    constants: dict[str, str] = {}
    for part in (limits.constants, limits.durable):
        constants |= described(ast.parse(inspect.getsource(part)).body)
    assert len(constants) > 20
    for name, reason in constants.items():
        assert len(reason.split()) >= 5, name
    module = ast.parse(inspect.getsource(limits))
    (options,) = [one for one in module.body if isinstance(one, ast.ClassDef)]
    given = described(options.body)
    assert set(given) == {field.name for field in fields(Limits)}
    for name, reason in given.items():
        assert len(reason.split()) >= 5, name


def test_bounds_are_positive_and_do_not_change() -> None:
    for field in fields(Limits):
        bound = getattr(Limits(), field.name)
        assert bound is None or bound > 0
        with pytest.raises(FrozenInstanceError):
            setattr(Limits(), field.name, 1)


def test_bounds_stand_in_the_relations_that_the_contract_gives_them() -> None:
    default = Limits()
    assert limits.WAIT_SECONDS == 25
    assert default.max_wait == 120
    assert (default.capacity, default.capacity_bytes, default.max_body) == (1_000, 1024**2, 64 * 1024)
    assert (limits.POLL_MESSAGES, limits.POLL_MESSAGES_MOST, limits.POLL_BYTES) == (100, 1_000, 1024**2)
    assert (limits.RECIPIENT_BYTES, limits.RECIPIENT_SEGMENTS, limits.EVENT_BYTES) == (256, 16, 64)
    assert (limits.IDEMPOTENCY_KEY_BYTES, limits.IDEMPOTENCY_KEYS) == (255, 200_000)
    assert limits.IDEMPOTENCY_SECONDS == 600
    assert (limits.BAYEUX_BATCH_BYTES, limits.BAYEUX_BROWSER_SESSIONS) == (1024**2, 100)
    assert limits.BAYEUX_SOCKET_SILENT_SECONDS == 30
    assert limits.REVOKED_SECONDS < 10
    assert limits.STALLED_SECONDS == 60
    # Atmosphere/atmosphere#1000, dunglas/mercure#53 (row 19): proxies end what is quiet for 30 s.
    assert limits.WAIT_SECONDS < 30
    assert limits.HEARTBEAT_SECONDS <= 25
    # slact/nchan#154 (row 15): a reader is online over a wait and a reconnect.
    assert limits.ONLINE_SECONDS > limits.WAIT_SECONDS
    # matrix-org/synapse#1723 (row 28): fewer parked than a process may have files.
    assert default.max_parked < 20_000
    assert default.max_body < default.capacity_bytes < default.max_memory
    # Cursors fit into 64 bits, in databases and in JSON.
    assert 10**limits.CURSOR_DIGITS < 2**63


MEASURE = """
import json, sys
from cometd_lite.limits import Limits
from cometd_lite.core.message import Content, Push
from cometd_lite.stores.memory import MemoryStore
from resident import fill, resident

mailboxes, each, size, shape = *map(int, sys.argv[1:4]), sys.argv[4]
store = MemoryStore(Limits(capacity=10**9, capacity_bytes=10**12, max_recipients=10**9, max_memory=10**12))

def fresh(text):
    return text.encode("utf-8").decode()  # as requests bring them: none of the strings is shared

def name_of(mailbox):
    if shape in {"plain", "leases"}:
        return f"recipient{mailbox:07}"
    return "/".join([f"{mailbox:07}", *["\N{GRINNING FACE}" * 3] * 15])  # 16 segments, 202 bytes

def push(name, number):
    event, media_type = None, "text/plain; charset=utf-8"
    if shape == "events":
        event = fresh(f"{number:08}" + "\N{GRINNING FACE}" * 14)
    elif shape == "types":
        media_type = (f"text/plain; x={number:08}" + "\u00e9" * 233).encode("latin-1").decode("latin-1")
    content = Content.parse((b"%0*d " % (size, number))[:-1], media_type)
    for message in store.append(Push((fresh(name),), (content,), event), number / 1e6, 1.7e9 + number):
        if shape not in {"plain", "leases"}:
            message.json  # a reader has it written in UTF-8, which stays with a text that is not ASCII

filled = fill()
for number in range(1_000):
    push("warm", number)
before, counted = resident(), store.memory
for mailbox in range(mailboxes):
    name = name_of(mailbox)
    for number in range(each):
        push(name, number)
        if shape == "leases":
            store.lease((fresh(name),), 1, 3_600.0, 1.0)
    store.take((fresh(name),), 1, 1.0)
print(json.dumps([resident() - before, store.memory - counted]))
"""


@pytest.mark.filling
@needs_proc
@pytest.mark.parametrize(
    ("mailboxes", "each", "size", "shape"),
    [
        # Four megabytes are enough: sixteen times as much gives the same ratio, within 2 %.
        (1, 15_000, 10, "plain"),
        (10_000, 1, 10, "plain"),
        (10, 500, 2_000, "plain"),
        (8_000, 1, 10, "names"),
        (5, 2_000, 10, "names"),
        (1, 10_000, 10, "events"),
        (1, 8_000, 10, "types"),
        (1, 10_000, 10, "leases"),
    ],
)
def test_what_is_counted_is_what_it_takes(mailboxes: int, each: int, size: int, shape: str) -> None:
    # wandenberg/nginx-push-stream-module#33, #65 (row 13): memory ran out below the bound.
    taken, counted = measure(MEASURE, mailboxes, each, size, shape)
    assert 0.8 * counted < taken < 1.1 * counted  # the allocator rounds large bodies up


MEASURE_ANSWERS = """
import json, os, sys
from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from cometd_lite.access.application import Authorizer
from cometd_lite.access.questions import Question
from cometd_lite.limits import APPLICATION_ANSWER_OVERHEAD
from cometd_lite.outgoing import PostReply
from resident import fill, resident

count, size = map(int, sys.argv[1:])
subjects = iter(range(10**9))

def post(body, headers=None):
    said = b'{"subject": "%0*d", "expires_in": 300}' % (size, next(subjects))
    return succeed(PostReply(200, "application/json", said))

authorizer = Authorizer(post, "http://localhost/", Clock())

def ask():
    authorizer.ask(Question(os.urandom(32), b"", None))

filled = fill()
for _ in range(500):
    ask()
before = resident()
for _ in range(count):
    ask()
print(json.dumps([resident() - before, count * (APPLICATION_ANSWER_OVERHEAD + size)]))
"""


@pytest.mark.filling
@needs_proc
@pytest.mark.parametrize("size", [1, 200])
def test_an_answer_that_is_remembered_takes_what_is_counted(size: int) -> None:
    taken, counted = measure(MEASURE_ANSWERS, 8_000, size)
    assert 0.7 * counted < taken < 1.1 * counted


MEASURE_UNREAD = """
import json, sys
from twisted.internet.task import Clock
from cometd_lite.core.hub import Hub
from cometd_lite.core.message import Content, Cursor, Message
from cometd_lite.core.registry import Registry
from cometd_lite.limits import Limits
from cometd_lite.stores.memory import MemoryStore
from cometd_lite.webhooks.outbox import WebhookCounts
from cometd_lite.webhooks.absences import LocalAbsences
from cometd_lite.webhooks.unread import UnreadWatch
from resident import fill, resident

size, clock, content = int(sys.argv[1]), Clock(), Content.of("hi")
hub = Hub(MemoryStore(Limits()), Registry(clock, 10), clock)
watch = UnreadWatch(hub, lambda name: 60.0, LocalAbsences(hub.store), lambda *told: None, WebhookCounts())

def push(number):
    watch.pushed(Message(Cursor("epoch00000", number), "%0*d" % (size, number), content, 1e9 + number, 1e9))

filled = fill()
for number in range(1_000):
    push(number)
before, counted = resident(), watch.bytes
for number in range(1_000, 16_000):
    push(number)
print(json.dumps([resident() - before, watch.bytes - counted]))
"""


@pytest.mark.filling
@needs_proc
@pytest.mark.parametrize("size", [10, 200])
def test_a_recipient_with_an_unread_message_takes_what_is_counted(size: int) -> None:
    taken, counted = measure(MEASURE_UNREAD, size)
    assert 0.8 * counted < taken < 1.1 * counted
