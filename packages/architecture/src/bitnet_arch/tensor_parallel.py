"""Tensor parallelism: each rank has a part of every decoder block's matrices (experimental).

    column-wise   q, k, v, gate, up: rows (outputs) of the matrix; whole heads, so attention is local
    row-wise      o, down: columns (inputs); the ranks' products are summed
    whole         everything else: embeddings, head, norms of the residual stream, norms of heads

(Shoeybi et al. 2019, arXiv 1909.08053, section 3.) A block has two sums in its forward pass (behind o and
down) and two in its backward pass (before attention and the MLP), of [tokens, hidden] each. What is not local
in a ternary layer is made whole, so that codes and scales are those of one process:

    one scale for a matrix     the mean |w| is over all ranks' parts
    scales of groups           of runs of inputs: a row-wise part has to have whole groups, else it is refused
    int8 activations           row-wise, a token's largest |x| is over all ranks' parts
    SubLN before o and down    a token's mean x^2 is, and its gradient

Sums come in another order than in one process, so results are equal up to rounding. Parameters are ordinary
tensors, not DTensors: kernels take addresses, and optimizers that work element by element need nothing else.
DTensor cuts, joins and reduces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from bitnet_arch.activations import Int8PerToken, Int8Tokens, peaks, round_by
from bitnet_arch.errors import UnsupportedModelError
from bitnet_arch.families import block_linears, blocks
from bitnet_arch.linear import BitLinear
from bitnet_arch.low_rank import BitLinearLRC
from bitnet_arch.quantizers import TernaryQuantizer
from bitnet_arch.rounding import MIN_SCALE
from bitnet_arch.subln import SubLN
from wf_formats.matrix import QuantizedMatrix

COLUMN_WISE = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
ROW_WISE = ("o_proj", "down_proj")
_HEAD_NORMS = ("q_norm", "k_norm")
_PART = "tensor_parallel_mesh"
"""Attribute of a parameter that is a part: the mesh of the others."""


def check_divisible(model: Any, num_ranks: int) -> None:
    """Raises: UnsupportedModelError for a model whose blocks cannot be cut into so many parts."""
    names, config = [name.rpartition(".")[2] for name in block_linears(model)], model.config
    if set(names) != {*COLUMN_WISE, *ROW_WISE}:
        raise UnsupportedModelError(
            f"the linears of {config.model_type} are {', '.join(names)}: fused ones cannot be cut by heads"
        )
    counts = {
        "attention heads": config.num_attention_heads,
        "key-value heads": config.num_key_value_heads,
        "values between up and down projection": config.intermediate_size,
    }
    for name, number in counts.items():
        if number % num_ranks:
            raise UnsupportedModelError(f"{number} {name} cannot be divided between {num_ranks} processes")
    for path, block in blocks(model):
        for name, linear in _linears(block):
            _check_linear(f"{path}.{name}", linear, num_ranks)


def _check_linear(name: str, linear: nn.Linear, num_ranks: int) -> None:
    is_row_wise = name.endswith(ROW_WISE)
    if is_row_wise and linear.bias is not None:
        raise UnsupportedModelError(f"{name} has a bias, which each process would add to the sum")
    if not isinstance(linear, BitLinear):
        return
    if isinstance(linear, BitLinearLRC):
        raise UnsupportedModelError(f"{name} has a low-rank correction, which is not cut")
    quantizer = linear.quantizer
    if type(quantizer) is not TernaryQuantizer:
        raise UnsupportedModelError(f"{name} is quantized as {quantizer}: ternary weights alone can be cut")
    size, columns = quantizer.group_size, linear.in_features // num_ranks
    if is_row_wise and size is not None and columns % size:
        raise UnsupportedModelError(
            f"{name}: a part of {columns} of its {linear.in_features} inputs cuts through groups of {size}"
        )


def parallelize(model: Any, mesh: DeviceMesh) -> None:
    """Cuts a model in place to this rank's parts; it then computes what it did, on all ranks together.

    Args:
        model: a causal language model of transformers, the same on all ranks, whole.
        mesh: of one dimension.
    Raises: UnsupportedModelError as `check_divisible`.
    """
    check_divisible(model, mesh.size())
    for path, _ in blocks(model):
        block: Any = model.get_submodule(path)
        for name, linear in _linears(block):
            is_row_wise = name.endswith(ROW_WISE)
            _cut(linear, mesh, is_row_wise=is_row_wise)
            if is_row_wise:
                linear.register_forward_hook(_Leaving(mesh))
        for part in (block.self_attn, block.mlp):
            part.register_forward_pre_hook(_Entering(mesh), with_kwargs=True)
        for norm in _HEAD_NORMS:
            for parameter in getattr(block.self_attn, norm, nn.Module()).parameters():
                parameter.register_hook(_Summing(mesh))


def mesh_of(parameter: Tensor) -> DeviceMesh | None:
    """Of the ranks that have the other parts of it; None: it is whole."""
    return getattr(parameter, _PART, None)


def cut_dim(name: str) -> int:
    """The dimension along which a parameter of this name is cut."""
    *_, linear, kind = name.split(".")
    return 1 if linear in ROW_WISE and kind == "weight" else 0


def own_part(whole: Tensor, mesh: DeviceMesh, dim: int) -> Tensor:
    """This rank's part."""
    return distribute_tensor(whole, mesh, [Shard(dim)], src_data_rank=None).to_local().contiguous()


