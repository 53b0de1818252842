"""The bounds that no operator has a reason to set, each with its reason; in bytes and seconds."""

from __future__ import annotations

RECIPIENT_BYTES = 256
"""A name is a key in several tables; HTTP.md's bound keeps it shorter than any message."""

RECIPIENT_SEGMENTS = 16
"""A push looks for readers of as many patterns as its name has segments, and each mailbox is indexed by all
of them: with 127 segments, 8,700 mailboxes made the poll of a pattern take a second."""

RECIPIENTS_PER_REQUEST = 100
"""A push to all of them is one step for the reactor, and a reader merges as many logs."""

UNKNOWN_PARAMETERS = 50
"""Parameters of a query that are not known: each is compared with all known ones, some 0.2 ms."""

PUSH_MESSAGES = 10_000
"""Messages that one push makes, lines times recipients: it is one step for the reactor."""

EVENT_BYTES = 64
"""An SSE ``event:`` is a word, not a payload."""

MEDIA_TYPE_BYTES = 255
"""RFC 6838 §4.2 allows 127 and 127 with a slash between; in practice parameters fit into the rest."""

IDEMPOTENCY_KEY_BYTES = 255
"""A UUID takes 36; this is what the field's other APIs allow."""

IDEMPOTENCY_KEYS = 200_000
"""Receipts remembered for retries (HTTP.md), 250 bytes each: 50 MB. The oldest is forgotten first."""

IDEMPOTENCY_SECONDS = 600.0
"""A client that retries does so within minutes."""

RECEIPTS_AT_ONCE = 5_000
"""Receipts whose time is over that are forgotten in one turn of the reactor, and subjects that are looked at
for them: 3 ms."""

MESSAGE_DEPTH = 500
"""Levels of arrays and objects in a message's JSON. The parsers of its readers take 512 (PHP) or 1,000
(Python, Java), a poll's answer adds three, and a reader that cannot parse an answer never gets past it."""

JSON_DEPTH = 1_024
"""Levels in a whole JSON text: more than MESSAGE_DEPTH, so that the other messages of a Bayeux batch are
served where one is nested too deeply."""

CURSOR_DIGITS = 18
"""Below 2^63, so that every database and every JSON parser with 64 bits can hold it."""

WAIT_SECONDS = 25.0
"""Held this long unless asked otherwise: below the 30 s of the strictest proxies (RFC 6202 §5.5)."""

WAIT_SPREAD = 0.1
"""Ended waits come up to this part earlier, so that a thousand clients do not return in one second."""

POLL_MESSAGES = 100
"""Messages in one answer unless asked otherwise."""

POLL_MESSAGES_MOST = 1_000
"""Messages in one answer at the most: one answer is one step for the reactor."""

HISTORY_MESSAGES_MOST = 1_000
"""The newest messages that ``after=last:`` may ask for (HTTP.md, "Poll"): as many as one answer has."""

HISTORY_DIGITS = 8
"""Digits of the seconds that ``after=since:`` may ask for: three years, beyond which times are mistakes."""

LISTED = 100
"""Mailboxes in one page of a listing unless asked otherwise (HTTP.md)."""

LISTED_MOST = 1_000
"""Mailboxes in one page at the most: some 200 KB of JSON."""

POLL_BYTES = 1024 * 1024
"""One answer at the most, as it is sent; a single larger message is still delivered."""

RENDERED_MESSAGES = 256
"""Messages whose JSON is remembered, and as many Bayeux events: those that a fan-out is busy with."""

RENDERED_BYTES = 64 * 1024
"""A larger rendering is not remembered: all take 16 MB in each form, and 32 MB with their messages."""

REMEMBERED_BYTES = 1_024
"""Of a request up to this size it is remembered what it asked, as most ask the same again. There is one
for each of the request lines that ``server/router`` knows (4,096), so all of them stay below 20 MB."""

MESSAGE_OVERHEAD = 400
"""What a message costs in memory besides its body, its event and a rare type: 390 measured."""

MAILBOX_OVERHEAD = 400
"""What a mailbox costs besides its name and messages: 400 measured by ``tests/test_limits.py``."""

