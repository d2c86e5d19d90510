"""docs/support.md is what the code says."""

import subprocess
import sys
from pathlib import Path


def test_the_page_is_what_the_code_says(workspace_root: Path) -> None:
    script = workspace_root / "scripts" / "support"
    ran = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
