"""What else of a model the training kernels compute: attention, rotary positions, RMSNorm and SwiGLU.

`use_kernels` exchanges the classes of a loaded model's modules, so names, parameters, hooks and checkpoints
stay as they are; it changes nothing where there are no kernels or a module computes something else.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from bitnet_arch.attention import use_attention
from bitnet_arch.kernels import Kernel, kernel_for
from bitnet_arch.rotary import turning

_NORMS: dict[torch.dtype, Kernel] = {torch.float32: "rms_norm", torch.bfloat16: "rms_norm_bf16"}
"""By the dtype of the weight."""
_SWIGLU_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension, computed in float32.

    Args:
        x: [..., features]; weight: [features].
    """
    name = _NORMS.get(weight.dtype)
    norm = kernel_for(name, x.dtype, weight) if name is not None else None
    if norm is not None:
        normed: Tensor = norm(x, weight, eps)[0]
        return normed
    x32 = x.float()
    normalized = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normalized.to(x.dtype)


def use_kernels(model: nn.Module) -> None:
    """Attention, rotary positions, norms and SwiGLU of the model compute by kernels, where there are some."""
    use_attention(model)
    for module in model.modules():
        if isinstance(module, (_NormForward, _SwigluForward)) or hasattr(module, "turns_by_kernel"):
            continue
        if _is_plain_norm(module):
            module.__class__ = _with_kernels(cast("Hashable", type(module)), _NormForward)
        elif _is_swiglu(module):
            module.__class__ = _with_kernels(cast("Hashable", type(module)), _SwigluForward)
        elif _is_attention(module) and (with_kernels := turning(cast("Hashable", type(module)))) is not None:
            module.__class__ = with_kernels


def _is_plain_norm(module: nn.Module) -> bool:
    """transformers' RMSNorm of the Llama kind; Gemma's adds 1 to its weight and calls its eps otherwise."""
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


def _is_swiglu(module: nn.Module) -> bool:
    children = dict(module.named_children())
    return children.keys() == _SWIGLU_PARTS and isinstance(children["act_fn"], type(ACT2FN["silu"]))


def _is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")


class _NormForward:
    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class _SwigluForward:
    def forward(self: Any, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        swiglu = kernel_for("swiglu", gate.dtype, gate, up)
        return self.down_proj(self.act_fn(gate) * up if swiglu is None else swiglu(gate, up))


@cache
def _with_kernels(stock: Any, forward: Any) -> Any:
    """The stock class with another forward, under its own name."""
    names = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(stock.__name__, (forward, stock), names)