NAME_OVERHEAD = 200
"""What a table that forgets the oldest takes for a name besides its text: 150 to 210 measured."""

NUMBERS_IN_PART = 2_048
"""Names in one part of the tables of what was lost and what the readers of patterns acknowledged, 20 bytes
each: a name that comes moves as many, in 3 µs. In parts of 512 what is left of a flood takes 0.8 MB more:
each part of 4 kB lies on two pages."""

NUMBERS_KEPT = 1_000_000
"""Names in one of these tables, 20 MB, however many mailboxes there may be. Of more, those with the lowest
numbers are forgotten, and their readers may get a gap where nothing was lost."""

SEEN_BYTES = 8 * 1024 * 1024
"""Names, with when a reader of them was here: 30,000 ordinary ones."""

LEASE_SECONDS = (1.0, 3_600.0)
"""How long a lease may be asked for (HTTP.md): work that takes longer extends its lease."""

LEASES_PER_REQUEST = 100
"""Leases that one request acknowledges: a target of 8 KB has room for so many."""

LEASE_OVERHEAD = 300
"""What the last lease of a message costs in memory until the message is done or dropped, 260 measured."""

LEASES_ENDED_AT_ONCE = 2_000
"""Leases that end in one step, 3 ms."""

EXHAUSTED_AT_ONCE = 100
"""Messages that are moved to their dead letters at each sweep, at the least: each is a push."""

ONLINE_SECONDS = 45.0
"""A reader that polled this recently is online: longer than a wait and a reconnect together."""

PRESENCE_SECONDS = 3600.0
"""How long it is remembered when a recipient was last seen."""

PRESENCE_NAME_BYTES = 64
"""A reader's own name is a nickname or an id, which is shown to all other readers of the recipient."""

PRESENCE_MEMBERS = 1_000
"""Names that are listed of one recipient. Of more, only the count is published: a join would go to each."""

PRESENCE_COUNT_SECONDS = 1.0
"""Then the count of readers is published no more often than this."""

PRESENCE_MESSAGE_SECONDS = 60.0
"""A join or leave is kept for so long: longer than a client needs to come back with its cursor."""

PRESENCE_FAREWELL_SECONDS = 5.0
"""A client that says that it leaves has closed its connection, which is noticed by then."""

PRESENCE_BYTES = 32 * 1024 * 1024
"""The table of who reads what: some 40,000 names, each at a recipient of its own."""

PRESENCE_MEMBER_OVERHEAD = 300
"""What a name takes in it at each recipient besides its text; ``tests/test_limits.py`` measures all three."""

PRESENCE_PLACE_OVERHEAD = 300
"""What a recipient or pattern with readers takes besides its text."""

PRESENCE_READER_OVERHEAD = 40
"""What a reader takes: the time at which it is present no more, once it has left."""

PRESENCE_LOOKS = 64
"""Names that are looked at for one that can leave early, where the table is full."""

PRESENCE_SWEPT_AT_ONCE = 500
"""Names whose readers are looked at in one turn for whether their time is over, some 2 ms."""

PRESENCE_CHANGES = 50_000
"""Joins and leaves that are still to be published, 300 bytes each: nearly all of a full table."""

PRESENCE_PUSHES = 100
"""Messages of joins and leaves that a store which waits is given at once."""

STREAM_BYTES = 64 * 1024
"""Bytes that a stream or socket writes at once, as they are sent, or one larger message. The next write waits
until the kernel has taken them: so a client that does not read costs one write, not what it misses."""

STREAM_MESSAGES = 100
"""Messages that a stream is sent in one step: other readers get their turn in between."""

STALLED_SECONDS = 60.0
"""A stream or socket whose client takes nothing of what was sent for this long is disconnected (HTTP.md,
"Stream")."""

HEARTBEAT_SECONDS = 15.0
"""A byte this often keeps proxies from ending a quiet stream (WHATWG HTML §9.2.7; many idle after 30 s)."""

SOCKET_READ_BYTES = 4 * 1024
"""Bytes that a socket parses before it looks whether its client takes the answers, which are larger."""

