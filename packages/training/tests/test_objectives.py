from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch

from wrinklefree.capture import (
    EVERY_LAYER,
    LAST_HIDDEN_STATE,
    Capture,
    ForwardResult,
    Layers,
    View,
)
from wrinklefree.config.model import ModelConfig, TeacherConfig
from wrinklefree.config.root import TrainConfig
from wrinklefree.errors import RunError
from wrinklefree.forward import run_forward
from wrinklefree.objectives.base import PLAIN, Objective, ObjectiveConfig, ObjectiveResult, Pass, Wish
from wrinklefree.objectives.continue_pretrain import ContinuePretrainConfig
from wrinklefree.objectives.layerwise import (
    LayerWeighting,
    LayerwiseConfig,
    layer_weights,
    normalized_errors,
)
from wrinklefree.objectives.manager import ObjectiveManager
from wrinklefree.objectives.weights import ConstantWeights
from wrinklefree.teachers.local import LocalTeacher
from wrinklefree.teachers.registry import load_teacher


def _batch(model: Any, length: int = 16) -> View:
    ids = torch.randint(0, model.config.vocab_size, (2, length))
    positions = torch.arange(length).expand(2, -1)
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": positions}


def _manager(**configs: ObjectiveConfig) -> ObjectiveManager:
    return ObjectiveManager.from_config(configs)


def _forbidden(view: View, capture: Capture) -> ForwardResult:
    raise AssertionError("no active objective asked for a teacher")


