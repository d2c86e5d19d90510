"""docs/support.md is what the code says."""

import runpy
import sys
from pathlib import Path

import pytest


def test_the_page_is_what_the_code_says(workspace_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which has most of what the script imports."""
    script = str(workspace_root / "scripts" / "support")
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    runpy.run_path(script, run_name="__main__")  # ends by sys.exit with what differs
