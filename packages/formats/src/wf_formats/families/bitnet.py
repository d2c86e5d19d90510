"""transformers' `bitnet`: the Llama block with SubLN, ternary from birth or by conversion of a Llama.

llama.cpp's `bitnet` computes SiLU; the two names of bitnet.cpp's own files mean squared ReLU.
"""

from __future__ import annotations

from wf_formats.families.base import Family, GgufArch
from wf_formats.families.block import ATTENTION_BIASES, SUB_NORMS


def _fork(name: str) -> GgufArch:
    """A name of bitnet.cpp's."""
    return GgufArch(name, activation="relu2", extras=SUB_NORMS, always_ties_head=True, in_llamacpp=False)


BITNET = Family(
    model_type="bitnet",
    names="BitNet b1.58, converted Llama-like models",
    archs=(
        GgufArch(
            "bitnet", extras=SUB_NORMS, has_matrix_scales=True, always_ties_head=True, in_bitnetcpp=True
        ),
        _fork("bitnet-b1.58"),
        _fork("bitnet-25"),
    ),
    extras=SUB_NORMS,
    optional=(ATTENTION_BIASES,),
    can_be_converted=False,
)
