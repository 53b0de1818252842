"""The scripts that Redis runs, one for each verb; and what they refuse.

What they do stands in ``lua/``, see ``log.lua``. Each script is put together of the parts that its verb uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ...core.namespaces import MailboxBounds
from ...core.store import Repeated
from ...errors import MailboxFull, ServerFull
from ...limits import (
    EVENT_SECONDS,
    EVENTS_WAITING,
    EXHAUSTED_AT_ONCE,
    ONLINE_SECONDS,
    POLL_BYTES,
    PRESENCE_COUNT_SECONDS,
    PRESENCE_MEMBERS,
    PRESENCE_MESSAGE_SECONDS,
    REDIS_EXPIRED_AT_ONCE,
    REDIS_GOING_AT_ONCE,
    REDIS_LEASE_COST,
    REDIS_LEASES_ENDED_AT_ONCE,
    REDIS_LOOK,
    REDIS_MAILBOX_COST,
    REDIS_MESSAGE_COST,
    REDIS_OOM_BYTES,
    REDIS_RUNS,
    REDIS_WAKE_BYTES,
    STORE_NUMBERS_RESERVED,
    Limits,
)

LAYOUT = 5
"""The version of what lies in Redis; ``lua/log.lua`` says what that is."""

LUA = Path(__file__).with_name("lua")
_FILES = (
    "log", "mailboxes", "wakes", "leases", "keeping", "records", "pushing", "reading", "histories", "taking",
    "upkeep", "presence", "attaching",
)  # fmt: skip
"""The files in the order in which their parts stand in a script: what is used stands above."""

_BEGIN = re.compile(r"^(?=[a-z])(?!end\b)", re.MULTILINE)
_COMMENT = re.compile(r"\s*(?<!\S)--.*$", re.MULTILINE)
_CONSTANT = re.compile(r"local ([A-Z_]+) = (.*)")
_VERB = re.compile(r"function verbs\.(\w+)\(\)\n(.*)\nend", re.DOTALL)
_DEFINED = re.compile(r"local (?:function )?(\w+(?:, \w+)*)")
_NAME = re.compile(r"(?<![.\w'])[A-Za-z_]\w*")


class Part:
    """A part of a script: the names that it defines at the top level, those that it uses, and its text.

    A part that defines nothing is a statement that each verb runs. A function that is rare is made only in
    runs that call it, but for the verbs that call it themselves.
    """

    def __init__(self, text: str, *, is_rare: bool = False) -> None:
        self.text = text
        self.uses = frozenset(_NAME.findall(text))
        defined = _DEFINED.match(text)
        self.defines = frozenset(defined[1].split(", ")) if defined else frozenset()
        self.is_rare = is_rare


@cache
def _texts() -> list[tuple[str, bool]]:
    """Return the text of each part without comments, in order, and whether it is rare."""
    parts = [part for name in _FILES for part in _BEGIN.split((LUA / f"{name}.lua").read_text())[1:]]
    return [(_COMMENT.sub("", part).strip(), part.partition("\n")[0].endswith("-- rare")) for part in parts]


def scripts(limits: Limits) -> dict[str, str]:
    """Return the script of each verb, with the bounds that it uses; and ``lacks``, which stands alone."""
    constants = {name: str(value) for name, value in _bounds(limits).items()}
    for text, _ in _texts():
        if constant := _CONSTANT.fullmatch(text):
            constants[constant[1]] = f"({constant[2]})"
    named = re.compile(rf"\b({'|'.join(constants)})\b")
    parts: list[Part] = []
    verbs: dict[str, str] = {}
    for text, is_rare in _texts():
        text_ = named.sub(lambda name: constants[name[1]], text)
        if verb := _VERB.match(text_):
            verbs[verb[1]] = verb[2]
        elif not _CONSTANT.fullmatch(text):
            parts.append(Part(text_, is_rare=is_rare))
    made = {verb: _script(parts, Part(body)).replace("VERB", f"'{verb}'") for verb, body in verbs.items()}
    return {"lacks": (LUA / "lacks.lua").read_text(), **made}


def _script(parts: list[Part], body: Part) -> str:
    """Return a script with a body and the parts that it uses."""
    steps = [part for part in parts if not part.defines]
    common = _needed([part for part in parts if not part.is_rare or part.defines & body.uses], [body, *steps])
    rare = [part for part in _needed(parts, [body, *steps]) if part not in common]
    names = [name for part in rare if part.is_rare for name in part.defines]
    # They are local to one function, which makes them once, at the first call of one.
    calls = re.compile(rf"(?<![.\w:])({'|'.join(names)})(?=\()")
    run = [calls.sub(r"rare().\1", part.text) for part in (*common, *steps, body)]
    lazily = [
        "function rare()\nif not made then",
        *[part.text for part in rare],
        f"made = {{{', '.join([f'{name} = {name}' for name in names])}}}\nend\nreturn made\nend",
    ]
    return "\n".join(["local rare, made", *run[: len(common)], *lazily, *run[len(common) :]])


def _needed(parts: list[Part], users: list[Part]) -> list[Part]:
    """Return those of the parts that define what is used, in order."""
    wanted: set[str] = set().union(*[part.uses for part in users])
    needed = []
    for part in reversed(parts):
        if part.defines & wanted:
            needed.append(part)
            wanted |= part.uses
    needed.reverse()
    return needed


def claimed_most(limits: Limits) -> int:
    """Return how many records webhooks may have of a kind; the outbox counts events that it drops before."""
    return max(limits.max_recipients, 2 * EVENTS_WAITING)


def _bounds(limits: Limits) -> dict[str, object]:
    return {
        "LAYOUT": f"'{LAYOUT}'",
        "CAPACITY": limits.capacity,
        "CAPACITY_BYTES": limits.capacity_bytes,
        "MAX_RECIPIENTS": limits.max_recipients,
        "MAX_MEMORY": limits.max_memory,
        "POLL_BYTES": POLL_BYTES,
        "MESSAGE_COST": REDIS_MESSAGE_COST,
        "MAILBOX_COST": REDIS_MAILBOX_COST,
        "LOOK": REDIS_LOOK,
        "EXPIRED_AT_ONCE": REDIS_EXPIRED_AT_ONCE,
        "GOING_AT_ONCE": REDIS_GOING_AT_ONCE,
        "MAX_ATTEMPTS": limits.max_attempts,
        "LEASE_COST": REDIS_LEASE_COST,
        "LEASES_ENDED_AT_ONCE": REDIS_LEASES_ENDED_AT_ONCE,
        "EXHAUSTED_AT_ONCE": EXHAUSTED_AT_ONCE,
        "OOM_BYTES": REDIS_OOM_BYTES,
        "EVENT_SECONDS": EVENT_SECONDS,
        "EVENTS_MOST": claimed_most(limits),
        "PRESENT_SECONDS": ONLINE_SECONDS,
        "PRESENT_MEMBERS": PRESENCE_MEMBERS,
        "PRESENT_KEPT_SECONDS": PRESENCE_MESSAGE_SECONDS,
        "PRESENT_COUNT_SECONDS": PRESENCE_COUNT_SECONDS,
        "RUNS_KNOWN": REDIS_RUNS,
        "NUMBERS_RESERVED": STORE_NUMBERS_RESERVED,
        "WAKE_BYTES": REDIS_WAKE_BYTES,
    }


def refusal(
    status: bytes, about: bytes, limits: Limits, bounds_of: Callable[[str], MailboxBounds] | None = None
) -> Exception | None:
    """Return the error that a status of the script says; None where it is not about what was asked.

    ``about`` is what the status is about: a recipient, or the record of a receipt.
    """
    match status:
        case b"repeated":
            return Repeated(about)
        case b"full":
            return MailboxFull(
                f"The mailbox of {about.decode()!r} is full of messages that no reader has fetched. "
                "Push again later, or with overflow=drop-oldest."
            )
        case b"too large":
            bounds = limits if bounds_of is None else bounds_of(about.decode())
            return MailboxFull(
                f"The push does not fit: a mailbox holds {bounds.capacity} messages "
                f"and {bounds.capacity_bytes} bytes."
            )
        case b"mailboxes":
            return ServerFull(f"The server holds {limits.max_recipients} mailboxes, which is its bound.")
        case b"memory":
            return ServerFull(f"The messages kept reach the server's bound of {limits.max_memory} bytes.")
    return None
