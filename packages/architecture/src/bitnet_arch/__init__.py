"""Ternary language models: quantizers, the layers, conversion of Hugging Face models, checkpoints."""

from bitnet_arch.activations import Int8PerToken, Int8Tokens, KeepActivations
from bitnet_arch.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_rows,
    read_meta,
    save_checkpoint,
    tensors_on_disk,
    write_checkpoint,
    write_description,
    write_index,
)
from bitnet_arch.convert import ConversionConfig, convert
from bitnet_arch.errors import CheckpointError, SourceError, UnsupportedModelError
from bitnet_arch.families import BLOCK_LINEARS, supported_families
from bitnet_arch.fused import use_kernels
from bitnet_arch.hf import WrinkleFreeConfig
from bitnet_arch.kernels import log_kernels
from bitnet_arch.linear import BitLinear, bit_linears, get_lambda, set_lambda, set_precision
from bitnet_arch.low_rank import (
    BitLinearLRC,
    correction_bits_per_weight,
    install_low_rank,
    train_corrections_alone,
)
from bitnet_arch.products import int8_matmul, quantized_linear
from bitnet_arch.quantizers import Int4Quantizer, Quantizer, TernaryQuantizer, quantizer
from bitnet_arch.sources import DenseSource, load_dense, open_dense, packaged_model_dir
from bitnet_arch.speeds import fastest_precision, product_times_s
from bitnet_arch.subln import SubLN
from bitnet_arch.token_ids import check_ids

__all__ = [
    "BLOCK_LINEARS",
    "BitLinear",
    "BitLinearLRC",
    "Checkpoint",
    "CheckpointError",
    "ConversionConfig",
    "DenseSource",
    "Int4Quantizer",
    "Int8PerToken",
    "Int8Tokens",
    "KeepActivations",
    "Quantizer",
    "SourceError",
    "SubLN",
    "TernaryQuantizer",
    "UnsupportedModelError",
    "WrinkleFreeConfig",
    "bit_linears",
    "check_ids",
    "convert",
    "correction_bits_per_weight",
    "fastest_precision",
    "get_lambda",
    "install_low_rank",
    "int8_matmul",
    "load_checkpoint",
    "load_dense",
    "load_rows",
    "log_kernels",
    "open_dense",
    "packaged_model_dir",
    "product_times_s",
    "quantized_linear",
    "quantizer",
    "read_meta",
    "save_checkpoint",
    "set_lambda",
    "set_precision",
    "supported_families",
    "tensors_on_disk",
    "train_corrections_alone",
    "use_kernels",
    "write_checkpoint",
    "write_description",
    "write_index",
]
