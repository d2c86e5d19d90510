"""A ternary linear of vLLM, joined ones too: loaded part by part, then packed for the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.linear import LinearMethodBase

from ternary_kernels.served import ServedLinear
from wf_formats.models.hf_config import Quantization


class TernaryLinearMethod(LinearMethodBase):
    """The method of one linear."""

    def __init__(self, quantization: Quantization, prefix: str) -> None:
        self._quantization, self._prefix = quantization, prefix
        self._stored: ServedLinear | None = None

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """Parameters for the tensors of the folder.

        Raises:
            ValueError: a matrix cut for tensor parallelism.
        """
        if input_size_per_partition != input_size or sum(output_partition_sizes) != output_size:
            raise ValueError(
                f"{self._prefix}: ternary matrices are not cut for tensor parallelism, since int8 inputs "
                "are rounded by the maximum of a whole token: use --tensor-parallel-size 1"
            )
        self._stored = ServedLinear(self._prefix, self._quantization, input_size, output_partition_sizes)
        self._stored.expect_on(layer)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Packs what was loaded. Raises: LoadError for a tensor that is missing or damaged."""
        assert self._stored is not None
        self._stored.pack_into(layer)
        self._stored = None

    def apply(self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """[..., in] -> [..., out]."""
        ternary: torch.nn.Module = layer.ternary  # type: ignore[assignment]
        y: Tensor = ternary(x)
        return y if bias is None else y + bias
