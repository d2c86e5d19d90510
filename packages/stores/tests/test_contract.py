"""What every backend promises, and what is built on it: with a folder, a GCS server and an S3 server."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from store_servers import files_in

import wf_stores.downloading
import wf_stores.local
from wf_formats.errors import RequestError
from wf_stores import (
    Keep,
    Store,
    check_upload,
    complete_names,
    download_folder,
    incomplete_uploads,
    list_uploads,
    remove_incomplete,
    remove_upload,
    retain,
    upload_folder,
)
from wf_stores.errors import (
    AnotherUploadError,
    DamagedUploadError,
    NotThereError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
    UnavailableError,
)
from wf_stores.layout import complete_key, file_key, manifest_key
from wf_stores.records import create_once
from wf_stores.store import PART_BYTES

Overwrite = Callable[[Store, str, bytes], None]


def keys(store: Store) -> list[str]:
    return sorted(stored.key for stored in store.objects(""))


def test_objects(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    moved: list[int] = []
    store.put_file("a/b", path, moved.append)
    assert sum(moved) == 10
    assert store.read("a/b", 0, 100) == b"0123456789"
    assert store.read("a/b", 3, 4) == b"3456"
    assert store.read("a/b", 10, 1) == b""
    store.create("a/c", b"first")
    with pytest.raises(ObjectExistsError):
        store.create("a/c", b"second")
    assert store.read("a/c", 0, 9) == b"first"
    store.create("ab", b"no folder")
    assert keys(store) == ["a/b", "a/c", "ab"]
    assert [stored.key for stored in store.objects("a/")] == ["a/b", "a/c"]
    assert {stored.key: stored.num_bytes for stored in store.objects("")} == {"a/b": 10, "a/c": 5, "ab": 9}
    assert store.holds(next(iter(store.objects("a/"))), path)
    path.write_bytes(b"0123456780")
    assert not store.holds(next(iter(store.objects("a/"))), path)
    store.delete("a/b")
    store.delete("a/b")
    assert keys(store) == ["a/c", "ab"]
    with pytest.raises(ObjectMissingError):
        store.read("a/b", 0, 1)
    with pytest.raises(ObjectMissingError):
        store.read("a/c/d", 0, 1)


def test_an_upload_comes_back_to_the_byte(store: Store, folder: Path, tmp_path: Path) -> None:
    moved: list[int] = []
    done = upload_folder(folder, store, "runs/step_1", moved.append)
    size = sum(len(data) for data in files_in(folder).values())
    assert (done.num_files, done.num_bytes, done.sent_bytes) == (7, size, size)
    assert sum(moved) == size
    assert complete_names(store) == ["runs/step_1"]
    fetched = download_folder(store, "runs/step_1", tmp_path / "target")
    assert files_in(tmp_path / "target") == files_in(folder)
    assert fetched.fetched_bytes == size
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".target")) == []


def test_the_manifest_says_names_sizes_and_hashes(store: Store, folder: Path) -> None:
    digest = upload_folder(folder, store, "one").digest
    data = store.read(manifest_key("one", digest), 0, 1 << 20)
    assert hashlib.sha256(data).hexdigest() == digest
    assert store.read(complete_key("one"), 0, 100) == f"{digest}\n".encode()
    files = json.loads(data)["files"]
    weights = (folder / "model.safetensors").read_bytes()
    assert files["model.safetensors"]["bytes"] == len(weights)
    assert files["model.safetensors"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert all(("crc32c" in entry) is store.keeps_crc32c for entry in files.values())
    if store.keeps_crc32c:  # of the CRC catalogue: CRC-32C of nothing is 0
        assert files["empty"]["crc32c"] == "AAAAAA=="
    assert {file_key("one", digest, name) for name in files} <= set(keys(store))


def test_files_of_several_parts(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    data = hashlib.shake_128(b"large").digest(PART_BYTES + 5)
    (source / "large").write_bytes(data)
    (source / "exact").write_bytes(data[:PART_BYTES])
    store = place.open()
    upload_folder(source, store, "large")
    assert upload_folder(source, store, "large").sent_bytes == 0
    download_folder(store, "large", tmp_path / "target")
    assert files_in(tmp_path / "target") == files_in(source)


def test_one_file_is_an_upload_too(store: Store, folder: Path, tmp_path: Path) -> None:
    upload_folder(folder / "model.safetensors", store, "export")
    download_folder(store, "export", tmp_path / "target")
    assert list(files_in(tmp_path / "target")) == ["model.safetensors"]


def test_an_upload_that_was_cut_short_is_none_and_goes_on(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, weights_are_there = store.put_file, threading.Event()

    def put_weights_alone(key: str, path: Path, advance: Any) -> None:
        if path.name != "model.safetensors":
            assert weights_are_there.wait(30)
            raise UnavailableError("no answer")
        put(key, path, advance)
        weights_are_there.set()

    monkeypatch.setattr(store, "put_file", put_weights_alone)
    with pytest.raises(UnavailableError):
        upload_folder(folder, store, "one")
    monkeypatch.undo()
    assert complete_names(store) == []
    with pytest.raises(NotThereError, match="no complete upload"):
        download_folder(store, "one", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    begun = incomplete_uploads(store)
    assert [upload.name for upload in begun] == ["one"]
    assert incomplete_uploads(store, older_than=timedelta(hours=1)) == []
    done = upload_folder(folder, store, "one")
    assert done.sent_bytes == done.num_bytes - 102_400, "the weights were there"
    assert incomplete_uploads(store) == []
    assert check_upload(store, "one").digest == done.digest


def begin(store: Store, name: str, data: bytes) -> str:
    """What an upload of a file has written when it is killed before its end; returns the digest."""
    entry = {"bytes": len(data) + 1, "sha256": hashlib.sha256(data + b"!").hexdigest()}
    manifest = json.dumps({"format": 1, "files": {"file": entry}}).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    store.create(manifest_key(name, digest), manifest)
    store.create(file_key(name, digest, "file"), data)
    return digest


def test_what_is_left_of_an_upload_can_be_removed(store: Store, folder: Path) -> None:
    upload_folder(folder, store, "whole")
    begun, lost = begin(store, "begun", b"part"), begin(store, "whole", b"of another writer")
    store.create("foreign", b"mine")
    left = incomplete_uploads(store)
    assert [(upload.name, upload.digest) for upload in left] == [("begun", begun), ("whole", lost)]
    removed: list[int] = []
    for upload in list_uploads(store):
        remove_incomplete(store, upload, removed.append)
    assert len(removed) == 4
    assert incomplete_uploads(store) == []
    assert check_upload(store, "whole")
    assert "foreign" in keys(store)


FOREIGN = {
    f"registry/blobs/sha256/ab/{'ab' * 32}/data": b"layer",
    f"models--x/blobs/{'cd' * 32}": b"weights",
    f"models--x/blobs/{'ef' * 32}.incomplete": b"part",
    f"assets/{'01' * 32}/files/logo.png": b"folders like ours, without a manifest",
    f"assets/{'23' * 32}/files/logo.png": b"and with another one",
    f"assets/{'23' * 32}/manifest.json": b'{"format": 1, "files": {}}',
    f"assets/{'45' * 32}/manifest.json": b"{}",
    f"assets/{'67' * 32}/files": b"a file",
    f"assets/{'67' * 32}/files.txt": b"a file",
    f"assets/{'67' * 32}/COMPLETE": b"01" * 32 + b"\n",
    f"{'89' * 32}/files/a": b"at the top",
    "job/part-0000.parquet": b"rows",
    "job/COMPLETE": b"",
    "table/COMPLETE": b"2024-01-01T00:00:00Z done\n",
    "step_00000100/COMPLETE": b"yes",
    "step_00000100/weights.bin": b"of another framework",
    "sums/COMPLETE": b"01" * 32 + b" *archive.tar\n",
    "COMPLETE": b"01" * 32 + b"\n",
}


def test_what_is_not_ours_is_neither_listed_nor_removed(store: Store, folder: Path) -> None:
    for key, data in FOREIGN.items():
        store.create(key, data)
    assert complete_names(store) == []
    assert list_uploads(store) == []
    for name in ("registry/blobs/sha256/ab", "assets", "job", "table", "step_00000100", "sums", "models--x"):
        with pytest.raises(NotThereError, match="no upload"):
            remove_upload(store, name)
    assert retain(store, "", Keep(1)) == []
    for name in ("assets", "step_00000200", "step_00000300"):
        upload_folder(folder, store, name)
    begin(store, "models--x/blobs", b"part")
    foreign_beside = {f"assets/{list_uploads(store, 'assets')[0].digest}/notes.txt": b"beside our files"}
    for key, data in foreign_beside.items():
        store.create(key, data)
    assert complete_names(store) == ["assets", "step_00000200", "step_00000300"]
    assert [upload.name for upload in list_uploads(store) if not upload.is_complete] == ["models--x/blobs"]
    assert retain(store, "", Keep(1)) == ["step_00000200"]
    for upload in incomplete_uploads(store):
        remove_incomplete(store, upload)
    for name in ("assets", "step_00000300"):
        remove_upload(store, name)
    assert {key: store.read(key, 0, 100) for key in keys(store)} == FOREIGN | foreign_beside


@pytest.mark.parametrize("text", [b"", b"0" * 64 + b"x"])
def test_a_complete_that_is_damaged_is_told_and_frees_nothing(
    store: Store, folder: Path, overwrite: Overwrite, text: bytes
) -> None:
    upload_folder(folder, store, "one")
    overwrite(store, complete_key("one"), text)
    assert complete_names(store) == ["one"]
    with pytest.raises(DamagedUploadError, match=r"COMPLETE holds .* remove it yourself"):
        check_upload(store, "one")
    removed: list[int] = []
    for upload in incomplete_uploads(store):
        remove_incomplete(store, upload, removed.append)
    assert removed == []
    store.delete(complete_key("one"))
    assert upload_folder(folder, store, "one").sent_bytes == 0
    assert check_upload(store, "one")


def test_a_removal_that_was_stopped_leaves_what_is_known_as_ours(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_folder(folder, store, "one")
    deleted = 0

    def stop(num_bytes: int) -> None:
        nonlocal deleted
        deleted += 1
        if deleted == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remove_upload(store, "one", stop)
    assert [upload.name for upload in incomplete_uploads(store)] == ["one"]
    remove_upload(store, "one")
    assert keys(store) == []


def test_what_is_removed_between_a_create_and_its_reading_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, removals = store.read, iter(range(3))

    def remove_and_read(key: str, start: int, num_bytes: int) -> bytes:
        if next(removals, None) is not None:
            store.delete(key)
        return read(key, start, num_bytes)

    monkeypatch.setattr(store, "read", remove_and_read)
    store.create("a", b"of somebody")
    assert create_once(store, "a", b"1")
    assert read("a", 0, 9) == b"1"
    removals = itertools.count()
    monkeypatch.setattr(store, "create", raise_exists)
    with pytest.raises(StoreError, match="made and removed by others all the time"):
        create_once(store, "a", b"1")


def raise_exists(key: str, data: bytes) -> None:
    raise ObjectExistsError(key)


def test_an_upload_that_becomes_complete_while_it_is_removed_is_gone(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("wf_stores.uploading.mark_complete", lambda *_: None)
        digest = upload_folder(folder, store, "one").digest
    marks = iter([lambda: store.create(complete_key("one"), f"{digest}\n".encode())])
    remove_upload(store, "one", lambda _num_bytes: next(marks, lambda: None)())
    assert keys(store) == []


def test_two_uploads_that_are_fetched_to_one_folder_are_not_mixed(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_folder(folder, store, "one")
    upload_folder(folder / "sub", store, "other")
    target, assemble = tmp_path / "target", wf_stores.downloading._assemble

    def after_the_other(*arguments: Any) -> None:
        monkeypatch.setattr(wf_stores.downloading, "_assemble", assemble)
        download_folder(store, "other", target)
        assemble(*arguments)

    monkeypatch.setattr(wf_stores.downloading, "_assemble", after_the_other)
    with pytest.raises(RequestError, match=r"is not replaced: .* in it is not of"):
        download_folder(store, "one", target)
    assert files_in(target) == files_in(folder / "sub")


def test_an_upload_whose_files_are_removed_meanwhile_is_none(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = store.put_file

    def put_and_lose(key: str, path: Path, advance: Any) -> None:
        put(key, path, advance)
        if path.name == "model.safetensors":
            store.delete(key)

    monkeypatch.setattr(store, "put_file", put_and_lose)
    with pytest.raises(StoreError, match=r"model\.safetensors was removed while one was uploaded"):
        upload_folder(folder, store, "one")
    assert complete_names(store) == []
    monkeypatch.undo()
    assert upload_folder(folder, store, "one").sent_bytes == 102_400


def test_a_file_that_is_damaged_is_sent_again(store: Store, folder: Path, overwrite: Overwrite) -> None:
    digest = upload_folder(folder, store, "one").digest
    weights = (folder / "model.safetensors").read_bytes()
    overwrite(store, file_key("one", digest, "model.safetensors"), b"\1" + weights[1:])
    overwrite(store, manifest_key("one", digest), b"{}")
    assert upload_folder(folder, store, "one").sent_bytes == len(weights)
    assert check_upload(store, "one").digest == digest


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda data: b"\1" + data[1:], "SHA-256 differs"),
        (lambda data: data[:-1], "102399 bytes instead of 102400"),
        (lambda data: data + b"x", None),
        (None, "is missing"),
    ],
)
def test_damage_is_found(
    store: Store, folder: Path, tmp_path: Path, overwrite: Overwrite, damage: Any, finding: str | None
) -> None:
    digest = upload_folder(folder, store, "one").digest
    key, weights = file_key("one", digest, "model.safetensors"), (folder / "model.safetensors").read_bytes()
    store.delete(key) if damage is None else overwrite(store, key, damage(weights))
    if finding is None:  # more than the file is not read
        download_folder(store, "one", tmp_path / "target")
        assert files_in(tmp_path / "target") == files_in(folder)
        return
    for act in (
        lambda: download_folder(store, "one", tmp_path / "target"),
        lambda: check_upload(store, "one"),
    ):
        with pytest.raises(DamagedUploadError, match=f"model.safetensors .*{finding}"):
            act()
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("manifest", "finding"),
    [
        (b"\xff", "no JSON"),
        (b"[]", "lists no files"),
        (b'{"format": 1, "files": {}}', "lists no files"),
        (b'{"format": 2, "files": {"a": {}}}', "has format 2"),
        (b'{"format": 1, "files": {"../a": {"bytes": 0, "sha256": "%s"}}}' % (b"0" * 64), "no file's entry"),
        (b'{"format": 1, "files": {"/a": {"bytes": 0, "sha256": "%s"}}}' % (b"0" * 64), "no file's entry"),
        (b'{"format": 1, "files": {"a": {"bytes": -1, "sha256": "%s"}}}' % (b"0" * 64), "no file's entry"),
        (b'{"format": 1, "files": {"a": {"bytes": 0, "sha256": "x"}}}', "no file's entry"),
        (
            b'{"format": 1, "files": {"a": %s, "a/b": %s}}'
            % ((b'{"bytes": 0, "sha256": "%s"}' % (b"0" * 64),) * 2),
            "below another file",
        ),
    ],
)
def test_a_hostile_manifest_is_refused(set_up: Any, tmp_path: Path, manifest: bytes, finding: str) -> None:
    store: Store = set_up("folder").open()
    digest = hashlib.sha256(manifest).hexdigest()
    store.create(manifest_key("one", digest), manifest)
    store.create(complete_key("one"), digest.encode())
    with pytest.raises(DamagedUploadError, match=finding):
        download_folder(store, "one", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_changed_manifest_is_refused(
    store: Store, folder: Path, tmp_path: Path, overwrite: Overwrite
) -> None:
    digest = upload_folder(folder, store, "one").digest
    overwrite(store, manifest_key("one", digest), store.read(manifest_key("one", digest), 0, 1 << 20) + b" ")
    with pytest.raises(DamagedUploadError, match="SHA-256 differs"):
        download_folder(store, "one", tmp_path / "target")
    remove_upload(store, "one")
    assert keys(store) == []


def test_another_upload_under_the_name_is_refused(store: Store, folder: Path) -> None:
    first = upload_folder(folder, store, "one")
    (folder / "empty").write_text("other")
    with pytest.raises(AnotherUploadError, match="complete with other contents"):
        upload_folder(folder, store, "one")
    assert check_upload(store, "one").digest == first.digest
    remove_upload(store, "one")
    assert upload_folder(folder, store, "one").digest != first.digest


def test_of_two_writers_one_wins_and_the_other_says_so(
    place: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have sent everything before either writes COMPLETE."""
    import wf_stores.uploading

    barrier, mark = threading.Barrier(4), wf_stores.uploading.mark_complete

    def together(*arguments: Any) -> None:
        barrier.wait(30)
        mark(*arguments)

    monkeypatch.setattr(wf_stores.uploading, "mark_complete", together)
    results: dict[str, Any] = {}

    def write(number: int) -> None:
        text = str(number % 2)
        source = tmp_path / f"source-{number}"
        source.mkdir()
        (source / "same-name").write_text(text)
        try:
            results[f"{number}"] = upload_folder(source, place.open(), "one")
        except AnotherUploadError as error:
            results[f"{number}"] = error

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lost = {number for number, result in results.items() if isinstance(result, AnotherUploadError)}
    assert lost in ({"0", "2"}, {"1", "3"}), "two with the same contents agree"
    download_folder(place.open(), "one", tmp_path / "target")
    winner = min(set(results) - lost)
    assert (tmp_path / "target" / "same-name").read_text() == str(int(winner) % 2)


