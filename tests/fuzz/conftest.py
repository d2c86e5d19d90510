"""The undamaged inputs, made once; and the modules beside the tests, which their workers import too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from fuzz_limits import ENVIRONMENT, HERE


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made in a process of its own, so that this one stays free of PyTorch."""
    folder = tmp_path_factory.mktemp("samples")
    program = f"import pathlib, samples; samples.write_samples(pathlib.Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=HERE, env=ENVIRONMENT, check=True)
    return folder
