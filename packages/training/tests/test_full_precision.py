"""model.scheme=none: the dense model itself is trained, by the same stages on the same data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import bitnet_arch
from data_handler import SourceConfig, make_loader
from wrinklefree.compose.composing import compose_config
from wrinklefree.config.errors import ConfigError

DENSE = "model.scheme=none"
RATE = 3e-3
STEPS = [
    "training.max_steps=3",
    f"training.learning_rate={RATE}",
    "training.schedule.kind=constant",
    "training.schedule.warmup=0",
    "training.schedule.decay=0",
    "training.zclip.enabled=false",
    "optimizer.weight_decay=0.1",
]


@pytest.fixture(scope="module")
def fine_tuned(make_cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stages 1 and 2 of the dense model."""
    cli = make_cli(tmp_path_factory.mktemp("dense_runs"), alone=True)
    assert cli("stage1_subln", DENSE).code == 0
    run = cli("stage2_pretrain", DENSE, *STEPS, "training.accept_from=[stage1]")
    assert run.code == 0
    return run


def _plain_losses(dense_dir: Path, text_file: Path) -> tuple[list[float], Any]:
    """transformers' own loss and PyTorch's AdamW on the same batches."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(dense_dir, dtype=torch.float32).train()
    tokenizer = transformers.AutoTokenizer.from_pretrained(dense_dir)
    decayed = {id(p) for p in model.model.layers.parameters() if p.ndim == 2}
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for parameter in model.parameters():
        groups[id(parameter) in decayed].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": 0.1}, {"params": groups[False], "weight_decay": 0.0}],
        lr=RATE,
        betas=(0.9, 0.95),
    )
    losses = []
    loader = make_loader([SourceConfig("path", "text", str(text_file))], tokenizer, 32, 2, seed=0)
    for batch, _ in zip(loader, range(3), strict=False):
        inputs = {name: batch[name] for name in ("input_ids", "position_ids", "labels")}
        loss = model(**inputs, use_cache=False).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses, model


def test_three_steps_equal_a_plain_loop(fine_tuned: Any, dense_dir: Path, text_file: Path) -> None:
    expected, model = _plain_losses(dense_dir, text_file)
    losses = [float(loss) for loss in fine_tuned.losses.values()]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0] - 0.05
    ours = transformers.AutoModelForCausalLM.from_pretrained(fine_tuned.folder / "final")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=0, atol=RATE / 10)


def test_the_result_is_a_plain_folder_of_a_dense_model(fine_tuned: Any, dense_dir: Path) -> None:
    final = fine_tuned.folder / "final"
    meta = bitnet_arch.read_meta(final)
    assert (meta["conversion"], meta["stage"]) == (None, "stage2")
    assert meta["source"] == {"source": "path", "name": str(dense_dir)}
    assert "quantization_config" not in (final / "config.json").read_text()
    assert not bitnet_arch.open_dense("path", str(final)).is_converted


def test_it_teaches_and_can_be_converted(fine_tuned: Any, cli_from_stage1: Any, make_cli: Any) -> None:
    final = fine_tuned.folder / "final"
    teacher = ["model.teacher.source=path", f"model.teacher.name={final}"]
    run = cli_from_stage1("stage1_9_layerwise", "training.max_steps=3", *teacher)
    assert run.code == 0
    again = make_cli(cli_from_stage1.output_dir / "again", alone=True)
    assert again("stage1_subln", f"model.name={final}", "model.scheme=group64").code == 0


def test_a_resumed_run_in_bfloat16_is_bit_equal(fine_tuned: Any, make_cli: Any, tmp_path: Path) -> None:
    cli = make_cli(tmp_path, alone=True)
    start = f"training.start_from={fine_tuned.folder.parent / 'stage1' / 'final'}"
    options = [DENSE, *STEPS, start, "training.precision=bf16", "training.checkpoint.every_steps=2"]
    whole, again = (cli("stage2_pretrain", *options, experiment=name) for name in ("whole", "again"))
    assert (whole.code, again.code) == (0, 0)
    (again.folder / "final").rename(tmp_path / "aside")
    assert cli("stage2_pretrain", *options, experiment="again").code == 0
    assert (again.losses, again.weights) == (whole.losses, whole.weights)


@pytest.mark.parametrize(
    ("stage", "overrides", "message"),
    [
        ("stage1_subln", ["model.sub_norm=true"], "model.sub_norm=true with model.scheme=none"),
        (
            "stage1_5_calibrate",
            [],
            "full precision, so there are no codes to choose: go on with wf train -s 2",
        ),
        ("stage2_pretrain", ["training.precision=int8"], "precision=int8 with model.scheme=none.*or bf16"),
        ("stage2_pretrain", ["training.lambda_warmup_steps=3"], "there is no quantization to fade in"),
    ],
)
def test_what_belongs_to_ternary_layers_is_refused(stage: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config([f"training={stage}", "model=smollm2_135m", DENSE, *overrides])


@pytest.mark.parametrize(
    ("is_dense_there", "overrides", "message"),
    [
        (True, ["model.scheme=group64"], "holds a dense model: .*train it as it is with model.scheme=none"),
        (False, [DENSE], "model.scheme: 'tensor' there, 'none' now"),
    ],
)
def test_a_start_of_the_other_kind_is_refused(
    fine_tuned: Any,
    cli_from_stage1: Any,
    capsys: pytest.CaptureFixture[str],
    is_dense_there: bool,
    overrides: list[str],
    message: str,
) -> None:
    start = [f"training.start_from={fine_tuned.folder / 'final'}"] if is_dense_there else []
    run = cli_from_stage1("stage2_pretrain", *STEPS, *overrides, *start)
    assert run.code == 1
    printed = capsys.readouterr().err.replace("\n", " ")
    assert re.search(message, printed), printed
    assert not run.folder.exists()
