from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from wrinklefree.config import (
    ContinuePretrainConfig,
    LayerWeighting,
    LayerwiseConfig,
    ObjectiveConfig,
)
from wrinklefree.forward import Batch, ForwardResult, run_forward
from wrinklefree.objectives import registry
from wrinklefree.objectives.base import Objective, ObjectiveResult
from wrinklefree.objectives.layerwise import layer_weights, normalized_mse
from wrinklefree.objectives.manager import ObjectiveManager
from wrinklefree.objectives.weights import ConstantWeights


def _batch(model: Any, length: int = 16) -> Batch:
    ids = torch.randint(0, model.config.vocab_size, (2, length))
    positions = torch.arange(length).expand(2, -1)
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": positions}


def _manager(**configs: ObjectiveConfig) -> ObjectiveManager:
    return ObjectiveManager.from_config(configs)


def _forbidden(batch: Batch) -> ForwardResult:
    raise AssertionError("no active objective asked for a teacher")


def test_forward_gives_the_hidden_states_of_transformers(tiny_llama: Any) -> None:
    model = tiny_llama()
    batch = _batch(model)
    result = run_forward(model, batch)
    expected = model(input_ids=batch["input_ids"], output_hidden_states=True)
    assert len(result.hidden_states) == model.config.num_hidden_layers + 1
    for ours, theirs in zip(result.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs)
    logits = result.last_hidden_state @ result.head_weight.T
    torch.testing.assert_close(logits, expected.logits)


def test_continue_pretrain_equals_the_loss_of_transformers(tiny_llama: Any) -> None:
    model = tiny_llama()
    batch = _batch(model)
    manager = _manager(continue_pretrain=ContinuePretrainConfig(chunk_tokens=7))
    result = manager.compute(batch, 0, lambda b: run_forward(model, b), _forbidden)
    expected = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    torch.testing.assert_close(result.loss, expected)
    assert result.metrics.keys() == {
        "continue_pretrain/loss_nats",
        "continue_pretrain/perplexity_ratio",
    }


def test_normalized_mse_of_known_values() -> None:
    teacher = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    student = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    assert normalized_mse(student, teacher).item() == pytest.approx(0.5)
    # A token with a huge norm counts as much as the other.
    assert normalized_mse(student * 1000, teacher * 1000).item() == pytest.approx(0.5)


def test_layer_weights() -> None:
    assert layer_weights(4, LayerWeighting.uniform).tolist() == [0.25] * 4
    assert layer_weights(3, LayerWeighting.progressive).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_layerwise_is_zero_for_equal_models_and_trains_the_student_only(tiny_llama: Any) -> None:
    student, teacher = tiny_llama(), tiny_llama()
    batch = _batch(student)
    manager = _manager(layerwise=LayerwiseConfig())

    def compute() -> ObjectiveResult:
        return manager.compute(batch, 0, lambda b: run_forward(student, b), lambda b: run_forward(teacher, b))

    assert compute().loss.item() == 0
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    result = compute()
    result.loss.backward()
    assert result.loss.item() > 0
    assert student.model.layers[1].mlp.up_proj.weight.grad.abs().sum() > 0
    assert teacher.model.layers[1].mlp.up_proj.weight.grad is None


def test_teacher_runs_only_for_an_objective_with_weight(tiny_llama: Any) -> None:
    model = tiny_llama()
    manager = _manager(continue_pretrain=ContinuePretrainConfig(), layerwise=LayerwiseConfig(weight=0.0))
    assert not manager.ever_needs_teacher
    result = manager.compute(_batch(model), 0, lambda b: run_forward(model, b), _forbidden)
    assert not any(key.startswith("layerwise/") for key in result.metrics)


def test_missing_teacher_is_an_error(tiny_llama: Any) -> None:
    model = tiny_llama()
    manager = _manager(layerwise=LayerwiseConfig())
    assert manager.ever_needs_teacher
    with pytest.raises(ValueError, match="'layerwise' needs a teacher"):
        manager.compute(_batch(model), 0, lambda b: run_forward(model, b), None)


class _Scripted(Objective):
    """Loss = weightless constant; preprocessing marks the batch."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self.needs_teacher = False

    def preprocess_batch(self, batch: Batch) -> Batch:
        return batch | {"input_ids": batch["input_ids"] + 1}

    def compute(self, batch: Batch, student: Any, teacher: Any) -> ObjectiveResult:
        return ObjectiveResult(batch["input_ids"].float().mean(), {"ids_mean": torch.tensor(1.0)})


@dataclass
class _FromStep3:
    """A curriculum in one class: the objective `late` joins at step 3."""

    def __call__(self, step: int) -> Mapping[str, float]:
        return {"first": 1.0, "late": 2.0 if step >= 3 else 0.0}

    def ever_active(self) -> frozenset[str]:
        return frozenset({"first", "late"})


def test_weights_may_depend_on_the_step(tiny_llama: Any) -> None:
    config = ObjectiveConfig()
    manager = ObjectiveManager({"first": _Scripted(config), "late": _Scripted(config)}, _FromStep3())
    hidden = ForwardResult((torch.zeros(1, 2, 4),), torch.zeros(4, 4))
    batch = {"input_ids": torch.zeros(1, 2, dtype=torch.long)}
    assert manager.compute(batch, 0, lambda b: hidden, None).loss.item() == 1.0
    late = manager.compute(batch, 3, lambda b: hidden, None)
    assert late.loss.item() == 2.0 * (1.0 + 2.0)
    assert late.metrics.keys() == {"first/ids_mean", "late/ids_mean"}


def test_weights_of_unknown_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match=r"do not exist.*'b'"):
        ObjectiveManager({}, ConstantWeights({"b": 1.0}))


def test_other_packages_can_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    entry = registry.Entry(ContinuePretrainConfig, registry._ENTRIES["continue_pretrain"].target)
    registry.register("mine", entry)
    assert registry.config_class("mine") is ContinuePretrainConfig
    assert registry.build_objective("mine", ContinuePretrainConfig()) is not None
    with pytest.raises(ValueError, match="registered already"):
        registry.register("mine", entry)