def joined(part: Tensor, mesh: DeviceMesh, dim: int) -> Tensor:
    """The whole, on every rank. Collective."""
    return DTensor.from_local(part, mesh, [Shard(dim)], run_check=False).full_tensor()


def sum_of_squares(tensors: list[Tensor], mesh: DeviceMesh) -> Tensor:
    """Of all ranks' parts. Collective."""
    total = torch.stack([tensor.float().pow(2).sum() for tensor in tensors]).sum()
    dist.all_reduce(total, group=mesh.get_group())
    return total


def _linears(block: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in block.named_modules():
        if name.rpartition(".")[2] in (*COLUMN_WISE, *ROW_WISE):
            yield name, module


def _cut(linear: Any, mesh: DeviceMesh, *, is_row_wise: bool) -> None:
    _take(linear.weight, mesh, int(is_row_wise))
    if linear.bias is not None:
        _take(linear.bias, mesh, 0)
    linear.out_features, linear.in_features = linear.weight.shape
    if not isinstance(linear, BitLinear):
        return
    group_size = linear.quantizer.group_size  # type: ignore[attr-defined]  # checked
    if group_size is None:
        linear.quantizer = PartOfTernary(None, mesh)
    if is_row_wise:
        linear.activation = PartOfTokens(mesh)
        if (norm := linear.sub_norm) is not None:
            _take(norm.weight, mesh, 0)
            norm.__class__ = _PartOfSubLN
            setattr(norm, "mesh", mesh)  # noqa: B010 (it is another class now)


def _take(parameter: nn.Parameter, mesh: DeviceMesh, dim: int) -> None:
    parameter.data = own_part(parameter.data, mesh, dim)
    setattr(parameter, _PART, mesh)


# ---- what is exchanged


def _entering(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """The same on all ranks; its gradient is the sum of theirs."""
    shared = DTensor.from_local(x, mesh, [Replicate()], run_check=False)
    local: Tensor = shared.to_local(grad_placements=[Partial()])
    return local


def _leaving(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """The sum of the ranks' values, the same on all; its gradient is each one's."""
    parts = DTensor.from_local(x, mesh, [Partial()], run_check=False)
    return parts.redistribute(placements=[Replicate()]).to_local()


@dataclass(frozen=True)
class _Entering:
    """Before attention and the MLP: one exchange for all of their column-wise layers."""

    mesh: DeviceMesh

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (_entering(args[0], self.mesh), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": _entering(kwargs["hidden_states"], self.mesh)}


@dataclass(frozen=True)
class _Leaving:
    """Behind a row-wise layer."""

    mesh: DeviceMesh

    def __call__(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return _leaving(output, self.mesh)


@dataclass(frozen=True)
class _Summing:
    """Of the gradient of a weight that is whole and that each rank uses for its heads."""

    mesh: DeviceMesh

    def __call__(self, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total, group=self.mesh.get_group())
        return total


# ---- layers of which a rank has a part


@dataclass(frozen=True)
class PartOfTernary(TernaryQuantizer):
    """Of a matrix with one scale: its mean is over all parts."""

    mesh: DeviceMesh | None = field(default=None, compare=False)

    def quantize(self, weight: Tensor) -> QuantizedMatrix[Tensor]:
        assert self.mesh is not None
        total = weight.detach().float().abs().sum(dtype=torch.float64)
        dist.all_reduce(total, group=self.mesh.get_group())
        return self.quantize_by(weight, (total / (weight.numel() * self.mesh.size())).float())


@dataclass(frozen=True)
class PartOfTokens(Int8PerToken):
    """A token's scale is that of all parts of its row."""

    mesh: DeviceMesh | None = field(default=None, compare=False)

    def quantize(self, x: Tensor) -> Int8Tokens:
        assert self.mesh is not None
        largest = peaks(x.detach().float())
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.mesh.get_group())
        return round_by(x.detach().float(), largest, MIN_SCALE)


class _PartOfSubLN(SubLN):
    """The mean square is that of the whole row."""

    mesh: DeviceMesh

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        squares = _entering(_leaving(x32.pow(2).sum(-1, keepdim=True), self.mesh), self.mesh)
        mean = squares / (x.shape[-1] * self.mesh.size())
        return self.weight * (x32 * torch.rsqrt(mean + self.eps)).to(x.dtype)
