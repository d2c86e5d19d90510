"""How a model card of ours is told from anybody else's: its front matter has our record of the model.

The record and the text: `wf_converter.card`. Here is only what `targets` has to know before it replaces one.
"""

from __future__ import annotations

from pathlib import Path

RECORD_KEY = "wrinklefree"
"""Of the front matter: everything that the card's text says, as values."""
MAX_CARD_BYTES = 1 << 20


def is_own_card(path: Path) -> bool:
    """Whether there is a card that WrinkleFree wrote, by hand changed or not."""
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return False
    return has_record(path.read_text(encoding="utf-8", errors="replace"))


def has_record(card: str) -> bool:
    """Whether a card's front matter has our key."""
    lines = card.splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return False
    return any(line.startswith(f"{RECORD_KEY}:") for line in lines[1 : lines.index("---", 1)])
