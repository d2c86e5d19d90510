"""`distributed`: devices and processes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DistributedKind(StrEnum):
    single = "single"
    ddp = "ddp"
    fsdp = "fsdp"


class Precision(StrEnum):
    """Lightning precisions that keep float32 master weights."""

    fp32 = "32-true"
    bf16_mixed = "bf16-mixed"


@dataclass
class DistributedConfig:
    kind: DistributedKind = DistributedKind.single
    accelerator: str = "auto"
    """Lightning accelerator: auto, cpu, gpu."""
    devices: int = 1
    """Processes per node."""
    num_nodes: int = 1
    precision: Precision = Precision.fp32
    backend: str | None = None
    """Process group backend; null: nccl on GPUs, gloo on CPUs."""
