"""A quantizer that this workspace does not have: one file and one registration are all it needs.

The file stands in a folder of its own with a package's metadata, as an installed package would.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import bitnet_arch
from bitnet_arch import BitLinear, ConversionConfig, bit_linears, convert, set_lambda
from bitnet_arch.install import replace_block_linears
from bitnet_arch.quantizers import ENTRY_POINTS
from wf_formats.plugins import PluginError

SOURCE = '''
from dataclasses import dataclass

import torch

from bitnet_arch import KeepActivations, Quantizer
from wf_formats.matrix import QuantizedMatrix

SIZE = 32


@dataclass(frozen=True)
class Symmetric4Bit(Quantizer):
    """Codes -7..7, the largest weight of each 32 is +-7."""

    name = "toy4"

    def check(self, in_features):
        if in_features % SIZE:
            raise ValueError(f"rows of {in_features} inputs do not divide into groups of {SIZE}")

    def quantize(self, weight):
        self.check(weight.shape[1])
        grouped = weight.detach().float().view(weight.shape[0], -1, SIZE)
        scales = grouped.abs().amax(-1) / 7
        codes = (grouped / scales.unsqueeze(-1)).round().to(torch.int8)
        return QuantizedMatrix(codes.view(weight.shape), scales, bits=4)


@dataclass(frozen=True)
class Offset:
    """Not a QuantizedMatrix: values have zero points."""

    codes: torch.Tensor
    zeros: torch.Tensor
    step: float

    def values(self):
        return (self.codes.float() - self.zeros) * self.step


@dataclass(frozen=True)
class WeightsOnly(Quantizer):
    name = "toy-offset"
    activation = KeepActivations()

    def check(self, in_features):
        pass

    def quantize(self, weight):
        weight = weight.detach().float()
        zeros = -(weight.amin(1, keepdim=True) / 0.01).round()
        return Offset((weight / 0.01).round() + zeros, zeros, 0.01)


def make(name):
    return {"toy4": Symmetric4Bit, "toy-offset": WeightsOnly}[name]()
'''
NAMES = ("toy4", "toy-offset")
IDS = torch.randint(0, 512, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("site")
    (folder / "wf_toy_quantizer.py").write_text(SOURCE)
    info = folder / "wf_toy_quantizer-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wf-toy-quantizer\nVersion: 1\n")
    lines = [f"{name} = wf_toy_quantizer:make" for name in NAMES]
    (info / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINTS}]", *lines]) + "\n")
    monkeypatch.syspath_prepend(folder)
    bitnet_arch.quantizer.cache_clear()
    yield
    bitnet_arch.quantizer.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_gradients_are_those_of_the_rounded_values(name: str) -> None:
    layer = BitLinear(64, 24, True, bitnet_arch.quantizer(name))
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    upstream = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(2))
    y = layer(x)
    y.backward(upstream)
    weight = layer.quantizer.quantize(layer.weight).values()
    inputs = layer.activation.quantize(x).values()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(y, inputs @ weight.t() + layer.bias, **close)
    torch.testing.assert_close(x.grad, upstream @ weight, **close)
    expected = upstream.flatten(0, 1).t() @ inputs.flatten(0, 1)
    torch.testing.assert_close(layer.weight.grad, expected, **close)
    assert (weight - layer.weight).abs().max() > 1e-3
    assert torch.equal(inputs, x) == (name == "toy-offset")


@pytest.mark.parametrize("name", NAMES)
def test_it_converts_and_goes_through_a_checkpoint(tiny_llama, name: str, tmp_path: Path) -> None:
    dense = tiny_llama()
    model = convert(copy.deepcopy(dense), ConversionConfig(bitnet_arch.quantizer(name)))
    set_lambda(model, 0.0)
    assert torch.equal(model(IDS).logits, dense(IDS).logits)
    set_lambda(model, 1.0)
    expected = model(IDS).logits
    assert not torch.equal(expected, dense(IDS).logits)
    bitnet_arch.save_checkpoint(model, None, tmp_path / "folder", {"stage": "stage1"})
    loaded = bitnet_arch.load_checkpoint(tmp_path / "folder")
    assert loaded.meta["conversion"]["scheme"] == name
    assert torch.equal(loaded.model(IDS).logits, expected)
    assert {layer.quantizer.name for _, layer in bit_linears(loaded.model)} == {name}


def test_what_it_cannot_do_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows of 80"):
        BitLinear(80, 8, quantizer=bitnet_arch.quantizer("toy4"))
    toy4 = bitnet_arch.quantizer("toy4")
    with pytest.raises(NotImplementedError, match="'toy4' has no inverse"):
        toy4.master_weights(toy4.quantize(torch.ones(2, 32)), torch.ones(2, 32))


def test_unknown_names_are_refused_with_all_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'toy5'; known: tensor, group64, group128.* toy4"):
        bitnet_arch.quantizer("toy5")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("toy4 = rival:make", r"'toy4' is registered twice: .*\(by .*rival 1.*; uninstall one"),
        ("tensor = rival:make", r"'tensor' of rival 1 is the name of a built-in"),
        ("broken = rival:make", r"'broken' of rival 1 cannot be loaded from rival:make: ModuleNotFoundError"),
    ],
)
def test_names_that_are_taken_and_broken_packages(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "rival-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=message):
        bitnet_arch.quantizer(line.partition(" ")[0])


class Wrapper(nn.Module):
    """A correction added to the layer within."""

    def __init__(self, base: BitLinear) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + 0.0


@pytest.mark.parametrize("name", ["group64", "toy4"])
def test_a_wrapper_takes_any_quantizer(tiny_llama, name: str) -> None:
    plain = convert(tiny_llama(), ConversionConfig(bitnet_arch.quantizer(name)))
    wrapped = copy.deepcopy(plain)
    replace_block_linears(wrapped, lambda _, linear: Wrapper(linear))
    names = [layer for layer, _ in bit_linears(wrapped)]
    assert names == [f"{layer}.base" for layer, _ in bit_linears(plain)]
    for value in (1.0, 0.5):
        set_lambda(plain, value)
        set_lambda(wrapped, value)
        assert torch.equal(wrapped(IDS).logits, plain(IDS).logits)
