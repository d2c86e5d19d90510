"""The walk over the blocks with methods and stores of its own, and linears within wrappers."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from bitnet_arch import BitLinear, KeepActivations, Quantizer, bit_linears
from bitnet_arch.install import replace_block_linears
from wf_formats.matrix import QuantizedMatrix
from wf_ptq import BlockError, BlockOptions, BlockRunner, RefineOptions, TernaryMethod, walk_blocks

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.randint(0, 512, (12, 48), generator=torch.Generator().manual_seed(5))
SHORT = TernaryMethod(BlockOptions(refine=RefineOptions(num_steps=3, batch_size=4)))


class Memory(dict):
    def save(self, name, tensors, report):
        self[name] = {key: tensor.clone() for key, tensor in tensors.items()}, dict(report)

    def load(self, name):
        return self[name]


@dataclass(frozen=True)
class Figures:
    seed: int
    shape: tuple[int, ...]


@dataclass
class Doubling:
    """Doubles every weight of a block, and keeps what it was given."""

    inputs: list[torch.Tensor] = field(default_factory=list)

    def quantize_block(self, run, block, inputs, targets, seed):
        self.inputs.append(inputs)
        for _, layer in bit_linears(block):
            layer.weight.data.mul_(2)
        return Figures(seed, tuple(targets.shape))


def test_a_method_of_ones_own_sees_the_stream_of_the_changed_blocks(make_pair) -> None:
    student, teacher = make_pair("tiny_llama", "group64")
    method, store = Doubling(), Memory()
    found = list(walk_blocks(student, teacher, IDS, method, store, seed=7))
    names = ["model.layers.0", "model.layers.1"]
    assert found == [(name, {"seed": 7 + i, "shape": (12, 48, 128)}) for i, name in enumerate(names)]
    assert list(store) == names
    expected = BlockRunner(student).stream(student.model.layers[0], method.inputs[0])
    assert torch.equal(method.inputs[1], expected)


def test_stored_blocks_are_taken_and_not_worked_on_again(make_pair) -> None:
    whole, teacher = make_pair("tiny_llama", "group64")
    store = Memory()
    list(walk_blocks(whole, teacher, IDS, SHORT, store, seed=7))
    resumed, _ = make_pair("tiny_llama", "group64")
    first = Memory({"model.layers.0": store["model.layers.0"]})
    list(walk_blocks(resumed, teacher, IDS, SHORT, first, seed=7))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


class Refusing:
    def quantize_block(self, run, block, inputs, targets, seed):
        raise ValueError("no scale fits")


def test_an_error_names_the_block(make_pair) -> None:
    student, teacher = make_pair("tiny_llama", "group64")
    with pytest.raises(BlockError, match=r"model\.layers\.0: no scale fits"):
        next(walk_blocks(student, teacher, IDS, Refusing(), Memory(), seed=0))


class Wrapper(nn.Module):
    def __init__(self, base: BitLinear) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x)


def test_linears_within_wrappers_are_found(make_pair) -> None:
    plain, teacher = make_pair("tiny_llama", "tensor")
    wrapped, _ = make_pair("tiny_llama", "tensor")
    replace_block_linears(wrapped, lambda _, linear: Wrapper(linear))
    for model in (plain, wrapped):
        list(walk_blocks(model, teacher, IDS, SHORT, Memory(), seed=7))
    layers = dict(bit_linears(wrapped))
    for name, layer in bit_linears(plain):
        assert torch.equal(layers[f"{name}.base"].weight, layer.weight), name


class Halves(Quantizer):
    name = "halves"
    activation = KeepActivations()

    def check(self, in_features):
        pass

    def quantize(self, weight):
        codes = (weight.detach().float() * 2).round().to(torch.int8)
        return QuantizedMatrix(codes, torch.tensor(0.5), bits=8)


def test_weights_that_are_not_ternary_are_refused(make_pair) -> None:
    student, teacher = make_pair("tiny_llama", "group64")
    for _, layer in bit_linears(student):
        layer.quantizer = Halves()
    with pytest.raises(BlockError, match="codes of scheme halves are not chosen on text"):
        next(walk_blocks(student, teacher, IDS, SHORT, Memory(), seed=0))
