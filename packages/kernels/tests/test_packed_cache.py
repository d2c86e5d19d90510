"""Kept models: found again for the same contents, code and instruction set alone; hindrances are warnings."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ternary_kernels as tk
from ternary_kernels import screen
from ternary_kernels.large_pages import mappings
from ternary_kernels.packed import LoadedModel, cache, load_packed, store
from ternary_kernels.packed.key import SUFFIX
from ternary_kernels.packed.settings import CacheSettings
from wf_formats import content_records
from wf_formats.errors import RequestError

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "random_model.py"
GB = 10**9


@pytest.fixture(scope="module")
def models(module_of: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """GGUF files of equal size and different weights, as bytes."""
    script, folder = module_of(SCRIPT), tmp_path_factory.mktemp("models")
    for seed in range(3):
        script.write_model(folder / f"{seed}", "random", "tq2_0", seed=seed)
    return {name: (folder / name).read_bytes() for name in "012"}


@pytest.fixture
def path(models: dict[str, bytes], tmp_path: Path) -> Path:
    (tmp_path / "model.gguf").write_bytes(models["0"])
    return tmp_path / "model.gguf"


@pytest.fixture
def settings(tmp_path: Path) -> CacheSettings:
    return CacheSettings(tmp_path / "packed", GB, is_verified=False)


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may be as young as those of a test."""
    monkeypatch.setattr(content_records, "GRAIN_S", -60.0)


