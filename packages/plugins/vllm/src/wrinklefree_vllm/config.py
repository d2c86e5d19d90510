"""The quantization method as vLLM asks for it: which folders it takes, and its linears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.platforms import current_platform

from ternary_kernels.torch_ops import FLOAT_TYPES
from wf_formats.diffusion import NATIVE_REMEDY
from wf_formats.models.hf_config import Quantization
from wf_formats.models.hf_model import open_hf_model
from wf_formats.models.kind import check_is_autoregressive
from wrinklefree_vllm.chosen import METHOD, is_taken, quantization_of
from wrinklefree_vllm.linear import TernaryLinearMethod


class TernaryConfig(QuantizationConfig):
    """A `QuantizationConfig`: all linears of a layer are ternary, embeddings and head are plain."""

    def __init__(self, quantization: Quantization) -> None:
        super().__init__()
        self.quantization = quantization

    @classmethod
    def get_name(cls) -> str:
        """Its name."""
        return METHOD

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        """What the products take and give."""
        return list(FLOAT_TYPES)

    @classmethod
    def get_min_capability(cls) -> int:
        """Of a GPU: any, since `from_config` refuses one by its name."""
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        """None: config.json says it all."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TernaryConfig:
        """Raises: LoadError (a ValueError) for another quantization_config than ours or a GPU too old."""
        if current_platform.is_cuda():
            from ternary_kernels.gpu.linear import check_device

            check_device(torch.device("cuda"))
        return cls(quantization_of(config))

    @classmethod
    def override_quantization_method(
        cls, hf_quant_cfg: dict[str, Any], user_quant: str | None, hf_config: Any = None
    ) -> str | None:
        """Its name where it loads the folder."""
        is_ours = is_taken(hf_quant_cfg, user_quant, has_own_kernels=current_platform.is_cuda())
        return METHOD if is_ours else None

    def maybe_update_config(
        self, model_name: str, hf_config: Any = None, revision: str | None = None
    ) -> None:
        """Compares a folder's tensors with its configuration: vLLM misses none of a quantized model.

        Raises:
            LoadError: one is missing, superfluous or of another shape or dtype; names it. Or the folder holds
                a block-diffusion model.
        """
        if (folder := Path(model_name)).is_dir():
            check_is_autoregressive(folder, "vLLM", NATIVE_REMEDY)
            open_hf_model(folder)

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """The method of a linear; None: embeddings, head, attention."""
        return TernaryLinearMethod(self.quantization, prefix) if isinstance(layer, LinearBase) else None