SOCKET_SECONDS = 0.005
"""What a socket's client has sent at once is parsed for so long in one turn of the reactor."""

PING_SECONDS = 25.0
"""A WebSocket ping this often: below the 30 s of the strictest proxies."""

RETRY_MILLISECONDS = (1_000, 3_000)
"""A stream asks its reader to come back after a time drawn from this range, against lock-step."""

SOCKET_MESSAGE_BYTES_OVER_BODY = 2_048
"""What a push over a WebSocket may have around its data: a recipient, a ref and JSON's own signs."""

LISTEN_BACKLOG = 4_096
"""Connections that wait to be accepted, as far as the kernel's own bound lets them."""

CLIENTS_KNOWN = 20_000
"""Clients remembered that hold nothing, 1 KB each: one that comes back finds its debts, or a fresh start."""

CLIENT_BURST_SECONDS = 5.0
"""What a client did not push in the last seconds it may push at once, as it comes back or starts."""

CLIENT_CONNECTIONS_SHARE = 0.25
"""The part of all connections that one public address may have: three of them cannot stop the rest."""

FILES_RESERVED = 64
"""Files kept for what is no connection: ports, logs, stores, threads' pipes; a fresh server has a dozen."""

TOKEN_BYTES = 8_192
"""A JSON Web Token at the most: with dozens of patterns one has 2 KB, and a header fits no more."""

TOKENS_KNOWN = 1_000
"""Verified tokens that are remembered, so that a signature is checked once and not at each poll."""

SECRET_BYTES = 32
"""A secret for HS256 at the least (RFC 7518 §3.2)."""

RSA_BITS = 2_048
"""An RSA key at the least (RFC 7518 §3.3)."""

NOT_BEFORE_LEEWAY_SECONDS = 10.0
"""A token whose ``nbf`` is this far ahead is taken: the clock of the program that signed it may be fast."""

OUTGOING_CONNECTIONS_KEPT = 20
"""Idle connections to one server that are kept for the next request."""

OUTGOING_KEPT_SECONDS = 30.0
"""An idle connection is kept this long: shorter than most servers and proxies keep theirs."""

REPLY_BYTES = 64 * 1024
"""What an application replies at the most: it is asked for a subject and a number, or for nothing."""

APPLICATION_SECONDS = 5.0
"""A question to the application that has no whole answer by then is refused (HTTP.md): its client waits."""

APPLICATION_QUESTIONS = 200
"""Questions to the application that are under way at once, a connection each. With an answer in 50 ms they
are 4,000 a second; more would only wait in the application."""

APPLICATION_QUESTIONS_SHARE = 0.25
"""The part of those that one address may have: not even three stop the rest."""

APPLICATION_REMEMBERED_SECONDS = 300.0
"""An answer of the application is remembered this long at the most (HTTP.md)."""

APPLICATION_REMEMBERED_BYTES = 16 * 1024 * 1024
"""Answers of the application that are remembered: some 40,000. The oldest is forgotten first."""

APPLICATION_ANSWER_OVERHEAD = 400
"""What a remembered answer costs in memory besides its subject, 370 measured by ``tests/test_limits.py``."""

APPLICATION_SUBJECT_BYTES = 256
"""A subject is the name of a user, and a key in several tables."""

APPLICATION_ASKED_AGAIN_SECONDS = 1.0
"""A reader is asked about no more often than this, however small ``expires_in`` is."""

APPLICATION_ASKED_AGAIN_SECONDS_MOST = 86_400.0
"""A reader is asked about this often at the least, however large ``expires_in`` is."""

ADMITTED_AT_ONCE = 100
"""Requests that go on in one turn of the reactor when the answer to their question has come: 5 ms."""

EVENT_SECONDS = 3_600.0
"""An event is posted again and again for so long (HTTP.md), and is of no use to an application after that."""

EVENTS_WAITING = 10_000
"""Events that wait for an application (HTTP.md); then the oldest go."""

EVENTS_BYTES = 16 * 1024 * 1024
"""All of those together: an event has 150 bytes, and up to 8 KiB with the longest names."""

EVENTS_AT_ONCE = 100
"""Events in one request: some 15 KB, which any application takes in one step."""

