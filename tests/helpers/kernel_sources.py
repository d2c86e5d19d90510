"""Sources of the C++ kernels per instruction set, with the flags that CMake gives them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "packages" / "kernels" / "csrc"


def chosen(processor: str, compiler: str) -> dict[str, list[str]]:
    """Flags of csrc/isa_<name>.cpp by name; processor and compiler as CMake calls them. Skips without it."""
    if (cmake := shutil.which("cmake")) is None:
        pytest.skip("cmake is not installed")
    definitions = f"-DCMAKE_SYSTEM_PROCESSOR={processor}", f"-DCMAKE_CXX_COMPILER_ID={compiler}"
    done = subprocess.run(
        [cmake, *definitions, "-P", CSRC / "instruction_sets.cmake"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: flags for name, *flags in map(str.split, done.stderr.splitlines())}