@pytest.fixture
def no_packing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called."""

    def forbid() -> None:
        def fail(*_: object) -> None:
            raise AssertionError("the model was read")

        for name in ("assemble", "open_model", "read_tokenizer", "files_sha256"):
            monkeypatch.setattr(cache, name, fail)

    return forbid


def logits(model: LoadedModel) -> np.ndarray:
    tokens = np.arange(9, dtype=np.int32)
    starts, contexts = np.array([0, 9], np.int32), np.zeros(1, np.int32)
    decoder = tk.Decoder(model.weights, 1, num_threads=1)
    return decoder.forward(tokens, starts, contexts, np.zeros((1, 1), np.int32), tokens[-1:])


def fresh(path: Path) -> np.ndarray:
    return logits(load_packed(path))


def kept_files(settings: CacheSettings) -> list[Path]:
    return sorted(settings.folder.glob(f"*{SUFFIX}"))


def test_the_second_start_reads_nothing_of_the_model(path, settings, no_packing):
    expected, first = fresh(path), load_packed(path, settings=settings)
    assert first.is_mapped
    no_packing()
    second = load_packed(path, settings=settings)
    assert second.is_mapped
    for model in (first, second):
        np.testing.assert_array_equal(logits(model), expected)
        assert model.tokenizer.backend.encode("the").ids == [256, 101]
        assert list(model.tokenizer.known.table[254:258]) == [b"\xfe", b"\xff", b"th", b"<|end|>"]
    assert len(kept_files(settings)) == 1


def test_what_is_kept_has_a_screen_for_whoever_wants_it(path, settings, monkeypatch, no_packing):
    assert load_packed(path, has_screen=True).weights.screen is None, "of a small head it does not pay"
    monkeypatch.setattr(screen, "MIN_WEIGHTS", 1)
    afresh = load_packed(path, has_screen=True).weights.screen
    assert load_packed(path, settings=settings).weights.screen is None
    no_packing()
    kept = load_packed(path, settings=settings, has_screen=True)
    assert kept.is_mapped
    for own, its in zip(afresh.arrays(), kept.weights.screen.arrays(), strict=True):
        np.testing.assert_array_equal(own, its)
    for own, its in ((afresh.near, kept.weights.screen.near), (afresh.far, kept.weights.screen.far)):
        np.testing.assert_array_equal(own.unpack()[0], its.unpack()[0])
    assert len(kept_files(settings)) == 1


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PASSAGES", ("ab",), "the tokenizer makes 2 tokens"),
        ("PASSAGES", (7,), "the tokenizer is damaged"),  # an error of its library's own
        ("states_of", lambda weights, texts: np.full((200, 256), np.nan), "states are not finite"),
    ],
)
def test_a_model_that_gives_no_screen_runs_and_it_is_said(path, monkeypatch, caplog, name, value, reason):
    monkeypatch.setattr(screen, "MIN_WEIGHTS", 1)
    monkeypatch.setattr(screen, name, value)
    assert load_packed(path, has_screen=True).weights.screen is None
    assert "the head gets no screen, and computes in full: " in caplog.text
    assert reason in caplog.text


def test_a_young_file_is_not_kept(path, settings, monkeypatch):
    monkeypatch.setattr(content_records, "GRAIN_S", 60.0)
    assert not load_packed(path, settings=settings).is_mapped
    assert not settings.folder.exists()


def test_a_file_with_other_times_finds_its_packed_form(path, settings, monkeypatch):
    load_packed(path, settings=settings)
    os.utime(path, (1, 1))
    monkeypatch.setattr(cache, "assemble", None)
    assert load_packed(path, settings=settings).is_mapped


def test_other_contents_of_equal_size_and_time_are_not_taken_for_it(path, models, settings):
    before = path.stat()
    first = logits(load_packed(path, settings=settings))
    with path.open("r+b") as file:  # in place: inode and size stay
        file.write(models["1"])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_ino, after.st_mtime_ns) == (
        before.st_size,
        before.st_ino,
        before.st_mtime_ns,
    )
    second = load_packed(path, settings=settings)
    np.testing.assert_array_equal(logits(second), fresh(path))
    assert not np.array_equal(logits(second), first)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_something_else_in_its_place_is_said_and_the_model_runs(path, settings, caplog, make):
    load_packed(path, settings=settings)
    (file,) = kept_files(settings)
    file.unlink()
    make(file)
    model = load_packed(path, settings=settings)
    np.testing.assert_array_equal(logits(model), fresh(path))
    assert str(file) in caplog.text


def test_the_folder_is_for_its_owner_alone(path, settings):
    load_packed(path, settings=settings)
    assert settings.folder.stat().st_mode & 0o777 == 0o700


def test_a_copy_under_the_same_name_shares_the_file(path, settings, tmp_path):
    load_packed(path, settings=settings)
    copy = tmp_path / "elsewhere" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    load_packed(copy, settings=settings)
    assert len(kept_files(settings)) == 1


def test_a_model_that_changes_while_it_is_packed_is_not_kept(path, settings, models, monkeypatch, caplog):
    assemble = cache.assemble

    def slow(source: Any, format: Any) -> tk.ModelWeights:
        weights = assemble(source, format)
        path.write_bytes(models["1"])
        return weights

    monkeypatch.setattr(cache, "assemble", slow)
    assert not load_packed(path, settings=settings).is_mapped
    assert "changed while it was read" in caplog.text
    assert not kept_files(settings)


@pytest.mark.parametrize("how", ["cut", "header", "foreign", "empty", "renamed"])
def test_a_damaged_file_is_removed_and_written_again(
    path, models, settings, how, caplog, no_packing, tmp_path
):
    load_packed(path, settings=settings)
    (file,) = kept_files(settings)
    data = file.read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(models["1"])
    load_packed(other, settings=settings)
    (of_other,) = set(kept_files(settings)) - {file}
    wrong = {
        "cut": data[: len(data) // 2],
        "header": data[:200] + bytes([data[200] ^ 1]) + data[201:],
        "foreign": models["0"],
        "empty": b"",
        "renamed": of_other.read_bytes(),
    }
    file.unlink()
    file.write_bytes(wrong[how])
    model = load_packed(path, settings=settings)
    np.testing.assert_array_equal(logits(model), fresh(path))
    assert f"{file} is no packed model and is removed" in caplog.text
    assert file.read_bytes() == data
    no_packing()
    assert load_packed(path, settings=settings).is_mapped


def test_verify_finds_a_damaged_section(path, settings, caplog):
    load_packed(path, settings=settings)
    (file,) = kept_files(settings)
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-5000] + bytes([data[-5000] ^ 1]) + data[-4999:])
    model = load_packed(path, settings=CacheSettings(settings.folder, GB, is_verified=True))
    assert "is not what was written" in caplog.text
    np.testing.assert_array_equal(logits(model), fresh(path))
    assert file.read_bytes() == data


def test_another_instruction_set_has_a_file_of_its_own(path, settings):
    load_packed(path, settings=settings)
    here = tk.info()["isa"]
    try:
        tk.select_isa("scalar")
        assert here != "scalar"
        assert load_packed(path, settings=settings).is_mapped
    finally:
        tk.select_isa("auto")
    assert len(kept_files(settings)) == 2


def test_other_code_packs_anew(path, settings, monkeypatch):
    load_packed(path, settings=settings)
    monkeypatch.setattr("ternary_kernels.packed.key.code_sha256", lambda: "0" * 64)
    load_packed(path, settings=settings)
    assert len(kept_files(settings)) == 2


@pytest.fixture
def hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], CacheSettings]]:
    """Makes what hinders keeping a model, by the words of the warning; gives settings that meet it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    locks = []

    def make(reason: str) -> CacheSettings:
        folder, max_bytes = tmp_path / "packed", GB
        match reason:
            case "Not a directory":
                folder.write_text("")
                folder /= "packed"
            case "allows 0.0001":
                max_bytes = 100_000
            case "to spare are needed":
                monkeypatch.setattr(store, "SPARE_BYTES", 1 << 60)
            case "File too large":
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
            case "another process is writing":
                folder.mkdir()
                locks.append((folder / "lock").open("w"))
                fcntl.flock(locks[0], fcntl.LOCK_EX)
        return CacheSettings(folder, max_bytes, is_verified=False)

    yield make
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for lock in locks:
        lock.close()


