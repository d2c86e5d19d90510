"""What killed writers leave beside a target, and who removes it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from wf_formats.atomic import atomic_file, atomic_folder, atomic_write_text

WRITES = """
import sys, time
from wf_formats.atomic import atomic_file, atomic_folder
with {kind}(sys.argv[1]) as path:
    (path / "part" if path.is_dir() else path).write_text("half")
    print("half", flush=True)
    time.sleep(60)
"""


def write_file(target: Path) -> None:
    atomic_write_text(target, "whole")


def write_folder(target: Path) -> None:
    with atomic_folder(target) as folder:
        (folder / "part").write_text("whole")


KINDS: dict[str, Callable[[Path], None]] = {"atomic_file": write_file, "atomic_folder": write_folder}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_killed_writer_left_goes_with_the_next_and_a_running_one_keeps_its_own(
    kind: str, tmp_path: Path
) -> None:
    target = tmp_path / "a [b]*.out"
    foreign = tmp_path / ".other.out.tmp-0123abcd"
    foreign.write_text("of another target")
    command = [sys.executable, "-c", WRITES.format(kind=kind), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        KINDS[kind](target)
        (left,) = tmp_path.glob(".a*")  # it is at work
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert left.exists()
        KINDS[kind](target)
    assert sorted(tmp_path.iterdir()) == [foreign, target]


def test_what_was_moved_away_goes_only_when_its_place_is_taken(tmp_path: Path) -> None:
    """A kill between the two renames leaves nothing at the target: the earlier result must stay then."""
    target, old = tmp_path / "out", tmp_path / ".out.old-0123abcd"
    (old / "out").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target):
        raise KeyboardInterrupt
    assert old.exists()
    write_folder(target)
    assert old.exists()
    write_folder(target)
    assert [*tmp_path.iterdir()] == [target]


def test_without_locks_all_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> NoReturn:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(fcntl, "flock", none)
    left = tmp_path / ".out.tmp-0123abcd"
    left.touch()
    write_file(tmp_path / "out")
    assert left.exists()
    assert (tmp_path / "out").read_text() == "whole"


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / ".out.tmp-0123abcd").symlink_to(tmp_path / "kept")
    write_file(tmp_path / "out")
    assert (tmp_path / "kept").read_text() == "kept"


def test_a_sweep_that_comes_before_the_lock_costs_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch, made = Path.touch, []

    def swept(self: Path, **options: Any) -> None:
        touch(self, **options)
        made.append(self)
        if len(made) == 1:
            self.unlink()

    monkeypatch.setattr(Path, "touch", swept)
    with atomic_file(tmp_path / "out") as file:
        file.write_text("whole")
    assert len(made) == 2
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]
