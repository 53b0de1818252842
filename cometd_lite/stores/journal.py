"""The file of the SQLite store: changes arrive, each one transaction; what was kept leaves at the start.

Everything here waits for the disk, so that once the reactor runs only the store's own thread comes here. One
connection holds the file's lock for as long as it is open, and writes ahead (https://sqlite.org/wal.html): a
transaction is there in full after a crash, or not at all. Nothing is written before there is something to
write: so a server starts on a full disk, too.

Pushes stop while there is still room for what makes room, since a deletion has to be written as well: see
``Journal.has_room``.

What a crash leaves depends on ``sync``. ``full`` waits for the disk at every commit. ``normal`` leaves that
to the operating system: the death of the process costs nothing, a loss of power the last moments. Numbers
that readers had seen may be among what was lost, and must not be given again: so numbers are reserved ahead,
and after a loss of power the log goes on behind those, with a gap for every reader.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from ..core.store import StoreUnusable
from ..limits import (
    STORE_CACHE_BYTES,
    STORE_LOCK_SECONDS,
    STORE_LOG_AHEAD_BYTES,
    STORE_LOG_BYTES,
    STORE_NUMBERS_RESERVED,
    STORE_RESERVE_BYTES,
    STORE_ROWS_PER_STATEMENT,
)

Sync: TypeAlias = Literal["full", "normal"]
Statement: TypeAlias = tuple[str, Sequence[Any]]

APPLICATION = 0x636F6D65
"""``come``: what SQLite keeps in a file's head to identify its owner (https://sqlite.org/pragma.html)."""

SCHEMA: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE log (epoch TEXT NOT NULL, sequence INTEGER NOT NULL, floor INTEGER NOT NULL,"
        " torn INTEGER NOT NULL, reserved INTEGER NOT NULL, sync TEXT NOT NULL, boot TEXT NOT NULL,"
        " clean INTEGER NOT NULL)",
        "CREATE TABLE messages (sequence INTEGER PRIMARY KEY, recipient TEXT NOT NULL, form TEXT NOT NULL,"
        " type TEXT NOT NULL, body BLOB NOT NULL, event TEXT, created_at REAL NOT NULL,"
        " expires_at REAL NOT NULL)",
        "CREATE TABLE places (name TEXT PRIMARY KEY, lost INTEGER NOT NULL, missed INTEGER NOT NULL,"
        " acknowledged INTEGER NOT NULL, taken INTEGER NOT NULL, given_back TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE records (kind TEXT NOT NULL, id TEXT NOT NULL, value BLOB NOT NULL, expires_at REAL,"
        " PRIMARY KEY (kind, id)) WITHOUT ROWID",
    ),
    (
        "ALTER TABLE places ADD COLUMN leased INTEGER NOT NULL DEFAULT 0",
        "CREATE TABLE leases (sequence INTEGER PRIMARY KEY, name TEXT NOT NULL, attempt INTEGER NOT NULL,"
        " secret TEXT NOT NULL, ends_at REAL)",
    ),
    (),  # a version that knows only ``log`` would give the numbers of the last messages again
)
"""The steps from each version of the schema to the next one, from an empty file on: the last is today's.

``log`` has one row; its ``sequence`` is the last number, unless the last message has a higher one. ``places``
says of a recipient or a pattern what its messages do not say; see ``Mailbox``. ``leases`` has the last lease
of each message; see ``Leases``. Times are in seconds since 1970, because no other clock outlives a process.
"""

NO_MAILBOX = -1


class Place(NamedTuple):
    """What is known of a recipient or a pattern besides its messages."""

    name: str
    lost: int
    missed: int
    acknowledged: int
    taken: int
    """``NO_MAILBOX`` where there is none of the name."""
    given_back: str
    """Numbers with blanks between them."""
    leased: int = 0
    """Whether the mailbox was leased from."""


RELEASED = 0.0
"""The end of a lease that its worker has given back."""


