"""What the keys of an architecture are stored as, by the specification (docs/gguf.md of ggml).

llama.cpp refuses to read a number as another kind than it was stored as, so a file with one runs nowhere.
Whole numbers are uint32 in every file of llama.cpp's converters and uint64 in the text of the specification.
"""

from __future__ import annotations

from wf_formats.errors import LoadError
from wf_formats.gguf import GgufFile, ValueType

_WHOLE = (ValueType.UINT32, ValueType.UINT64)
_NUMBER = (ValueType.FLOAT32,)
_FLAG = (ValueType.BOOL,)
_TEXT = (ValueType.STRING,)
KINDS = {
    "context_length": _WHOLE,
    "embedding_length": _WHOLE,
    "block_count": _WHOLE,
    "feed_forward_length": _WHOLE,
    "vocab_size": _WHOLE,
    "hidden_activation": _TEXT,
    "attention.head_count": _WHOLE,
    "attention.head_count_kv": _WHOLE,
    "attention.key_length": _WHOLE,
    "attention.value_length": _WHOLE,
    "attention.layer_norm_rms_epsilon": _NUMBER,
    "attention.sliding_window": _WHOLE,
    "attention.causal": _FLAG,
    "attention.scale": _NUMBER,
    "expert_count": _WHOLE,
    "expert_used_count": _WHOLE,
    "rope.freq_base": _NUMBER,
    "rope.freq_base_swa": _NUMBER,
    "rope.dimension_count": _WHOLE,
    "rope.dimension_count_swa": _WHOLE,
    "rope.scale_linear": _NUMBER,
    "rope.scaling.type": _TEXT,
    "rope.scaling.factor": _NUMBER,
    "rope.scaling.attn_factor": _NUMBER,
    "rope.scaling.original_context_length": _WHOLE,
    "rope.scaling.yarn_log_multiplier": _NUMBER,
    "rope.scaling.finetuned": _FLAG,
    "logit_scale": _NUMBER,
    "residual_scale": _NUMBER,
    "embedding_scale": _NUMBER,
    "block_size": _WHOLE,
    "mask_token_id": _WHOLE,
    "token_shift": _FLAG,
}
"""Name after the architecture's -> the kinds that it may have."""
_RANGES = {
    "rope.freq_base": (1.0, 1e12),
    "rope.freq_base_swa": (1.0, 1e12),
    "rope.scaling.factor": (1e-3, 1e6),
}
"""Wider than any model; outside of them a number is damage."""


def check_kinds(file: GgufFile, architecture: str) -> None:
    """Raises: LoadError for a key of an architecture that is of another kind or absurd; names it."""
    for name, kinds in KINDS.items():
        key = f"{architecture}.{name}"
        if key in file.keys and file.kinds[key] not in kinds:
            raise LoadError(f"{_shown(file, key)}, not {' or '.join(kind.label for kind in kinds)}")
    for name, (least, most) in _RANGES.items():
        key = f"{architecture}.{name}"
        if key in file.keys and not least <= file.keys[key] <= most:
            raise LoadError(f"{_shown(file, key)}, not a positive number between {least:g} and {most:g}")


def _shown(file: GgufFile, key: str) -> str:
    is_list = file.kinds[key] is ValueType.ARRAY
    hint = " (a value per layer is not supported here)" if is_list else f" ({file.kinds[key].label})"
    return f"{key} is {file.keys[key]!r:.60}{hint}"
