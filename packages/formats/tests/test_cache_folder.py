"""Where things are cached, on machines whose home cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wf_formats.packaged import CacheError, cache_folder, writable_cache_folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WRINKLEFREE_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"WRINKLEFREE_CACHE": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/wrinklefree"),
        ({"XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/wrinklefree"),
    ],
)
def test_the_first_that_is_set_counts(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("WRINKLEFREE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null", "FILE"])
def test_a_home_that_cannot_be_written_is_told_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "file").touch()
    for name in ("WRINKLEFREE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file") if home == "FILE" else home)
    with pytest.raises(CacheError, match=r"cannot be written .*set WRINKLEFREE_CACHE"):
        writable_cache_folder()
    monkeypatch.setenv("WRINKLEFREE_CACHE", str(tmp_path / "cache"))
    assert writable_cache_folder() == tmp_path / "cache"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WRINKLEFREE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(CacheError, match="no home folder"):
        cache_folder()


def test_the_packaged_model_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    source = (
        "import time, bitnet_arch\n"
        "from wf_formats.boundary import boundary\n"
        "with boundary():\n"
        "    bitnet_arch.packaged_model_dir()\n"
    )
    names = ("WRINKLEFREE_CACHE", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in names} | {
        "HOME": "/dev/null"
    }
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: /dev/null/.cache/wrinklefree cannot be written")
