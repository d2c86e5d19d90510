"""Which files are sent: git's list, without secrets and without a way out of the checkout."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from wf_deployer.doctor.workspace.credentials import SERVICES, Service
from wf_deployer.sync.config import Config, Preset
from wf_deployer.sync.excludes import exclude_of
from wf_deployer.sync.path_fix import parse_path_fix
from wf_deployer.sync.remote_program import text
from wf_deployer.sync.snapshot import Snapshot, take_snapshot
from wf_formats.errors import RequestError

Git = Callable[..., None]
USUAL = {".gitignore", "a.txt", "tools/run"}


def snapshot_of(folder: Path, *fixes: str, projects: tuple[str, ...] = ()) -> Snapshot:
    presets = {"box": Preset("box", "box", "there")}
    path_fixes = tuple(parse_path_fix(fix, "x:1") for fix in fixes)
    return take_snapshot(Config(folder / ".sync.conf", presets, projects, path_fixes))


def test_tracked_and_new_files_without_ignored_and_deleted_ones(checkout: Path, git: Git) -> None:
    for name in ("tracked.log", "ignored.log", "gone.txt"):
        (checkout / name).write_text(name)
    git(checkout, "add", "--force", "tracked.log", "gone.txt")
    (checkout / "gone.txt").unlink()
    assert snapshot_of(checkout).identities.keys() == USUAL | {"tracked.log"}


def test_names_of_all_kinds(checkout: Path, git: Git) -> None:
    names = [
        b"with space",
        b"new\nline",
        b"-rf",
        b"#comment",
        b"; x",
        "naïve 你".encode(),
        b"\xff\xfe",
        b"$(x)`y`",
        b"*",
    ]
    for name in names:
        (checkout / os.fsdecode(name)).write_bytes(name)
    assert snapshot_of(checkout).identities.keys() == USUAL | {text(name) for name in names}


def test_links_are_links_and_lead_nowhere(checkout: Path, git: Git, tmp_path: Path) -> None:
    """A file that is tracked in a folder which is now a link would be read from where the link leads."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (checkout / "folder").mkdir()
    (checkout / "folder" / "secret").write_text("mine")
    git(checkout, "add", ".")
    (checkout / "folder" / "secret").unlink()
    (checkout / "folder").rmdir()
    (checkout / "folder").symlink_to(outside)
    (checkout / "broken").symlink_to("nowhere")
    found = snapshot_of(checkout).identities
    assert found.keys() == USUAL | {"folder", "broken"}
    assert found["broken"] == "l" + hashlib.sha256(b"nowhere").hexdigest()


def test_submodules_and_repositories_inside(checkout: Path, git: Git, tmp_path: Path) -> None:
    """Each by its own git and its own rules, and never a `.git`."""
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "--quiet")
    (library / "lib.py").touch()
    git(library, "add", ".")
    git(library, "commit", "--quiet", "-m", "x")
    git(checkout, "submodule", "--quiet", "add", str(library), "vendor/lib")
    git(checkout, "clone", "--quiet", str(library), "own clone")
    (checkout / "own clone" / ".gitignore").write_text("*.tmp\n")
    (checkout / "own clone" / "x.tmp").touch()
    (checkout / "vendor" / "lib" / "new.py").touch()
    inside = {"vendor/lib/lib.py", "vendor/lib/new.py", "own clone/lib.py", "own clone/.gitignore"}
    assert snapshot_of(checkout).identities.keys() == USUAL | inside | {".gitmodules"}
    git(checkout, "submodule", "deinit", "--force", "vendor/lib")
    assert "left out, not checked out: submodule vendor/lib" in snapshot_of(checkout).left_out


def test_a_file_that_became_a_folder_is_no_submodule(checkout: Path, git: Git) -> None:
    git(checkout, "add", ".")
    (checkout / "a.txt").unlink()
    (checkout / "a.txt").mkdir()
    (checkout / "a.txt" / "b").touch()
    found = snapshot_of(checkout)
    assert found.identities.keys() == {".gitignore", "a.txt/b", "tools/run"}
    assert found.left_out == ()


def test_a_folder_below_the_repository_is_a_checkout_too(checkout: Path) -> None:
    assert snapshot_of(checkout / "tools").identities.keys() == {"run"}


