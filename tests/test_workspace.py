"""What must hold for every package of the workspace."""

import subprocess
import tomllib
from pathlib import Path

import pytest

MAX_FILE_BYTES = 500_000


def members(root: Path) -> list[Path]:
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    return [root / member for member in settings["tool"]["uv"]["workspace"]["members"]]


def test_every_member_has_its_pages(workspace_root: Path) -> None:
    missing = [
        str(member / page)
        for member in members(workspace_root)
        for page in ("README.md", "CLAUDE.md", "pyproject.toml", "tests")
        if not (member / page).exists()
    ]
    assert not missing


def test_every_folder_under_packages_is_a_member(workspace_root: Path) -> None:
    """Plug-ins of other servers lie one folder deeper."""
    packages = workspace_root / "packages"
    folders = {path for path in (*packages.iterdir(), *(packages / "plugins").iterdir()) if path.is_dir()}
    assert folders - {packages / "plugins"} == set(members(workspace_root))


def test_tooling_is_configured_at_the_root_alone(workspace_root: Path) -> None:
    for member in members(workspace_root):
        tools = tomllib.loads((member / "pyproject.toml").read_text())["tool"]
        assert set(tools) - {"scikit-build"} == {"uv"}, member  # a build backend's settings are no tooling


def test_tracked_files_are_small_and_name_no_machine(workspace_root: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=workspace_root, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        path = workspace_root / name
        if name == "uv.lock" or not path.is_file():  # completed in place by uv; see test_scripts.py
            continue
        assert path.stat().st_size <= MAX_FILE_BYTES, name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".json"}:
            assert "/work/" + "main" not in path.read_text(), name


@pytest.mark.parametrize("page", ["README.md", "CLAUDE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"])
def test_root_pages(workspace_root: Path, page: str) -> None:
    assert (workspace_root / page).is_file()


def test_pages_link_to_files_that_exist(workspace_root: Path) -> None:
    import re

    tracked = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=workspace_root, check=True, capture_output=True, text=True
    ).stdout.split()
    broken = []
    for name in tracked:
        page = workspace_root / name
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{name}: {target}")
    assert not broken
