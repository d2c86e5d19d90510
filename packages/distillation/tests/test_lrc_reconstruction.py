"""Reconstruction block by block: the loss, where its gradients end, and training corrections by it."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import bitnet_arch
from bitnet_arch.low_rank import FACTORS, corrected_linears
from wrinklefree import train
from wrinklefree.capture import EVERY_LAYER, Capture, View
from wrinklefree.errors import RunError
from wrinklefree.forward import run_forward, shape_of
from wrinklefree.objectives.base import ObjectiveResult
from wrinklefree.objectives.layerwise import LayerwiseConfig, normalized_errors
from wrinklefree.objectives.manager import ObjectiveManager
from wrinklefree_distillation.objectives.lrc_reconstruction import LrcReconstructionConfig

NAME = "lrc_reconstruction"
ALONE = [
    "training.trained=low_rank",
    "training.objectives.logits_distill.weight=0",
    f"training.objectives.{NAME}={{}}",
    "training.learning_rate=3e-3",
]


@pytest.fixture
def models(tiny_llama: Any) -> tuple[Any, Any]:
    """A student that differs from its teacher in both blocks."""
    student, teacher = tiny_llama(), tiny_llama()
    with torch.no_grad():
        for layer in student.model.layers:
            layer.mlp.up_proj.weight.mul_(1.5)
    return student.train(), teacher


@pytest.fixture
def batch(models: tuple[Any, Any]) -> View:
    ids = torch.randint(0, models[0].config.vocab_size, (2, 12))
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": torch.arange(12).expand(2, -1)}


def _compute(student: Any, teacher: Any, batch: View, **others: Any) -> ObjectiveResult:
    manager = ObjectiveManager.from_config({NAME: LrcReconstructionConfig(), **others})
    manager.check(shape_of(student), shape_of(teacher))
    return manager.compute(batch, 0, partial(run_forward, student), partial(run_forward, teacher))


def test_equal_models_have_no_loss(tiny_llama: Any, batch: View) -> None:
    assert _compute(tiny_llama(), tiny_llama(), batch).loss == 0


def test_a_block_gets_the_gradient_of_its_own_output_alone(models: Any, batch: View) -> None:
    student, teacher = models
    result = _compute(student, teacher, batch)
    result.loss.backward()
    found = {name: p.grad for name, p in student.named_parameters()}
    assert found["model.embed_tokens.weight"] is None
    student.zero_grad()
    everything = Capture(hidden_states=EVERY_LAYER)
    own = run_forward(student, batch, everything).hidden_states
    other = run_forward(teacher, batch, everything).hidden_states
    losses = [normalized_errors(own[i], other[i].detach()).mean() / 2 for i in (1, 2)]
    torch.testing.assert_close(result.loss, losses[0] + losses[1])
    for number, loss in enumerate(losses):
        block = student.model.layers[number]
        expected = torch.autograd.grad(loss, list(block.parameters()), retain_graph=True)
        for (name, _), gradient in zip(block.named_parameters(), expected, strict=True):
            torch.testing.assert_close(found[f"model.layers.{number}.{name}"], gradient)


def test_corrections_learn_by_it(tiny_llama: Any, batch: View) -> None:
    teacher = tiny_llama()
    config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer("group64"))
    student = bitnet_arch.convert(copy.deepcopy(teacher), config)
    bitnet_arch.install_low_rank(student, 8)
    for _, layer in corrected_linears(student):
        torch.nn.init.normal_(layer.lrc_v, std=0.1, generator=torch.Generator().manual_seed(0))
    bitnet_arch.train_corrections_alone(student)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(12):
        loss = _compute(student, teacher, batch).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_other_objectives_keep_their_gradients(models: Any, batch: View) -> None:
    """The cut is in a view of its own."""
    student, teacher = models
    _compute(student, teacher, batch, layerwise=LayerwiseConfig()).loss.backward()
    assert student.model.embed_tokens.weight.grad is not None


def test_a_teacher_of_another_depth(models: Any, tiny_llama: Any, batch: View) -> None:
    with pytest.raises(RunError, match=f"'{NAME}': {NAME} compares layer by layer: .* 2 blocks .* 3;"):
        _compute(models[0], tiny_llama(num_hidden_layers=3), batch)


@pytest.fixture
def corrected(common: list[str], stage1: Path, tmp_path: Path) -> Path:
    """A finished checkpoint of stage 2.5."""
    options = [f"training.low_rank.{key}" for key in ("rank=4", "tokens=512", "sequence_length_tokens=32")]
    where = [f"training.start_from={stage1}", f"output_dir={tmp_path / 'corrected'}"]
    assert train.main(["-s", "2.5", *common, *options, "training.low_rank.evaluation_tokens=0", *where]) == 0
    return tmp_path / "corrected" / "default" / "stage2_5" / "final"


def test_corrections_alone_are_trained_and_the_run_resumes(
    distil: Any, resumed: Any, corrected: Path
) -> None:
    options = [*ALONE, f"student.checkpoint_path={corrected}"]
    whole, again = distil(*options, experiment="whole"), resumed(*options, experiment="again")
    assert (whole.code, again.code) == (0, 0)
    assert again.rows == whole.rows
    assert again.weights == whole.weights
    assert all(float(row[f"{NAME}/nmse_ratio"]) > 0 for row in whole.rows)
    old, new = (
        bitnet_arch.load_checkpoint(f).model.state_dict() for f in (corrected, whole.folder / "final")
    )
    for name, tensor in old.items():
        assert torch.equal(new[name], tensor) != name.endswith(FACTORS), name


def test_a_student_without_corrections(distil: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert distil(*ALONE).code == 2
    assert "has no low-rank corrections: make some with wf train -s 2.5" in capsys.readouterr().err
