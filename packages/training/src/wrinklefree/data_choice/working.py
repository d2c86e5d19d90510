"""A folder that a command fills as it goes, so that it goes on after an interruption."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wf_formats.errors import RequestError
from wf_formats.locks import locked, try_lock_of_process
from wf_formats.targets import check_way
from wf_formats.temporaries import sweep
from wrinklefree.config.ranges import MOST_MINUTES


def check_minutes(minutes: float) -> None:
    """Raises: RequestError."""
    if not 0 < minutes <= MOST_MINUTES:
        raise RequestError(f"--minutes {minutes:g}: give more than 0 and at most {MOST_MINUTES:,} (a year)")


@contextmanager
def working_folder(folder: Path, names: Sequence[str], force: bool) -> Iterator[None]:
    """Made if it is missing, and held for this process alone.

    Args:
        names: of the files and folders that the command writes into it.
        force: remove them first.

    Raises:
        RequestError: something else is there, or another process works in it.
    """
    check_way(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise RequestError(f"{folder} is a file or a link; give the name of a folder")
    taken = RequestError(f"another process works in {folder}; wait for it, or choose another folder")
    with locked(folder.with_name(f".{folder.name}.lock"), taken, try_lock_of_process):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            sweep(folder / name)  # what a process left that was killed as it wrote
        for path in sorted(folder.iterdir()):
            if path.name not in names:
                raise RequestError(
                    f"{folder} has {path.name} in it, which is of something else; choose another folder"
                )
        if force:
            for name in names:
                _remove(folder / name)
        yield


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
