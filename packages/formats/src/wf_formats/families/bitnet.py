"""transformers' `bitnet`: the Llama block with SubLN, ternary from birth or by conversion of a Llama.

llama.cpp's `bitnet` computes SiLU; the two names of bitnet.cpp's own files mean squared ReLU.
"""

from __future__ import annotations

from wf_formats.families.base import Family, GgufArch
from wf_formats.families.block import SUB_NORMS

BITNET = Family(
    model_type="bitnet",
    names="BitNet b1.58, converted Llama-like models",
    archs=(
        GgufArch("bitnet", extras=SUB_NORMS, always_ties_head=True),
        GgufArch("bitnet-b1.58", activation="relu2", extras=SUB_NORMS, always_ties_head=True),
        GgufArch("bitnet-25", activation="relu2", extras=SUB_NORMS, always_ties_head=True),
    ),
    extras=SUB_NORMS,
    can_be_converted=False,
)
