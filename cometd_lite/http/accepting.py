"""The header field ``Accept``: which media types a client takes (RFC 9110 §12.5.1)."""

from __future__ import annotations

import re

_ZERO_WEIGHT = re.compile(r"0(?:\.0*)?")


def accepts(accept: bytes | None, media_type: str) -> bool:
    """Return whether ``Accept`` names a media type, with a weight above 0."""
    return media_type in media_ranges((accept or b"").lower())


def media_ranges(accept: bytes) -> list[str]:
    """Return the media ranges of an ``Accept``, in lower case, without those of the weight 0."""
    ranges = [entry.partition(";") for entry in accept.decode("latin-1").split(",")]
    return [kind.strip() for kind, _, parameters in ranges if not _is_refused(parameters)]


def _is_refused(parameters: str) -> bool:
    """Return whether the parameters of a media range have the weight 0 (RFC 9110 §12.4.2)."""
    for parameter in parameters.split(";"):
        name, _, weight = parameter.partition("=")
        if name.strip() == "q" and _ZERO_WEIGHT.fullmatch(weight.strip()):
            return True
    return False
