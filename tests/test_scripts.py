"""The repository's own scripts: the lock without hosts."""

import importlib.machinery
import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest


def load(script: Path) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(f"script_{script.name}", str(script))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def lock(workspace_root: Path) -> ModuleType:
    return load(workspace_root / "scripts" / "lock")


FULL = """version = 1

[[package]]
name = "typer"
version = "0.15.4"
source = { registry = "https://registry.example/simple" }
dependencies = [
    { name = "rich", marker = "sys_platform == 'linux'" },
]
wheels = [
    { url = "https://files.example/typer-0.15.4-py3-none-any.whl", hash = "sha256:aa", size = 1 },
    { url = "https://files.example/typer-0.15.4-cp311-any.whl", hash = "sha256:cc", size = 1 },
]

[package.optional-dependencies]
all = [
    { name = "shellingham" },
]

[[package]]
name = "member"
version = "0.1.0"
source = { editable = "packages/member" }
dependencies = [
    { name = "typer" },
    { name = "rich", version = "14.0", source = { registry = "https://registry.example/simple" } },
]

[package.metadata]
requires-dist = [{ name = "typer", specifier = ">=0.15" }]
provides-extras = ["x"]

[package.metadata.requires-dev]
dev = [{ name = "pytest" }]
"""


def test_strip_removes_hosts_and_keeps_names_versions_hashes(lock: ModuleType) -> None:
    stripped = lock.strip(FULL)
    assert "://" not in stripped
    assert (
        lock.strip(FULL.replace("size = 1 }", 'size = 1, upload-time = "2026-01-01T00:00:00Z" }')) == stripped
    )
    assert 'url = "typer-0.15.4-py3-none-any.whl", hash = "sha256:aa" }' in stripped
    assert "package.metadata" not in stripped
    assert "provides-extras" not in stripped
    assert "sys_platform" not in stripped  # uv finds anew what packages of an index depend on
    assert "shellingham" not in stripped
    assert (
        '    { name = "typer" },\n' in stripped
    )  # of members `wf doctor` tells it before the lock is completed
    assert lock.contents(stripped) == lock.contents(FULL)
    assert lock.strip(stripped) == stripped


def test_a_changed_version_or_hash_is_a_difference(lock: ModuleType) -> None:
    key = ("typer", "0.15.4")
    committed = lock.contents(lock.strip(FULL))
    assert lock.same(lock.contents(FULL), committed, key)
    assert not lock.same(lock.contents(FULL.replace("sha256:aa", "sha256:bb")), committed, key)
    fewer = FULL.replace("typer-0.15.4-cp311-any.whl", "typer-0.15.4-cp313-any.whl")
    assert lock.same(lock.contents(fewer), committed, key)
    assert not lock.same(lock.contents(FULL.replace("0.15.4", "0.15.5")), committed, key)


def test_committed_lock_names_no_host(workspace_root: Path) -> None:
    committed = subprocess.run(
        ["git", "show", "HEAD:uv.lock"], cwd=workspace_root, check=True, capture_output=True, text=True
    ).stdout
    assert "://" not in committed
    assert len(committed.encode()) < 500_000
