"""Results of a job that were fetched: a folder, and beside it `results.json` with the SHA-256 of its files.

What is not as it came is fetched again. It is moved aside, not removed: somebody may have written in it.
Versions before kept no `results.json`: what they fetched is fetched again too, and shown where that fails.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from wf_deployer.backends.record import results_folder
from wf_deployer.backends.registry import Job
from wf_deployer.errors import CommandError
from wf_formats.aside import move_aside
from wf_formats.atomic import atomic_write_json
from wf_formats.json_file import read_value
from wf_formats.locks import holding
from wf_formats.printable import printable


def results_of(job: Job) -> Path:
    """The folder of a job's results, whole; fetched where they are not here.

    Those without a record are given with a warning where they cannot be fetched again. One process fetches
    at a time: another waits for it, and finds what it has fetched.

    Raises: CommandError where there are none (yet), or they cannot be had.
    """
    folder = results_folder(job.id)
    if _is_whole(folder):
        return folder
    with holding(folder.with_name(f"{folder.name}.lock")):
        if not _is_whole(folder):
            is_unknown = folder.is_dir() and not _record(folder).exists()
            try:
                _fetch(job, folder)
            except CommandError as error:
                if not is_unknown:
                    raise
                sys.stderr.write(f"warning: {error}; shown as it is: {folder} {_fault(folder)}\n")
    return folder


def _is_whole(folder: Path) -> bool:
    return folder.is_dir() and _fault(folder) is None


def _fetch(job: Job, folder: Path) -> None:
    """Its caller holds the lock."""
    fault = _fault(folder) if folder.is_dir() else None
    told = f"; {folder} {fault}" if fault is not None and _record(folder).exists() else ""
    new = folder.with_name(f"{folder.name}.new")
    missing = job.job_backend.fetch(job.id, new)
    if missing is not None and not missing.is_missing:
        raise CommandError(f"the results of {job.id} cannot be fetched now: {missing.reason}{told}")
    if missing is not None:
        status = job.status
        look = f"`wf logs {job.id}` says why" if status.state.is_over else "look again when it has ended"
        raise CommandError(f"{job.id} is {status.state} and has left no results{told}; {look}")
    atomic_write_json(_record(folder), _digests(new))
    if folder.is_dir():
        aside = move_aside(folder)
        sys.stderr.write(f"{folder} {fault}: fetched again; what was there is {aside}\n")
    new.rename(folder)


def _fault(folder: Path) -> str | None:
    """Why results are not known to be as they came, said after the folder's name; None: they are."""
    record = _record(folder)
    if not record.exists():  # fetched by a version that wrote none, or it was removed
        return f"has no {record.name} beside it, which would say what came"
    damage = _damage(folder, record)
    return None if damage is None else f"is damaged ({damage})"


def _damage(folder: Path, record: Path) -> str | None:
    try:
        digests = read_value(record, CommandError)
        found = _digests(folder)
    except (CommandError, OSError) as error:
        return printable(str(error))
    if not isinstance(digests, dict):
        return f"{record.name} is no object"
    for name, digest in digests.items():
        if found.get(name) != digest:
            return f"{printable(name)} {'was changed' if name in found else 'is missing'}"
    return None


def _digests(folder: Path) -> dict[str, Any]:
    from wf_formats.digests import file_sha256

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")
