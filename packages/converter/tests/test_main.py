"""`python -m wf_converter`: one of two commands."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wf_converter", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["export", "verify"])
def test_a_command_is_called_by_its_name(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    assert f"python -m wf_converter {name}" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["prove"]])
def test_another_command_is_refused(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert "is not a command; give export or verify" in done.stderr
