"""The server's sentences in the words of the command: options in the place of parameters and fields."""

from __future__ import annotations

import re

_WORDS = (
    (re.compile(r"^(wait|limit|ttl|event|overflow|lease) (?=is|has)"), r"--\1 "),
    (re.compile(r"^Idempotency-Key "), "--key "),
    (re.compile(r"^The Content-Type is"), "--type is"),
    (
        re.compile(r"as in \?after=oldest; a take or lease needs names"),
        "as in --after oldest; a take needs names",
    ),
    (re.compile(r"queue=no does not keep"), "--no-queue does not keep"),
    (re.compile(r"with overflow=drop-oldest"), "with --overflow drop-oldest"),
    (
        re.compile(r"A token is needed: .*"),
        "A token is needed: give it by --token, or as COMETD_LITE_TOKEN in the environment.",
    ),
    (re.compile(r"^The body is"), "The message is"),
    (re.compile(r"^The body of"), "A message of"),
    (re.compile(r"^A body has"), "A message has"),
)


def reworded(text: str) -> str:
    """Return a sentence of the server or the client, for people who have typed options."""
    for pattern, words in _WORDS:
        text = pattern.sub(words, text)
    return text
