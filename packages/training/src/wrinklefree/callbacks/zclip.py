"""ZClip: gradient clipping whose bound follows the run (Kumar et al. 2025, arXiv 2504.02507).

1. The first `warmup_steps` norms give mean m and variance v.
2. z = (norm - m) / sqrt(v). Up to the threshold z_t the gradient stays as it is.
3. Above it, the norm is set to m + (z_t^2 / z) sqrt(v): the higher the spike, the lower the bound
   ("reciprocal" clipping).
4. m and v are moving averages of the clipped norms, so spikes do not inflate them.
A fixed `max_norm` holds besides, in the warmup too. Cost: one norm over all gradients per step.
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch.optim import Optimizer

from wrinklefree.config.training import ZClipConfig
from wrinklefree.errors import DivergedError
from wrinklefree.finite import remedy_for_divergence
from wrinklefree.module import WrinkleFreeLightningModule
from wrinklefree.optimizers import total_grad_norm


class ZClipStatistics:
    """The scalar part of the algorithm: norms in, clipped norms out."""

    def __init__(self, config: ZClipConfig) -> None:
        self.config = config
        self.warmup_norms: list[float] = []
        self.mean = 0.0
        self.variance = 0.0

    @property
    def is_warm(self) -> bool:
        return len(self.warmup_norms) >= self.config.warmup_steps

    def clip(self, norm: float) -> float:
        """The norm that the gradient should have; updates the statistics."""
        adapted = norm
        if not self.is_warm:
            self.warmup_norms.append(norm)
            if self.is_warm:
                self._initialize()
        else:
            adapted = self._adapted(norm)
            self._update(adapted)
        limit = self.config.max_norm
        return adapted if limit is None else min(adapted, limit)

    def _initialize(self) -> None:
        count = len(self.warmup_norms)
        self.mean = sum(self.warmup_norms) / count
        self.variance = sum((x - self.mean) ** 2 for x in self.warmup_norms) / count

    def _adapted(self, norm: float) -> float:
        deviation = math.sqrt(self.variance)
        excess = norm - self.mean
        threshold = self.config.z_threshold
        if excess <= threshold * deviation:
            return norm
        # z_t^2 / z * deviation, with z = excess / deviation; 0 for a deviation of 0.
        return self.mean + threshold**2 * self.variance / excess

    def _update(self, norm: float) -> None:
        alpha = self.config.alpha
        self.mean = alpha * self.mean + (1 - alpha) * norm
        self.variance = alpha * self.variance + (1 - alpha) * (norm - self.mean) ** 2


class ZClip(L.Callback):
    """Applies ZClipStatistics to the gradients before each optimizer step.

    Raises: DivergedError when the gradient norm is not finite.
    """

    def __init__(self, config: ZClipConfig) -> None:
        self.statistics = ZClipStatistics(config)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        parameters = list(pl_module.model.parameters())
        norm = total_grad_norm(parameters).item()
        if not math.isfinite(norm):
            raise DivergedError(
                f"the gradient norm of step {trainer.global_step} is {norm}: "
                f"{remedy_for_divergence(trainer.global_step)}"
            )
        pl_module.step_metrics["train/grad_norm"] = norm
        if not self.statistics.config.enabled:
            return
        clipped = self.statistics.clip(norm)
        pl_module.step_metrics["train/grad_norm_clipped"] = clipped
        if clipped < norm:
            grads = [p.grad for p in parameters if p.grad is not None]
            torch._foreach_mul_(grads, clipped / norm)

    def state_dict(self) -> dict[str, Any]:
        s = self.statistics
        return {"warmup_norms": s.warmup_norms, "mean": s.mean, "variance": s.variance}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.statistics.warmup_norms = list(state_dict["warmup_norms"])
        self.statistics.mean = state_dict["mean"]
        self.statistics.variance = state_dict["variance"]
