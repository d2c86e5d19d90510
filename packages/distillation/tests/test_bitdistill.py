"""Task, logits and attention together: their sum, their measured gradients, and balance."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from wrinklefree.capture import View
from wrinklefree.errors import RunError
from wrinklefree.forward import run_forward, shape_of
from wrinklefree.objectives.base import ObjectiveResult
from wrinklefree.objectives.layerwise import LayerWeighting, LayerwiseConfig
from wrinklefree.objectives.manager import ObjectiveManager
from wrinklefree_distillation.objectives.attention_distill import AttentionDistillConfig
from wrinklefree_distillation.objectives.bitdistill import BitDistillConfig
from wrinklefree_distillation.objectives.logits_distill import LogitsDistillConfig
from wrinklefree_distillation.objectives.lrc_reconstruction import LrcReconstructionConfig
from wrinklefree_distillation.options import Balance


@pytest.fixture
def models(tiny_llama: Any) -> tuple[Any, Any]:
    """A student that differs from its teacher in the first block."""
    student, teacher = tiny_llama(), tiny_llama()
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    return student.train(), teacher


@pytest.fixture
def batch(models: tuple[Any, Any]) -> View:
    ids = torch.randint(0, models[0].config.vocab_size, (2, 12))
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": torch.arange(12).expand(2, -1)}


def _compute(
    models: tuple[Any, Any], batch: View, manager: ObjectiveManager, step: int = 0
) -> ObjectiveResult:
    student, teacher = models
    manager.check(shape_of(student), shape_of(teacher))
    return manager.compute(batch, step, partial(run_forward, student), partial(run_forward, teacher))


def _manager(**options: Any) -> ObjectiveManager:
    return ObjectiveManager.from_config({"bitdistill": BitDistillConfig(**options)})


def test_the_sum_is_that_of_the_single_objectives(models: Any, batch: View) -> None:
    whole = _compute(models, batch, _manager())
    metrics = {name.removeprefix("bitdistill/"): value for name, value in whole.metrics.items()}
    relations = sum(metrics[f"attention_{name}_nats"] for name in ("query", "key", "value"))
    expected = metrics["task_loss_nats"] + 10 * 25 * metrics["logits_divergence_nats"] + 60 * relations
    torch.testing.assert_close(whole.loss.detach(), expected)
    assert (metrics["logits_weight_ratio"], metrics["attention_weight_ratio"]) == (10, 60)


@pytest.mark.parametrize(
    ("name", "config", "metric"),
    [
        ("bitdistill", BitDistillConfig(), "task_loss_nats"),
        ("logits_distill", LogitsDistillConfig(temperature=1.0), "divergence_nats"),
        ("layerwise", LayerwiseConfig(layer_weighting=LayerWeighting.uniform), "nmse_ratio"),
        ("lrc_reconstruction", LrcReconstructionConfig(), "nmse_ratio"),
        ("attention_distill", AttentionDistillConfig(), None),
    ],
)
def test_losses_of_tokens_have_the_mean_that_is_logged(
    models: Any, batch: View, name: str, config: Any, metric: str | None
) -> None:
    """From which the losses of sources are made."""
    result = _compute(models, batch, ObjectiveManager.from_config({name: config}))
    if metric is None:
        assert result.token_losses is None
        return
    assert result.token_losses is not None
    values, counted = result.token_losses
    assert not values.requires_grad
    assert values.shape == counted.shape == batch["input_ids"].shape
    torch.testing.assert_close(values[counted].mean(), result.metrics[f"{name}/{metric}"])


def test_norms_are_those_of_gradients_at_the_blocks_input(models: Any, batch: View) -> None:
    manager = _manager(attention=AttentionDistillConfig(layer=1, weight=60.0))
    result = _compute(models, batch, manager)
    seen = []
    handle = models[0].model.layers[0].register_forward_hook(lambda *args: seen.append(args[-1]))
    alone = ObjectiveManager.from_config({"attention_distill": AttentionDistillConfig(layer=1)})
    loss = _compute(models, batch, alone).loss
    handle.remove()
    expected = torch.autograd.grad(loss, seen[0])[0].norm()
    torch.testing.assert_close(result.metrics["bitdistill/attention_gradient_norm"], expected)
    result.loss.backward()  # the graph is still there


def test_measuring_changes_no_gradient(models: Any, batch: View) -> None:
    gradients = []
    for every in (0, 1):
        models[0].zero_grad()
        _compute(models, batch, _manager(measure_every_steps=every)).loss.backward()
        gradients.append([p.grad.clone() for p in models[0].parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_balance_makes_the_gradients_alike(models: Any, batch: View) -> None:
    manager = _manager(balance=Balance.both, attention_ratio=0.5, measure_every_steps=2, decay=0.5)
    first = {n.removeprefix("bitdistill/"): v for n, v in _compute(models, batch, manager).metrics.items()}
    task = first["task_gradient_norm"]
    for name, ratio in (("logits", 1.0), ("attention", 0.5)):
        weighted = first[f"{name}_weight_ratio"] * first[f"{name}_gradient_norm"]
        torch.testing.assert_close(weighted, ratio * task)
    with torch.no_grad():
        models[0].model.layers[0].mlp.up_proj.weight.mul_(1.5)
    weight = "bitdistill/attention_weight_ratio"
    assert torch.equal(
        _compute(models, batch, manager, step=1).metrics[weight], first["attention_weight_ratio"]
    )
    third = _compute(models, batch, manager, step=2).metrics[weight]
    assert not torch.equal(third, first["attention_weight_ratio"])
    resumed = _manager(balance=Balance.both, attention_ratio=0.5, measure_every_steps=2, decay=0.5)
    resumed.load_state_dict(manager.state_dict())
    assert torch.equal(_compute(models, batch, resumed, step=3).metrics[weight], third)


@pytest.mark.parametrize(
    ("balance", "constant"), [(Balance.logits, "attention"), (Balance.attention, "logits")]
)
def test_balance_of_one_term_leaves_the_other(
    models: Any, batch: View, balance: Balance, constant: str
) -> None:
    metrics = _compute(models, batch, _manager(balance=balance)).metrics
    found = {name: float(metrics[f"bitdistill/{name}_weight_ratio"]) for name in ("logits", "attention")}
    assert {
        name for name, weight in {"logits": 10.0, "attention": 60.0}.items() if found[name] == weight
    } == {constant}


def test_equal_models_keep_the_constants(tiny_llama: Any, batch: View) -> None:
    """A teacher that agrees has no gradient to balance."""
    equal = (tiny_llama(), tiny_llama())
    result = _compute(equal, batch, _manager(balance=Balance.attention))
    assert result.metrics["bitdistill/attention_weight_ratio"] == 60


def test_terms_of_weight_0_are_left_out(models: Any, batch: View) -> None:
    manager = _manager(logits=LogitsDistillConfig(weight=0), attention=AttentionDistillConfig(weight=0))
    assert not manager.teacher_wishes()
    result = manager.compute(batch, 0, partial(run_forward, models[0]), None)
    assert not any("attention" in name or "logits" in name for name in result.metrics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure_every_steps": 0}, "balance=both needs measurements: give measure_every_steps above 0"),
        ({"logits": LogitsDistillConfig(weight=0)}, "balance=both with logits.weight=0: give it a weight"),
        ({"attention": AttentionDistillConfig(num_relation_heads=7)}, "'bitdistill': num_relation_heads=7"),
    ],
)
def test_what_cannot_be_balanced(models: Any, batch: View, options: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        _compute(models, batch, _manager(balance=Balance.both, **options))


def test_fsdp_and_measurements(distil: Any, capsys: pytest.CaptureFixture[str]) -> None:
    objectives = ["training.objectives.logits_distill.weight=0", "training.objectives.bitdistill={}"]
    assert distil(*objectives, "distributed=fsdp", "distributed.devices=1").code == 1
    assert "'bitdistill': measure_every_steps=50 goes back" in capsys.readouterr().err


def test_a_balanced_run_resumes_to_the_bit(distil: Any, resumed: Any) -> None:
    name = "training.objectives.bitdistill"
    options = [
        "training.objectives.logits_distill.weight=0",
        f"{name}.balance=both",
        f"{name}.measure_every_steps=2",
        f"{name}.logits.temperature=2",
        "training.accumulate_steps=2",
        "training.gradient_checkpointing=true",
    ]
    whole, again = distil(*options, experiment="whole"), resumed(*options, experiment="again")
    assert (whole.code, again.code) == (0, 0)
    assert again.rows == whole.rows
    assert again.weights == whole.weights
    weights = [row["bitdistill/attention_weight_ratio"] for row in whole.rows]
    assert weights[1] != weights[3] != weights[5]
