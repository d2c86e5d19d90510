"""Nothing is replaced that is not ours; permissions are the umask's; errors name the target."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wf_formats.atomic import atomic_file, atomic_folder, atomic_write_text
from wf_formats.errors import RequestError
from wf_formats.system_errors import system_errors
from wf_formats.targets import EXPORT, check_apart, check_report, check_way, checkpoint_kind

CHECKPOINT = checkpoint_kind("optimizer.safetensors")


def snapshot(folder: Path) -> dict[str, object]:
    """Everything below a folder: kinds, links, contents."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.is_file() and path.read_bytes())
        for path in folder.rglob("*")
    }


def folder_of(path: Path, record: object, **files: str) -> Path:
    path.mkdir()
    (path / "model.safetensors").write_text("weights")
    (path / "config.json").write_text("{}")
    (path / "wrinklefree.json").write_text(json.dumps(record))
    for name, text in files.items():
        (path / name.replace("__", "/")).parent.mkdir(exist_ok=True)
        (path / name.replace("__", "/")).write_text(text)
    return path


EXPORTED = {
    "conversion": None,
    "export": {"layout": "bitnet", "files": ["config.json", "model.safetensors", "LICENSE"]},
}
TRAINED = {"conversion": {"scheme": "tensor"}}


def no_file(path: Path, kind: str) -> None:
    """Something else than a regular file."""
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        (path.parent / "thesis.txt").write_text("keep")
        path.symlink_to("thesis.txt")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "pipe", "socket"])
def test_a_file_replaces_regular_files_only(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    no_file(target, kind)
    before = snapshot(tmp_path) if kind in ("folder", "link", "dangling link") else None
    with pytest.raises(RequestError, match=r"target is not written: it is a (folder|link|pipe|socket)"):
        atomic_write_text(target, "new")
    assert before is None or snapshot(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1 + (kind == "link")


def test_a_device_is_never_replaced() -> None:
    before = os.stat("/dev/null")
    with pytest.raises(RequestError, match="/dev/null is not written: it is a device"):
        atomic_write_text("/dev/null", "x")
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    ("record", "extra"),
    [
        ({"a": 1}, {}),
        (TRAINED, {}),
        ([], {}),
        ({"export": "x"}, {}),
        (EXPORTED, {"thesis.txt": "keep"}),
        (EXPORTED, {"notes__thesis.txt": "keep"}),
        (EXPORTED, {".hidden": "keep"}),
        (EXPORTED, {"model.py": "keep"}),
    ],
)
def test_only_an_export_gives_way_to_an_export(tmp_path: Path, record: object, extra: dict[str, str]) -> None:
    target = folder_of(tmp_path / "target", record, **extra)
    before = snapshot(tmp_path)
    message = r"target is not replaced: .* choose another path"
    with pytest.raises(RequestError, match=message), atomic_folder(target, EXPORT):
        pytest.fail("nothing may be computed")
    assert snapshot(tmp_path) == before


def test_what_is_ours_gives_way(tmp_path: Path) -> None:
    cases = [
        (folder_of(tmp_path / "export", EXPORTED, LICENSE="mit"), EXPORT),
        (folder_of(tmp_path / "old", {"export": {}}, **{"tokenizer.json": "{}"}), EXPORT),
        (folder_of(tmp_path / "trained", TRAINED, **{"optimizer.safetensors": ""}), CHECKPOINT),
        (folder_of(tmp_path / "dense", {"conversion": None}), CHECKPOINT),
        (tmp_path / "empty", EXPORT),
        (tmp_path / "new", EXPORT),
    ]
    (tmp_path / "empty").mkdir()
    for target, kind in cases:
        with atomic_folder(target, kind) as temporary:
            (temporary / "new").write_text("new")
        assert [path.name for path in target.iterdir()] == ["new"]


@pytest.mark.parametrize("kind", [EXPORT, CHECKPOINT, None])
@pytest.mark.parametrize("what", ["file", "link"])
def test_a_folder_replaces_folders_only(tmp_path: Path, kind: object, what: str) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "target"
    target.write_text("keep") if what == "file" else target.symlink_to("real")
    before = snapshot(tmp_path)
    message = f"target is not replaced: it is a {what}"
    with pytest.raises(RequestError, match=message), atomic_folder(target, kind):  # type: ignore[arg-type]
        pytest.fail("nothing may be computed")
    assert snapshot(tmp_path) == before


def test_a_file_put_there_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(RequestError, match=r"thesis\.txt"), atomic_folder(target, EXPORT) as temporary:  # noqa: PT012
        (temporary / "new").write_text("new")
        target.mkdir()
        (target / "thesis.txt").write_text("keep")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (target / "thesis.txt").read_text() == "keep"


@pytest.mark.parametrize("target", ["source", "source/x.gguf", "source/../source/x", ".", "link/x"])
def test_a_target_is_apart_from_its_source(tmp_path: Path, target: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "link").symlink_to("source")
    with pytest.raises(RequestError, match="choose"):
        check_apart(tmp_path / target, tmp_path / "source")
    check_apart(tmp_path / "sources", tmp_path / "source")


def test_a_report_replaces_reports_only(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    check_report(report, ["passed"])
    report.write_text('{"passed": true, "more": 1}')
    check_report(report, ["passed"])
    for text in ("thesis", '{"other": 1}', "[]", "\udcff"):
        report.write_text(text, errors="surrogateescape")
        with pytest.raises(RequestError, match="no earlier report"):
            check_report(report, ["passed"])


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    old = os.umask(0o022)
    yield os.umask
    os.umask(old)


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0, 0o666, 0o777)]
)
def test_permissions_are_the_umasks(
    tmp_path: Path, umask: Callable[[int], int], mask: int, file: int, folder: int
) -> None:
    umask(mask)
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir(mode=0o700)
        (temporary / "inner" / "private").touch(mode=0o600)  # as some libraries write
    with atomic_file(tmp_path / "file") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert found == {"folder": folder, "inner": folder, "private": file, "file": file}


