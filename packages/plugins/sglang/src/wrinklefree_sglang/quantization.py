"""SGLang's interface to ternary linears: from the folder's tensors to a packed layer on the model's device.

q, k, v and gate, up are joined by SGLang; `ternary_kernels.served` collects their tensors and packs the
joined matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sglang.srt.layers.linear import LinearBase
from sglang.srt.layers.quantization.base_config import LinearMethodBase, QuantizationConfig
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
from torch import Tensor, nn

from ternary_kernels.served import ServedLinear, served_quantization
from wf_formats.errors import LoadError
from wf_formats.families.block import HF_HEAD
from wf_formats.models.hf_config import Quantization

_HEAD = HF_HEAD.removesuffix(".weight")
ADDED = ("packed_modules_mapping", "hf_config")
"""What SGLang puts beside the settings of the folder."""


class TernaryConfig(QuantizationConfig):
    """The quantization_config of a folder that `wf export` wrote."""

    def __init__(self, quantization: Quantization) -> None:
        super().__init__()
        self.quantization = quantization

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TernaryConfig:
        """Raises LoadError for a kind that is not ternary as ours are; names the setting."""
        return cls(served_quantization({key: value for key, value in config.items() if key not in ADDED}))

    def get_name(self) -> str:
        return "wrinklefree"

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []  # all is in config.json

    def get_scaled_act_names(self) -> list[str]:
        return []

    def get_quant_method(self, layer: nn.Module, prefix: str) -> LinearMethodBase | None:
        """None for what is no linear: embeddings and an untied head stay floats."""
        if not isinstance(layer, LinearBase):
            return None
        if prefix.rpartition(".")[2] == _HEAD:
            return UnquantizedLinearMethod()
        return TernaryLinearMethod(self.quantization, prefix)


class TernaryLinearMethod(LinearMethodBase):
    """One linear of the model.

    Args:
        name: of the linear, for errors.
    """

    def __init__(self, quantization: Quantization, name: str) -> None:
        self.quantization = quantization
        self.name = name

    def create_weights(
        self,
        layer: nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **kwargs: Any,
    ) -> None:
        """Parameters with the names of the folder's tensors, through which these come.

        Raises:
            LoadError: the matrix is cut for tensor parallelism.
        """
        if (input_size_per_partition, sum(output_partition_sizes)) != (input_size, output_size):
            raise LoadError(
                f"{self.name} is cut for tensor parallelism, which rounds inputs by the maximum of a piece: "
                "start with --tp-size 1"
            )
        self.stored = ServedLinear(self.name, self.quantization, input_size, output_partition_sizes)
        self.stored.expect_on(layer)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Packs the joined matrix; raises LoadError for what is missing or not ternary."""
        self.stored.pack_into(layer)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., in] -> [..., out] in the dtype of x; x is rounded to int8 for each token."""
        y: Tensor = layer.get_submodule("ternary")(x)
        return y if bias is None else y + bias
