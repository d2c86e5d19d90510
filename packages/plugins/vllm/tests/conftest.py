from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, workspace_root: Path) -> Path:
    """One with vLLM: $WF_VLLM, or one made as the page says."""
    if given := os.environ.get("WF_VLLM"):
        return Path(given)
    folder = tmp_path_factory.mktemp("environment") / "vllm"
    command = ["sh", workspace_root / "packages/plugins/vllm/scripts/environment", folder]
    subprocess.run(command, check=True)
    return folder
