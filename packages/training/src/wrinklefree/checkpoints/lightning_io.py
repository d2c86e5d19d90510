"""Lightning's checkpoint dictionary as a folder, and back.

config.json, model.safetensors, tokenizer   the model, as Hugging Face and bitnet_arch read it
wrinklefree.json                            stage, step, fingerprint, conversion
optimizer.safetensors                       every other tensor (optimizer moments, random state)
trainer.json                                everything else: loops, schedulers, callbacks, data
manifest.json                               size and SHA-256 of each of these
figures.json                                of a complete run only: loss, tokens, seconds

Weights and other tensors are several files each where several ranks wrote them (checkpoints/sharded_io.py);
both kinds of folder are read here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

import bitnet_arch
from bitnet_arch.tensor_files import TensorFiles
from wf_formats.atomic import atomic_folder
from wf_formats.run_files import FIGURES_FILE
from wf_formats.system_errors import system_errors
from wrinklefree.checkpoints.files import CHECKPOINT, OPTIMIZER, TRAINER_FILE, part_name, stored_parts
from wrinklefree.checkpoints.manifest import DamagedCheckpointError, verify_manifest, write_manifest
from wrinklefree.checkpoints.tree import Tensors, join_tensors, split_tensors
from wrinklefree.finite import figures_text

PREFIX = "model."
"""Of the model in the module's state dict."""


def save_model_folder(
    model: Any, tokenizer: Any, folder: Path, meta: Mapping[str, Any], figures: Mapping[str, Any]
) -> None:
    """The result of a run without training state: model, manifest and figures, atomically."""
    with atomic_folder(folder, CHECKPOINT) as temporary:
        bitnet_arch.write_checkpoint(model, tokenizer, temporary, meta)
        write_manifest(temporary)
        write_figures(temporary, figures)


def write_figures(folder: Path, figures: Mapping[str, Any]) -> None:
    """After the manifest, which names the result: its digest must not depend on how long it took.

    Raises: DivergedError for a figure that is not finite.
    """
    (folder / FIGURES_FILE).write_text(figures_text(figures))


class FolderCheckpointIO(CheckpointIO):
    """Reads and writes checkpoint folders for `Trainer(plugins=[...])`.

    The module's state dict is written through a copy of the model on the meta device, whose
    parameters are exchanged for those of the state dict: the same code serves a model whose own
    parameters are sharded.

    Args:
        model: the student, before any sharding.
        meta: entries for wrinklefree.json besides the step.
    """

    is_collective = False
    """Whether every rank has to save."""

    def __init__(self, model: Any, tokenizer: Any, meta: Mapping[str, Any]) -> None:
        self._template = _on_meta(model)
        self._template.tie_weights()
        self._tokenizer = tokenizer
        self._meta = dict(meta)

    @property
    def is_done(self) -> bool:
        """Whether no checkpoint is being written."""
        return True

    def wait(self) -> None:
        """Until the last checkpoint is written. Raises: what has kept it from being."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write everything atomically. Raises: TypeError for a value that needs pickle."""
        rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        tree, tensors = split_tensors(rest)
        path, name = Path(path), part_name(OPTIMIZER, 1, 1)
        with atomic_folder(path, CHECKPOINT) as temporary:
            self._write_model(checkpoint["state_dict"], temporary, checkpoint["global_step"])
            with system_errors(path / name, SafetensorError):
                save_file(tensors, temporary / name)
            write_trainer(temporary, tree)
            write_manifest(temporary)

    def save_model(
        self, state: Mapping[str, Tensor], target: Path, step: int, figures: Mapping[str, Any]
    ) -> None:
        """`save_model_folder` from the module's state dict."""
        with atomic_folder(target, CHECKPOINT) as temporary:
            self._write_model(state, temporary, step)
            write_manifest(temporary)
            write_figures(temporary, figures)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Raises: DamagedCheckpointError, bitnet_arch.CheckpointError."""
        folder = Path(path)
        verify_manifest(folder, (TRAINER_FILE,))
        model = bitnet_arch.load_checkpoint(folder, dtype=torch.float32).model
        state = {f"{PREFIX}{name}": value for name, value in model.state_dict().items()}
        return read_rest(folder, TensorFiles(stored_parts(folder, OPTIMIZER))) | {"state_dict": state}

    def remove_checkpoint(self, path: Any) -> None:
        raise NotImplementedError("CheckpointStore.prune removes checkpoints")

    def _write_model(self, state: Mapping[str, Tensor], folder: Path, step: int) -> None:
        with self._filled(state, strict=True) as model:
            bitnet_arch.write_checkpoint(model, self._tokenizer, folder, self._meta | {"step": step})

    @contextmanager
    def _filled(self, state: Mapping[str, Tensor], *, strict: bool) -> Iterator[Any]:
        """The model with the tensors of a state dict; if not strict, others may stay on the meta device."""
        own = {name.removeprefix(PREFIX): value for name, value in state.items()}
        self._template.load_state_dict(own, assign=True, strict=strict)
        self._template.tie_weights()
        yield self._template
        self._template.to("meta")


def _on_meta(model: nn.Module) -> Any:
    """A copy without memory for its tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): _without_values(tensor) for tensor in tensors})


def _without_values(tensor: Tensor) -> Tensor:
    empty = tensor.detach().to("meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def write_trainer(folder: Path, tree: Any) -> None:
    (folder / TRAINER_FILE).write_text(json.dumps(tree, allow_nan=False) + "\n")


def read_rest(folder: Path, tensors: Tensors) -> dict[str, Any]:
    """What a checkpoint has besides the weights. Raises: DamagedCheckpointError where a tensor is missing."""
    tree = json.loads((folder / TRAINER_FILE).read_text())
    try:
        rest: dict[str, Any] = join_tensors(tree, tensors)
    except KeyError as error:
        raise DamagedCheckpointError(
            f"{folder} is damaged: none of its files has the tensor {error}"
        ) from error
    return rest
