"""Which folders the method takes over from vLLM's own ones; knows nothing of vLLM.

quant_method            written by                            taken
compressed-tensors      wf export --format compressed-tensors on CPUs, if its weights are ternary as ours are
bitnet                  wf export --format hf (SubLN)         always: vLLM has no such method
wrinklefree_packed      wf export --format hf (groups)        always
wrinklefree             a training checkpoint                 refused, with the command that exports it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ternary_kernels.served import served_quantization
from wf_formats.errors import LoadError
from wf_formats.models.hf_config import Quantization
from wf_formats.schemes import COMPRESSED_METHOD, MASTER_METHOD, PACKED_METHOD

METHOD = "wrinklefree"
"""Name of the quantization method; also quant_method of training checkpoints, which are refused."""
_OURS = ("bitnet", PACKED_METHOD, MASTER_METHOD)
_ADDED = ("total_num_heads", "total_num_kv_heads")
"""By vLLM, to the quantization_config that it has read."""


def quantization_of(settings: Mapping[str, Any]) -> Quantization:
    """How a folder's matrices are stored, by its quantization_config.

    Raises:
        LoadError: another kind than ours; says which setting, or what to do.
    """
    return served_quantization({key: value for key, value in settings.items() if key not in _ADDED})


def is_taken(settings: Mapping[str, Any], asked_for: str | None, *, has_own_kernels: bool) -> bool:
    """Whether the method loads a folder.

    Args:
        settings: quantization_config of its config.json.
        asked_for: the method that the user names (`--quantization`); another one than ours stays theirs.
        has_own_kernels: vLLM multiplies compressed-tensors folders of two bits by itself (on GPUs), unless
            ours is asked for.
    """
    if asked_for not in (None, METHOD):
        return False
    if settings.get("quant_method") != COMPRESSED_METHOD:
        return settings.get("quant_method") in _OURS
    if has_own_kernels and asked_for is None:
        return False
    try:
        quantization_of(settings)
    except LoadError:
        return asked_for is not None  # then the reason is told; else it is vLLM's, 4 bits say
    return True
