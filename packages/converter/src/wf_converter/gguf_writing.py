"""Writing a planned GGUF file, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType

from wf_converter.gguf_plan import TensorPlan
from wf_formats.models.gguf_seal import SEAL_KEY, structure_digest


class _Written(np.ndarray):
    """gguf-py writes by `tofile`, and numpy's own tells of a full disk without saying so (no errno)."""

    def tofile(self, file: Any, sep: str = "", format: str = "%s") -> None:
        file.write(self.data.cast("B"))


def write_gguf(
    path: Path,
    architecture: str,
    add_keys: Callable[[GGUFWriter], None],
    tensors: Sequence[TensorPlan],
    on_tensor: Callable[[TensorPlan], None] | None = None,
) -> None:
    """Writes keys and tensors, with a digest of both (wf_formats.models.gguf_seal).

    Args:
        on_tensor: called after each tensor (progress).
    """
    writer = GGUFWriter(path, architecture)
    add_keys(writer)
    for tensor in tensors:
        # Told as int8 so that gguf-py takes the shape as it is: it knows no block size of Q2_0.
        dtype = np.dtype(np.int8)
        kind = cast(GGMLQuantizationType, tensor.type)  # only its number is written
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, tensor.num_bytes, kind)
    writer.add_string(SEAL_KEY, _digest(writer, architecture, tensors))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            data = np.ascontiguousarray(tensor.produce()).view(_Written)
            assert data.nbytes == tensor.num_bytes, (tensor.name, data.nbytes, tensor.num_bytes)
            writer.write_tensor_data(data)
            if on_tensor is not None:
                on_tensor(tensor)
    finally:
        writer.close()


def _digest(writer: GGUFWriter, architecture: str, tensors: Sequence[TensorPlan]) -> str:
    (stored,) = writer.kv_data
    keys = ((name, int(entry.type), entry.value) for name, entry in stored.items())
    table = ((tensor.name, tensor.shape, int(tensor.type)) for tensor in tensors)
    return structure_digest(architecture, keys, table)
