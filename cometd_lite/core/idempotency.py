"""The receipts of idempotency keys as records of a store: what a store remembers together with a push.

A key belongs to its recipients. Its record holds what the first answer said, so that a client that asks
again after a restart is answered the same, and nothing is added.
"""

from __future__ import annotations

import hashlib

from ..jsontext import dumps, parse
from .message import Cursor, Push, Receipt
from .store import Record

RECEIPTS = "receipt"
"""The kind of these records."""


def fingerprint(push: Push) -> bytes:
    """Return a digest of what is pushed: the same key with another one is a mistake."""
    digest = hashlib.blake2b(digest_size=16)
    for content in push.contents:
        digest.update(b"%d %b %d " % (len(content.type), content.type.encode(), len(content.body)))
        digest.update(content.body)
    return digest.digest()


def receipt_id(key: str, recipients: tuple[str, ...]) -> str:
    """Return the id under which the receipt of a key is remembered."""
    return dumps([key, *recipients]).decode()


def receipt_value(digest: bytes, receipt: Receipt) -> bytes:
    """Return the record of a receipt. The ids of one push follow each other, so two numbers say them all."""
    return dumps(
        {
            "fingerprint": digest.hex(),
            "first": receipt.ids[0],
            "ids": len(receipt.ids),
            "created_at": receipt.created_at,
            "delivered": receipt.delivered,
        }
    )


def receipt_of(record: Record) -> tuple[str, bytes, Receipt]:
    """Return the key, the fingerprint and the receipt that a record stands for."""
    key, *recipients = parse(record.id.encode())
    said = parse(record.value)
    first = Cursor.parse(said["first"])
    ids = tuple([str(Cursor(first.epoch, first.sequence + place)) for place in range(said["ids"])])
    receipt = Receipt(ids, said["created_at"], said["delivered"], tuple(recipients))
    return key, bytes.fromhex(said["fingerprint"]), receipt
