"""Backward passes in bfloat16 and int8, and the kernels beside PyTorch's own operators."""

import copy
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from bitnet_arch import (
    BitLinear,
    Int8PerToken,
    SubLN,
    bit_linears,
    convert,
    fastest_precision,
    kernels,
    product_times_s,
    products,
    quantizer,
    set_precision,
    use_kernels,
)
from bitnet_arch import gradients as gradient_products
from bitnet_arch.activations import Int8Tokens
from bitnet_arch.attention import NAME, use_attention
from bitnet_arch.convert import ConversionConfig
from bitnet_arch.fp8 import Fp8Gradients, why_no_fp8
from bitnet_arch.gradients import PRECISIONS, Bf16Gradients, Float32Gradients, Int8Gradients
from bitnet_arch.products import _check_sums, filled_up, scaled_sums
from wf_formats.errors import LoadError

SCHEMES = ["tensor", "group64", "group128"]
RELATIVE_ERRORS = {
    "float32": 1e-6,
    "bf16": 8e-3,
    "int8": 2e-2,
    "int8_stochastic": 4e-2,
    "fp8_experimental": 5e-2,
}
"""Of a gradient, in the Frobenius norm; gradients here spread over four orders of magnitude."""


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Calling it leaves PyTorch's operators alone."""
    return lambda: monkeypatch.setattr(kernels, "_module_of", lambda _: None)


def layer_of(scheme: str, precision: str = "float32", in_features: int = 256) -> BitLinear:
    torch.manual_seed(0)
    layer = BitLinear(in_features, 72, quantizer=quantizer(scheme))
    set_precision(nn.ModuleList([layer]), precision)
    return layer


