"""SubLN: an RMSNorm in front of a ternary linear, with a floor.

    y = g * x / sqrt(mean(x^2) + eps * 4^k)

SubLN (Wang et al. 2022, arXiv 2210.06423; BitNet b1.58) normalizes the input of the attention
output and of the down projection. `eps * 4^k` is the floor: tokens whose RMS lies below
sqrt(eps) * 2^k pass (nearly) linearly, louder ones are normalized. k = 0 is the usual SubLN.

The floor is exact in every runtime that knows only one eps: dividing the input by 2^k gives
    g * (x / 2^k) / sqrt(mean((x / 2^k)^2) + eps),
the same number to the bit, and 2^-k moves into the linear that makes x (v_proj, up_proj).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitnet_arch.fused import rms_norm


class SubLN(nn.Module):
    """RMSNorm over the last dimension with gain `weight` [features] and floor exponent `log2_floor` (k)."""

    def __init__(
        self,
        num_features: int,
        eps: float,
        log2_floor: int = 0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))
        self.base_eps = eps
        self.log2_floor = log2_floor

    @property
    def eps(self) -> float:
        return self.base_eps * 4.0**self.log2_floor

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] -> the same shape and dtype, computed in float32."""
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.base_eps}, log2_floor={self.log2_floor}"
