"""Servers that are overloaded, slow or gone; connections that are cut; kills, full disks, credentials."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import store_servers
from store_servers import BUCKET, files_in

import wf_stores.uploading
from wf_formats.errors import RequestError
from wf_stores import (
    Patience,
    check_upload,
    complete_names,
    download_folder,
    incomplete_uploads,
    open_store,
    upload_folder,
)
from wf_stores.errors import AnotherUploadError, NotThereError, RefusedError, StoreError, UnavailableError

# Google's library leaves the connections of answers that it does not read to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
WRITES = ("PUT", "POST")
IMPATIENT = Patience(answer_s=0.7, total_s=1)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder whose one file needs two parts and a resumable upload."""
    source = tmp_path / "large"
    source.mkdir()
    (source / "weights").write_bytes(bytes(range(256)) * (17 << 12))
    return source


def first_of(*methods: str, fate: str, how_many: int = 2) -> Callable[[str, str, int], str | None]:
    return lambda method, _path, number: fate if method in methods and number <= how_many else None


@pytest.mark.parametrize(
    "fate", ["503", "cut", *(pytest.param(fate, marks=pytest.mark.slow) for fate in ("lost", "slow"))]
)
def test_writing_survives(server: Any, folder: Path, fate: str) -> None:
    store = server.open()
    server.proxy.delay_s = 0.3
    server.proxy.reset(first_of(*WRITES, fate=fate))
    upload_folder(folder, store, "one")
    server.proxy.reset(lambda *_: None)
    assert check_upload(store, "one")


def test_google_may_say_429(set_up: Any, folder: Path) -> None:
    place = set_up("gcs")
    place.proxy.reset(first_of("POST", "GET", fate="429"))
    assert upload_folder(folder, place.open(), "one")


@pytest.mark.parametrize("fate", ["503", "cut", "lost"])
def test_parts_of_a_large_file_are_sent_again(server: Any, large: Path, fate: str) -> None:
    server.proxy.reset(
        lambda method, path, number: (
            fate if method == "PUT" and number in (1, 2) and "COMPLETE" not in path else None
        )
    )
    upload_folder(large, server.open(), "one")
    server.proxy.reset(lambda *_: None)
    assert check_upload(server.open(), "one")


@pytest.mark.parametrize(
    "fate", ["503", "half", *(pytest.param(fate, marks=pytest.mark.slow) for fate in ("lost", "slow"))]
)
def test_reading_survives(server: Any, folder: Path, tmp_path: Path, fate: str) -> None:
    store = server.open()
    upload_folder(folder, store, "one")
    server.proxy.delay_s = 0.3
    server.proxy.reset(first_of("GET", fate=fate, how_many=3))
    assert complete_names(store) == ["one"]
    server.proxy.reset(first_of("GET", fate=fate, how_many=3))
    download_folder(store, "one", tmp_path / "target")
    assert files_in(tmp_path / "target") == files_in(folder)


def test_a_server_that_does_not_answer_is_left_in_time(server: Any, folder: Path) -> None:
    server.proxy.delay_s = 2
    server.proxy.reset(lambda *_: "slow")
    start_s = time.monotonic()
    with pytest.raises(UnavailableError, match=rf"{server.url}: no answer \(.+\); try again later"):
        list(server.open(IMPATIENT).objects(""))
    assert time.monotonic() - start_s < 15


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_a_server_that_is_gone_is_one_line(
    kind: str, set_up: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = set_up(kind)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="no answer") as caught:
        upload_folder(folder, place.open(IMPATIENT), "one")
    assert "\n" not in str(caught.value)


def _is_create(method: str, path: str) -> bool:
    """Exclusive creates in GCS say so in the path, in S3 by the key of COMPLETE."""
    return method in WRITES and (
        "ifGenerationMatch=0" in path or (path.endswith("/COMPLETE") and "/files/" not in path)
    )


