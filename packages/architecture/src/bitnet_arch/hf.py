"""Registers quant_method "wrinklefree" with transformers.

After `import bitnet_arch`, `AutoModelForCausalLM.from_pretrained(folder)` builds BitLinear layers for
folders that name it in config.json. Stock `bitnet` folders (checkpoint.py) need no registration.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bitnet_arch.errors import CheckpointError
from bitnet_arch.families import check_supported
from bitnet_arch.install import install_bit_linears
from bitnet_arch.low_rank import install_low_rank
from bitnet_arch.quantizers import quantizer
from bitnet_arch.subln import SubLN
from wf_formats.models.hf_config import check_settings
from wf_formats.schemes import MASTER_METHOD


@register_quantization_config(MASTER_METHOD)
class WrinkleFreeConfig(QuantizationConfigMixin):
    """Conversion of a model: `scheme` (name of the quantizer), SubLN and its floor exponents, and the rank of
    its linears' low-rank correction (0: they have none).

    Raises:
        CheckpointError: a rank that none is.
        LoadError: further settings, which could make another model.
    """

    def __init__(
        self,
        scheme: str = "tensor",
        sub_norm: bool = False,
        sub_norm_log2_floor: dict[str, int] | None = None,
        low_rank: int = 0,
        **others: Any,
    ):
        check_settings(MASTER_METHOD, others)
        self.quant_method = MASTER_METHOD
        self.scheme = quantizer(scheme).name
        self.sub_norm = sub_norm
        self.sub_norm_log2_floor = dict(sub_norm_log2_floor or {})
        if type(low_rank) is not int or low_rank < 0:
            raise CheckpointError(f"quantization_config.low_rank is {low_rank!r:.60}, not a rank")
        self.low_rank = low_rank


@register_quantizer(MASTER_METHOD)
class WrinkleFreeQuantizer(HfQuantizer):
    """Puts BitLinear layers in place before the master weights are loaded."""

    requires_calibration = True
    quantization_config: WrinkleFreeConfig

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        install_empty_bit_linears(model, self.quantization_config)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        return True


def install_empty_bit_linears(model: nn.Module, conversion: WrinkleFreeConfig) -> None:
    """BitLinear layers and empty SubLNs as in `conversion`, to be filled by the loader."""
    check_supported(model.config)
    eps = float(model.config.rms_norm_eps)  # type: ignore[union-attr, arg-type]
    sub_norms = {}
    for name, log2_floor in conversion.sub_norm_log2_floor.items():
        weight: Any = model.get_submodule(name).weight
        sub_norms[name] = SubLN(weight.shape[1], eps, log2_floor, torch.device("meta"), weight.dtype)
    install_bit_linears(model, quantizer(conversion.scheme), sub_norms)
    if conversion.low_rank:
        try:
            install_low_rank(model, conversion.low_rank)
        except ValueError as error:
            raise CheckpointError(f"quantization_config.low_rank: {error}") from error
