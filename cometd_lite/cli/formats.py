r"""``--format``: a line for each message, as in ``'{recipient}: {data[text]}'``.

The fields are those of ``FIELDS``. ``{data[text]}`` is a member of a JSON object, ``{data[0]}`` an item of an
array, and empty where there is none. ``\n``, ``\t`` and ``\\`` are what they are elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

FIELDS = ("id", "recipient", "created_at", "type", "event", "data")
"""What a message has, by the names of its JSON."""

_ESCAPE = re.compile(r"\\([nt\\])")
_ESCAPED = {"n": "\n", "t": "\t", "\\": "\\"}


class LineFormat:
    """A template of a line. Raises ``ValueError`` with a sentence where it is none."""

    def __init__(self, text: str) -> None:
        self._text = _ESCAPE.sub(lambda found: _ESCAPED[found[1]], text)
        try:
            named = [name for _, name, _, _ in Formatter().parse(self._text) if name is not None]
        except ValueError as error:
            raise ValueError(f"{text!r} is no format: {error}; a brace itself is {{{{ or }}}}") from None
        for name in named:
            field = re.match(r"[^.\[]*", name)
            if field is None or field[0] not in FIELDS or "." in name:
                raise ValueError(
                    f"{text!r} has the field {{{name}}}; there are "
                    f"{', '.join(f'{{{known}}}' for known in FIELDS)}, and {{data[NAME]}} of JSON"
                )
        try:
            self.line(dict.fromkeys(FIELDS, ""))
        except ValueError as error:
            raise ValueError(f"{text!r} is no format: {error}") from None

    def line(self, fields: Mapping[str, Any]) -> str:
        """Return the line of a message, without its end; ``data`` is parsed JSON, text, or base64."""
        shown = {name: Shown(value) for name, value in fields.items()}
        return _Members().vformat(self._text, (), shown)


class Shown:
    """A value of JSON in a line: a string as its text, nothing for null, everything else as JSON."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getitem__(self, key: str | int) -> Shown:
        """Return a member or an item. Raises ``LookupError`` where there is none."""
        value = self._value
        if isinstance(value, dict):
            return Shown(value[str(key)])
        if isinstance(value, list) and isinstance(key, int):
            return Shown(value[key])
        raise KeyError(key)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __str__(self) -> str:
        value = self._value
        if value is None or isinstance(value, str):
            return value or ""
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Members(Formatter):
    """Formats members of JSON objects, and nothing where there is no such member."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        try:
            found, name = super().get_field(field_name, args, kwargs)
        except LookupError:
            return "", field_name
        return found, name
