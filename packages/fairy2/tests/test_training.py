"""Runs of the trainer with this scheme, by the package's own entry point."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compose_once import composing_once
from tiny_models import save_small_llama

import bitnet_arch
from fairy2 import train
from fairy2.config import FAIRY2
from wrinklefree.callbacks import StepLog
from wrinklefree.compose.composing import compose_config

CALIBRATION = (
    "tokens=512",
    "moment_tokens=512",
    "sequence_length_tokens=32",
    "refine_steps=4",
    "distil_steps=2",
)
STEPS = ("sequence_length_tokens=32", "batch_size=2", "max_steps=5", "learning_rate=1e-3")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, Path]]:
    """start(stage number, folder name, *overrides): exit code and folder of a run of the experiment "a"."""
    output = tmp_path_factory.mktemp("runs")
    save_small_llama(str(output / "dense"))
    lines = [json.dumps({"text": f"Document {i}: {i} squared is {i * i}. " * 3}) for i in range(150)]
    (output / "text.jsonl").write_text("\n".join(lines))
    common = [
        "model.source=path",
        f"model.name={output / 'dense'}",
        f"data.sources=[{{kind: path, name: text, location: {output / 'text.jsonl'}}}]",
        f"output_dir={output}",
        "num_threads=1",
        "logging.progress_bar=none",
    ]

    def run(number: str, folder: str, *overrides: str, experiment: str = "a") -> tuple[int, Path]:
        arguments = ["-s", number, *common, f"experiment={experiment}", *overrides]
        with composing_once():
            try:
                code = train.main(arguments)
            except SystemExit as end:
                code = int(end.code or 0)
        return code, output / experiment / folder

    fit = (
        f"training.fit.{key}" for key in ("tokens=64", "sequence_length_tokens=32", "evaluation_tokens=64")
    )
    assert run("1", "stage1", *fit)[0] == 0
    options = [f"training.ternarize.{key}" for key in (*CALIBRATION, "evaluation_tokens=64")]
    assert run("1.5", "stage1_5", *options)[0] == 0
    return run


def weights(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


def test_the_entry_point_is_the_trainer_with_a_scheme() -> None:
    mine = compose_config(["training=stage2_pretrain"], FAIRY2)
    assert mine == compose_config(["training=stage2_pretrain", "model.scheme=fairy2-w2"])


def test_calibration_helps_and_its_result_loads(start: Any) -> None:
    _, folder = start("1.5", "stage1_5")  # complete: it only says so
    for block in json.loads((folder / "blocks.json").read_text()):
        assert all(block["solved"][name] < 0.9 * block["naive"][name] for name in block["naive"])
    loaded = bitnet_arch.load_checkpoint(folder / "final")
    assert loaded.meta["conversion"]["scheme"] == "fairy2-w2"
    ids = torch.arange(3, 40).unsqueeze(0)
    again = bitnet_arch.load_checkpoint(folder / "final")
    assert torch.equal(loaded.model(ids).logits, again.model(ids).logits)


def test_a_stopped_run_goes_on_to_the_bit(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, calibrated = start("1.5", "stage1_5")
    options = [f"training.{key}" for key in (*STEPS, f"start_from={calibrated / 'final'}")]
    options.append("distributed.accelerator=cpu")
    code, whole = start("2", "stage2", *options, experiment="whole")
    assert code == 0
    original = StepLog.on_step_end

    def stopping(self: StepLog, trainer: Any, module: Any, done: int) -> None:
        original(self, trainer, module, done)
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "on_step_end", stopping)
        assert start("2", "stage2", *options, experiment="again")[0] == 128 + signal.SIGTERM
    code, again = start("2", "stage2", *options, experiment="again")
    assert code == 0
    assert weights(again) == weights(whole)
    assert weights(whole) != (calibrated / "final" / "model.safetensors").read_bytes()