def test_forward_gives_the_hidden_states_of_transformers(tiny_llama: Any) -> None:
    model = tiny_llama()
    batch = _batch(model)
    result = run_forward(model, batch, Capture(hidden_states=EVERY_LAYER))
    expected = model(input_ids=batch["input_ids"], output_hidden_states=True)
    assert len(result.hidden_states) == model.config.num_hidden_layers + 1
    assert list(result.hidden_states) == list(range(result.num_layers + 1))
    for ours, theirs in zip(result.hidden_states.values(), expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert result.head_weight is not None
    logits = result.last_hidden_state @ result.head_weight.T
    torch.testing.assert_close(logits, expected.logits)


def test_continue_pretrain_equals_the_loss_of_transformers(tiny_llama: Any) -> None:
    model = tiny_llama()
    batch = _batch(model)
    manager = _manager(continue_pretrain=ContinuePretrainConfig(chunk_tokens=7))
    result = manager.compute(batch, 0, partial(run_forward, model), _forbidden)
    expected = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    torch.testing.assert_close(result.loss, expected)
    assert result.metrics.keys() == {
        "continue_pretrain/loss_nats",
        "continue_pretrain/perplexity_ratio",
    }


def test_normalized_errors_of_known_values() -> None:
    teacher = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    student = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    assert normalized_errors(student, teacher).mean().item() == pytest.approx(0.5)
    # A token with a huge norm counts as much as the other.
    assert normalized_errors(student * 1000, teacher * 1000).mean().item() == pytest.approx(0.5)


def test_layer_weights() -> None:
    assert layer_weights(4, LayerWeighting.uniform).tolist() == [0.25] * 4
    assert layer_weights(3, LayerWeighting.progressive).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_layerwise_is_zero_for_equal_models_and_trains_the_student_only(tiny_llama: Any) -> None:
    student, teacher = tiny_llama(), tiny_llama()
    batch = _batch(student)
    manager = _manager(layerwise=LayerwiseConfig())

    def compute() -> ObjectiveResult:
        return manager.compute(batch, 0, partial(run_forward, student), partial(run_forward, teacher))

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
    assert not manager.teacher_wishes()
    result = manager.compute(_batch(model), 0, partial(run_forward, model), _forbidden)
    assert not any(key.startswith("layerwise/") for key in result.metrics)


def test_missing_teacher_is_an_error(tiny_llama: Any) -> None:
    model = tiny_llama()
    manager = _manager(layerwise=LayerwiseConfig())
    assert manager.teacher_wishes() == {"layerwise": Capture(hidden_states=EVERY_LAYER)}
    with pytest.raises(ValueError, match="'layerwise' needs a teacher"):
        manager.compute(_batch(model), 0, partial(run_forward, model), None)


class _Scripted(Objective):
    """Loss = mean of the ids of its view, which adds a number to them."""

    def __init__(self, config: ObjectiveConfig, view: str = "plus 1", plus: int = 1) -> None:
        self.view, self.plus = view, plus
        self.wishes = {view: Wish(student=LAST_HIDDEN_STATE)}

    def views(self, batch: View) -> Mapping[str, View]:
        return {self.view: batch | {"input_ids": batch["input_ids"] + self.plus}}

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        loss = passes[self.view].view["input_ids"].float().mean()
        return ObjectiveResult(loss, {"ids_mean": torch.tensor(1.0)})


@dataclass
class _FromStep3:
    """A curriculum in one class: the objective `late` joins at step 3."""

    def __call__(self, step: int) -> Mapping[str, float]:
        return {"first": 1.0, "late": 2.0 if step >= 3 else 0.0}

    def ever_active(self) -> frozenset[str]:
        return frozenset({"first", "late"})


class _Counted:
    """Counts forward passes; remembers what was shown and asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], Capture]] = []

    def __call__(self, view: View, capture: Capture) -> ForwardResult:
        self.calls.append((view["input_ids"].flatten().tolist(), capture))
        return ForwardResult(0, {0: torch.zeros(1, 2, 4)}, torch.zeros(4, 4))


def test_weights_may_depend_on_the_step() -> None:
    config = ObjectiveConfig()
    objectives = {"first": _Scripted(config), "late": _Scripted(config, "plus 3", 3)}
    manager = ObjectiveManager(objectives, _FromStep3())
    batch = {"input_ids": torch.zeros(1, 2, dtype=torch.long)}
    assert manager.compute(batch, 0, _Counted(), None).loss.item() == 1.0
    late = manager.compute(batch, 3, _Counted(), None)
    assert late.loss.item() == 1.0 + 2.0 * 3.0
    assert late.metrics.keys() == {"first/ids_mean", "late/ids_mean"}


class _Taught(_Scripted):
    """Wants the teacher on its view, and the plain view without one."""

    def __init__(self, view: str, plus: int, teacher: Capture) -> None:
        super().__init__(ObjectiveConfig(), view, plus)
        self.wishes = {view: Wish(Capture(logits=True), teacher), PLAIN: Wish(LAST_HIDDEN_STATE)}

    def views(self, batch: View) -> Mapping[str, View]:
        return {PLAIN: batch, **super().views(batch)}

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        assert passes.keys() == self.wishes.keys()
        assert passes[PLAIN].teacher is None
        assert passes[self.view].teacher is passes[self.view].taught
        return super().compute(passes)


def test_one_forward_for_each_distinct_view_with_the_united_wishes() -> None:
    keys = Capture(qkv=Layers.of(-1))
    states = Capture(hidden_states=Layers.of(2))
    objectives = {
        "a": _Taught("plus 1", 1, keys),
        "b": _Taught("plus 1", 1, states),
        "c": _Taught("plus 2", 2, states),
    }
    manager = ObjectiveManager(objectives, ConstantWeights(dict.fromkeys(objectives, 1.0)))
    student, teacher = _Counted(), _Counted()
    loss = manager.compute({"input_ids": torch.zeros(1, 1, dtype=torch.long)}, 0, student, teacher).loss
    assert loss.item() == 1 + 1 + 2
    logits = Capture(logits=True)
    assert sorted(student.calls, key=str) == [([0], LAST_HIDDEN_STATE), ([1], logits), ([2], logits)]
    assert teacher.calls == [([1], keys | states), ([2], states)]


def test_captures_unite() -> None:
    one, two = Capture(hidden_states=Layers.of(0, -1)), Capture(qkv=EVERY_LAYER, logits=True)
    both = one | two
    assert (both.hidden_states, both.qkv, both.logits) == (Layers.of(-1, 0), EVERY_LAYER, True)
    assert both.hidden_states.within(4) == [0, 3]
    assert (Layers.of(1) | EVERY_LAYER).within(3) == [0, 1, 2]
    late = Layers.at(0.8)
    assert (late.within(28), late.within(2), (late | Layers.of(0)).within(30)) == ([22], [1], [0, 23])
    assert not late <= one.hidden_states
    assert late <= EVERY_LAYER
    assert not Capture()
    assert one
    with pytest.raises(ValueError, match=r"layer -5 was asked for; there are 4 \(0 to 3\)"):
        Layers.of(-5).within(4)


def test_a_teacher_is_asked_only_for_what_it_provides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalTeacher, "provides", Capture(hidden_states=Layers.of(-1)))
    run = TrainConfig(model=ModelConfig(teacher=TeacherConfig()))
    assert load_teacher(run, None, {}) is None
    wishes = {"mine": Capture(hidden_states=EVERY_LAYER, logits=True)}
    message = "objective 'mine' wants hidden states and logits of its teacher, which .*kind=local does not"
    with pytest.raises(RunError, match=message):
        load_teacher(run, None, wishes)


@pytest.mark.parametrize("make", ["tiny_llama", "tiny_qwen3"])
def test_queries_keys_and_values_are_those_of_the_projections(
    make: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(make)()
    view = _batch(model)
    wish = Capture(hidden_states=Layers.of(1), qkv=Layers.of(1), logits=True)
    result = run_forward(model, view, wish)
    assert list(result.hidden_states) == [1]
    block, config = model.model.layers[1], model.config
    inputs = block.input_layernorm(result.hidden_states[1])
    counts = [config.num_attention_heads] + [config.num_key_value_heads] * 2
    for name, count in zip(["query", "key", "value"], counts, strict=True):
        projection = getattr(block.self_attn, f"{name[0]}_proj")
        flat = inputs @ projection.weight.T
        expected = flat.reshape(*inputs.shape[:2], count, -1)
        torch.testing.assert_close(getattr(result.qkv[1], name), expected)
    torch.testing.assert_close(result.logits, model(input_ids=view["input_ids"]).logits)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_captured_tensors_carry_gradients_through_recomputed_activations(tiny_llama: Any) -> None:
    wish = Capture(hidden_states=EVERY_LAYER, qkv=EVERY_LAYER)
    gradients = []
    for recompute in (False, True):
        model = tiny_llama().train()
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(1)
        result = run_forward(model, _batch(model), wish)
        keys = sum(qkv.key.square().mean() for qkv in result.qkv.values())
        (keys + result.last_hidden_state.square().mean() + result.hidden_states[1].mean()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_no_hook_stays(tiny_llama: Any) -> None:
    model = tiny_llama()
    run_forward(model, _batch(model), Capture(EVERY_LAYER, EVERY_LAYER))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_weights_of_unknown_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match=r"do not exist.*'b'"):
        ObjectiveManager({}, ConstantWeights({"b": 1.0}))


def test_a_view_of_one_name_made_in_two_ways_is_refused() -> None:
    class Masking(Objective):
        wishes = {"masked": Wish(student=Capture(logits=True))}  # noqa: RUF012

        def views(self, batch):
            return {"masked": batch}

        def compute(self, passes):
            raise NotImplementedError

    class MaskingOtherwise(Masking):
        def views(self, batch):
            return {"masked": batch}

    same = {"first": Masking(None), "second": Masking(None)}
    ObjectiveManager(same, ConstantWeights({"first": 1.0, "second": 1.0}))
    with pytest.raises(ValueError, match="'first' and 'second' both make a view 'masked'"):
        ObjectiveManager(
            {"first": Masking(None), "second": MaskingOtherwise(None)}, ConstantWeights({"first": 1.0})
        )
