"""PyTorch operators: values, tracing, refusals, and a transformers model made of PackedLinear."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import bitnet_arch
import ternary_kernels as tk
from ternary_kernels import torch_ops
from ternary_kernels.torch_ops import PackedLinear
from wf_formats.matrix import QuantizedMatrix

SHAPES = [("t2", 70, 100, 0), ("t2", 33, 192, 64), ("t5", 70, 100, 0), ("t5", 40, 256, 128)]
"""Format, rows, columns, group."""


def ternary(rows: int, cols: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (rows, cols), dtype=torch.int8, generator=generator)
    return codes, 0.5 + torch.rand((rows, cols // group) if group else (rows,), generator=generator)


def packed(format: str, rows: int, cols: int, group: int) -> tuple[Any, ...]:
    """Arguments of `linear` after x."""
    return (*torch_ops.pack(*ternary(rows, cols, group), format), rows, cols, group, format)


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The root conftest switches torch.compile off."""
    import torch._dynamo

    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(disable=False):
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("format", "rows", "cols", "group"), SHAPES)
@pytest.mark.parametrize("dtype", torch_ops.FLOAT_TYPES)
def test_linear_is_the_rounded_product(format, rows, cols, group, dtype):
    codes, scales = ternary(rows, cols, group)
    x = torch.randn(2, 5, cols, generator=torch.Generator().manual_seed(1)).to(dtype)
    y = torch_ops.linear(x, *packed(format, rows, cols, group))
    weight = QuantizedMatrix(codes, scales.view(rows, -1)).values().double()
    expected = bitnet_arch.Int8PerToken().quantize(x).values().double() @ weight.T
    assert y.dtype == dtype
    tolerance = {torch.float32: 2e-6 if not group else 2.0**-11}.get(dtype, 2.0**-7)
    torch.testing.assert_close(
        y.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())
    )


@pytest.mark.parametrize(("format", "rows", "cols", "group"), SHAPES)
def test_unpack_gives_back_what_was_packed(format, rows, cols, group):
    codes, scales = ternary(rows, cols, group)
    found_codes, found_scales = torch_ops.unpack(*packed(format, rows, cols, group))
    assert torch.equal(found_codes, codes)
    torch.testing.assert_close(found_scales, scales, rtol=2.0**-11 if group else 0, atol=0)


@pytest.mark.parametrize(("format", "rows", "cols", "group"), SHAPES)
def test_operators_pass_opcheck(format, rows, cols, group, compiling):
    arguments = packed(format, rows, cols, group)
    torch.library.opcheck(torch_ops.linear, (torch.randn(3, cols), *arguments))
    torch.library.opcheck(torch_ops.unpack, arguments)
    torch.library.opcheck(torch_ops.pack, (*ternary(rows, cols, group), format))


def test_linear_compiles_whole_for_any_number_of_tokens(compiling):
    layer = PackedLinear.from_ternary(*ternary(70, 128, 64), bias=torch.ones(70))
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(layer, fullgraph=True, backend=keep, dynamic=True)
    for tokens in (3, 4, 9):
        x = torch.randn(2, tokens, 128)
        assert torch.equal(compiled(x), layer(x))
    assert len(graphs) == 1
    assert any(node.target == torch.ops.ternary_kernels.linear.default for node in graphs[0].graph.nodes)


def test_linear_compiles_through_aot_autograd(compiling):
    layer = PackedLinear.from_ternary(*ternary(70, 128, 0))
    x = torch.randn(4, 128)
    with torch.no_grad():
        assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


def test_linear_has_no_gradient_and_says_so():
    x = torch.randn(3, 100, requires_grad=True)
    y = torch_ops.linear(x, *packed("t2", 70, 100, 0))
    with pytest.raises(NotImplementedError, match="no gradient: packed weights are for inference"):
        y.sum().backward()


