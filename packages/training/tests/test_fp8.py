"""training.precision=fp8_experimental: a run by PyTorch's reference on the CPU, and where it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wrinklefree import strategies
from wrinklefree.compose.composing import compose_config
from wrinklefree.errors import RunError

OPTIONS = ["training.max_steps=4", "training.schedule.decay=1", "training.learning_rate=1e-2"]
FP8 = [*OPTIONS, "training.precision=fp8_experimental"]


def test_a_run_in_fp8_is_near_one_in_bf16(cli_from_stage1: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Gradients err by 4 %; the first loss is of the forward pass alone, which is the same."""
    runs = [
        cli_from_stage1("stage2_pretrain", *options, experiment=name)
        for name, options in (("bf16", [*OPTIONS, "training.precision=bf16"]), ("fp8", FP8))
    ]
    assert [run.code for run in runs] == [0, 0]
    bf16, fp8 = ([float(loss) for loss in run.losses.values()] for run in runs)
    assert fp8[0] == bf16[0]
    assert fp8[1:] != bf16[1:]
    assert fp8 == pytest.approx(bf16, rel=0.01)
    assert fp8[-1] < fp8[0] - 0.5
    assert "its products are PyTorch's reference on a CPU, and slow" in caplog.text


def test_a_device_without_it_is_refused(
    cli_from_stage1: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(strategies, "why_no_fp8", lambda _: "it is too old")
    assert cli_from_stage1("stage2_pretrain", *FP8).code == 1
    said = "training.precision=fp8_experimental: this device (cpu) has no fp8 products (it is too old)"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("capability", "is_refused"), [((8, 0), True), ((8, 9), True), ((9, 0), False)])
def test_an_older_gpu_is_refused(
    capability: tuple[int, int], is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "runs_on_cpu", lambda _: False)
    monkeypatch.setattr(strategies, "why_no_fp8", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    config = compose_config(["training=stage2_pretrain", *FP8])
    if not is_refused:
        strategies.check_precision(config)
        return
    with pytest.raises(RunError, match=r"this device \(cuda\) has no fp8 products \(compute capability 8\."):
        strategies.check_precision(config)


def test_a_dense_model_has_no_such_layers(cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_from_stage1("stage2_pretrain", *FP8, "model.scheme=none").code == 2
    assert "training.precision=fp8_experimental with model.scheme=none" in capsys.readouterr().err
