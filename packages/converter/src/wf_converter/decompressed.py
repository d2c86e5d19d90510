"""A compressed-tensors folder with zero points, unpacked by the package and put into the stock class.

transformers 5.23 with compressed-tensors 0.20 does not load such folders: the shapes that it expects are
those of zero points before they are packed. They are for vLLM. So that the folder is proved all the same, the
package's own compressor unpacks each matrix, and transformers computes with its values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from bitnet_arch.disk_format import transformers_config
from wf_formats.diffusion import read_settings
from wf_formats.safetensors_file import open_folder


def has_zero_points(settings: dict[str, Any]) -> bool:
    """Args: settings are quantization_config."""
    groups = settings.get("config_groups", {}).values()
    return any(not group["weights"]["symmetric"] for group in groups)


def load_decompressed(folder: Path) -> Any:
    """The model in float32.

    Raises:
        ImportError: the package is not installed.
        ValueError: a tensor is missing, too many or of another shape.
    """
    import transformers
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    settings = read_settings(folder)
    (group,) = settings.pop("quantization_config")["config_groups"].values()
    scheme = QuantizationScheme(**group)
    linears: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Tensor] = {}
    for name, path in open_folder(folder).paths.items():
        with safe_open(path, framework="pt") as file:
            module, _, kind = name.rpartition(".")
            held = linears.setdefault(module, {}) if kind.startswith("weight_") else state
            held[kind if held is not state else name] = file.get_tensor(name)
    for module, tensors in linears.items():
        unpacked = PackedQuantizationCompressor.decompress(tensors, scheme)
        state[f"{module}.weight"] = unpacked["weight"]
    config = transformers_config(folder, settings)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if wrong := sorted({*missing, *unexpected} - tied):
        raise ValueError(f"{wrong[0]} is missing, or none of the model's")
    model.tie_weights()
    return model
