"""Sketches of a ternary model's gradients are those of its training step, straight through."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import tiny_model

from bitnet_arch import ConversionConfig, bit_linears, convert, quantizer, set_lambda, set_precision
from bitnet_arch.fused import use_kernels
from data_handler.influence import CountSketch, GradientSketcher

SIZE = 512


@pytest.mark.parametrize("lambda_", [0.3, 1.0])
@pytest.mark.parametrize("sub_norm", [False, True])
def test_sketches_of_a_ternary_model(lambda_: float, sub_norm: bool) -> None:
    torch.manual_seed(0)
    ids = torch.randint(3, 512, (3, 24))
    model = tiny_model(num_hidden_layers=1)
    convert(model, ConversionConfig(quantizer("group64"), sub_norm=sub_norm), naive=True)
    use_kernels(model)
    set_lambda(model, lambda_)
    positions = torch.arange(24).expand(3, -1)
    sketcher = GradientSketcher(model, None, SIZE)
    assert sketcher.matrices == [f"{name}.weight" for name, _ in bit_linears(model)]
    grads = []
    for row in range(3):
        alone = copy.deepcopy(model)
        alone(
            input_ids=ids[row : row + 1],
            labels=ids[row : row + 1],
            position_ids=positions[:1],
            use_cache=False,
        ).loss.backward()
        grads.append({name: alone.get_parameter(name).grad for name in sketcher.matrices})
    expected = CountSketch(SIZE, 0).of(
        {name: torch.stack([grad[name] for grad in grads]) for name in sketcher.matrices}
    )
    batch = {"input_ids": ids, "labels": ids, "position_ids": positions}
    found = sketcher.per_example(batch)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    torch.testing.assert_close(sketcher.mean(batch), expected.mean(0), rtol=1e-3, atol=1e-5)


def test_sketches_of_products_in_int8_are_near_and_draw_no_numbers() -> None:
    """Gradients of inputs are rounded by chance, those of weights are taken in float32."""
    torch.manual_seed(0)
    ids = torch.randint(3, 512, (2, 24))
    model = tiny_model(num_hidden_layers=1)
    convert(model, ConversionConfig(quantizer("group64"), sub_norm=False))
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(24).expand(2, -1)}
    sketcher = GradientSketcher(model, None, SIZE)
    expected = sketcher.per_example(batch)
    set_precision(model, "int8_stochastic")
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        found = sketcher.per_example(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.cosine_similarity(found, expected).min() > 0.99
