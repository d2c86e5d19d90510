"""A LoRA adapter of llama.cpp: low-rank corrections beside the matrices of a model's GGUF file.

    general.type           adapter
    general.architecture   the model's
    adapter.type           lora
    adapter.lora.alpha     alpha / rank multiplies every correction; absent or 0: nothing does
    NAME.lora_a            [rank, in]; NAME is that of the matrix, like blk.3.attn_q.weight
    NAME.lora_b            [out, rank], rows in the file's rotary order

y = NAME x + lora_b (lora_a x), x not rounded. A model that was trained with its corrections says their rank
(RANK_KEY) and is another model without them, so it is not opened alone.

Source: llama.cpp, src/llama-adapter.cpp and src/llama-graph.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wf_formats.errors import LoadError
from wf_formats.gguf import GgufFile, open_gguf
from wf_formats.gguf.blocks import FLOAT_TYPES
from wf_formats.low_rank import LowRankPair
from wf_formats.models.gguf_seal import check_seal

ADAPTER, LORA = "adapter", "lora"
"""general.type and adapter.type."""
TYPE_KEY, ALPHA_KEY, INVOCATION_KEY = "adapter.type", "adapter.lora.alpha", "adapter.alora.invocation_tokens"
DOWN, UP = ".lora_a", ".lora_b"
RANK_KEY = "wrinklefree.low_rank"
"""Rank of the corrections of a model, which are in an adapter beside its file."""
SOURCE_KEY = "wrinklefree.source_sha256"
"""Fingerprint of the checkpoint that a file was made from."""


class AdapterError(LoadError):
    """A model and an adapter do not go together: one is missing, or it is not the other's."""


@dataclass(frozen=True)
class GgufAdapter:
    """An opened adapter that fits its model."""

    file: GgufFile
    alpha: float

    def pair(self, matrix: str) -> LowRankPair | None:
        """The correction of a matrix, rows as in the file; None: it has none."""
        if matrix + UP not in self.file.tensors:
            return None
        found = LowRankPair(
            self.file.values(matrix + UP).copy(),  # of mapped memory
            self.file.values(matrix + DOWN).copy(),
        )
        return found.times(self.alpha / found.rank) if self.alpha else found


def is_adapter(file: GgufFile) -> bool:
    """Whether a file holds an adapter, no model."""
    return file.keys.get("general.type") == ADAPTER


def open_adapter(path: Path, model: GgufFile, shapes: Mapping[str, tuple[int, ...]]) -> GgufAdapter:
    """Opens the adapter of a model.

    Args:
        shapes: of the matrices that can be corrected, [out, in].

    Raises:
        AdapterError: it is none, or not of this model; or it changes something that is not computed here.
        GgufError: the file is damaged.
        OSError: it cannot be read.
    """
    file = open_gguf(path)
    try:
        _check_kind(file, model)
        for name in file.tensors:
            _check_tensor(file, name, shapes)
        check_seal(file)
    except LoadError as error:
        raise AdapterError(f"adapter {path}: {error}") from error
    return GgufAdapter(file, float(file.keys.get(ALPHA_KEY, 0.0)))


def check_adapter_given(model: GgufFile) -> None:
    """Raises AdapterError for a model whose corrections are in an adapter."""
    if rank := model.keys.get(RANK_KEY):
        raise AdapterError(
            f"the model has low-rank corrections (rank {rank!r:.20}) in a file of their own: give the "
            "adapter that was exported beside it, --adapter FILE"
        )


def _check_kind(file: GgufFile, model: GgufFile) -> None:
    if not is_adapter(file):
        raise LoadError(f"general.type is {file.keys.get('general.type')!r:.60}, not {ADAPTER!r}")
    wanted: dict[str, Any] = {
        "general.architecture": model.keys.get("general.architecture"),
        TYPE_KEY: LORA,
        INVOCATION_KEY: None,
    }
    for key, value in wanted.items():
        if (found := file.keys.get(key)) != value:
            raise LoadError(f"{key} is {found!r:.60}, expected {value!r}")
    alpha = file.keys.get(ALPHA_KEY, 0.0)
    if not (isinstance(alpha, float) and math.isfinite(alpha)):
        raise LoadError(f"{ALPHA_KEY} is {alpha!r:.60}, not a number")
    ours, models = file.keys.get(SOURCE_KEY), model.keys.get(SOURCE_KEY)
    if ours is not None and models is not None and ours != models:
        raise LoadError(
            f"it was exported from another checkpoint than {model.path} ({SOURCE_KEY} differs); take the two "
            "files of one export"
        )
    if model.keys.get(RANK_KEY) and ours is None:
        raise LoadError(f"it was not exported beside {model.path}, whose own corrections it lacks")


def _check_tensor(file: GgufFile, name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    matrix = name.removesuffix(DOWN).removesuffix(UP)
    if matrix == name or matrix not in shapes:
        raise LoadError(f"tensor {name} changes what no adapter changes here; leaving it out changes answers")
    for other in (matrix + DOWN, matrix + UP):
        if other not in file.tensors:
            raise LoadError(f"tensor {other} is missing")
    if (tensor := file.tensors[name]).type not in FLOAT_TYPES:
        raise LoadError(f"tensor {name} is {tensor.type_name}; corrections are kept as floats")
    rank = next(iter(file.tensors[matrix + DOWN].shape), 0)
    rows, columns = shapes[matrix]
    expected = (rank, columns) if name.endswith(DOWN) else (rows, rank)
    if tensor.shape != expected:
        raise LoadError(f"tensor {name} has the shape {list(tensor.shape)}, expected {list(expected)}")