@pytest.mark.parametrize(
    "reason",
    [
        "Not a directory",
        "allows 0.0001",
        "to spare are needed",
        "File too large",
        "another process is writing",
    ],
)
def test_what_cannot_be_kept_is_one_warning_and_the_model_runs(path, hindrance, reason, caplog):
    expected, settings = fresh(path), hindrance(reason)
    model = load_packed(path, settings=settings)
    assert not model.is_mapped
    np.testing.assert_array_equal(logits(model), expected)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert reason in warning
    assert str(settings.folder) in warning
    assert not [*settings.folder.glob(f"*{SUFFIX}*"), *settings.folder.glob(".*")]


def test_the_oldest_is_removed_unless_somebody_has_it_mapped(path, models, settings, tmp_path, caplog):
    paths = [path, tmp_path / "b.gguf", tmp_path / "c.gguf"]
    for other, name in zip(paths[1:], "12", strict=True):
        other.write_bytes(models[name])
    one = load_packed(path, settings=settings)
    num_bytes = kept_files(settings)[0].stat().st_size
    two_fit = CacheSettings(settings.folder, 2 * num_bytes + 100_000, False)
    load_packed(paths[1], settings=two_fit)
    (second,) = (file for file in kept_files(settings) if not _is_mapped(file))
    held = load_packed(paths[2], settings=two_fit)  # the first is older, but in use
    assert held.is_mapped
    assert not second.exists()
    again = load_packed(paths[1], settings=two_fit)
    assert not again.is_mapped
    assert "the kept models in use have" in caplog.text
    del one
    assert load_packed(paths[1], settings=two_fit).is_mapped


def _is_mapped(file: Path) -> bool:
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from ternary_kernels.packed import cache, layout, load_packed
from ternary_kernels.packed.settings import CacheSettings
from wf_formats import content_records
content_records.GRAIN_S = -60.0  # the model is as young as the test
path, folder, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def stop(write):
    def half(target, facts, sections):
        write(target, facts, sections)
        print("written", flush=True)
        time.sleep(600)
    return half
