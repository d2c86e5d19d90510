"""How much one rendering may cost, besides what `limited_worker` limits.

A conversation of 4 MB takes 0.1 s, and 30 MB of memory.
"""

from __future__ import annotations

COMPUTING_S = 2.0
"""Time of the processor, which does not grow on a busy machine."""
TEXT_CHARS = 16 << 20
"""Longest text."""