def shifted(tensor: torch.Tensor) -> torch.Tensor:
    """The same values in memory that begins at no multiple of 64 bytes."""
    longer = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    longer[1:] = tensor.flatten()
    return longer[1:].view(tensor.shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(3, 99)}, r"x is \[3, 99\], the matrix has 192 columns"),
        ({"x": torch.tensor(1.0)}, r"x is \[\], the matrix has 192 columns"),
        ({"x": torch.zeros(3, 192, dtype=torch.float64)}, "x is torch.float64, not torch.float32 or"),
        ({"data": torch.zeros(3, 768, dtype=torch.int8)}, "data is torch.int8, not torch.uint8"),
        ({"row_scales": torch.zeros(48).double()}, "row_scales is torch.float64, not torch.float32"),
        ({"group_scales": torch.zeros(3, 3, 16)}, "group_scales is torch.float32, not torch.float16"),
        ({"data": torch.zeros(3, 767, dtype=torch.uint8)}, "data has 2301 values, 2304 are needed"),
        ({"row_scales": torch.zeros(33)}, "row_scales has 33 values, 48 are needed"),
        ({"data": torch.zeros(768, 3, dtype=torch.uint8).T}, "data is not contiguous .*call .contiguous"),
        ({"format": "t3"}, "unknown format 't3'"),
        ({"group_size": 50}, "groups of 50 inputs"),
        ({"group_size": 128}, "rows of 192 inputs do not divide into groups of 128"),
        ({"rows": -1}, "a matrix needs rows and columns, got -1 x 192"),
    ],
)
def test_linear_refuses(changes, message):
    names = ("data", "row_scales", "group_scales", "rows", "cols", "group_size", "format")
    arguments = (
        {"x": torch.zeros(3, 192)} | dict(zip(names, packed("t2", 33, 192, 64), strict=True)) | changes
    )
    with pytest.raises(ValueError, match=message):
        torch_ops.linear(**arguments)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_memory_that_kernels_cannot_load_is_refused(part):
    arguments = list(packed("t2", 33, 192, 64))
    arguments[part] = shifted(arguments[part])
    with pytest.raises(ValueError, match="bytes past a multiple of 64; copy it into memory of its own"):
        torch_ops.linear(torch.zeros(3, 192), *arguments)


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="row_scales is on cuda:0; ternary_kernels run on the CPU"):
        torch_ops._check(torch.empty(0).as_subclass(_OnCuda), "row_scales", torch.float32)


class _OnCuda(torch.Tensor):
    device = torch.device("cuda:0")  # type: ignore[assignment]


def test_codes_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"code 2 in row 0, column 1 is outside -1..1"):
        torch_ops.pack(torch.tensor([[0, 2]], dtype=torch.int8), torch.tensor(1.0), "t2")


def test_no_tokens_give_no_rows():
    assert torch_ops.linear(torch.zeros(0, 100), *packed("t5", 70, 100, 0)).shape == (0, 70)


def test_views_keep_their_matrix_alive():
    codes, scales = ternary(64, 128, 0)
    parts = tk.pack_ternary(codes.numpy(), scales.numpy(), "t2").parts()
    gc.collect()
    matrix = tk.Matrix.from_parts(*parts, 64, 128, 0, "t2")
    del parts
    gc.collect()
    np.testing.assert_array_equal(matrix.unpack()[0], codes.numpy())


def test_a_state_dict_carries_the_packed_matrix():
    made = PackedLinear.from_ternary(*ternary(70, 128, 64), bias=torch.ones(70), format="t5")
    loaded = PackedLinear(128, 70, 64, "t5", bias=torch.zeros(70))
    loaded.load_state_dict(made.state_dict())
    x = torch.randn(3, 128)
    assert torch.equal(loaded(x), made(x))
    assert "t5" in repr(loaded)


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("tiny_llama", "tensor", {}),
    ("tiny_qwen2", "group64", {}),
    ("tiny_qwen3", "group128", {}),
]


@pytest.mark.parametrize(("family", "scheme", "overrides"), CASES)
def test_a_model_of_packed_layers_gives_the_models_logits(family, scheme, overrides, request):
    make: Callable[..., Any] = request.getfixturevalue(family)
    model = make(**overrides)
    ids = torch.randint(3, 512, (16, 32), generator=torch.Generator().manual_seed(0))
    bitnet_arch.convert(model, bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme)), ids)
    with torch.no_grad():
        expected = model(ids).logits
    for name, layer in list(bitnet_arch.bit_linears(model)):
        matrix = layer.quantizer.quantize(layer.weight)
        model.set_submodule(name, PackedLinear.from_layer(layer, matrix.codes, matrix.scales))
    with torch.no_grad():
        found = model(ids).logits
    # fp16 group scales move everything by 2^-12, which flips roundings; tensor scales are exact
    tolerance = 2e-5 if scheme == "tensor" else 2e-2
    delta = (found - expected).square().mean(-1).sqrt() / expected.std()
    assert delta.quantile(0.25) < tolerance
    assert delta.mean() < 2e-2


def test_a_layer_with_a_correction_is_refused(tiny_llama):
    model = bitnet_arch.convert(tiny_llama(), bitnet_arch.ConversionConfig(bitnet_arch.quantizer("group64")))
    bitnet_arch.install_low_rank(model, 4)
    layer = model.model.layers[0].mlp.up_proj
    matrix = layer.quantizer.quantize(layer.weight)
    with pytest.raises(ValueError, match="low-rank correction, which PackedLinear does not compute"):
        PackedLinear.from_layer(layer, matrix.codes, matrix.scales)
