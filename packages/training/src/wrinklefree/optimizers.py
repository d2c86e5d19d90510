"""Optimizers by configuration; which parameter gets which treatment is decided here, once.

matrices: 2-D weights of the blocks (weight decay; Muon's share)
embeddings: input embedding and head (no decay; 32-bit state in the 8-bit optimizer)
vectors: norms and biases (no decay)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from bitnet_arch.tensor_parallel import mesh_of, sum_of_squares
from wrinklefree.compact_adamw import CompactAdamW, moment_kernels
from wrinklefree.config.distributed import DistributedConfig
from wrinklefree.config.optimizer import (
    AdamW8bitConfig,
    AdamWConfig,
    MomentKind,
    MuonConfig,
    OptimizerConfig,
)
from wrinklefree.strategies import runs_on_cpu


def parameter_kinds(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by kind; a tied weight counts once, as embedding."""
    embedding_ids = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = cast(Any, model).get_output_embeddings()
    embedding_ids |= {id(head.weight)} if head is not None else set()
    kinds: dict[str, list[nn.Parameter]] = {"matrices": [], "embeddings": [], "vectors": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_embedding = id(parameter) in embedding_ids
            plain = "matrices" if parameter.ndim == 2 else "vectors"
            kinds["embeddings" if is_embedding else plain].append(parameter)
    return kinds


def _adam_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    kinds = parameter_kinds(model)
    return [
        {"params": params, "weight_decay": config.weight_decay if kind == "matrices" else 0.0}
        for kind, params in kinds.items()
        if params
    ]


def _adamw(model: nn.Module, config: AdamWConfig, learning_rate: float) -> Optimizer:
    betas = (config.beta1, config.beta2)
    if config.state is not MomentKind.float32:
        names = {parameter: name for name, parameter in model.named_parameters()}
        groups = _adam_groups(model, config)
        for group in groups:
            group["params"] = [(names[parameter], parameter) for parameter in group["params"]]
        return CompactAdamW(groups, learning_rate, betas, config.eps, config.state)
    return torch.optim.AdamW(
        _adam_groups(model, config), learning_rate, betas, config.eps, fused=config.fused
    )


def _adamw_8bit(model: nn.Module, config: AdamW8bitConfig, learning_rate: float) -> Optimizer:
    import bitsandbytes

    optim: Any = bitsandbytes.optim
    manager = optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    optimizer: Optimizer = optim.AdamW8bit(
        _adam_groups(model, config),
        lr=learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        min_8bit_size=config.min_8bit_size,
    )
    return optimizer


class MuonWithAdamW(Optimizer):
    """Muon and AdamW behind the interface of one optimizer (Lightning automates only one).

    The groups and the state of the two are those of this object, so schedulers and checkpoints see
    an ordinary optimizer; a group's `kind` says whose it is.
    """

    def __init__(self, muon: Optimizer, adamw: Optimizer) -> None:
        self._parts = {"muon": muon, "adamw": adamw}
        groups = [g | {"kind": k} for k, part in self._parts.items() for g in part.param_groups]
        super().__init__(groups, defaults={})
        self._share()

    def _share(self) -> None:
        for kind, part in self._parts.items():
            part.param_groups = [g for g in self.param_groups if g["kind"] == kind]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts.values():
            part.step()
        return loss


def _muon(model: nn.Module, config: MuonConfig, learning_rate: float) -> Optimizer:
    kinds = parameter_kinds(model)
    muon = torch.optim.Muon(
        kinds["matrices"],
        lr=learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        nesterov=config.nesterov,
        ns_steps=config.newton_schulz_steps,
        adjust_lr_fn="match_rms_adamw" if config.match_adamw_rms else "original",
    )
    adamw = torch.optim.AdamW(
        [{"params": kinds[kind]} for kind in ("embeddings", "vectors") if kinds[kind]],
        lr=learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=0.0,
    )
    return MuonWithAdamW(muon, adamw)


def check_device(config: OptimizerConfig, where: DistributedConfig) -> None:
    """Raises: RequestError for an optimizer that cannot run on the device of the run."""
    if isinstance(config, AdamWConfig) and config.state is not MomentKind.float32:
        moment_kernels(config.state, [torch.empty(0, device="cpu" if runs_on_cpu(where) else "meta")])


def build_optimizer(model: nn.Module, config: OptimizerConfig, learning_rate: float) -> Optimizer:
    """The optimizer of a configuration. Raises TypeError for a schema without a builder."""
    builders: dict[type, Callable[..., Optimizer]] = {
        AdamWConfig: _adamw,
        AdamW8bitConfig: _adamw_8bit,
        MuonConfig: _muon,
    }
    if type(config) not in builders:
        raise TypeError(f"no optimizer is built from {type(config).__name__}")
    return builders[type(config)](model, config, learning_rate)


def total_grad_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """L2 norm over all gradients; for sharded ones and parts over all ranks."""
    trained = [(p, p.grad) for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([grad for p, grad in trained if mesh_of(p) is None])
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    parts = [(grad, mesh) for p, grad in trained if (mesh := mesh_of(p)) is not None]
    if not parts:
        return norm
    return (norm.float().pow(2) + sum_of_squares([grad for grad, _ in parts], parts[0][1])).sqrt()
