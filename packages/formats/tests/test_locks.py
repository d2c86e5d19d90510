"""Locks between processes: who has them, who inherits them, and file systems without any."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from wf_formats.errors import RequestError, UserError
from wf_formats.locks import holding, locked, try_lock, try_lock_of_process

TAKES = "import sys, wf_formats.locks as l; sys.exit(not l.{take}(open(sys.argv[1], 'w')))"
TAKEN = UserError("another one works there")


def can_be_taken(path: Path, take: Callable[..., bool]) -> bool:
    """By a further process."""
    command = [sys.executable, "-c", TAKES.format(take=take.__name__), str(path)]
    return subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("take", [try_lock, try_lock_of_process])
def test_one_process_at_a_time(tmp_path: Path, take: Any) -> None:
    path = tmp_path / "new" / "lock"
    with locked(path, TAKEN, take):
        assert not can_be_taken(path, take)
    assert can_be_taken(path, take)


@pytest.mark.parametrize("take", [try_lock, try_lock_of_process])
def test_its_file_goes_with_it_and_who_opened_it_before_takes_a_new_one(tmp_path: Path, take: Any) -> None:
    path = tmp_path / "lock"
    path.touch()  # of a process that was killed
    opened = []

    def slowly(file: Any) -> bool:
        """Another process works and ends between opening and locking."""
        if not opened:
            path.unlink()
        opened.append(file)
        return bool(take(file))

    with locked(path, TAKEN, slowly):
        assert len(opened) == 2
        assert not can_be_taken(path, take)
    assert not list(tmp_path.iterdir())


def test_who_has_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, TAKEN), pytest.raises(UserError, match="another one works there"), locked(path, TAKEN):
        pass


def test_sharing(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as two:
        assert try_lock(one, is_shared=True)
        assert try_lock(two.fileno(), is_shared=True)
        assert not try_lock(two)


@pytest.mark.parametrize(("take", "is_kept"), [(try_lock, True), (try_lock_of_process, False)])
def test_what_a_child_inherits(tmp_path: Path, take: Any, is_kept: bool) -> None:
    """It has the file open after its parent has closed it."""
    path = tmp_path / "lock"
    with locked(path, TAKEN, take):
        descriptor = next(int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.resolve() == path)
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    try:
        assert can_be_taken(path, take) is not is_kept
    finally:
        child.communicate()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_one_that_cannot_be_removed_stays(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "lock"
    with locked(path, TAKEN):
        monkeypatch.setattr(Path, "unlink", refused)
    assert can_be_taken(path, try_lock)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    message = f"{tmp_path / 'lock'}: its file system has no locks"
    with pytest.raises(RequestError, match=message), locked(tmp_path / "lock", TAKEN):
        pass


def test_a_pipe_in_place_of_a_lock_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    os.mkfifo(path)
    for taking in (locked(path, UserError("taken")), holding(path)):
        with pytest.raises(OSError, match=str(path)), taking:
            pass
