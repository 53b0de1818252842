"""The scripts that Redis runs, one for each verb, with the bounds in front of them; and what they refuse.

What they do stands in ``script.lua``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

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

LAYOUT = 4
"""The version of what lies in Redis; ``script.lua`` says what that is."""


_VERBS = re.compile(r"^(?:else)?if verb == .* then$")
_QUOTED = re.compile(r"'(\w+)'")
_DEFINED = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)")
_USED = re.compile(r"(?<![.\w'])[A-Za-z_]\w*")


class Part(NamedTuple):
    """A part of ``script.lua``: the names that it defines at the top level, those that it uses, and its text.

    A part that defines nothing is a statement that each verb runs. A function that is rare is made only in
    runs that call it.
    """

    defines: frozenset[str]
    uses: frozenset[str]
    text: str
    is_rare: bool


def _part(lines: list[str]) -> Part:
    defined = _DEFINED.match(lines[0]) if lines else None
    code = "\n".join([line.partition("--")[0].rstrip() for line in lines])
    names = frozenset(defined[1].split(", ")) if defined else frozenset()
    return Part(names, frozenset(_USED.findall(code)), code, lines[0].endswith("-- rare"))


@cache
def _parts() -> tuple[list[Part], dict[str, Part]]:
    """Return the parts of ``script.lua`` in order, and what each verb does."""
    parts: list[list[str]] = []
    verbs: dict[str, list[str]] = {}
    is_verb = False
    for line in Path(__file__).with_name("script.lua").read_text().splitlines():
        if _VERBS.match(line):
            is_verb = True
            parts.append([])
            verbs |= dict.fromkeys(_QUOTED.findall(line), parts[-1])
        elif is_verb and line == "end":
            break
        elif not is_verb and line[:1].isalpha() and line != "end":
            parts.append([line])
        elif parts and not line.startswith("--"):
            parts[-1].append(line)
    bodies = {id(body) for body in verbs.values()}
    common = [_part(lines) for lines in parts if id(lines) not in bodies]
    return common, {verb: _part(body) for verb, body in verbs.items()}


def scripts(limits: Limits) -> dict[str, str]:
    """Return the script of each verb, with the bounds that it uses in front of it."""
    bounds = _bounds(limits)
    parts, verbs = _parts()
    return {verb: _script(parts, body, bounds) for verb, body in verbs.items()}


def _script(parts: list[Part], body: Part, bounds: dict[str, object]) -> str:
    """Return a script with a body, and those of the parts and bounds that it uses."""
    steps = [part for part in parts if not part.defines]
    common = _needed(parts, [body, *steps], through_rare=False)
    rare = [part for part in _needed(parts, [body, *steps], through_rare=True) if part not in common]
    wanted = frozenset().union(body.uses, *[part.uses for part in (*steps, *common, *rare)])
    texts = [f"local {name} = {value}" for name, value in bounds.items() if name in wanted]
    run = [*[part.text for part in common], *[part.text for part in steps], body.text]
    names = [name for part in rare if part.is_rare for name in part.defines]
    if not names:
        return "\n".join([*texts, *run])
    # They are local to one function, which makes them once, at the first call of one.
    calls = re.compile(rf"(?<![.\w:])({'|'.join(names)})(?=\()")
    run = [calls.sub(r"rare().\1", text) for text in run]
    texts += ["local rare, made", *run[: len(common)], "function rare()", "if not made then"]
    texts += [part.text for part in rare]
    texts += [f"made = {{{', '.join([f'{name} = {name}' for name in names])}}}", "end", "return made", "end"]
    return "\n".join([*texts, *run[len(common) :]])


def _needed(parts: list[Part], users: list[Part], *, through_rare: bool) -> list[Part]:
    """Return the definitions that are used, in order; rare ones, and what only those use, where asked."""
    wanted: set[str] = set().union(*[part.uses for part in users])
    needed = []
    for part in reversed(parts):
        if part.defines & wanted and (through_rare or not part.is_rare):
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
