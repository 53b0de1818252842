"""The bounds of the stores on a disk and in Redis, each with its reason; in bytes and seconds."""

from __future__ import annotations

REDIS_PRESENCE_SECONDS = 0.05
"""A process reports this long after a change what has changed: many in one run of the script."""

REDIS_PRESENCE_AT_ONCE = 200
"""Names that it reports in one run, some 3 ms of Redis."""

REDIS_PRESENCE_BEAT_SECONDS = 1.0
"""It reports at least this often that it is there."""

STORE_LOCK_SECONDS = 1.0
"""A store's file that another process holds longer than this is refused at the start."""

STORE_COMMIT_BYTES = 8 * 1024 * 1024
"""Memory of the messages in one commit: more would keep the first of them waiting for the last."""

STORE_GATHER_SHARE = 0.25
"""A commit waits for as many pushes as were under way before, for this part of what the last one took."""

STORE_GATHER_SECONDS = 0.005
"""It waits no longer than this, however slow the disk."""

STORE_ROWS_PER_COMMIT = 5_000
"""Rows of places, and of messages that go, in one commit: when much expires at once, pushes still pass."""

STORE_ROWS_PER_STATEMENT = 64
"""Eight columns of each stay below the 999 parameters that older SQLite allows. With 32, 64 pushes at once
are 2 % slower."""

STORE_STALLED_SECONDS = 10.0
"""Pushes are refused once the disk has not answered a commit for this long."""

STORE_CACHE_BYTES = 8 * 1024 * 1024
"""Pages that SQLite keeps in memory: reads never come from it, writes touch the newest and the places."""

STORE_LOG_BYTES = 16 * 1024 * 1024
"""SQLite's write-ahead log is cut to this after a checkpoint, which it makes every 4 MB."""

STORE_LOG_AHEAD_BYTES = 1_100 * (4_096 + 24)
"""The log has this length once a sixteenth is used: the thousand pages after which it is overwritten, and
some for the commit that comes to them."""

STORE_RESERVE_BYTES = 64 * 1024 * 1024
"""Pushes stop where less than this would be free on the disk, because a deletion has to be written before it
makes room. The write-ahead log takes 16 MB, and places and records, which are still written, some 30 MB. A
push that fits into unused pages of the file needs half of this."""

STORE_NUMBERS_RESERVED = 1_000_000
"""Numbers on which the disk is waited for under ``--sync=normal``: one such wait in a million messages."""

REDIS_MESSAGE_COST = 80
"""What a message takes besides its name, type, body and event: 50 measured, 80 in a mailbox of two."""

REDIS_MAILBOX_COST = 600
"""What a mailbox takes besides its messages, and its name in four keys: 460 to 590 measured."""

REDIS_LEASE_COST = 140
"""What the last lease of a message takes in Redis until the message is done or dropped."""

REDIS_LEASES_ENDED_AT_ONCE = 500
"""Leases that end in one step of Redis."""

REDIS_LOOK = 1_000
"""Messages of others that are looked through for the reader of a pattern in one step of Redis."""

REDIS_EXPIRED_AT_ONCE = 100
"""Mailboxes in which messages expire in one step of Redis."""

REDIS_GOING_AT_ONCE = 1_000
"""Messages of a mailbox that one step of Redis deletes, 5 ms; after so many it expires no other mailbox."""

REDIS_OOM_BYTES = 256 * 1024
"""Bytes of messages that were read, which one step lets go where Redis has no memory for a push."""

REDIS_UNWRITTEN_BYTES = 8 * 1024 * 1024
"""What a process remembers to write once Redis takes it: acknowledgements, and the names of records. Of more
than that the oldest is not written; a reader that comes back acknowledges again."""

REDIS_WRITTEN_AT_ONCE = 500
"""Acknowledgements that one step of Redis writes of these, some 5 ms, and records that one turn writes."""

REDIS_SAID_SECONDS = 60.0
"""The log says no more often why Redis takes no pushes: at its bound of memory that comes and goes."""

REDIS_RUNS = 100
"""Starts and failovers of Redis that are remembered: a process that was away for more has a gap."""

REDIS_COUNT_SECONDS = 1.0
"""A push is answered after this long, though other processes have not said how many readers they woke."""

REDIS_WAKE_BYTES = 4 * 1024
"""Bytes of messages that a push publishes with the name of a recipient. Of larger pushes only the name is
published, and readers read Redis: each process that listens is sent all that is published, and Redis lets go
of one that is 32 MB behind."""

REDIS_WINDOW_MESSAGES = 16
"""Published messages of a mailbox that a process keeps: a reader that comes back has missed few."""

REDIS_WINDOWS_BYTES = 8 * 1024 * 1024
"""And those of all mailboxes together, with the table that finds them."""

REDIS_ACKNOWLEDGE_SECONDS = 0.05
"""What readers acknowledge that were answered without Redis is gathered for so long: one step sends all."""

REDIS_FULL_SECONDS = 0.06
"""A push that finds a mailbox full asks once more after this long: what readers had acknowledged at any
process has arrived by then."""

REDIS_CHECK_SECONDS = 15.0
"""A process compares its notices with what Redis holds this often, for keys at which readers wait. A
publication may be lost, and a stream or socket has no end of a wait at which it would read."""

REDIS_CHECKED_AT_ONCE = 500
"""Keys that are compared in a second at most: at 3 µs each, 100 processes take a seventh of Redis."""

REDIS_STAND_SECONDS = 60.0
"""Wakes of a mailbox are listened to this long after its last reader disconnected: most come back at once."""

REDIS_STANDING = 100_000
"""Names whose wakes are listened to, apart from those where readers wait, however many are asked for."""

REDIS_LEFT_AT_ONCE = 100
"""Beyond that each poll of a new name lets go of so many, those that were asked for longest ago."""

REDIS_RETRY_SECONDS = 1.0
"""The longest pause between two attempts to reach a Redis that is away."""
