"""Ternary folders in SGLang on an NVIDIA GPU, whose platform stays SGLang's own.

SGLang's compressed-tensors method takes 4 and 8 bits; it has no class for SubLN and no method "bitnet". So a
ternary folder is taken over by name, checked as on a CPU before it is loaded and afterwards, and its linears
stay in two bits (`ternary_kernels.gpu.linear`). CUDA graphs, attention, norms and sampling are SGLang's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sglang.srt.arg_groups.choices import add_quantization_method_choices
from sglang.srt.layers.quantization import QUANTIZATION_METHODS
from sglang.srt.models.registry import ModelRegistry
from sglang.srt.runtime_context import get_server_args
from torch import nn

from ternary_kernels.served import served_quantization
from wf_formats.errors import LoadError
from wf_formats.schemes import COMPRESSED_METHOD
from wrinklefree_sglang.folder import check_everything_is_read, check_folder
from wrinklefree_sglang.names import GPU_METHOD, METHODS
from wrinklefree_sglang.quantization import ADDED, TernaryConfig, TernaryLinearMethod


class GpuTernaryConfig(TernaryConfig):
    """The method on a GPU."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GpuTernaryConfig:
        """Raises LoadError: a GPU or folder that does not do; names it."""
        from ternary_kernels.gpu.linear import check_device

        check_device(torch.device("cuda"))
        check_folder(get_server_args().model_path)
        return cls(super().from_config(config).quantization)

    @classmethod
    def get_min_capability(cls) -> int:
        return 0  # `check_device` says it by the GPU's name

    @classmethod
    def override_quantization_method(
        cls, hf_quant_cfg: Mapping[str, Any], user_quant: str | None
    ) -> str | None:
        """Our name for a compressed-tensors folder that is ternary as ours; None: SGLang's own method."""
        if user_quant not in (None, GPU_METHOD) or hf_quant_cfg.get("quant_method") != COMPRESSED_METHOD:
            return None
        try:
            served_quantization({key: value for key, value in hf_quant_cfg.items() if key not in ADDED})
        except LoadError:
            return None
        return GPU_METHOD


def check_model(model: nn.Module) -> None:
    """Raises LoadError for tensors of a ternary folder that the model's class has no place for."""
    if any(isinstance(getattr(m, "quant_method", None), TernaryLinearMethod) for m in model.modules()):
        names = (name for name, _ in model.named_parameters(remove_duplicate=False))
        check_everything_is_read(Path(get_server_args().model_path), names)


def register_on_gpu(platform: type[Any]) -> None:
    """Makes methods and model known, and has each loaded model checked.

    Args:
        platform: SGLang's, whose `post_load_model` sees every model.
    """
    from wrinklefree_sglang.models.bitnet import BitNetForCausalLM

    own = platform.post_load_model

    def post_load_model(self: Any, model: nn.Module) -> None:
        own(self, model)
        check_model(model)

    platform.post_load_model = post_load_model
    methods = [GPU_METHOD, *(method for method in METHODS if method not in QUANTIZATION_METHODS)]
    QUANTIZATION_METHODS.update(dict.fromkeys(methods, GpuTernaryConfig))
    add_quantization_method_choices(methods)
    ModelRegistry.models["BitNetForCausalLM"] = BitNetForCausalLM
