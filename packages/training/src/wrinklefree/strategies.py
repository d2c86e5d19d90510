"""Lightning strategies by configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.distributed.tensor import DTensor

from bitnet_arch.fp8 import why_no_fp8
from wrinklefree.checkpoints.lightning_io import FolderCheckpointIO
from wrinklefree.checkpoints.sharded_io import ShardedCheckpointIO
from wrinklefree.config.distributed import Accelerator, Backend, DistributedConfig, DistributedKind
from wrinklefree.config.root import TrainConfig
from wrinklefree.device_checks import no_fp8, too_old_for_fp8, wants_fp8
from wrinklefree.errors import RunError
from wrinklefree.folder_strategy import FolderStrategy
from wrinklefree.tensor_parallel import TensorParallelStrategy


class ShardedStrategy(FolderStrategy[ShardedCheckpointIO]):
    """FSDP2 whose checkpoints are the same folders as those of one process.

    Each rank writes its share of weights and optimizer moments and reads its rows
    (checkpoints/sharded_io.py), so a run may change between ddp and fsdp at a checkpoint, and no rank holds
    the whole.
    """

    def __init__(self, checkpoint_io: ShardedCheckpointIO, num_processes: int, backend: str | None) -> None:
        super().__init__(checkpoint_io, data_parallel=num_processes, tensor_parallel=1, backend=backend)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Sharded tensors; of a tied weight one."""
        assert self.lightning_module is not None
        once = {name for name, _ in self.lightning_module.named_parameters()}
        state = self.lightning_module.state_dict()
        return {name: value.detach() for name, value in state.items() if name in once}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        own, given = self.lightning_module_state_dict(), checkpoint["state_dict"]
        if own.keys() != given.keys():
            different = sorted(own.keys() ^ given.keys())
            raise ValueError(f"the checkpoint's tensors differ from the model's: {different[:5]}")
        for name, value in own.items():
            value.to_local().copy_(given[name])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self._folder_io.load_checkpoint(checkpoint_path, like=self._sharded_parameters())

    def _sharded_parameters(self) -> dict[str, DTensor]:
        """Where in a checkpoint the moments of a parameter are -> the parameter."""
        found = {}
        for number, optimizer in enumerate(self.optimizers):
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            for index, parameter in enumerate(parameters):
                assert isinstance(parameter, DTensor)
                found[f"optimizer_states.{number}.state.{index}"] = parameter
        return found


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


def check_precision(config: TrainConfig) -> None:
    """Raises: RunError for products that the device of the run does not have."""
    if not wants_fp8(config):
        return
    is_mps = torch.backends.mps.is_available()
    device = "cpu" if runs_on_cpu(config.distributed) else "mps" if is_mps else "cuda"
    reason = too_old_for_fp8(torch.cuda.get_device_capability()) if device == "cuda" else None
    if (reason := reason or why_no_fp8(torch.device(device))) is not None:
        raise RunError(no_fp8(device, reason))


def _without(asked: str, found: str) -> str:
    return f"distributed.{asked}: PyTorch finds {found} here; set distributed.accelerator=cpu or auto"


def build_strategy(config: DistributedConfig, checkpoint_io: FolderCheckpointIO) -> Strategy | str:
    """Strategy of `distributed.kind`."""
    num_processes = config.devices * config.num_nodes
    if config.kind is DistributedKind.ddp:
        return DDPStrategy(
            checkpoint_io=checkpoint_io,
            process_group_backend=config.backend,
            gradient_as_bucket_view=True,
        )
    if config.kind is DistributedKind.tensor_parallel_experimental:
        return TensorParallelStrategy(checkpoint_io, num_processes, config.backend)
    if isinstance(checkpoint_io, ShardedCheckpointIO):
        return ShardedStrategy(checkpoint_io, num_processes, config.backend)
    return "auto"
