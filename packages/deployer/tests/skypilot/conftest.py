"""The fake of SkyPilot stands beside the tests, the real Slurm beside those of Slurm."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "slurm")]

from sky_table import sky  # noqa: F401  # a fixture