def test_git_is_asked_about_this_folder_whatever_a_hook_says(
    checkout: Path, git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert snapshot_of(checkout).identities.keys() == USUAL


def test_without_a_repository_the_fix_is_git_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(RequestError, match=f"run `git init {tmp_path}`"):
        snapshot_of(tmp_path)


def test_without_git_it_says_so(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="git is not installed"):
        snapshot_of(checkout)


def test_what_git_cannot_read_is_told(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git warns of folders that it may not open, and goes on without their files."""
    real = shutil.which("git")
    (tmp_path / "git").write_text(f'#!/bin/sh\necho "warning: could not open x" >&2\nexec {real} "$@"\n')
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert snapshot_of(checkout).left_out == ("git: warning: could not open x",)


def test_a_file_that_cannot_be_read_is_named(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: bytes) -> str:
        raise PermissionError(13, "Permission denied", place)

    monkeypatch.setattr("wf_deployer.sync.remote_program._file_identity", refuse)
    with pytest.raises(PermissionError) as caught:
        snapshot_of(checkout)
    assert caught.value.filename == ".gitignore"


EXCLUDED = """
.env x/.env.local prod.env .envrc .env/lib/x .secrets .streamlit/secrets.toml a/secrets.yaml
certs/Server.PEM x.key store.p12 a/b.pfx app.jks my.kdbx office.ovpn id_rsa a/id_ed25519.pub .ssh/config
.gnupg/x/y .npmrc .pypirc .netrc _netrc .git-credentials .pgpass .htpasswd home/.docker/config.json
.cargo/credentials.toml a/credentials.json gcp-credentials-prod.json service-account.json
service-account-ci.json client_secret_1.json .aws/credentials .azure/x .kube/config kubeconfig
.config/gcloud/application_default_credentials.json .config/gh/hosts.yml rclone.conf prod.tfvars
terraform.tfstate .sky/config.yaml .sky.yaml modal.toml .modal.toml .huggingface/token
.cache/huggingface/token .wandb/settings kaggle.json .aws/config.example .env.example/x .sync.conf
a/.sync.conf outputs/x a/runs/b/c .venv/bin/x .wf-sync.json a/.wf-sync-partial/x
"""
SENT = """
env environment.py pem keys.py runs.py a/runs outputs environment.yaml .env.example a/.env.sample
.env.template prod.env.example .npmrc.template docker/config.json .docker/Dockerfile config/gcloud.py
secrets.py credentials.py tests/test_credentials.py src/huggingface/token.py token.py modal_app.py
aws/main.tf sky.yaml service_account.py wandb/settings.py .sync.conf.example public_key.txt monkey
keyboard.json
"""


@pytest.mark.parametrize("path", EXCLUDED.split())
def test_excluded(path: str) -> None:
    assert exclude_of(path, is_link=False)


@pytest.mark.parametrize("path", SENT.split())
def test_not_excluded(path: str) -> None:
    assert exclude_of(path, is_link=False) is None


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_where_the_doctor_looks_for_keys_nothing_is_sent(service: Service) -> None:
    assert [path for path in service.files if exclude_of(f"home/{path}", is_link=False) is None] == []


def test_all_of_this_project_is_sent(workspace_root: Path) -> None:
    places = (workspace_root / name for name in ("packages", "configs", "docs", "scripts"))
    files = (path for place in places for path in place.rglob("*") if "__pycache__" not in path.parts)
    paths = [path.relative_to(workspace_root).as_posix() for path in files]
    assert [path for path in paths if exclude_of(path, is_link=False)] == []


def test_a_link_to_results_stays_here() -> None:
    assert exclude_of("outputs", is_link=True) == "outputs/"


def test_tracked_secrets_are_left_out_and_named(checkout: Path, git: Git) -> None:
    for name in (".env", "deploy.pem", "bad\x1bname.key"):
        (checkout / name).write_text("secret")
    git(checkout, "add", "--force", ".")
    found = snapshot_of(checkout)
    assert found.identities.keys() == USUAL
    assert "left out (.env, secrets are never sent): .env" in found.left_out
    assert "left out (*.pem, secrets are never sent): deploy.pem" in found.left_out
    assert "left out (*.key, secrets are never sent): bad\\x1bname.key" in found.left_out


def test_what_is_neither_file_nor_link_is_left_out_and_named(checkout: Path, git: Git) -> None:
    git(checkout, "add", "a.txt")
    (checkout / "a.txt").unlink()
    os.mkfifo(checkout / "a.txt")
    found = snapshot_of(checkout)
    assert found.identities.keys() == USUAL - {"a.txt"}
    assert found.left_out == ("left out, no file or link: a.txt",)


def test_the_checksum_is_of_paths_executable_bits_and_contents(checkout: Path) -> None:
    """By another way than ours: the bytes are put together here."""
    (checkout / "l").symlink_to("a.txt")

    def digest(data: bytes) -> bytes:
        return hashlib.sha256(data).hexdigest().encode()

    parts = [b".gitignore\0f", digest(b"*.log\n"), b"\0a.txt\0f", digest(b"a\n"), b"\0l\0l", digest(b"a.txt")]
    parts += [b"\0tools/run\0x", digest(b"#!/bin/sh\n"), b"\0"]
    before = snapshot_of(checkout).checksum
    assert before == hashlib.sha256(b"".join(parts)).hexdigest()
    os.utime(checkout / "a.txt", (1, 1))
    assert snapshot_of(checkout).checksum == before
    (checkout / "a.txt").chmod(0o744)
    assert snapshot_of(checkout).checksum != before


def test_a_fixed_file_counts_as_it_will_be_there(checkout: Path) -> None:
    (checkout / "x.toml").write_text("a = '/home/me/libs/a'\n")
    found = snapshot_of(checkout, "x.toml:/home/me=>/data", "x.toml:/data/libs=>/libs")
    assert found.fixed["x.toml"].content == b"a = '/libs/a'\n"
    assert found.identities["x.toml"] == "f" + hashlib.sha256(b"a = '/libs/a'\n").hexdigest()
    assert (checkout / "x.toml").read_text() == "a = '/home/me/libs/a'\n"


@pytest.mark.parametrize("name", ["nothing.toml", ".env", "l"])
def test_a_fix_of_what_is_not_sent_is_refused(checkout: Path, name: str) -> None:
    (checkout / ".env").write_text("/a")
    (checkout / "l").symlink_to("a.txt")
    with pytest.raises(RequestError, match="is not a file that is sent"):
        snapshot_of(checkout, f"{name}:/a=>/b")


def test_a_uv_project_without_pyproject_is_refused(checkout: Path) -> None:
    (checkout / "pyproject.toml").touch()
    snapshot_of(checkout, projects=(".",))
    with pytest.raises(RequestError, match="uv_projects: tools has no pyproject"):
        snapshot_of(checkout, projects=("tools",))