def gradients(layer: BitLinear, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output and gradients of input and weight."""
    x = x.clone().requires_grad_()
    y = layer(x)
    grads = torch.autograd.grad(y, (x, layer.weight), upstream.to(y.dtype))
    return y.detach(), *grads


def inputs(num_tokens: int, in_features: int = 256) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_tokens, in_features, generator=generator)
    upstream = torch.randn(num_tokens, 72, generator=generator)
    return x, upstream * torch.exp(torch.randn(num_tokens, 1, generator=generator)) * 1e-6


@pytest.mark.parametrize("num_tokens", [1, 7, 64])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_are_those_of_the_quantized_values(precision: str, scheme: str, num_tokens: int) -> None:
    layer = layer_of(scheme, precision)
    x, upstream = inputs(num_tokens)
    found = gradients(layer, x, upstream)
    weight = layer.quantizer.quantize(layer.weight).values().double()
    rounded = Int8PerToken().quantize(x).values().double()
    exact = (rounded @ weight.t(), upstream.double() @ weight, upstream.double().t() @ rounded)
    for mine, reference in zip(found[1:], exact[1:], strict=True):
        assert mine.dtype is torch.float32
        assert (mine - reference).norm() <= RELATIVE_ERRORS[precision] * reference.norm()
    assert (found[0] - exact[0]).norm() <= 4e-3 * exact[0].norm()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("precision", ["float32", "bf16", "int8"])
def test_kernels_compute_what_pytorch_computes(
    precision: str, scheme: str, without_kernels: Callable[[], None]
) -> None:
    assert "ternary_kernels" in kernels.describe(torch.device("cpu"))
    layer, (x, upstream) = layer_of(scheme, precision), inputs(33)
    fast, fast_codes = gradients(layer, x, upstream), layer.quantizer.quantize(layer.weight)
    without_kernels()
    assert "install" in kernels.describe(torch.device("cpu"))
    plain, codes = gradients(layer, x.clone(), upstream), layer.quantizer.quantize(layer.weight)
    assert torch.equal(fast_codes.codes, codes.codes)
    assert torch.equal(fast_codes.scales, codes.scales)
    for mine, reference in zip(fast, plain, strict=True):
        torch.testing.assert_close(mine, reference, rtol=2**-7, atol=1e-6 * reference.abs().max().item())


def test_gradients_rounded_by_chance_are_right_on_average() -> None:
    x, upstream = inputs(16)
    exact = gradients(layer_of("group64"), x, upstream)
    layer = layer_of("group64", "int8_stochastic")
    torch.manual_seed(0)
    draws = [gradients(layer, x, upstream) for _ in range(64)]
    for part in (1, 2):
        one = (draws[0][part] - exact[part]).norm()
        mean = (torch.stack([draw[part] for draw in draws]).mean(0) - exact[part]).norm()
        assert mean < 0.5 * one


def test_the_same_seed_rounds_the_same_way() -> None:
    layer, (x, upstream) = layer_of("tensor", "int8_stochastic"), inputs(16)
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        runs.append(gradients(layer, x, upstream)[2])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


class CountingInt8(Int8PerToken):
    """Counts how often it rounds."""

    count = 0

    def quantize(self, x: Tensor) -> Any:
        type(self).count += 1
        return super().quantize(x)


def test_layers_of_one_input_round_it_once_and_see_its_changes() -> None:
    first, second = layer_of("tensor"), layer_of("tensor")
    first.activation = second.activation = CountingInt8()
    x = torch.randn(5, 256)
    before = first(x)
    assert torch.equal(before, second(x))
    assert CountingInt8.count == 1
    x.mul_(-1)
    assert torch.equal(second(x), -before)
    with torch.inference_mode():
        assert torch.equal(first(x.clone()), -before)
    del x
    assert not torch.equal(first(torch.randn(5, 256)), before)


def test_a_precision_that_is_not_there_is_refused() -> None:
    layers = nn.ModuleList([BitLinear(64, 8)])
    with pytest.raises(ValueError, match="unknown precision 'fp8'; known: float32, bf16, int8"):
        set_precision(layers, "fp8")
    with pytest.raises(ValueError, match="no BitLinear"):
        set_precision(nn.Linear(2, 2), "bf16")
    assert {type(p) for p in PRECISIONS.values()} == {
        Float32Gradients,
        Bf16Gradients,
        Int8Gradients,
        Fp8Gradients,
    }


def test_why_there_is_no_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert why_no_fp8(cpu) is None

    def lacking(*_: Any, **__: Any) -> Any:
        raise RuntimeError("torch._scaled_mm is only supported on newer devices\nmore of it")

    monkeypatch.setattr(torch, "_scaled_mm", lacking)
    assert why_no_fp8(cpu) == "torch._scaled_mm is only supported on newer devices"
    monkeypatch.setattr(torch, "_scaled_mm", lambda x, y, **_: x.bfloat16() @ y.bfloat16())
    assert why_no_fp8(cpu) == "its products of ones are wrong"


def test_the_fastest_precision_is_one_that_there_is() -> None:
    assert fastest_precision() in product_times_s().keys() <= PRECISIONS.keys()


def test_a_model_with_kernels_is_the_same_model(tiny_llama: Any, without_kernels: Callable[[], None]) -> None:
    ids = torch.arange(512).view(16, 32)
    model = convert(tiny_llama(), ConversionConfig(quantizer("tensor")), ids)
    names, classes = model.state_dict().keys(), [type(m).__name__ for m in model.modules()]
    fast = copy.deepcopy(model)
    use_kernels(fast)
    use_kernels(fast)
    assert fast.state_dict().keys() == names
    assert [type(m).__name__ for m in fast.modules()] == classes
    assert any(isinstance(m, SubLN) for m in fast.modules())
    assert len(list(bit_linears(fast))) == len(list(bit_linears(model)))
    found = copy.deepcopy(fast)(input_ids=ids).logits
    without_kernels()
    difference = (found - model(input_ids=ids).logits).abs().amax((1, 2))  # of each sequence
    assert difference.median() < 1e-5
    # A last bit may round an input to the next code, which the tokens after it read too.
    assert (difference > 1e-4).sum() <= 2
    assert difference.max() < 0.05


@pytest.mark.parametrize("packed", [False, True])
def test_attention_by_kernels_is_that_of_transformers(tiny_llama: Any, packed: bool) -> None:
    ids = torch.arange(64).view(2, 32)
    positions = torch.arange(32).expand(2, 32) % (13 if packed else 32)
    stock = tiny_llama()
    fast = copy.deepcopy(stock)
    use_attention(fast)
    assert fast.config._attn_implementation == NAME
    assert f'"{NAME}"' not in fast.config.to_json_string()
    exact = stock(input_ids=ids, position_ids=positions).logits.detach()
    found = []
    for model in (stock, fast):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, position_ids=positions).logits.float()
        logits.square().mean().backward()
        found.append([logits.detach(), *(p.grad for p in model.parameters())])
    errors = [(logits - exact).norm() for logits, *_ in found]
    assert errors[1] < 1.5 * errors[0]
    for reference, mine in zip(*found, strict=True):
        assert (mine - reference).norm() <= 0.03 * reference.norm()


@pytest.mark.parametrize(
    ("rows", "n", "cols"), [(1, 1, 1), (16, 8, 72), (17, 9, 64), (40, 64, 65), (17, 8, 8)]
)
def test_factors_are_filled_up_to_what_gpus_take(rows: int, n: int, cols: int) -> None:
    x, y = (torch.randint(-128, 128, (size, n), dtype=torch.int8) for size in (rows, cols))
    wide_x, wide_y = filled_up(x, y)
    assert wide_x.shape[0] > 16
    assert wide_x.shape[1] == wide_y.shape[1]
    assert wide_x.shape[1] % 8 == wide_y.shape[0] % 8 == 0
    expected = x.int() @ y.t().int()
    assert torch.equal((wide_x.int() @ wide_y.t().int())[:rows, :cols], expected)
    if (rows, n, cols) == (17, 8, 8):
        assert wide_x is x
        assert wide_y is y


def test_layers_with_one_input_take_its_values_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the backward pass too, where autograd hands out what they kept."""
    torch.manual_seed(0)
    layers = nn.ModuleList([BitLinear(64, 24), BitLinear(64, 32), BitLinear(64, 24)])
    set_precision(layers, "bf16")
    x, other = (torch.randn(5, 64, requires_grad=True) for _ in range(2))
    made: list[Int8Tokens] = []
    divided = gradient_products._divided
    monkeypatch.setattr(gradient_products, "_divided", lambda x: (made.append(x), divided(x))[1])
    sum(layer(x).float().square().sum() for layer in layers).backward()
    assert len(made) == 1
    together = [layer.weight.grad for layer in layers]
    for layer, expected in zip(layers, together, strict=True):
        layer.weight.grad = None
        layer(other).float().square().sum().backward()
        layer.weight.grad = None
        layer(x).float().square().sum().backward()
        assert torch.equal(layer.weight.grad, expected)
    assert len(made) == 7


def test_the_cpu_has_every_kernel_that_it_needs() -> None:
    for name in get_args(kernels.Kernel):
        found = kernels.kernel_for(name, torch.float32, torch.zeros(1))
        assert (found is None) is (name in kernels.ON_GPUS), name
    assert "PyTorch operators" not in kernels.describe(torch.device("cpu"))


def test_a_missing_kernel_is_said(without_kernels: Callable[[], None]) -> None:
    without_kernels()
    assert "install the packages ternary-kernels and triton" in kernels.describe(torch.device("cuda"))
    assert kernels.describe(torch.device("mps")) == "quantized layers: PyTorch operators on mps"


def test_without_triton_pytorch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "ternary_kernels.gpu", raising=False)
    monkeypatch.setitem(kernels.MODULES, "meta", "ternary_kernels.gpu")
    kernels._module_of.cache_clear()
    assert kernels.kernel_for("swiglu", torch.float32, torch.zeros(1, device="meta")) is None
    told = kernels.describe(torch.device("meta"))
    kernels._module_of.cache_clear()
    assert told.endswith("for Triton kernels install the packages ternary-kernels and triton")


