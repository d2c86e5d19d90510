"""What a run asks of a processor that not every one has. The trainer asks the one that it runs on, `wf plan`
the one that is planned for, in the same words. Imports no PyTorch.
"""

from __future__ import annotations

from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import GradientConfig, Precision

FP8_CAPABILITY = (9, 0)
"""Least compute capability of NVIDIA's GPUs with the fp8 products of training (bitnet_arch.fp8)."""


def wants_fp8(config: TrainConfig) -> bool:
    """Whether the run multiplies in fp8."""
    training = config.training
    return isinstance(training, GradientConfig) and training.precision is Precision.fp8_experimental


def too_old_for_fp8(capability: tuple[int, int] | None) -> str | None:
    """Why a GPU of this compute capability has no such products; None: it may have them, or is no GPU."""
    if capability is None or capability >= FP8_CAPABILITY:
        return None
    needed, found = (".".join(map(str, pair)) for pair in (FP8_CAPABILITY, capability))
    return f"compute capability {found}, and they need {needed}"


def no_fp8(device: str, reason: str) -> str:
    """The refusal."""
    return (
        f"training.precision={Precision.fp8_experimental}: this device ({device}) has no fp8 products "
        f"({reason}); choose training.precision=int8 or bf16"
    )
