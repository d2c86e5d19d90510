"""The AWQ stage: figures, what it writes, resumption to the bit, time, refusals."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from interruptions import kill_after_the_first_block
from safetensors.torch import load_file, save_file

import bitnet_arch
from wrinklefree.checkpoints.part_store import PartStore
from wrinklefree.config.awq import AwqConfig
from wrinklefree.stages.awq_pace import AwqPace
from wrinklefree.stages.calibration import BLOCKS_FILE

STAGE = "awq"
# A random model with a tokenizer of bytes goes into no file of llama.cpp's, and into a folder nevertheless.


@pytest.fixture(scope="module")
def quantized(make_cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = make_cli(tmp_path_factory.mktemp("quantized"), alone=True)(STAGE)
    assert run.code == 0
    return run


def test_figures_and_what_is_written(quantized: Any) -> None:
    summary = quantized.summary
    assert (summary["stage"], summary["status"]) == ("awq", "complete")
    assert list(summary["losses_nats"]) == ["dense", "rounded", "awq"]
    assert all(5 < loss < 6 for loss in summary["losses_nats"].values())  # a random model's
    reports = json.loads((quantized.folder / BLOCKS_FILE).read_text())
    assert [report["block"] for report in reports] == ["model.layers.0", "model.layers.1"]
    assert all(report["stream"] < report["stream_rounded"] for report in reports)
    assert not (quantized.folder / "parts").exists()
    checkpoint = bitnet_arch.load_checkpoint(quantized.folder / "final")
    assert checkpoint.meta["conversion"]["scheme"] == "int4-group32"
    assert {layer.quantizer.name for _, layer in bitnet_arch.bit_linears(checkpoint.model)} == {
        "int4-group32"
    }


def test_a_killed_run_goes_on_to_the_bit(quantized: Any, cli: Any) -> None:
    killed = cli.in_child(STAGE, experiment="default", before=kill_after_the_first_block)
    assert killed.code == -signal.SIGKILL
    resumed = cli(STAGE)
    assert resumed.code == 0
    assert resumed.weights == quantized.weights
    assert resumed.summary["losses_nats"] == quantized.summary["losses_nats"]


def test_a_model_without_a_loss_is_to_blame_and_no_rate(
    cli: Any, dense_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(dense_dir, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][:] = 1e38
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert cli(STAGE, f"model.name={broken}").code == 1
    told = capsys.readouterr().err
    assert "the held-out loss of the model (dense) is nan: its weights make numbers that float32" in told
    assert "learning rate" not in told


def test_stage_1_says_what_its_4_bits_are_for(cli: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "wrinklefree"):
        assert cli("stage1_subln", "model.scheme=int4-group32").code == 0
    assert "4 bits, for training to start from; `wf train -s awq` chooses scales" in caplog.text


def test_blocks_are_searched_on_as_much_text_as_fits(tmp_path: Path) -> None:
    """A block takes 2 s and 1 s for each sequence; there are 60 s for 10 blocks, 5 s of them for the end."""
    now = [0.0]
    run = SimpleNamespace(path=tmp_path, parts=PartStore(tmp_path / "parts"))

    def start() -> AwqPace:
        pace = AwqPace(AwqConfig(minutes=1.0), run, 10, 8, lambda: now[0])  # type: ignore[arg-type]
        pace.prepared(before_s=0.0, end_s=5.0)
        return pace

    pace, searched = start(), []
    for index in range(10):
        if index == 5:  # stopped: what was spent counts, finished blocks only let the streams pass
            pace = start()
            for _ in range(5):
                pace.passed()
        searched.append(pace.search_sequences())
        now[0] += 2 + searched[-1]
        pace.passed()
    assert searched[0] == 1
    assert max(searched) > 2
    assert 45 < now[0] <= 56
    assert AwqPace(AwqConfig(), run, 10, 8).search_sequences() == 8  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.scheme=group64"], "model.scheme=group64 is not one of 4 bits"),
        (["model.scheme=int4-group128"], "rows of 64 inputs do not divide into groups of 128"),
        (["model.sub_norm=true"], "no scale folds into what stands before SubLN"),
        (["training.awq.search_tokens=16"], "training.awq.search_tokens=16 is less than one sequence"),
        (["training.awq.num_clips=0"], "training.awq.num_clips"),
    ],
)
def test_refusals(cli: Any, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(STAGE, *overrides).code == 2
    assert message in capsys.readouterr().err
