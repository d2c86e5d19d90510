"""The model's folder: checked before SGLang loads it, and afterwards, that all of it was read.

SGLang passes over tensors that its class of the model has no place for (a bias of a linear, say), and over
settings that the class does not know. Either makes another model, and is an error here: only families are
served whose answers were compared with PyTorch's (tests/test_parity.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ternary_kernels.served import served_quantization
from wf_formats.decoder_config import DecoderConfig
from wf_formats.diffusion import NATIVE_REMEDY
from wf_formats.errors import LoadError
from wf_formats.file_names import CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.models.hf_model import open_hf_model
from wf_formats.models.kind import check_is_autoregressive
from wf_formats.safetensors_file import open_folder
from wrinklefree_sglang.names import METHODS

FAMILIES = ("llama", "bitnet")
"""model_types that are served."""
ROPE_TYPES = ("default",)
"""Rotary scalings that are served."""
CONTEXTS = 4
"""Contexts that the cache holds, as the native engine's."""
MEMORY_SHARE = 0.5
"""Of the free memory, what the cache may take at most."""
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""
_JOINED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
_TERNARY_ENDS = ("weight", "weight_packed", "weight_scale", "weight_shape")
"""Of linears; each of their tensors is counted when the linear is packed (ternary_kernels.served)."""


@dataclass(frozen=True)
class CheckedFolder:
    """A folder that can be served."""

    config: DecoderConfig
    dtype: str
    """Of embeddings, norms and biases, and so of what is computed between the linears."""

    @property
    def token_bytes(self) -> int:
        """Of a token's keys and values in all layers."""
        config = self.config
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * DTYPES[self.dtype]


def check_folder(path: str) -> CheckedFolder:
    """Checks everything but the values.

    Raises:
        LoadError: the folder is missing, damaged, not ternary, or of a kind that was not tried; names what.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise LoadError(f"{path!r:.200} is no folder here; fetch the model first: wf pull ORG/NAME")
    check_is_autoregressive(folder, "SGLang", NATIVE_REMEDY)
    settings = read_json(folder / CONFIG_FILE)
    stored = settings.get("quantization_config")
    quantization: dict[str, Any] = stored if isinstance(stored, dict) else {}
    method = quantization.get("quant_method")
    if method not in METHODS:
        raise LoadError(
            f"{folder}: quant_method is {method!r:.60}; served are {', '.join(METHODS)}: export the model by "
            "`wf export --format compressed-tensors`, with SubLN by `wf export --format hf`"
        )
    served_quantization(quantization)
    config = open_hf_model(folder).config
    _check_known(folder, "model_type", settings["model_type"], FAMILIES)
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    _check_known(folder, "rotary scaling", rope.get("rope_type") or rope.get("type") or "default", ROPE_TYPES)
    dtype = settings.get("dtype") or settings.get("torch_dtype")
    _check_known(folder, "dtype", dtype, DTYPES)
    return CheckedFolder(config, str(dtype))


def _check_known(folder: Path, what: str, value: object, known: Collection[str]) -> None:
    if value not in known:
        raise LoadError(
            f"{folder}: {what} {value!r:.60} was not tried in SGLang, but {', '.join(known)}; "
            "serve it by the native engine: wf serve --model FOLDER"
        )


def cache_tokens(folder: CheckedFolder, context_tokens: int | None, free_bytes: int) -> int:
    """Tokens of the key-value cache: `CONTEXTS` contexts, or what fits into `MEMORY_SHARE` of the memory.

    Args:
        context_tokens: longest prompt and answer; None: the model's.
        free_bytes: of memory, before the model is loaded.

    Raises:
        LoadError: not one context fits.
    """
    context = context_tokens or folder.config.context_tokens
    fitting = int(free_bytes * MEMORY_SHARE) // folder.token_bytes
    if fitting < context:
        needed_gb = context * folder.token_bytes / 1e9
        raise LoadError(
            f"the cache of one context of {context} tokens takes {needed_gb:.1f} GB, more than "
            f"{MEMORY_SHARE:.0%} of the free memory: give --context-length {fitting}, or less"
        )
    return min(CONTEXTS * context, fitting)


def check_everything_is_read(folder: Path, parameters: Iterable[str]) -> None:
    """Args: parameters: names of the loaded model's. Raises LoadError for a tensor that none holds."""
    known = set(parameters)
    unread = [name for name in open_folder(folder).shapes if not _is_held(name, known)]
    if unread:
        raise LoadError(f"{folder}: SGLang's class of the model lacks {unread[0]}; use wf serve")


def _is_held(name: str, parameters: set[str]) -> bool:
    stem, _, end = name.rpartition(".")
    parent, _, linear = stem.rpartition(".")
    if linear.endswith("_proj") and end in _TERNARY_ENDS:
        return True
    return name in parameters or f"{parent}.{_JOINED.get(linear, linear)}.{end}" in parameters
