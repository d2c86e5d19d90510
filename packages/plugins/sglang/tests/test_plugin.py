"""How SGLang finds the plug-in, and when this steps aside."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import wrinklefree_sglang
from wrinklefree_sglang.names import PLATFORM

GROUPS = {"sglang.srt.platforms": "activate", "sglang.srt.plugins": "register"}
OURS = "wrinklefree_sglang.platform:TernaryCpuPlatform"


def test_entry_points_name_what_is_there() -> None:
    """As SGLang selects it by: SGLANG_PLATFORM=wrinklefree."""
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    for group, function in GROUPS.items():
        entry = {PLATFORM: f"wrinklefree_sglang:{function}"}
        assert settings["project"]["entry-points"][group] == entry
        assert callable(getattr(wrinklefree_sglang, function))
    module, _, name = OURS.partition(":")
    found = find_spec(module)
    assert found is not None
    assert found.origin is not None
    assert f"class {name}(" in Path(found.origin).read_text()


@pytest.mark.parametrize(
    ("accelerator", "environment", "expected"),
    [
        (False, {}, OURS),
        (True, {}, None),
        (False, {"SGLANG_USE_CPU_ENGINE": "1"}, None),
        (True, {"SGLANG_PLATFORM": "wrinklefree"}, OURS),
        (True, {"SGLANG_PLATFORM": "other"}, None),
    ],
)
def test_another_platform_goes_first(
    accelerator: bool, environment: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    for name in ("SGLANG_USE_CPU_ENGINE", "SGLANG_PLATFORM", "SGLANG_EXTERNAL_MODEL_PACKAGE"):
        monkeypatch.setenv(name, "")  # what is set in the test goes with it
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wrinklefree_sglang.activate() == expected
    models = "wrinklefree_sglang.models" if expected else None
    assert os.environ.get("SGLANG_EXTERNAL_MODEL_PACKAGE") == models, "another platform's start is its own"


def test_being_found_costs_nothing() -> None:
    """SGLang imports every plug-in, also where it runs on another platform."""
    program = "import sys, wrinklefree_sglang; print(*({'torch', 'sglang', 'numpy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
