"""What it will take to save a result, measured before there is one.

A file of the same size, or of PROBE_BYTES where that is less, is written beside the run's, synced, hashed and
removed, as the files of a checkpoint are; a larger result takes as much more. How long models took to load
says little: a fast GPU's machine reads at once what was read before, and converts nothing at the end.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from bitnet_arch.tensor_parallel import mesh_of
from wf_formats.atomic import errors_about, sync
from wf_formats.digests import file_sha256
from wf_formats.temporaries import temporary

PROBE_BYTES = 32 << 20
_OTHERS = 1.5
"""For the copy to host memory, tokenizer and configuration."""


def weight_bytes(model: Any) -> int:
    """Of a result of this model; a shared weight counts once, a sharded one whole."""
    return sum(p.numel() * p.element_size() * _num_parts(p) for p in model.parameters())


def _num_parts(parameter: Any) -> int:
    mesh = mesh_of(parameter)
    return 1 if mesh is None else mesh.size()


def saving_s(folder: Path, num_bytes: int) -> float:
    """Seconds to save a result of `num_bytes` in the folder of a run. Raises: OSError with the path."""
    contents = os.urandom(min(num_bytes, PROBE_BYTES))  # which no file system stores in less
    folder.mkdir(parents=True, exist_ok=True)
    start_s = time.perf_counter()
    with errors_about(folder), temporary(folder / "probe", "tmp", Path.touch) as file:
        try:
            file.write_bytes(contents)
            sync(file)
            file_sha256(file)
            took_s = time.perf_counter() - start_s
        finally:
            file.unlink()
    return _OTHERS * took_s * num_bytes / max(1, len(contents))
