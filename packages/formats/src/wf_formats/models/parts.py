"""The parts of a model by the names of `LayerWeights`: their shapes, and whether a file has them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wf_formats.decoder_config import DecoderConfig
from wf_formats.errors import LoadError

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
NORMS = ("input_norm", "post_attention_norm")
BIASES = ("q_bias", "k_bias", "v_bias")
QK_NORMS = ("q_norm", "k_norm")
SUB_NORMS = ("attn_sub_norm", "ffn_sub_norm")
VECTORS = (*NORMS, *BIASES, *QK_NORMS, *SUB_NORMS)

Shapes = dict[str, tuple[int, ...]]


def part_shape(config: DecoderConfig, part: str) -> tuple[int, ...]:
    """Shape of a layer's part, matrices as [out, in]."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "q": (queries, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "o": (hidden, queries),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
        "q_bias": (queries,),
        "k_bias": (keys,),
        "v_bias": (keys,),
        "attn_sub_norm": (queries,),
        "ffn_sub_norm": (inner,),
    }
    if part in QK_NORMS:
        return (config.head_dim,)
    return shapes.get(part, (hidden,))


def check_layers(config: DecoderConfig, num_tensors: int) -> None:
    """Raises LoadError where a file cannot have so many layers, before a list of their parts is made."""
    if config.num_layers * len(MATRICES) > num_tensors:
        raise LoadError(f"{config.num_layers} layers, but only {num_tensors} tensors: some are missing")


def check_tensors(found: Mapping[str, tuple[int, ...]], required: Shapes, optional: Iterable[Shapes]) -> None:
    """Compares the tensors of a file with what the model has.

    Args:
        found: name -> shape of all tensors.
        required: those that must be there.
        optional: groups that are there completely or not at all.

    Raises:
        LoadError: a tensor is missing, superfluous (its effect would be lost) or of another shape.
    """
    expected = dict(required)
    for group in optional:
        if any(name in found for name in group):
            expected |= group
    if missing := [name for name in expected if name not in found]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise LoadError(f"tensor {missing[0]}{more} is missing")
    if superfluous := [name for name in found if name not in expected]:
        raise LoadError(
            f"tensor {superfluous[0]} has no place in this architecture; leaving out {len(superfluous)} "
            "such tensors would change the answers"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise LoadError(f"tensor {name} has the shape {list(found[name])}, expected {list(shape)}")
