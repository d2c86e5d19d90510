"""Lightning strategies by configuration; FSDP2 with whole (not sharded) checkpoint folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    Strategy,
)
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from wrinklefree.config.distributed import Accelerator, Backend, DistributedConfig, DistributedKind
from wrinklefree.distributed import full_tensor
from wrinklefree.errors import RunError


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 whose checkpoints are the same folders as those of one process.

    Lightning's own version writes torch.distributed.checkpoint folders with pickle. Here weights
    and optimizer moments are gathered tensor by tensor and rank 0 writes them through the
    CheckpointIO; on loading each rank reads the folder and keeps its shards. So a run may change
    between ddp and fsdp at a checkpoint. Cost: gathering is collective and every rank gets the full
    tensors, so each holds the full weights and moments once while a checkpoint is written or read.
    """

    def __init__(self, checkpoint_io: CheckpointIO, num_processes: int, backend: str | None) -> None:
        super().__init__(
            data_parallel_size=num_processes, tensor_parallel_size=1, process_group_backend=backend
        )
        self._folder_io = checkpoint_io

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        return {name: full_tensor(value.detach()) for name, value in state.items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        given = checkpoint["state_dict"]
        if own.keys() != given.keys():
            different = sorted(own.keys() ^ given.keys())
            raise ValueError(f"the checkpoint's tensors differ from the model's: {different[:5]}")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(_like(given[name], value))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        plain: Optimizer = getattr(optimizer, "_optimizer", optimizer)
        state = plain.state_dict()
        full = {
            index: {key: full_tensor(value) for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        return state | {"state": full}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            sharded = {
                index: {key: _like(value, parameters[index]) for key, value in entry.items()}
                for index, entry in state["state"].items()
            }
            optimizer.load_state_dict(state | {"state": sharded})

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        if self.is_global_zero:
            self._folder_io.save_checkpoint(checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self._folder_io.load_checkpoint(checkpoint_path)


def _like(value: Any, reference: Tensor) -> Any:
    """`value` sharded as `reference` is, if it has its shape; anything else as it is."""
    if not isinstance(value, Tensor) or not isinstance(reference, DTensor):
        return value
    if value.shape != reference.shape:
        return value
    local = value.to(reference.to_local().device)
    return distribute_tensor(local, reference.device_mesh, reference.placements)


def cluster_environment() -> ClusterEnvironment:
    """torchrun's where it started this process, else Lightning's own.

    Said to Lightning, which would otherwise guess from what is installed and from variables of a batch
    system (SLURM_*, OMPI_*, LSB_*), under which one process may run alone as well.
    """
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()


def runs_on_cpu(config: DistributedConfig) -> bool:
    has_other = torch.cuda.is_available() or torch.backends.mps.is_available()
    return config.accelerator is Accelerator.cpu or (config.accelerator is Accelerator.auto and not has_other)


def check_devices(config: DistributedConfig) -> None:
    """Raises: RunError for devices or a backend that this machine does not have."""
    num_gpus = torch.cuda.device_count()
    wants_cuda = config.accelerator in (Accelerator.cuda, Accelerator.gpu)
    has_mps = torch.backends.mps.is_available()
    if wants_cuda and num_gpus == 0 and not (has_mps and config.accelerator is Accelerator.gpu):
        raise RunError(_without(f"accelerator={config.accelerator}", f"no GPU (torch {torch.__version__})"))
    if config.accelerator is Accelerator.mps and not has_mps:
        raise RunError(_without("accelerator=mps", "no Apple GPU"))
    if (
        num_gpus
        and config.accelerator not in (Accelerator.cpu, Accelerator.mps)
        and config.devices > num_gpus
    ):
        raise RunError(
            f"distributed.devices={config.devices}: there are {num_gpus} GPUs here; set distributed.devices="
            f"{num_gpus}, or distributed.accelerator=cpu"
        )
    if config.backend is not None and not dist.is_backend_available(config.backend.value):
        raise RunError(
            f"distributed.backend={config.backend}: this build of torch ({torch.__version__}) has none; "
            "leave it out for the default"
        )
    if config.backend is Backend.nccl and (num_gpus == 0 or config.accelerator is Accelerator.cpu):
        raise RunError("distributed.backend=nccl is for GPUs: set distributed.backend=gloo, or leave it out")


def _without(asked: str, found: str) -> str:
    return f"distributed.{asked}: PyTorch finds {found} here; set distributed.accelerator=cpu or auto"


def build_strategy(config: DistributedConfig, checkpoint_io: CheckpointIO) -> Strategy | str:
    """Strategy of `distributed.kind`."""
    num_processes = config.devices * config.num_nodes
    if config.kind is DistributedKind.ddp:
        return DDPStrategy(
            checkpoint_io=checkpoint_io,
            process_group_backend=config.backend,
            gradient_as_bucket_view=True,
        )
    if config.kind is DistributedKind.fsdp:
        return ShardedStrategy(checkpoint_io, num_processes, config.backend)
    return "auto"
