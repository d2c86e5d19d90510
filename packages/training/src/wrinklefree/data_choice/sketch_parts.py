"""Sketches of gradients on the disk, a file for each few documents, so that an interruption loses no more.

FOLDER/request.json           what they are of; another request does not go on from them
FOLDER/probe.safetensors      of the probe's documents
FOLDER/000007.safetensors     of the eighth part of the candidates, in their order
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wf_formats.atomic import atomic_write_bytes, atomic_write_json
from wf_formats.errors import LoadError, RequestError
from wf_formats.json_file import read_value

Sketches = npt.NDArray[np.float32]

REQUEST_FILE, PROBE = "request.json", "probe"
_TENSOR, _SECONDS = "sketches", "seconds"


class Part(NamedTuple):
    """sketches: float32 [documents, size]; seconds: that they took."""

    sketches: Sketches
    seconds: float


class SketchParts:
    """Raises: RequestError where the folder has parts of another request; names what differs."""

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        path = folder / REQUEST_FILE
        request = json.loads(json.dumps(request))
        if path.exists():
            _check_same(read_value(path, LoadError), request, folder.parent)
        else:
            atomic_write_json(path, request)

    def read(self, name: str) -> Part | None:
        """None where it is not there yet. Raises: LoadError for a damaged file."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            with safe_open(path, "numpy") as file:
                return Part(file.get_tensor(_TENSOR), float(file.metadata()[_SECONDS]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise LoadError(
                f"{path} is damaged ({error}): remove it, and the same command makes it anew"
            ) from error

    def write(self, name: str, part: Part) -> None:
        atomic_write_bytes(self._path(name), save({_TENSOR: part.sketches}, {_SECONDS: repr(part.seconds)}))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


def _check_same(there: Any, here: Mapping[str, Any], folder: Path) -> None:
    there = there if isinstance(there, dict) else {}
    for key in {**here, **there}:
        if there.get(key) != here.get(key):
            raise RequestError(
                f"{folder} has parts of another request, whose {key} is {there.get(key)!r:.200} and here "
                f"{here.get(key)!r:.200}: choose another --output, or begin anew with --force"
            )