def test_kernels_that_a_device_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: None for name in get_args(kernels.Kernel) if name not in ("attention", "swiglu")}
    module = SimpleNamespace(describe=lambda: "kernels", **some)
    monkeypatch.setattr(kernels, "_module_of", lambda _: module)
    told = kernels.describe(torch.device("cuda"))
    assert told == "quantized layers: kernels; PyTorch operators for attention, swiglu"


def test_a_package_that_lacks_another_is_no_missing_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.MODULES, "meta", "package_that_is_not_there.gpu")
    with pytest.raises(ModuleNotFoundError, match="package_that_is_not_there"):
        kernels.kernel_for("swiglu", torch.float32, torch.zeros(1, device="meta"))


def _added_in_16_bits(x: Tensor, y: Tensor) -> Tensor:
    """int8 [rows, n] and [n, cols] as oneDNN multiplies them without AVX-512: x + 128, sums of pairs cut."""
    pairs = (x.int() + 128).unflatten(1, (-1, 2)).unsqueeze(-1) * y.int().unflatten(0, (-1, 2))
    return pairs.sum(2).clamp(-(2**15), 2**15 - 1).sum(1) - 128 * y.int().sum(0)


def test_sums_that_overflow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randint(-1, 2, (8, 8), dtype=torch.int8)
    assert torch.equal(_added_in_16_bits(codes, codes), torch._int_mm(codes, codes)), "small ones are exact"
    monkeypatch.setattr(torch, "_int_mm", _added_in_16_bits)
    monkeypatch.setattr(products, "_has_fast_int_mm", lambda: True)
    _check_sums.cache_clear()
    with pytest.raises(LoadError, match="take ONEDNN_MAX_CPU_ISA out of the environment"):
        scaled_sums(codes, codes, torch.ones(8, 1), None, torch.float32)
    _check_sums.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "inner", "cols"), [(1, 4, 1), (5, 64, 33), (300, 1500, 20), (7, 30, 9), (3, 0, 4)]
)
def test_sums_by_our_kernel_are_those_of_pytorch(
    rows: int, inner: int, cols: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((rows, inner), (inner, cols)))
    factors, of_columns = torch.rand(rows, 1), torch.rand(cols)
    for column_factors in (None, of_columns):
        found = []
        for is_fast in (True, False):
            monkeypatch.setattr(products, "_has_fast_int_mm", lambda is_fast=is_fast: is_fast)
            found.append(scaled_sums(x, y, factors, column_factors, dtype))
        assert torch.equal(*found)
