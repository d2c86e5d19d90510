"""The risks of the versions that a repository declares; a function for each kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from wf_deployer.doctor.base import Finding, Status, listed
from wf_deployer.doctor.repository.declared import Kind, Wanted
from wf_deployer.doctor.repository.known import ENDED
from wf_deployer.doctor.repository.ours import locked_here
from wf_deployer.doctor.repository.reading import Repository
from wf_deployer.doctor.repository.satisfiable import is_satisfiable
from wf_formats.secrets import redacted

OWN_ENVIRONMENT = "an environment of its own: `uv venv`"


def files(repository: Repository) -> Iterator[Finding]:
    """What was read, and what could not be."""
    declarations = repository.declarations
    for number, problem in enumerate(declarations.problems, 1):
        yield Finding(Status.fail, problem, "readable", "mend that file or line", part=str(number))
    if declarations.computed:
        fix = "read it, or build the package in a sandbox and look at its metadata"
        yield Finding(Status.warn, listed(declarations.computed), "written out", fix, part="computed")
    read = listed(map(str, declarations.files)) or "no file could be read"
    locks = f"; locked by {listed(map(str, repository.locks))}" if repository.locks else "; no lock file"
    yield Finding(Status.ok, f"{len(declarations.wanted)} requirements in {read}{locks}", part="files")


def python(repository: Repository) -> Iterator[Finding]:
    """Bounds of Python's version against ours."""
    ours = repository.ours.environment.python_version
    for file, bounds in repository.declarations.python:
        upper = [str(bound) for bound in bounds if bound.operator in ("<", "<=", "==", "~=", "===")]
        if not bounds.contains(ours, prereleases=True):
            fix = f"{OWN_ENVIRONMENT} --python with a version that it takes"
            yield Finding(Status.fail, f"Python {bounds}", f"our Python {ours}", fix, str(file), str(file))
        elif upper:
            fix = "ask for the newest Python that it was tested with, no more"
            yield Finding(Status.warn, f"upper bound {', '.join(upper)}", "none", fix, str(file), str(file))
        else:
            yield Finding(
                Status.ok, f"Python {bounds}", f"our Python {ours}", source=str(file), part=str(file)
            )
    if not repository.declarations.python:
        yield Finding(
            Status.warn, "no bounds of Python's version", "requires-python", "declare what it was tested with"
        )


def unpinned(repository: Repository) -> Iterator[Finding]:
    """Requirements without a bound get whatever is newest on the day of the installation."""
    by_file: dict[Path, list[Wanted]] = {}
    is_ours = repository.root.is_relative_to(repository.ours.root)
    members = {member.name for member in repository.ours.members} if is_ours else set()
    for wanted in repository.declarations.without(Kind.documented):
        if wanted.name in members:
            continue
        by_file.setdefault(wanted.file, []).append(wanted)
    for file, all_wanted in by_file.items():
        free = sorted({wanted.name for wanted in all_wanted if wanted.is_unpinned})
        low = sorted({wanted.name for wanted in all_wanted if _has_lower_bound_alone(wanted)})
        more = f"; {len(low)} with a lower bound alone: {listed(low)}" if low else ""
        if not free:
            yield Finding(Status.ok, f"every requirement has a bound{more}", source=str(file), part=str(file))
        elif repository.locks:
            found = f"{len(free)} without a bound, locked by {repository.locks[0]}: {listed(free, 12)}{more}"
            yield Finding(Status.ok, found, source=str(file), part=str(file))
        else:
            found = f"{len(free)} without a bound drift to the newest release: {listed(free, 12)}{more}"
            fix = "bound them to the versions that were tested, or add a lock (`uv lock`)"
            yield Finding(Status.warn, found, "bounds or a lock", fix, str(file), str(file))
    if not by_file:
        yield Finding(Status.skip, "no requirements")


