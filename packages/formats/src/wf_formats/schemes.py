"""Names of weight schemes and of what belongs to them, as folders and configurations spell them."""

from __future__ import annotations

from dataclasses import dataclass

from wf_formats.printable import number_of

GROUP_SIZES: dict[str, int | None] = {"tensor": None, "group64": 64, "group128": 128}
"""Ternary scheme -> inputs of a row that share a scale; None: the whole matrix shares one."""


@dataclass(frozen=True)
class Int4Scheme:
    """Codes of 4 bits (-8 to 7) with scales of groups of inputs."""

    group_size: int
    has_zeros: bool
    """Whether the code that means zero is chosen for each group; else it is 0."""

    @property
    def name(self) -> str:
        return f"int4-group{self.group_size}{'-zero' if self.has_zeros else ''}"


INT4_SCHEMES: dict[str, Int4Scheme] = {
    scheme.name: scheme
    for has_zeros in (False, True)
    for scheme in (Int4Scheme(size, has_zeros) for size in (128, 64, 32))
}
SCHEMES = (*GROUP_SIZES, *INT4_SCHEMES)
"""Those whose quantizers are built in."""
PHASE_SCHEMES: dict[str, int] = {"fairy2-w1": 1, "fairy2-w2": 2}
"""Scheme of complex weights -> planes of phases (phases.py), which are bits a real weight. Files, kernels and
exports know them; their quantizer is that of the package wrinklefree-fairy2."""


def group_size(scheme: str) -> int | None:
    """Inputs of a row that share a scale, by one of SCHEMES or PHASE_SCHEMES; None: the whole matrix does."""
    if scheme in PHASE_SCHEMES:
        return None
    return GROUP_SIZES[scheme] if scheme in GROUP_SIZES else INT4_SCHEMES[scheme].group_size


def description(scheme: str) -> str:
    """What a scheme's weights are, for people: `complex weights of 2 bits (fairy2-w2)`."""
    if scheme in PHASE_SCHEMES:
        return f"complex weights of {number_of(PHASE_SCHEMES[scheme], 'bit')} ({scheme})"
    return f"{'ternary weights' if scheme in GROUP_SIZES else 'weights of 4 bits'} ({scheme})"


FULL_PRECISION = "none"
"""What configurations call weights that stay as they are; a dense folder has no conversion to name it in."""

MASTER_METHOD = "wrinklefree"
"""quant_method of a folder with float master weights (a training checkpoint)."""
PACKED_METHOD = "wrinklefree_packed"
"""quant_method of a folder with packed codes (packed_codes.py) and group scales."""
COMPRESSED_METHOD = "compressed-tensors"
"""quant_method of a folder that stock vLLM and transformers load (models/hf_compressed.py)."""
PHASES_METHOD = "wrinklefree_phases"
"""quant_method of a folder with packed phases (phases.py)."""
LOW_RANK_FACTORS = ("lrc_u", "lrc_v")
"""U [out, rank] and V [in, rank] of a linear with a low-rank correction, as tensors of a checkpoint end."""