def test_a_create_whose_answer_is_lost_is_settled_by_reading(server: Any, folder: Path) -> None:
    store = server.open(Patience(answer_s=1, total_s=1.5))
    server.proxy.reset(lambda method, path, _number: "lost" if _is_create(method, path) else None)
    digest = upload_folder(folder, store, "one").digest
    server.proxy.reset(lambda *_: None)
    assert check_upload(store, "one").digest == digest
    (folder / "empty").write_text("other")
    server.proxy.reset(lambda method, path, _number: "lost" if _is_create(method, path) else None)
    with pytest.raises(AnotherUploadError):
        upload_folder(folder, store, "one")


def test_a_create_that_never_arrives_is_no_upload(
    server: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mark(*arguments: Any) -> None:
        server.proxy.reset(lambda method, path, _number: "503" if _is_create(method, path) else None)
        mark_complete(*arguments)

    mark_complete = wf_stores.uploading.mark_complete
    monkeypatch.setattr(wf_stores.uploading, "mark_complete", mark)
    store = server.open(IMPATIENT)
    with pytest.raises(UnavailableError):
        upload_folder(folder, store, "one")
    server.proxy.reset(lambda *_: None)
    monkeypatch.undo()
    assert complete_names(store) == []
    assert upload_folder(folder, store, "one").sent_bytes == 0


def test_a_missing_bucket_is_named(server: Any, folder: Path, tmp_path: Path) -> None:
    store = open_store(server.url.replace(BUCKET, "missing-bucket"), IMPATIENT)
    acts: list[Callable[[], Any]] = [
        lambda: upload_folder(folder, store, "one"),
        lambda: download_folder(store, "one", tmp_path / "target"),
        lambda: complete_names(store),
        lambda: store.put_file("a", folder / "empty", lambda _: None),
        lambda: store.create("a", b""),
    ]
    for act in acts:
        with pytest.raises(NotThereError, match="there is no bucket missing-bucket") as caught:
            act()
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("status", ["401", "403"])
def test_refused_credentials_are_one_line(server: Any, folder: Path, tmp_path: Path, status: str) -> None:
    server.proxy.refusal = (
        b"<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>test</AWSAccessKeyId></Error>"
    )
    server.proxy.reset(lambda *_: status)
    store = server.open(IMPATIENT)
    for act in (
        lambda: upload_folder(folder, store, "one"),
        lambda: download_folder(store, "one", tmp_path / "target"),
        lambda: complete_names(store),
    ):
        with pytest.raises(RefusedError, match=rf"{server.url}: (access is refused|no credentials) \(.*\); "):
            act()


def test_wrong_keys_are_refused_by_the_server_itself(set_up: Any, folder: Path) -> None:
    place = set_up("s3")
    server = place.proxy.server

    def reset(actions: bytes) -> None:
        request = urllib.request.Request(
            f"{server}/moto-api/reset-auth", actions, {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request, timeout=10).close()

    reset(b"0")
    try:
        with pytest.raises(RefusedError, match="InvalidAccessKeyId"):
            upload_folder(folder, place.open(), "one")
    finally:
        reset(b"inf")


def test_a_key_that_cannot_be_listed_is_named(set_up: Any, folder: Path) -> None:
    place = set_up("s3")
    upload_folder(folder, place.open(), "mine/one")
    prefix = urllib.parse.quote(place.url.removeprefix("s3://"))
    request = urllib.request.Request(f"{place.proxy.server}/{prefix}/a//b", b"x", method="PUT")
    request.add_header("Authorization", store_servers.S3_AUTHORIZATION)
    urllib.request.urlopen(request, timeout=30).close()
    with pytest.raises(StoreError, match=r"cannot be listed because of somebody's object .*a//b"):
        complete_names(place.open())
    assert complete_names(open_store(f"{place.url}/mine")) == ["one"]


def test_missing_credentials_are_one_line(set_up: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = set_up("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RefusedError, match="no credentials; set AWS_ACCESS_KEY_ID and"):
        complete_names(place.open(IMPATIENT))


def test_missing_google_credentials_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(
        RefusedError, match=r"gs://bucket/x: no credentials .*gcloud auth application-default"
    ):
        open_store("gs://bucket/x")
    (tmp_path / "keys.json").write_text("no json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "keys.json"))
    with pytest.raises(RefusedError, match=r"no credentials .*keys\.json"):
        open_store("gs://bucket/x")


def test_keys_of_the_default_files_are_used(
    set_up: Any, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = set_up("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = no\n[mine]\naws_access_key_id = id\naws_secret_access_key = s%cret\n"
    )
    (tmp_path / ".aws" / "config").write_text(
        f"[profile mine]\nregion = eu-north-1\nendpoint_url = {place.proxy.url}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "mine")
    seen: list[str] = []
    decide = place.proxy.decide
    monkeypatch.setattr(place.proxy, "decide", lambda *of: seen.append("asked") or decide(*of))
    assert upload_folder(folder, place.open(), "one")
    assert seen
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(RequestError, match="AWS_PROFILE=missing"):
        place.open()
    (tmp_path / ".aws" / "config").write_text("secret without a section")
    with pytest.raises(RequestError, match="config is damaged") as caught:
        place.open()
    assert "secret" not in str(caught.value)


def test_empty_variables_are_unset_ones(
    set_up: Any, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = set_up("s3")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = of-file\naws_secret_access_key = secret\n"
    )
    (tmp_path / ".aws" / "config").write_text(f"[default]\nendpoint_url = {place.proxy.url}\n")
    empty = ("PROFILE", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION")
    for name in (*empty, "ENDPOINT_URL", "ENDPOINT_URL_S3", "CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", "")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    assert upload_folder(folder, place.open(), "one")
    signed = place.proxy.headers["authorization"]
    assert "Credential=of-file/" in signed
    assert "/us-east-1/s3/" in signed
    assert "x-amz-security-token" not in place.proxy.headers
    assert os.environ["AWS_PROFILE"] == ""


_UPLOADING = """
import sys
from wf_stores import open_store, upload_folder
upload_folder(sys.argv[1], open_store(sys.argv[2]), "one", lambda num_bytes: print(num_bytes, flush=True))
"""


@pytest.fixture
def uploading(place: Any) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts an upload in a process of its own that says each part on stdout."""
    started: list[subprocess.Popen[str]] = []

    def start(source: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _UPLOADING, str(source), place.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_an_upload_that_is_killed_goes_on(place: Any, tmp_path: Path, uploading: Any) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"part-{number:02d}").write_bytes(os.urandom(200_000))
    process = uploading(source)
    for _ in range(12):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = place.open()
    assert complete_names(store) == []
    assert [upload.name for upload in incomplete_uploads(store)] == ["one"]
    done = upload_folder(source, store, "one")
    assert 0 < done.sent_bytes < done.num_bytes
    download_folder(store, "one", tmp_path / "target")
    assert files_in(tmp_path / "target") == files_in(source)


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Limits the size of files, as a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_names_the_target(
    place: Any, folder: Path, tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    store = place.open()
    upload_folder(folder, store, "one")
    small_files(50_000)
    with pytest.raises(OSError, match="File too large") as caught:
        download_folder(store, "one", tmp_path / "target")
    assert caught.value.filename == str(tmp_path / "target")
    assert not (tmp_path / "target").exists()
    small_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert download_folder(store, "one", tmp_path / "target").num_files == 7


def test_a_full_store_folder_is_no_upload(
    set_up: Any, folder: Path, small_files: Callable[[int], None]
) -> None:
    store = set_up("folder").open()
    small_files(50_000)
    with pytest.raises(OSError, match="File too large"):
        upload_folder(folder, store, "one")
    small_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert complete_names(store) == []
    assert not [stored.key for stored in store.objects("") if ".tmp-" in stored.key]
