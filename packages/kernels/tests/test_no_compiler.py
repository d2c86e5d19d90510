"""Without a C++ compiler the build says what to install."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_the_error_names_what_is_missing_and_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        ["cmake", "-S", str(PACKAGE), "-B", str(tmp_path)],
        env=os.environ | {"CXX": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    message = " ".join(done.stderr.split())
    assert "No C++ compiler was found (CXX is '/nonexistent')" in message
    assert "needs a C++20 compiler, GCC 11 or Clang 12" in message
    assert "apt-get install g++" in message
