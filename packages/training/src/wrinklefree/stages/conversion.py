"""The work of stage 1: convert the dense model and fit SubLN, or keep it as it is (model.scheme=none). No
gradient is computed.

The result is compared with the dense model on held-out tokens of the same sources: mean next-token
loss of the dense model, of the converted one in full precision (lambda 0: what SubLN costs) and
quantized (lambda 1: what training has to win back).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress as RichProgress
from torch import Tensor

import bitnet_arch
from bitnet_arch.convert import check_shapes
from bitnet_arch.sub_norm_fit import MIN_FIT_TOKENS
from data_handler import token_block
from wf_formats.schemes import INT4_SCHEMES
from wrinklefree.checkpoints.lightning_io import save_model_folder
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.fit import FitConfig
from wrinklefree.config.logging import ProgressBar
from wrinklefree.config.root import TrainConfig
from wrinklefree.dense import open_dense_model
from wrinklefree.errors import RunError
from wrinklefree.forward import facts_of
from wrinklefree.held_out import finite_loss
from wrinklefree.model_checks import check_context
from wrinklefree.stages.prospects import Targets, check_prospects

LOG = logging.getLogger("wrinklefree")


@dataclass(frozen=True)
class DenseModel:
    """The source, opened and checked, and the text that it is shown.

    options: None for a model that stays as it is.
    fit_ids, held_out: [sequences, tokens] for the fit, and others for the comparison (maybe none).
    """

    options: bitnet_arch.ConversionConfig | None
    model: Any
    tokenizer: Any
    fit_ids: Tensor
    held_out: Tensor
    seconds: float
    """How long it took."""
    revision: str | None = None
    """Of the source, on the hub."""


def open_source(config: TrainConfig, fit: FitConfig, group: str = "fit") -> DenseModel:
    """Asks what can become of the model, then reads its weights and the text.

    Args: group of `training` has the numbers of `fit`.
    Raises: UserError (a source that cannot be converted, is damaged or leads nowhere; text that is missing).
    """
    start = time.perf_counter()
    options = _conversion_options(config)
    source = open_dense_model(config.model.source, config.model.name)
    if source.is_converted:
        raise bitnet_arch.SourceError(
            f"{source.name} is converted already: later stages go on from it with training.start_from=FOLDER"
        )
    source.check_convertible()
    tokenizer = _tokenizer(source)
    has_sub_norm = options is not None and options.has_sub_norm
    targets = Targets(source.understood, tokenizer, config.model.scheme, has_sub_norm)
    check_prospects(targets, config.model.allow_unservable)
    model, tokenizer = source.load()
    if options is not None:
        _check_rows(options, model)
    check_context(f"training.{group}.sequence_length_tokens", fit.sequence_length_tokens, facts_of(model))
    blocks = _token_blocks(config, fit, tokenizer)
    if has_sub_norm and blocks[0].numel() < MIN_FIT_TOKENS:
        raise ConfigError(
            f"training.{group}.tokens={fit.tokens} is too small: SubLN is fitted on at least {MIN_FIT_TOKENS}"
        )
    return DenseModel(options, model, tokenizer, *blocks, time.perf_counter() - start, source.revision)


def _tokenizer(source: bitnet_arch.DenseSource) -> Any:
    """Raises: SourceError where there is none, or none that can end a document."""
    tokenizer = source.tokenizer
    if tokenizer is None:
        raise bitnet_arch.SourceError(
            f"{source.name} has no tokenizer: copy the model's tokenizer files into it"
        )
    if tokenizer.eos_token_id is None:
        raise bitnet_arch.SourceError(
            f"{source.name}: the tokenizer has no eos_token, which ends every document: name one in "
            'tokenizer_config.json, such as "eos_token": "</s>"'
        )
    return tokenizer


def run_conversion(
    config: TrainConfig, dense: DenseModel, target: Path, meta: dict[str, Any]
) -> dict[str, Any]:
    """Convert, save to `target`, return the summary's figures.

    Raises: DivergedError (a loss that is no number), RunError.
    """
    start = time.perf_counter()
    model, held_out = dense.model, dense.held_out
    losses = {"dense": finite_loss(model, held_out, "dense")}
    if dense.options is not None:
        if config.model.scheme in INT4_SCHEMES:
            LOG.info(
                "model.scheme=%s: stage 1 rounds to the nearest of 4 bits, for training to start from; `wf "
                "train -s awq` chooses scales and ranges on text, from the dense model, without training",
                config.model.scheme,
            )
        _convert(config, dense.options, model, dense.fit_ids)
        for name, lambda_ in (("full_precision", 0.0), ("quantized", 1.0)):
            bitnet_arch.set_lambda(model, lambda_)
            losses[name] = finite_loss(model, held_out, name)
    LOG.info("held-out loss in nats: %s", losses)
    figures = {
        "steps": 0,
        "first_loss": losses["dense"],
        "last_loss": losses.get("quantized", losses["dense"]),
        "losses_nats": losses,
        "tokens": dense.fit_ids.numel(),
        "seconds": dense.seconds + time.perf_counter() - start,
    }
    save_model_folder(model, dense.tokenizer, target, meta_of(dense, meta), figures)
    return figures


def meta_of(dense: DenseModel, meta: dict[str, Any]) -> dict[str, Any]:
    """Entries of wrinklefree.json for what becomes of the model without a step."""
    meta = meta | {"step": 0}
    if dense.revision is not None:
        meta["source"] = meta["source"] | {"revision": dense.revision}
    return meta


def _token_blocks(config: TrainConfig, fit: FitConfig, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """For the fit and for the comparison."""
    length = fit.sequence_length_tokens
    num_fit = -(-fit.tokens // length)
    num_held_out = -(-fit.evaluation_tokens // length)
    num_tokens = (num_fit + num_held_out) * length
    ids = token_block(config.data.sources, tokenizer, num_tokens, length, config.seed)
    return ids[:num_fit], ids[num_fit:]


def _conversion_options(config: TrainConfig) -> bitnet_arch.ConversionConfig | None:
    """None for a model that stays as it is.

    Raises: ConfigError (an unknown scheme, SubLN with a scheme that has none).
    """
    if config.model.is_dense:
        return None
    try:
        quantizer = bitnet_arch.quantizer(config.model.scheme)
        return bitnet_arch.ConversionConfig(quantizer, sub_norm=config.model.sub_norm)
    except ValueError as error:
        raise ConfigError(f"model.scheme, model.sub_norm: {error}") from error


def _check_rows(options: bitnet_arch.ConversionConfig, model: Any) -> None:
    """Raises: ConfigError (the rows of a matrix do not fit the scheme)."""
    try:
        check_shapes(model, options.quantizer)
    except ValueError as error:
        raise ConfigError(f"model.scheme={options.quantizer.name}: {error}") from error


def _convert(config: TrainConfig, options: bitnet_arch.ConversionConfig, model: Any, fit_ids: Tensor) -> None:
    """Raises: RunError (the text does not fit the model)."""
    sites = 2 * model.config.num_hidden_layers if options.has_sub_norm else None
    with RichProgress(disable=config.logging.progress_bar is ProgressBar.none) as progress:
        bar = progress.add_task("fitting SubLN", total=sites, visible=sites is not None)
        try:
            bitnet_arch.convert(model, options, fit_ids, on_site=lambda name: progress.advance(bar))
        except ValueError as error:
            raise RunError(f"the model cannot be converted: {error}") from error
