"""What a figure was measured on."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from wf_formats.environment import commit, environment, processor, versions


def test_every_benchmark_says_what_it_was_measured_on(workspace_root: Path) -> None:
    found = environment("numpy", "no-such-package")
    assert found["hardware"]["cpu"]
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_bytes"] > 1e8
    assert found["versions"] == {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "no-such-package": None,
    }
    head = ["git", "-C", str(workspace_root), "rev-parse", "HEAD"]
    full = subprocess.run(head, check=True, capture_output=True, text=True).stdout
    assert found["commit"]
    assert full.startswith(found["commit"])


def test_facts_need_no_heavy_import() -> None:
    source = (
        "import sys; from wf_formats.environment import environment\n"
        "environment('torch'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert not {"torch", "numpy"} & set(done.stdout.split())
    assert versions("torch")["torch"]
    assert commit() is not None


def test_processors_of_one_name_differ_by_their_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr("wf_formats.environment.CPU_INFO", file)
    text = "processor\t: {}\nmodel\t\t: {}\nmodel name\t: AMD EPYC\ncpu MHz\t\t: 24{}.0\n\n"
    file.write_text(text.format(0, 1, 45) + text.format(1, 2, 46))
    assert processor() == "model 1, model name AMD EPYC"
    file.write_text(text.format(0, 17, 50))
    assert processor() == "model 17, model name AMD EPYC"
    file.write_text("\n")
    assert processor() == platform.machine()
    file.unlink()
    assert processor().startswith(platform.machine())
