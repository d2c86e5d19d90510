"""Packed safetensors of family B and their loader: stock classes, one scale per group of inputs.

Layout of a ternary matrix [out, in] with groups of g inputs:

    <name>.weight        uint8 [out, in / 4]   four codes q a byte along the inputs (wf_formats.packed_codes)
    <name>.weight_scale  fp32  [out, in / g]   W'[r, k] = weight_scale[r, k // g] * q[r, k]
    <name>.bias          float [out]           where the layer has one

Rows and (multiples of g) columns can be cut for tensor parallelism without repacking, and codes and
scales are exactly those of training. All other tensors are stored as they are. config.json names
quant_method "wrinklefree_packed"; importing this module registers it, and
`AutoModelForCausalLM.from_pretrained` then builds the layers below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

import bitnet_arch
from wf_converter.checkpoint import QUANTIZED_SUFFIXES, ConvertedCheckpoint
from wf_formats.matrix import QuantizedMatrix
from wf_formats.models.hf_config import check_settings
from wf_formats.packed_codes import CODES_PER_BYTE, SHIFTS, pack_inputs
from wf_formats.schemes import GROUP_SIZES, PACKED_METHOD


def unpack_on_device(packed: Tensor) -> Tensor:
    """`wf_formats.packed_codes.unpack_inputs` where the tensor is: uint8 [out, in / 4] -> int8 [out, in]."""
    shifts = torch.tensor(SHIFTS, dtype=torch.uint8, device=packed.device)
    levels = (packed.unsqueeze(-1) >> shifts) & 3
    return levels.view(packed.shape[0], -1).to(torch.int8) - 1


class PackedTernaryLinear(nn.Module):
    """W1.58A8 linear layer over packed codes; int8 activations per token, as in training."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool, group_size: int):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        codes = torch.zeros(out_features, in_features // CODES_PER_BYTE, dtype=torch.uint8)
        scales = torch.zeros(out_features, in_features // group_size, dtype=torch.float32)
        self.register_buffer("weight", codes)
        self.register_buffer("weight_scale", scales)
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        matrix = QuantizedMatrix(unpack_on_device(self.weight), self.weight_scale)
        rounded = bitnet_arch.Int8PerToken().quantize(x.reshape(-1, self.in_features))
        # On a CPU exact integer sums: the same bits as BitLinear in training.
        y = bitnet_arch.quantized_linear(rounded, matrix, torch.float32)
        y = y.view(*x.shape[:-1], self.out_features).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)


@register_quantization_config(PACKED_METHOD)
class PackedConfig(QuantizationConfigMixin):
    """quantization_config of a packed folder. Raises: LoadError for settings that it does not have."""

    def __init__(self, scheme: str, **others: Any):
        check_settings(PACKED_METHOD, others)
        self.quant_method = PACKED_METHOD  # a registered name
        self.scheme = scheme

    @property
    def group_size(self) -> int:
        size = GROUP_SIZES[self.scheme]
        assert size is not None, self.scheme
        return size


@register_quantizer(PACKED_METHOD)
class PackedQuantizer(HfQuantizer):
    """Puts the packed layers in place before the tensors are loaded."""

    requires_calibration = True
    quantization_config: PackedConfig

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        for name, linear in list(model.named_modules()):
            if not (isinstance(linear, nn.Linear) and f"{name}.weight".endswith(QUANTIZED_SUFFIXES)):
                continue
            with torch.device("meta"):
                packed = PackedTernaryLinear(
                    linear.in_features,
                    linear.out_features,
                    linear.bias is not None,
                    self.quantization_config.group_size,
                )
            model.set_submodule(name, packed)

    def param_needs_quantization(self, *args: Any, **kwargs: Any) -> bool:
        return False

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


@dataclass(frozen=True)
class PackedLayout:
    """A `Layout`."""

    checkpoint: ConvertedCheckpoint
    name = PACKED_METHOD

    def quantization(self) -> dict[str, Any]:
        return {"quant_method": PACKED_METHOD, "scheme": self.checkpoint.scheme}

    def tensors(self, name: str) -> dict[str, Tensor]:
        matrix = self.checkpoint.matrix(name)
        codes = torch.from_numpy(pack_inputs(matrix.codes))
        return {name: codes, f"{name}_scale": torch.from_numpy(matrix.scales)}
