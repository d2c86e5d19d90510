"""Model families: one file each, registered here; found by `model_type` and by GGUF architecture."""

from __future__ import annotations

from dataclasses import replace

from wf_formats.diffusion import GGUF_PREFIX
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

__all__ = ["ARCHS", "FAMILIES", "Family", "GgufArch", "arch_of", "diffusion_arch", "family_of"]

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
    base = name.removeprefix(GGUF_PREFIX) if isinstance(name, str) else None
    if base is None or base not in ARCHS:
        raise LoadError(f"architecture {name!r} is not supported; supported are {', '.join(ARCHS)}")
    return ARCHS[base] if base == name else diffusion_arch(ARCHS[base])


def diffusion_arch(base: GgufArch) -> GgufArch:
    """The architecture of block-diffusion models that are built like those of `base`: its keys and tensors
    under a name that llama.cpp and bitnet.cpp refuse."""
    return replace(base, name=f"{GGUF_PREFIX}{base.name}", in_bitnetcpp=False)
