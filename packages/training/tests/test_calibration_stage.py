"""Stage 1.5 through the command line: hand-over, figures, resumption, refusals."""

from __future__ import annotations

import csv
import errno
import functools
import itertools
import json
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from interruptions import kill_after_the_first_block, kill_now

import bitnet_arch
import wf_ptq
from wf_ptq.inputs import SHARED_INPUTS
from wrinklefree.audit.log import AUDIT_FILE
from wrinklefree.checkpoints import part_store
from wrinklefree.checkpoints.manifest import manifest_digest, write_manifest
from wrinklefree.checkpoints.part_store import PartStore
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.ternarize import TernarizeConfig
from wrinklefree.stages import calibration
from wrinklefree.stages.calibrate import check_ternarize
from wrinklefree.stages.pace import Pace

STAGE = "stage1_5_calibrate"
GROUP = ["model.scheme=group64", "model.sub_norm=false"]
TENSOR = ["model.scheme=tensor", "model.sub_norm=true"]
STEPS = ["training.max_steps=2", "training.schedule.warmup=1"]
STAGE2 = [*STEPS, "training.schedule.decay=1"]
LINEARS = [name for names in SHARED_INPUTS for name in names if name in bitnet_arch.BLOCK_LINEARS]
BLOCKS = ["model.layers.0", "model.layers.1"]
TINY = {
    "tokens": 512,
    "sequence_length_tokens": 32,
    "moment_tokens": 256,
    "num_sweeps": 1,
    "refine_steps": 3,
    "refine_batch_size": 4,
    "distil_steps": 5,
    "distil_batch_size": 2,
    "logit_tokens": 16,
    "save_every_steps": 2,
    "evaluation_tokens": 64,
    "precision": "float32",
}


def options(**changes: Any) -> list[str]:
    return [f"training.ternarize.{key}={value}" for key, value in (TINY | changes).items()]


class Calibration:
    """Stage 1.5 of one kind of model, from the shared stage 1 of that kind."""

    def __init__(self, cli: Any, start: Path, model: list[str]) -> None:
        self.cli, self.start, self.model = cli, start, model

    def arguments(self, changes: dict[str, Any]) -> list[str]:
        return [*self.model, f"training.start_from={self.start}", *options(**changes)]

    def __call__(self, *overrides: str, **changes: Any) -> Any:
        return self.cli(STAGE, *self.arguments(changes), *overrides)

    def killed(self, before: Callable[[], None], **changes: Any) -> Any:
        run = self.cli.in_child(STAGE, *self.arguments(changes), experiment="default", before=before)
        assert run.code == -signal.SIGKILL
        return run


