"""The quantizer as a part of models: gradients, checkpoints, refusals, calibration."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import bitnet_arch
import wf_ptq
from bitnet_arch import BitLinear, ConversionConfig, bit_linears, convert, set_precision
from bitnet_arch.activations import round_tokens
from fairy2.dense import write_dense
from wf_formats.errors import RequestError
from wf_ptq.layers import ScaledLinear

IDS = torch.randint(0, 512, (6, 24), generator=torch.Generator().manual_seed(1))
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}


def definition(x: Tensor, matrix: Tensor, num_planes: int) -> Tensor:
    """y = U' x + W' conj(x) with autograd through complex numbers, straight through the rounding."""
    (r11, r12), (r21, r22) = (rows.chunk(2, 1) for rows in matrix.chunk(2))
    weights = (torch.complex(r11 + r22, r21 - r12) / 2, torch.complex(r11 - r22, r12 + r21) / 2)
    rounded = []
    for weight in weights:
        rest, total = weight.detach(), 0
        for _ in range(num_planes):
            real = rest.real.abs() > rest.imag.abs()
            scale_re, scale_im = rest.real.abs()[real].mean(), rest.imag.abs()[~real].mean()
            plane = torch.complex(
                torch.where(real, rest.real.sign() * scale_re, 0.0),
                torch.where(real, 0.0, rest.imag.sign() * scale_im),
            )
            rest, total = rest - plane, total + plane
        rounded.append(weight + (total - weight).detach())
    inputs = x + (round_tokens(x.detach(), 1e-5).values() - x).detach()  # int8, one scale for both halves
    first, second = inputs.chunk(2, -1)
    x_complex = torch.complex(first, second)
    y = x_complex @ rounded[0].t() + x_complex.conj() @ rounded[1].t()
    return torch.cat([y.real, y.imag], -1)


@pytest.mark.parametrize("num_planes", [1, 2])
def test_forward_and_gradients_are_those_of_the_definition(num_planes: int) -> None:
    generator = torch.Generator().manual_seed(2)
    layer = BitLinear(24, 16, quantizer=bitnet_arch.quantizer(f"fairy2-w{num_planes}"))
    matrix = layer.weight.detach().clone().requires_grad_()
    x, upstream = torch.randn(5, 24, generator=generator), torch.randn(5, 16, generator=generator)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer(mine), definition(theirs, matrix, num_planes)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(y, expected, **close)
    y.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(mine.grad, theirs.grad, **close)
    torch.testing.assert_close(layer.weight.grad, matrix.grad, **close)


def test_odd_sizes_and_precisions_of_integers_are_refused(tiny_llama: Any) -> None:
    quantizer = bitnet_arch.quantizer("fairy2-w2")
    with pytest.raises(ValueError, match="rows of 7 inputs: fairy2-w2 needs an even number"):
        BitLinear(7, 4, quantizer=quantizer)
    with pytest.raises(ValueError, match=r"layers.0.mlp.gate_proj: 127 outputs: fairy2-w2 needs an even"):
        convert(tiny_llama(intermediate_size=127), ConversionConfig(quantizer))
    model = convert(tiny_llama(), ConversionConfig(quantizer))
    with pytest.raises(
        RequestError, match="'int8' multiplies integers, and weights or inputs of scheme fairy2-w2"
    ):
        set_precision(model, "int8")


@pytest.mark.parametrize("scheme", ["fairy2-w2", "levels4"])
def test_calibration_chooses_codes_that_a_checkpoint_keeps(
    scheme: str, tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tiny_llama(initializer_range=0.1, **SMALL).requires_grad_(False)
    config = ConversionConfig(bitnet_arch.quantizer(scheme))
    model = convert(copy.deepcopy(teacher), config).requires_grad_(False)
    inputs = teacher.model.embed_tokens(IDS)
    targets = wf_ptq.BlockRunner(teacher).stream(teacher.model.layers[0], inputs)
    chosen = []
    write_back = ScaledLinear.write_back

    def recording(linear: ScaledLinear) -> BitLinear:
        chosen.append(linear.matrix)
        return write_back(linear)

    monkeypatch.setattr(ScaledLinear, "write_back", recording)
    options = wf_ptq.BlockOptions(refine=wf_ptq.RefineOptions(num_steps=12, batch_size=3))
    method, block = wf_ptq.TernaryMethod(options), model.model.layers[0]
    report = method.quantize_block(wf_ptq.BlockRunner(model), block, inputs, targets, 0)
    assert all(report.solved[name] < 0.9 * report.naive[name] for name in report.naive)
    assert report.stream < report.stream_solved
    expected = model(IDS).logits
    bitnet_arch.save_checkpoint(model, None, tmp_path / "folder", {"stage": "stage1_5"})
    loaded = bitnet_arch.load_checkpoint(tmp_path / "folder").model
    bitnet_arch.use_kernels(loaded)  # as the blocks were run
    assert torch.equal(loaded(IDS).logits, expected)
    layers = [layer for _, layer in bit_linears(loaded.model.layers[0])]
    for layer, matrix in zip(layers, chosen, strict=True):
        found = layer.quantizer.quantize(layer.weight)
        assert torch.equal(found.codes, matrix.codes)
        torch.testing.assert_close(found.scales, matrix.scales, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scheme", ["fairy2-w1", "fairy2-w2", "levels4"])
def test_calibration_takes_a_matrix_of_zeros(scheme: str, tiny_llama: Any) -> None:
    teacher = tiny_llama(initializer_range=0.1, **SMALL).requires_grad_(False)
    block = teacher.model.layers[0]
    block.mlp.up_proj.weight.zero_()
    config = ConversionConfig(bitnet_arch.quantizer(scheme))
    model = convert(copy.deepcopy(teacher), config).requires_grad_(False)
    inputs = teacher.model.embed_tokens(IDS)
    targets = wf_ptq.BlockRunner(teacher).stream(block, inputs)
    options = wf_ptq.BlockOptions(refine=wf_ptq.RefineOptions(num_steps=2, batch_size=3))
    run, mine = wf_ptq.BlockRunner(model), model.model.layers[0]
    report = wf_ptq.TernaryMethod(options).quantize_block(run, mine, inputs, targets, 0)
    assert report.solved["mlp.up_proj"] == 0
    assert not mine.mlp.up_proj.weight.any()


def test_its_values_become_a_dense_model(tiny_llama: Any, tmp_path: Path) -> None:
    model = convert(tiny_llama(**SMALL), ConversionConfig(bitnet_arch.quantizer("fairy2-w2")))
    bitnet_arch.save_checkpoint(model, None, tmp_path / "coded", {"stage": "stage1"})
    write_dense(tmp_path / "coded", tmp_path / "dense")
    dense = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32)
    for name, layer in bit_linears(model):
        expected = layer.quantizer.quantize(layer.weight).values()
        assert torch.equal(dense.get_submodule(name).weight, expected), name
    with pytest.raises(RequestError, match="holds a dense model already"):
        write_dense(tmp_path / "dense", tmp_path / "again")


def test_no_checkpoint_is_replaced_by_its_values(tiny_llama: Any, tmp_path: Path) -> None:
    for name in ("mine", "other"):
        model = convert(tiny_llama(**SMALL), ConversionConfig(bitnet_arch.quantizer("fairy2-w1")))
        bitnet_arch.save_checkpoint(model, None, tmp_path / name, {"stage": "stage1"})
    for target, refusal in (("mine", "only read"), ("other", "holds a checkpoint already, which is kept")):
        before = (tmp_path / target / "model.safetensors").read_bytes()
        with pytest.raises(RequestError, match=refusal):
            write_dense(tmp_path / "mine", tmp_path / target)
        assert (tmp_path / target / "model.safetensors").read_bytes() == before
