"""Two processes on the CPU that share weights and moments: what they write, read, and how they fail."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import bitnet_arch
from wrinklefree.checkpoints.files import part_name, stored_parts
from wrinklefree.checkpoints.manifest import DamagedCheckpointError
from wrinklefree.checkpoints.shares import owners, rows_of

OPTIONS = [
    "training.max_steps=4",
    "training.schedule.decay=1",
    "training.checkpoint.every_steps=2",
    "training.batch_size=1",
    "training.zclip.warmup_steps=2",
]
FSDP = [*OPTIONS, "distributed=fsdp"]


@given(st.integers(0, 40), st.integers(1, 9))
def test_rows_are_those_of_torch_chunk(num_rows: int, num_ranks: int) -> None:
    parts = [rows_of(num_rows, number, num_ranks) for number in range(num_ranks)]
    chunks = torch.arange(num_rows).chunk(num_ranks)
    for part, chunk in zip(parts, chunks, strict=False):
        assert list(range(num_rows))[part] == chunk.tolist()
    assert sum(len(range(num_rows)[part]) for part in parts) == num_rows


@given(st.lists(st.integers(1, 1000), min_size=1), st.integers(1, 9))
def test_owners_have_equal_shares(sizes: list[int], num_ranks: int) -> None:
    named = {str(place): size for place, size in enumerate(sizes)}
    found = owners(named, num_ranks)
    assert found.keys() == named.keys()
    loads = [sum(named[name] for name in named if found[name] == number) for number in range(num_ranks)]
    assert max(loads) - min(loads) <= max(sizes)


@pytest.fixture(scope="module")
def undisturbed(make_cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two ranks, four steps, a checkpoint after two and one at the end."""
    run = make_cli(tmp_path_factory.mktemp("sharded")).in_ranks("stage2_pretrain", *FSDP, experiment="whole")
    assert run.code == 0
    return run


def _copy(run: Any, target: Path) -> None:
    """The run as it was after two steps."""
    shutil.copytree(run.folder, target)
    shutil.rmtree(target / "final")
    shutil.rmtree(target / "checkpoints" / "step_00000004")


def _tensors(folder: Path, stem: str) -> dict[str, torch.Tensor]:
    return {n: t for path in sorted(folder.glob(f"{stem}*.safetensors")) for n, t in load_file(path).items()}


