"""Whether a file has all tensors of a model, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wf_formats.decoder_config import DecoderConfig
from wf_formats.errors import LoadError

FEWEST_TENSORS = 6
"""Of a layer: two norms and four matrices, where q, k, v and gate, up are fused."""
Shapes = dict[str, tuple[int, ...]]


def check_layers(config: DecoderConfig, num_tensors: int) -> None:
    """Raises LoadError where a file cannot have so many layers, before a list of their parts is made."""
    if config.num_layers * FEWEST_TENSORS > num_tensors:
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
