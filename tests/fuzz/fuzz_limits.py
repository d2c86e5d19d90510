"""How much is tried, and what counts as a finding; the environment says more or other cases."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(HERE.parent / "helpers")}
"""Of the processes beside the tests."""
CASES = int(os.environ.get("WRINKLEFREE_FUZZ_CASES", "250"))
"""Of each kind of file; requests are four times as many."""
SEED = int(os.environ.get("WRINKLEFREE_FUZZ_SEED", "1"))
HANG_SECONDS = 10
START_SECONDS = 120
"""Until a process of readers has imported what it needs."""
GROWTH_BYTES = 1 << 30
