"""A recount of what lies in a Redis below a prefix: whether its keys agree with each other.

``lua/log.lua`` says what each key is. It counts as it goes; here everything is counted from the lists.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from struct import Struct
from typing import Any

from redis_server import PATIENCE, RedisServer, ask_all

from cometd_lite.core.recipient import is_pattern
from cometd_lite.limits import REDIS_LEASE_COST, REDIS_MAILBOX_COST, REDIS_MESSAGE_COST
from cometd_lite.stores.redis.entries import unpack

FIELDS = (
    "lost", "missed", "acknowledged", "taken", "count", "size", "expiry", "latest", "mixed", "newest", "turn",
    "ends",
)  # fmt: skip
BOX = Struct(f"<{len(FIELDS)}d")
HEAD_BYTES = 33
NUMBER = Struct("<d")
COUNTED = (
    "sequence", "floor", "torn", "memory", "messages", "mailboxes", "turn", "runs", "leased", "exhausted",
)  # fmt: skip
COUNTS = Struct(f"<{len(COUNTED)}d")
SPENT = 1e15
"""The score of a lease whose message is exhausted is above this; see ``lua/leases.lua``."""


class Recount:
    """One look at all keys below ``prefix``, while no process changes them: nothing is asked twice."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self.prefix = prefix
        self.replies: dict[tuple[Any, ...], Any] = {}
        with socket.socket(socket.AF_UNIX) as self.connection:
            self.connection.settimeout(PATIENCE)
            self.connection.connect(str(server.socket))
            self.check()

    def ask(self, *words: Any) -> Any:
        if words not in self.replies:
            self.ask_ahead([words])
        return self.replies[words]

    def ask_ahead(self, questions: list[tuple[Any, ...]]) -> None:
        """Ask at once what is to be asked: ten thousand mailboxes are three times as many questions."""
        self.replies |= zip(questions, ask_all(self.connection, questions), strict=True)

    def scores(self, key: str) -> dict[str, float]:
        found = self.ask(*self.scored(key))
        return {name.decode(): float(score) for name, score in pairs(found)}

    def scored(self, key: str) -> tuple[Any, ...]:
        return ("ZRANGE", self.prefix + key, 0, -1, "WITHSCORES")

    def messages(self, name: str) -> dict[int, bytes]:
        """Return the messages of a mailbox by their numbers, as they lie there."""
        found = self.ask("LRANGE", f"{self.prefix}messages:{name}", 0, -1)
        return {int(NUMBER.unpack_from(entry)[0]): entry for entry in found}

    def stream(self, key: str) -> dict[int, dict[str, bytes]]:
        return {
            int(id_.partition(b"-")[0]): {name.decode(): value for name, value in pairs(fields)}
            for id_, fields in self.ask("XRANGE", self.prefix + key, "-", "+")
        }

    def check(self) -> None:
        """Raise ``AssertionError`` with what does not agree."""
        packed = self.ask("GET", f"{self.prefix}counts") or bytes(COUNTS.size)
        counts = dict(zip(COUNTED, COUNTS.unpack_from(packed), strict=True))
        sequence = counts["sequence"]
        keys = [key.decode().removeprefix(self.prefix) for key in self.ask("KEYS", f"{self.prefix}*")]
        names = {key.removeprefix("box:") for key in keys if key.startswith("box:")}
        assert names == {key.removeprefix("messages:") for key in keys if key.startswith("messages:")}, (
            "each mailbox has messages, and no others are there"
        )
        expiries, reclaimable = self.scores("expiries"), self.scores("reclaimable")
        assert expiries.keys() == names, "each mailbox has its next expiry"
        assert reclaimable.keys() <= names, "only mailboxes may be reclaimed"
        boxes = [("GET", f"{self.prefix}box:{name}") for name in names]
        messages_ = [("LRANGE", f"{self.prefix}messages:{name}", 0, -1) for name in names]
        self.ask_ahead([*boxes, *messages_, *[self.scored(f"leases:{name}") for name in names]])
        order: dict[int, str] = {}
        memory = sum([REDIS_MAILBOX_COST + 4 * len(name.encode()) for name in names])
        for name in names:
            messages = self.messages(name)
            order |= dict.fromkeys(messages, name)
            memory += sum(cost(name, message) for message in messages.values())
            memory += REDIS_LEASE_COST * len(self.scores(f"leases:{name}"))
            read, turn = self.check_box(name, messages, expiries[name])
            assert reclaimable.get(name, 0) == turn, f"{name!r}: when it became reclaimable is what it says"
            assert turn or not read, f"{name!r}: what was read may go"
        assert {number: fields["n"].decode() for number, fields in self.stream("order").items()} == order, (
            "the order is the union of the mailboxes"
        )
        assert max(order, default=0) <= sequence, "no number is above the last one given"
        counted = [counts[field] for field in ("mailboxes", "messages", "memory")]
        assert counted == [len(names), len(order), memory], "what is counted is what a recount comes to"
        leases = [score for name in names for score in self.scores(f"leases:{name}").values()]
        counted = [counts[field] for field in ("leased", "exhausted")]
        assert counted == [sum(0 < one < SPENT for one in leases), sum(one >= SPENT for one in leases)], (
            "leases are counted"
        )
        assert {key.removeprefix("leases:") for key in keys if key.startswith("leases:")} <= names, (
            "leases are those of mailboxes"
        )
        assert self.scores("ending").keys() | self.scores("exhausted").keys() <= names, (
            "those listed with leases are mailboxes"
        )
        lost = self.scores("lost")
        assert names.isdisjoint(lost), "a mailbox knows itself what was lost"
        assert max(lost.values(), default=0) <= sequence, "no loss is of what comes"
        missed = {name.decode() for name in self.ask("SMEMBERS", f"{self.prefix}missed")}
        assert missed <= lost.keys(), "what takes have missed was lost"
        assert all(map(is_pattern, self.scores("acknowledged"))), "a mailbox knows what was acknowledged"
        self.check_presence(keys)
        for key in keys:
            if key.startswith("record:"):
                _, kind, id_ = key.split(":", 2)
                assert id_ in self.scores(f"records:{kind}"), f"{key!r}: a record is among those of its kind"

    def check_presence(self, keys: Collection[str]) -> None:
        """Check who is present, by what each process has reported."""
        reported: dict[str, float] = {}
        names: set[tuple[str, str]] = set()
        processes = self.scores("processes").keys() | self.scores("gone").keys()
        for key in keys:
            if key.startswith("presence:"):
                assert key.removeprefix("presence:") in processes, f"{key!r}: the process is known"
                for field, count in self.scores(key).items():
                    recipient, _, name = field.partition("\n")
                    assert count > 0, f"{field!r}: a process reports readers that it has"
                    reported[recipient] = reported.get(recipient, 0) + count
                    if name and not is_pattern(recipient):
                        names.add((recipient, name))
        assert self.scores("present") == reported, "the readers of each recipient are counted"
        present = [key.removeprefix("present:") for key in keys if key.startswith("present:")]
        assert {(key, name) for key in present for name in self.scores(f"present:{key}")} == names, (
            "a name is present where a process has a reader of it"
        )

    def check_box(self, name: str, messages: dict[int, bytes], expiry: float) -> tuple[bool, float]:
        """Check what a mailbox knows; return whether a message was read, and when it became reclaimable."""
        packed = self.ask("GET", f"{self.prefix}box:{name}")
        known = dict(zip(FIELDS, BOX.unpack_from(packed), strict=True))
        back = set(map(int, packed[BOX.size :].split()))
        heads = {number: unpack(message, name, "", 0.0) for number, message in messages.items()}
        assert known["count"] == len(messages), f"{name!r}: the messages are counted"
        assert list(messages) == sorted(messages), f"{name!r}: the messages are in order"
        assert max(messages) <= known["newest"], f"{name!r}: the newest number is known"
        assert known["size"] == sum([len(one.content.body) for one in heads.values()]), (
            f"{name!r}: size is the sum"
        )
        assert known["expiry"] == expiry, f"{name!r}: the next expiry is that of the sorted set"
        assert all(one.expires_at >= expiry for one in heads.values()), (
            f"{name!r}: nothing expires before the next expiry"
        )
        assert back <= messages.keys(), f"{name!r}: what was given back is kept"
        assert all(number <= known["taken"] for number in back), f"{name!r}: what was given back was taken"
        reserved = self.check_leases(name, known, back, messages.keys())
        acknowledged = 0 if known["ends"] else known["acknowledged"]
        read = any(
            number <= acknowledged
            or (number <= known["taken"] and number not in back and number not in reserved)
            for number in messages
        )
        return read, known["turn"]

    def check_leases(
        self, name: str, known: dict[str, float], back: set[int], kept: Collection[int]
    ) -> set[int]:
        """Check the leases of a mailbox; return the numbers of the messages that are kept from takes."""
        leases = self.scores(f"leases:{name}")
        numbers = [int(lease.split()[0]) for lease in leases]
        assert len(set(numbers)) == len(numbers), f"{name!r}: a message has one last lease"
        assert set(numbers) <= set(kept), f"{name!r}: leases are of messages that are kept"
        reserved = {int(lease.split()[0]) for lease, score in leases.items() if score > 0}
        assert back.isdisjoint(reserved), f"{name!r}: what is reserved is given to no take"
        assert all(number <= known["taken"] for number in reserved), f"{name!r}: what is reserved is taken"
        free = {lease: score for lease, score in leases.items() if score < 0}
        assert all(-int(lease.split()[0]) - score in {0, 0.5} for lease, score in free.items()), (
            f"{name!r}: an ended lease is found by its number"
        )
        held = [score for score in leases.values() if 0 < score < SPENT]
        assert not leases or known["ends"], f"{name!r}: the mailbox was leased from"
        assert not held or known["ends"] <= min(held), f"{name!r}: no lease ends before its time"
        if held:
            assert self.scores("ending")[name] == known["ends"], f"{name!r}: the next end is listed"
        if any(score >= SPENT for score in leases.values()):
            assert name in self.scores("exhausted"), f"{name!r}: what is exhausted is listed"
        return reserved


def cost(name: str, message: bytes) -> int:
    return REDIS_MESSAGE_COST + len(name.encode()) + len(message) - HEAD_BYTES


def pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
