"""Idempotency keys: a push that comes again under its key gets the first answer, and adds nothing.

A key belongs to its recipients and to the subject of the token that pushed (HTTP.md, "Push"). What is kept of
a receipt is packed, so that 200,000 of them take 50 MB. Stores keep the same as records, together with the
messages, so that a client that asks again after a restart is answered the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from itertools import islice, takewhile
from math import inf
from struct import Struct

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ..deferreds import MaybeDeferred, is_pending
from ..errors import KeyReused
from ..jsontext import dumps, parse
from ..limits import IDEMPOTENCY_KEYS, IDEMPOTENCY_SECONDS, RECEIPTS_AT_ONCE
from .message import Cursor, Push, Receipt
from .store import Repeated, Store

RECEIPTS = "receipt"
"""The kind of the records of receipts."""

_PACKED = Struct("<16sdd10sQII")
"""Fingerprint, end of its time, created_at, epoch, first number, count of ids, delivered."""

_SHARE = 10
"""The smallest share for which it is looked who has more."""

_OLD_ID = "["
"""How the ids of records began before they were digests: with the JSON list of key and recipients."""


def fingerprint(push: Push) -> bytes:
    """Return a digest of what is pushed: the same key with another one is a mistake."""
    digest = hashlib.blake2b(digest_size=16)
    for content in push.contents:
        digest.update(b"%d %b %d " % (len(content.type), content.type.encode(), len(content.body)))
        digest.update(content.body)
    return digest.digest()


def receipt_id(push: Push) -> str:
    """Return the id under which the receipt of a push is remembered."""
    return _digest([push.subject, push.key, *push.recipients])


def _digest(parts: list[str | None]) -> str:
    return hashlib.blake2b(dumps(parts), digest_size=16).hexdigest()


def receipt_value(digest: bytes, receipt: Receipt) -> bytes:
    """Return the record of a receipt. The ids of a push follow each other: two numbers say all of them."""
    return dumps(
        {
            "fingerprint": digest.hex(),
            "first": receipt.ids[0],
            "ids": len(receipt.ids),
            "created_at": receipt.created_at,
            "delivered": receipt.delivered,
        }
    )


class Receipts:
    """The receipts of one hub's pushes, by their keys.

    At most ``most`` are remembered, each for ten minutes. Where several subjects push, none of them holds
    more than its share while others need room. The oldest of a subject is forgotten first.
    """

    def __init__(
        self, store: Store, clock: IReactorTime, *, is_shared: bool, most: int = IDEMPOTENCY_KEYS
    ) -> None:
        self._store = store
        self._clock = clock
        self._is_shared = is_shared
        """Whether other processes use the same records; then each lives until its time is over."""
        self._most = most
        self._spare = most // 1_000
        """So many more are kept, and forgotten at once: the oldest of a dict has to be searched for."""
        self._count = 0
        self._kept: dict[str | None, dict[bytes, bytes]] = {}
        """What is kept of each receipt, by subject and digest, oldest first."""
        self._under_way: dict[bytes, tuple[bytes, list[Deferred[Receipt]]]] = {}
        """By key, pushes that the store has not answered: their fingerprint, and who waits for the answer."""
        self._unswept: list[str | None] = []
        """The subjects that ``sweep`` has still to look at."""

    def __len__(self) -> int:
        return self._count

    def push(self, push: Push, act: Callable[[Push], MaybeDeferred[Receipt]]) -> MaybeDeferred[Receipt]:
        """Return what ``act`` does, or the first answer where the push was made before.

        Raises, or fails with, ``KeyReused`` where the key came with another body.
        """
        id = receipt_id(push)  # noqa: A001
        key, print_ = bytes.fromhex(id), fingerprint(push)
        earlier = self._find(push, key, print_)
        if earlier is not None:
            return earlier
        receipt = act(push)
        if not is_pending(receipt):
            self._keep(push.subject, key, _packed(print_, self._until(), receipt))
            return receipt
        mine: Deferred[Receipt] = Deferred()  # before the callbacks: the store may have answered already
        self._under_way[key] = (print_, [mine])
        if self._is_shared:
            receipt.addErrback(self._repeated, push, print_)
        receipt.addCallback(self._arrived, push, key, print_)
        receipt.addBoth(self._ended, key)
        return mine

    def recall(self) -> None:
        """Bring back the receipts that the store, which is open now, has remembered."""
        for record in self._store.recall(RECEIPTS):
            id = record.id  # noqa: A001
            if id.startswith(_OLD_ID):
                id = _digest([None, *parse(id.encode())])  # noqa: A001
            self._keep(None, bytes.fromhex(id), _packed_record(record.value, record.expires_at))

    def sweep(self) -> None:
        """Forget receipts whose time is over, up to ``RECEIPTS_AT_ONCE`` of them; to be called every second.

        In the store they have a time of their own.
        """
        now = self._clock.seconds()
        left = RECEIPTS_AT_ONCE
        self._unswept = self._unswept or list(self._kept)
        while self._unswept and left > 0:
            subject = self._unswept.pop()
            kept = self._kept.get(subject, {})
            over = [
                key for key, _ in takewhile(lambda one: _until(one[1]) <= now, islice(kept.items(), left))
            ]
            for key in over:
                del kept[key]
            if over and not kept:
                del self._kept[subject]
            self._count -= len(over)
            left -= 1 + len(over)

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` where more is kept than may be, or the count is not what is kept."""
        assert self._count == sum(map(len, self._kept.values())), "receipts are miscounted"
        assert self._count <= self._most + self._spare, "more receipts are kept than may be"
        assert all(self._kept.values()), "a subject has no receipt"

    def _until(self) -> float:
        return self._clock.seconds() + IDEMPOTENCY_SECONDS

    def _find(self, push: Push, key: bytes, print_: bytes) -> MaybeDeferred[Receipt] | None:
        """Return the answer to an earlier push of the key; None where there was none."""
        if key in self._under_way:
            earlier, waiting = self._under_way[key]
            if earlier != print_:
                raise _reused()
            waiting.append(Deferred())  # cancelling it does not undo the push
            return waiting[-1]
        packed = self._kept.get(push.subject, {}).get(key) or self._kept.get(None, {}).get(key)
        if packed is None or _PACKED.unpack(packed)[1] <= self._clock.seconds():
            return None
        return _receipt(packed, push, print_)

    def _keep(self, subject: str | None, key: bytes, packed: bytes) -> None:
        self._forget(subject, key)
        self._kept.setdefault(subject, {})[key] = packed
        self._count += 1
        if self._count > self._most + self._spare:
            self._make_room(subject)

    def _make_room(self, subject: str | None) -> None:
        """Forget the oldest of the subject, or, where that is within its share, of those that are not.

        Where the subjects are so many that a share is small, those that came first lose one each.
        """
        share = self._most // len(self._kept)
        own = self._kept[subject]
        if len(own) > max(1, share):
            for key in list(islice(own, min(1 + self._spare, len(own) - share))):
                self._forget(subject, key)
            return
        if share < _SHARE:
            for other in list(islice(self._kept, 1 + self._spare)):
                self._forget(other, next(iter(self._kept[other])))
            return
        for other, kept in list(self._kept.items()):
            # A tenth more than needed, so that this walk over all subjects is rare.
            for key in list(kept)[: max(0, len(kept) - share * 9 // 10)]:
                self._forget(other, key)

    def _forget(self, subject: str | None, key: bytes) -> None:
        kept = self._kept.get(subject)
        if kept is not None and kept.pop(key, None) is not None:
            self._count -= 1
            if not kept:
                del self._kept[subject]
            if not self._is_shared:  # else other processes know it, too, and it goes when its time is over
                self._store.forget(RECEIPTS, key.hex())

    def _arrived(self, receipt: Receipt, push: Push, key: bytes, print_: bytes) -> Receipt:
        self._keep(push.subject, key, _packed(print_, self._until(), receipt))
        if receipt.delivered:  # else the store has kept the same with the messages
            self._store.remember(RECEIPTS, key.hex(), partial(receipt_value, print_, receipt), self._until())
        return receipt

    def _ended(self, receipt: Receipt | Failure, key: bytes) -> None:
        """Answer all who wait; what was refused may be tried again."""
        for mine in self._under_way.pop(key)[1]:
            if not mine.called:  # else its client has disconnected
                mine.callback(receipt)  # a Failure makes it an errback

    @staticmethod
    def _repeated(failure: Failure, push: Push, print_: bytes) -> Receipt:
        """Return the receipt of a push that another process, or one before this, has taken already."""
        if not isinstance(failure.value, Repeated):
            failure.raiseException()
        return _receipt(_packed_record(failure.value.value, inf), push, print_)


def _packed(print_: bytes, until: float, receipt: Receipt) -> bytes:
    return _pack(print_, until, receipt.created_at, receipt.ids[0], len(receipt.ids), receipt.delivered)


def _packed_record(value: bytes, until: float) -> bytes:
    known = parse(value)
    print_ = bytes.fromhex(known["fingerprint"])
    return _pack(print_, until, known["created_at"], known["first"], known["ids"], known["delivered"])


def _pack(print_: bytes, until: float, created_at: float, id: str, count: int, delivered: int) -> bytes:  # noqa: A002
    first = Cursor.parse(id)
    return _PACKED.pack(print_, until, created_at, first.epoch.encode(), first.sequence, count, delivered)


def _until(packed: bytes) -> float:
    return float(_PACKED.unpack(packed)[1])


def _receipt(packed: bytes, push: Push, print_: bytes) -> Receipt:
    """Return what was packed. Raises ``KeyReused`` where it is of another body."""
    earlier, _, created_at, epoch, first, count, delivered = _PACKED.unpack(packed)
    if earlier != print_:
        raise _reused()
    ids = tuple([f"{epoch.decode()}-{first + place}" for place in range(count)])
    return Receipt(ids, created_at, delivered, push.recipients)


def _reused() -> KeyReused:
    return KeyReused("This Idempotency-Key came with another body; a new push needs a new key.")
