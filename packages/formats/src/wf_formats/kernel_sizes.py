"""Sizes of what training kernels keep in memory, for them and for who plans the memory without PyTorch."""

from __future__ import annotations

ATTENTION_TOKENS = 1024
"""Longest sequence whose score matrices are kept (bitnet_arch.attention)."""
ATTENTION_QUERIES = 128
"""Queries of a chunk whose scores exist at once (ternary_kernels.training.attention)."""
MOMENT_BLOCK = 256
"""Weights whose 8-bit moments share an exponent (ternary_kernels.training.adamw)."""
