"""Joined linears of other servers: parts as folders store them against the parts by themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ternary_kernels.served import ServedLinear, part_of, served_quantization
from ternary_kernels.torch_ops import PackedLinear
from wf_formats.errors import LoadError
from wf_formats.models.hf_compressed import quantization_config
from wf_formats.packed_codes import pack_inputs, pack_rows, pack_words

COLUMNS, ROWS = 192, (32, 8, 12)
BITNET = {"quant_method": "bitnet", "quantization_mode": "offline"}
METHODS = {
    "words, groups": quantization_config("group64"),
    "words, one scale": quantization_config("tensor"),
    "inputs": {"quant_method": "wrinklefree_packed", "scheme": "group64"},
    "rows, 1 / s": BITNET | {"linear_class": "bitlinear"},
    "rows, s": BITNET | {"linear_class": "autobitlinear"},
}
PACK: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "words": pack_words,
    "inputs": pack_inputs,
    "rows": pack_rows,
}


def _numbers(method: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a part, and its scales for each row: [rows, 1] or [rows, groups]."""
    random = np.random.default_rng(seed)
    rows = ROWS[seed]
    codes = random.integers(-1, 2, (rows, COLUMNS)).astype(np.int8)
    if "groups" in method or method == "inputs":
        return codes, random.uniform(0.5, 1, (rows, 3)).astype(np.float16).astype(np.float32)
    return codes, np.full((rows, 1), random.choice([0.25, 0.5, 2]), np.float32)


def _stored(method: str, codes: np.ndarray, scales: np.ndarray) -> dict[str, torch.Tensor]:
    """The tensors that the folder has for them."""
    kind = method.split(",")[0]
    packed = torch.from_numpy(PACK[kind](codes))
    if kind == "rows":
        scales = 1 / scales[:1, 0] if method.endswith("/ s") else scales[:1, 0]
    tensors = {"weight_scale": torch.from_numpy(scales)}
    if kind != "words":
        return tensors | {"weight": packed}
    return tensors | {"weight_packed": packed, "weight_shape": torch.tensor(codes.shape)}


def _empty(method: str, rows: tuple[int, ...] = ROWS) -> ServedLinear:
    return ServedLinear("model.layers.0.qkv_proj", served_quantization(METHODS[method]), COLUMNS, rows)


def _filled(method: str) -> ServedLinear:
    linear = _empty(method)
    for part in (2, 0, 1):  # in whatever order files have them
        for name, tensor in _stored(method, *_numbers(method, part)).items():
            linear.load(name, tensor, part)
    return linear


