"""What a proof asks of a text and of the differences that it finds; see verify.py for the reasons."""

from __future__ import annotations

import math

from wf_converter.errors import ExportError

MIN_TOKENS, MAX_TOKENS = 64, 4096
"""Fewer prove nothing; all of them go through the model in one forward pass."""
DEFAULT_TOKENS = 256
DEFAULT_TOLERANCE = 0.25
"""Mean |difference| of log-probs (nats)."""
NOISE_FACTOR = 2
"""The least that passes by default, over what the last bits of embeddings alone do to the model."""
UNKNOWN_TEXT = 1000
"""Perplexity above which a text that proves nothing is said to be one that the model does not know."""
TOLERANCE_HELP = (
    "Mean |log-prob difference| in nats that passes. If not given: "
    f"{DEFAULT_TOLERANCE}, or {NOISE_FACTOR} times what the model's own last bits do, if that is more."
)
MAX_SCALE_ERROR = 0.005
MAX_STANDARD_ERROR = 0.0025
"""Of the fitted scale error; with a larger one the text says too little."""


def check_request(tokens: int, tolerance: float | None) -> None:
    """Raises: ExportError for values that would prove nothing, or are too much for one forward pass."""
    if tokens < MIN_TOKENS:
        raise ExportError(f"{tokens} tokens are too few to prove anything; at least {MIN_TOKENS}")
    if tokens > MAX_TOKENS:
        raise ExportError(f"{tokens} tokens are too many for one forward pass; at most {MAX_TOKENS}")
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise ExportError(f"a tolerance of {tolerance} proves nothing; give nats, as {DEFAULT_TOLERANCE}")
