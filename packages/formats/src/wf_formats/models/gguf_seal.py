"""Whether a GGUF file of ours still is what was exported.

Our exports say by a digest what keys of the architecture and which tensors they were written with. A file
whose key was dropped or stored as another kind, or whose tensor was dropped or relabelled with a type of the
same size, may look like another good model; the digest tells. It covers what decides how the data is read
and computed, not the data (whose proof is `wf verify`), names, tokenizer or chat template, which people
rightly change. Files of others have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from wf_formats.errors import LoadError
from wf_formats.gguf import GgufFile, ValueType

SEAL_KEY = "wrinklefree.structure_sha256"

Key = tuple[str, int, Any]
"""Name, number of the ValueType, value."""
Tensor = tuple[str, tuple[int, ...], int]
"""Name, shape (slowest dimension first), number of the TensorType."""


def structure_digest(architecture: str, keys: Iterable[Key], tensors: Iterable[Tensor]) -> str:
    """SHA-256 over the architecture, its keys and the tensor table.

    Args:
        keys: all keys of the file; those of other things than the architecture do not count.
    """
    own = sorted(
        [name, int(kind), _stored(kind, value)]
        for name, kind, value in keys
        if name.startswith(f"{architecture}.")
    )
    table = sorted([name, list(shape), int(kind)] for name, shape, kind in tensors)
    return hashlib.sha256(json.dumps([architecture, own, table]).encode()).hexdigest()


def check_seal(file: GgufFile) -> None:
    """Raises: LoadError for a file of ours that was changed after its export."""
    stated = file.keys.get(SEAL_KEY)
    if stated is None:
        return
    keys = ((name, file.kinds[name], value) for name, value in file.keys.items())
    tensors = ((tensor.name, tensor.shape, tensor.ggml_type) for tensor in file.tensors.values())
    if stated != structure_digest(str(file.keys.get("general.architecture")), keys, tensors):
        raise LoadError(
            f"its keys or tensors are not those that were exported ({SEAL_KEY} differs): one was dropped or "
            "changed afterwards; export it again"
        )


def _stored(kind: int, value: Any) -> Any:
    """The value as the file has it: fp32 is rounded."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(np.float32(value)) if kind == ValueType.FLOAT32 else _plain(value)


def _plain(value: Any) -> Any:
    return float(np.float32(value)) if isinstance(value, float) else value
