"""The work of stage 1: convert the dense model and fit SubLN. No gradient is computed.

The result is compared with the dense model on held-out tokens of the same sources: mean next-token
loss of the dense model, of the converted one in full precision (lambda 0: what SubLN costs) and
quantized (lambda 1: what training has to win back).
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress as RichProgress
from torch import Tensor

import bitnet_arch
from data_handler import token_block
from wrinklefree.checkpoints.lightning_io import save_model_folder
from wrinklefree.config.fit import FitConfig
from wrinklefree.config.logging import ProgressBar
from wrinklefree.config.root import TrainConfig
from wrinklefree.dense import load_dense_model
from wrinklefree.errors import RunError
from wrinklefree.held_out import mean_loss

LOG = logging.getLogger("wrinklefree")


def run_conversion(config: TrainConfig, fit: FitConfig, target: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Convert, save to `target`, return the summary's figures."""
    start = time.perf_counter()
    options = _conversion_options(config)
    model, tokenizer = load_dense_model(config.model.source, config.model.name)
    fit_ids, held_out = _token_blocks(config, fit, tokenizer)
    losses = {"dense": mean_loss(model, held_out)}
    _convert(config, options, model, fit_ids)
    for name, lambda_ in (("full_precision", 0.0), ("quantized", 1.0)):
        bitnet_arch.set_lambda(model, lambda_)
        losses[name] = mean_loss(model, held_out)
    LOG.info("held-out loss in nats: %s", losses)
    figures = {
        "steps": 0,
        "first_loss": losses["dense"],
        "last_loss": losses["quantized"],
        "losses_nats": losses,
        "tokens": fit_ids.numel(),
        "seconds": time.perf_counter() - start,
    }
    save_model_folder(model, tokenizer, target, meta | {"step": 0}, figures)
    return figures


def _token_blocks(config: TrainConfig, fit: FitConfig, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Ids [sequences, tokens] for the fit, and others for the comparison (maybe none)."""
    length = fit.sequence_length_tokens
    num_fit = -(-fit.tokens // length)
    num_held_out = -(-fit.evaluation_tokens // length)
    num_tokens = (num_fit + num_held_out) * length
    ids = token_block(config.data.sources, tokenizer, num_tokens, length, config.seed)
    return ids[:num_fit], ids[num_fit:]


def _conversion_options(config: TrainConfig) -> bitnet_arch.ConversionConfig:
    """Raises: RunError (an unknown scheme, SubLN with a scheme that has none)."""
    try:
        quantizer = bitnet_arch.quantizer(config.model.scheme)
        return bitnet_arch.ConversionConfig(quantizer, sub_norm=config.model.sub_norm)
    except ValueError as error:
        raise RunError(f"model.scheme, model.sub_norm: {error}") from error


def _convert(config: TrainConfig, options: bitnet_arch.ConversionConfig, model: Any, fit_ids: Tensor) -> None:
    """Raises: RunError (the model's shapes do not fit the scheme), UnsupportedModelError."""
    sites = 2 * model.config.num_hidden_layers if config.model.sub_norm else None
    with RichProgress(disable=config.logging.progress_bar is ProgressBar.none) as progress:
        bar = progress.add_task("fitting SubLN", total=sites, visible=sites is not None)
        try:
            bitnet_arch.convert(model, options, fit_ids, on_site=lambda name: progress.advance(bar))
        except ValueError as error:
            raise RunError(f"the model cannot be converted: {error}") from error
