"""Sketches of gradients beside the gradients that autograd gives, example by example."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from data_handler import DataError, SourceConfig, make_loader
from data_handler.influence import (
    AdamDirection,
    CountSketch,
    GradientKind,
    GradientSketcher,
    LossSums,
    SecondMoments,
    document_batches,
)

SIZE = 256


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_dropout=0.5,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def batch(two_sources: list[SourceConfig], tokenizer: Any) -> dict[str, Tensor]:
    """Four packed sequences of several documents."""
    return next(iter(make_loader(two_sources, tokenizer, 48, 4)))


def autograd(model: nn.Module, batch: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Gradients of transformers' own loss, which is the mean over the labels."""
    alone = copy.deepcopy(model).eval()
    alone.zero_grad()
    fields = {name: batch[name] for name in ("input_ids", "labels", "position_ids")}
    alone(**fields, use_cache=False).loss.backward()
    return {name: alone.get_parameter(name).grad for name in names}


def of_examples(model: nn.Module, batch: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    rows = [
        autograd(model, {k: v[i : i + 1] for k, v in batch.items() if k != "state"}, names)
        for i in range(len(batch["input_ids"]))
    ]
    return {name: torch.stack([row[name] for row in rows]) for name in names}


def test_sketches_are_those_of_the_true_gradients(model: nn.Module, batch: dict[str, Tensor]) -> None:
    sketcher = GradientSketcher(model, None, SIZE, seed=1)
    assert len(sketcher.matrices) == 14
    assert not any("embed" in name or "lm_head" in name for name in sketcher.matrices)
    sketch = CountSketch(SIZE, seed=1)
    expected = sketch.of(of_examples(model, batch, sketcher.matrices))
    torch.testing.assert_close(sketcher.per_example(batch), expected, rtol=1e-4, atol=1e-6)
    whole = {name: grad[None] for name, grad in autograd(model, batch, sketcher.matrices).items()}
    torch.testing.assert_close(sketcher.mean(batch), sketch.of(whole)[0], rtol=1e-4, atol=1e-6)


def test_examples_of_many_weights_are_taken_in_parts(
    model: nn.Module, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    sketcher = GradientSketcher(model, None, SIZE, seed=1)
    expected = sketcher.per_example(batch)
    monkeypatch.setattr("data_handler.influence.capture._AT_ONCE_NUMBERS", 1)
    torch.testing.assert_close(sketcher.per_example(batch), expected)


def test_autocast_rounds_the_model_and_not_the_sketches(model: nn.Module, batch: dict[str, Tensor]) -> None:
    sketcher = GradientSketcher(model, None, SIZE)
    expected = sketcher.per_example(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = sketcher.per_example(batch)
        assert found.dtype == torch.float32
        alone = sketcher.per_example(
            {name: batch[name][:1] for name in ("input_ids", "labels", "position_ids")}
        )
    assert torch.cosine_similarity(found, expected).min() > 0.999
    torch.testing.assert_close(alone[0], found[0], rtol=1e-3, atol=1e-5)


def test_nothing_is_left_behind(model: nn.Module, batch: dict[str, Tensor]) -> None:
    model = copy.deepcopy(model).train()
    model.model.layers[1].eval()
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    modes = [module.training for module in model.modules()]
    weights, states = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    sketcher = GradientSketcher(model, None, SIZE)
    first = sketcher.per_example(batch)
    with torch.no_grad():
        torch.testing.assert_close(sketcher.per_example(batch), first, rtol=0, atol=0)  # no dropout
    with torch.inference_mode():
        torch.testing.assert_close(sketcher.per_example(batch), first, rtol=0, atol=0)
    assert [module.training for module in model.modules()] == modes
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [
        "model.layers.0.mlp.up_proj.weight"
    ]
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failed_pass_leaves_nothing_behind(model: nn.Module, batch: dict[str, Tensor]) -> None:
    model = copy.deepcopy(model).train()

    def fail(model: Any, batch: Any) -> LossSums:
        model(batch["input_ids"])
        raise RuntimeError("the loss fails")

    with pytest.raises(RuntimeError, match="the loss fails"):
        GradientSketcher(model, None, SIZE, losses=fail).per_example(batch)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_patterns_choose_matrices(model: nn.Module, batch: dict[str, Tensor]) -> None:
    chosen = GradientSketcher(model, ["*.1.mlp.down_proj.weight", "lm_head.weight"], SIZE)
    assert chosen.matrices == ["model.layers.1.mlp.down_proj.weight", "lm_head.weight"]
    assert chosen.num_weights == 32 * 48 + 32 * model.config.vocab_size
    expected = CountSketch(SIZE, 0).of(of_examples(model, batch, chosen.matrices))
    torch.testing.assert_close(chosen.per_example(batch), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (
            ["*.mlp.wrong.weight"],
            r"no matrix is named '\*\.mlp\.wrong\.weight'; there are .*layers\.\*\.mlp\.up_proj",
        ),
        (["*.mlp.up_proj.weight", "nothing"], "named 'nothing'"),
        (["model.embed_tokens.weight"], "embed_tokens.weight is no matrix of a linear"),
        (["model.norm.weight"], "norm.weight is no matrix of a linear"),
        ([], r"matrices is \[\]"),
        ("lm_head.weight", "matrices is 'lm_head.weight'; give a list"),
    ],
)
def test_matrices_that_cannot_be_taken_are_named(model: nn.Module, patterns: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        GradientSketcher(model, patterns, SIZE)
    assert caught.value.exit_code == 2


def test_shared_weights_are_refused(model: nn.Module) -> None:
    tied = copy.deepcopy(model)
    tied.lm_head.weight = tied.model.embed_tokens.weight
    with pytest.raises(DataError, match=r"shared by model\.embed_tokens\.weight and lm_head\.weight"):
        GradientSketcher(tied, ["lm_head.weight"], SIZE)


def test_a_forward_of_its_own_without_weight_inputs_is_refused(model: nn.Module) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(2 * x)

    other = copy.deepcopy(model)
    other.model.layers[0].mlp.up_proj = Doubled(32, 48)
    with pytest.raises(DataError, match=r"0\.mlp\.up_proj\.weight is no matrix of a linear"):
        GradientSketcher(other, ["model.layers.0.mlp.up_proj.weight"], SIZE)


def test_an_example_without_labels_has_no_gradient(model: nn.Module, tokenizer: Any) -> None:
    (batch,) = document_batches(["a river and its numbers", ""], tokenizer, 16, 2)
    sketches = GradientSketcher(model, None, SIZE).per_example(batch)
    assert sketches[0].abs().max() > 0
    assert torch.equal(sketches[1], torch.zeros(SIZE))
    batch["labels"][:] = -100
    with pytest.raises(DataError, match="no token of the batch has a label"):
        GradientSketcher(model, None, SIZE).mean(batch)


def test_losses_of_ones_own(model: nn.Module, batch: dict[str, Tensor]) -> None:
    def twice(model: Any, batch: Any) -> LossSums:
        with torch.no_grad():
            model(batch["input_ids"])
        logits = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        losses = 2 * nn.functional.cross_entropy(
            logits[:, :-1].mT, batch["labels"][:, 1:], ignore_index=-100, reduction="none"
        )
        return LossSums(losses.sum(1), (batch["labels"][:, 1:] >= 0).sum(1))

    expected = 2 * GradientSketcher(model, None, SIZE).per_example(batch)
    found = GradientSketcher(model, None, SIZE, losses=twice).per_example(batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_an_empty_batch_is_an_error(model: nn.Module, batch: dict[str, Tensor]) -> None:
    with pytest.raises(DataError, match="no example"):
        GradientSketcher(model, None, SIZE).per_example({k: batch[k][:0] for k in batch if k != "state"})


@pytest.fixture(scope="module")
def trained(model: nn.Module, batch: dict[str, Tensor]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model after three steps of Adam, and its optimizer."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.0)
    for _ in range(3):
        grads = autograd(model, batch, [name for name, _ in model.named_parameters()])
        for name, grad in grads.items():
            model.get_parameter(name).grad = grad
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_second_moments_scale_gradients(
    trained: tuple[nn.Module, torch.optim.Optimizer], batch: dict[str, Tensor]
) -> None:
    model, optimizer = trained
    sketcher = GradientSketcher(model, None, SIZE)
    grads = of_examples(model, batch, sketcher.matrices)
    for name in grads:
        second = optimizer.state[model.get_parameter(name)]["exp_avg_sq"] / (1 - 0.999**3)
        grads[name] = grads[name] / (second.sqrt() + 1e-8)
    found = sketcher.per_example(batch, SecondMoments(optimizer, model))
    expected = CountSketch(SIZE, 0).of(grads)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_direction_is_what_adam_does_next(
    trained: tuple[nn.Module, torch.optim.Optimizer], batch: dict[str, Tensor]
) -> None:
    model, optimizer = trained
    sketcher = GradientSketcher(model, None, SIZE)
    found = sketcher.mean(batch, AdamDirection(optimizer, model))
    stepped, names = copy.deepcopy(model), sketcher.matrices
    adam = torch.optim.AdamW(stepped.parameters(), 1.0, weight_decay=0.0)
    adam.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    adam.param_groups[0]["lr"] = 1.0
    for name, grad in autograd(model, batch, names).items():
        stepped.get_parameter(name).grad = grad
    adam.step()
    steps = {name: (model.get_parameter(name) - stepped.get_parameter(name)).detach()[None] for name in names}
    expected = CountSketch(SIZE, 0).of(steps)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_moments_that_are_not_there_are_named(model: nn.Module, batch: dict[str, Tensor]) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    sketcher = GradientSketcher(model, [name], SIZE)

    def refused(optimizer: torch.optim.Optimizer, said: str, **settings: Any) -> None:
        with pytest.raises(DataError, match=said):
            sketcher.mean(batch, SecondMoments(optimizer, model, **settings))

    weight = model.get_parameter(name)
    refused(torch.optim.AdamW([weight]), "AdamW has no moments of model.layers.0.self_attn.q_proj.weight")
    fresh = torch.optim.AdamW([weight])
    fresh.state[weight] = {"exp_avg": torch.zeros(32, 32), "exp_avg_sq": torch.zeros(32, 32), "step": 0}
    refused(fresh, "before its first step none has")
    refused(torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))]), "AdamW does not train model.layers.0")
    coded = torch.optim.AdamW([weight])
    coded.state[weight] = {"exp_avg": weight, "exp_avg_sq": torch.zeros(1024, dtype=torch.uint8), "step": 1}
    refused(coded, r"in codes \(torch.uint8\)")
    bare = torch.optim.SGD([weight])
    bare.state[weight] = {"exp_avg": weight.detach(), "exp_avg_sq": weight.detach().square(), "step": 1}
    refused(bare, "does not tell its betas and eps")
    sketcher.mean(batch, SecondMoments(bare, model, betas=(0.9, 0.999), eps=1e-8))


def test_kinds_give_preconditioners(trained: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    model, optimizer = trained
    assert GradientKind.plain.preconditioner(optimizer, model) is None
    assert isinstance(GradientKind.scaled.preconditioner(optimizer, model), SecondMoments)
    assert isinstance(GradientKind.direction.preconditioner(optimizer, model), AdamDirection)
