"""What the tests here share stands beside them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from modal_table import checkout, wf  # noqa: F401  # fixtures
