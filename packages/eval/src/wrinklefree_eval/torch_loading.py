"""Checkpoints and exported Hugging Face folders, in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import bitnet_arch
from bitnet_arch.diffusion_model import block_diffusion_of
from bitnet_arch.disk_format import transformers_config
from bitnet_arch.tokenizers import load_tokenizer
from wf_formats.diffusion import SETTINGS_KEY, read_settings
from wf_formats.file_names import CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.plugins import PluginError, entries, load
from wrinklefree_eval.diffusion_model import DiffusionModel
from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.models import ModelKind
from wrinklefree_eval.torch_model import TorchModel

LOADERS = "wrinklefree.transformers_loaders"
"""Entry points of modules that register a `quant_method` with transformers when imported."""


def load_torch_model(path: Path, kind: ModelKind, context_tokens: int, num_threads: int | None) -> TorchModel:
    """Load a folder in fp32 (packed ternary weights stay packed), onto a GPU where PyTorch sees one.

    Raises:
        EvalError: The folder is incomplete, damaged, or of a quantization nobody registered.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    loaders = {ModelKind.CHECKPOINT: _load_checkpoint, ModelKind.HF: _load_hf}
    model, tokenizer = loaders[kind](path)
    if tokenizer is None:
        raise EvalError(f"{path} has no tokenizer: copy the model's tokenizer files into it")
    if torch.cuda.is_available():
        model.to("cuda")
    if (diffusion := block_diffusion_of(model)) is not None:
        return DiffusionModel(path, kind, model, tokenizer, context_tokens, diffusion)
    return TorchModel(path, kind, model, tokenizer, context_tokens)


def _load_checkpoint(path: Path) -> tuple[Any, Any]:
    try:
        checkpoint = bitnet_arch.load_checkpoint(path)
    except bitnet_arch.CheckpointError as error:
        raise EvalError(str(error)) from error
    return checkpoint.model, checkpoint.tokenizer


def _load_hf(path: Path) -> tuple[Any, Any]:
    method = _check_quantization(path)
    try:
        tokenizer = load_tokenizer(path)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=False, **_config_of_diffusion(path)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise EvalError(f"transformers could not load {path}: {' '.join(str(error).split())}") from error
    # Packed BitNet weights are unpacked to the dtype of their scales (Microsoft's bf16), whatever was asked.
    return (nn.Module.float(model) if method == "bitnet" else model), tokenizer


def _config_of_diffusion(path: Path) -> dict[str, Any]:
    """What transformers has to be told of a block-diffusion model, whose type it does not know."""
    settings = read_settings(path, EvalError)
    return {} if settings.get(SETTINGS_KEY) is None else {"config": transformers_config(path, settings)}


def _check_quantization(path: Path) -> str | None:
    """Have the quantizers of installed packages registered, and the folder's one among them.

    Returns:
        The folder's quant_method.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    try:
        for entry in entries(LOADERS).values():
            load(entry)
    except PluginError as error:
        raise EvalError(str(error)) from error
    quantization = read_json(path / CONFIG_FILE, EvalError).get("quantization_config") or {}
    method = quantization.get("quant_method") if isinstance(quantization, dict) else str(quantization)
    if method is not None and method not in AUTO_QUANTIZER_MAPPING:
        raise EvalError(
            f"{path} is quantized by {method!r}, which neither transformers nor an entry point "
            f"{LOADERS!r} of an installed package knows; --kind native measures it by the engine of "
            "`wf serve`, where that runs it"
        )
    return method
