"""Text of others, fit for one line of a terminal."""

from __future__ import annotations


def printable(text: str, most_chars: int = 300) -> str:
    """The text, cut short, with `\\x1b` for what steers a terminal, breaks the line or cannot be encoded."""
    shown = text if text.isprintable() else "".join(map(_shown, text[: most_chars + 1]))
    return shown if len(shown) <= most_chars else f"{shown[:most_chars]}…"


def _shown(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()