class KeptLease(NamedTuple):
    """The last lease of a message as it lies in the file.

    Without ``ends_at``, or with ``RELEASED`` in its place, no worker holds it.
    """

    sequence: int
    name: str
    attempt: int
    secret: str
    ends_at: float | None


class KeptMessage(NamedTuple):
    """A message as it lies in the file."""

    sequence: int
    recipient: str
    form: Literal["json", "text", "octets"]
    type: str
    body: bytes
    event: str | None
    created_at: float
    expires_at: float


class KeptRecord(NamedTuple):
    """A record as it lies in the file; without ``expires_at`` it is kept until it is forgotten."""

    kind: str
    id: str
    value: bytes
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file holds. ``messages`` are in order, and are to be read before anything is written.

    Before ``torn`` anything may have been lost with the power: no reader's cursor is safe there.
    """

    epoch: str
    sequence: int
    floor: int
    torn: int
    places: Sequence[Place]
    leases: Sequence[KeptLease]
    records: Sequence[KeptRecord]
    messages: Iterator[KeptMessage]


class Unwritable(Exception):
    """The file cannot be written for a reason that SQLite does not know; the text says it."""


@dataclass(slots=True)
class Pushes:
    """The pushes of one transaction: the number of the last message, the messages, and their receipts.

    ``values`` are those of a ``KeptMessage`` of each message, one after the other, with a bytearray for
    bytes and an empty text for None: ``sqlite3`` looks for an adapter of those, which takes 0.3 µs each.
    """

    sequence: int
    values: list[Any] = field(default_factory=list)
    receipts: list[KeptRecord] = field(default_factory=list)


@dataclass(slots=True)
class Changes:
    """One transaction: the newest number and the floor of losses before its pushes, and what changed.

    ``expired`` are the records of before that time. Where ``unacknowledged`` is a number, places without a
    mailbox are forgotten that have no loss above ``floor``, and no acknowledgement above that number.
    ``wanted`` is the bytes that pushes need, these or some that were refused before; once written,
    ``has_room`` says whether there is room for so many. Where there is none the pushes are left out.
    """

    sequence: int
    floor: int
    pushes: Pushes | None = None
    wanted: int = 0
    has_room: bool = True
    removed: list[int] = field(default_factory=list)
    """The numbers of messages that memory holds no longer."""
    deleted: list[int] = field(default_factory=list)
    """The numbers of messages that it still holds, until the file does not."""
    places: list[Place] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    unacknowledged: int | None = None
    leases: list[KeptLease] = field(default_factory=list)
    ended_leases: list[int] = field(default_factory=list)
    records: list[KeptRecord] = field(default_factory=list)
    records_gone: list[tuple[str, str]] = field(default_factory=list)
    expired: float | None = None

    def is_of_pushes(self) -> bool:
        """Whether the pushes are all that has changed, as in most commits."""
        gone = self.removed or self.deleted or self.forgotten or self.ended_leases or self.records_gone
        kept = self.places or self.leases or self.records or (self.pushes and self.pushes.receipts)
        return not (gone or kept or self.expired is not None or self.unacknowledged is not None)


def disk_free(directory: Path) -> int:
    """Return the bytes that are free on the disk of a directory."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def boot_id() -> str:
    """Return what is the same until this machine loses its power or is restarted; empty where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Journal:
    """One file, and the one connection to it. ``epoch`` names the log's life if the file is new."""

    def __init__(self, path: Path, sync: Sync, epoch: str, boot: str | None = None) -> None:
        self.path = path
        self._sync = sync
        self._epoch = epoch
        self._boot = boot_id() if boot is None else boot
        self._connection: sqlite3.Connection | None = None
        self._reserved = 0
        self._begins: tuple[int, int, str, str] | None = None
        """What the file is to say before anything else is written to it; None once it does."""
        self._floor = 0
        """The floor that the file says."""
        self._log_path = Path(f"{path.resolve()}-wal")
        self._files: tuple[tuple[int, int], ...] = ()
        """What distinguishes the file and its log from any others at their paths."""
        self._size = self._log_size = 0
        """The bytes that the file and its log had when they were last looked at: the file never shrinks."""

    # -- the start and the end

    def open(self) -> Kept:
        """Lock the file, make or upgrade its tables, and return what it holds. Raises ``StoreUnusable``."""
        try:
            return self._open()
        except OSError as error:
            raise StoreUnusable(f"The store {self.path} cannot be opened: {error.strerror}.") from error
        except (sqlite3.Error, ValueError) as error:
            self.disconnect()
            raise self.unusable(error) from error
        except StoreUnusable:
            self.disconnect()
            raise

    def unusable(self, error: Exception) -> StoreUnusable:
        """Return the error, with a sentence for the operator who starts the server."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return StoreUnusable(f"The store {self.path} is in use by another process.")
        if code == sqlite3.SQLITE_NOTADB:
            return StoreUnusable(f"The store {self.path} is no database, or a damaged one.")
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_ERROR}:
            return StoreUnusable(
                f"The store {self.path} is damaged ({error}). Put a copy in its place, or move it away."
            )
        return StoreUnusable(f"The store {self.path} cannot be opened: {error}.")

    def close(self, changes: Changes) -> None:
        """Write the last changes, note that nothing is missing, and let go of the file."""
        connection = self._connected()
        try:
            self._check_files()
            connection.execute("PRAGMA synchronous = FULL")
            self._commit(changes, ("UPDATE log SET clean = 1", ()))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.disconnect()

    def disconnect(self) -> None:
        """Let go of the file as it is."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> Kept:
        if not self.path.exists():
            # Other users of this machine must not read the messages.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = self._connection = sqlite3.connect(
            self.path,
            timeout=STORE_LOCK_SECONDS,
            isolation_level=None,
            check_same_thread=False,  # it is opened before there is another thread, then used by that alone
            cached_statements=256,
        )
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        version = self._version()
        connection.execute(f"PRAGMA cache_size = -{STORE_CACHE_BYTES // 1024}")
        connection.execute(f"PRAGMA journal_size_limit = {STORE_LOG_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        if version < len(SCHEMA):
            self._upgrade(version)
        connection.execute("COMMIT")
        self._files = self._look()
        for (fault,) in connection.execute("PRAGMA quick_check(1)"):
            if fault != "ok":
                raise sqlite3.DatabaseError(fault)
        return self._load()

    def _version(self) -> int:
        """Return the version of the file's schema, 0 where it is new."""
        (application,) = self._one("PRAGMA application_id")
        (version,) = self._one("PRAGMA user_version")
        (tables,) = self._one("SELECT count(*) FROM sqlite_master")
        if application != APPLICATION and (application or version or tables):
            raise StoreUnusable(f"The store {self.path} is a database of another program.")
        if version > len(SCHEMA):
            raise StoreUnusable(
                f"The store {self.path} was written by a newer cometd-lite: "
                f"it has version {version}, and this one knows up to {len(SCHEMA)}."
            )
        return int(version)

    def _upgrade(self, version: int) -> None:
        connection = self._connected()
        for step in SCHEMA[version:]:
            for statement in step:
                connection.execute(statement)
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            row = (self._epoch, self._sync, self._boot)
            connection.execute("INSERT INTO log VALUES (?, 0, 0, 0, 0, ?, ?, 1)", row)
        connection.execute(f"PRAGMA user_version = {len(SCHEMA)}")

    def _load(self) -> Kept:
        connection = self._connected()
        epoch, sequence, floor, torn, reserved, sync, boot, clean = self._one("SELECT * FROM log")
        if not clean and sync == "normal" and (boot != self._boot or not boot):
            sequence = torn = max(reserved, sequence)
        # A transaction of messages alone leaves the log's row as it is.
        sequence = max(sequence, *self._one("SELECT coalesce(max(sequence), 0) FROM messages"))
        self._reserved, self._floor = reserved, floor
        # The first commit says that this process has the file; and if power was lost, that it was.
        self._begins = (sequence, torn, self._sync, self._boot)
        connection.execute(f"PRAGMA synchronous = {self._sync}")
        places = [Place(*row) for row in connection.execute("SELECT * FROM places ORDER BY lost")]
        records = [*map(KeptRecord._make, connection.execute("SELECT * FROM records ORDER BY expires_at"))]
        leases = [KeptLease(*row) for row in connection.execute("SELECT * FROM leases ORDER BY sequence")]
        messages = map(KeptMessage._make, connection.execute("SELECT * FROM messages ORDER BY sequence"))
        return Kept(epoch, sequence, floor, torn, places, leases, records, messages)

    # -- in between

    def write(self, changes: Changes) -> None:
        """Make the changes, all or none; they are kept when this returns.

        Raises ``sqlite3.Error`` or ``Unwritable``.
        """
        self._check_files()
        grows = self._sync == "full" and STORE_LOG_AHEAD_BYTES // 16 < self._log_size < STORE_LOG_AHEAD_BYTES
        if grows and self.has_room(STORE_LOG_AHEAD_BYTES):
            self._lengthen_log()
        if changes.wanted and not self.has_room(changes.wanted):
            changes.has_room, changes.pushes = False, None
        sequence = changes.sequence if changes.pushes is None else changes.pushes.sequence
        if self._sync == "full" or (self._begins is None and sequence <= self._reserved):
            self._commit(changes)
            return
        connection, reserved = self._connected(), sequence + STORE_NUMBERS_RESERVED
        connection.execute("PRAGMA synchronous = FULL")
        try:
            self._commit(changes, ("UPDATE log SET reserved = ?", (reserved,)))
        finally:
            connection.execute(f"PRAGMA synchronous = {self._sync}")
        self._reserved = reserved

    def _lengthen_log(self) -> None:
        """Give the log its length at once: while it grows, a commit waits for the file system's journal, too.

        On ext4 one of 64 messages takes 0.43 ms then, and 0.18 ms where it overwrites. SQLite ends its log
        at the first frame that is not valid (https://sqlite.org/fileformat2.html#the_write_ahead_log).
        """
        with suppress(OSError), self._log_path.open("r+b") as log:
            log.write(bytes(max(0, STORE_LOG_AHEAD_BYTES - log.seek(0, os.SEEK_END))))
            log.flush()
            os.fsync(log.fileno())

    def has_room(self, size: int) -> bool:
        """Whether pushes of ``size`` bytes leave the room that deletions need.

        What is pushed is written twice, first to the log and then to the file, where it takes pages that are
        unused before the file grows. The log is overwritten from its beginning once all of it is in the file.
        """
        try:
            free = disk_free(self._log_path.parent)
        except OSError:
            return True  # it is not known, as where the process may no longer look
        if free >= STORE_RESERVE_BYTES + 2 * size:
            return True
        (page,), (pages,), (unused,) = map(
            self._one, ("PRAGMA page_size", "PRAGMA page_count", "PRAGMA freelist_count")
        )
        # The log is room as well, but for what the file is to grow by when it takes in the log.
        room = free + self._log_path.stat().st_size - max(0, page * pages - self.path.stat().st_size)
        fits = size <= page * unused
        return bool(room >= (STORE_RESERVE_BYTES // 2 + size if fits else STORE_RESERVE_BYTES + 2 * size))

    def _look(self) -> tuple[tuple[int, int], ...]:
        """Return what distinguishes the file and its log from others. Raises ``OSError``."""
        file, log = self.path.stat(), self._log_path.stat()
        if file.st_size < self._size:
            raise FileNotFoundError(self.path)  # another one was copied over it
        self._size, self._log_size = file.st_size, log.st_size
        return (file.st_dev, file.st_ino), (log.st_dev, log.st_ino)

    def _check_files(self) -> None:
        """Raise ``Unwritable`` where the next start would not find what is written now."""
        try:
            if self._look() == self._files:
                return
        except PermissionError:
            return  # the process may no longer look, but what it has open it may write
        except OSError:
            pass
        raise Unwritable("it was deleted or replaced: put it back, or start the server again")

    def _commit(self, changes: Changes, *besides: Statement) -> None:
        connection = self._connected()
        statements = [*self._statements(changes), *besides]
        if self._begins is not None:
            begins = "UPDATE log SET sequence = ?, torn = ?, sync = ?, boot = ?, clean = 0"
            statements.insert(0, (begins, self._begins))
        try:
            if len(statements) > 1:  # one is a transaction by itself
                connection.execute("BEGIN IMMEDIATE")
            for statement, values in statements:
                connection.execute(statement, values)
            if len(statements) > 1:
                connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise
        self._begins, self._floor = None, changes.floor

    def _statements(self, changes: Changes) -> Iterator[Statement]:
        """Return what makes the changes: what goes makes room for what comes.

        They are few, because each lets go of Python's lock, and has to wait for the reactor to let go of it
        again. Messages alone are one statement: without the row in ``log`` a batch of 64 takes a fifth less.
        """
        pushes = changes.pushes or Pushes(changes.sequence)
        values, width = pushes.values, len(KeptMessage._fields)
        most = width * STORE_ROWS_PER_STATEMENT
        is_said = changes.floor == self._floor and values[-width:][:1] == [pushes.sequence]
        if not (is_said and changes.is_of_pushes()):
            yield from _others(changes, pushes.receipts)
            yield "UPDATE log SET sequence = ?, floor = ?", (pushes.sequence, changes.floor)
        for start in range(0, len(values), most):
            part = values if len(values) <= most else values[start : start + most]
            yield _of_rows("INSERT OR REPLACE INTO messages VALUES ROWS", width, len(part) // width), part

    def _one(self, query: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = self._connected().execute(query).fetchone()
        if row is None:
            raise ValueError("it has no log")
        return row

    def _connected(self) -> sqlite3.Connection:
        assert self._connection is not None, "the journal is open"
        return self._connection


def _others(changes: Changes, receipts: Sequence[KeptRecord]) -> Iterator[Statement]:
    """Return what makes the changes besides the messages that come."""
    gone = [(number,) for number in (*changes.removed, *changes.deleted)]
    yield from _each("DELETE FROM messages WHERE sequence IN (VALUES ROWS)", gone)
    names, ended = [(name,) for name in changes.forgotten], [(number,) for number in changes.ended_leases]
    yield from _each("DELETE FROM places WHERE name IN (VALUES ROWS)", names)
    yield from _each("DELETE FROM leases WHERE sequence IN (VALUES ROWS)", ended)
    yield from _each("DELETE FROM records WHERE (kind, id) IN (VALUES ROWS)", changes.records_gone)
    if changes.expired is not None:
        yield "DELETE FROM records WHERE expires_at <= ?", (changes.expired,)
    yield from _each("INSERT OR REPLACE INTO places VALUES ROWS", changes.places)
    if changes.unacknowledged is not None:
        told = (changes.floor, changes.unacknowledged, NO_MAILBOX)
        yield "DELETE FROM places WHERE lost <= ? AND acknowledged <= ? AND taken = ?", told
    yield from _each("INSERT OR REPLACE INTO leases VALUES ROWS", changes.leases)
    yield from _each("INSERT OR REPLACE INTO records VALUES ROWS", [*changes.records, *receipts])


def _each(statement: str, rows: Sequence[tuple[Any, ...]]) -> Iterator[Statement]:
    """Cut rows into parts whose lengths are powers of two: so few different statements are ever prepared."""
    start = 0
    while start < len(rows):
        count = min(STORE_ROWS_PER_STATEMENT, 1 << (len(rows) - start).bit_length() - 1)
        part, start = rows[start : start + count], start + count
        yield _of_rows(statement, len(part[0]), count), [value for row in part for value in row]


@lru_cache(maxsize=192)
def _of_rows(statement: str, width: int, count: int) -> str:
    row = "(" + ",".join("?" * width) + ")"
    return statement.replace("ROWS", ",".join([row] * count))
