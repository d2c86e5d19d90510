"""Names by which SGLang finds what is here."""

from __future__ import annotations

PLATFORM = "wrinklefree"
"""The entry point, as SGLANG_PLATFORM spells it."""
MODELS = "wrinklefree_sglang.models"
"""Package of the models that are served."""
