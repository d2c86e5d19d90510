"""The strategy of `distributed=tensor_parallel_experimental`: parts of the model, and whole checkpoints.

Checkpoints are the folders of one process, which the first one writes; each process reads them whole and
takes its parts. bitnet_arch.tensor_parallel says what is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from bitnet_arch.errors import UnsupportedModelError
from bitnet_arch.tensor_parallel import check_divisible, cut_dim, joined, mesh_of, own_part
from wf_formats.errors import RequestError
from wrinklefree.checkpoints.lightning_io import FolderCheckpointIO
from wrinklefree.folder_strategy import FolderStrategy

_Change = Callable[[Tensor, int], Tensor]
"""Of a tensor that is cut along a dimension."""


def check_parts(model: Any, num_ranks: int) -> None:
    """Raises: RequestError for a model that cannot be cut into so many parts."""
    try:
        check_divisible(model, num_ranks)
    except UnsupportedModelError as error:
        raise RequestError(
            f"distributed=tensor_parallel_experimental with {num_ranks} processes: {error}; choose another "
            "number (distributed.devices), or distributed=fsdp"
        ) from error


class TensorParallelStrategy(FolderStrategy[FolderCheckpointIO]):
    def __init__(self, checkpoint_io: FolderCheckpointIO, num_processes: int, backend: str | None) -> None:
        super().__init__(checkpoint_io, data_parallel=1, tensor_parallel=num_processes, backend=backend)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors, on every rank."""
        assert self.lightning_module is not None
        dims = {name: cut_dim(name) for name, p in self.lightning_module.named_parameters() if mesh_of(p)}
        state = {name: value.detach() for name, value in self.lightning_module.state_dict().items()}
        return {n: self._joined(value, dims[n]) if n in dims else value for n, value in state.items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        for name, parameter in self.lightning_module.named_parameters():
            whole = checkpoint["state_dict"][name]
            is_cut = mesh_of(parameter) is not None
            parameter.data.copy_(self._own(whole, cut_dim(name)) if is_cut else whole)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return self._changed(optimizer, super().optimizer_state(optimizer), self._joined)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(self._changed(optimizer, state, self._own))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        if self.is_global_zero:
            super().save_checkpoint(checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self._folder_io.load_checkpoint(checkpoint_path)

    def _changed(self, optimizer: Optimizer, state: dict[str, Any], change: _Change) -> dict[str, Any]:
        """A state with the moments of parameters that are cut changed."""
        assert self.lightning_module is not None
        names = {parameter: name for name, parameter in self.lightning_module.named_parameters()}
        ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        dims = {i: cut_dim(names[p]) for i, p in enumerate(ordered) if mesh_of(p) is not None}
        changed = {
            index: {
                key: change(value, dims[index]) if index in dims and _is_moment(value) else value
                for key, value in entry.items()
            }
            for index, entry in state["state"].items()
        }
        return {**state, "state": changed}

    def _joined(self, part: Tensor, dim: int) -> Tensor:
        return joined(part, self.device_mesh["tensor_parallel"], dim)

    def _own(self, whole: Tensor, dim: int) -> Tensor:
        return own_part(whole.to(self.root_device), self.device_mesh["tensor_parallel"], dim)


def _is_moment(value: Any) -> bool:
    """And no counter."""
    return isinstance(value, Tensor) and value.dim() > 0
