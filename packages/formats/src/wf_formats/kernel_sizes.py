"""Sizes that kernels are made for, for them and for who plans or checks without them."""

from __future__ import annotations

SUMMED_INPUTS = (1 << 17) - 1
"""Most inputs under one scale, whose integer sums fit (ternary_kernels, csrc/matrix.cpp)."""
PAGE_TOKENS = 32
"""Tokens of a page of the native engine's cache (ternary_kernels.PAGE_TOKENS)."""
ATTENTION_TOKENS = 1024
"""Longest sequence whose score matrices are kept (bitnet_arch.attention)."""
ATTENTION_QUERIES = 128
"""Queries of a chunk whose scores exist at once (ternary_kernels.training.attention)."""
MOMENT_BLOCK = 256
"""Weights whose 8-bit moments share an exponent (ternary_kernels.training.adamw)."""