@pytest.mark.parametrize("target", ["/proc/x", "/proc/x/y", "/dev/null/x"])
def test_errors_name_the_target(target: str) -> None:
    with pytest.raises(OSError, match=r".") as failed:
        atomic_write_text(target, "x")
    assert target.startswith(str(failed.value.filename))
    with pytest.raises(OSError, match=r".") as failed, atomic_folder(target):
        pass
    assert target.startswith(str(failed.value.filename))


@pytest.mark.parametrize("way", ["file", "file/further", "dangling", "fine", "fine/further"])
def test_what_is_no_folder_on_the_way_is_named(way: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    (tmp_path / "dangling").symlink_to("nowhere")
    if way.startswith("fine"):
        check_way(tmp_path / way / "target")
        return
    for check in (check_way, lambda target: check_report(target, ("a",))):
        with pytest.raises(RequestError, match=rf"{tmp_path / way.split('/')[0]} is no folder"):
            check(tmp_path / way / "target")


@pytest.mark.parametrize("top", ["/", "//", "/..", "/tmp/../"])
def test_the_top_of_the_file_system_is_no_target(top: str) -> None:
    with pytest.raises(RequestError, match="is the top of the file system; give a path"):
        check_way(Path(top))


@pytest.mark.parametrize("url", ["s3://bucket/x.gguf", "gs:bucket", "S3:/bucket/x", "https://host/x"])
def test_a_url_is_no_target_on_this_machine(url: str) -> None:
    with pytest.raises(RequestError, match=r"(s3|gs)://bucket.* is a URL|https://host/x is a URL"):
        check_way(Path(url))
    check_way(Path("./s3"))


def test_a_rust_librarys_error_is_the_systems(tmp_path: Path) -> None:
    source = (
        "import resource, numpy\n"
        "from safetensors import SafetensorError\n"
        "from safetensors.numpy import save_file\n"
        "from pathlib import Path\n"
        "from wf_formats.system_errors import system_errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with system_errors(Path('x'), SafetensorError):\n"
        "    save_file({'a': numpy.zeros(9999)}, 'x')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr.splitlines()[-1] == "OSError: [Errno 27] File too large: 'x'"
    with pytest.raises(KeyError), system_errors(tmp_path, KeyError):
        raise KeyError("no number")


@pytest.mark.parametrize(
    "foreign",
    ["model_backup__old.safetensors", "tokenizer-notes.json", "model-mine.safetensors", "vocab.txt"],
)
def test_names_that_are_like_ours_are_not_ours(tmp_path: Path, foreign: str) -> None:
    folder = folder_of(tmp_path / "x", EXPORTED, **{foreign: "mine"})
    before = snapshot(tmp_path)
    with pytest.raises(RequestError, match=foreign.replace("__", "/")), atomic_folder(folder, EXPORT):
        pass
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("files", [5, {"thesis.txt": 1}, "thesis.txt", [5], ["*"], None])
def test_a_changed_list_of_files_frees_nothing(tmp_path: Path, files: object) -> None:
    record = {"conversion": None, "export": {"files": files}}
    folder = folder_of(tmp_path / "x", record, **{"thesis.txt": "mine"})
    with pytest.raises(RequestError, match="is not replaced"), atomic_folder(folder, EXPORT):
        pass
    assert (folder / "thesis.txt").read_text() == "mine"