@pytest.fixture(scope="module")
def group_stage1(make_cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_cli(tmp_path_factory.mktemp("group"), alone=True)("stage1_subln", *GROUP)


@pytest.fixture(scope="module")
def make_calibration(make_cli: Any, group_stage1: Any, stage1_run: Any) -> Callable[..., Calibration]:
    def make(output: Path, model: list[str]) -> Calibration:
        start = group_stage1 if model is GROUP else stage1_run
        return Calibration(make_cli(output, alone=True), start.folder / "final", model)

    return make


@pytest.fixture
def group(make_calibration: Any, tmp_path: Path) -> Calibration:
    found: Calibration = make_calibration(tmp_path, GROUP)
    return found


@pytest.fixture
def tensor(make_calibration: Any, tmp_path: Path) -> Calibration:
    found: Calibration = make_calibration(tmp_path, TENSOR)
    return found


@pytest.fixture(scope="module")
def whole_group(make_calibration: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_calibration(tmp_path_factory.mktemp("whole"), GROUP)()


@pytest.fixture(scope="module")
def whole_tensor(make_calibration: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_calibration(tmp_path_factory.mktemp("whole"), TENSOR)()


@pytest.fixture(params=["whole_group", "whole_tensor"])
def whole(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_it_stands_between_conversion_and_training(cli: Any, dense_dir: Path) -> None:
    """1 -> 1.5 -> 2, and 1 -> 1.5 -> 1.9 -> 2: each stage takes the latest one that is there."""
    chain = [cli("stage1_subln", *GROUP), cli(STAGE, *GROUP, *options(distil_steps=1))]
    calibrated = chain[-1].folder
    direct = cli("stage2_pretrain", *GROUP, *STAGE2)
    assert _parent(direct.folder) == manifest_digest(calibrated / "final")
    chain.append(cli("stage1_9_layerwise", *GROUP, *STEPS))
    chain.append(cli("stage2_pretrain", *GROUP, *STAGE2, "force=true"))
    assert [run.code for run in [direct, *chain]] == [0] * 5
    for previous, run in itertools.pairwise(chain):
        assert _parent(run.folder) == manifest_digest(previous.folder / "final")
    meta = bitnet_arch.read_meta(calibrated / "final")
    assert meta["stage"] == "stage1_5"
    assert meta["source"] == {"source": "path", "name": str(dense_dir)}
    assert meta["fingerprint"] == json.loads((calibrated / "run.json").read_text())["fingerprint"]
    assert (meta["conversion"]["scheme"], meta["conversion"]["sub_norm"]) == ("group64", False)


def _parent(folder: Path) -> str:
    parent: str = json.loads((folder / "run.json").read_text())["values"]["parent"]
    return parent


def block_reports(run: Any) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = json.loads((run.folder / calibration.BLOCKS_FILE).read_text())
    return reports


def _metrics(run: Any) -> list[dict[str, str]]:
    with (run.folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_figures(whole: Any) -> None:
    assert whole.code == 0
    summary = whole.summary
    assert (summary["stage"], summary["status"], summary["steps"]) == ("stage1_5", "complete", 5)
    losses = summary["losses_nats"]
    assert list(losses) == ["dense", "rounded", "blocks", "calibrated"]
    assert all(math.isfinite(loss) for loss in losses.values())
    assert (summary["first_loss"], summary["last_loss"]) == (losses["rounded"], losses["calibrated"])
    assert summary["tokens"] == 512 + 5 * 2 * 32
    assert summary["precision"] == "float32"
    reports = block_reports(whole)
    assert [report["block"] for report in reports] == BLOCKS
    for report in reports:
        assert list(report["naive"]) == list(report["solved"]) == LINEARS
        assert all(report["solved"][name] < 0.5 * report["naive"][name] for name in LINEARS)
        assert 0 < report["stream"] < 0.2
        assert 0 < report["stream_solved"] < 0.2
    figures = json.loads((whole.folder / "final" / "figures.json").read_text())
    assert figures["losses_nats"] == losses
    assert not (whole.folder / "parts").exists()
    rows = _metrics(whole)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]
    assert all(0 < float(row["train/divergence"]) < 20 for row in rows)


@torch.no_grad()
def test_hidden_states_come_closer_to_the_dense_model(
    whole: Any, group_stage1: Any, stage1_run: Any, dense_dir: Path
) -> None:
    meta = bitnet_arch.read_meta(whole.folder / "final")
    rounded = stage1_run if meta["conversion"]["sub_norm"] else group_stage1
    folders = (dense_dir, rounded.folder / "final", whole.folder / "final")
    dense, before, after = (_last_hidden(bitnet_arch.load_checkpoint(folder)) for folder in folders)
    assert (after - dense).square().sum() < 0.6 * (before - dense).square().sum()


def _last_hidden(checkpoint: Any) -> torch.Tensor:
    ids = checkpoint.tokenizer("Document 7: another text, of other words", return_tensors="pt").input_ids
    hidden: torch.Tensor = checkpoint.model.model(input_ids=ids).last_hidden_state
    return hidden


@torch.no_grad()
def test_the_result_loads(whole: Any) -> None:
    final = whole.folder / "final"
    own = bitnet_arch.load_checkpoint(final)
    stock = transformers.AutoModelForCausalLM.from_pretrained(final)
    ids = own.tokenizer("Document 3: 3 squared", return_tensors="pt").input_ids
    expected, found = (model(input_ids=ids).logits for model in (own.model, stock))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("kind", "distil_steps"),
    [
        ("tensor", 0),
        ("group", 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("tensor", 2), ("group", 0))),
    ],
)
def test_the_master_weights_quantize_to_the_parts_choice(
    kind: str, distil_steps: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The distillation moves scales, gains and embeddings, never codes."""
    monkeypatch.setattr(PartStore, "remove", lambda self: None)
    run = request.getfixturevalue(kind)(distil_steps=distil_steps)
    model = bitnet_arch.load_checkpoint(run.folder / "final").model
    moved = 0
    for block in BLOCKS:
        tensors, _ = PartStore(run.folder / "parts").load(block)
        for name in LINEARS:
            layer = model.get_submodule(f"{block}.{name}")
            found = layer.quantizer.quantize(layer.weight)
            expected = layer.quantizer.quantize(tensors[f"{name}.weight"])
            assert torch.equal(found.codes, expected.codes)
            moved += int((found.scales != expected.scales).sum())
    assert (moved > 0) == (distil_steps > 0)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_weights_at_rest_are_memory_mapped(group_stage1: Any, tmp_path: Path) -> None:
    """What the stage loads takes no memory that the system could not take back."""
    final = group_stage1.folder / "final"
    block = bitnet_arch.load_checkpoint(final).model.get_submodule(BLOCKS[0])
    weight = block.get_submodule(LINEARS[0]).weight
    assert _mapped_file(weight) == final / "model.safetensors"
    parts = PartStore(tmp_path / "parts")
    parts.save("part", block.state_dict(), {"figure": 1})
    assert wf_ptq.take_block(parts, "part", block) == {"figure": 1}
    again = block.get_submodule(LINEARS[0]).weight
    assert _mapped_file(again) == tmp_path / "parts" / "part" / "tensors.safetensors"
    assert torch.equal(again, weight)


def _mapped_file(tensor: torch.Tensor) -> Path | None:
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, _, _, _, *name = line.split(maxsplit=5)
        first, last = (int(address, 16) for address in addresses.split("-"))
        if first <= tensor.data_ptr() < last:
            return Path(name[0]) if name and name[0].startswith("/") else None
    return None


@pytest.mark.parametrize(
    ("changes", "steps"),
    [({"distil_steps": 0}, 0), ({"refine_steps": 0, "num_sweeps": 0, "evaluation_tokens": 0}, 5)],
    ids=["no distillation", "closed form only"],
)
def test_what_can_be_left_out(group: Calibration, changes: dict[str, int], steps: int) -> None:
    run = group(**changes)
    assert run.code == 0
    assert run.summary["steps"] == steps
    losses = run.summary["losses_nats"]
    if "evaluation_tokens" in changes:
        assert set(losses.values()) == {None}
        assert all(report["stream"] == report["stream_solved"] for report in block_reports(run))
    else:
        assert losses["blocks"] == losses["calibrated"]


def kill_after_the_first_block_in_bf16() -> None:
    bitnet_arch.fastest_precision = lambda has_integer_products: "bf16"
    kill_after_the_first_block()


def kill_while_the_second_block_is_saved() -> None:
    original = part_store.write_manifest

    def patched(folder: Path) -> None:
        if BLOCKS[1] in folder.name:
            kill_now()
        original(folder)

    part_store.write_manifest = patched


def kill_in_the_distillation() -> None:
    """After step 3; the state of step 2 is saved."""
    original = wf_ptq.Distiller.step

    def patched(self: Any, ids: torch.Tensor) -> float:
        divergence = original(self, ids)
        if self.num_steps_done == 3:
            kill_now()
        return divergence

    wf_ptq.Distiller.step = patched  # type: ignore[method-assign]


def kill_before_the_result_is_saved() -> None:
    calibration.save_model_folder = kill_now


@pytest.fixture
def calibrated_blocks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The seeds of the blocks that this process calibrates: their numbers."""
    original, seeds = wf_ptq.TernaryMethod.quantize_block, []

    def patched(*args: Any) -> Any:
        seeds.append(args[-1])
        return original(*args)

    monkeypatch.setattr(wf_ptq.TernaryMethod, "quantize_block", patched)
    return seeds


@pytest.mark.parametrize(
    ("interruption", "blocks_left", "distilled_step"),
    [
        pytest.param(kill_after_the_first_block, [1], None, marks=pytest.mark.slow),
        pytest.param(kill_while_the_second_block_is_saved, [1], None, marks=pytest.mark.slow),
        (kill_in_the_distillation, [], 2),
        (kill_before_the_result_is_saved, [], 4),
    ],
)
def test_resumed_run_is_bit_equal(
    group: Calibration,
    whole_group: Any,
    calibrated_blocks: list[int],
    interruption: Callable[[], None],
    blocks_left: list[int],
    distilled_step: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    group.killed(interruption)
    with caplog.at_level("INFO", "wrinklefree"):
        resumed = group()
    assert resumed.code == 0
    assert calibrated_blocks == blocks_left
    assert ("resuming the distillation" in caplog.text) == (distilled_step is not None)
    assert distilled_step is None or f"after step {distilled_step}" in caplog.text
    assert resumed.weights == whole_group.weights
    figures = ("losses_nats", "tokens", "steps")
    assert [resumed.summary[f] for f in figures] == [whole_group.summary[f] for f in figures]
    assert block_reports(resumed) == block_reports(whole_group)
    assert _metrics(resumed) == _metrics(whole_group)
    kept = {"run.json", "final", "summary.json", "metrics.csv", AUDIT_FILE, calibration.BLOCKS_FILE}
    assert {path.name for path in resumed.folder.iterdir()} == kept


def _rates_explode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wf_ptq.optimizer._size", lambda _parameter: 1e30)


def _disk_is_full_at(part: str) -> Callable[[pytest.MonkeyPatch], None]:
    original = PartStore.save

    def save(self: PartStore, name: str, *contents: Any) -> None:
        if name == part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / name))
        original(self, name, *contents)

    return lambda monkeypatch: monkeypatch.setattr(PartStore, "save", save)


def _ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wf_ptq.Distiller, "step", step)


@pytest.mark.parametrize(
    ("fail", "code", "message"),
    [
        (_rates_explode, 1, r"^error: distillation step 2: .*: lower training.ternarize.scale_rate"),
        (_disk_is_full_at("distilled"), 1, r"^error: .*No space left on device.*; free some space"),
        (_disk_is_full_at("distilled.model.layers.1"), 1, r"^error: .*No space left on device.*; free some"),
        (_ctrl_c, 130, "the same command goes on"),
    ],
    ids=["rates", "full disk", "full disk at the end", "Ctrl-C"],
)
def test_what_goes_wrong_in_the_distillation_is_told_as_it_is(
    group: Calibration,
    whole_group: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fail: Callable[[pytest.MonkeyPatch], None],
    code: int,
    message: str,
) -> None:
    """The layers are replaced meanwhile, and an error leaves them so; the same command goes on afterwards."""
    with monkeypatch.context() as broken:
        fail(broken)
        run = group(refine_steps=0) if fail is _rates_explode else group()
    assert run.code == code
    printed = capsys.readouterr().err
    assert re.search(message, printed, re.MULTILINE), printed
    assert "Traceback" not in printed
    assert not (run.folder / "final").exists()
    if fail is not _rates_explode:
        assert group().weights == whole_group.weights


def test_a_result_that_is_worse_than_rounding_is_told(
    group: Calibration, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wf_ptq.optimizer._size", lambda _parameter: 1e6)
    run = group(refine_steps=0)
    losses = run.summary["losses_nats"]
    assert losses["calibrated"] > losses["rounded"]
    told = f"worse than the rounded one ({losses['calibrated']:.3f} and {losses['rounded']:.3f} nats a token)"
    assert told in caplog.text


def _codes_and_scales(folder: Path) -> dict[str, Any]:
    model = bitnet_arch.load_checkpoint(folder).model
    return {name: layer.quantizer.quantize(layer.weight) for name, layer in bitnet_arch.bit_linears(model)}


def test_a_result_is_distilled_further_with_its_codes(group: Calibration, whole_group: Any) -> None:
    start = whole_group.folder / "final"
    changes = {"keep_codes": "true"}
    group.start, group.model = start, [*GROUP, "seed=1"]
    run = group.killed(kill_in_the_distillation, **changes)
    assert group(**changes).code == 0
    whole = group.cli(STAGE, *group.arguments(changes), experiment="whole")
    assert run.weights == whole.weights
    before, after = _codes_and_scales(start), _codes_and_scales(run.folder / "final")
    assert all(torch.equal(before[name].codes, after[name].codes) for name in before)
    assert not any(torch.equal(before[name].scales, after[name].scales) for name in before)
    assert run.summary["losses_nats"].keys() == {"dense", "kept", "calibrated"}
    assert run.summary["first_loss"] == run.summary["losses_nats"]["kept"]
    assert run.summary["tokens"] == TINY["distil_steps"] * TINY["distil_batch_size"] * 32
    assert not (run.folder / calibration.BLOCKS_FILE).exists()


def test_further_steps_are_planned_too(group: Calibration, whole_group: Any) -> None:
    further = [f"training.start_from={whole_group.folder / 'final'}", "training.ternarize.keep_codes=true"]
    run = group(*further, minutes=0.05, distil_steps=20)
    assert run.code == 0
    assert 10 <= run.summary["steps"] <= 20


def test_rounded_codes_are_not_kept(group: Calibration, capsys: pytest.CaptureFixture[str]) -> None:
    assert group(keep_codes="true").code == 1
    assert (
        "whose codes are plain rounding: leave training.ternarize.keep_codes out" in capsys.readouterr().err
    )


def test_what_is_distilled_further_is_named(cli: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(STAGE, *GROUP, *options(keep_codes="true"), "force=true").code == 2
    assert "name it with training.start_from=FOLDER" in capsys.readouterr().err


def test_codes_are_not_chosen_from_what_is_left(
    group: Calibration, whole_group: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    start = whole_group.folder / "final"
    assert group(f"training.start_from={start}").code == 1
    message = f"error: {start} is a result of stage1_5, whose full-precision weights are gone"
    assert message in capsys.readouterr().err


def test_resumed_twice_with_one_scale_per_matrix(
    tensor: Calibration, whole_tensor: Any, calibrated_blocks: list[int]
) -> None:
    tensor.killed(kill_after_the_first_block)
    tensor.killed(kill_in_the_distillation)
    assert tensor().weights == whole_tensor.weights
    assert not calibrated_blocks


def test_a_resumed_run_keeps_the_measured_precision(
    group: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.killed(kill_after_the_first_block_in_bf16, precision="auto")
    monkeypatch.setattr(bitnet_arch, "fastest_precision", lambda has_integer_products: "float32")
    assert group(precision="auto").summary["precision"] == "bf16"


@pytest.fixture
def planned(make_calibration: Any, tmp_path: Path) -> Callable[[str], Calibration]:
    """Planned calibrations, each with the same decisions of an earlier process."""

    def make(name: str) -> Calibration:
        calibration: Calibration = make_calibration(tmp_path / name, GROUP)
        decisions = {"block.0": 2, "block.1": 1, "distil.0": 5, "distil.2": 4, "distil.3": 4, "distil.4": 4}
        parts = PartStore(calibration.cli.folder(STAGE) / "parts")
        parts.save("plan", {}, {"decisions": decisions, "spent_s": 1000.0})
        return calibration

    return make


def test_a_resumed_run_keeps_its_plan_to_the_bit(planned: Callable[[str], Calibration]) -> None:
    whole = planned("whole")(minutes=30)
    assert [report["refine_steps"] for report in block_reports(whole)] == [2, 1]
    assert whole.summary["steps"] == len(_metrics(whole)) == 4
    assert whole.summary["tokens"] == 512 + 4 * 2 * 32
    assert whole.summary["seconds"] > 1000
    stopped = planned("stopped")
    stopped.killed(kill_in_the_distillation, minutes=30)
    resumed = stopped(minutes=30)
    assert resumed.weights == whole.weights
    assert block_reports(resumed) == block_reports(whole)
    assert _metrics(resumed) == _metrics(whole)
    assert not list(resumed.folder.glob("progress*"))


def test_a_time_that_is_too_short_is_said(
    group: Calibration, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a machine that is a hundred times slower: being late by up to a second is not worth a word."""
    slow = functools.partial(Pace, clock=lambda: 100 * time.monotonic())
    monkeypatch.setattr(calibration, "Pace", slow)
    with caplog.at_level("WARNING", "wrinklefree"):
        run = group(minutes=0.001)
    assert run.code == 0
    assert run.summary["steps"] == 5
    assert "the least steps do not fit into training.ternarize.minutes=0.001" in caplog.text


def test_a_plan_takes_what_text_there_is(group: Calibration, tmp_path: Path) -> None:
    """A source that does not repeat has text for 20 of the 2000 steps that the time would allow."""
    path = tmp_path / "text.txt"
    path.write_text("Only a few words. " * 103)
    source = f"data.sources=[{{kind: path, name: text, location: {path}, repeat: false}}]"
    run = group(source, minutes=30, distil_steps=2000, evaluation_tokens=0)
    assert run.code == 0
    assert run.summary["steps"] == len(_metrics(run)) == 20


@pytest.fixture(scope="module")
def stopped(make_calibration: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a group calibration killed after its first block."""
    calibration = make_calibration(tmp_path_factory.mktemp("stopped"), GROUP)
    folder: Path = calibration.killed(kill_after_the_first_block).folder
    return folder


@pytest.fixture
def stopped_group(group: Calibration, stopped: Path) -> Calibration:
    shutil.copytree(stopped, group.cli.folder(STAGE))
    return group


def test_parts_of_another_configuration_are_refused_or_moved_aside(
    stopped_group: Calibration, whole_group: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = stopped_group.cli.folder(STAGE) / "parts"
    before = manifest_digest(parts / BLOCKS[0])
    assert stopped_group(refine_steps=2, damping=0.01).code == 1
    message = capsys.readouterr().err
    assert "training.ternarize.refine_steps: 3 there, 2 now" in message
    assert "training.ternarize.damping: 0.003 there, 0.01 now" in message
    assert "force=true" in message
    assert manifest_digest(parts / BLOCKS[0]) == before
    forced = stopped_group("force=true")
    assert forced.weights == whole_group.weights
    (aside,) = forced.folder.parent.glob("stage1_5.replaced-*")
    assert manifest_digest(aside / "parts" / BLOCKS[0]) == before


@pytest.mark.parametrize("cut", [True, False], ids=["cut short", "changed"])
def test_a_damaged_part_is_refused(
    stopped_group: Calibration, cut: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    part = stopped_group.cli.folder(STAGE) / "parts" / BLOCKS[0]
    tensors = part / "tensors.safetensors"
    data = tensors.read_bytes()
    tensors.write_bytes(data[:-4] if cut else data[:-1] + bytes([data[-1] ^ 1]))
    run = stopped_group()
    assert run.code == 1
    message = capsys.readouterr().err
    assert f"{part} is damaged: " in message
    assert "force=true runs the stage again" in message
    assert "tensors.safetensors" in message
    assert not (run.folder / "final").exists()


def _assert_nothing_was_made(folder: Path) -> None:
    """run.json and the log say that a run was started; there is neither a part nor a result."""
    assert {path.name for path in folder.iterdir()} == {"run.json", AUDIT_FILE}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Only a few words. " * 20, "tokens, 28 are wanted: add text, set repeat, or ask for less"),
        ("", "source 'bad' is empty"),
        (None, "bad.txt does not exist"),
    ],
    ids=["short", "empty", "missing"],
)
def test_too_little_text_is_an_error(
    group: Calibration,
    tmp_path: Path,
    text: str | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "bad.txt"
    if text is not None:
        path.write_text(text)
    run = group(
        f"data.sources=[{{kind: path, name: bad, location: {path}, repeat: false}}]", precision="auto"
    )
    assert run.code == (2 if text is None else 1)
    assert message in capsys.readouterr().err
    _assert_nothing_was_made(run.folder)
    if text is None:
        assert group().code == 0, "a mended configuration may take the folder"


def test_more_text_than_memory_holds_is_an_error(
    group: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    run = group(tokens=10**13)
    assert run.code == 1
    assert "GB of ids on a machine with" in capsys.readouterr().err
    _assert_nothing_was_made(run.folder)


def test_sequences_beyond_the_context_are_an_error(
    group: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    run = group(sequence_length_tokens=512, refine_batch_size=1, moment_tokens=512)
    assert run.code == 2
    message = "training.ternarize.sequence_length_tokens=512, but the model's context is 256 tokens"
    assert message in capsys.readouterr().err
    _assert_nothing_was_made(run.folder)


def test_what_cannot_be_solved_names_its_keys(group: Calibration, capsys: pytest.CaptureFixture[str]) -> None:
    assert group(damping=1e-10, shrinkage=0).code == 1
    message = r"error: model\.layers\.0: .*: raise the damping \(keys of training\.ternarize\)"
    assert re.search(message, capsys.readouterr().err)


def test_a_refinement_that_makes_it_worse_is_told(
    group: Calibration, caplog: pytest.LogCaptureFixture
) -> None:
    assert group(latent_rate=1, vector_rate=1, refine_steps=100, distil_steps=0).code == 0
    assert "model.layers.0: refinement has made it worse; lower training.ternarize.latent_rate" in caplog.text


def test_a_tokenizer_of_another_model_is_an_error(
    group: Calibration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start"
    shutil.copytree(group.start, start)
    path = start / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {t: i if i < 3 else i + 1000 for t, i in vocabulary.items()}
    path.write_text(json.dumps(tokenizer))
    write_manifest(start)
    run = group(f"training.start_from={start}")
    assert run.code == 1
    message = capsys.readouterr().err
    assert f"{len(vocabulary)}" in message
    assert "tokenizer belongs to another model" in message
    _assert_nothing_was_made(run.folder)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("tokens", 511, "at least 512"),
        ("sequence_length_tokens", 1, "at least 2"),
        ("moment_tokens", 511, "at least 512"),
        ("refine_batch_size", 0, "at least 1"),
        ("distil_batch_size", 0, "at least 1"),
        ("logit_tokens", 0, "at least 1"),
        ("save_every_steps", 0, "at least 1"),
        ("refine_steps", -1, "at least 0"),
        ("distil_steps", -1, "at least 0"),
        ("num_sweeps", -1, "at least 0"),
        ("evaluation_tokens", -1, "at least 0"),
        ("damping", 0.0, "above 0"),
        ("damping", float("inf"), "finite"),
        ("damping", 1e39, "at most 1000"),
        ("latent_rate", float("nan"), "finite"),
        ("latent_rate", 1e300, "at most 1"),
        ("scale_rate", -1.0, "above 0"),
        ("scale_rate", 1.5, "at most 1"),
        ("vector_rate", 0.0, "above 0"),
        ("vector_rate", 1e10, "at most 1"),
        ("embedding_rate", 1e300, "at most 1"),
        ("distil_steps", 2**63 - 1, "at most"),
        ("distil_batch_size", 2**63 - 1, "at most"),
        ("minutes", 0.0, "above 0"),
        ("distil_share", 1.5, "at most 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_key(key: str, value: float, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"training\.ternarize\.{key}={re.escape(str(value))} .*{why}"):
        check_ternarize(TernarizeConfig(**{key: value}))


def test_a_refinement_step_must_find_its_sequences() -> None:
    with pytest.raises(
        ConfigError, match=r"training\.ternarize\.tokens=2047 .*at least 2048 .*refine_batch_size"
    ):
        check_ternarize(TernarizeConfig(tokens=2047, sequence_length_tokens=512, refine_batch_size=4))


def test_a_share_of_no_time() -> None:
    with pytest.raises(ConfigError, match=r"ternarize\.distil_share=0\.5 .* no training\.ternarize\.minutes"):
        check_ternarize(TernarizeConfig(distil_share=0.5))
    with pytest.raises(ConfigError, match=r"distil_share=0\.5 .* training\.ternarize\.distil_steps=0"):
        check_ternarize(TernarizeConfig(distil_share=0.5, distil_steps=0, minutes=9))


def test_nothing_to_do() -> None:
    with pytest.raises(ConfigError, match=r"keep_codes=true .*distil_steps=0 .* nothing to do"):
        check_ternarize(TernarizeConfig(keep_codes=True, distil_steps=0))
    check_ternarize(TernarizeConfig(keep_codes=True, refine_batch_size=1000))  # which it does not use


def test_a_wrong_value_ends_the_command_with_2(
    group: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    run = group(tokens=511)
    assert run.code == 2
    assert "configuration error: training.ternarize.tokens=511" in capsys.readouterr().err
    assert not run.folder.exists()


def test_it_starts_from_stage1_only(cli: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(STAGE, *GROUP, *options()).code == 1
    message = capsys.readouterr().err
    assert "starts from the result of stage1, and there is none" in message
    assert "wf train -s 1 -e default" in message