EVENT_GATHER_SECONDS = 0.1
"""Events of this time are posted together: a page that is opened is joined by many readers at once."""

EVENT_POST_SECONDS = 15.0
"""An application has so long to take events: the Standard Webhooks ask for 15 to 30 s."""

EVENT_PAUSE_SECONDS = (1.0, 60.0)
"""The first pause after an attempt that failed, and the longest: events do not wait long for what is back."""

POSTING_CLAIM_SECONDS = 15.0
"""Another process of a cluster posts the events this long after the one that did has ended."""

POSTING_RENEWED_SECONDS = 5.0
"""How often the one that posts says that it is there, so that it may miss that once."""

UNREAD_BYTES = 32 * 1024 * 1024
"""Recipients with a message that no reader has fetched: some 75,000 with ordinary names."""

UNREAD_OVERHEAD = 360
"""What such a recipient takes in memory besides its name, 350 measured by ``tests/test_limits.py``."""

UNREAD_AT_ONCE = 100
"""Recipients that are looked at in one turn of the reactor, 20 µs each; as many are asked for in Redis."""

UNREAD_AGAIN_SECONDS = 5.0
"""A recipient is looked at again after so long where its store is away."""

UNREAD_GHOST_SECONDS = 2.0
"""A reader that left so soon after a push, and has not come back, may never have got the message."""

UNREAD_REPORTED_SECONDS = 86_400.0
"""A cluster announces an absence again after this time: messages that are kept for a day have expired."""

UNREAD_HERE_SECONDS = 60.0
"""A reader that polls says no more often than this that it is there: each time costs Redis a command."""

UNREAD_TAKEN_OVER_SECONDS = 30.0
"""A recipient that is overdue for so long was waited for by a process that has ended."""

SESSION_ID_BYTES = 20
"""An id is a secret: 128 bits cannot be guessed, 160 leave no argument."""

SESSIONS_AT_ONCE = 500
"""Listeners or Bayeux sessions that expire in one turn of the reactor, 3 ms."""

SESSION_OVERHEAD = 1_000
"""What a listener or a Bayeux session takes in memory besides the names that it reads, 830 measured."""

SESSION_NAME_OVERHEAD = 100
"""What a name that it reads takes besides its text: an entry of a tuple, and one that says since when."""

SESSION_BYTES = 2_000
"""Memory of one listener or Bayeux session where as many exist as may be: it reads five ordinary names."""

PLACE_OVERHEAD = 300
"""What a place in the registry takes besides the text of its key, 260 measured."""

PLACES_BYTES = 4_000
"""Memory of the places of one reader where as many are parked as may be: it names ten ordinary names."""

LISTENER_SECONDS = 300.0
"""A listener that is not polled for this long ends, unless it asked for another time."""

LISTENER_SECONDS_MOST = 86_400.0
"""The longest time a listener may ask to be remembered: as long as messages are."""

LARGE_ANSWER_BYTES = 16 * 1024
"""An answer of a listener or a Bayeux session above this size may need seconds to reach its client, in which
the session must not expire. Smaller ones fit into the first packets of a connection."""

SLOW_CLIENT_BYTES_PER_SECOND = 16 * 1024
"""The rate at which a client is assumed to read a large answer, where it is not known: 64 s for 1 MiB."""

SENDING_LOOKS = 2_000
"""Sessions looked at in one turn for whether their answers have left: a system call each."""

BAYEUX_BATCH_MESSAGES = 1_000
"""Messages in one Bayeux request: each is answered, and one request is one step for the reactor."""

BAYEUX_BATCH_BYTES = 1024 * 1024
"""One Bayeux request with all of its messages: CometD's clients put what was published meanwhile into one."""

BAYEUX_BATCH_VALUES = 20_000
"""Values in one Bayeux request besides the data of its messages, which is not parsed: a message has some ten.
As many numbers that no float holds take 10 ms to parse."""

BAYEUX_SUBSCRIPTIONS = 200
"""Subscriptions of one Bayeux session: its held connect stands at each of them, and reads all of them."""