if mode == "stop":
    import ternary_kernels.packed.store as store
    store.write = stop(layout.write)
print("ready", flush=True)
sys.stdin.readline()
model = load_packed(path, settings=CacheSettings(folder, 10**9, False))
print(int(model.is_mapped), flush=True)
layers = [getattr(x, p) for x in model.weights.layers for p in ("gate", "up", "down")]
matrices = [model.weights.embedding, *layers]
read = sum(float(x.input_norm.sum()) for x in model.weights.layers)
print(sum(int(m.parts()[0].sum()) for m in matrices), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def child(path: Path, settings: CacheSettings) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that loads the model when it gets a line."""
    started: list[subprocess.Popen[str]] = []

    def start(mode: str = "load") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, path, settings.folder, mode]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        with process:
            pass


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")


def test_two_processes_write_at_once_and_share_memory(path, settings, child):
    processes = [child(), child()]
    for process in processes:
        go(process)
    mapped = [told(process) for process in processes]
    assert "1" in mapped
    assert len({told(process) for process in processes}) == 1
    (file,) = kept_files(settings)
    np.testing.assert_array_equal(logits(load_packed(path, settings=settings)), fresh(path))
    assert not list(settings.folder.glob(".*"))
    if "0" in mapped:  # one of them came too late to write and too early to map
        processes[mapped.index("0")] = child()
        go(late := processes[mapped.index("0")])
        assert told(late) == "1"
        told(late)
    for process in processes:
        shared = _pages(Path(f"/proc/{process.pid}/smaps"), file)
        assert 0 < shared["Rss"] <= file.stat().st_size / 1024 + 4
        assert shared["Pss"] < 0.6 * shared["Rss"]  # each pays for half of it
        assert shared["Private_Dirty"] == 0


def _pages(smaps: Path, file: Path) -> dict[str, int]:
    """kB of the mapping of a file."""
    mapping = next(one for one in mappings(smaps.read_text()) if one.path == str(file))
    return {name: size // 1024 for name, size in mapping.sizes.items()}


def test_a_killed_writer_leaves_nothing_that_counts(path, settings, child, caplog):
    process = child("stop")
    go(process)
    assert told(process) == "written"
    assert not load_packed(path, settings=settings).is_mapped
    assert "another process is writing" in caplog.text
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = settings.folder.glob(".*")
    of_other = left.with_name(f".another-{left.name[1:]}")
    shutil.copy(left, of_other)
    os.utime(of_other, (time.time() - 7200,) * 2)
    assert load_packed(path, settings=settings).is_mapped
    assert not left.exists()
    assert not of_other.exists()


def test_the_environment_names_folder_size_and_mode(monkeypatch, tmp_path):
    monkeypatch.setenv("WRINKLEFREE_CACHE", str(tmp_path))
    monkeypatch.delenv("WF_PACKED_CACHE", raising=False)
    assert CacheSettings.from_environment() == CacheSettings(tmp_path / "packed", 20 * GB, False)
    monkeypatch.setenv("WF_PACKED_CACHE_GB", "0.5")
    monkeypatch.setenv("WF_PACKED_CACHE", "verify")
    assert CacheSettings.from_environment() == CacheSettings(tmp_path / "packed", GB // 2, True)
    monkeypatch.setenv("WF_PACKED_CACHE", "0")
    assert CacheSettings.from_environment() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("WF_PACKED_CACHE", "off"), ("WF_PACKED_CACHE_GB", "-1"), ("WF_PACKED_CACHE_GB", "nan")],
)
def test_other_values_of_the_variables_are_refused_by_name(monkeypatch, tmp_path, name, value):
    monkeypatch.setenv("WRINKLEFREE_CACHE", str(tmp_path))
    monkeypatch.setenv("WF_PACKED_CACHE", "1")
    monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match=rf"\${name} is '{value}'"):
        CacheSettings.from_environment()
