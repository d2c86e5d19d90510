"""Where things are cached, on machines whose home cannot be written."""

from __future__ import annotations

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


def test_the_packaged_model_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitnet_arch
    from bitnet_arch import sources

    for name in ("WRINKLEFREE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr(sources, "_dequantize", lambda *_: pytest.fail("it is unpacked"))
    with pytest.raises(CacheError, match=r"^/dev/null/\.cache/wrinklefree cannot be written"):
        bitnet_arch.packaged_model_dir()