def test_every_rank_writes_a_share_of_an_ordinary_folder(undisturbed: Any) -> None:
    saved = undisturbed.folder / "checkpoints" / "step_00000004"
    for stem, folder in (("model", saved), ("optimizer", saved), ("model", undisturbed.folder / "final")):
        names = [f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
        assert [path.name for path in sorted(folder.glob(f"{stem}*.safetensors"))] == names
        sizes = [(folder / name).stat().st_size for name in names]
        assert max(sizes) < 0.6 * sum(sizes), stem
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == _tensors(saved, "model").keys()
    listed = json.loads((saved / "manifest.json").read_text())["files"]
    assert listed.keys() == {path.name for path in saved.iterdir()} - {"manifest.json"}
    loaded = [bitnet_arch.load_checkpoint(folder) for folder in (saved, undisturbed.folder / "final")]
    for before, after in zip(*(each.model.parameters() for each in loaded), strict=True):
        assert torch.equal(before, after)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
def test_two_ranks_go_on(cli_from_stage1: Any, undisturbed: Any, kind: str) -> None:
    _copy(undisturbed, cli_from_stage1.folder("stage2_pretrain", "on"))
    options = [*OPTIONS, f"distributed={kind}"]
    resumed = cli_from_stage1.in_ranks("stage2_pretrain", *options, experiment="on")
    assert resumed.code == 0
    assert "resuming from" in cli_from_stage1.log("on").read_text()
    if kind == "fsdp":
        assert resumed.losses == undisturbed.losses
        assert resumed.weights == undisturbed.weights
    for step, loss in undisturbed.losses.items():
        assert math.isclose(float(loss), float(resumed.losses[step]), rel_tol=1e-4)


def on_a_node_of_its_own() -> None:
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": os.environ["RANK"]}


@pytest.mark.slow
def test_ranks_of_nodes_with_disks_of_their_own_leave_writing_to_the_first_node(
    cli_from_stage1: Any, undisturbed: Any
) -> None:
    nodes = ["distributed.devices=1", "distributed.num_nodes=2", "distributed.shared_output=false"]
    run = cli_from_stage1.in_ranks(
        "stage2_pretrain", *FSDP, *nodes, experiment="nodes", before=on_a_node_of_its_own
    )
    assert run.code == 0
    saved = run.folder / "checkpoints" / "step_00000004"
    for stem in ("model", "optimizer"):
        assert [path.name for path in saved.glob(f"{stem}*.safetensors")] == [f"{stem}.safetensors"]
    alone, shared = (_tensors(each.folder / "final", "model") for each in (run, undisturbed))
    assert alone.keys() == shared.keys()
    assert all(torch.equal(alone[name], shared[name]) for name in alone)


def full_disk_of_the_second() -> None:
    """After the first checkpoint, when a part of a file was written."""
    from safetensors import SafetensorError

    from wrinklefree.checkpoints import sharded_io

    original, calls = sharded_io.save_file, []

    def fails(tensors: Any, path: Path, *args: Any, **options: Any) -> None:
        calls.append(path)
        if len(calls) <= 2:
            return original(tensors, path, *args, **options)
        Path(path).write_bytes(b"part")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    if os.environ["RANK"] == "1":
        sharded_io.save_file = fails


def kill_the_second_while_it_writes() -> None:
    """With half of a file of the second checkpoint on the disk."""
    from wrinklefree.checkpoints import sharded_io

    original, calls = sharded_io.save_file, []

    def killed(tensors: Any, path: Path, *args: Any, **options: Any) -> None:
        calls.append(path)
        original(tensors, path, *args, **options)
        if len(calls) > 3:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    if os.environ["RANK"] == "1":
        sharded_io.save_file = killed


BACKGROUND = "training.checkpoint.in_background=true"


@pytest.mark.parametrize(
    ("harm", "options"),
    [
        (full_disk_of_the_second, []),
        pytest.param(full_disk_of_the_second, [BACKGROUND], marks=pytest.mark.slow),
        pytest.param(kill_the_second_while_it_writes, [], marks=pytest.mark.slow),
        pytest.param(kill_the_second_while_it_writes, [BACKGROUND], marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_cannot_write_leaves_no_checkpoint(
    cli_from_stage1: Any, undisturbed: Any, harm: Any, options: list[str]
) -> None:
    run = cli_from_stage1.in_ranks("stage2_pretrain", *FSDP, *options, experiment="harmed", before=harm)
    log = cli_from_stage1.log("harmed").read_text()
    checkpoints = run.folder / "checkpoints"
    assert [path.name for path in checkpoints.glob("step_*")] == ["step_00000002"]
    assert not (run.folder / "final").exists()
    if harm is full_disk_of_the_second:
        assert run.code == 1
        assert "Traceback" not in log
        errors = {line for line in log.splitlines() if line.startswith("error: ")}
        (line,) = errors
        assert line.startswith(f"error: process 1 of 2: {checkpoints / 'step_00000004'}")
        assert "No space left on device; free some space, or write to another disk (" in line
        assert not list(checkpoints.glob(".*"))
    resumed = cli_from_stage1.in_ranks("stage2_pretrain", *FSDP, experiment="harmed")
    assert resumed.code == 0
    assert resumed.losses == undisturbed.losses
    assert resumed.weights == undisturbed.weights
    assert not list(checkpoints.glob(".*"))


def slow_writing() -> None:
    """Of the first checkpoint, beyond the next step, which notes whether it is there then."""
    from wrinklefree.callbacks import StepLog
    from wrinklefree.checkpoints import sharded_io

    original, logged, stepped = sharded_io.save_file, StepLog.on_step_end, threading.Event()

    def waits(tensors: Any, path: Path, *args: Any, **options: Any) -> None:
        assert stepped.wait(60)
        original(tensors, path, *args, **options)

    def notes(self: Any, trainer: Any, module: Any, done: int) -> None:
        logged(self, trainer, module, done)
        if done == 3:
            folder = Path(trainer.default_root_dir) / "checkpoints"
            assert not list(folder.glob("step_*"))
            stepped.set()

    sharded_io.save_file = waits
    StepLog.on_step_end = notes  # type: ignore[method-assign]


def _contents(folder: Path) -> dict[str, bytes]:
    """Bytes of a checkpoint's files, but those that say how long it took."""
    timed = ("trainer.json", "manifest.json")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in timed}


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written(cli_from_stage1: Any, undisturbed: Any) -> None:
    run = cli_from_stage1.in_ranks(
        "stage2_pretrain", *FSDP, BACKGROUND, experiment="behind", before=slow_writing
    )
    assert run.code == 0
    assert run.losses == undisturbed.losses
    assert run.weights == undisturbed.weights
    for step in ("step_00000002", "step_00000004"):
        found, expected = (_contents(each.folder / "checkpoints" / step) for each in (run, undisturbed))
        assert found == expected, step


def test_background_is_for_shards(cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_from_stage1("stage2_pretrain", BACKGROUND).code == 2
    assert (
        "in_background=true with distributed=single: the shards of distributed=fsdp"
        in capsys.readouterr().err
    )


def test_moments_of_blocks_are_not_sharded(cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_from_stage1("stage2_pretrain", *FSDP, "optimizer=adamw_8bit").code == 2
    assert "optimizer=adamw_8bit has blocks of whole weights, and distributed=fsdp" in capsys.readouterr().err


def test_a_missing_part_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedCheckpointError, match=r"optimizer\.safetensors is missing"):
        stored_parts(tmp_path, "optimizer")
    for number in (1, 2):
        (tmp_path / part_name("optimizer", number, 2)).touch()
    assert len(stored_parts(tmp_path, "optimizer")) == 2
    (tmp_path / part_name("optimizer", 1, 2)).unlink()
    with pytest.raises(DamagedCheckpointError, match=r"optimizer-00001-of-00002\.safetensors is missing"):
        stored_parts(tmp_path, "optimizer")


def test_one_process_goes_on_from_two(
    cli_from_stage1: Any, undisturbed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the same sequences in each step; a step of other sequences is refused."""
    _copy(undisturbed, cli_from_stage1.folder("stage2_pretrain", "on"))
    assert cli_from_stage1("stage2_pretrain", *OPTIONS, experiment="on").code == 1
    assert "training.accumulate_steps x processes: 2 there, 1 now" in capsys.readouterr().err
    alone = [*OPTIONS, "training.accumulate_steps=2"]
    resumed = cli_from_stage1("stage2_pretrain", *alone, experiment="on")
    assert resumed.code == 0
    assert len(resumed.losses) == 4
    for step, loss in undisturbed.losses.items():
        assert math.isclose(float(loss), float(resumed.losses[step]), rel_tol=1e-4), step


@pytest.mark.slow
def test_two_processes_go_on_from_one(cli_from_stage1: Any, undisturbed: Any) -> None:
    """That began in two shares, so its steps were those of two."""
    shares = "data.num_shares=2"
    alone = [*OPTIONS, shares, "training.accumulate_steps=2"]
    whole = cli_from_stage1("stage2_pretrain", *alone, experiment="on")
    assert whole.code == 0
    for step, loss in undisturbed.losses.items():
        assert math.isclose(float(loss), float(whole.losses[step]), rel_tol=1e-4), step
    shutil.rmtree(whole.folder / "final")
    shutil.rmtree(whole.folder / "checkpoints" / "step_00000004")
    losses = whole.losses
    resumed = cli_from_stage1.in_ranks("stage2_pretrain", *FSDP, experiment="on")
    assert resumed.code == 0
    assert "resuming from" in cli_from_stage1.log("on").read_text()
    for step, loss in losses.items():
        assert math.isclose(float(loss), float(resumed.losses[step]), rel_tol=1e-4), step


@pytest.mark.slow
def test_no_rank_holds_the_model() -> None:
    """Measured by the benchmark, of four ranks; gathering shows that it measures."""
    script = Path(__file__).parents[1] / "benchmarks" / "sharded_checkpoint.py"
    command = [sys.executable, str(script), "--ranks=4", "--hidden=256", "--layers=4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    most = {name: arm["most_memory_of_model"] for name, arm in json.loads(done.stdout)["arms"].items()}
    assert most["gather"] > 0.9
    assert most["save"] < 0.7
    assert most["background"] < 0.7
    assert most["load"] < 0.5
