"""How much one rendering may cost. A conversation of 4 MB takes 0.1 s, and 30 MB of memory."""

from __future__ import annotations

COMPUTING_S = 2.0
"""Time of the processor, which does not grow on a busy machine."""
WALL_S = 30.0
MEMORY_BYTES = 512 << 20
"""Address space of the worker, 30 MB of which are Python."""
TEXT_CHARS = 16 << 20
"""Longest text."""
