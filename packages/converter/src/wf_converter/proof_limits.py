"""What a proof asks of a text and of the differences that it finds; see verify.py for the reasons."""

from __future__ import annotations

MIN_TOKENS, MAX_TOKENS = 64, 4096
"""Fewer prove nothing; all of them go through the model in one forward pass."""
DEFAULT_TOKENS = 256
DEFAULT_TOLERANCE = 0.25
"""Mean |difference| of log-probs (nats)."""
MAX_SCALE_ERROR = 0.005
MAX_STANDARD_ERROR = 0.0025
"""Of the fitted scale error; with a larger one the text says too little."""
