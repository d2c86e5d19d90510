"""`distributed`: devices and processes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from wrinklefree.config.ranges import number


class DistributedKind(StrEnum):
    single = "single"
    ddp = "ddp"
    fsdp = "fsdp"
    tensor_parallel_experimental = "tensor_parallel_experimental"
    """Each process has a part of every matrix (bitnet_arch.tensor_parallel); all see the same batches."""

    @property
    def is_sharded(self) -> bool:
        """Whether no process has the whole model."""
        return self in (DistributedKind.fsdp, DistributedKind.tensor_parallel_experimental)


class Accelerator(StrEnum):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"
    cuda = "cuda"
    mps = "mps"


class Backend(StrEnum):
    """Of torch.distributed."""

    gloo = "gloo"
    nccl = "nccl"
    mpi = "mpi"
    ucc = "ucc"


@dataclass
class DistributedConfig:
    kind: DistributedKind = DistributedKind.single
    accelerator: Accelerator = Accelerator.auto
    """auto: a GPU where PyTorch sees one."""
    devices: int = number(1, least=1)
    """Processes per node."""
    num_nodes: int = number(1, least=1)
    shared_output: bool = True
    """Whether all nodes see one output_dir. If not, the first process of each further node fetches the
    checkpoint from training.checkpoint.upload too, and output_dir has to be empty on all of them."""
    backend: Backend | None = None
    """Process group backend; null: nccl on GPUs, gloo on CPUs."""

    @property
    def num_readers(self) -> int:
        """Processes that each have batches of their own."""
        if self.kind is DistributedKind.tensor_parallel_experimental:
            return 1
        return self.devices * self.num_nodes
