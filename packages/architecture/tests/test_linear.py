"""BitLinear against transformers' AutoBitLinear, against float64, and its blending."""

import copy

import pytest
import torch
from torch import nn
from transformers.integrations.bitnet import AutoBitLinear

from bitnet_arch import (
    BitLinear,
    Int8PerToken,
    SubLN,
    TernaryQuantizer,
    bit_linears,
    get_lambda,
    int8_matmul,
    quantizer,
    set_lambda,
)

GROUPS = ["tensor", "group64", "group128"]


def layer_and_input(
    scheme: str, in_features: int = 128, bias: bool = False
) -> tuple[BitLinear, torch.Tensor]:
    torch.manual_seed(3)
    layer = BitLinear(in_features, 48, bias, quantizer(scheme))
    return layer, torch.randn(2, 7, in_features)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("in_features", [128, 65])
def test_equals_transformers_forward_and_gradients(in_features: int, bias: bool) -> None:
    ours, x = layer_and_input("tensor", in_features, bias)
    theirs = AutoBitLinear(in_features, 48, bias, online_quant=True)
    theirs.load_state_dict(ours.state_dict())
    grads = []
    for layer in (ours, theirs):
        inputs = x.clone().requires_grad_()
        y = layer(inputs)
        y.square().sum().backward()
        grads.append([y.detach(), inputs.grad, *(parameter.grad for parameter in layer.parameters())])
    for mine, reference in zip(*grads, strict=True):
        torch.testing.assert_close(mine, reference, rtol=2e-6, atol=2e-6 * reference.abs().max().item())


@pytest.mark.parametrize("scheme", GROUPS)
@pytest.mark.parametrize("num_tokens", [1, 7, 33])
def test_int8_product_is_exact(scheme: str, num_tokens: int) -> None:
    torch.manual_seed(num_tokens)
    x, weight = torch.randn(num_tokens, 256), torch.randn(40, 256)
    rounded, matrix = Int8PerToken().quantize(x), quantizer(scheme).quantize(weight)
    exact = (rounded.codes.double() / rounded.inverse_scale.double()) @ matrix.values().double().t()
    y = int8_matmul(rounded, matrix).double()
    torch.testing.assert_close(y, exact, rtol=0, atol=2e-6 * exact.abs().max().item())


@pytest.mark.parametrize("scheme", GROUPS)
def test_blend_ends_at_full_precision_and_at_the_quantized_layer(scheme: str) -> None:
    layer, x = layer_and_input(scheme)
    quantized = layer(x)
    dense = nn.functional.linear(x, layer.weight)
    layer.lambda_ = 0.0
    torch.testing.assert_close(layer(x), dense, rtol=0, atol=0)
    layer.lambda_ = 1 - 1e-7
    torch.testing.assert_close(layer(x), quantized, rtol=1e-4, atol=1e-4)
    layer.lambda_ = 0.5
    middle = layer(x)
    assert not torch.allclose(middle, dense, atol=1e-2)
    assert not torch.allclose(middle, quantized, atol=1e-2)


def test_blended_gradient_is_straight_through() -> None:
    layer, x = layer_and_input("tensor")
    layer.lambda_ = 0.3
    upstream = torch.randn(2, 7, 48)
    x.requires_grad_()
    layer(x).backward(upstream)
    rounded = layer.quantizer.quantize(layer.weight).values()
    weight = layer.weight.detach() + 0.3 * (rounded - layer.weight.detach())
    torch.testing.assert_close(x.grad, upstream @ weight, rtol=1e-5, atol=1e-5)


def test_lambda_belongs_to_the_model() -> None:
    first = nn.Sequential(BitLinear(64, 64), nn.ReLU(), BitLinear(64, 64))
    second = copy.deepcopy(first)
    set_lambda(first, 0.25)
    assert get_lambda(first) == 0.25
    assert get_lambda(second) == 1.0
    assert [name for name, _ in bit_linears(first)] == ["0", "2"]
    for bad in (-0.1, 1.5):
        with pytest.raises(ValueError, match=str(bad)):
            set_lambda(first, bad)
    with pytest.raises(ValueError, match="no BitLinear"):
        set_lambda(nn.Linear(2, 2), 0.5)
    first[0].lambda_ = 0.75
    with pytest.raises(ValueError, match=r"0\.25, 0\.75"):
        get_lambda(first)


def test_from_linear_shares_parameters() -> None:
    linear = nn.Linear(64, 8)
    layer = BitLinear.from_linear(linear, TernaryQuantizer())
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias


def test_odd_row_length_is_refused_for_groups() -> None:
    with pytest.raises(ValueError, match="rows of 96"):
        BitLinear(96, 8, quantizer=quantizer("group64"))


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sub_norm", [False, True])
def test_weight_inputs_are_the_other_factor_of_the_weights_gradient(lambda_: float, sub_norm: bool) -> None:
    layer, x = layer_and_input("group64")
    layer.sub_norm = SubLN(128, 1e-5) if sub_norm else None
    layer.lambda_ = lambda_
    grad = torch.randn(2, 7, 48)
    layer(x).backward(grad)
    found = torch.einsum("bto,bti->oi", grad, layer.weight_inputs(x))
    torch.testing.assert_close(found, layer.weight.grad, rtol=1e-5, atol=1e-5)