BAYEUX_BROWSER_SESSIONS = 100
"""Bayeux sessions of one browser. It has fewer tabs, but a page may shake hands in a loop."""

BAYEUX_SOCKET_BACKLOG = 100
"""Texts of one Bayeux socket that wait for the one before: a store that waits must not make them a queue."""

BAYEUX_SOCKET_BACKLOG_BYTES = 8 * 1024 * 1024
"""And all of those texts together, or one of the largest."""

BAYEUX_SOCKET_SILENT_SECONDS = 30.0
"""A Bayeux socket without a session by then is closed. Faye opens it first, and networks may be slow."""

BAYEUX_CALLBACK_BYTES = 128
"""The name of a JSONP callback: libraries' own have some forty letters."""

REVOKED_SECONDS = 8.0
"""Readers that a removed key had let in end within this time, so that not all come back at once."""

ENDED_PER_SECOND = 1_000
"""Waits ended in a second, at the least, when the server stops: few readers do not make it slow."""

DRAIN_IDLE_SECONDS = 1.0
"""A connection on which nothing is asked is kept this long then: some client is between two polls."""

DRAIN_SECONDS = 10.0
"""A server that stops has ended by then: service managers kill it after 30 to 90 s."""

SWEEP_SECONDS = 1.0
"""How often expired messages and forgotten readers are cleared away."""

LOG_SECONDS = 1.0
"""Lines of the access log are gathered for so long: one write for all, and few are lost in a crash."""

LOG_LINES = 1_000
"""Or until there are so many."""

LOG_FIELD_BYTES = 512
"""What the access log has of a ``User-Agent`` or ``Referer``; longer ones are no real ones."""

FAILURES_LOGGED_SECONDS = 60.0
"""A fault that repeats is logged once in this time."""

RETRY_SPREAD = 5
"""``Retry-After`` is a random number of seconds up to this much later than needed, against lock-step."""

HEAP_SECONDS = 0.25
"""Freed memory is given back to the system this often. To give back 128 MB took 12 ms."""

HEAP_SHARE = 0.01
"""Giving memory back takes up to this share of the time. Among 13,000 free blocks of 5 kB it takes 1.3 ms."""

GC_SECONDS = 0.5
"""The collector of cycles walks along the new objects this often. 5,000 mailboxes that come in that time take
some 5 ms. Python's own count falls where objects go. Where as many go as come, a collection by that count
alone walked along 90,000 objects, in 26 to 47 ms."""

GC_OBJECTS = 20_000
"""It does so earlier where so many more objects have come than gone, and takes 4 to 16 ms. A fan-out to 1,000
polls makes 12,000; with Python's 700 a quarter of its time was the collector's."""

GC_FEW_BLOCKS = 500_000
"""Blocks of Python's memory, 290,000 of them modules, in which all garbage is found in some 10 ms."""

GC_MANY_BLOCKS = 4_000_000
"""A server whose tables are full at default bounds has 3,600,000, and to find all garbage takes 170 ms."""

MEMO_SECONDS = 60.0
"""Results of functions are remembered for so long, see ``memos``. To compute all again takes some 20 ms."""

TIDIED_AT_ONCE = 2_000
"""Entries of a table of times that one turn of the reactor checks for being out of date: 2 ms."""

SLICE_SECONDS = 0.01
"""Long work goes on for so long in each turn: with a last step of 3 ms a turn stays below 20 ms."""

PATTERN_LOOK = 2_000
"""Messages of the log that the reader of a pattern looks through in one step, 1 ms."""

PATTERN_MAILBOXES = 1_000
"""Where a pattern covers no more mailboxes than this, its reader reads these and not the log."""

NAMES_LOOK = 2_000
"""Names of mailboxes that a listing looks at in one step, 1 ms."""

DESCRIBED_AT_ONCE = 20
"""Mailboxes of a listing that are described in one turn of the reactor, 4 ms where all are full."""

GOING_AT_ONCE = 200
"""Messages that expire or are deleted in one step, each from another mailbox at the worst: 3 ms."""

WOKEN_AT_ONCE = 500
"""Parked readers that look again, or whose waits end, in one turn of the reactor: some 5 to 10 ms."""
