"""Lightning's checkpoint dictionary as a folder, and back.

config.json, model.safetensors, tokenizer   the model, as Hugging Face and bitnet_arch read it
wrinklefree.json                            stage, step, fingerprint, conversion
optimizer.safetensors                       every other tensor (optimizer moments, random state)
trainer.json                                everything else: loops, schedulers, callbacks, data
manifest.json                               size and SHA-256 of each of these
figures.json                                of a complete run only: loss, tokens, seconds
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import bitnet_arch
from bitnet_arch.tensor_files import load_tensors
from wf_formats.atomic import atomic_folder
from wf_formats.run_files import FIGURES_FILE, MANIFEST_FILE
from wf_formats.system_errors import system_errors
from wf_formats.targets import checkpoint_kind
from wrinklefree.checkpoints.manifest import verify_manifest, write_manifest
from wrinklefree.checkpoints.tree import join_tensors, split_tensors
from wrinklefree.finite import figures_text

OPTIMIZER_FILE = "optimizer.safetensors"
TRAINER_FILE = "trainer.json"
TRAINING_STATE = (OPTIMIZER_FILE, TRAINER_FILE)
CHECKPOINT = checkpoint_kind(OPTIMIZER_FILE, TRAINER_FILE, MANIFEST_FILE, FIGURES_FILE)
_PREFIX = "model."


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

    def __init__(self, model: Any, tokenizer: Any, meta: Mapping[str, Any]) -> None:
        self._template = copy.deepcopy(model).to("meta")
        self._template.tie_weights()
        self._tokenizer = tokenizer
        self._meta = dict(meta)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write everything atomically. Raises: TypeError for a value that needs pickle."""
        rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        tree, tensors = split_tensors(rest)
        path = Path(path)
        with atomic_folder(path, CHECKPOINT) as temporary:
            self._write_model(checkpoint["state_dict"], temporary, checkpoint["global_step"])
            with system_errors(path / OPTIMIZER_FILE, SafetensorError):
                save_file(tensors, temporary / OPTIMIZER_FILE)
            (temporary / TRAINER_FILE).write_text(json.dumps(tree, allow_nan=False) + "\n")
            write_manifest(temporary)

    def save_model(
        self, state: Mapping[str, Tensor], target: Path, step: int, figures: Mapping[str, Any]
    ) -> None:
        """`save_model_folder` from the module's state dict."""
        with atomic_folder(target, CHECKPOINT) as temporary:
            self._write_model(state, temporary, step)
            write_manifest(temporary)
            write_figures(temporary, figures)

    def _write_model(self, state: Mapping[str, Tensor], folder: Path, step: int) -> None:
        own = {name.removeprefix(_PREFIX): value for name, value in state.items()}
        self._template.load_state_dict(own, assign=True)
        self._template.tie_weights()
        meta = self._meta | {"step": step}
        bitnet_arch.write_checkpoint(self._template, self._tokenizer, folder, meta)
        self._template.to("meta")

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Raises: DamagedCheckpointError, bitnet_arch.CheckpointError."""
        folder = Path(path)
        verify_manifest(folder, TRAINING_STATE)
        model = bitnet_arch.load_checkpoint(folder, dtype=torch.float32).model
        tree = json.loads((folder / TRAINER_FILE).read_text())
        checkpoint: dict[str, Any] = join_tensors(tree, load_tensors(folder / OPTIMIZER_FILE))
        state = {f"{_PREFIX}{name}": value for name, value in model.state_dict().items()}
        return checkpoint | {"state_dict": state}

    def remove_checkpoint(self, path: Any) -> None:
        raise NotImplementedError("CheckpointStore.prune removes checkpoints")
