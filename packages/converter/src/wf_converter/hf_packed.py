"""Packed safetensors of family B and their loader: stock classes, one scale per group of inputs.

Layout of a ternary matrix [out, in] with groups of g inputs:

    <name>.weight        uint8 [out, in / 4]   byte [r, c] holds q[r, 4 c + i] + 1 at bit 2 i, i = 0..3
    <name>.weight_scale  fp32  [out, in / g]   W'[r, k] = weight_scale[r, k // g] * q[r, k]
    <name>.bias          float [out]           where the layer has one

Codes run along the inputs, so that rows and (multiples of g) columns can be cut for tensor
parallelism without repacking, and codes and scales are exactly those of training. All other tensors
are stored as they are. config.json names quant_method "wrinklefree_packed"; importing this module
registers it, and `AutoModelForCausalLM.from_pretrained` then builds the layers below.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

import bitnet_arch
from wf_converter.errors import ExportError
from wf_converter.source import TERNARY_SUFFIXES, Source
from wf_formats.matrix import QuantizedMatrix
from wf_formats.schemes import GROUP_SIZES

QUANT_METHOD = "wrinklefree_packed"
CODES_PER_BYTE = 4
_SHIFTS = (0, 2, 4, 6)


def pack_inputs(codes: np.ndarray) -> np.ndarray:
    """int8 [out, in] in {-1, 0, 1} -> uint8 [out, in / 4]."""
    levels = (codes + 1).astype(np.uint8).reshape(codes.shape[0], -1, CODES_PER_BYTE)
    packed: np.ndarray = np.bitwise_or.reduce(levels << np.array(_SHIFTS, np.uint8), axis=-1)
    return packed


def unpack_inputs(packed: Tensor) -> Tensor:
    """uint8 [out, in / 4] -> int8 [out, in] in {-1, 0, 1}."""
    shifts = torch.tensor(_SHIFTS, dtype=torch.uint8, device=packed.device)
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
        matrix = QuantizedMatrix(unpack_inputs(self.weight), self.weight_scale)
        rounded = bitnet_arch.Int8PerToken().quantize(x.reshape(-1, self.in_features))
        # On a CPU exact integer sums: the same bits as BitLinear in training.
        y = bitnet_arch.quantized_linear(rounded, matrix, torch.float32)
        y = y.view(*x.shape[:-1], self.out_features).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)


@register_quantization_config(QUANT_METHOD)
class PackedConfig(QuantizationConfigMixin):
    """quantization_config of a packed folder."""

    def __init__(self, scheme: str, **ignored: Any):
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]  # a registered name
        self.scheme = scheme

    @property
    def group_size(self) -> int:
        size = GROUP_SIZES[self.scheme]
        assert size is not None, self.scheme
        return size


@register_quantizer(QUANT_METHOD)
class PackedQuantizer(HfQuantizer):
    """Puts the packed layers in place before the tensors are loaded."""

    requires_calibration = True
    quantization_config: PackedConfig

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        for name, linear in list(model.named_modules()):
            if not (isinstance(linear, nn.Linear) and f"{name}.weight".endswith(TERNARY_SUFFIXES)):
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


def check_packed(source: Source) -> None:
    """Raises ExportError for a checkpoint whose parts the packed layout cannot hold."""
    if not source.is_group_scaled or source.sub_norm:
        raise ExportError(
            f"model.layers.0.self_attn.o_proj: a {source.model_type!r} model with scheme {source.scheme} "
            f"and {'SubLN' if source.sub_norm else 'no SubLN'} has no packed form; alternatives: convert "
            "with scheme group64 or group128 without SubLN, or a Llama-like model with scheme tensor"
        )


def packed_config(source: Source, dtype: torch.dtype) -> dict[str, Any]:
    """config.json of the exported folder."""
    quantization = {"quant_method": QUANT_METHOD, "scheme": source.scheme}
    name = str(dtype).removeprefix("torch.")
    return source.config | {"quantization_config": quantization, "dtype": name}


def packed_tensors(source: Source, name: str) -> dict[str, Tensor]:
    """`weight` and `weight_scale` of one ternary matrix."""
    matrix = source.ternary(name)
    codes = torch.from_numpy(pack_inputs(matrix.codes))
    return {name: codes, f"{name}_scale": torch.from_numpy(matrix.scales)}
