"""Checkpoint folders that all ranks write together, each its share, and read back each its rows.

1. `take_share`: every tensor goes, whole, to the rank that owns it.
2. The first rank makes the temporary folder. Each writes, syncs and hashes the files of what it owns:
       model-00001-of-00002.safetensors       weights, as Hugging Face splits them
       optimizer-00001-of-00002.safetensors   moments
   (without a number where there is one alone).
3. When all have, the first one writes the rest as checkpoints/lightning_io.py says, with the index of the
   weights, and the manifest last, and renames the folder.

So a folder is one that any number of processes goes on from, or none, and that exports read. An error of one
rank (a full disk, say) is the error of all, and the folder does not appear. On loading each rank reads the
rows that it trains with, from these folders or from those of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

import bitnet_arch
from bitnet_arch.tensor_files import TensorFiles
from wf_formats.atomic import atomic_folder, errors_about, sync
from wf_formats.system_errors import system_errors
from wrinklefree.checkpoints.files import (
    CHECKPOINT,
    OPTIMIZER,
    TRAINER_FILE,
    WEIGHTS,
    part_name,
    stored_parts,
)
from wrinklefree.checkpoints.lightning_io import (
    PREFIX,
    FolderCheckpointIO,
    read_rest,
    write_figures,
    write_trainer,
)
from wrinklefree.checkpoints.manifest import describe, verify_manifest, write_manifest
from wrinklefree.checkpoints.shares import rows_of, sharded_like, take_share
from wrinklefree.checkpoints.tree import split_tensors
from wrinklefree.distributed import gather_from_ranks, is_distributed, rank, together

T = TypeVar("T")
_MOST_BYTES = "5GB"
"""Of a file."""


@dataclass(frozen=True)
class _Written:
    """A file that a rank has written."""

    name: str
    tensors: list[str]
    num_bytes: int
    """Of the tensors."""
    description: dict[str, Any]


class ShardedCheckpointIO(FolderCheckpointIO):
    """Every rank has to call each of the methods.

    Args:
        in_background: has checkpoints written by a thread, from a copy in host memory (a share of weights and
            moments), while the caller goes on; one at a time, `wait` before the next.
        num_writers: so many of the first ranks see the folder, and own the tensors; None: all.
    """

    is_collective = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        meta: Mapping[str, Any],
        *,
        in_background: bool = False,
        num_writers: int | None = None,
    ) -> None:
        super().__init__(model, tokenizer, meta)
        self._num_writers = num_writers
        self._pool = ThreadPoolExecutor(1, "checkpoints") if in_background else None
        self._group: dist.ProcessGroup | None = None
        self._open: Future[None] | None = None

    @property
    def is_done(self) -> bool:
        return self._open is None or self._open.done()

    def wait(self) -> None:
        if self._open is not None:
            written, self._open = self._open, None
            written.result()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Raises: SharedError where a rank cannot write; TypeError for a value that needs pickle."""
        rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        tree, others = split_tensors(rest)
        folder = _SharedFolder(Path(path).absolute(), self._group_of_thread())
        write = partial(
            folder.write,
            *self._take_share(checkpoint["state_dict"], others),
            self._describing(checkpoint["global_step"]),
            before=lambda temporary: write_trainer(temporary, tree),
        )
        if self._pool is None:
            write()
        else:
            assert self._open is None
            self._open = self._pool.submit(write)

    def save_model(
        self, state: Mapping[str, Tensor], target: Path, step: int, figures: Mapping[str, Any]
    ) -> None:
        """The result, without training state. Raises: SharedError where a rank cannot write."""
        share = self._take_share(state, {})
        after = partial(write_figures, figures=figures)
        _SharedFolder(target.absolute()).write(*share, self._describing(step), after=after)

    def load_checkpoint(
        self,
        path: Any,
        map_location: Any | None = None,
        weights_only: bool | None = None,
        like: Mapping[str, DTensor] | None = None,
    ) -> dict[str, Any]:
        """The checkpoint with this rank's rows of the weights.

        Args: like says what a tensor `<key>.<name>` is sharded as, if it has that shape.
        Raises: SharedError where it is damaged.
        """
        checkpoint: dict[str, Any] = {}
        together(lambda: checkpoint.update(_read(Path(path), like or {})))
        return checkpoint

    def _group_of_thread(self) -> dist.ProcessGroup | None:
        if self._pool is not None and self._group is None and is_distributed():
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)
            self._group = group
        return self._group

    def _take_share(
        self, state: Mapping[str, Tensor], others: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights that this rank owns, as they are stored, and its other tensors."""
        share = take_share({**state, **others}, self._num_writers)
        with self._filled({name: share.pop(name) for name in state if name in share}, strict=False) as model:
            return bitnet_arch.tensors_on_disk(model), share

    def _describing(self, step: int) -> Callable[[Path], None]:
        meta = self._meta | {"step": step}
        return lambda folder: bitnet_arch.write_description(self._template, self._tokenizer, folder, meta)


@dataclass(frozen=True)
class _SharedFolder:
    """A folder that all ranks write. Args: path is absolute; group is that of a thread."""

    path: Path
    group: dist.ProcessGroup | None = None

    def write(
        self,
        weights: Mapping[str, Tensor],
        others: Mapping[str, Tensor],
        describe_model: Callable[[Path], None],
        before: Callable[[Path], None] = lambda _: None,
        after: Callable[[Path], None] = lambda _: None,
    ) -> None:
        """Args: the last three are what the first rank does besides: before is before the manifest."""
        with self._opened() as folder:
            files_of_weights = self._write_files(folder, WEIGHTS, weights)
            files = files_of_weights + self._write_files(folder, OPTIMIZER, others)

            def complete() -> None:
                describe_model(folder)
                _write_index(folder, files_of_weights)
                before(folder)
                write_manifest(folder, {file.name: file.description for file in files})
                after(folder)

            self._together(lambda: complete() if rank() == 0 else None)

    @contextmanager
    def _opened(self) -> Iterator[Path]:
        """`atomic_folder` of the first rank, for all."""
        with ExitStack() as stack:
            folders = together(
                lambda: stack.enter_context(atomic_folder(self.path, CHECKPOINT)) if rank() == 0 else None,
                self.group,
            )
            assert folders[0] is not None
            yield folders[0]
            together(stack.close, self.group)

    def _together(self, action: Callable[[], T]) -> list[T]:
        """`together`, with errors that name the folder."""

        def named() -> T:
            with errors_about(self.path):
                return action()

        return together(named, self.group)

    def _write_files(self, folder: Path, stem: str, tensors: Mapping[str, Tensor]) -> list[_Written]:
        """Each rank its tensors. Returns: the files of all."""
        split = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=_MOST_BYTES)
        files = [names for names in split.filename_to_tensors.values() if names]
        counts = gather_from_ranks(len(files), self.group)
        numbered = enumerate(files, 1 + sum(counts[: rank()]))
        parts = [(part_name(stem, number, sum(counts)), names) for number, names in numbered]
        written = self._together(
            lambda: [
                self._write_file(folder / name, {each: tensors[each] for each in names})
                for name, names in parts
            ]
        )
        return [file for files_of_rank in written for file in files_of_rank]

    def _write_file(self, file: Path, tensors: dict[str, Tensor]) -> _Written:
        with system_errors(self.path / file.name, SafetensorError):
            save_file(tensors, file, metadata={"format": "pt"})
        sync(file)
        return _Written(file.name, list(tensors), sum(t.nbytes for t in tensors.values()), describe(file))


def _write_index(folder: Path, files: list[_Written]) -> None:
    if len(files) == 1:
        return
    weight_map = {name: file.name for file in files for name in file.tensors}
    bitnet_arch.write_index(folder, {"total_size": sum(file.num_bytes for file in files)}, weight_map)


def _read(folder: Path, like: Mapping[str, DTensor]) -> dict[str, Any]:
    """This rank's share of a checkpoint. Raises: DamagedCheckpointError, bitnet_arch.CheckpointError."""
    num_ranks = dist.get_world_size()
    verify_manifest(folder, (TRAINER_FILE,), rank(), num_ranks)
    weights = bitnet_arch.load_rows(folder, lambda num_rows: rows_of(num_rows, rank(), num_ranks))
    rest = read_rest(folder, _OwnRows(TensorFiles(stored_parts(folder, OPTIMIZER)), like))
    return rest | {"state_dict": {f"{PREFIX}{name}": rows for name, rows in weights.items()}}


class _OwnRows:
    """Tensors of files by name: of those that are sharded this rank's rows, others whole."""

    def __init__(self, files: TensorFiles, like: Mapping[str, DTensor]) -> None:
        self._files, self._like = files, like

    def __getitem__(self, name: str) -> Tensor:
        reference = self._like.get(name.rpartition(".")[0])
        if reference is None or self._files.shape(name) != reference.shape:
            return self._files[name]
        part = rows_of(reference.shape[0], rank(), reference.device_mesh.size())
        return sharded_like(self._files.rows(name, part), reference)
