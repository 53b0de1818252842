"""The names of mailboxes: a string from anywhere arrives, a name or a pattern that is allowed leaves.

A recipient is 1 to 256 bytes of UTF-8 in at most 16 segments parted by ``/`` (HTTP.md, "Words"). A reader may
also name patterns: ``chat/*`` stands for one more segment, ``chat/**`` for one or more. A pattern is a key
in the same tables as a name, so that a push finds its readers by as many look-ups as its name is deep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..errors import BadRecipient
from ..limits import RECIPIENT_BYTES, RECIPIENT_SEGMENTS
from ..memos import memo

ALL_LISTENERS = "$listeners"
"""The mailbox that every listener reads besides its own: ``POST /push?to=listeners``."""

DEAD = "$dead/"
"""What the names of dead letters begin with: ``$dead/jobs`` has the messages of ``jobs`` that were leased too
often."""

PRESENCE = "$presence/"
"""What the names begin with of mailboxes that hold who joins and leaves: ``$presence/lobby`` is about
``lobby``."""

READABLE = (DEAD, PRESENCE)
"""What the server's own names begin with that readers may name."""

_PLAIN = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.@:+-]*(?:/[0-9A-Za-z_][0-9A-Za-z_.@:+-]*)*").fullmatch
"""Most names, of which nothing else need be looked at."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LISTENER = re.compile(r"~[0-9a-f]{40}")
_RESERVED = frozenset({"", ".", "..", "*", "**"})


def recipient(name: str) -> str:
    """Return ``name`` if a mailbox can have it; raise ``BadRecipient`` with what is wrong if not."""
    _check_depth(name)
    return _named(name)


def _check_depth(name: str) -> None:
    if name.count("/") >= RECIPIENT_SEGMENTS:
        raise BadRecipient(f"A recipient's name has at most {RECIPIENT_SEGMENTS} segments.")


def has_control_characters(text: str) -> bool:
    """Return whether a name of a recipient or an event has characters that it cannot have."""
    return _CONTROL.search(text) is not None


def stored(name: str) -> str:
    """Return ``name`` if a reader may name a mailbox so; raise ``BadRecipient`` if not.

    Names had no bound on their segments in earlier versions. Such mailboxes are still read and deleted. Of
    the server's own names those are read that begin with one of ``READABLE``; the bounds are those of the
    name behind it.
    """
    _named(plain(name))
    return name


def plain(name: str) -> str:
    """Return the recipient that a name of the server's own is about: ``jobs`` for ``$dead/jobs``.

    For any other name it is the name itself. A client that may read the one may read the other.
    """
    if name.startswith(READABLE):
        return name[name.index("/") + 1 :]
    return name


def _named(name: str) -> str:
    if len(name) <= RECIPIENT_BYTES and _PLAIN(name):
        return name
    if not name:
        raise BadRecipient("A recipient is needed: name it in the path, as in /push/bob, or by ?rcpt=bob.")
    if len(name) > RECIPIENT_BYTES or len(name.encode("utf-8", "surrogatepass")) > RECIPIENT_BYTES:
        raise BadRecipient(f"A recipient's name has at most {RECIPIENT_BYTES} bytes of UTF-8.")
    if has_control_characters(name):
        raise BadRecipient("A recipient's name has no control characters.")
    if name.startswith("$"):
        raise BadRecipient("Names that begin with $ are kept for the server.")
    for segment in name.split("/"):
        if segment in _RESERVED:
            raise BadRecipient(
                "A recipient's name has no empty segment, no leading or trailing /, "
                "and no segment that is '.', '..', '*' or '**'."
            )
    return name


def readable(name: str) -> str:
    """Return ``name`` if a reader can ask for it: a recipient, or a pattern ending in ``*`` or ``**``.

    Or one of the server's own names that readers may name: see ``stored``.
    """
    if not is_pattern(name):
        recipient(plain(name))
        return name
    _check_depth(name)
    head, slash, _ = name.rpartition("/")
    if slash:
        recipient(head)
    return name


def polled(name: str) -> str:
    """Return ``name`` if a poll can ask for it: what is readable, or what a store has from before."""
    return readable(name) if is_pattern(name) else stored(name)


def is_pattern(name: str) -> bool:
    """Whether a readable name stands for many recipients."""
    return name.endswith("*") and name.rpartition("/")[2] in {"*", "**"}


def is_hidden(name: str) -> bool:
    """Return whether no pattern covers a recipient: a name of the server's own, or a listener, a secret."""
    return name.startswith("$") or _LISTENER.fullmatch(name) is not None


@memo(2_048)  # a name of 16 segments has 18 keys, which take up to 10 KB
def covering(name: str) -> tuple[str, ...]:
    """Return the keys under which readers of this recipient are found: itself, then its patterns.

    ``chat/a/b`` is covered by ``chat/a/b``, ``chat/a/*``, ``chat/a/**``, ``chat/**`` and ``**``. A name that
    is hidden is in no pattern.
    """
    if is_hidden(name):
        return (name,)
    parents = name.split("/")[:-1]
    keys = [name, "/".join([*parents, "*"])]
    keys += ["/".join([*parents[:depth], "**"]) for depth in range(len(parents), -1, -1)]
    return tuple(keys)


def matcher(recipients: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that returns whether one of these readable names covers a recipient.

    It is for many recipients, of which each is asked about once: ``covering`` would make all of their keys.
    """
    names = frozenset(recipients)
    parents = frozenset([name[:-1] for name in names if is_pattern(name) and not name.endswith("**")])
    ancestors = tuple([name[:-2] for name in names if is_pattern(name) and name.endswith("**")])
    covers_all = "" in parents or "" in ancestors

    def covers(name: str) -> bool:
        if name in names:
            return True
        if covers_all and is_hidden(name):
            return False
        return name.startswith(ancestors) or name[: name.rfind("/") + 1] in parents

    return covers


def lists(prefix: str, names: Iterable[str]) -> Callable[[str], bool]:
    """Return which of the mailboxes that begin with ``prefix`` these readable names let into a listing.

    Those of the server and of listeners, whose ids are secrets, are not let in. But where the prefix is that
    of dead letters, for instance, those are let in whose recipients the names cover.
    """
    covers = matcher(names)
    return covers if plain(prefix) == prefix else lambda name: covers(plain(name))


def below(prefix: str) -> str:
    """Return the narrowest pattern that covers all names that begin with ``prefix``, and that may have it."""
    return prefix[: prefix.rfind("/") + 1] + "**"


def reaches(claim: str, prefix: str) -> bool:
    """Return whether a name or pattern covers any name that begins with ``prefix``."""
    if not is_pattern(claim):
        return claim.startswith(prefix)
    head = claim.rstrip("*")
    if head.startswith(prefix):
        return True
    return prefix.startswith(head) and (claim.endswith("**") or "/" not in prefix[len(head) :])
