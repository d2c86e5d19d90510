"""What SGLang has to know by name before it reads a folder: quantization methods and model classes."""

from __future__ import annotations

from sglang.srt.arg_groups.choices import add_quantization_method_choices
from sglang.srt.layers.quantization import QUANTIZATION_METHODS
from sglang.srt.models.registry import ModelRegistry, import_model_classes

from wrinklefree_sglang.names import METHODS, MODELS
from wrinklefree_sglang.quantization import TernaryConfig


def register_all() -> None:
    """SGLang has no call for methods: a name that its table lacks is refused before the platform is asked."""
    further = [method for method in METHODS if method not in QUANTIZATION_METHODS]
    QUANTIZATION_METHODS.update(dict.fromkeys(further, TernaryConfig))
    add_quantization_method_choices(further)
    ModelRegistry.models.update(import_model_classes(MODELS, strict=True))
