"""Between a model in memory and the tensors and config of its folder.

Family A (Llama-like, SubLN, one scale per matrix) becomes transformers' `bitnet` architecture. It knows
one eps, so each floor 2^k (subln.py) is folded into the linear that feeds the norm: v_proj and
up_proj are stored divided by 2^k, which is exact, and multiplied again on loading.

A block-diffusion model has the tensors that it would have without; config.json is what `wf_formats.diffusion`
makes of the config.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, BitNetConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bitnet_arch.errors import CheckpointError
from bitnet_arch.hf import WrinkleFreeConfig
from wf_formats.diffusion import BASE_TYPE_KEY, SETTINGS_KEY, disk_settings
from wf_formats.families.block import SUB_NORM_SITES, producer
from wf_formats.families.support import why_not_stock_bitnet
from wf_formats.file_names import CONFIG_FILE
from wf_formats.json_file import read_json

BITNET_QUANTIZATION = {
    "quant_method": "bitnet",
    "linear_class": "autobitlinear",
    "quantization_mode": "online",
    "modules_to_not_convert": ["lm_head"],
    "use_rms_norm": False,
}
_NOT_IN_BITNET = ("head_dim", "mlp_bias", "pretraining_tp", "quantization_config")
_CONFIG_ONLY = ("model_type", "architectures", "transformers_version")


def to_disk(model: nn.Module) -> tuple[Any, dict[str, Tensor], dict[str, Any] | None]:
    """Config, tensors and the "conversion" entry of wrinklefree.json (None for a dense model)."""
    config: Any = model.config
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    conversion = getattr(config, "quantization_config", None)
    if conversion is None:
        return config, state, None
    record = {
        "model_type": config.model_type,
        "scheme": conversion.scheme,
        "sub_norm": conversion.sub_norm,
        "sub_norm_log2_floor": conversion.sub_norm_log2_floor,
    }
    if conversion.low_rank:  # stock bitnet has no place for it
        return config, state, record | {"low_rank": conversion.low_rank}
    if why_not_stock_bitnet(config.to_dict(), conversion.scheme, conversion.sub_norm) is not None:
        return config, state, record
    return _bitnet_config(config), _fold(_rename(state, inverse=False), conversion, -1), record


def from_disk(
    config: Any, state: dict[str, Tensor], conversion: dict[str, Any] | None
) -> tuple[Any, dict[str, Tensor]]:
    """Inverse of `to_disk`: config and tensors of the model in memory."""
    if config.model_type != "bitnet" or conversion is None:
        return config, state
    in_memory = WrinkleFreeConfig(
        conversion["scheme"], conversion["sub_norm"], conversion["sub_norm_log2_floor"]
    )
    in_memory_config = _dense_config(config, conversion["model_type"], in_memory)
    return in_memory_config, _rename(_fold(state, in_memory, +1), inverse=True)


def write_config(config: Any, folder: Path) -> None:
    """config.json of what `to_disk` gives."""
    config.save_pretrained(folder)
    if getattr(config, SETTINGS_KEY, None) is not None:
        settings = disk_settings(read_json(folder / CONFIG_FILE, CheckpointError))
        (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def transformers_config(folder: Path, settings: Mapping[str, Any]) -> Any:
    """A folder's config.json as transformers has it, which does not know the type of block-diffusion models.

    Args:
        settings: its contents by `wf_formats.diffusion.read_settings`.

    Raises:
        Exception: whatever a wrong value makes transformers raise.
    """
    if settings.get(SETTINGS_KEY) is None:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if settings["model_type"] not in CONFIG_MAPPING:
        raise ValueError(f"transformers does not know the {BASE_TYPE_KEY} {settings['model_type']!r:.60}")
    config = CONFIG_MAPPING[settings["model_type"]].from_dict(dict(settings))
    config.name_or_path = str(folder)
    return config


def _bitnet_config(config: PretrainedConfig) -> BitNetConfig:
    shared = {
        key: value
        for key, value in config.to_dict().items()
        if key not in _NOT_IN_BITNET and key not in _CONFIG_ONLY
    }
    bitnet = BitNetConfig(**shared)
    bitnet.architectures = ["BitNetForCausalLM"]
    bitnet.quantization_config = BITNET_QUANTIZATION
    return bitnet


def _dense_config(config: BitNetConfig, model_type: str, conversion: WrinkleFreeConfig) -> PretrainedConfig:
    shared = {
        key: value
        for key, value in config.to_dict().items()
        if key not in _CONFIG_ONLY and key != "quantization_config"
    }
    dense = CONFIG_MAPPING[model_type](**shared)
    dense.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]]
    dense.quantization_config = conversion.to_dict()  # as read from a config.json
    return dense


def _rename(state: dict[str, Tensor], *, inverse: bool) -> dict[str, Tensor]:
    names = [(site.own_norm, site.stock_norm) for site in SUB_NORM_SITES]
    pairs = [(stock, own) if inverse else (own, stock) for own, stock in names]

    def rename(name: str) -> str:
        for old, new in pairs:
            name = re.sub(rf"\b{re.escape(old)}\b", new, name)
        return name

    return {rename(name): tensor for name, tensor in state.items()}


def _fold(state: dict[str, Tensor], conversion: WrinkleFreeConfig, sign: int) -> dict[str, Tensor]:
    """Multiplies the producers of each SubLN input by 2^(sign k); powers of two are exact."""
    folded = dict(state)
    for consumer, log2_floor in conversion.sub_norm_log2_floor.items():
        for name in (f"{producer(consumer)}.weight", f"{producer(consumer)}.bias"):
            if name in folded:
                folded[name] = folded[name] * 2.0 ** (sign * log2_floor)
    return folded
