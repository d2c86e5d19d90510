"""Model families: one file each, registered here; found by `model_type` and by GGUF architecture."""

from __future__ import annotations

from wf_formats.errors import LoadError
from wf_formats.families.base import Family, GgufArch
from wf_formats.families.bitnet import BITNET
from wf_formats.families.gemma3 import GEMMA3
from wf_formats.families.llama import LLAMA
from wf_formats.families.mistral import MISTRAL
from wf_formats.families.phi3 import PHI3
from wf_formats.families.qwen2 import QWEN2
from wf_formats.families.qwen3 import QWEN3
from wf_formats.families.smollm3 import SMOLLM3

__all__ = ["ARCHS", "FAMILIES", "Family", "GgufArch", "arch_of", "family_of"]

FAMILIES = {
    family.model_type: family
    for family in (
        LLAMA,
        MISTRAL,
        PHI3,
        QWEN2,
        QWEN3,
        SMOLLM3,
        GEMMA3,
        BITNET,
    )
}
ARCHS = {arch.name: arch for family in FAMILIES.values() for arch in family.archs}


def family_of(model_type: object) -> Family:
    """The family of a config.json's model_type; raises LoadError for an unknown one."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise LoadError(f"model type {model_type!r} is not supported; supported are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def arch_of(name: object) -> GgufArch:
    """The architecture of a file's general.architecture; raises LoadError for an unknown one."""
    if not isinstance(name, str) or name not in ARCHS:
        raise LoadError(f"architecture {name!r} is not supported; supported are {', '.join(ARCHS)}")
    return ARCHS[name]
