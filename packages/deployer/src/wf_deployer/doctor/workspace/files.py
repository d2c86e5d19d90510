"""The files that all else is read from, and Python itself."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from wf_deployer.doctor.base import Finding, Status, UnreadableError
from wf_deployer.doctor.files import FileError
from wf_deployer.doctor.workspace.checkout import Member, Workspace, read_settings


def readable(workspace: Workspace) -> Iterator[Finding]:
    """The members' pyproject.toml and uv.lock; other checks go on with those that can be read."""
    problems = [f"{workspace.root / name} is missing" for name in workspace.missing_members]
    for folder in [*workspace.member_folders, workspace.root]:
        try:
            assert Member(folder, read_settings(folder / "pyproject.toml")).declared is not None
        except FileError as error:
            problems.append(str(error))
    try:
        if not workspace.lock:
            problems.append(f"{workspace.root / 'uv.lock'} names no packages")
    except UnreadableError as error:
        problems.append(str(error))
    fix = "mend the file that the line names, or `git checkout` it"
    for number, problem in enumerate(problems, 1):
        yield Finding(Status.fail, problem, "readable TOML", fix, part=str(number))
    if not problems:
        number = len(workspace.member_folders)
        yield Finding(
            Status.ok, f"{number} members and uv.lock can be read", source="pyproject.toml, uv.lock"
        )


def python(workspace: Workspace) -> Iterator[Finding]:
    """The interpreter against every member's `requires-python`."""
    if not workspace.has_environment:
        fix = f"`uv sync` in {workspace.root}"
        yield Finding(Status.fail, "no environment", str(workspace.root / ".venv"), fix, part="interpreter")
        return
    version, source = workspace.environment.python_version, str(workspace.environment.python)
    for member in workspace.members:
        wanted = str(member.project.get("requires-python", ""))
        try:
            fits = SpecifierSet(wanted).contains(version, prereleases=True)
        except InvalidSpecifier:
            fix = f"mend requires-python in {member.folder / 'pyproject.toml'}"
            yield Finding(Status.fail, f"{member.name}: {wanted!r}", "a specifier", fix, part=member.name)
            continue
        if not fits:
            fix = "`uv python install 3.11 && uv sync --python 3.11`"
            yield Finding(
                Status.fail, f"Python {version}", f"{wanted} ({member.name})", fix, source, member.name
            )
    wanted = str(workspace.settings.get("project", {}).get("requires-python", ""))
    yield Finding(Status.ok, f"Python {version}", wanted, source=source, part="interpreter")