def test_a_removed_upload_lost_its_complete_first(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_folder(folder, store, "one")
    upload_folder(folder, store, "one/below")
    order: list[str] = []
    delete = store.delete

    def recorded(key: str) -> None:
        order.append(key)
        delete(key)

    monkeypatch.setattr(store, "delete", recorded)
    remove_upload(store, "one")
    assert order[0] == "one/COMPLETE"
    assert complete_names(store) == ["one/below"]
    assert check_upload(store, "one/below")
    with pytest.raises(NotThereError, match="no upload"):
        remove_upload(store, "one")


def test_a_file_that_changes_meanwhile_is_no_upload(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(_num_bytes: int) -> None:
        (folder / "empty").write_text("now")

    with pytest.raises(StoreError, match="empty was changed while"):
        upload_folder(folder, store, "one", change)
    assert complete_names(store) == []


def test_a_file_that_is_emptied_between_size_and_contents_is_no_upload(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, original = folder / "model.safetensors", Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if self == path and is_sent:
            os.truncate(path, 0)
        return original(self, mode, *args, **options)

    def put(key: str, file: Path, advance: Any) -> None:
        is_sent.append(True)
        put_file(key, file, advance)

    is_sent: list[bool] = []
    put_file = store.put_file
    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(store, "put_file", put)
    with pytest.raises(StoreError, match="was changed while"):
        upload_folder(folder, store, "one")
    assert complete_names(store) == []


def test_files_that_are_there_are_not_fetched_again(store: Store, folder: Path, tmp_path: Path) -> None:
    upload_folder(folder, store, "one")
    target = tmp_path / "target"
    target.mkdir()
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    done = download_folder(store, "one", target)
    assert done.fetched_bytes == done.num_bytes - 102_400
    assert download_folder(store, "one", target).fetched_bytes == 0
    assert files_in(target) == files_in(folder)


def test_what_is_in_a_target_stays_as_it_is(store: Store, folder: Path, tmp_path: Path) -> None:
    upload_folder(folder, store, "one")
    target = tmp_path / "target"
    (target / "sub" / "mine").mkdir(parents=True)
    (target / "logs").mkdir()
    (target / "empty").touch()
    target.chmod(0o700)
    before = [target.stat().st_ino, target.stat().st_mode, (target / "empty").stat().st_ino]
    download_folder(store, "one", target)
    assert files_in(target) == files_in(folder)
    assert (target / "sub" / "mine").is_dir()
    assert (target / "logs").is_dir()
    assert before == [target.stat().st_ino, target.stat().st_mode, (target / "empty").stat().st_ino]


def test_a_folder_in_the_place_of_a_file_stays(store: Store, folder: Path, tmp_path: Path) -> None:
    upload_folder(folder, store, "one")
    (tmp_path / "target" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"model\.safetensors is where the upload has a file"):
        download_folder(store, "one", tmp_path / "target")
    assert [path.name for path in (tmp_path / "target").rglob("*")] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["empty", "mine.txt"])
def test_something_else_at_the_target_stays(store: Store, folder: Path, tmp_path: Path, name: str) -> None:
    upload_folder(folder, store, "one")
    target = tmp_path / "target"
    target.mkdir()
    (target / name).write_text("thesis")
    with pytest.raises(RequestError, match=f"{name} in it is not of"):
        download_folder(store, "one", target)
    assert files_in(target) == {name: b"thesis"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".target")]


def test_a_download_that_was_stopped_goes_on(store: Store, folder: Path, tmp_path: Path) -> None:
    for number in range(30):
        (folder / f"many-{number}").write_bytes(bytes(1000))
    size = upload_folder(folder, store, "one").num_bytes
    moved = 0

    def stop_late(num_bytes: int) -> None:
        nonlocal moved
        moved += num_bytes
        if moved > size - 5000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_folder(store, "one", tmp_path / "target", stop_late)
    assert not (tmp_path / "target").exists()
    assert download_folder(store, "one", tmp_path / "target").fetched_bytes < size / 2
    assert files_in(tmp_path / "target") == files_in(folder)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".target")]


def test_two_downloads_to_one_folder(place: Any, folder: Path, tmp_path: Path) -> None:
    upload_folder(folder, place.open(), "one")
    fetched: list[int] = []

    def get() -> None:
        fetched.append(download_folder(place.open(), "one", tmp_path / "target").fetched_bytes)

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([size for size in fetched if size]) == 1
    assert len(fetched) == 4
    assert files_in(tmp_path / "target") == files_in(folder)


def test_what_is_not_there(store: Store, tmp_path: Path) -> None:
    for act in (
        lambda: download_folder(store, "none", tmp_path / "target"),
        lambda: check_upload(store, "none"),
    ):
        with pytest.raises(NotThereError, match=r"there is nothing at .*/none"):
            act()


def test_a_folder_without_hard_links_creates_exclusively(
    set_up: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(wf_stores.local.os, "link", refuse)
    store: Store = set_up("folder").open()
    store.create("a", b"1")
    with pytest.raises(ObjectExistsError):
        store.create("a", b"2")
    assert upload_folder(folder, store, "one").digest == check_upload(store, "one").digest
    assert not [key for key in keys(store) if ".tmp-" in key]
