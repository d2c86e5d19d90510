"""Records of files' SHA-256: taken while the file system says that nothing changed, and never otherwise."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wf_formats import content_records
from wf_formats.content_records import ContentRecords, files_sha256, identity_of

SHA256 = hashlib.sha256(b"").hexdigest()


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may be as young as those of a test."""
    monkeypatch.setattr(content_records, "GRAIN_S", -60.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"0123456789")
    return path


@pytest.fixture
def records(tmp_path: Path, file: Path) -> ContentRecords:
    """With one of the file."""
    found = ContentRecords(tmp_path / "records")
    found.add(identity_of([file]), SHA256)
    assert found.known(identity_of([file])) == SHA256
    return found


def same_times(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def written_in_place(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    same_times(path, before)


def renamed_over(path: Path) -> None:
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(b"9876543210")
    same_times(other, before)
    other.replace(path)


def linked_elsewhere(path: Path) -> None:
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


def longer(path: Path) -> None:
    path.write_bytes(b"0" * 11)


def touched(path: Path) -> None:
    os.utime(path, (1, 1))


@pytest.mark.parametrize("change", [written_in_place, renamed_over, linked_elsewhere, longer, touched])
def test_whatever_changes_there_is_no_record_of_it(records, file, change: Callable[[Path], None]):
    time.sleep(0.02)  # a grain of the clock, which a test cannot wait for as `GRAIN_S` does
    change(file)
    assert records.known(identity_of([file])) is None


def test_one_file_more_or_less_or_in_another_order_has_no_record(records, file, tmp_path):
    other = tmp_path / "adapter.gguf"
    other.write_bytes(b"")
    for files in ([file, other], [other, file], []):
        assert records.known(identity_of(files)) is None


def test_what_changed_just_before_is_not_settled(file, tmp_path, monkeypatch):
    monkeypatch.setattr(content_records, "GRAIN_S", 2.0)
    identity = identity_of([file])
    assert not identity.is_settled
    assert not dataclasses.replace(identity, seen_s=identity.changed_s + 1.99).is_settled
    assert dataclasses.replace(identity, seen_s=identity.changed_s + 2.01).is_settled
    os.utime(file, (1, 1))  # which changes the ctime
    assert not identity_of([file]).is_settled
    with pytest.raises(AssertionError):
        ContentRecords(tmp_path / "records").add(identity, SHA256)


@pytest.mark.parametrize("wrong", [b"", b"x" * 64, b"\xff" * 64, SHA256.encode() + b"\n", b"0" * 10_000])
def test_a_damaged_record_is_none(records, file, tmp_path, wrong):
    (record,) = (tmp_path / "records").iterdir()
    record.write_bytes(wrong)
    assert records.known(identity_of([file])) is None


def test_the_oldest_records_are_removed(records, file, tmp_path, monkeypatch):
    monkeypatch.setattr(content_records, "MAX_RECORDS", 3)
    for number in range(5):
        os.utime(file, (number, number))
        records.add(identity_of([file]), SHA256)
        for record in (tmp_path / "records").iterdir():
            os.utime(record, (record.stat().st_mtime - 100,) * 2)
    assert len(list((tmp_path / "records").iterdir())) == 3
    assert records.known(identity_of([file])) == SHA256


def test_names_and_contents_make_the_sha256(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, data in zip(paths, (b"1", b"1", b"2"), strict=True):
        path.write_bytes(data)
    digests = {files_sha256(files) for files in ([paths[0]], [paths[1]], [paths[2]], paths, paths[::-1])}
    assert len(digests) == 5
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"1")
    assert files_sha256([tmp_path / "folder" / "a"]) == files_sha256([paths[0]])
