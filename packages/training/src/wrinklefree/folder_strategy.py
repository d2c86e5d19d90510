"""What strategies have in common that cut a model and keep it in the folders that one process would write."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim import Optimizer

from wrinklefree.checkpoints.lightning_io import FolderCheckpointIO

Folders = TypeVar("Folders", bound=FolderCheckpointIO)


class FolderStrategy(ModelParallelStrategy, Generic[Folders]):
    """Lightning's own version writes torch.distributed.checkpoint folders with pickle.

    Args:
        checkpoint_io: writes and reads the folders.
        data_parallel: processes that see different data.
        tensor_parallel: processes that have parts of one layer.
        backend: of torch.distributed; None: the default.
    """

    def __init__(
        self, checkpoint_io: Folders, *, data_parallel: int, tensor_parallel: int, backend: str | None
    ) -> None:
        super().__init__(
            data_parallel_size=data_parallel,
            tensor_parallel_size=tensor_parallel,
            process_group_backend=backend,
        )
        self._folder_io = checkpoint_io

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        plain: Optimizer = getattr(optimizer, "_optimizer", optimizer)
        return plain.state_dict()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        self._folder_io.save_checkpoint(checkpoint, filepath)
