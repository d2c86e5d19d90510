"""An export in the runtime that it is for, beside what PyTorch has to imitate to be comparable with it.

    export                       runs in         reads weights    roundings that PyTorch imitates
    Hugging Face folder          transformers    HfWeights        none: it rounds as training does
    folder, compressed-tensors   transformers    HfWeights        its int8 of each token (max / 127.5)
    folder, phases               native engine   HfWeights        embeddings and head in 8 bits
    GGUF                         llama.cpp       GgufWeights      those of the types in the file
    GGUF, matrices of I2_S       native engine   GgufWeights      those of bitnet.cpp, whose format it is:
                                                                  int8 of each token, as training
    GGUF, block diffusion        native engine   GgufWeights      the same

llama.cpp has no I2_S, and bitnet.cpp is nobody's dependency (a build of the user's own runs the file with
`wf chat --engine bitnetcpp`). The native engine keeps embeddings and head in 8 bits, which is imitated, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitnet_arch
from bitnet_arch.disk_format import transformers_config
from wf_converter.checkpoint import CONFIG_ERRORS, ConvertedCheckpoint
from wf_converter.decompressed import has_zero_points, load_decompressed
from wf_converter.errors import ExportError
from wf_converter.gguf_plan import gguf_name
from wf_converter.readback import GgufWeights, HfWeights
from wf_converter.reference import COMPRESSED, ENGINE, ENGINE_TYPES, EXACT
from wf_converter.scores import llamacpp_scores, native_scores, torch_scores
from wf_formats.diffusion import read_settings
from wf_formats.families import family_of
from wf_formats.families.block import GGUF_EMBEDDING, GGUF_HEAD, HF_STEMS
from wf_formats.gguf import GgufFile, TensorType
from wf_formats.models import ModelFile
from wf_formats.models.gguf_model import GgufModel
from wf_formats.schemes import COMPRESSED_METHOD, PHASES_METHOD
from wrinklefree_inference import TokenScores

OUTER = ("model.embed_tokens", "lm_head")
"""Modules that `emulate` replaces beside the linears of the blocks."""


@dataclass(frozen=True)
class Run:
    """What came of an export in its runtime."""

    runtime: str
    scores: TokenScores
    weights: GgufWeights | HfWeights
    types: Mapping[str, str] | None
    """For `reference.emulate`; None: the runtime computes as training does."""


def run_export(
    checkpoint: ConvertedCheckpoint,
    export: Path,
    opened: ModelFile,
    model: Any,
    ids: Sequence[int],
    adapter: Path | None,
) -> Run:
    """Scores of an export.

    Args:
        opened: the export.
        model: the checkpoint in PyTorch, whose modules are named.

    Raises:
        ExportError: the runtime refuses the export, or is not installed.
    """
    if not isinstance(opened, GgufModel):
        weights = HfWeights(export)
        if weights.quantization["quant_method"] == PHASES_METHOD:
            engine_types = types_of(model, TensorType.I2_S.label) | dict.fromkeys(OUTER, ENGINE)
            return Run("the native engine", native_scores(export, ids, adapter), weights, engine_types)
        is_compressed = weights.quantization["quant_method"] == COMPRESSED_METHOD
        rounds = is_compressed and checkpoint.int4 is None  # weights of 4 bits leave activations as they are
        types = types_of(model, COMPRESSED) if rounds else None
        return Run("transformers", torch_scores(load_export(export), ids), weights, types)
    types, gguf_weights = tensor_types(model, opened.file), GgufWeights(opened.file, checkpoint)
    if opened.file.is_for_bitnetcpp or checkpoint.diffusion is not None:
        scores = native_scores(export, ids, adapter)
        return Run("the native engine", scores, gguf_weights, types_of_engine(model, types))
    return Run("llama.cpp", llamacpp_scores(export, ids, adapter), gguf_weights, types)


def types_of_engine(model: Any, types: Mapping[str, str]) -> dict[str, str]:
    """Types for `emulate`, of the native engine: int8 of each token whatever holds the blocks' matrices, and
    embeddings and head in 8 bits.

    Args:
        types: those in the file.
    """
    outer = {name: ENGINE_TYPES[types[name]] for name in OUTER}
    return types_of(model, TensorType.I2_S.label) | outer


def types_of(model: Any, kind: str) -> dict[str, str]:
    """Types for `emulate`: one for the linears of the blocks, exact ones for embeddings and head."""
    linears = dict.fromkeys([name for name, _ in bitnet_arch.bit_linears(model)], kind)
    return linears | dict.fromkeys(OUTER, EXACT)


def tensor_types(model: Any, file: GgufFile) -> dict[str, str]:
    """GGUF type of every module that `emulate` replaces; parts of one module have the same."""
    names = [name for name, _ in bitnet_arch.bit_linears(model)]
    held = family_of(model.config.model_type).held
    types = {}
    for name in names:
        block, stem = re.fullmatch(r"(model\.layers\.\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
        target = gguf_name(f"{block}.{HF_STEMS[held[stem][0]]}.weight")
        types[name] = file.tensors[target].type_name
    embedding = file.tensors[GGUF_EMBEDDING]
    head = file.tensors.get(GGUF_HEAD, embedding)
    return types | {"model.embed_tokens": embedding.type_name, "lm_head": head.type_name}


def load_export(folder: Path | str) -> Any:
    """The model of an exported Hugging Face folder, by transformers (zero points: decompressed.py).

    Raises:
        ExportError: a package that the folder's format needs is not installed, transformers does
            not take it, or a tensor is not read from the folder (transformers would make it up).
    """
    import transformers

    model: Any
    settings = read_settings(Path(folder))
    try:
        if has_zero_points(settings.get("quantization_config") or {}):
            return load_decompressed(Path(folder)).eval()
        config = transformers_config(Path(folder), settings)  # transformers refuses that of block diffusion
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, trust_remote_code=False, output_loading_info=True
        )
    except ImportError as error:
        raise ExportError(
            f"transformers needs a package more to load {folder}: {' '.join(str(error).split())}"
        ) from error
    except CONFIG_ERRORS as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ExportError(f"transformers does not load {folder} ({what:.200})") from error
    if lost := sorted(map(str, [*loading["missing_keys"], *loading["mismatched_keys"]])):
        raise ExportError(f"transformers does not find {lost[0]} in {folder}: export it again")
    return model.eval()