@pytest.mark.parametrize("method", METHODS)
def test_joined_parts_compute_what_each_computes(method):
    x = torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(3))
    singles = [_numbers(method, part) for part in range(3)]
    expected = [
        PackedLinear.from_ternary(torch.from_numpy(codes), torch.from_numpy(scales).squeeze(1))(x)
        for codes, scales in singles
    ]
    layer = _filled(method).packed()
    assert (layer.in_features, layer.out_features) == (COLUMNS, sum(ROWS))
    # Group scales are kept as float16 times a power of two per row: equal to the bit for these.
    torch.testing.assert_close(layer(x), torch.cat(expected, 1), rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_part_that_is_joined_in_the_folder_already(method):
    """As Phi-3 has them."""
    linear, (codes, scales) = _empty(method, (24, 8)), _numbers(method, 0)
    for name, tensor in _stored(method, codes, scales).items():
        linear.load(name, tensor)
    x = torch.randn(2, COLUMNS)
    expected = PackedLinear.from_ternary(torch.from_numpy(codes), torch.from_numpy(scales).squeeze(1))
    assert torch.equal(linear.packed()(x), expected(x))


def test_on_the_layer_of_a_server():
    """What vLLM and SGLang do: parameters by name, the loader of each with its shard, then the product."""
    linear, layer = _empty("words, groups"), torch.nn.Module()
    linear.expect_on(layer)
    parameters = dict(layer.named_parameters())
    assert sum(parameter.numel() for parameter in parameters.values()) == 0
    for part, shard in enumerate("qkv"):
        for name, tensor in _stored("words, groups", *_numbers("words, groups", part)).items():
            assert parameters[name].dtype == tensor.dtype
            parameters[name].weight_loader(parameters[name], tensor, shard)
    linear.pack_into(layer)
    assert not list(layer.parameters())
    assert {name for name, _ in layer.named_buffers()} >= {"ternary.data", "ternary.group_scales"}
    x = torch.randn(2, COLUMNS)
    assert torch.equal(layer.ternary(x), _filled("words, groups").packed()(x))


def test_names_of_parts():
    assert [part_of(shard) for shard in ("q", "k", "v", 0, 1, None)] == [0, 1, 2, 0, 1, None]
    for shard in ("x", True, (0, 1)):
        with pytest.raises(LoadError, match="known are q, k, v"):
            part_of(shard)


def test_a_linear_is_complete_or_refused():
    linear = _empty("words, groups")
    for part in (0, 1):
        for name, tensor in _stored("words, groups", *_numbers("words, groups", part)).items():
            linear.load(name, tensor, part)
    with pytest.raises(LoadError, match="weight_packed of part 2, weight_scale of part 2, weight_shape of"):
        linear.packed()
    with pytest.raises(LoadError, match="weight_scale, part 1 is there twice"):
        linear.load(
            "weight_scale", _stored("words, groups", *_numbers("words, groups", 1))["weight_scale"], 1
        )
    with pytest.raises(LoadError, match="the linear has 3 parts"):
        linear.load("weight_scale", torch.ones(1), 3)
    whole = _filled("rows, s")
    whole.load("weight", torch.zeros(sum(ROWS) // 4, COLUMNS, dtype=torch.uint8))
    whole.load("weight_scale", torch.ones(1))
    with pytest.raises(LoadError, match="both whole and in parts"):
        whole.packed()


@pytest.mark.parametrize(
    ("method", "name", "tensor", "message"),
    [
        (
            "words, groups",
            "weight",
            torch.zeros(8, 12),
            "is none of weight_packed, weight_scale, weight_shape",
        ),
        ("words, groups", "weight_packed", torch.zeros(8, 12), "is torch.float32, expected torch.int32"),
        ("words, groups", "weight_packed", torch.zeros(8, 11), r"shape \[8, 11\], the model has \[8, 12\]"),
        ("words, groups", "weight_shape", torch.tensor([8, 7]), r"says \[8, 7\], the model has \[8, 192\]"),
        ("words, one scale", "weight_scale", torch.ones(8, 3), r"the model has \[8, 1\]"),
        ("inputs", "weight_scale", torch.ones(8, 3, dtype=torch.int8), "int8, expected floats"),
        ("rows, s", "weight", torch.zeros(8, 192, dtype=torch.uint8), r"the model has \[2, 192\]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(method, name, tensor, message):
    with pytest.raises(LoadError, match=message) as caught:
        _empty(method).load(name, tensor, 1)
    assert "model.layers.0.qkv_proj" in str(caught.value)


@pytest.mark.parametrize(("method", "scale"), [("rows, 1 / s", 0.0), ("rows, s", float("nan"))])
def test_a_scale_that_is_no_number_is_refused(method, scale):
    linear, (codes, scales) = _empty(method, ROWS[:1]), _numbers(method, 0)
    linear.load("weight", _stored(method, codes, scales)["weight"], 0)
    linear.load("weight_scale", torch.tensor([scale]), 0)
    with pytest.raises(LoadError, match="the file is damaged"):
        linear.packed()


def test_what_is_no_code_is_refused():
    linear, (codes, scales) = _empty("inputs", ROWS[:1]), _numbers("inputs", 0)
    stored = _stored("inputs", codes, scales)
    stored["weight"][3, 5] = 0b01111111  # a level of 3 in one group with levels of 1
    for name, tensor in stored.items():
        linear.load(name, tensor, 0)
    with pytest.raises(LoadError, match="is not ternary"):
        linear.packed()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "wrinklefree", "scheme": "group64"}, "export it first"),
        (BITNET | {"quantization_mode": "online", "linear_class": "autobitlinear"}, "export it first"),
        ({"quant_method": "gptq", "bits": 4}, "quant_method 'gptq' is not supported"),
        (quantization_config("group64") | {"ignore": []}, "ignore"),
    ],
)
def test_folders_of_another_kind_are_refused(settings, message):
    with pytest.raises(LoadError, match=message):
        served_quantization(settings)


@pytest.mark.parametrize(
    ("method", "columns", "rows"), [("words, one scale", 200, 8), ("inputs", 96, 8), ("rows, s", 192, 6)]
)
def test_sizes_that_do_not_divide_are_refused(method, columns, rows):
    linear = ServedLinear("l", served_quantization(METHODS[method]), columns, [rows])
    with pytest.raises(LoadError, match="do not divide"):
        linear.load("weight_scale", torch.ones(1))
