"""What PATH is, and the report on it."""

from __future__ import annotations

from pathlib import Path

from wf_deployer.doctor.environment import environment_in, own_environment
from wf_deployer.doctor.files import FileError, read_toml
from wf_deployer.doctor.registry import CHECKS
from wf_deployer.doctor.report import Report
from wf_deployer.doctor.repository.reading import is_repository, read_repository
from wf_deployer.doctor.running import run
from wf_deployer.doctor.workspace.checkout import ROOT_PROJECT, Workspace
from wf_deployer.doctor.workspace.versions import versions
from wf_deployer.workspace import workspace_root
from wf_formats.errors import RequestError


def diagnose(path: Path | None, strict: bool) -> Report:
    """Raises:
    RequestError: the path is no folder, or nothing in it declares Python packages.
    CommandError: without a path, if `wf` was not installed from a checkout.
    """
    root = workspace_root() if path is None else _folder(path)
    if is_checkout(root):
        return _of_workspace(root, strict)
    if not is_repository(root):
        raise RequestError(
            f"{root} is no repository of Python packages: neither pyproject.toml, setup.py, setup.cfg nor "
            "requirements*.txt in it; give its top folder"
        )
    repository = read_repository(root, _workspace(workspace_root()))
    return Report("repository", root, run(CHECKS, repository), strict=strict)


def is_checkout(root: Path) -> bool:
    """Whether it is a checkout of this repository."""
    file = root / "pyproject.toml"
    if not file.is_file() or not (root / "packages").is_dir():
        return False
    try:
        return bool(read_toml(file).get("project", {}).get("name") == ROOT_PROJECT)
    except (FileError, AttributeError):
        return _is_own(root)


def _of_workspace(root: Path, strict: bool) -> Report:
    workspace = _workspace(root)
    rows = run(CHECKS, workspace)
    is_known = not any(row.id == "packages.member" for row in rows)  # a check that ended has no part
    side_by_side = [row.as_json() for row in versions(workspace)] if is_known else []
    return Report("workspace", root, rows, side_by_side, strict)


def _workspace(root: Path) -> Workspace:
    is_own = _is_own(root)
    return Workspace(root, own_environment() if is_own else environment_in(root), is_own)


def _is_own(root: Path) -> bool:
    """Whether this `wf` runs from the checkout."""
    return Path(__file__).resolve().is_relative_to(root)


def _folder(path: Path) -> Path:
    """Raises: RequestError if there is none."""
    if not path.exists():
        raise RequestError(f"{path} does not exist; give the folder of a repository")
    if not path.is_dir():
        raise RequestError(f"{path} is no folder; give the folder of a repository")
    return path.resolve()
