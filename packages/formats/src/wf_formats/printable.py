"""Text of others, fit for a terminal: names, messages and answers come from files and servers of anybody.

A terminal obeys what it is shown: ESC and the C1 codes (U+0080 to U+009F) move the cursor, set the title or
answer as if typed, a carriage return overwrites the line, and the marks of U+202A to U+202E and U+2066 to
U+2069 turn the order of what is read (UAX 9). They are written out as `\\x1b`:

    printable   names and reasons inside a line of ours: all that is no plain character, cut short
    legible     whole texts (an answer, an error): what steers, and half characters; lines, tabs, spaces of
                all kinds and joined emoji stay

What goes into a pipe or a file is not for a terminal; whoever writes there writes the text as it is.
"""

from __future__ import annotations

import re

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, most_chars: int | None = 300) -> str:
    """The text, cut short, with escapes for what steers a terminal, breaks the line or cannot be encoded."""
    limit = len(text) if most_chars is None else most_chars
    shown = text if text.isprintable() else "".join(map(_shown, text[: limit + 1]))
    return shown if most_chars is None or len(shown) <= limit else f"{shown[:limit]}…"


def number_of(count: int, thing: str) -> str:
    """`1 token`, `4,096 tokens`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def legible(text: str) -> str:
    """The text with escapes for what steers a terminal or cannot be encoded; new lines and tabs stay."""
    return _STEERING.sub(lambda found: _escaped(found[0]), text)


def _shown(char: str) -> str:
    return char if char.isprintable() else _escaped(char)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