def conflicts(repository: Repository) -> Iterator[Finding]:
    """Against each other, and against our lock."""
    num_problems = 0
    by_name: dict[str, list[Wanted]] = {}
    for wanted in repository.declarations.wanted:
        by_name.setdefault(wanted.name, []).append(wanted)
    for name, all_wanted in by_name.items():
        for finding in (_among_themselves(name, all_wanted), _with_ours(repository, name, all_wanted)):
            if finding is not None:
                num_problems += 1
                yield finding
    if not num_problems:
        yield Finding(Status.ok, "fits itself and our lock", source="uv.lock")


def _among_themselves(name: str, all_wanted: list[Wanted]) -> Finding | None:
    bounds = {str(wanted.specifier): wanted for wanted in all_wanted if wanted.specifier}
    if is_satisfiable([wanted.specifier for wanted in bounds.values()]):
        return None
    told = " and ".join(f"{wanted} ({wanted.file})" for wanted in bounds.values())
    is_needed = all(wanted.kind is Kind.needed for wanted in bounds.values())
    one_file = len({wanted.file for wanted in bounds.values()}) == 1
    status = Status.fail if is_needed and one_file else Status.warn  # files may be alternatives
    fix = "declare it once, or say which file is for what"
    return Finding(status, f"{told} exclude each other", "one range", fix, part=f"self-{name}")


def _with_ours(repository: Repository, name: str, all_wanted: list[Wanted]) -> Finding | None:
    locked = locked_here(repository.ours, name)
    wrong = [w for w in all_wanted if w.specifier and locked and not _takes(w.specifier, locked)]
    if not wrong:
        return None
    told = ", ".join(f"{wanted} ({wanted.file})" for wanted in wrong)
    is_needed = any(wanted.kind is Kind.needed for wanted in wrong)
    found = f"{told}; our lock has {listed(map(str, locked))}"
    fix = f"{OWN_ENVIRONMENT}, or raise the bound and test"
    return Finding(
        Status.fail if is_needed else Status.warn, found, "one version for both", fix, "uv.lock", name
    )


def sources(repository: Repository) -> Iterator[Finding]:
    """Code that may change under its name: repositories without a commit, further indexes, http."""
    declarations = repository.declarations
    urls = {wanted.url: wanted for wanted in declarations.wanted if wanted.url is not None}
    problems = 0
    for url, wanted in urls.items():
        told, source = f"{redacted(url)} ({wanted.file})", str(wanted.file)
        if wanted.is_moving:
            problems += 1
            fix = "add the commit: `@<40 hex digits>`"
            yield Finding(Status.warn, told, "a commit", fix, source, wanted.name)
        elif url.startswith(("http://", "git+http://")):
            problems += 1
            yield Finding(Status.warn, told, "https", "use https", source, wanted.name)
    for number, (file, option) in enumerate(declarations.indexes, 1):
        fix = "bind its packages to it (uv: `explicit = true`): else any index may answer for any name"
        yield Finding(Status.warn, f"{option} ({file})", "one index", fix, str(file), f"index-{number}")
    if not problems and not declarations.indexes:
        yield Finding(Status.ok, f"{len(urls)} URLs, each with a commit or an archive")


def ended(repository: Repository) -> Iterator[Finding]:
    """Packages that are abandoned, renamed, or not what their name suggests."""
    found = {w.name: w for w in repository.declarations.wanted if w.name in ENDED}
    for name, wanted in found.items():
        yield Finding(Status.warn, f"{name} ({wanted.file})", "a package that lives", ENDED[name], part=name)
    if not found:
        yield Finding(Status.ok, "none that is known to have ended or moved")


def _has_lower_bound_alone(wanted: Wanted) -> bool:
    operators = {specifier.operator for specifier in wanted.specifier}
    return bool(operators) and operators <= {">", ">=", "!="}


def _takes(specifier: SpecifierSet, versions: Iterable[Version]) -> bool:
    return any(specifier.contains(version.public, prereleases=True) for version in versions)
