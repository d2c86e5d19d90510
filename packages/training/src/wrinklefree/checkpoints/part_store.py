"""Finished parts of a stage that works through a model piece by piece: one folder each.

    <part>/tensors.safetensors   whatever the part consists of
    <part>/report.json           figures
    <part>/manifest.json         size and SHA-256 of both

Written atomically, so a part is there whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bitnet_arch.tensor_files import load_tensors
from wf_formats.atomic import atomic_folder
from wf_formats.run_files import MANIFEST_FILE
from wf_formats.system_errors import system_errors
from wf_formats.targets import FolderKind
from wrinklefree.checkpoints.manifest import DamagedCheckpointError, verify_manifest, write_manifest
from wrinklefree.finite import figures_text

_TENSORS, _REPORT = "tensors.safetensors", "report.json"
_PART = FolderKind("a part", lambda _folder: (_TENSORS, _REPORT, MANIFEST_FILE))


class PartStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def is_empty(self) -> bool:
        return not self.folder.is_dir() or not any(p.name[0] != "." for p in self.folder.iterdir())

    def save(self, name: str, tensors: Mapping[str, Tensor], report: Mapping[str, Any]) -> None:
        with atomic_folder(self.folder / name, _PART) as temporary:
            owned = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
            with system_errors(self.folder / name / _TENSORS, SafetensorError):
                save_file(owned, temporary / _TENSORS)
            cause = f"{name} makes numbers that are too large to compute with"
            (temporary / _REPORT).write_text(figures_text(report, cause))
            write_manifest(temporary)

    def __contains__(self, name: str) -> bool:
        return (self.folder / name).is_dir()

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors (memory-mapped) and report of a part. Raises: DamagedCheckpointError."""
        folder = self.folder / name
        try:
            verify_manifest(folder, (_TENSORS, _REPORT))
        except DamagedCheckpointError as error:
            raise DamagedCheckpointError(f"{error}. force=true runs the stage again") from error
        return load_tensors(folder / _TENSORS), json.loads((folder / _REPORT).read_text())

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
